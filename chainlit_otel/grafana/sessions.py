"""Sessions: who comes, how many are there, how long they stay, and how they leave."""

from __future__ import annotations

from chainlit_otel import catalog
from chainlit_otel.grafana.panels import (
    JOBS,
    SCOPE,
    TARGETS,
    Json,
    Levels,
    Query,
    Row,
    dashboard,
    heatmap,
    stat,
    state_timeline,
    timeseries,
)
from chainlit_otel.grafana.queries import (
    INTERVAL,
    buckets,
    increase,
    label,
    legend,
    per_minute,
    quantile,
    ratio,
    sum_of,
    sum_of_max,
)
from chainlit_otel.promql import OF_A_DIALOG, Where, select
from chainlit_otel.rules import recording
from chainlit_otel.thresholds import Thresholds

_WEBSOCKET: Where = {catalog.SESSION_TYPE: "websocket"}
_CONNECTED: Where = {**_WEBSOCKET, catalog.SESSION_STATE: "connected"}
_DISCONNECTED: Where = {**_WEBSOCKET, catalog.SESSION_STATE: "disconnected"}


def build(limits: Thresholds) -> Json:
    """Return the dashboard, its figures coloured by the thresholds of the alerts."""
    return dashboard(
        catalog.DASHBOARD_SESSIONS,
        "Chainlit / Sessions",
        "Who comes, how many are there at once, how long they stay, and how they leave.",
        [
            Row(
                "At a glance",
                [
                    creation_rate(),
                    mean_duration(),
                    connected_now(),
                    peak_of_the_hour(),
                    reconnects_per_session(limits),
                    refused(limits),
                ],
            ),
            Row("Sessions", [starts(), concurrent(), fleet_peak()]),
            Row("How long", [durations(), quantiles(), duration_buckets()]),
            Row("How they end", [ends(), turns_of_a_session(), bounces(), oldest()]),
            Row(
                "Connections",
                [reconnects(), lost_at_once(), rejections(), closed(), connection_durations()],
            ),
            Row("Who", [client_types(), transports(), http_sessions()]),
            Row("Monitors", [dialogs(), dialog_durations(), dialog_failures()]),
            Row("Synthetic visitors", [synthetic_sessions(), synthetic_turns()]),
        ],
        of_monitors=True,
    )


def creation_rate() -> Json:
    return stat(
        "Sessions started",
        "Sessions started per minute, over 5 minutes. Investigate if it is far from what is usual "
        "at this time of the week.",
        "suffix:/min",
        Query(per_minute(catalog.SESSION_STARTS, _WEBSOCKET, span="5m")),
    )


def mean_duration() -> Json:
    return stat(
        "Mean duration",
        "Mean duration of sessions over the last hour, open ones included. Investigate if it "
        "falls: users may be cut off.",
        "s",
        Query(_mean_of_all("1h")),
    )


def connected_now() -> Json:
    return stat(
        "Connected now",
        "Sessions whose browser is connected. Investigate if it comes near what your replicas can "
        "hold.",
        "short",
        Query(sum_of(catalog.SESSION_ACTIVE, _CONNECTED)),
    )


def peak_of_the_hour() -> Json:
    return stat(
        "Peak of the last hour",
        "The most sessions connected at once, all replicas together: at least the first figure, at "
        "most the second. Investigate if it comes near what your replicas can hold.",
        "short",
        *_bounds_of_peak(),
    )


def reconnects_per_session(limits: Thresholds) -> Json:
    return stat(
        "Reconnects",
        "Reconnects in 5 minutes for each session that was connected meanwhile. If they "
        "are many, a proxy or the network cuts connections.",
        "percentunit",
        Query(
            ratio(
                increase(catalog.SESSION_RECONNECTS, "5m"),
                f"sum (max_over_time({select(catalog.SESSION_ACTIVE, _CONNECTED, SCOPE)}[5m]))",
            )
        ),
        levels=Levels(0.5 * limits.reconnects, limits.reconnects),
    )


