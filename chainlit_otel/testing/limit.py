"""The highest rate of arrivals that an app bears: by trials."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from statistics import fmean, linear_regression

from chainlit_otel.testing.results import Timing

_PRECISION = 0.05
_MOST_DOUBLINGS = 20
_WARM_UP = 0.25  # of a trial
_SURE = 3.0  # standard errors


async def find_limit(
    attempt: Callable[[float], Awaitable[bool]], first: float, least: float
) -> tuple[float, float]:
    """Find the highest rate at which an attempt succeeds.

    The rate is doubled until an attempt fails (or halved until one succeeds), and then halved in
    between until both ends are within 5 %.

    Args:
        attempt: tries a rate, in arrivals per second.
        first: the rate that is tried first.
        least: no lower rate is tried.

    Returns:
        The highest rate that succeeded, and the lowest that failed; 0 if none succeeded, and
        infinity if none failed.
    """
    succeeded, failed = 0.0, math.inf
    rate = max(first, least)
    for _ in range(_MOST_DOUBLINGS):
        if await attempt(rate):
            succeeded, rate = rate, rate * 2
        else:
            failed, rate = rate, rate / 2
        if rate < least or (succeeded and failed < math.inf):
            break
    while succeeded and failed < math.inf and failed / succeeded > 1 + _PRECISION:
        rate = (succeeded * failed) ** 0.5
        if await attempt(rate):
            succeeded = rate
        else:
            failed = rate
    return succeeded, failed


def growth(turns: Sequence[Timing], trial: float) -> float:
    """Return by how many seconds a turn took longer for each second that it was sent later; pure.

    An app that gets more messages than it can answer has a queue, which grows for as long as they
    come: with a tenth too many, each second makes a turn a tenth of a second longer. Thresholds
    notice it late, or after a trial of 30 seconds not at all.

    Args:
        turns: of one trial.
        trial: seconds in which visitors came. What was sent in the first quarter of it is the
            warm-up, and what was sent after it had less company.

    Returns:
        The slope by least squares; 0 where it is less than half of the precision of the search,
        or could be chance.
    """
    sent = [(turn.at - turn.seconds, turn.seconds) for turn in turns]
    sent = [(at, seconds) for at, seconds in sent if _WARM_UP * trial <= at <= trial]
    if len(sent) < 3:
        return 0.0
    times, lengths = zip(*sent, strict=True)
    slope, start = linear_regression(times, lengths)
    rest = sum((length - start - slope * at) ** 2 for at, length in sent)
    middle = fmean(times)
    spread = sum((at - middle) ** 2 for at in times)
    error = math.sqrt(rest / (len(sent) - 2) / spread)
    return slope if slope >= max(_PRECISION / 2, _SURE * error) else 0.0
