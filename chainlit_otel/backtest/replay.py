"""Rules over a past: which alerts would have fired, and when."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chainlit_otel.backtest.evaluate import Evaluation
from chainlit_otel.backtest.vector import Grid, Labels, Values


@dataclass(frozen=True)
class Firing:
    """One time that an alert fired.

    Attributes:
        alert: Name of the alert.
        labels: Its labels.
        pending: When its condition began to hold, in seconds since 1970.
        start: When it fired first.
        end: The evaluation that resolved it; None if it still fired at the last one.
    """

    alert: str
    labels: Labels
    pending: float
    start: float
    end: float | None


def replay(groups: Sequence[Mapping[str, Any]], evaluation: Evaluation, grid: Grid) -> list[Firing]:
    """Return what would have fired.

    Args:
        groups: The groups of a rule file. Each of its recordings stands after those that it uses.
        evaluation: Knows the past.
        grid: The evaluations.
    """
    firings = []
    for group in groups:
        for rule in group["rules"]:
            if "record" in rule:
                evaluation.record(rule["record"], rule["expr"])
                continue
            wait, keep = (seconds_of(rule.get(key, "0s")) for key in ("for", "keep_firing_for"))
            own = rule.get("labels", {})
            for of, values in evaluation.query(rule["expr"]).items():
                labels = frozenset({**dict(of), **own}.items())
                for pending, start, end in _intervals(values, grid, wait, keep):
                    firings.append(Firing(rule["alert"], labels, pending, start, end))
    return sorted(firings, key=lambda one: (one.start, one.alert, sorted(one.labels)))


def _intervals(
    values: Values, grid: Grid, wait: float, keep: float
) -> Iterator[tuple[float, float, float | None]]:
    holds = ~np.isnan(values)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], holds, [False]]).astype(int)))
    runs = [(int(first), int(after)) for first, after in zip(edges[::2], edges[1::2], strict=True)]
    waits, keeps = _evaluations(wait, grid.step), _evaluations(keep, grid.step)
    fires: list[tuple[int, int, int]] = []
    for first, after in runs:
        # While it is kept firing it need not wait again.
        if fires and first <= fires[-1][2]:
            fires[-1] = (*fires[-1][:2], after + keeps)
        elif after - first > waits:
            fires.append((first, first + waits, after + keeps))
    for first, start, end in fires:
        times = [grid.start + at * grid.step for at in (first, start, end)]
        yield times[0], times[1], times[2] if end < grid.size else None


def _evaluations(seconds: float, step: float) -> int:
    """Return after how many evaluations a time span has passed."""
    return int(np.ceil(seconds / step - 1e-9))


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def seconds_of(duration: str) -> float:
    """Return the seconds of a duration of a rule, such as `5m`, which has one unit."""
    number = duration.rstrip("abcdefghijklmnopqrstuvwxyz")
    return float(number) * _UNITS[duration[len(number) :]]


def in_words(seconds: float) -> str:
    """Return a time span in hours and minutes."""
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