def refused(limits: Thresholds) -> Json:
    rejected = increase(catalog.CONNECTION_REJECTED, "15m")
    started = increase(catalog.SESSION_STARTS, "15m", _WEBSOCKET)
    came_back = increase(catalog.SESSION_RECONNECTS, "15m")
    return stat(
        "Refused",
        "Share of connections that were refused in 15 minutes. These users cannot get in.",
        "percentunit",
        Query(ratio(rejected, f"({rejected} + {started} + {came_back})")),
        levels=Levels(0.2 * limits.rejected, limits.rejected),
    )


def starts() -> Json:
    by = label(catalog.SESSION_ORIGIN)
    return timeseries(
        "Creation rate",
        "Sessions started per minute; dashed, those of all replicas a week ago. Investigate if it "
        "leaves the rhythm of last week. After a restart the open tabs come back as "
        "`thread_resume`.",
        "suffix:/min",
        Query(per_minute(catalog.SESSION_STARTS, _WEBSOCKET, by), legend(catalog.SESSION_ORIGIN)),
        # Replicas had other names a week ago.
        Query(
            f"60 * sum (rate({select(catalog.SESSION_STARTS, _WEBSOCKET, JOBS)}"
            f"[{INTERVAL}] offset 1w))",
            "a week ago",
            dashed=True,
        ),
        width=8,
    )


def concurrent() -> Json:
    last_15s: Where = {catalog.PEAK_WINDOW: "15s"}
    return timeseries(
        "Concurrent sessions",
        "Sessions connected and those whose user may still come back; dashed, the true peak "
        "between the scrapes, which the lines miss. Investigate if the disconnected ones grow and "
        "grow.",
        "short",
        Query(sum_of(catalog.SESSION_ACTIVE, _CONNECTED), "connected"),
        Query(sum_of(catalog.SESSION_ACTIVE, _DISCONNECTED), "disconnected"),
        Query(sum_of_max(catalog.SESSION_PEAK, last_15s), "peak", dashed=True),
        width=8,
    )


def fleet_peak() -> Json:
    process: Where = {catalog.PEAK_WINDOW: "process"}
    return timeseries(
        "Peak of all replicas",
        "The most sessions connected at once within an hour lies between the two lines. "
        "Investigate if it comes near what your replicas can hold; dashed, the sum of their "
        "records.",
        "short",
        *_bounds_of_peak(),
        Query(sum_of(catalog.SESSION_PEAK, process), "records", dashed=True),
        width=8,
    )


def durations() -> Json:
    completed = ratio(
        increase(catalog.SESSION_DURATION, "1h", _WEBSOCKET, part="sum"),
        increase(catalog.SESSION_DURATION, "1h", _WEBSOCKET, part="count"),
    )
    return timeseries(
        "Mean duration",
        "Mean duration over an hour: of all sessions, and of those that have ended, which is too "
        "low while long ones are open. Investigate if the first falls.",
        "s",
        Query(_mean_of_all("1h"), "all sessions"),
        Query(completed, "ended sessions", dashed=True),
        width=8,
    )


def quantiles() -> Json:
    return timeseries(
        "Duration of ended sessions",
        "Half, nine in ten and 99 in a hundred sessions were shorter. Investigate a cliff: a proxy "
        "that cuts connections after a fixed time.",
        "s",
        *(
            Query(quantile(q, catalog.SESSION_DURATION, _WEBSOCKET, span="1h"), f"p{q * 100:g}")
            for q in (0.5, 0.9, 0.99)
        ),
        width=8,
    )


def duration_buckets() -> Json:
    return heatmap(
        "Duration of ended sessions, spread",
        "How long sessions lasted. Investigate if a dark band appears at a fixed duration.",
        "s",
        Query(buckets(catalog.SESSION_DURATION, _WEBSOCKET), "{{le}}"),
        width=8,
    )


def ends() -> Json:
    return timeseries(
        "Ends by reason",
        "Sessions ended per minute: `cleared` by New Chat, `timeout` after the grace time. "
        "Investigate `other`: sessions that Chainlit lost.",
        "suffix:/min",
        Query(
            per_minute(catalog.SESSION_ENDS, _WEBSOCKET, label(catalog.END_REASON)),
            legend(catalog.END_REASON),
        ),
        stacked=True,
    )


