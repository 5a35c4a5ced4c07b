"""What the alerts would have done: as they are, and with other thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from chainlit_otel.backtest.curves import Curve, curve
from chainlit_otel.backtest.evaluate import Evaluation
from chainlit_otel.backtest.replay import Firing, fired, needed
from chainlit_otel.backtest.vector import Grid
from chainlit_otel.rules import Links, Windows, groups
from chainlit_otel.thresholds import Thresholds

LOOK_BACK = 22 * 86_400
"""Seconds before the period that the rules read: three weeks and an hour, in whole days."""

OFTEN = 1.0
"""Firings a week above which another value is proposed."""

_STEPS = (0.5, 0.75, 1.5, 2.0, 3.0)

Groups = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Alternative:
    """What another value of a threshold would have done.

    Attributes:
        threshold: Name of the threshold.
        value: The other value.
        alerts: Firings with it of each alert that reads the threshold.
        before: Firings of the same alerts with the value in force.
        is_proposed: Whether it is the nearest one with at most one firing a week.
    """

    threshold: str
    value: float
    alerts: Mapping[str, int]
    before: Mapping[str, int]
    is_proposed: bool


class Trial:
    """Rules over a past.

    Args:
        evaluation: Knows the past.
        grid: Its evaluations, which begin before the period.
        since: Start of the period, in seconds since 1970.
        window: How long the windows of the rules are.
    """

    def __init__(
        self, evaluation: Evaluation, grid: Grid, since: float, window: Windows | None = None
    ) -> None:
        self._evaluation = evaluation
        self._grid = grid
        self._since = since
        self._window = window or Windows()
        self._firings: dict[str, list[Firing]] = {}

    @property
    def weeks(self) -> float:
        """How many weeks the period has."""
        return (self._grid.end - self._since) / (7 * 86_400)

    def firings(self, limits: Thresholds) -> list[Firing]:
        """Return what would have fired in the period."""
        found = []
        for rule in self._rules(limits):
            found += self._lasting(rule)
        return sorted(found, key=lambda one: (one.start, one.alert, sorted(one.labels)))

    def _lasting(self, rule: Mapping[str, Any]) -> list[Firing]:
        """Return the firings of one rule that did not end before the period."""
        # The same rule is asked for again and again while one threshold is another.
        key = rule["expr"] + str(rule.get("labels"))
        if key not in self._firings:
            self._firings[key] = self._fired(rule)
        return [one for one in self._firings[key] if one.end is None or one.end > self._since]

    def curves(self, limits: Thresholds) -> Iterator[Curve]:
        """Give what each alert that fired in the period looked at, by the names of the alerts.

        Each is that of the rule of its alert that fired longest.
        """
        size = round((self._grid.end - self._since) / self._grid.step) + 1
        shown = Grid(self._since, self._grid.step, size)
        longest: dict[str, tuple[float, str, list[Firing]]] = {}
        for rule in self._rules(limits):
            lasting = self._lasting(rule)
            seconds = sum((one.end or shown.end) - one.start for one in lasting)
            if lasting and seconds > longest.get(rule["alert"], (0.0,))[0]:
                longest[rule["alert"]] = seconds, rule["expr"], lasting
        for alert, (_, expr, lasting) in sorted(longest.items()):
            found = curve(alert, expr, lasting, self._evaluation, shown)
            if found is not None:
                yield found

    def _rules(self, limits: Thresholds) -> list[Mapping[str, Any]]:
        return needed(groups(limits, self._window, Links()))

    def _fired(self, rule: Mapping[str, Any]) -> list[Firing]:
        if "alert" in rule:
            return list(fired(rule, self._evaluation, self._grid))
        self._evaluation.record(rule["record"], rule["expr"])
        return []

    def alternatives(
        self, limits: Thresholds, progress: Callable[[float], None] = lambda _: None
    ) -> Iterator[Alternative]:
        """Give what other values of each threshold would have done, where they change anything."""
        before = _counted(self.firings(limits))
        every = fields(limits)
        for number, field in enumerate(every):
            found = list(self._of_threshold(limits, field.name, before))
            calm = [one for one in found if sum(one.alerts.values()) <= OFTEN * self.weeks]
            value = getattr(limits, field.name)
            nearest = min(calm, key=lambda one: abs(one.value - value), default=None)
            for one in found:
                loud = sum(one.before.values()) > OFTEN * self.weeks
                yield replace(one, is_proposed=loud and one is nearest)
            progress((number + 1) / len(every))

    def _recorded(self, limits: Thresholds) -> list[str]:
        """Return what is recorded for the alerts, which is worked out only once."""
        return [rule["expr"] for rule in self._rules(limits) if "record" in rule]

    def _of_threshold(
        self, limits: Thresholds, name: str, before: Mapping[str, int]
    ) -> Iterator[Alternative]:
        for step in _STEPS:
            value = round(getattr(limits, name) * step, 6)
            try:
                changed = replace(limits, **{name: value})
            except ValueError:
                continue
            if self._recorded(changed) != self._recorded(limits):
                continue
            after = _counted(self.firings(changed))
            others = {
                alert for alert in {*before, *after} if before.get(alert, 0) != after.get(alert, 0)
            }
            if others:
                yield Alternative(
                    name,
                    value,
                    {alert: after.get(alert, 0) for alert in sorted(others)},
                    {alert: before.get(alert, 0) for alert in sorted(others)},
                    is_proposed=False,
                )


def _counted(firings: Sequence[Firing]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for one in firings:
        counted[one.alert] = counted.get(one.alert, 0) + 1
    return counted
