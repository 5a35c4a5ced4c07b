"""The last minutes by the second and the last day by the minute, in memory of a fixed size.

Time is counted in whole seconds of a monotonic clock, so that a step of the wall clock leaves no
gap and writes nothing twice. A second in which nobody has sampled, as while a process is stopped,
is a gap; the clock itself may stand still while a machine sleeps.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

Aggregate = Literal["sum", "max", "last"]

SECONDS = 15 * 60
"""How many seconds are kept."""

MINUTES = 24 * 60
"""How many minutes are kept."""

_GAP = math.nan


@dataclass(frozen=True)
class Window:
    """What was kept of a stretch of time.

    Attributes:
        start: The first second of it, by the monotonic clock.
        step: Seconds from value to value.
        values: The values of each figure, the oldest first; None where there was no sample.
    """

    start: int
    step: int
    values: Mapping[str, Sequence[float | None]]


class _Resolution:
    """All figures at one resolution, each in a ring of numbers.

    Args:
        step: Seconds of a slot.
        slots: How many slots are kept.
        figures: Names of the figures.
    """

    def __init__(self, step: int, slots: int, figures: Mapping[str, Aggregate]) -> None:
        self.step = step
        self._slots = slots
        # Of four bytes each: seven digits are more than any chart shows.
        self._rings = {name: array("f", [_GAP]) * slots for name in figures}
        self._last: int | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return sum(len(ring) * ring.itemsize for ring in self._rings.values())

    def advance(self, slot: int) -> None:
        """Make gaps of the slots between the last one and this one."""
        if self._last is not None:
            for skipped in range(max(self._last + 1, slot - self._slots + 1), slot + 1):
                for ring in self._rings.values():
                    ring[skipped % self._slots] = _GAP
        if self._last is None or slot > self._last:
            self._last = slot

    def put(self, slot: int, name: str, value: float) -> None:
        """Set the value of a figure in a slot."""
        self._rings[name][slot % self._slots] = value

    def get(self, slot: int, name: str) -> float | None:
        """Return the value of a figure in a slot; None if it is a gap, or no longer kept."""
        if self._last is None or not self._last - self._slots < slot <= self._last:
            return None
        found = self._rings[name][slot % self._slots]
        return None if math.isnan(found) else found

    def values(self, slots: range, name: str) -> list[float | None]:
        """Return the values of a figure in slots that are kept; None where there is a gap."""
        if not slots:
            return []
        ring, first, last = self._rings[name], slots.start % self._slots, slots.stop % self._slots
        found = ring[first:last] if first < last else ring[first:] + ring[:last]
        return [None if math.isnan(value) else value for value in found]

    def slots(self, since: int) -> range:
        """Return the slots that are kept from a second on."""
        if self._last is None:
            return range(0)
        first = max(self._last - self._slots + 1, -(-since // self.step), 0)
        return range(first, self._last + 1)


class History:
    """What the figures were. Not thread-safe: one thread samples, and it answers, too.

    Args:
        figures: The figures, each with what its value of a minute is.
    """

    def __init__(self, figures: Mapping[str, Aggregate]) -> None:
        self._figures = dict(figures)
        self._seconds = _Resolution(1, SECONDS, figures)
        self._minutes = _Resolution(60, MINUTES, figures)

    @property
    def size(self) -> int:
        """Bytes that the values take; it never changes."""
        return self._seconds.size + self._minutes.size

    def add(self, second: int, figures: Mapping[str, float | None]) -> None:
        """Add the sample of one second.

        Args:
            second: Which second of the monotonic clock it is; never one before the last.
            figures: The figures. One that is missing or None is a gap.
        """
        minute = second // 60
        self._seconds.advance(second)
        self._minutes.advance(minute)
        for name, value in figures.items():
            if value is not None:
                self._seconds.put(second, name, value)
                before = self._minutes.get(minute, name)
                self._minutes.put(minute, name, _fold(self._figures[name], before, value))

    def read(self, step: Literal[1, 60], since: int = 0) -> Window:
        """Return what is kept.

        Args:
            step: Seconds from value to value.
            since: The second from which on it is wanted.
        """
        resolution = self._seconds if step == 1 else self._minutes
        slots = resolution.slots(since)
        values = {name: resolution.values(slots, name) for name in self._figures}
        return Window(slots.start * step if slots else since, step, values)


def _fold(aggregate: Aggregate, before: float | None, value: float) -> float:
    if before is None or aggregate == "last":
        return value
    return before + value if aggregate == "sum" else max(before, value)
