"""Sums and quantiles over the last seconds."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class SlidingSum:
    """Adds up counts over a window that slides by the second.

    Args:
        seconds: Length of the window.

    Attributes:
        total: The sum.
    """

    def __init__(self, seconds: int) -> None:
        self.total = 0.0
        self._seconds = seconds
        self._samples: deque[tuple[int, float]] = deque()

    def add(self, second: int, count: float) -> None:
        """Add the count of one second, which is never before the last."""
        # Seconds without anything take no room.
        if count:
            self._samples.append((second, count))
            self.total += count
        while self._samples and self._samples[0][0] <= second - self._seconds:
            self.total -= self._samples.popleft()[1]


class SlidingQuantiles:
    """Estimates quantiles over a window that slides by the second.

    Args:
        bounds: The upper bounds of the buckets, ascending, without the infinite one.
        seconds: Length of the window.
    """

    def __init__(self, bounds: Sequence[float], seconds: int) -> None:
        self._bounds = tuple(bounds)
        self._seconds = seconds
        self._last: list[int] | None = None
        self._counts = [0] * (len(bounds) + 1)
        self._samples: deque[tuple[int, list[int]]] = deque()

    def add(self, second: int, counts: Sequence[int]) -> None:
        """Add the sample of one second.

        Args:
            second: Which second it is; never one before the last.
            counts: How many values the histogram has had so far in each bucket. What it had at the
                first sample is in no window.
        """
        last, self._last = self._last or list(counts), list(counts)
        new = [now - before for now, before in zip(counts, last, strict=True)]
        if any(new):
            self._samples.append((second, new))
            self._counts = [a + b for a, b in zip(self._counts, new, strict=True)]
        while self._samples and self._samples[0][0] <= second - self._seconds:
            _, old = self._samples.popleft()
            self._counts = [a - b for a, b in zip(self._counts, old, strict=True)]

    def quantile(self, q: float) -> float | None:
        """Return a quantile of the window; None without any value."""
        return quantile(q, self._bounds, self._counts)


def quantile(q: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """Estimate a quantile as Prometheus's `histogram_quantile` does: linear within a bucket.

    https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile

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
    rank, below, lower = q * total, 0, 0.0
    for upper, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return lower + (upper - lower) * (rank - below) / count
        below, lower = below + count, upper
    return bounds[-1]
