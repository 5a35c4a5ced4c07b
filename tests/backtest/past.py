"""A past in which something goes on with every metric that an alert reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from chainlit_otel.backtest.vector import Grid, Labels, Values, labels
from tests.rules.world import (
    _CONSTANTS,
    _COUNTERS,
    _GAUGES,
    LAST_DIALOG,
    MONITOR_CONSTANTS,
    MONITOR_COUNTERS,
)

STEP = 30
GRID = Grid(1_700_000_100, STEP, 1500)

# What is not in the world in which all is well.
_MORE_COUNTERS = {
    'chainlit_session_ends_total{chainlit_session_type="websocket",'
    'chainlit_session_end_reason="timeout"}': 0.9,
    'chainlit_session_duration_seconds_sum{chainlit_session_type="websocket",'
    'chainlit_session_end_reason="timeout"}': 400.0,
    'chainlit_session_time_seconds_total{chainlit_session_type="websocket"}': 450.0,
}

Series = dict[str, dict[Labels, Values]]


def past(seed: int, grid: Grid = GRID) -> Series:
    """What was scraped of three replicas, each with bursts, a restart, and scrapes that failed."""
    rng = np.random.default_rng(seed)
    series: Series = {}

    def put(name: str, values: Values, instance: str, **more: str) -> None:
        family, _, rest = name.rstrip("}").partition("{")
        names = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        of = labels(**{"job": "chat", "instance": instance, **names, **more})
        series.setdefault(family, {})[of] = np.asarray(values, dtype=float)

    for instance in ("a", "b", "c"):
        base = _bursts(rng, rng.poisson(2.0, grid.size))
        restart = int(rng.integers(100, grid.size - 100))
        failed = np.zeros(grid.size, dtype=bool)
        for _ in range(3):
            at = rng.integers(0, grid.size)
            failed[at : at + rng.integers(1, 40)] = True
        for name, share in {**_COUNTERS, **_MORE_COUNTERS}.items():
            often = rng.integers(1, 40) if rng.random() < 0.4 else 1
            increments = rng.poisson(_bursts(rng, base) * share * often)
            total = np.cumsum(increments).astype(float)
            total[restart:] -= total[restart - 1]
            put(name, np.where(failed, np.nan, total), instance)
        for name, share in _GAUGES.items():
            put(name, rng.poisson(_bursts(rng, base) * share * 3).astype(float), instance)
        for name, value in _CONSTANTS.items():
            values = np.where(failed, 0, value) if name == "up" else np.full(grid.size, value)
            put(name, values, instance)
        born = np.where(np.arange(grid.size) < restart, 0.0, restart * grid.step)
        put("process_start_time_seconds", grid.start + born - 1e5 * (born == 0), instance)
        put('chainlit_session_peak{chainlit_peak_window="1m"}', base * 3.0, instance)
    # Two places that try a dialog each minute: what fails for both, and what fails for one of them.
    dialogs = -(-grid.size // 2)
    broken = _spells(rng, dialogs)
    gone = rng.integers(100, grid.size - 200)
    for instance in ("here", "there"):
        failed = (broken | (rng.random(dialogs) < 0.1)).astype(float)
        there = np.ones(grid.size)
        # Both for so long that it is noticed.
        there[gone : gone + rng.integers(80, 150)] = np.nan
        time = grid.start + np.arange(dialogs) * 2 * grid.step
        shown = {
            **dict.fromkeys(MONITOR_COUNTERS, np.cumsum(failed)),
            **{name: np.full(dialogs, value) for name, value in MONITOR_CONSTANTS.items()},
            "probe_success": 1 - failed,
            "probe_chat_consecutive_failures": _in_a_row(failed),
            LAST_DIALOG: time,
        }
        for name, values in shown.items():
            held = np.repeat(values, 2)[: grid.size] * there
            put(name, held, instance, job="monitor", target="https://chat.example", dialog="search")
    return series


def _spells(rng: np.random.Generator, size: int) -> Any:
    """Take some stretches of time in which nothing works, others in which it comes and goes."""
    broken = np.zeros(size, dtype=bool)
    for _ in range(size // 100):
        at, length = rng.integers(0, size - 40), rng.integers(3, 40)
        chance = rng.choice((0.5, 1.0))
        broken[at : at + length] = rng.random(length) < chance
    return broken


def _in_a_row(failed: Any) -> Values:
    """How many have failed since the last that did not."""
    count = np.cumsum(failed)
    whole: Values = count - np.maximum.accumulate(np.where(failed == 0, count, 0))
    return whole


def _bursts(rng: np.random.Generator, base: Any) -> Values:
    """Take some stretches of time many times, or not at all."""
    shaped: Values = base.astype(float)
    for _ in range(len(shaped) // 375):
        at = rng.integers(0, len(shaped) - 200)
        shaped[at : at + rng.integers(20, 200)] *= rng.choice((0, 0, 5, 15))
    return shaped


def openmetrics(series: Series, grid: Grid = GRID) -> Iterator[str]:
    """The samples as a file for `promtool tsdb create-blocks-from openmetrics`."""
    for family, by_labels in series.items():
        for of, values in by_labels.items():
            name = f"{family}{{{_written(of)}}}"
            for time, value in zip(grid.times, values, strict=True):
                if not np.isnan(value):
                    yield f"{name} {value:.17g} {time:.0f}\n"
    yield "# EOF\n"


def promtool_series(series: Series, grid: Grid = GRID) -> list[dict[str, str]]:
    """The samples as the input of `promtool test rules`, whose time starts at 0."""
    times = ("process_start_time_seconds", LAST_DIALOG)
    series = {
        **series,
        **{
            name: {of: values - grid.start for of, values in series[name].items()}
            for name in times
            if name in series
        },
    }
    return [
        {
            "series": f"{family}{{{_written(of)}}}",
            "values": " ".join("_" if np.isnan(value) else f"{value:.17g}" for value in values),
        }
        for family, by_labels in series.items()
        for of, values in by_labels.items()
    ]


def _written(of: Labels) -> str:
    return ",".join(f'{name}="{value}"' for name, value in sorted(of))
