"""Shares and differences with intervals that say how much of them may be chance, at 95 %."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, nan, sqrt

Z = 1.959963984540054
"""How many standard deviations 95 % of a normal distribution lie within."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; NaN where the data do not say.

    Attributes:
        value: The figure.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    low: float = nan
    high: float = nan

    def known(self) -> dict[str, float | None]:
        """Return its parts by name, None for what the data do not say."""
        parts = {"value": self.value, "low": self.low, "high": self.high}
        return {name: part if isfinite(part) else None for name, part in parts.items()}


def share(part: int, whole: int) -> Estimate:
    """Return a share with Wilson's score interval.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of
    the American Statistical Association 22 (1927).
    """
    if not whole:
        return Estimate(nan)
    p = part / whole
    middle = p + Z * Z / (2 * whole)
    width = Z * sqrt(p * (1 - p) / whole + Z * Z / (4 * whole * whole))
    scale = 1 + Z * Z / whole
    return Estimate(p, max(0.0, (middle - width) / scale), min(1.0, (middle + width) / scale))


def difference(part: int, whole: int, part_before: int, whole_before: int) -> Estimate:
    """Return how much greater a share is than another, with Newcombe's hybrid score interval.

    R. G. Newcombe, Interval estimation for the difference between independent proportions:
    comparison of eleven methods, Statistics in Medicine 17 (1998), method 10.
    """
    now, then = share(part, whole), share(part_before, whole_before)
    value = now.value - then.value
    below = sqrt((now.value - now.low) ** 2 + (then.high - then.value) ** 2)
    above = sqrt((now.high - now.value) ** 2 + (then.value - then.low) ** 2)
    return Estimate(value, value - below, value + above)


def mean(value: float, deviation: float | None, count: int) -> Estimate:
    """Return a mean with the interval of the normal approximation."""
    if deviation is None or count < 2:
        return Estimate(value)
    width = Z * deviation / sqrt(count)
    return Estimate(value, value - width, value + width)
