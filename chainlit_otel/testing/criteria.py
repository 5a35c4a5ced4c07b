"""What a run has to reach, as k6 writes it: ``p95(first_token) < 2s``, ``failed < 1%``."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import NamedTuple

from chainlit_otel.testing.dialog import seconds
from chainlit_otel.testing.results import PHASES, LoadReport, percentile

_FORM = re.compile(
    r"\s*(?:(?P<of>\w+(?:\.\d+)?)\((?P<phase>\w+)\)|(?P<share>\w+))"
    r"\s*(?P<sign><=?|>=?)\s*(?P<limit>\S+)\s*"
)
_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_SHARES: dict[str, Callable[[LoadReport], float]] = {
    "failed": lambda report: _share(report.failed, report.arrived),
    "unmet": lambda report: _share(report.unexpected, report.checks),
}
_EXAMPLES = "'p95(first_token) < 2s' or 'failed < 1%'"


class Criterion:
    """One thing that a run has to reach.

    Args:
        text: ``aggregate(phase) < duration`` or ``share < percent``. Aggregates are ``mean``,
            ``min``, ``max`` and percentiles such as ``p95`` or ``p99.9`` (nearest rank); phases
            ``connect``, ``first_token``, ``turn`` and ``reconnect``; shares ``failed``, of the
            visitors for whom anything went wrong, and ``unmet``, of the expectations of a script.

    Raises:
        ValueError: it is none; the message says what is wrong.
    """

    def __init__(self, text: str) -> None:
        self.text = " ".join(text.split())
        match = _FORM.fullmatch(text)
        if match is None:
            raise ValueError(f"{text!r} is not of the form {_EXAMPLES}")
        self._holds = _SIGNS[match["sign"]]
        if match["share"]:
            self._read = _share_of(match["share"])
            self._limit = _percent(match["limit"])
            self._show: Callable[[float], str] = lambda value: f"{value:.2%}"
        else:
            self._read = _aggregate(match["of"], match["phase"])
            self._limit = seconds(match["limit"])
            self._show = lambda value: f"{value:.3f} s"

    def look_at(self, report: LoadReport) -> Judgement:
        """Compare a run with it; what was never measured is not reached."""
        value = self._read(report)
        met = value is not None and self._holds(value, self._limit)
        return Judgement(self.text, value, "-" if value is None else self._show(value), met)


class Judgement(NamedTuple):
    """Whether a run has reached something.

    Attributes:
        criterion: what it had to reach.
        value: what it was, in seconds or as a share; None if it was never measured.
        shown: the same for people.
        met: whether it was reached.
    """

    criterion: str
    value: float | None
    shown: str
    met: bool


def _share_of(name: str) -> Callable[[LoadReport], float | None]:
    if name not in _SHARES:
        raise ValueError(f"{name!r} is no figure; there are {', '.join(_SHARES)}, and {_EXAMPLES}")
    return _SHARES[name]


def _aggregate(name: str, phase: str) -> Callable[[LoadReport], float | None]:
    known = [each for each in PHASES if each == phase]
    if not known:
        raise ValueError(f"{phase!r} is no phase of a visit; there are {', '.join(PHASES)}")
    of = _reduction(name)
    return lambda report: of(report.seconds_of(known[0]))


def _reduction(name: str) -> Callable[[list[float]], float | None]:
    simple: dict[str, Callable[[list[float]], float]] = {
        "mean": lambda values: sum(values) / len(values),
        "min": min,
        "max": max,
    }
    if name in simple:
        return lambda values: simple[name](values) if values else None
    match = re.fullmatch(r"p(\d{1,2}(?:\.\d+)?)", name)
    if match is None:
        known = f"{', '.join(simple)} and percentiles such as p95"
        raise ValueError(f"{name!r} is no aggregate; there are {known}")
    share = float(match[1]) / 100
    return lambda values: percentile(values, share)


def _percent(text: str) -> float:
    number = text.removesuffix("%")
    try:
        return float(number) / (100 if text.endswith("%") else 1)
    except ValueError:
        raise ValueError(f"{text!r} is not a share such as 1% or 0.01") from None


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
