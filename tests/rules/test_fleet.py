"""The most sessions at once of 100 replicas lies between the two figures that the rules record."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from chainlit_otel.rules import render
from tests.rules.fleet import EPOCH, SCRAPE, Fleet
from tests.support.http import fetch
from tests.support.prometheus import Prometheus

HOURS = 3
HOUR = 3600.0
END = EPOCH + HOURS * 3600
# What happened in the last two scrapes' time is not yet in the upper figure.
SETTLES = 2 * SCRAPE
FLEETS = ("steady", "rollout")
ACTIVE, PEAK = "job:chainlit_session_active:sum", "job:chainlit_session_peak:sum"
MARK = 'chainlit_session_peak{chainlit_peak_window="15s"}'
AT_LEAST, AT_MOST = "job:chainlit_session_active:max1h", "job:chainlit_session_peak:max1h"

Points = list[tuple[float, float]]


@cache
def fleet_of(job: str) -> Fleet:
    return Fleet(1 + FLEETS.index(job), HOURS, rollout=1.5 * HOUR if job == "rollout" else None)


def create_blocks(directory: Path, *arguments: str) -> None:
    done = subprocess.run(
        ["promtool", "tsdb", "create-blocks-from", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def served(directory: Path) -> Prometheus:
    prometheus = Prometheus([])
    (prometheus.directory / "data").symlink_to(directory / "data")
    return prometheus


def evaluate(directory: Path) -> None:
    """Add what the rules would have recorded."""
    with served(directory) as prometheus:
        create_blocks(
            directory,
            "rules",
            f"--url={prometheus.url}",
            f"--start={EPOCH}",
            f"--end={END}",
            f"--eval-interval={SCRAPE:g}s",
            "--output-dir=data",
            # When a group is evaluated hangs on the name of its file: always the same here.
            "rules.yml",
        )


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """All that was scraped of the fleets, and what the shipped rules made of it."""
    directory = tmp_path_factory.mktemp("fleet")
    with (directory / "scraped.txt").open("w") as file:
        for job in FLEETS:
            file.writelines(fleet_of(job).openmetrics(job))
        file.write("# EOF\n")
    (directory / "rules.yml").write_text(render())
    create_blocks(directory, "openmetrics", "--quiet", "scraped.txt", "data")
    evaluate(directory)
    # Some rules read what others have recorded, which has to be there first.
    evaluate(directory)
    with served(directory) as prometheus:
        yield prometheus


def recorded(prometheus: Prometheus, name: str, job: str) -> Points:
    """What the rules recorded, at the times of their evaluations."""
    query = f'{name}{{job="{job}"}}[{HOURS}h]'
    return _points(prometheus, "query", query=query, time=END)


def evaluated(prometheus: Prometheus, expression: str, job: str, at: Points) -> Points:
    """What an expression gives at the same times."""
    first, last = EPOCH + at[0][0], EPOCH + at[-1][0]
    found = _points(
        prometheus, "query_range", query=expression, start=first, end=last, step=SCRAPE, job=job
    )
    assert [time for time, _ in found] == [time for time, _ in at]
    return found


def _points(prometheus: Prometheus, way: str, job: str = "", **parameters: Any) -> Points:
    answer = fetch(f"{prometheus.url}/api/v1/{way}", params=parameters, timeout=30).json()
    assert answer["status"] == "success", answer
    (found,) = (one for one in answer["data"]["result"] if one["metric"]["job"] in (job or FLEETS))
    return [(time - EPOCH, float(value)) for time, value in found["values"]]


def reported(kind: str, shares: list[float]) -> str:
    mean = sum(shares) / len(shares)
    return f"{kind} {mean:.1%} ({min(shares):.1%} to {max(shares):.1%})"


@pytest.mark.parametrize("job", FLEETS)
def test_the_true_peak_of_an_hour_is_between_the_two(prometheus: Prometheus, job: str) -> None:
    fleet = fleet_of(job)
    low, high = [], []
    for time, lower in recorded(prometheus, AT_LEAST, job):
        if time > HOUR + SCRAPE:
            # What is read at the start of the hour may have been scraped before it.
            truth = fleet.peak(time - HOUR - SCRAPE, time)
            assert lower <= truth
            low.append(lower / truth)
    for time, upper in recorded(prometheus, AT_MOST, job):
        if time > HOUR:
            truth = fleet.peak(time - HOUR, time - SETTLES)
            assert truth <= upper
            high.append(upper / truth)
    assert len(low) > 450
    assert len(high) > 450
    print(
        f"{job}: of {len(high)} hours' true peaks,",
        reported("at least", low),
        reported("at most", high),
    )


@pytest.mark.parametrize("job", FLEETS)
@pytest.mark.parametrize("minutes", [1, 5, 15])
def test_so_is_that_of_minutes(prometheus: Prometheus, job: str, minutes: int) -> None:
    fleet = fleet_of(job)
    span = minutes * 60
    active, peaks = recorded(prometheus, ACTIVE, job), recorded(prometheus, PEAK, job)
    once = evaluated(prometheus, f"sum by (job) ({MARK})", job, peaks)
    low, high, unkept = [], [], []
    for start in range(60, HOURS * 3600 - span - 60, 20):
        truth = fleet.peak(start, start + span)
        low.append(highest(active, start + SCRAPE, start + span) / truth)
        high.append(highest(peaks, start, start + span + SETTLES) / truth)
        unkept.append(highest(once, start, start + span + SETTLES) / truth)
    above, below = sum(share > 1 for share in low), sum(share < 1 for share in unkept)
    print(
        f"{job}: of {len(low)} true peaks of {minutes} min,",
        reported("at least", low),
        reported("at most", high),
        f"the first was above in {above}; a sum of single readings would be below in {below}",
    )
    assert min(high) >= 1
    # A sum adds up readings of different moments, between which visitors change the replica.
    assert max(low) < 1.02
    # Without the last two scrapes of each replica it would not be a bound.
    assert below


def highest(found: Points, start: float, end: float) -> float:
    return max(value for time, value in found if start <= time <= end)