def turns_of_a_session() -> Json:
    return timeseries(
        "Turns of a session",
        "Turns of the sessions that ended within an hour. Investigate if it falls: users give up "
        "sooner.",
        "short",
        Query(quantile(0.5, catalog.SESSION_TURNS, span="1h"), "p50"),
        Query(quantile(0.9, catalog.SESSION_TURNS, span="1h"), "p90"),
    )


def bounces() -> Json:
    none = select(catalog.SESSION_TURNS, scope=f'{SCOPE},le="0.0"', part="bucket")
    return timeseries(
        "Bounces",
        "Share of the sessions ended within an hour that had no turn at all. Investigate if it "
        "rises: users come and do not know what to ask, or cannot.",
        "percentunit",
        Query(
            ratio(
                f"sum (increase({none}[1h]))",
                increase(catalog.SESSION_TURNS, "1h", part="count"),
            ),
            "without a turn",
        ),
    )


def oldest() -> Json:
    return timeseries(
        "Oldest session",
        "Age of the oldest session that has not ended. Investigate if it never falls: a session is "
        "stuck.",
        "s",
        Query(
            f"max by (instance) ({select(catalog.SESSION_OLDEST_AGE, _WEBSOCKET, SCOPE)})",
            "{{instance}}",
        ),
    )


def reconnects() -> Json:
    return timeseries(
        "Reconnects",
        "Sockets per minute that took up a session that was there already. Investigate bursts: the "
        "network or a proxy drops many at once.",
        "suffix:/min",
        Query(
            per_minute(catalog.SESSION_RECONNECTS, by=label(catalog.CLIENT_TYPE)),
            legend(catalog.CLIENT_TYPE),
        ),
        stacked=True,
        width=8,
    )


def lost_at_once() -> Json:
    return timeseries(
        "Sockets lost at once",
        "Share of the sockets of each job that closed within 2 minutes, but for those whose place "
        "newcomers took. Investigate a peak: something between users and app cuts all of them.",
        "percentunit",
        Query(f"max by (job) (clamp_max({recording.CLOSED}{{{JOBS}}}, 1))", "{{job}}"),
        width=8,
    )


def rejections() -> Json:
    return timeseries(
        "Refused connections",
        "Connections per minute that Chainlit refused. Investigate any that last.",
        "suffix:/min",
        Query(
            per_minute(catalog.CONNECTION_REJECTED, by=label(catalog.REFUSAL)),
            legend(catalog.REFUSAL),
        ),
        stacked=True,
        width=8,
    )


def closed() -> Json:
    return timeseries(
        "Closed connections",
        "Connections closed per minute, by reason. Investigate `ping_timeout` and "
        "`transport_error`: users lost their connection and did not want to.",
        "suffix:/min",
        Query(
            per_minute(catalog.CONNECTION_DURATION, by=label(catalog.CLOSE_REASON), part="count"),
            legend(catalog.CLOSE_REASON),
        ),
        stacked=True,
    )


def connection_durations() -> Json:
    return heatmap(
        "Duration of connections",
        "How long connections lasted. Investigate a dark band at 60, 300 or 3600 s: the timeout of "
        "a proxy.",
        "s",
        Query(buckets(catalog.CONNECTION_DURATION), "{{le}}"),
    )


def client_types() -> Json:
    return timeseries(
        "Client types",
        "Connected sessions by what they come with. Investigate `other`: a client that Chainlit "
        "does not know.",
        "short",
        Query(
            sum_of(catalog.SESSION_ACTIVE, _CONNECTED, label(catalog.CLIENT_TYPE)),
            legend(catalog.CLIENT_TYPE),
        ),
        stacked=True,
        width=8,
    )


def transports() -> Json:
    return timeseries(
        "Transports",
        "Open connections by transport. Investigate if many poll: a proxy lets no websocket "
        "through.",
        "short",
        Query(
            sum_of(catalog.CONNECTION_ACTIVE, by=label(catalog.TRANSPORT)),
            legend(catalog.TRANSPORT),
        ),
        stacked=True,
        width=8,
    )


