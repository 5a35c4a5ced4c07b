"""Data layer and access: is what users write saved, how quickly, and who gets in."""

from __future__ import annotations

from chainlit_otel import catalog
from chainlit_otel.grafana.panels import (
    Json,
    Levels,
    Query,
    Row,
    bar_gauge,
    dashboard,
    heatmap,
    stat,
    timeseries,
)
from chainlit_otel.grafana.queries import (
    buckets,
    increase,
    label,
    legend,
    per_minute,
    per_second,
    quantile,
    ratio,
    sum_of,
)
from chainlit_otel.promql import Where
from chainlit_otel.thresholds import Thresholds

_FAILED: Where = {catalog.OUTCOME: "error"}
_SIGN_IN: Where = {catalog.ACCESS_METHOD: ("password", "header", "oauth")}
_USED: Where = {catalog.POOL_STATE: "used"}
_HIT: Where = {catalog.CACHE_RESULT: "hit"}


def build(limits: Thresholds) -> Json:
    """Return the dashboard, its figures coloured by the thresholds of the alerts."""
    return dashboard(
        catalog.DASHBOARD_DATA_LAYER,
        "Chainlit / Data layer and access",
        "Is what users write saved, how quickly, and who gets in.",
        [
            Row(
                "At a glance",
                [
                    operation_rate(),
                    failed_operations(limits),
                    operation_p95(limits),
                    fullest_pool(limits),
                    hits(),
                    denied_sign_ins(limits),
                ],
            ),
            Row("Operations", [operations(), errors(), durations(), duration_buckets()]),
            Row("Queued until the first message", [queue_length(), queued()]),
            Row("Pools and caches", [pools(), pool_shares(limits), cache_hits(), cache_sizes()]),
            Row("Access", [attempts(), sign_ins(), sign_in_errors(), denials(), users()]),
        ],
    )


def operation_rate() -> Json:
    return stat(
        "Operations",
        "Operations of the data layer per second, over 5 minutes. Investigate if users chat and it "
        "is zero: nothing is saved.",
        "suffix:/s",
        Query(per_second(catalog.DATA_LAYER_OPERATIONS, span="5m")),
    )


def failed_operations(limits: Thresholds) -> Json:
    return stat(
        "Failed operations",
        "Share of the operations of 10 minutes that failed, which Chainlit hides.",
        "percentunit",
        Query(
            ratio(
                increase(catalog.DATA_LAYER_OPERATIONS, "10m", _FAILED),
                increase(catalog.DATA_LAYER_OPERATIONS, "10m"),
            )
        ),
        levels=Levels(0.1 * limits.data_layer_errors, limits.data_layer_errors),
    )


def operation_p95(limits: Thresholds) -> Json:
    return stat(
        "Operations, p95",
        "19 operations in 20 were quicker, waiting for a connection included.",
        "s",
        Query(quantile(0.95, catalog.DATA_LAYER_OPERATION_DURATION, span="10m")),
        levels=Levels(0.25 * limits.data_layer_seconds, limits.data_layer_seconds),
    )


def fullest_pool(limits: Thresholds) -> Json:
    by = f"instance,{label(catalog.POOL_NAME)}"
    used, most = sum_of(catalog.POOL_CONNECTIONS, _USED, by), sum_of(catalog.POOL_MAX, by=by)
    return stat(
        "Fullest pool",
        "Connections in use of what the fullest pool of any replica can have. When "
        "it is full, operations wait.",
        "percentunit",
        Query(f"max ({ratio(used, most)})"),
        levels=Levels(0.9 * limits.pool_ratio, limits.pool_ratio),
        nothing="not observed",
    )


def hits() -> Json:
    return stat(
        "Cache hits",
        "Share of the lookups of 10 minutes that a cache could answer. Investigate if it falls: "
        "the database bears what the cache does not.",
        "percentunit",
        Query(
            ratio(
                increase(catalog.CACHE_LOOKUPS, "10m", _HIT),
                increase(catalog.CACHE_LOOKUPS, "10m"),
            )
        ),
        levels=Levels(0.5, 0.2, below=True),
    )


