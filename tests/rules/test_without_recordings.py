"""Where nothing is recorded, an alert asks for all that it reads at once, and gets the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import yaml

from chainlit_otel.backtest.evaluate import Evaluation
from chainlit_otel.backtest.history import PrometheusHistory
from chainlit_otel.backtest.replay import needed
from chainlit_otel.backtest.trial import LOOK_BACK
from chainlit_otel.backtest.vector import Grid
from chainlit_otel.rules import Windows, render
from tests.backtest.past import Series, openmetrics
from tests.support.prometheus import Prometheus
from tools.alert_quality.traffic import KINDS, STEP, Event, World, simulate

DAYS = range(28, 31)
"""Of this world, those in which there is an event of each of these kinds."""
EVENTS = ("launch", "flood", "creep", "outage of 20 min", "cut")
# Those of turns look back on days, and ask only for each fifth minute of them.
ALERTS = ("SessionSpike", "SessionRise", "SessionDrop", "ReconnectStorm")


def rules(format: Any) -> Any:
    return yaml.safe_load(render(window=Windows(scrape=STEP), format=format))["groups"]


@pytest.fixture(scope="module")
def world() -> World:
    whole = simulate(2_000, True, 3)
    first, end = DAYS.start * 86_400 - LOOK_BACK, DAYS.stop * 86_400
    minutes = slice(first // STEP, end // STEP)
    grid = Grid(whole.grid.start + first, STEP, minutes.stop - minutes.start)
    shown: Series = {
        name: {of: values[minutes] for of, values in by_labels.items()}
        for name, by_labels in whole.series.items()
        if not name.startswith("chainlit_turn")
    }
    events = [
        Event(one.kind, one.start - minutes.start, one.end - minutes.start)
        for one in whole.events
        if one.kind in EVENTS and minutes.start + LOOK_BACK // STEP <= one.start < minutes.stop
    ]
    return World(whole.name, whole.per_day, grid, events, shown)


@pytest.fixture(scope="module")
def recorded(world: World) -> Evaluation:
    evaluation = Evaluation(world.grid, lambda _: {})
    evaluation.known.update(world.known())
    for rule in needed(rules("prometheus")):
        if "record" in rule:
            evaluation.record(rule["record"], rule["expr"])
    return evaluation


@pytest.fixture(scope="module")
def prometheus(world: World) -> Iterator[Prometheus]:
    with Prometheus([], history="".join(openmetrics(world.series, world.grid))) as prometheus:
        yield prometheus


def test_an_alert_of_grafana_sees_what_the_rule_sees(
    world: World, recorded: Evaluation, prometheus: Prometheus
) -> None:
    inlined = {
        rule["title"]: rule["data"][0]["model"]["expr"] for rule in rules("grafana")[0]["rules"]
    }
    assert sorted(event.kind for event in world.events) == sorted(EVENTS)
    fired = set()
    for rule in needed(rules("prometheus")):
        name = rule.get("alert", "").removeprefix("Chainlit")
        if name not in ALERTS:
            continue
        cause = rule["labels"].get("cause")
        query = inlined[rule["alert"] + (f" ({cause})" if cause else "")]
        values = recorded.query(rule["expr"])
        for event in world.events:
            if KINDS[event.kind].alert != name:
                continue
            # From before it until after it.
            every = max(1, (event.end - event.start) // 12)
            at = event.start - 5 + every * np.arange(20)
            grid = Grid(world.grid.times[at[0]], every * STEP, len(at))
            history = PrometheusHistory(prometheus.url, grid)
            asked = history(query)
            history.close()
            expected = {of: v[at] for of, v in values.items() if not np.isnan(v[at]).all()}
            assert set(asked) == set(expected), (name, event)
            for of, seen in expected.items():
                np.testing.assert_allclose(asked[of], seen, rtol=1e-9, err_msg=f"{name} {event}")
                assert np.isnan(seen).any(), (name, event)
                fired.add((event.kind, cause))
    print(fired)
    assert fired >= {(kind, None) for kind in ("creep", "outage of 20 min", "cut")}
    assert ("launch", "new_visitors") in fired
