"""Alerting rules.

Each is about a whole deployment, that is all replicas of a job, unless a single replica is what
matters. A ratio has a least number of events beside it: one failure of two is no trend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from chainlit_otel import catalog
from chainlit_otel.catalog import Attribute, Metric
from chainlit_otel.promql import OF_A_DIALOG, Part, Where, select
from chainlit_otel.rules import recording as r
from chainlit_otel.rules.causes import (
    DOLLARS,
    OF_OTHER_TOOLS,
    OF_THE_DIALOG,
    OF_THE_INSTANCE,
    OF_THE_JOB,
    OF_THE_LAYER,
    SECONDS,
    SHARE,
    figure,
    named,
)
from chainlit_otel.rules.objectives import BURNS, objectives, over
from chainlit_otel.rules.windows import DAY, HOUR, MINUTE, Windows
from chainlit_otel.thresholds import PERIOD_DAYS, Thresholds

PREFIX = "Chainlit"

# `increase()` extrapolates: of events that are counted it may return 4.1, which is 4.
_COUNT = '{{ $value | printf "%.0f" }}'
_BY_INSTANCE = "by (namespace, job, instance)"


@dataclass(frozen=True)
class Alert:
    """An alerting rule.

    Attributes:
        name: Name, without the prefix that all of them have.
        expr: When it fires.
        wait: Seconds for which that has to hold, at scale 1.
        severity: `critical` needs somebody now, `warning` today, `info` at no fixed time.
        summary: One line.
        description: What has happened, with its figure.
        dashboard: The uid of the dashboard that shows it.
        labels: Labels that tell alerts of the same name apart.
        keep: Seconds for which it goes on firing when that holds no more, at scale 1, so that what
            comes and goes is one alert.
    """

    name: str
    expr: str
    wait: float
    severity: str
    summary: str
    description: str
    dashboard: str
    labels: Mapping[str, str] = field(default_factory=dict)
    keep: float = 0


def alerts(limits: Thresholds, window: Windows) -> list[Alert]:
    """Return all alerting rules."""
    return [
        *_session_spikes(limits, window),
        _session_rise(limits, window),
        _session_drop(limits, window),
        _reconnect_storm(limits, window),
        _connections_rejected(limits, window),
        *_sign_in_failures(limits, window),
        _capacity_near(limits),
        *_session_leaks(limits),
        *_budget_burns(limits, window),
        _first_token_slow(limits, window),
        _event_loop_blocked(limits, window),
        _answers_lost(limits, window),
        _tool_failing(limits, window),
        _data_layer_errors(limits, window),
        _data_layer_slow(limits, window),
        _pool_exhausted(limits),
        _stickiness_lost(limits, window),
        *_telemetry_dropping(limits, window),
        *_cost_budget(limits, window),
        _instance_down(window),
        *_dialog_failing(limits, window),
        _monitor_stopped(limits, window),
    ]


def _increase(
    by: str,
    metric: Metric,
    span: str,
    where: Where | None = None,
    part: Part = "",
    scope: str = "",
) -> str:
    return f"sum {by} (increase({select(metric, where, scope, part)}[{span}]))"


def _counted_by(
    attribute: Attribute,
    metric: Metric,
    span: str,
    where: Where | None = None,
    part: Part = "",
    scope: str = OF_THE_JOB,
) -> str:
    """Return how often something has happened in the job of an alert, for its text."""
    return _increase(f"by ({attribute.prometheus_label})", metric, span, where, part, scope)


def _session_spikes(limits: Thresholds, window: Windows) -> list[Alert]:
    """Return one alert for each cause.

    A spike is far above the hour before, so that a daily rhythm is none, and far above what is
    usual at this time, if that is known, so that the steep rise of a morning is none either.
    """
    hour = window.duration(HOUR)
    hour_before = f"avg_over_time({r.STARTS}[{hour}] offset {window.duration(10 * MINUTE)})"
    started = f"{r.STARTS} * {window.seconds_literal(5 * MINUTE)}"
    # After a restart the tabs that were open come back; only what is more than that is a spike. An
    # autoscaler that starts replicas in the rush, or one replica that restarts, hides none.
    spike = (
        f"{_besides_returning(started, limits.spike_sessions, r.DISPLACED)}\n"
        f"and ({r.STARTS} > {limits.spike_factor:g} * {hour_before})\n"
        f"unless ({r.STARTS} <= {limits.spike_usual_factor:g} * {r.STARTS_USUAL})"
    )
    rollout = f"({r.REPLACED} >= 0.5)"
    resumed = f'{r.STARTS_BY_ORIGIN}{{{catalog.SESSION_ORIGIN.prometheus_label}="thread_resume"}}'
    returning = f"(sum {r.BY_JOB} ({resumed}) > 0.5 * {r.STARTS} or {r.RECONNECTS} > {r.STARTS})"
    causes = {
        "new_visitors": (
            f"({spike})\nunless {rollout}\nunless {returning}",
            "New visitors come in a rush",
        ),
        "reconnect_storm": (
            f"({spike})\nunless {rollout}\nand {returning}",
            "Visitors who were here before all come back at once",
        ),
        "rollout": (
            f"({spike})\nand {rollout}",
            "More sessions start after a restart than there were tabs to come back",
        ),
    }
    return [
        Alert(
            "SessionSpike",
            expr,
            2 * MINUTE,
            "warning",
            f"{what} on {{{{ $labels.job }}}}.",
            f"{_COUNT} sessions started in 5 minutes, more than "
            f"{limits.spike_factor:g} times the rate of the hour before.",
            catalog.DASHBOARD_SESSIONS,
            {"cause": cause},
        )
        for cause, (expr, what) in causes.items()
    ]


def _besides_returning(count: str, least: float, displaced: str) -> str:
    """Return when something was counted that often without those whose replica is gone.

    With a scrape every 30 seconds, an increase over five minutes may tell a tenth too much of them.

    Args:
        count: how often.
        least: how often it has to be.
        displaced: how many tabs have lost their replica.
    """
    return (
        f"({count} >= {least:g})\n"
        f"unless ({count} < {least:g} + {displaced} or {count} < 1.1 * {displaced})"
    )


def _session_rise(limits: Thresholds, window: Windows) -> Alert:
    """Return the alert for what climbs too slowly to be a spike."""
    hour = window.duration(HOUR)

    def mean(seconds: float) -> str:
        before = window.duration(seconds - HOUR / 2)
        return f"avg_over_time({r.STARTS}[{hour}] offset {before})"

    now = f"avg_over_time({r.STARTS}[{window.duration(30 * MINUTE)}])"
    usual = f"quantile {r.BY_JOB} (0.5, {r.of_weeks(3, mean)})"
    # As many more as chance alone brings is no rise: three times the root of what is expected.
    literal = window.seconds_literal(30 * MINUTE)
    chance = f"3 * (({usual}) / {literal}) ^ 0.5"
    return Alert(
        "SessionRise",
        f"({now} > {limits.rise_factor:g} * {usual} + {chance})\n"
        f"and ({now} * {literal} >= {limits.rise_sessions:g})",
        10 * MINUTE,
        "info",
        "More and more people come to {{ $labels.job }}.",
        f"For half an hour more than {limits.rise_factor:g} times as many sessions have started "
        "as is usual at this time of the week.",
        catalog.DASHBOARD_SESSIONS,
    )


def _session_drop(limits: Thresholds, window: Windows) -> Alert:
    ten_minutes, literal = window.duration(10 * MINUTE), window.seconds_literal(10 * MINUTE)
    hour = window.duration(HOUR)

    def mean(seconds: float) -> str:
        # Of 20 minutes before and after, since few who come at random are none in some 10 minutes.
        span, before = window.duration(40 * MINUTE), window.duration(seconds - 20 * MINUTE)
        return f"avg_over_time({r.STARTS}[{span}] offset {before})"

    # Where no replica is left, nothing is recorded either: an hour long, that counts as nobody.
    now = f"(avg_over_time({r.STARTS}[{ten_minutes}]) or 0 * max_over_time({r.STARTS}[{hour}]))"
    # Of two weeks the lesser one: the other may have had a rush.
    then = f"min {r.BY_JOB} ({r.of_weeks(2, mean)})"
    return Alert(
        "SessionDrop",
        f"({now} / {then} < {limits.drop_factor:g})\n"
        f"and ({then} * {literal} >= {limits.drop_sessions:g})",
        2 * MINUTE,
        "warning",
        "Hardly anybody comes to {{ $labels.job }}.",
        "Sessions start at {{ $value | humanizePercentage }} of the rate at the same time of the "
        "last two weeks.",
        catalog.DASHBOARD_SESSIONS,
        keep=HOUR,
    )


def _reconnect_storm(limits: Thresholds, window: Windows) -> Alert:
    """Return the alert for sockets that are lost and come back: many, all at once, or on and on.

    A few are a storm as well if most of all sockets were lost at once, which one visitor cannot
    bring about. What goes on and on is compared with all sessions that were there meanwhile,
    however short they are.
    """
    reconnected = f"{r.RECONNECTS} * {window.seconds_literal(5 * MINUTE)}"
    ten_minutes = window.duration(10 * MINUTE)
    # Not with those that are there now, since they are gone for a moment.
    connected = f"max_over_time({r.CONNECTED}[{ten_minutes}])"
    share = f"{reconnected} / ({connected} > 0)"
    lost, least = f"max_over_time({r.CLOSED}[{ten_minutes}])", limits.lost_at_once_least
    span, literal = window.duration(30 * MINUTE), window.seconds_literal(30 * MINUTE)
    again = f"avg_over_time({r.RECONNECTS}[{span}]) * {literal}"
    there = (
        f"(avg_over_time({r.STARTS}[{span}]) * {literal} + max_over_time({r.CONNECTED}[{span}]))"
    )
    worst = f"max_over_time({r.CLOSED}{{{OF_THE_JOB}}}[{window.duration(15 * MINUTE)}])"
    # `increase()` extrapolates, and nobody loses more than all.
    of_the_job = f"clamp_max({worst}, 1)"
    return Alert(
        "ReconnectStorm",
        f"(({share} > {limits.reconnects:g})\n"
        f"and ({reconnected} >= {limits.reconnects_least:g}\n"
        f"or ({reconnected} >= {least:g} and {lost} > {limits.lost_at_once:g} "
        f"and {lost} * {connected} >= {least:g})))\n"
        f"or (({again} / ({there} > 0) > {limits.reconnects_of_session:g})\n"
        f"and ({again} >= {limits.reconnects_least:g}))",
        MINUTE,
        "warning",
        "Browsers lose their connection to {{ $labels.job }} and come back.",
        "As many sockets were lost and came back as {{ $value | humanizePercentage }} of the "
        "sessions there."
        + figure("Of all sockets, lost within 2 minutes at most:", of_the_job, SHARE)
        + _closed(window.duration(15 * MINUTE)),
        catalog.DASHBOARD_SESSIONS,
        # What cuts connections every few minutes is one alert.
        keep=30 * MINUTE,
    )


def _closed(span: str) -> str:
    """Return why connections were closed."""
    reason, metric = catalog.CLOSE_REASON, catalog.CONNECTION_DURATION
    return named("Closed connections:", reason, _counted_by(reason, metric, span, part="count"))


def _connections_rejected(limits: Thresholds, window: Windows) -> Alert:
    span = window.duration(15 * MINUTE)
    rejected = _increase(r.BY_JOB, catalog.CONNECTION_REJECTED, span)
    started = _increase(r.BY_JOB, catalog.SESSION_STARTS, span, {catalog.SESSION_TYPE: "websocket"})
    reconnected = _increase(r.BY_JOB, catalog.SESSION_RECONNECTS, span)
    by_reason = _counted_by(catalog.REFUSAL, catalog.CONNECTION_REJECTED, span)
    return Alert(
        "ConnectionsRejected",
        f"({rejected} / ({rejected} + {started} + {reconnected}) > {limits.rejected:g})\n"
        f"and ({rejected} >= {limits.rejected_least:g})",
        5 * MINUTE,
        "warning",
        "{{ $labels.job }} refuses connections.",
        "{{ $value | humanizePercentage }} of all connections are refused."
        + named("Refused:", catalog.REFUSAL, by_reason),
        catalog.DASHBOARD_SESSIONS,
    )


def _sign_in_failures(limits: Thresholds, window: Windows) -> list[Alert]:
    span = window.duration(15 * MINUTE)
    methods = {catalog.ACCESS_METHOD: ("password", "header", "oauth")}

    def attempts(results: Where) -> str:
        return _increase(r.BY_JOB, catalog.ACCESS_ATTEMPTS, span, {**methods, **results})

    def by_method(result: str) -> str:
        where: Where = {**methods, catalog.ACCESS_RESULT: result}
        found = _counted_by(catalog.ACCESS_METHOD, catalog.ACCESS_ATTEMPTS, span, where)
        return named("By method:", catalog.ACCESS_METHOD, found)

    denied = attempts({catalog.ACCESS_RESULT: "denied"})
    return [
        Alert(
            "SignInFailures",
            f"({denied} / {attempts({})} > {limits.sign_in_denied:g})\n"
            f"and ({denied} >= {limits.sign_in_denied_least:g})",
            5 * MINUTE,
            "warning",
            "Most sign-ins to {{ $labels.job }} are denied.",
            "{{ $value | humanizePercentage }} of the sign-ins are denied: somebody guesses "
            "passwords, or the sign-in is broken." + by_method("denied"),
            catalog.DASHBOARD_DATA_LAYER,
            {"cause": "denied"},
        ),
        Alert(
            "SignInFailures",
            f"{attempts({catalog.ACCESS_RESULT: 'error'})} >= {limits.sign_in_errors:g}",
            MINUTE,
            "critical",
            "The sign-in of {{ $labels.job }} does not work.",
            f"{_COUNT} sign-ins in 15 minutes could not be checked, because what "
            "checks them failed. Users are told that their password is wrong." + by_method("error"),
            catalog.DASHBOARD_DATA_LAYER,
            {"cause": "backend"},
        ),
    ]


def _capacity_near(limits: Thresholds) -> Alert:
    connected = select(
        catalog.SESSION_ACTIVE,
        {catalog.SESSION_TYPE: "websocket", catalog.SESSION_STATE: "connected"},
    )
    return Alert(
        "CapacityNear",
        f"max {r.BY_JOB} (sum {_BY_INSTANCE} ({connected})) / {limits.capacity_sessions:g} "
        f"> {limits.capacity_ratio:g}",
        5 * MINUTE,
        "warning",
        "A replica of {{ $labels.job }} is almost full.",
        "The fullest one has {{ $value | humanizePercentage }} of the "
        f"{limits.capacity_sessions:g} sessions that a replica can hold.",
        catalog.DASHBOARD_RUNTIME,
        keep=30 * MINUTE,
    )


def _session_leaks(limits: Thresholds) -> list[Alert]:
    kinds = (
        ("sessions", limits.leaked_sessions, "sessions that have ended"),
        ("chat_contexts", limits.leaked_contexts, "chat contexts of sessions that have ended"),
    )
    return [
        Alert(
            "SessionLeak",
            f"{select(catalog.RETAINED, {catalog.RETAINED_KIND: kind})} >= {number:g}",
            HOUR,
            "warning",
            "{{ $labels.instance }} of {{ $labels.job }} keeps sessions that are gone.",
            f"Chainlit keeps {_COUNT} {what}.",
            catalog.DASHBOARD_RUNTIME,
            {"kind": kind},
        )
        for kind, number, what in kinds
    ]


def _budget_burns(limits: Thresholds, window: Windows) -> list[Alert]:
    """Return an alert for each objective and each rate at which its budget may be used up."""
    hints = {"answered": _what_fails, "first_token": _slowest_steps, "delivered": _closed}
    return [
        Alert(
            one.alert,
            f"({one.errors(burn.long)} > {burn.factor * one.budget:g})\n"
            f"and ({one.errors(burn.short)} > {burn.factor * one.budget:g})\n"
            f"and ({one.missed(over('increase', window.duration(span)))} >= {least:g})",
            burn.wait,
            burn.severity,
            one.summary,
            f"{{{{ $value | humanizePercentage }}}} {one.bad}: the error budget of {PERIOD_DAYS} "
            f"days (objective {100 * one.target:g}%) is used up within "
            f"{PERIOD_DAYS / burn.factor:.2g} days."
            + hints[one.name](window.duration(min(burn.short, HOUR))),
            catalog.DASHBOARD_CONVERSATIONS,
            {"burn": burn.name},
        )
        for one in objectives(limits)
        for burn in BURNS
        for span, least in (
            (HOUR, limits.turn_errors_least)
            if burn.long == HOUR
            else (6 * HOUR, limits.turn_errors_least_slow),
        )
    ]


def _what_fails(span: str) -> str:
    """Return which chat profiles have most of the failed turns, and which steps fail."""
    failed: Where = {catalog.OUTCOME: "error"}
    profile = catalog.CHAT_PROFILE

    def turns(where: Where) -> str:
        # Where the app has no profiles, the label is empty.
        scope = f'{OF_THE_JOB},{profile.prometheus_label}!=""'
        return _counted_by(profile, catalog.TURN_DURATION, span, where, "count", scope)

    steps = _counted_by(catalog.STEP_TYPE, catalog.STEP_DURATION, span, failed, "count")
    share = f"({turns(failed)} / {turns({})} and topk(1, {turns(failed)}))"
    return named("Chat profile that fails most, and how much of it:", profile, share, SHARE) + (
        named("Failed steps:", catalog.STEP_TYPE, steps)
    )


def _first_token_slow(limits: Thresholds, window: Windows) -> Alert:
    """Return the alert for turns that had a first word late, or still wait for it.

    Those that wait are in no histogram yet. A single one that waits for long is somebody's task;
    so most of the turns that began must be without a word.
    """
    span = window.duration(10 * MINUTE)
    buckets = select(catalog.TIME_TO_FIRST_TOKEN, part="bucket")
    counted = _increase(r.BY_JOB, catalog.TIME_TO_FIRST_TOKEN, span, part="count")
    ended = _increase(r.BY_JOB, catalog.TURN_DURATION, span, part="count")
    began = f"({ended} + sum {r.BY_JOB} (delta({select(catalog.TURN_ACTIVE)}[{span}])))"
    oldest = f"max {r.BY_JOB} ({select(catalog.TURN_OLDEST_WAITING)})"
    return Alert(
        "FirstTokenSlow",
        f"((histogram_quantile(0.9, sum by (namespace, job, le) (rate({buckets}[{span}]))) "
        f"> {limits.first_token_seconds:g})\n"
        f"and ({counted} >= {limits.first_token_turns:g}))\n"
        f"or (({oldest} > {limits.first_token_seconds:g})\n"
        f"and ({began} - {counted} > 0.5 * {began})\n"
        f"and ({began} - {counted} >= {limits.waiting_turns:g}))",
        2 * MINUTE,
        "warning",
        "Users of {{ $labels.job }} wait long for the first word.",
        "One turn in ten, or most of those under way, wait longer than "
        "{{ $value | humanizeDuration }} for the first word." + _slowest_steps(span),
        catalog.DASHBOARD_CONVERSATIONS,
    )


def _slowest_steps(span: str) -> str:
    """Return how long the steps of each type took."""
    step = catalog.STEP_TYPE.prometheus_label
    # A run has the other steps in it.
    inside = select(catalog.STEP_DURATION, scope=f'{OF_THE_JOB},{step}!="run"', part="bucket")
    steps = f"histogram_quantile(0.9, sum by ({step}, le) (rate({inside}[{span}])))"
    return named("Slowest steps, p90:", catalog.STEP_TYPE, steps, SECONDS)


def _event_loop_blocked(limits: Thresholds, window: Windows) -> Alert:
    span, literal = window.duration(10 * MINUTE), window.seconds_literal(10 * MINUTE)
    stalls = _increase(_BY_INSTANCE, catalog.EVENT_LOOP_BLOCKED, span)

    def stalled(by: str, scope: str = "") -> str:
        time = _increase(by, catalog.EVENT_LOOP_BLOCKED_TIME, span, scope=scope)
        return f"{time} / {literal}"

    return Alert(
        "EventLoopBlocked",
        f"{stalls} >= {limits.stalls:g}\n"
        # One stall is no trend, unless it is a long one.
        f"or ({stalls} and {stalled(_BY_INSTANCE)} > {limits.stalled:g})",
        0,
        "warning",
        "The event loop of {{ $labels.instance }} of {{ $labels.job }} is blocked.",
        f"{_COUNT} times in 10 minutes it stood still for more than 1 s, and with "
        "it every user. The log names the callback and the line."
        + figure("Share of the time:", stalled("", OF_THE_INSTANCE), SHARE),
        catalog.DASHBOARD_RUNTIME,
        keep=15 * MINUTE,
    )


def _answers_lost(limits: Thresholds, window: Windows) -> Alert:
    span = window.duration(15 * MINUTE)
    lost = _increase(
        r.BY_JOB,
        catalog.EMIT_DROPPED,
        span,
        {catalog.EMIT_EVENT: catalog.MESSAGE_EVENTS},
    )
    sent = _increase(r.BY_JOB, catalog.MESSAGES, span, {catalog.DIRECTION: "outbound"})
    return Alert(
        "AnswersLost",
        f"({lost} / ({lost} + {sent}) > {limits.lost_ratio:g})\n"
        f"and ({lost} >= {limits.lost_least:g})",
        5 * MINUTE,
        "warning",
        "Answers of {{ $labels.job }} do not reach their users.",
        "{{ $value | humanizePercentage }} of the messages were sent to a socket that is gone."
        + _closed(span),
        catalog.DASHBOARD_CONVERSATIONS,
    )


def _tool_failing(limits: Thresholds, window: Windows) -> Alert:
    span, by, metric = window.duration(15 * MINUTE), _by(catalog.TOOL_NAME), catalog.TOOL_CALLS
    error: Where = {catalog.OUTCOME: "error"}
    failed, every = _increase(by, metric, span, error), _increase(by, metric, span)
    name = catalog.TOOL_NAME.prometheus_label
    # Whether it is this tool or what all of them need.
    of_others = (
        f"{_increase('', metric, span, error, scope=OF_OTHER_TOOLS)} / "
        f"({_increase('', metric, span, scope=OF_OTHER_TOOLS)} > 0)"
    )
    return Alert(
        "ToolFailing",
        f"({failed} / {every} > {limits.tool_errors:g})\n"
        f"and ({failed} >= {limits.tool_errors_least:g})",
        5 * MINUTE,
        "warning",
        f"The tool {{{{ $labels.{name} }}}} of {{{{ $labels.job }}}} fails.",
        "{{ $value | humanizePercentage }} of its calls fail. Turns go on without what it would "
        "have said, and may well be counted as answered."
        + figure("Of all other tools:", of_others, SHARE),
        catalog.DASHBOARD_USAGE,
    )


def _by(*attributes: Attribute) -> str:
    return f"by (namespace, job, {', '.join(a.prometheus_label for a in attributes)})"


def _data_layer_errors(limits: Thresholds, window: Windows) -> Alert:
    span, by = window.duration(10 * MINUTE), _by(catalog.DATA_LAYER_NAME)
    failed = _increase(by, catalog.DATA_LAYER_OPERATIONS, span, {catalog.OUTCOME: "error"})
    every = _increase(by, catalog.DATA_LAYER_OPERATIONS, span)
    name = catalog.DATA_LAYER_NAME.prometheus_label
    by_operation = _counted_by(
        catalog.OPERATION,
        catalog.DATA_LAYER_OPERATIONS,
        span,
        {catalog.OUTCOME: "error"},
        scope=OF_THE_LAYER,
    )
    return Alert(
        "DataLayerErrors",
        f"({failed} / {every} > {limits.data_layer_errors:g})\n"
        f"and ({failed} >= {limits.data_layer_errors_least:g})",
        5 * MINUTE,
        "critical",
        "The data layer of {{ $labels.job }} fails.",
        f"{{{{ $value | humanizePercentage }}}} of the operations of {{{{ $labels.{name} }}}} "
        "fail. Chainlit hides it: what users write may not be saved."
        + named("Failed in 10 minutes:", catalog.OPERATION, by_operation),
        catalog.DASHBOARD_DATA_LAYER,
    )


def _data_layer_slow(limits: Thresholds, window: Windows) -> Alert:
    """Return one alert for a layer, however many of its operations are slow."""
    span, metric = window.duration(10 * MINUTE), catalog.DATA_LAYER_OPERATION_DURATION
    name, operation = (
        attribute.prometheus_label for attribute in (catalog.DATA_LAYER_NAME, catalog.OPERATION)
    )

    def slow(by: str, scope: str = "") -> str:
        rate = f"rate({select(metric, scope=scope, part='bucket')}[{span}])"
        counted = _increase(f"by ({by})", metric, span, part="count", scope=scope)
        return (
            f"(histogram_quantile(0.95, sum by ({by}, le) ({rate})) "
            f"> {limits.data_layer_seconds:g})\n"
            f"and ({counted} >= {limits.data_layer_operations:g})"
        )

    return Alert(
        "DataLayerSlow",
        f"max by (namespace, job, {name}) (\n{slow(f'namespace, job, {name}, {operation}')}\n)",
        5 * MINUTE,
        "warning",
        "The data layer of {{ $labels.job }} is slow.",
        f"One operation of {{{{ $labels.{name} }}}} in twenty takes longer than "
        "{{ $value | humanizeDuration }}."
        + named("Slow, p95:", catalog.OPERATION, f"({slow(operation, OF_THE_LAYER)})", SECONDS),
        catalog.DASHBOARD_DATA_LAYER,
    )


def _pool_exhausted(limits: Thresholds) -> Alert:
    pool = catalog.POOL_NAME.prometheus_label
    by = f"by (namespace, job, instance, {pool})"
    used = select(catalog.POOL_CONNECTIONS, {catalog.POOL_STATE: "used"})
    return Alert(
        "PoolExhausted",
        f"sum {by} ({used}) / sum {by} ({select(catalog.POOL_MAX)}) >= {limits.pool_ratio:g}",
        2 * MINUTE,
        "warning",
        f"The connection pool {{{{ $labels.{pool} }}}} of {{{{ $labels.job }}}} runs dry.",
        "{{ $value | humanizePercentage }} of its connections are in use on "
        "{{ $labels.instance }}; soon operations wait, then they fail.",
        catalog.DASHBOARD_DATA_LAYER,
    )


def _stickiness_lost(limits: Thresholds, window: Windows) -> Alert:
    span = window.duration(10 * MINUTE)
    missed = _increase(r.BY_JOB, catalog.SESSION_LOOKUP_MISSES, span)
    by_site = _counted_by(catalog.LOOKUP_SITE, catalog.SESSION_LOOKUP_MISSES, span)
    replicas = select(catalog.SESSION_OLDEST_AGE, {catalog.SESSION_TYPE: "websocket"})
    # After a restart every open tab asks for a session that was lost with the old process.
    displaced = r.displaced(window, 12)
    return Alert(
        "StickinessLost",
        f"{_besides_returning(missed, limits.lookup_misses, displaced)}\n"
        f"and (count {r.BY_JOB} ({replicas}) > 1)\n"
        f"unless ({r.REPLACED} >= 0.5)",
        2 * MINUTE,
        "warning",
        "Requests to {{ $labels.job }} reach replicas that do not have their session.",
        f"{_COUNT} times in 10 minutes a session was asked for where it is not: the "
        "load balancer has to keep a user on one replica."
        + named("Asked for by:", catalog.LOOKUP_SITE, by_site),
        catalog.DASHBOARD_RUNTIME,
    )


def _telemetry_dropping(limits: Thresholds, window: Windows) -> list[Alert]:
    span = window.duration(15 * MINUTE)
    errors = _increase(_by(catalog.PROBE), catalog.INTERNAL_ERRORS, span)
    overflowed = _increase(_by(catalog.OVERFLOW_ATTRIBUTE), catalog.LABEL_OVERFLOW, span)
    lost = _increase(
        _by(catalog.EXPORT_SIGNAL, catalog.LOSS),
        catalog.EXPORT_DROPPED,
        window.duration(10 * MINUTE),
    )
    unwritten = _increase(
        _by(catalog.RECORD_DESTINATION), catalog.RECORDS_DROPPED, window.duration(10 * MINUTE)
    )
    probe = catalog.PROBE.prometheus_label
    destination = catalog.RECORD_DESTINATION.prometheus_label
    attribute = catalog.OVERFLOW_ATTRIBUTE.prometheus_label
    signal = catalog.EXPORT_SIGNAL.prometheus_label
    reason = catalog.LOSS.prometheus_label
    return [
        Alert(
            "TelemetryDropping",
            f"{errors} > 0",
            0,
            "warning",
            "chainlit-otel misses what happens on {{ $labels.job }}.",
            f"The probe {{{{ $labels.{probe} }}}} failed {_COUNT} times in 15 "
            "minutes. The app is not affected; its figures are too low.",
            catalog.DASHBOARD_RUNTIME,
            {"cause": "errors"},
        ),
        Alert(
            "TelemetryDropping",
            f"{overflowed} >= {limits.label_overflow:g}",
            0,
            "warning",
            "Somebody makes up values on {{ $labels.job }}.",
            f"{_COUNT} values of {{{{ $labels.{attribute} }}}} in 15 minutes "
            "are recorded as `other`.",
            catalog.DASHBOARD_RUNTIME,
            {"cause": "labels"},
        ),
        Alert(
            "TelemetryDropping",
            f"{lost} > 0",
            # A restart of the backend loses an export or two, and no more.
            15 * MINUTE,
            "warning",
            f"{{{{ $labels.job }}}} cannot deliver its {{{{ $labels.{signal} }}}}.",
            f"{_COUNT} items were lost in 10 minutes: {{{{ $labels.{reason} }}}}. The app is not "
            "affected; the log says where they should have gone.",
            catalog.DASHBOARD_RUNTIME,
            {"cause": "export"},
        ),
        Alert(
            "TelemetryDropping",
            f"{unwritten} > 0",
            # A disk that was full for a moment is well again.
            15 * MINUTE,
            "warning",
            "{{ $labels.job }} cannot keep its records.",
            f"{_COUNT} records ({{{{ $labels.{destination} }}}}) were lost in 10 minutes. The app "
            "is not affected; the log says why.",
            catalog.DASHBOARD_RUNTIME,
            {"cause": "records"},
        ),
    ]


def _cost_budget(limits: Thresholds, window: Windows) -> list[Alert]:
    """Return the alert for what a day costs, if there is a budget for it.

    A day is what 21 hours have cost and three that come: at the pace of the last hour or, if that
    is less, as much more or less than yesterday as the last hour. So neither a peak that is about
    to end nor a quiet hour of yesterday counts for too much.
    """
    if not limits.cost_budget_day:
        return []

    def ago(hours: float) -> str:
        return f" offset {window.duration(hours * HOUR)}" if hours else ""

    def side_by_side(*exprs: str) -> str:
        return "\nor ".join(
            f'label_replace({expr}, "nth", "{n}", "", "")' for n, expr in enumerate(exprs)
        )

    cost = select(catalog.TURN_COST)
    hour, then = (
        f"sum {r.BY_JOB} (increase({cost}[{window.duration(HOUR)}]{ago(hours)}))"
        for hours in (0, 24)
    )
    comes = (f"3 * {hour}", f"{r.COST}{ago(21)} * {hour} / ({then} > 0)")
    spent = (f"{r.COST}{ago(hours)}" for hours in range(0, 21, 3))
    by_model = _counted_by(catalog.REQUEST_MODEL, catalog.TURN_COST, window.duration(HOUR))
    budget = limits.cost_budget_day
    return [
        Alert(
            "CostBudget",
            f"sum {r.BY_JOB} ({side_by_side(*spent)})\n"
            f"+ min {r.BY_JOB} ({side_by_side(*comes)}) > {budget:g}",
            15 * MINUTE,
            "warning",
            "The model calls of {{ $labels.job }} cost more than a day may.",
            "They are on their way to {{ $value | printf `%.2f` }} US dollars in 24 hours; the "
            f"budget is {budget:g}."
            + named("In the last hour:", catalog.REQUEST_MODEL, by_model, DOLLARS),
            catalog.DASHBOARD_USAGE,
            keep=HOUR,
        )
    ]


def _instance_down(window: Windows) -> Alert:
    seen = select(catalog.SESSION_OLDEST_AGE, {catalog.SESSION_TYPE: "websocket"})
    return Alert(
        "InstanceDown",
        # Only targets that had our metrics before: others are not ours to watch.
        f"up == 0 and on (namespace, job, instance) last_over_time({seen}[{window.duration(DAY)}])",
        2 * MINUTE,
        "critical",
        "{{ $labels.instance }} of {{ $labels.job }} does not answer.",
        "Prometheus cannot scrape it. Its admin server answers while the app is blocked, so the "
        "process is most likely gone.",
        catalog.DASHBOARD_RUNTIME,
    )


def _dialog_failing(limits: Thresholds, window: Windows) -> list[Alert]:
    """Return the alerts for dialogs of monitors that fail: all of them, or again and again.

    A dialog fails where it fails from every place that watches: the network of one of them is no
    fault of the chat. How often a monitor tries it is up to the operator, so what counts is how
    many have failed in a row, and not for how long.
    """
    by, hour = _by(catalog.TARGET, catalog.DIALOG), window.duration(HOUR)
    in_a_row = select(catalog.MONITOR_CONSECUTIVE_FAILURES)
    success = select(catalog.MONITOR_SUCCESS, scope=OF_A_DIALOG)
    kinds = _counted_by(
        catalog.FAILURE_KIND,
        catalog.MONITOR_FAILURES,
        window.duration(15 * MINUTE),
        scope=OF_THE_DIALOG,
    )
    summary = "{{ $labels.dialog }} fails on {{ $labels.target }}."
    what = named("What went wrong:", catalog.FAILURE_KIND, kinds)
    return [
        Alert(
            "DialogFailing",
            f"min {by} ({in_a_row}) >= {limits.dialogs_in_a_row:g}",
            2 * MINUTE,
            "critical",
            summary,
            f"The last {_COUNT} dialogs of the monitor have failed, from every place: nobody gets "
            "what this dialog expects." + what,
            catalog.DASHBOARD_SESSIONS,
            {"cause": "outage"},
            keep=5 * MINUTE,
        ),
        Alert(
            "DialogFailing",
            f"(min {by} (1 - avg_over_time({success}[{hour}])) > {limits.dialog_failed:g})\n"
            # The end of an outage is no other alert.
            f"and (min {by} (resets({success}[{hour}])) >= {limits.dialog_failed_least:g})",
            5 * MINUTE,
            "warning",
            summary,
            "It comes and goes: {{ $value | humanizePercentage }} of an hour the last dialog had "
            "failed, from every place." + what,
            catalog.DASHBOARD_SESSIONS,
            {"cause": "intermittent"},
            keep=30 * MINUTE,
        ),
    ]


def _monitor_stopped(limits: Thresholds, window: Windows) -> Alert:
    """Return the alert for a monitor of which nothing is heard, whether it is there or gone."""
    day = window.duration(DAY)
    last, interval = (
        f"last_over_time({select(metric)}[{day}])"
        for metric in (catalog.MONITOR_LAST_TIMESTAMP, catalog.MONITOR_INTERVAL)
    )
    return Alert(
        "MonitorStopped",
        f"time() - max {_by(catalog.TARGET)} ({last} + {interval}) > {limits.monitor_late:g}",
        # A Prometheus that was down itself has not scraped anything yet.
        2 * MINUTE,
        "warning",
        "Nobody watches {{ $labels.target }} any more.",
        "The next dialog of the monitor was due {{ $value | humanizeDuration }} ago, at every "
        "place: a chat that is broken would not be noticed.",
        catalog.DASHBOARD_SESSIONS,
    )
