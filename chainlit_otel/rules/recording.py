"""Recording rules: what dashboards and alerts ask for again and again.

Named `level:metric:operation`. A level of `job` is one deployment: all replicas of a job, in
their namespace, if there is one. Windows in names are those of scale 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from chainlit_otel import catalog
from chainlit_otel.promql import Where, duration, select
from chainlit_otel.rules.thresholds import HOUR, MINUTE, Windows

BY_JOB = "by (namespace, job)"

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
        # A restart, a rollout and a new replica are all a process that is young.
        Recording(AGE, f"min {BY_JOB} (time() - (process_start_time_seconds and {_OURS}))"),
    ]


# Exporters of other things have a process, too.
_OURS = f"on (job, instance) {select(catalog.SESSION_OLDEST_AGE, _WEBSOCKET)}"


def _sessions(window: Windows) -> list[Recording]:
    starts = f"rate({select(catalog.SESSION_STARTS, _WEBSOCKET)}[{window(5 * MINUTE)}])"
    origin = catalog.SESSION_ORIGIN.prometheus_label
    reconnects = f"rate({select(catalog.SESSION_RECONNECTS)}[{window(5 * MINUTE)}])"
    return [
        Recording(STARTS, f"sum {BY_JOB} ({starts})"),
        Recording(STARTS_BY_ORIGIN, f"sum by (namespace, job, {origin}) ({starts})"),
        Recording(RECONNECTS, f"sum {BY_JOB} ({reconnects})"),
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
    hour = window(HOUR)
    total = select(catalog.SESSION_DURATION, _WEBSOCKET, part="sum")
    count = select(catalog.SESSION_DURATION, _WEBSOCKET, part="count")
    time = select(catalog.SESSION_TIME, _WEBSOCKET)
    ends = select(catalog.SESSION_ENDS, _WEBSOCKET)
    waiting = select(catalog.SESSION_ACTIVE, _DISCONNECTED)
    # Who has left ends only when the grace time is over: without those who wait, the ends lag.
    left = f"sum {BY_JOB} (increase({ends}[{hour}])) + sum {BY_JOB} (delta({waiting}[{hour}]))"
    return [
        Recording(
            MEAN_COMPLETED,
            f"sum {BY_JOB} (increase({total}[{hour}])) / "
            f"(sum {BY_JOB} (increase({count}[{hour}])) > 0)",
        ),
        Recording(MEAN_UNBIASED, f"sum {BY_JOB} (increase({time}[{hour}])) / (({left}) > 0)"),
    ]


def _turn_errors(window: Windows) -> list[Recording]:
    failed = select(catalog.TURN_DURATION, {catalog.OUTCOME: "error"}, part="count")
    turns = select(catalog.TURN_DURATION, part="count")
    return [
        Recording(
            name,
            f"sum {BY_JOB} (rate({failed}[{window(seconds)}])) / "
            f"(sum {BY_JOB} (rate({turns}[{window(seconds)}])) > 0)",
        )
        for seconds, name in TURN_ERRORS.items()
    ]
