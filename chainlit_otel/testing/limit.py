"""The highest rate of arrivals that an app bears: by trials."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

_PRECISION = 0.05
_MOST_DOUBLINGS = 20


class TriedRate(NamedTuple):
    """One rate that was tried.

    Attributes:
        rate: arrivals per second.
        met: whether all that was asked for was reached.
    """

    rate: float
    met: bool


async def find_limit(
    attempt: Callable[[float], Awaitable[bool]],
    first: float,
    on_trial: Callable[[TriedRate], None] = lambda trial: None,
) -> tuple[float, float]:
    """Find the highest rate at which an attempt succeeds.

    The rate is doubled until an attempt fails (or halved until one succeeds), and then halved in
    between until both ends are within 5 %.

    Args:
        attempt: tries a rate, in arrivals per second.
        first: the rate that is tried first.
        on_trial: called after each attempt.

    Returns:
        The highest rate that succeeded, and the lowest that failed; 0 if none succeeded, and
        infinity if none failed.
    """

    async def tried(rate: float) -> bool:
        met = await attempt(rate)
        on_trial(TriedRate(rate, met))
        return met

    succeeded, failed = 0.0, float("inf")
    rate = first
    for _ in range(_MOST_DOUBLINGS):
        if await tried(rate):
            succeeded, rate = rate, rate * 2
        else:
            failed, rate = rate, rate / 2
        if succeeded and failed < float("inf"):
            break
    while succeeded and failed < float("inf") and failed / succeeded > 1 + _PRECISION:
        rate = (succeeded * failed) ** 0.5
        if await tried(rate):
            succeeded = rate
        else:
            failed = rate
    return succeeded, failed