def http_sessions() -> Json:
    return timeseries(
        "HTTP sessions",
        "Sessions of endpoints and bots started per minute. Investigate if bots fall silent.",
        "suffix:/min",
        Query(
            per_minute(
                catalog.SESSION_STARTS,
                {catalog.SESSION_TYPE: "http"},
                label(catalog.CLIENT_TYPE),
            ),
            legend(catalog.CLIENT_TYPE),
        ),
        stacked=True,
        width=8,
    )


def dialogs() -> Json:
    by = label(catalog.TARGET, catalog.DIALOG)
    success = select(catalog.MONITOR_SUCCESS, scope=f"{TARGETS},{OF_A_DIALOG}")
    return state_timeline(
        "Dialogs",
        "Whether the last dialog of each monitor went as its script expects, for the chosen "
        "targets and not for the jobs; where several places watch, from all of them. Investigate "
        "what stays red.",
        Query(f"min by ({by}) ({success})", f"{legend(catalog.TARGET)} {legend(catalog.DIALOG)}"),
        states={"0": ("failed", "red"), "1": ("as expected", "green")},
        width=8,
    )


def dialog_durations() -> Json:
    by = label(catalog.DIALOG, catalog.PHASE)
    phases = select(catalog.MONITOR_PHASE_DURATION, scope=TARGETS)
    return timeseries(
        "Phases of dialogs",
        "The longest of each phase in the last dialog, of all places and chosen targets. "
        "Investigate a rise: users wait as long.",
        "s",
        Query(f"max by ({by}) ({phases})", f"{legend(catalog.DIALOG)} {legend(catalog.PHASE)}"),
        width=8,
    )


def dialog_failures() -> Json:
    failures = select(catalog.MONITOR_FAILURES, scope=TARGETS)
    return timeseries(
        "Failures of dialogs",
        "What went wrong in dialogs of monitors per minute, by kind. Investigate `Unreachable` and "
        "`Refused` first: nobody gets in.",
        "suffix:/min",
        Query(
            f"60 * sum by ({label(catalog.FAILURE_KIND)}) (rate({failures}[{INTERVAL}]))",
            legend(catalog.FAILURE_KIND),
        ),
        stacked=True,
        width=8,
    )


def synthetic_sessions() -> Json:
    return timeseries(
        "Synthetic sessions",
        "Sessions of visitors with the synthetic token that ended per minute, by the worst outcome "
        "of their turns. Investigate errors, and sessions that no monitor explains.",
        "suffix:/min",
        Query(
            per_minute(catalog.SYNTHETIC_SESSIONS, by=label(catalog.OUTCOME)),
            legend(catalog.OUTCOME),
        ),
        stacked=True,
    )


def synthetic_turns() -> Json:
    return timeseries(
        "Synthetic turns",
        "Turns of visitors with the synthetic token per minute, by outcome. They are in no other "
        "figure. Investigate errors.",
        "suffix:/min",
        Query(
            per_minute(catalog.SYNTHETIC_TURNS, by=label(catalog.OUTCOME)),
            legend(catalog.OUTCOME),
        ),
        stacked=True,
    )


def _mean_of_all(span: str) -> str:
    """Return the mean duration that open sessions do not bias: their time by those who left.

    Little's law. Who has left ends only after the grace time, so who waits counts as gone.
    """
    waiting = f"sum (delta({select(catalog.SESSION_ACTIVE, _DISCONNECTED, SCOPE)}[{span}]))"
    left = f"({increase(catalog.SESSION_ENDS, span, _WEBSOCKET)} + {waiting})"
    return ratio(increase(catalog.SESSION_TIME, span, _WEBSOCKET), left)


def _bounds_of_peak() -> tuple[Query, Query]:
    """Return what the most sessions at once, of all jobs together, was at least and at most.

    The maxima of two jobs may lie half an hour apart, so their sum is no lower bound: the jobs are
    added up first. The maximum of a single job is one, too, and misses nothing between two steps.
    """
    most_at_once = f"max_over_time(sum ({recording.CONNECTED}{{{JOBS}}})[1h:15s])"
    return (
        Query(f"max ({most_at_once} or {recording.PEAK_AT_LEAST}{{{JOBS}}})", "at least"),
        Query(f"sum ({recording.PEAK_AT_MOST}{{{JOBS}}})", "at most"),
    )
