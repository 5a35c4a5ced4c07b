"""The figures of the page: a sample a second of what `/metrics` has, and the headline of them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from chainlit_otel import catalog
from chainlit_otel.catalog import LabelSet, Metric
from chainlit_otel.live.history import Aggregate
from chainlit_otel.live.sliding import SlidingQuantiles, SlidingSum
from chainlit_otel.thresholds import FAST_BURN, SLOW_BURN, Thresholds

FIGURES: dict[str, Aggregate] = {
    "connected": "last",
    "disconnected": "last",
    "peak": "max",
    "starts": "sum",
    "reconnects": "sum",
    "ends": "sum",
    "refused": "sum",
    "turns_active": "max",
    "turns_ok": "sum",
    "turns_error": "sum",
    "turns_cancelled": "sum",
    "turn_p50": "last",
    "turn_p95": "last",
    "first_token_p50": "last",
    "first_token_p95": "last",
    "data_layer_p95": "last",
    "chunks": "sum",
    "undelivered": "sum",
    "data_layer_operations": "sum",
    "data_layer_errors": "sum",
    "access_attempts": "sum",
    "access_denied": "sum",
    "memory": "last",
    "loop_lag": "max",
    "loop_blocked": "sum",
}
"""The figures, each with what its value of a minute is."""

_QUANTILES: dict[Metric, dict[str, float]] = {
    catalog.TURN_DURATION: {"turn_p50": 0.5, "turn_p95": 0.95},
    catalog.TIME_TO_FIRST_TOKEN: {"first_token_p50": 0.5, "first_token_p95": 0.95},
    catalog.DATA_LAYER_OPERATION_DURATION: {"data_layer_p95": 0.95},
}

WATCHED = tuple(_QUANTILES)
"""The histograms of which quantiles are shown."""

_MINUTE = 60
_LATELY = 5 * _MINUTE  # seconds that the headline looks back
_HOUR = 60 * _MINUTE
_STATM = Path("/proc/self/statm")
_TURNS = tuple(f"turns_{outcome}" for outcome in catalog.OUTCOME.values)

Figures = dict[str, "float | None"]
Level = Literal["ok", "warning", "critical"]
TurnTotals = Callable[[], Mapping[str, int]]
"""Returns how many turns have ended, by outcome."""


class Readings(Protocol):
    """What is measured; see `chainlit_otel.pipeline.instruments.Telemetry`."""

    def read(self, metric: Metric) -> Mapping[LabelSet, float]:
        """Return the numbers of a counter or gauge now."""

    def counts(self, metric: Metric) -> list[int]:
        """Return how many values of a histogram fell into each bucket."""

    def flush(self) -> None:
        """Record in the histograms what is queued."""


class LoopState(NamedTuple):
    """How the event loop of the app is.

    Attributes:
        blocked: Whether it is blocked at this moment.
        seconds: For how long it has been.
        where: The line that blocks it; empty if that is not known.
        lag: How late it was at most since the state before, in seconds; None if it has no beats.
    """

    blocked: bool = False
    seconds: float = 0.0
    where: str = ""
    lag: float | None = None


class HeadlineFigure(NamedTuple):
    """One figure of the first row of the page.

    Attributes:
        name: Its name.
        title: What is shown for that.
        value: The figure now; None if there is nothing to make it of.
        unit: Its unit.
        level: How bad it is, by the thresholds of the alerts.
        curve: The figure of the history that is its curve.
        help: What it says.
    """

    name: str
    title: str
    value: float | None
    unit: str
    level: Level
    curve: str
    help: str


class Sampler:
    """Reads the figures once a second.

    Args:
        readings: What is measured.
        turns: How many turns have ended.
        thresholds: Those of the alerts.

    Attributes:
        headline: The first row of the page, as of the last sample.
    """

    def __init__(self, readings: Readings, turns: TurnTotals, thresholds: Thresholds) -> None:
        self.headline: list[HeadlineFigure] = []
        self._readings = readings
        self._turns = turns
        self._thresholds = thresholds
        self._totals = self._read_totals()
        self._quantiles = {m: SlidingQuantiles(m.bounds, _MINUTE) for m in WATCHED}
        self._first_token = SlidingQuantiles(catalog.TIME_TO_FIRST_TOKEN.bounds, _LATELY)
        self._began: int | None = None
        self._lately = {name: SlidingSum(_LATELY) for name in ("starts", *_TURNS)}
        self._last_hour_starts = SlidingSum(_HOUR + _LATELY)
        self._stalls = SlidingSum(2 * _LATELY)
        self._lags: deque[float] = deque(maxlen=_MINUTE)

    def sample(self, second: int, loop: LoopState) -> Figures:
        """Return the figures of a second.

        Args:
            second: Which second of the monotonic clock it is.
            loop: How the event loop is.
        """
        self._began = second if self._began is None else self._began
        self._readings.flush()
        before, self._totals = self._totals, self._read_totals()
        new = {name: max(0.0, total - before[name]) for name, total in self._totals.items()}
        figures: Figures = {**new, **self._read_states(), "loop_lag": loop.lag}
        for metric, sliding in self._quantiles.items():
            counts = self._readings.counts(metric)
            sliding.add(second, counts)
            figures |= {name: sliding.quantile(q) for name, q in _QUANTILES[metric].items()}
            if metric is catalog.TIME_TO_FIRST_TOKEN:
                self._first_token.add(second, counts)
        self._lags.append(max(loop.lag or 0.0, loop.seconds))
        for name, sliding_sum in self._lately.items():
            sliding_sum.add(second, new[name])
        self._last_hour_starts.add(second, new["starts"])
        self._stalls.add(second, new["loop_blocked"])
        self.headline = list(self._make_headline(second, figures, loop))
        return figures

    def _read_totals(self) -> dict[str, float]:
        read = self._readings.read
        operations, access = read(catalog.DATA_LAYER_OPERATIONS), read(catalog.ACCESS_ATTEMPTS)
        turns = self._turns()
        return {
            "starts": _sum(read(catalog.SESSION_STARTS), "websocket"),
            "reconnects": _sum(read(catalog.SESSION_RECONNECTS)),
            "ends": _sum(read(catalog.SESSION_ENDS), "websocket"),
            "refused": _sum(read(catalog.CONNECTION_REJECTED)),
            "chunks": _sum(read(catalog.OUTPUT_CHUNKS)),
            "undelivered": _sum(read(catalog.EMIT_DROPPED)),
            "data_layer_operations": _sum(operations),
            "data_layer_errors": _sum(operations, "error"),
            "access_attempts": _sum(access),
            "access_denied": _sum(access, "denied"),
            "loop_blocked": _sum(read(catalog.EVENT_LOOP_BLOCKED)),
            **{f"turns_{outcome}": turns.get(outcome, 0) for outcome in catalog.OUTCOME.values},
        }

    def _read_states(self) -> Figures:
        read = self._readings.read
        active = read(catalog.SESSION_ACTIVE)
        return {
            "connected": _sum(active, "websocket", "connected"),
            "disconnected": _sum(active, "websocket", "disconnected"),
            "peak": read(catalog.SESSION_PEAK).get(("15s",), 0),
            "turns_active": _sum(read(catalog.TURN_ACTIVE)),
            "memory": resident_memory(),
        }

    def _make_headline(
        self, second: int, figures: Figures, loop: LoopState
    ) -> Iterator[HeadlineFigure]:
        limits = self._thresholds
        lately = {name: sliding.total for name, sliding in self._lately.items()}
        elapsed = second - (self._began or 0) + 1
        minutes = min(elapsed, _LATELY) / _MINUTE
        starts, connected = lately["starts"], figures["connected"] or 0
        before = (self._last_hour_starts.total - starts) * _LATELY / _HOUR
        knows = elapsed >= _HOUR + _LATELY
        spike = knows and starts >= limits.spike_sessions and starts > limits.spike_factor * before
        yield HeadlineFigure(
            *("starts", "Sessions started", starts / minutes, "1/min", _level(spike), "starts"),
            "Sessions started a minute, over the last five; compared with the hour before.",
        )
        yield HeadlineFigure(
            *("duration", "Mean duration", self._mean_duration(figures), "s", "ok", "connected"),
            "Time spent in all sessions, divided by those that ended or wait for their user.",
        )
        full = limits.capacity_sessions
        crowded = _level(connected >= limits.capacity_ratio * full, connected >= full)
        yield HeadlineFigure(
            *("connected", "Connected now", connected, "sessions", crowded, "connected"),
            f"Sessions with a browser; a replica is taken to hold {full:g}.",
        )
        peak = self._readings.read(catalog.SESSION_PEAK).get(("process",), 0)
        yield HeadlineFigure(
            *("peak", "Peak", peak, "sessions", "ok", "peak"),
            "Most sessions connected at once since the start of the process.",
        )
        turns = sum(lately[name] for name in _TURNS)
        yield HeadlineFigure(
            *("turns", "Turns", turns / minutes, "1/min", "ok", "turns_ok"),
            "Turns ended a minute, over the last five.",
        )
        first_token = self._first_token.quantile(0.95)
        slow = (first_token or 0) > limits.first_token_seconds and turns >= limits.first_token_turns
        yield HeadlineFigure(
            *("first_token", "First token, p95", first_token, "s", _level(slow), "first_token_p95"),
            f"95 of 100 turns had their first content within this; from "
            f"{limits.first_token_seconds:g} s on it is slow.",
        )
        failed = lately["turns_error"]
        share = failed / turns if turns else None
        burn = (share or 0) / (1 - limits.turn_objective)
        counts = failed >= limits.turn_errors_least
        failing = _level(counts and burn > SLOW_BURN, counts and burn > FAST_BURN)
        yield HeadlineFigure(
            *("errors", "Failed turns", share, "ratio", failing, "turns_error"),
            "Share of the turns of the last five minutes that failed.",
        )
        blocked = _level(self._stalls.total >= limits.stalls, loop.blocked)
        yield HeadlineFigure(
            *("loop_lag", "Event loop lag", max(self._lags), "s", blocked, "loop_lag"),
            "How late the event loop was at most in the last minute; all users wait for it.",
        )

    def _mean_duration(self, figures: Figures) -> float | None:
        over = self._totals["ends"] + (figures["disconnected"] or 0)
        spent = _sum(self._readings.read(catalog.SESSION_TIME), "websocket")
        return spent / over if over else None


def resident_memory() -> float | None:
    """Return the bytes of memory that the process has; None where that cannot be read."""
    with suppress(OSError, ValueError, IndexError):
        return float(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def _sum(numbers: Mapping[LabelSet, float], *labels: str) -> float:
    """Add up the series that have these label values."""
    wanted = set(labels)
    return sum(number for values, number in numbers.items() if wanted <= set(values))


def _level(warning: bool, critical: bool = False) -> Level:
    return "critical" if critical else "warning" if warning else "ok"