def denied_sign_ins(limits: Thresholds) -> Json:
    refused: Where = {**_SIGN_IN, catalog.ACCESS_RESULT: ("denied", "error")}
    return stat(
        "Failed sign-ins",
        "Share of the sign-ins of 15 minutes that were denied or could not be checked.",
        "percentunit",
        Query(
            ratio(
                increase(catalog.ACCESS_ATTEMPTS, "15m", refused),
                increase(catalog.ACCESS_ATTEMPTS, "15m", _SIGN_IN),
            )
        ),
        levels=Levels(0.4 * limits.sign_in_denied, limits.sign_in_denied),
    )


def operations() -> Json:
    return timeseries(
        "Operations",
        "Operations per second. Investigate if one stands out that should be rare.",
        "suffix:/s",
        Query(
            per_second(catalog.DATA_LAYER_OPERATIONS, by=label(catalog.OPERATION)),
            legend(catalog.OPERATION),
        ),
        stacked=True,
    )


def errors() -> Json:
    return timeseries(
        "Errors",
        "Operations per minute that failed; users see none of it. Investigate any: what they write "
        "may not be saved.",
        "suffix:/min",
        Query(
            per_minute(catalog.DATA_LAYER_OPERATIONS, _FAILED, label(catalog.OPERATION)),
            legend(catalog.OPERATION),
        ),
        stacked=True,
    )


def durations() -> Json:
    return timeseries(
        "Duration of operations, p95",
        "19 in 20 of each operation were quicker, waiting for a connection included. Investigate "
        "if all rise together: the database or the pool is the cause.",
        "s",
        Query(
            quantile(0.95, catalog.DATA_LAYER_OPERATION_DURATION, by=label(catalog.OPERATION)),
            legend(catalog.OPERATION),
            exemplar=True,
        ),
    )


def duration_buckets() -> Json:
    return heatmap(
        "Duration of operations, spread",
        "How long operations took. Investigate if a band appears at the timeout of a pool.",
        "s",
        Query(buckets(catalog.DATA_LAYER_OPERATION_DURATION), "{{le}}", exemplar=True),
    )


def queue_length() -> Json:
    return timeseries(
        "Queued now",
        "Operations that wait until their user writes a first message. Investigate if it only "
        "grows.",
        "short",
        Query(sum_of(catalog.DATA_LAYER_QUEUE_LENGTH), "queued"),
    )


def queued() -> Json:
    return timeseries(
        "Queued and discarded",
        "Operations per minute that were queued, and those that never ran because no message "
        "came. Investigate if most are discarded: users come and do not write.",
        "suffix:/min",
        Query(per_minute(catalog.DATA_LAYER_QUEUED), "queued"),
        Query(per_minute(catalog.DATA_LAYER_DISCARDED), "discarded"),
    )


def pools() -> Json:
    return timeseries(
        "Connections",
        "Connections of each pool, in use and idle; dashed, the most it may have. Investigate if "
        "those in use come near it.",
        "short",
        Query(
            sum_of(catalog.POOL_CONNECTIONS, by=label(catalog.POOL_NAME, catalog.POOL_STATE)),
            f"{legend(catalog.POOL_NAME)} {legend(catalog.POOL_STATE)}",
        ),
        Query(
            sum_of(catalog.POOL_MAX, by=label(catalog.POOL_NAME)),
            f"{legend(catalog.POOL_NAME)} most",
            dashed=True,
        ),
    )


