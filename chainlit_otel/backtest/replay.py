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
    firings: list[Firing] = []
    for rule in needed(groups):
        if "record" in rule:
            evaluation.record(rule["record"], rule["expr"])
        else:
            firings += fired(rule, evaluation, grid)
    return sorted(firings, key=lambda one: (one.start, one.alert, sorted(one.labels)))


def needed(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the rules without the recordings that no alert reads: some are about weeks."""
    found: list[Mapping[str, Any]] = []
    read = ""
    for rule in reversed([rule for group in groups for rule in group["rules"]]):
        if "alert" in rule or rule["record"] in read:
            found.append(rule)
            read += rule["expr"] + "\n"
    return found[::-1]


def fired(rule: Mapping[str, Any], evaluation: Evaluation, grid: Grid) -> Iterator[Firing]:
    """Give each time that an alert would have fired, by series and then by time."""
    wait, keep = (seconds_of(rule.get(key, "0s")) for key in ("for", "keep_firing_for"))
    for of, values in evaluation.query(rule["expr"]).items():
        labels = frozenset({**dict(of), **rule.get("labels", {})}.items())
        for pending, start, end in _intervals(values, grid, wait, keep):
            yield Firing(rule["alert"], labels, pending, start, end)


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
