"""Runtime and fleet: are the processes well, do they share the work, are the figures complete."""

from __future__ import annotations

from chainlit_otel import catalog
from chainlit_otel.grafana.panels import (
    SCOPE,
    Json,
    Levels,
    Query,
    Row,
    bar_gauge,
    dashboard,
    heatmap,
    stat,
    state_timeline,
    table,
    timeseries,
)
from chainlit_otel.grafana.queries import (
    buckets,
    increase,
    label,
    legend,
    per_minute,
    quantile,
    ratio,
    sum_of,
)
from chainlit_otel.promql import Where, select
from chainlit_otel.thresholds import Thresholds

_CONNECTED: Where = {catalog.SESSION_TYPE: "websocket", catalog.SESSION_STATE: "connected"}
_CPU = f"rate(process_cpu_seconds_total{{{SCOPE}}}[$__rate_interval])"
_MEMORY = f"process_resident_memory_bytes{{{SCOPE}}}"
_AGE = f"time() - process_start_time_seconds{{{SCOPE}}}"


def build(limits: Thresholds) -> Json:
    """Return the dashboard, its figures coloured by the thresholds of the alerts."""
    return dashboard(
        catalog.DASHBOARD_RUNTIME,
        "Chainlit / Runtime and fleet",
        "Are the processes well, do they share the work, and can these figures be trusted.",
        [
            Row(
                "At a glance",
                [
                    replicas(),
                    stalls_of_the_hour(),
                    lag_p99(),
                    memory_of_all(),
                    retained_sessions(limits),
                    own_errors(),
                ],
            ),
            Row("Event loop", [lag(), lag_buckets(), stalls(), http_durations()]),
            Row("Memory and processor", [memory(), cpu(), retained(), open_files()]),
            Row(
                "Fleet",
                [balance(), sessions_of_each(), up(), restarts(), misses(), missed_share()],
            ),
            Row(
                "chainlit-otel itself", [internal_errors(), probes(), overflow(), lost(), records()]
            ),
        ],
    )


def replicas() -> Json:
    up = f"up{{{SCOPE}}}"
    return stat(
        "Replicas",
        "Processes that answer. Investigate if it is fewer than you run.",
        "short",
        Query(f"sum ({up})"),
    )


def stalls_of_the_hour() -> Json:
    return stat(
        "Stalls",
        "How often an event loop stood still for more than 1 s within an hour, and with it every "
        "user of that replica. The log names the line.",
        "short",
        Query(increase(catalog.EVENT_LOOP_BLOCKED, "1h")),
        decimals=0,
        levels=Levels(1, 10),
    )


def lag_p99() -> Json:
    return stat(
        "Lag, p99",
        "How late the event loop is at worst: everything waits for it.",
        "s",
        Query(quantile(0.99, catalog.EVENT_LOOP_LAG, span="10m")),
        levels=Levels(0.1, 1),
    )


def memory_of_all() -> Json:
    return stat(
        "Memory",
        "Resident memory of all replicas. Investigate if it grows while sessions do not.",
        "bytes",
        Query(f"sum ({_MEMORY})"),
    )


def retained_sessions(limits: Thresholds) -> Json:
    return stat(
        "Retained sessions",
        "Sessions that Chainlit keeps though they have ended. A failing disconnect "
        "leaks them for ever.",
        "short",
        Query(sum_of(catalog.RETAINED, {catalog.RETAINED_KIND: "sessions"})),
        levels=Levels(1, limits.leaked_sessions),
    )


def own_errors() -> Json:
    return stat(
        "Our own errors",
        "Errors of chainlit-otel within an hour. With any, these figures are too low. "
        "The app is not affected.",
        "short",
        Query(increase(catalog.INTERNAL_ERRORS, "1h")),
        decimals=0,
        levels=Levels(1, 10),
    )


def lag() -> Json:
    return timeseries(
        "Event loop lag, p99",
        "How late the event loop of each replica is. Investigate above 0.1 s; above 20 s browsers "
        "give up.",
        "s",
        Query(quantile(0.99, catalog.EVENT_LOOP_LAG, by="instance"), "{{instance}}"),
    )


