"""What a run is compared with, and what is written of it."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Callable, Sequence
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.testing import NoAnswer
from chainlit_otel.testing.criteria import Criterion
from chainlit_otel.testing.limit import find_limit, growth
from chainlit_otel.testing.results import CheckFailed, LoadReport, Timing, percentile
from chainlit_otel.testing.written import FinishedRun, as_json, as_junit


def report(turns: Sequence[float] = (), **counts: int) -> LoadReport:
    made = LoadReport(**counts)  # type: ignore[arg-type]
    made.timings["turn"] = [Timing(0.0, value) for value in turns]
    return made


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.001, 1))
def test_a_percentile_is_the_least_value_that_the_share_does_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found is not None
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    smaller = [value for value in values if value < found]
    assert len(smaller) < share * len(values) + 1e-6


def test_criteria() -> None:
    turns = report([0.1 * n for n in range(1, 101)], arrived=50, checks=200, unexpected=3)
    for visitor in (1, 1, 2):
        turns.add_failure(NoAnswer("late"), at=0, visitor=visitor)
    looked = {
        "p95(turn) < 9.6s": (9.5, True),
        "p95(turn)<9500ms": (9.5, False),
        "p95(turn) <= 9.5s": (9.5, True),
        "mean(turn) > 5s": (5.05, True),
        "max(turn) < 10": (10.0, False),
        "min(turn) >= 0.1s": (0.1, True),
        "p99.9(turn) < 1m": (10.0, True),
        "failed < 4%": (0.04, False),
        "failed <= 0.04": (0.04, True),
        "unmet < 2%": (0.015, True),
        # What was never measured is not reached.
        "p95(first_token) < 1s": (None, False),
    }
    found = {text: Criterion(text).look_at(turns) for text in looked}
    for text, (value, met) in looked.items():
        assert found[text].value == (None if value is None else pytest.approx(value)), text
        assert found[text].met == met, text
    assert found["failed < 4%"].shown == "4.00%"
    assert found["p95(turn) < 9.6s"].shown == "9.500 s"
    assert Criterion("failed < 1%").look_at(LoadReport()).met


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p95(turn)", "is not of the form 'p95"),
        ("p95(turns) < 1s", "'turns' is no phase of a visit; there are connect, first_token"),
        ("p100(turn) < 1s", "'p100' is no aggregate; there are mean, min, max and percentiles"),
        ("median(turn) < 1s", "'median' is no aggregate"),
        ("p95(turn) < soon", "'soon' is not a duration"),
        ("broken < 1%", "'broken' is no figure; there are failed, unmet"),
        ("failed < few", "'few' is not a share such as 1% or 0.01"),
        ("failed == 1%", "is not of the form"),
    ],
)
def test_what_is_no_criterion(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Criterion(text)


@given(st.floats(0.02, 500), st.floats(0.1, 100))
async def test_the_limit_is_found_within_its_precision(limit: float, first: float) -> None:
    tried: list[float] = []

    async def attempt(rate: float) -> bool:
        tried.append(rate)
        return rate <= limit

    succeeded, failed = await find_limit(attempt, first, 0)
    assert succeeded <= limit < failed
    assert failed / succeeded <= 1.05 * (1 + 1e-9)
    assert len(set(tried)) == len(tried)


async def test_a_limit_that_is_not_there() -> None:
    tried: list[float] = []

    async def never(rate: float) -> bool:
        tried.append(rate)
        return False

    async def always(_: float) -> bool:
        return True

    assert await find_limit(never, 1, 0.2) == (0, 0.25)
    assert tried == [1, 0.5, 0.25]
    assert await find_limit(never, 0.1, 0.2) == (0, 0.2)
    assert (await find_limit(always, 1, 0))[1] == math.inf


def sent(seconds: Callable[[float], float], *, until: float = 30.0) -> list[Timing]:
    """Turns of ten messages a second that took so long, by when they were sent."""
    moments = [n / 10 for n in range(int(until * 10))]
    return [Timing(at + seconds(at), seconds(at)) for at in moments]


def test_a_queue_that_grows_is_found_before_a_threshold_notices() -> None:
    # Of a tenth too many: after half a minute, a turn waits for three seconds.
    assert growth(sent(lambda at: 0.5 + 0.1 * at), 30) == pytest.approx(0.1)
    rng = random.Random(5)
    noisy = growth(sent(lambda at: max(0.1, rng.gauss(1 + 0.1 * at, 1))), 30)
    assert noisy == pytest.approx(0.1, abs=0.03)


@pytest.mark.parametrize(
    "turns",
    [
        [],
        sent(lambda _: 0.5)[:2],
        sent(lambda _: 0.5),
        # Less than the search can tell.
        sent(lambda at: 0.5 + 0.02 * at),
        # The warm-up, in which the first visitors are alone.
        sent(lambda at: 0.5 + min(at, 7.5)),
        # Whoever is left when no more come has the app for itself, or meets what they have left.
        sent(lambda at: 0.5 + max(0.0, at - 30), until=60),
        sent(lambda at: 5 - 0.1 * at),
    ],
    ids=["none", "two", "the same", "little", "warm-up", "after it", "less"],
)
def test_no_queue_grows(turns: list[Timing]) -> None:
    assert growth(turns, 30) == 0


def test_chance_is_no_queue() -> None:
    def found(seed: int) -> bool:
        rng = random.Random(seed)
        return growth(sent(lambda _: rng.expovariate(1)), 30) > 0

    # Beyond three standard errors by chance is one of 700.
    assert sum(map(found, range(500))) <= 2


def test_what_is_written() -> None:
    done = report([1.0, 3.0], arrived=2, finished=2, checks=4)
    done.visits = {0: 1.5, 1: 2.5}
    done.length = 4.0
    talk = ("> hello \x00", "< 1 < 2 & ümlaut")
    done.add_failure(CheckFailed("no \x1b tea"), at=2.0, visitor=1, transcript=talk)
    judged = [Criterion(text).look_at(done) for text in ("failed < 10%", "max(turn) < 5s")]
    run = FinishedRun("tea", "http://x", done, judged)
    document = json.loads(as_json(run))
    assert document["counts"]["unexpected"] == document["counts"]["failed"] == 1
    assert document["timings"]["turn"] | {"p50": 1.0, "p99": 3.0} == document["timings"]["turn"]
    assert document["timings"]["connect"] == {"count": 0}
    assert [each["met"] for each in document["thresholds"]] == [False, True]
    assert document["failures"][0]["transcript"] == list(talk)

    root = ElementTree.fromstring(as_junit(run))
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("time")) == ("4", "2", "4.000")
    cases = {case.get("name"): case for case in suite}
    assert cases["visitor 0"].get("time") == "1.500"
    assert len(cases["visitor 0"]) == 0
    (failure,) = cases["visitor 1"]
    assert failure.get("message") == "no \N{REPLACEMENT CHARACTER} tea"
    assert failure.text == "> hello \N{REPLACEMENT CHARACTER}\n< 1 < 2 & ümlaut"
    assert len(cases["failed < 10%"]) == 1
    assert len(cases["max(turn) < 5s"]) == 0
