"""A count that somebody else keeps and may begin again."""

from __future__ import annotations


class Tally:
    """What a count has come to, over all its beginnings.

    A count that is lower than before has begun again, as Prometheus takes a counter.

    Attributes:
        total: The sum so far.
    """

    __slots__ = ("_last", "total")

    def __init__(self) -> None:
        self.total = 0
        self._last = 0

    def take(self, count: int) -> None:
        """Take the count as it is now."""
        self.total += count - self._last if count >= self._last else count
        self._last = count

    def restart(self) -> None:
        """The next count is that of something else."""
        self._last = 0