def lag_buckets() -> Json:
    return heatmap(
        "Event loop lag, spread",
        "How late the event loops are. Investigate dots far above the band: something blocks.",
        "s",
        Query(buckets(catalog.EVENT_LOOP_LAG), "{{le}}"),
    )


def stalls() -> Json:
    return timeseries(
        "Stalls",
        "How often the event loop stood still for more than 1 s, within 10 minutes. Investigate "
        "any.",
        "short",
        Query(increase(catalog.EVENT_LOOP_BLOCKED, "10m", by="instance"), "{{instance}}"),
        decimals=0,
    )


def http_durations() -> Json:
    # Not of our catalogue: by opentelemetry-instrumentation-fastapi, in its stable form.
    rate = f"rate(http_server_request_duration_seconds_bucket{{{SCOPE}}}[$__rate_interval])"
    by = "http_route"
    return timeseries(
        "HTTP requests, p95",
        "19 in 20 requests to each route were quicker. Investigate routes that take seconds.",
        "s",
        Query(f"histogram_quantile(0.95, sum by (le,{by}) ({rate}))", f"{{{{{by}}}}}"),
    )


def memory() -> Json:
    return timeseries(
        "Memory",
        "Resident memory of each replica. Investigate if it grows and does not fall at night.",
        "bytes",
        Query(f"sum by (instance) ({_MEMORY})", "{{instance}}"),
    )


def cpu() -> Json:
    return timeseries(
        "Processor",
        "Processor time of each replica; one event loop can use one core. Investigate above 80 %.",
        "percentunit",
        Query(f"sum by (instance) ({_CPU})", "{{instance}}"),
    )


def retained() -> Json:
    return timeseries(
        "Retained objects",
        "What Chainlit keeps for sessions that are gone. Investigate if it grows faster than you "
        "restart.",
        "short",
        Query(
            sum_of(catalog.RETAINED, by=label(catalog.RETAINED_KIND)),
            legend(catalog.RETAINED_KIND),
        ),
    )


def open_files() -> Json:
    opened, most = (
        f"sum by (instance) (process_{what}_fds{{{SCOPE}}})" for what in ("open", "max")
    )
    return timeseries(
        "File descriptors",
        "Share of the file descriptors that each replica has in use. Investigate above 80 %: then "
        "no connection can be opened any more.",
        "percentunit",
        Query(f"{opened} / {most}", "{{instance}}"),
    )


def balance() -> Json:
    return table(
        "Replicas",
        "What each replica bears. Investigate if one has many times the sessions of the others.",
        {
            "connected": (Query(sum_of(catalog.SESSION_ACTIVE, _CONNECTED, "instance")), "short"),
            "turns": (Query(sum_of(catalog.TURN_ACTIVE, by="instance")), "short"),
            "users": (Query(sum_of(catalog.USER_ACTIVE, by="instance")), "short"),
            "memory": (Query(f"sum by (instance) ({_MEMORY})"), "bytes"),
            "up for": (Query(f"max by (instance) ({_AGE})"), "s"),
        },
        by="instance",
        width=12,
    )


def sessions_of_each() -> Json:
    return bar_gauge(
        "Sessions of each replica",
        "Connected sessions. Investigate if one replica has them all: the load balancer does not "
        "balance.",
        "short",
        Query(sum_of(catalog.SESSION_ACTIVE, _CONNECTED, "instance"), "{{instance}}", instant=True),
    )


def up() -> Json:
    return state_timeline(
        "Up",
        "Whether each replica answers the scrape. Investigate red.",
        Query(f"up{{{SCOPE}}}", "{{instance}}"),
        states={"0": ("down", "red"), "1": ("up", "green")},
    )


