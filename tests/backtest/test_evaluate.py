"""What is worked out over a past is what a real Prometheus says of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from chainlit_otel.backtest.evaluate import Evaluation, Unsupported
from chainlit_otel.backtest.history import PrometheusHistory
from chainlit_otel.backtest.replay import Firing, needed, replay, seconds_of
from chainlit_otel.backtest.vector import Grid, Vector, labels
from chainlit_otel.rules import Windows, render
from tests.backtest.engine import objections
from tests.backtest.past import GRID, STEP, openmetrics, past
from tests.support.prometheus import Prometheus

SEEDS = (1, 2)


def scaled() -> list[dict[str, Any]]:
    """The shipped rules, with windows that are whole numbers of scrapes."""
    groups: list[dict[str, Any]] = yaml.safe_load(render(window=Windows(scale=0.5, scrape=STEP)))[
        "groups"
    ]
    return groups


@pytest.fixture(scope="module", params=SEEDS)
def prometheus(request: pytest.FixtureRequest) -> Iterator[tuple[int, Prometheus]]:
    history = "".join(openmetrics(past(request.param)))
    with Prometheus([], history=history) as prometheus:
        yield request.param, prometheus


def nothing(query: str) -> Vector:
    raise AssertionError(f"asked for {query}")


def test_every_rule_gives_what_prometheus_says(prometheus: tuple[int, Prometheus]) -> None:
    seed, server = prometheus
    alone = Evaluation(GRID, nothing)
    alone.known.update(past(seed))
    history = PrometheusHistory(server.url, GRID)
    assert not history.is_left_open()
    asking = Evaluation(GRID, history)
    compared = 0
    for rule in needed(scaled()):
        ours, theirs = alone.query(rule["expr"]), asking.query(rule["expr"])
        assert set(ours) == set(theirs), rule
        for of, values in ours.items():
            # A share of bad events is what is not good, and may be nothing.
            np.testing.assert_allclose(
                values, theirs[of], rtol=1e-12, atol=1e-14, err_msg=str(rule)
            )
            compared += int((~np.isnan(values)).sum())
        if "record" in rule:
            alone.known[rule["record"]], asking.known[rule["record"]] = ours, theirs
    history.close()
    assert compared > 20_000
    assert history.questions <= 60


@pytest.mark.parametrize("seed", SEEDS)
def test_the_firings_are_those_of_the_rule_engine(seed: int, tmp_path: Path) -> None:
    evaluation = Evaluation(GRID, nothing)
    evaluation.known.update(past(seed))
    groups = scaled()
    firings = replay(groups, evaluation, GRID)
    assert len({one.alert for one in firings}) > 5
    looked_at = checked(firings)
    assert objections(groups, past(seed), GRID, firings, looked_at, tmp_path, 240)[:4000] == ""


def checked(firings: list[Firing]) -> list[int]:
    """The evaluations around each edge, and many others."""
    edges = {
        round((time - GRID.start) / STEP)
        for one in firings
        for time in (one.start, one.end)
        if time is not None
    }
    near = {at + around for at in edges for around in (-1, 0, 1)}
    return sorted(at for at in near | {*range(0, GRID.size, 20)} if 0 <= at < GRID.size)


def naive(holds: list[bool], wait: int, keep: int) -> list[bool]:
    """Whether an alert fires at each evaluation, as `rules/alerting.go` decides one by one."""
    fires, since, kept = [], None, None
    firing = False
    for at, held in enumerate(holds):
        if held:
            since = at if since is None else since
            kept = None
        elif since is not None:
            if firing and keep:
                kept = at if kept is None else kept
            if not firing or kept is None or at - kept >= keep:
                since, kept, firing = None, None, False
        if since is not None and held and at - since >= wait:
            firing = True
        fires.append(firing)
    return fires


@settings(max_examples=300)
@given(st.lists(st.booleans(), min_size=1, max_size=60), st.integers(0, 5), st.integers(0, 6))
def test_an_alert_waits_and_is_kept_firing(holds: list[bool], wait: int, keep: int) -> None:
    grid = Grid(0.0, 60.0, len(holds))
    evaluation = Evaluation(grid, nothing)
    evaluation.known["held"] = {labels(job="a"): np.where(holds, 1.0, np.nan)}
    rule = {
        "alert": "Held",
        "expr": "held",
        "for": f"{wait}m",
        "keep_firing_for": f"{keep}m",
        "labels": {"severity": "warning"},
    }
    found = [False] * grid.size
    for one in replay([{"rules": [rule]}], evaluation, grid):
        assert one.labels == labels(job="a", severity="warning")
        end = grid.size * 60.0 if one.end is None else one.end
        for at in range(round(one.start / 60), round(end / 60)):
            found[at] = True
    assert found == naive(holds, wait, keep)


def test_what_no_rule_has_is_said() -> None:
    evaluation = Evaluation(GRID, nothing)
    evaluation.known["known"] = {labels(job="a"): np.ones(GRID.size)}
    for expr in ("topk(1, known)", "known[5m:1m]", "deriv(known[5m])", "known offset 7s"):
        with pytest.raises(Unsupported):
            evaluation.query(expr)


@pytest.mark.parametrize(
    ("text", "seconds"), [("0s", 0), ("90s", 90), ("5m", 300), ("1w", 604_800), ("250ms", 0.25)]
)
def test_the_durations_of_rules(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
