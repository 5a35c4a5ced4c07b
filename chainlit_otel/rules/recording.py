"""Recording rules: what dashboards and alerts ask for again and again.

Named `level:metric:operation`. A level of `job` is one deployment: all replicas of a job, in
their namespace, if there is one. Windows in names are those of scale 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainlit_otel import catalog
from chainlit_otel.catalog import Metric
from chainlit_otel.promql import Part, Where, duration, select
from chainlit_otel.rules.thresholds import HOUR, MINUTE, Windows

BY_JOB = "by (namespace, job)"

_LASTED = "job:chainlit_session_duration_seconds_sum:rate5m"
_TIME = "job:chainlit_session_time_seconds:rate5m"
_ENDS = "job:chainlit_session_ends:rate5m"
_LEFT = "job:chainlit_session_left:rate5m"

_WEBSOCKET: Where = {catalog.SESSION_TYPE: "websocket"}
_CONNECTED: Where = {**_WEBSOCKET, catalog.SESSION_STATE: "connected"}
_DISCONNECTED: Where = {**_WEBSOCKET, catalog.SESSION_STATE: "disconnected"}
_PEAK_WINDOWS = (15.0, MINUTE, 5 * MINUTE)

STARTS = "job:chainlit_session_starts:rate5m"
STARTS_BY_ORIGIN = "job_origin:chainlit_session_starts:rate5m"
RECONNECTS = "job:chainlit_session_reconnects:rate5m"
CONNECTED = "job:chainlit_session_active:sum"
PEAK = "job:chainlit_session_peak:sum"
PEAK_AT_LEAST = "job:chainlit_session_active:max1h"
PEAK_AT_MOST = "job:chainlit_session_peak:max1h"
MEAN_COMPLETED = "job:chainlit_session_duration_seconds:mean1h"
MEAN_UNBIASED = "job:chainlit_session_time_seconds:mean1h"
AGE = "job:process_age_seconds:min"
YOUNG = "job:process_young:ratio"
TURNS = "job:chainlit_turns:rate5m"
TURNS_FAILED = "job:chainlit_turns_failed:rate5m"
TURN_ERRORS = {
    5 * MINUTE: "job:chainlit_turn_errors:ratio5m",
    30 * MINUTE: "job:chainlit_turn_errors:ratio30m",
    HOUR: "job:chainlit_turn_errors:ratio1h",
    6 * HOUR: "job:chainlit_turn_errors:ratio6h",
}


@dataclass(frozen=True)
class Recording:
    """A recording rule.

    Attributes:
        name: Name of the series.
        expr: What it is.
    """

    name: str
    expr: str


def recordings(window: Windows) -> list[Recording]:
    """Return the recording rules, those first that others build on."""
    return [
        *_sessions(window),
        *_fleet_peak(window),
        *_mean_durations(window),
        *_turn_errors(window),
        Recording(AGE, f"min {BY_JOB} ({_AGES})"),
        # A restart, a rollout and a new replica are all a process that is young.
        Recording(YOUNG, f"avg {BY_JOB} ({_AGES} < bool {window.seconds(15 * MINUTE)})"),
    ]


# Exporters of other things have a process, too.
_OURS = f"on (namespace, job, instance) {select(catalog.SESSION_OLDEST_AGE, _WEBSOCKET)}"
_AGES = f"time() - (process_start_time_seconds and {_OURS})"


def _sessions(window: Windows) -> list[Recording]:
    lately = window(5 * MINUTE)
    starts = f"rate({select(catalog.SESSION_STARTS, _WEBSOCKET)}[{lately}])"
    origin = catalog.SESSION_ORIGIN.prometheus_label
    return [
        Recording(STARTS_BY_ORIGIN, f"sum by (namespace, job, {origin}) ({starts})"),
        Recording(STARTS, f"sum {BY_JOB} ({STARTS_BY_ORIGIN})"),
        Recording(RECONNECTS, _rate(catalog.SESSION_RECONNECTS, {}, lately)),
        Recording(CONNECTED, f"sum {BY_JOB} ({select(catalog.SESSION_ACTIVE, _CONNECTED)})"),
    ]


def _fleet_peak(window: Windows) -> list[Recording]:
    """Return what brackets the true peak of a fleet.

    The replicas' peaks need not fall together, so their sum is at least the fleet's; what is
    connected at one moment is at most its peak.

    A peak is kept for one window at least. Replicas are scraped at different moments, so when
    the last of them has shown the peak of an instant, the first may have forgotten its own: the
    sum takes the highest of each replica's last two scrapes.
    """
    kept = next(seconds for seconds in _PEAK_WINDOWS if window.scrape <= seconds)
    mark = select(catalog.SESSION_PEAK, {catalog.PEAK_WINDOW: duration(kept)})
    latest = f"max_over_time({mark}[{duration(2 * window.scrape)}])"
    return [
        Recording(PEAK, f"sum {BY_JOB} ({latest})"),
        Recording(PEAK_AT_LEAST, f"max_over_time({CONNECTED}[{window(HOUR)}])"),
        Recording(PEAK_AT_MOST, f"max_over_time({PEAK}[{window(HOUR)}])"),
    ]


def _mean_durations(window: Windows) -> list[Recording]:
    lately, seconds = window(5 * MINUTE), window.seconds(5 * MINUTE)
    waiting = select(catalog.SESSION_ACTIVE, _DISCONNECTED)
    # Who has left ends only when the grace time is over: without those who wait, the ends lag.
    left = f"{_ENDS} + sum {BY_JOB} (delta({waiting}[{lately}])) / {seconds}"
    hour, in_an_hour = window(HOUR), window.seconds(HOUR)
    return [
        Recording(_LASTED, _rate(catalog.SESSION_DURATION, _WEBSOCKET, lately, "sum")),
        Recording(_TIME, _rate(catalog.SESSION_TIME, _WEBSOCKET, lately)),
        Recording(_ENDS, _rate(catalog.SESSION_ENDS, _WEBSOCKET, lately)),
        Recording(_LEFT, left),
        Recording(MEAN_COMPLETED, _ratio(_LASTED, _ENDS, hour)),
        Recording(
            MEAN_UNBIASED,
            f"avg_over_time({_TIME}[{hour}]) * {in_an_hour} / "
            # Ends and waits that cancel out leave the rounding of a float, which is no divisor.
            f"(avg_over_time({_LEFT}[{hour}]) * {in_an_hour} > 0.5)",
        ),
    ]


def _turn_errors(window: Windows) -> list[Recording]:
    lately = window(5 * MINUTE)
    failed = {catalog.OUTCOME: "error"}
    return [
        Recording(TURNS, _rate(catalog.TURN_DURATION, {}, lately, "count")),
        Recording(TURNS_FAILED, _rate(catalog.TURN_DURATION, failed, lately, "count")),
        *(
            Recording(
                name,
                f"{TURNS_FAILED} / ({TURNS} > 0)"
                if seconds == 5 * MINUTE
                else _ratio(TURNS_FAILED, TURNS, window(seconds)),
            )
            for seconds, name in TURN_ERRORS.items()
        ),
    ]


def _rate(metric: Metric, where: Where, span: str, part: Part = "") -> str:
    return f"sum {BY_JOB} (rate({select(metric, where, part=part)}[{span}]))"


def _ratio(part: str, whole: str, span: str) -> str:
    """Return the ratio of two recorded rates.

    Their means over hours are what reading all replicas over hours would give, and that takes a
    large deployment's Prometheus a second.
    """
    return f"avg_over_time({part}[{span}]) / (avg_over_time({whole}[{span}]) > 0)"
