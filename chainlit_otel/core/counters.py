"""A counter that is kept elsewhere, and that may be reset."""

from __future__ import annotations


class ResettableCounter:
    """The total of a counter over all its resets.

    A count that is lower than the last one means a reset, as for `increase` in Prometheus.

    Attributes:
        total: The sum so far.
    """

    __slots__ = ("_last", "total")

    def __init__(self) -> None:
        self.total = 0
        self._last = 0

    def update(self, count: int) -> None:
        """Add the increase since the last count."""
        self.total += count - self._last if count >= self._last else count
        self._last = count

    def rebase(self) -> None:
        """The next count is that of another counter, which starts at zero."""
        self._last = 0