def pool_shares(limits: Thresholds) -> Json:
    by = f"instance,{label(catalog.POOL_NAME)}"
    return bar_gauge(
        "Pools in use",
        "Connections in use of what each pool can have, on each replica. Investigate one that is "
        "full while others are not: it leaks.",
        "percentunit",
        Query(
            ratio(sum_of(catalog.POOL_CONNECTIONS, _USED, by), sum_of(catalog.POOL_MAX, by=by)),
            f"{{{{instance}}}} {legend(catalog.POOL_NAME)}",
            instant=True,
        ),
        levels=Levels(0.9 * limits.pool_ratio, limits.pool_ratio),
    )


def cache_hits() -> Json:
    by = label(catalog.CACHE_NAME)
    return timeseries(
        "Cache hits",
        "Share of the lookups that each cache could answer. Investigate if it falls after a "
        "release.",
        "percentunit",
        Query(
            ratio(
                per_second(catalog.CACHE_LOOKUPS, _HIT, by),
                per_second(catalog.CACHE_LOOKUPS, by=by),
            ),
            legend(catalog.CACHE_NAME),
        ),
    )


def cache_sizes() -> Json:
    by = label(catalog.CACHE_NAME)
    return timeseries(
        "Cache entries",
        "Entries of each cache; dashed, those dropped per minute. Investigate if many are dropped: "
        "it is too small.",
        "short",
        Query(sum_of(catalog.CACHE_SIZE, by=by), legend(catalog.CACHE_NAME)),
        Query(
            per_minute(catalog.CACHE_EVICTIONS, by=by),
            f"{legend(catalog.CACHE_NAME)} dropped",
            dashed=True,
            unit="suffix:/min",
        ),
    )


def attempts() -> Json:
    return timeseries(
        "Access checks",
        "Checks per minute. Investigate any `error`: what checks failed itself, and users see "
        "that they are denied.",
        "suffix:/min",
        Query(
            per_minute(
                catalog.ACCESS_ATTEMPTS, by=label(catalog.ACCESS_METHOD, catalog.ACCESS_RESULT)
            ),
            f"{legend(catalog.ACCESS_METHOD)} {legend(catalog.ACCESS_RESULT)}",
        ),
        stacked=True,
        width=8,
    )


def sign_ins() -> Json:
    return timeseries(
        "Sign-ins",
        "Sign-ins per minute, by result. Investigate if many are denied: somebody guesses "
        "passwords.",
        "suffix:/min",
        Query(
            per_minute(catalog.ACCESS_ATTEMPTS, _SIGN_IN, label(catalog.ACCESS_RESULT)),
            legend(catalog.ACCESS_RESULT),
        ),
        stacked=True,
        width=8,
    )


def sign_in_errors() -> Json:
    return timeseries(
        "Errors at sign-in",
        "Sign-ins per minute that failed because the check itself did: a directory or a provider "
        "does not answer. Investigate any: these users cannot get in, though they are right.",
        "suffix:/min",
        Query(
            per_minute(
                catalog.ACCESS_ATTEMPTS,
                {**_SIGN_IN, catalog.ACCESS_RESULT: "error"},
                label(catalog.ACCESS_METHOD),
            ),
            legend(catalog.ACCESS_METHOD),
        ),
        width=8,
    )


def denials() -> Json:
    return timeseries(
        "Denied by the app",
        "What the app itself denied per minute, by its reason. Investigate if a rate limit hits "
        "users who only chat.",
        "suffix:/min",
        Query(
            per_minute(
                catalog.ACCESS_DENIALS, by=label(catalog.ACCESS_METHOD, catalog.DENIAL_REASON)
            ),
            f"{legend(catalog.ACCESS_METHOD)} {legend(catalog.DENIAL_REASON)}",
        ),
        stacked=True,
    )


def users() -> Json:
    return timeseries(
        "Users",
        "Distinct signed-in users connected to each replica. Investigate if users are connected "
        "and this is zero, though the app has a sign-in.",
        "short",
        Query(sum_of(catalog.USER_ACTIVE, by="instance"), "{{instance}}"),
        stacked=True,
    )
