"""How good the alerts were: what they found, how fast, and what they cried over nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from chainlit_otel.backtest.replay import Firing
from chainlit_otel.rules.alerts import PREFIX
from tools.alert_quality.traffic import KINDS, KNOWN, STEP, World

_WEEK = 7 * 24 * 60
_SETTLING = 60
"""Minutes after an event in which an alert is still about it."""


@dataclass
class Score:
    """What one alert did in several worlds.

    Attributes:
        weeks: Weeks that were scored, without the first ones.
        false: Times that it fired in them without a reason.
        pages: Of `false`, those that are critical.
        first_week: Times that it fired in the first week of each world, which has no event.
        worlds: How many worlds there were.
        echoes: Of `false`, those a week or two after an event.
        events: Events that it should have found, by kind.
        found: Of those, the ones that it found.
        rightly: Of those, the ones whose cause it named.
        delays: Minutes from the start of each that it found until it fired.
        fires: Times that it fired in events that it found.
    """

    weeks: float = 0.0
    false: int = 0
    pages: int = 0
    first_week: int = 0
    worlds: int = 0
    echoes: int = 0
    events: dict[str, int] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)
    rightly: dict[str, int] = field(default_factory=dict)
    delays: dict[str, list[float]] = field(default_factory=dict)
    fires: int = 0

    @property
    def false_in_four_weeks(self) -> float:
        """Times that it fired without a reason in four weeks."""
        return 4 * self.false / self.weeks if self.weeks else 0.0

    def delay(self, kind: str) -> float | None:
        """Return the median minutes until an event of a kind was found."""
        return median(self.delays[kind]) if self.delays.get(kind) else None

    def add(self, world: World, firings: Sequence[Firing], alert: str) -> None:
        """Add what the alert did in a world.

        Args:
            world: The world.
            firings: All that fired in it.
            alert: Name of the alert.
        """
        start = world.grid.start
        ours = [
            (minute, one)
            for one in firings
            if one.alert == PREFIX + alert
            for minute in [round((one.start - start) / STEP)]
        ]
        first = KNOWN * _WEEK
        self.worlds += 1
        self.weeks += (world.grid.size - first) / _WEEK
        self.first_week += sum(minute < _WEEK for minute, _ in ours)
        explained: set[int] = set()
        for event in world.events:
            during = [
                at
                for at, (minute, _) in enumerate(ours)
                if event.start <= minute < event.end + _SETTLING
            ]
            explained.update(during)
            if event.kind not in KINDS or KINDS[event.kind].alert != alert:
                continue
            kind = event.kind
            self.events[kind] = self.events.get(kind, 0) + 1
            hits = [ours[at] for at in during if ours[at][0] < event.end + 5]
            if not hits:
                continue
            self.found[kind] = self.found.get(kind, 0) + 1
            self.delays.setdefault(kind, []).append(hits[0][0] - event.start)
            self.fires += len(during)
            if dict(hits[0][1].labels).get("cause") in (None, "new_visitors"):
                self.rightly[kind] = self.rightly.get(kind, 0) + 1
        for at, (minute, one) in enumerate(ours):
            if minute < first or at in explained:
                continue
            self.false += 1
            self.pages += ("severity", "critical") in one.labels
            self.echoes += any(
                event.start - 30 <= minute - weeks * _WEEK < event.end + _SETTLING
                for event in world.events
                for weeks in (1, 2)
            )


def scored(played: Iterable[tuple[World, Sequence[Firing]]], alert: str) -> Score:
    """Return what an alert did in some worlds."""
    score = Score()
    for world, firings in played:
        score.add(world, firings, alert)
    return score
