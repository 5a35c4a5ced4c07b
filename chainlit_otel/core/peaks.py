"""High-water marks over windows aligned to the wall clock.

A gauge that is read every 15 s misses changes between two readings. A high-water mark is updated at
every change, so no reading interval up to the window misses a peak; and readings do not reset it,
so any number of readers get the same values.
"""

from __future__ import annotations

from collections.abc import Mapping

WINDOWS: Mapping[str, int] = {
    "15s": 15_000_000_000,
    "1m": 60_000_000_000,
    "5m": 300_000_000_000,
    "1h": 3_600_000_000_000,
}
"""The windows that are kept, by name, in nanoseconds; each is a multiple of the first."""

_FIRST, _SHORTEST = next(iter(WINDOWS.items()))

# NTP slews a clock by up to 500 parts per million (RFC 5905, section 12). A window that is shorter
# than this was ended by a step of the wall clock.
_WHOLE_WINDOW = 0.99


class _Window:
    """The peak of the current and of the last closed window of one length."""

    __slots__ = ("_closed", "_index", "_length", "_opened", "peak")

    def __init__(self, length: int, level: int, now: int, wall: int) -> None:
        self._length = length
        self._index = wall // length
        self._opened = now - wall % length
        self.peak = level
        self._closed = level

    def advance(self, level: int, updated: int, now: int, wall: int) -> None:
        """Close the current window if the wall clock has left it; `level` held since `updated`."""
        index = wall // self._length
        if index == self._index:
            return
        # After a step of the clock, the computed start may be before the last update.
        opened = max(now - wall % self._length, updated)
        elapsed = opened - self._opened
        whole = _WHOLE_WINDOW * self._length
        if elapsed >= self._length + whole and opened - updated >= whole:
            self._closed = level
        elif elapsed >= whole:
            self._closed = self.peak
        else:
            self._closed = max(self._closed, self.peak)
        self._index, self._opened, self.peak = index, opened, level

    def raise_to(self, level: int) -> None:
        self.peak = max(self.peak, level)

    @property
    def value(self) -> int:
        return max(self._closed, self.peak)


class HighWaterMark:
    """The peaks of one level, in each of `WINDOWS` and over the whole life of the process.

    The value of a window is the maximum over its last closed and its current window. The wall clock
    only decides when windows end: a step of it may shorten a window, but loses no peak, since the
    duration of a window is measured by the monotonic clock.

    Args:
        now: Monotonic time, in nanoseconds.
        wall: Wall-clock time since the epoch, in nanoseconds.
    """

    def __init__(self, now: int, wall: int) -> None:
        self.level = 0
        self._process = 0
        self._windows = {name: _Window(ns, 0, now, wall) for name, ns in WINDOWS.items()}
        self._updated = now
        self._cut = wall // _SHORTEST

    def move(self, level: int, now: int, wall: int) -> None:
        """Set the level, at monotonic time `now` and wall-clock time `wall` (nanoseconds)."""
        self._advance(now, wall)
        # The shortest window lies inside all others, so only a peak in it can be one in them.
        if level > self._windows[_FIRST].peak:
            for window in self._windows.values():
                window.raise_to(level)
            self._process = max(self._process, level)
        self.level = level

    def values(self, now: int, wall: int) -> dict[str, int]:
        """Return the peak of every window, and of the `process`."""
        self._advance(now, wall)
        peaks = {name: window.value for name, window in self._windows.items()}
        return {**peaks, "process": self._process}

    def _advance(self, now: int, wall: int) -> None:
        updated, self._updated = self._updated, now
        # All windows end together with a shortest one.
        if wall // _SHORTEST != self._cut:
            self._cut = wall // _SHORTEST
            for window in self._windows.values():
                window.advance(self.level, updated, now, wall)
