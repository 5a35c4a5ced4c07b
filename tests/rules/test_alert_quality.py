"""How good the alerts are is held by a smaller run of what `docs/alerts.md` shows."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tools.alert_quality.__main__ import command
from tools.alert_quality.traffic import KNOWN, STEP, simulate

# Other seeds than those that thresholds were chosen on.
SEEDS = ("11", "12")


@cache
def rows(per_day: int) -> list[dict[str, Any]]:
    """What each alert did at one number of sessions a day."""
    seeds = [part for seed in SEEDS for part in ("--seed", seed)]
    result = CliRunner().invoke(command, [*seeds, "--level", str(per_day), "--json"])
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def row(alert: str, per_day: int) -> dict[str, Any]:
    """What one alert did at one number of sessions a day."""
    (found,) = [one for one in rows(per_day) if one["alert"] == alert]
    print(found)
    return found


def share(alert: str, per_day: int, kind: str, what: str = "found") -> float:
    event = row(alert, per_day)["events"][kind]
    assert event["events"] >= 10
    found: float = event[what] / event["events"]
    return found


def test_no_spike_is_false_once_three_weeks_are_known_and_three_at_most_in_the_first() -> None:
    found = row("SessionSpike", 10_000)
    assert found["false_in_four_weeks"] == found["false_in_four_busy_weeks"] == 0
    assert found["first_week"] <= 3


@pytest.mark.parametrize("per_day", [1_000, 10_000])
@pytest.mark.parametrize("kind", ["launch", "rush", "flood"])
def test_launches_rushes_and_floods_are_found(kind: str, per_day: int) -> None:
    assert share("SessionSpike", per_day, kind) >= 0.8


def test_a_rush_that_an_autoscaler_answers_has_new_visitors_as_its_cause() -> None:
    assert share("SessionSpike", 10_000, "rush", "right_cause") >= 0.8


def test_an_outage_is_found_within_sixteen_minutes_and_has_no_echo() -> None:
    for kind in ("outage of 20 min", "outage of 2 h"):
        assert share("SessionDrop", 10_000, kind) >= 0.8
        assert row("SessionDrop", 10_000)["events"][kind]["minutes"] <= 16
    assert row("SessionDrop", 10_000)["echoes_in_four_busy_weeks"] <= 0.25


def test_most_outages_of_few_visitors_are_found() -> None:
    assert share("SessionDrop", 1_000, "outage of 20 min") >= 0.7
    assert row("SessionDrop", 1_000)["events"]["outage of 20 min"]["minutes"] <= 16
    assert row("SessionDrop", 1_000)["false_in_four_weeks"] <= 0.25


def test_an_app_that_just_meets_its_objective_does_not_burn_again_and_again() -> None:
    assert row("TurnErrorBudgetBurn", 1_000)["false_in_four_weeks"] <= 1
    assert row("TurnErrorBudgetBurn", 10_000)["false_in_four_weeks"] <= 1
    assert share("TurnErrorBudgetBurn", 10_000, "one in ten fails") == 1


def test_one_visitor_pages_nobody_and_half_the_turns_do() -> None:
    assert row("TurnErrorBudgetBurn", 1_000)["false_pages"] == 0
    assert row("TurnErrorBudgetBurn", 10_000)["false_pages"] == 0
    assert share("TurnErrorBudgetBurn", 10_000, "half fail") == 1


@pytest.mark.parametrize(
    ("alert", "kind"),
    [("ReconnectStorm", "cut"), ("ConnectionsRejected", "refusals"), ("SessionRise", "creep")],
)
def test_what_else_happens_is_found(alert: str, kind: str) -> None:
    assert share(alert, 10_000, kind) >= 0.8
    assert row(alert, 10_000)["false_in_four_weeks"] <= 0.5


def test_a_busy_world_has_events_after_the_weeks_that_make_the_usual() -> None:
    world = simulate(1_000, True, 5)
    first = min(event.start for event in world.events)
    assert first >= KNOWN * 7 * 24 * 60
    assert [event.start for event in world.events] == sorted(e.start for e in world.events)
    starts = world.series["chainlit_session_starts_total"]
    began = sum(np.maximum(np.diff(np.nan_to_num(v)), 0).sum() for v in starts.values())
    assert 1 < began / (1_000 * 49) < 2  # It grows, tabs come back, and there are rushes.


def write(file: Path, lines: list[str]) -> None:
    file.write_text("\n".join(lines), encoding="utf-8")


def test_a_real_series_is_a_world_too(tmp_path: Path) -> None:
    start, lines = 1_767_571_200, ["time,sessions,event"]
    for at in range(8 * 24 * 12):
        launched = 7.5 * 24 * 12 <= at < 7.5 * 24 * 12 + 6
        lines.append(f"{start + at * 300},{200 if launched else 5},{int(launched)}")
    write(tmp_path / "shop.csv", lines)
    result = CliRunner().invoke(command, ["--traces", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["trace"] == "shop"
    assert found["labelled"] == found["labelled_and_found"] == 1
    assert found["fired"]["ChainlitSessionSpike"] == 1
    (spike,) = [one for one in found["firings"] if one["alert"] == "ChainlitSessionSpike"]
    launched_at = start + 7.5 * 86_400
    assert launched_at < spike["start"] <= launched_at + 10 * STEP


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "has no line of `time,sessions[,event]`"),
        (["time,sessions", "1,2", "yesterday,3"], "shop.csv:3: is not `time,sessions[,event]`"),
        (["1,2", "2,2"], "needs three lines at least"),
        (["1,2", "3,2", "2,2"], "in order of time"),
    ],
)
def test_a_file_that_is_no_trace_is_one_line(tmp_path: Path, lines: list[str], says: str) -> None:
    write(tmp_path / "shop.csv", lines)
    result = CliRunner().invoke(command, ["--traces", str(tmp_path)])
    assert result.exit_code == 1
    (line,) = result.output.splitlines()
    assert says in line


def test_a_directory_without_traces_is_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--traces", str(tmp_path)])
    assert (result.exit_code, result.output) == (1, f"Error: {tmp_path}: has no *.csv\n")
