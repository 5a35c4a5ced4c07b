"""When visitors come: at a steady rate, or in stages. Pure."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chainlit_otel.testing.dialog import seconds


@dataclass(frozen=True)
class Stage:
    """A time in which the rate of arrivals goes from that of the stage before to its own.

    Two stages of the same rate after one another hold it. Before the first, the rate is 0.

    Args:
        seconds: how long it takes.
        rate: arrivals per second at its end.
    """

    seconds: float
    rate: float

    @classmethod
    def parse(cls, text: str) -> Stage:
        """Parse a stage as k6 writes it: ``30s:5`` for half a minute up to 5 arrivals a second.

        Raises:
            ValueError: it is none; the message says what is expected.
        """
        length, colon, rate = text.partition(":")
        try:
            stage = cls(seconds(length), float(rate))
        except ValueError:
            colon = ""
        if not colon or stage.seconds <= 0 or not 0 <= stage.rate < math.inf:
            example = "30s:5 (in 30 seconds, to 5 a second)"
            raise ValueError(f"{text!r} is not a stage such as {example}")
        return stage


def steady(rate: float, rng: random.Random) -> Iterator[float]:
    """Give the seconds of arrivals of a Poisson process, without end.

    Args:
        rate: mean arrivals per second.
        rng: the randomness.
    """
    at = 0.0
    while True:
        at += rng.expovariate(rate)
        yield at


def staged(stages: Sequence[Stage], rng: random.Random) -> Iterator[float]:
    """Give the seconds of arrivals of a Poisson process whose rate follows stages, up to their end.

    Arrivals of a unit rate are mapped by the inverse of the expected number of arrivals so far
    (Cinlar, Introduction to Stochastic Processes, 1975, section 4.7).
    """
    expected = rng.expovariate(1.0)
    before, begin, rate = 0.0, 0.0, 0.0
    for stage in stages:
        in_stage = stage.seconds * (rate + stage.rate) / 2
        while expected < before + in_stage:
            yield begin + _when(expected - before, stage.seconds, rate, stage.rate)
            expected += rng.expovariate(1.0)
        before += in_stage
        begin += stage.seconds
        rate = stage.rate


def evenly(rate: float, length: float) -> Iterator[float]:
    """Give the seconds of arrivals at equal distances.

    Args:
        rate: arrivals per second.
        length: seconds in which they come.
    """
    for number in range(round(rate * length)):
        yield (number + 0.5) / rate


def _when(arrivals: float, length: float, first: float, last: float) -> float:
    """Return the second at which so many arrivals are expected, while the rate changes linearly."""
    slope = (last - first) / length
    if slope == 0:
        return arrivals / first
    # The solution of first * t + slope * t**2 / 2 = arrivals that loses no digits near zero.
    return 2 * arrivals / (first + math.sqrt(max(0.0, first**2 + 2 * slope * arrivals)))