def misses() -> Json:
    return timeseries(
        "Sessions asked for where they are not",
        "Requests per minute for a session that the replica does not have. Investigate if they go "
        "on: the load balancer has to keep a user on one replica.",
        "suffix:/min",
        Query(
            per_minute(catalog.SESSION_LOOKUP_MISSES, by=label(catalog.LOOKUP_SITE)),
            legend(catalog.LOOKUP_SITE),
        ),
        stacked=True,
    )


def missed_share() -> Json:
    by = label(catalog.LOOKUP_SITE)
    return timeseries(
        "Share of sessions not found",
        "Share of the requests for a session, within 10 minutes, that came to a replica without "
        "it. Investigate from a tenth on: with N replicas and no stickiness it is (N - 1) / N.",
        "percentunit",
        Query(
            ratio(
                increase(catalog.SESSION_LOOKUP_MISSES, "10m", by=by),
                increase(catalog.SESSION_LOOKUPS, "10m", by=by),
            ),
            legend(catalog.LOOKUP_SITE),
        ),
    )


def restarts() -> Json:
    return timeseries(
        "Age of the processes",
        "How long each replica has been up. Investigate a saw: it restarts again and again.",
        "s",
        Query(f"max by (instance) ({_AGE})", "{{instance}}"),
    )


def internal_errors() -> Json:
    return timeseries(
        "Our own errors",
        "Errors of chainlit-otel within an hour, by probe. Investigate any, and report it.",
        "short",
        Query(
            increase(catalog.INTERNAL_ERRORS, "1h", by=label(catalog.PROBE)),
            legend(catalog.PROBE),
        ),
        decimals=0,
        width=6,
    )


def probes() -> Json:
    return state_timeline(
        "Probes",
        "Whether each probe observes Chainlit on every replica. Investigate one that is off: this "
        "Chainlit lacks what it needs, and its figures are missing.",
        Query(
            f"min by ({label(catalog.INSTALLED_PROBE)}) "
            f"({select(catalog.PROBE_ENABLED, scope=SCOPE)})",
            legend(catalog.INSTALLED_PROBE),
        ),
        states={"0": ("off", "red"), "1": ("on", "green")},
        width=6,
    )


def overflow() -> Json:
    return timeseries(
        "Values recorded as other",
        "Label values within an hour that are recorded as `other`. Investigate if there are "
        "thousands: somebody makes them up.",
        "short",
        Query(
            increase(catalog.LABEL_OVERFLOW, "1h", by=label(catalog.OVERFLOW_ATTRIBUTE)),
            legend(catalog.OVERFLOW_ATTRIBUTE),
        ),
        decimals=0,
        width=4,
    )


def lost() -> Json:
    return timeseries(
        "Telemetry lost",
        "Within an hour: spans, metric data points and log records that could not be delivered, by "
        "signal and reason, and metrics of the app that `/metrics` cannot show. Investigate if it "
        "goes on: the log says where they should have gone, and which metrics.",
        "short",
        Query(
            increase(
                catalog.EXPORT_DROPPED,
                "1h",
                by=f"{label(catalog.EXPORT_SIGNAL)}, {label(catalog.LOSS)}",
            ),
            f"{legend(catalog.EXPORT_SIGNAL)} {legend(catalog.LOSS)}",
        ),
        Query(
            increase(catalog.EXPOSITION_DROPPED, "1h", by=label(catalog.DROP_REASON)),
            f"on /metrics: {legend(catalog.DROP_REASON)}",
        ),
        decimals=0,
        width=4,
    )


def records() -> Json:
    return timeseries(
        "Records",
        "Within an hour, where records are kept: what was written, by kind, and what was lost. "
        "Investigate any that was lost: the log says why.",
        "short",
        Query(
            increase(catalog.RECORDS_WRITTEN, "1h", by=label(catalog.RECORD_KIND_ATTRIBUTE)),
            legend(catalog.RECORD_KIND_ATTRIBUTE),
        ),
        Query(
            increase(catalog.RECORDS_DROPPED, "1h", by=label(catalog.RECORD_DESTINATION)),
            f"lost: {legend(catalog.RECORD_DESTINATION)}",
        ),
        decimals=0,
        width=4,
    )
