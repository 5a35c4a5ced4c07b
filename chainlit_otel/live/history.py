"""The last minutes by the second and the last day by the minute, in memory of a fixed size.

Time is counted in whole seconds of a monotonic clock, so that a step of the wall clock leaves no
gap and writes nothing twice. A second in which nobody has sampled, as while a laptop sleeps, is a
gap.

A figure that is a number has one value a second; its value of a minute is the sum, the highest or
the last of those. A histogram has the counts of its buckets, so that a quantile can be estimated
over any window, by the same rule as Prometheus's `histogram_quantile`.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping, Sequence
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


class _Ring:
    """The last values of one figure, by the number of their slot.

    Args:
        slots: How many are kept.
        width: How many numbers a value has.
    """

    def __init__(self, slots: int, width: int = 1) -> None:
        self._slots = slots
        self._width = width
        self._numbers = array("f", [_GAP]) * (slots * width)

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self._numbers) * self._numbers.itemsize

    def clear(self, slot: int) -> None:
        """Make a slot a gap."""
        at = slot % self._slots * self._width
        for n in range(at, at + self._width):
            self._numbers[n] = _GAP

    def put(self, slot: int, value: Sequence[float]) -> None:
        """Set the value of a slot."""
        at = slot % self._slots * self._width
        self._numbers[at : at + self._width] = array("f", value)

    def get(self, slot: int) -> Sequence[float] | None:
        """Return the value of a slot; None if it is a gap."""
        at = slot % self._slots * self._width
        found = self._numbers[at : at + self._width]
        return None if math.isnan(found[0]) else found


class _Resolution:
    """All figures at one resolution.

    Args:
        step: Seconds of a slot.
        slots: How many slots are kept.
        widths: The figures, each with how many numbers a value of it has.
    """

    def __init__(self, step: int, slots: int, widths: Mapping[str, int]) -> None:
        self.step = step
        self._slots = slots
        self._rings = {name: _Ring(slots, width) for name, width in widths.items()}
        self._last: int | None = None

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return sum(ring.size for ring in self._rings.values())

    def advance(self, slot: int) -> None:
        """Make gaps of the slots between the last one and this one."""
        if self._last is not None:
            for skipped in range(max(self._last + 1, slot - self._slots + 1), slot + 1):
                for ring in self._rings.values():
                    ring.clear(skipped)
        if self._last is None or slot > self._last:
            self._last = slot

    def put(self, slot: int, name: str, value: Sequence[float]) -> None:
        """Set the value of a figure in a slot."""
        self._rings[name].put(slot, value)

    def get(self, slot: int, name: str) -> Sequence[float] | None:
        """Return the value of a figure in a slot; None if it is a gap, or no longer kept."""
        if self._last is None or not self._last - self._slots < slot <= self._last:
            return None
        return self._rings[name].get(slot)

    def slots(self, since: int) -> range:
        """Return the slots that are kept from a second on."""
        if self._last is None:
            return range(0)
        first = max(self._last - self._slots + 1, -(-since // self.step), 0)
        return range(first, self._last + 1)


class History:
    """What the figures were. Not thread-safe: one thread samples, and it answers, too.

    Args:
        figures: The figures that are numbers, each with what its value of a minute is.
        histograms: The figures that are histograms, each with the upper bounds of its buckets; the
            last bucket, which has no bound, is not among them.
    """

    def __init__(
        self, figures: Mapping[str, Aggregate], histograms: Mapping[str, Sequence[float]]
    ) -> None:
        self._figures = dict(figures)
        self._bounds = {name: tuple(bounds) for name, bounds in histograms.items()}
        widths = {
            **dict.fromkeys(figures, 1),
            **{name: len(bounds) + 1 for name, bounds in self._bounds.items()},
        }
        self._seconds = _Resolution(1, SECONDS, widths)
        self._minutes = _Resolution(60, MINUTES, widths)

    @property
    def size(self) -> int:
        """Bytes that the values take; it never changes."""
        return self._seconds.size + self._minutes.size

    def add(
        self, second: int, figures: Mapping[str, float], histograms: Mapping[str, Sequence[int]]
    ) -> None:
        """Add the sample of one second.

        Args:
            second: Which second of the monotonic clock it is; never one before the last.
            figures: The numbers. One that is missing is a gap.
            histograms: How many values came into each bucket within this second.
        """
        minute = second // 60
        self._seconds.advance(second)
        self._minutes.advance(minute)
        for name, value in figures.items():
            self._seconds.put(second, name, (value,))
            before = self._minutes.get(minute, name)
            of_minute = _fold(self._figures[name], None if before is None else before[0], value)
            self._minutes.put(minute, name, (of_minute,))
        for name, counts in histograms.items():
            self._seconds.put(second, name, counts)
            before = self._minutes.get(minute, name)
            self._minutes.put(minute, name, _added(before, counts))

    def read(self, step: Literal[1, 60], since: int = 0) -> Window:
        """Return the numbers that are kept.

        Args:
            step: Seconds from value to value.
            since: The second from which on they are wanted.
        """
        resolution = self._of(step)
        slots = resolution.slots(since)
        values = {
            name: [None if (v := resolution.get(slot, name)) is None else v[0] for slot in slots]
            for name in self._figures
        }
        return Window(slots.start * step if slots else since, step, values)

    def quantiles(
        self, step: Literal[1, 60], name: str, q: float, over: int, since: int = 0
    ) -> Window:
        """Return a quantile of a histogram, at each moment over the time before it.

        Args:
            step: Seconds from value to value.
            name: The histogram.
            q: Which quantile, from 0 to 1.
            over: Seconds of each window.
            since: The second from which on they are wanted.
        """
        resolution = self._of(step)
        slots, back = resolution.slots(since), max(1, over // step)
        found: list[float | None] = []
        for slot in slots:
            counts = [0.0] * (len(self._bounds[name]) + 1)
            for each in range(slot - back + 1, slot + 1):
                value = resolution.get(each, name)
                if value is not None:
                    counts = [a + b for a, b in zip(counts, value, strict=True)]
            found.append(quantile(q, self._bounds[name], counts))
        return Window(slots.start * step if slots else since, step, {name: found})

    def _of(self, step: int) -> _Resolution:
        return self._seconds if step == 1 else self._minutes


def _fold(aggregate: Aggregate, before: float | None, value: float) -> float:
    if before is None or aggregate == "last":
        return value
    return before + value if aggregate == "sum" else max(before, value)


def _added(before: Sequence[float] | None, counts: Sequence[int]) -> Sequence[float]:
    return counts if before is None else [a + b for a, b in zip(before, counts, strict=True)]


def quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """Estimate a quantile as Prometheus's `histogram_quantile` does: linear within a bucket.

    Args:
        q: Which quantile, from 0 to 1.
        bounds: The upper bounds of the buckets, ascending, without the infinite one.
        counts: How many values are in each bucket, the infinite one included.

    Returns:
        The estimate; the highest bound if it is in the last bucket; None without any value.
    """
    total = sum(counts)
    if not total:
        return None
    rank, below = q * total, 0.0
    for upper, lower, count in zip(bounds, _lower(bounds), counts, strict=False):
        if below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count if count else upper
        below += count
    return bounds[-1]


def _lower(bounds: Sequence[float]) -> Iterator[float]:
    yield 0.0
    yield from bounds
