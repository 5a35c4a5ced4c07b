"""Every metric, attribute and closed label set that chainlit-otel emits. Data only.

Names are OpenTelemetry names. Their Prometheus form follows from the OpenTelemetry
rules and is what `Metric.prometheus_name` returns. Users, dashboards and alerts depend
on these names: a rename goes through one release that emits both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal

Kind = Literal["counter", "updowncounter", "gauge", "histogram"]
LabelSet = tuple[str, ...]

SCOPE = "chainlit_otel"
OTHER = "other"

# UCUM unit to the suffix of a Prometheus name; a unit in braces is an annotation and adds none.
# https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
_UNIT_SUFFIXES = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tibibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
}


def prometheus_name(name: str, unit: str, kind: Kind) -> str:
    """Return the Prometheus name of an OpenTelemetry metric.

    Args:
        name: The OpenTelemetry name, such as `chainlit.session.starts`.
        unit: The UCUM unit, such as `s`, `By` or `{session}`.
        kind: The kind of instrument.

    Returns:
        The name as the OpenTelemetry to Prometheus compatibility rules give it, with
        `_total` for a counter.
    """
    translated = _valid(name)
    for suffix in _suffixes(_ANNOTATION.sub("", unit), kind):
        if not translated.endswith("_" + suffix):
            translated = _valid(f"{translated}_{suffix}")
    return translated


_ANNOTATION = re.compile(r"\{[^}]*\}")


def _valid(name: str) -> str:
    valid = re.sub(r"[^a-zA-Z0-9:]+", "_", name)
    return "_" + valid if valid[:1].isdigit() else valid


def _suffixes(unit: str, kind: Kind) -> Iterable[str]:
    if unit == "1" and kind in ("gauge", "updowncounter"):
        yield "ratio"
    elif "/" in unit:
        quantity, per = (part.strip() for part in unit.split("/", 1))
        if quantity:
            yield _UNIT_SUFFIXES.get(quantity, quantity)
        if per:
            yield f"per_{_UNIT_SUFFIXES.get(per, per).removesuffix('s')}"
    elif unit and unit != "1":
        yield _UNIT_SUFFIXES.get(unit, unit)
    if kind == "counter":
        yield "total"


@dataclass(frozen=True)
class Attribute:
    """An attribute key and the closed set of its values."""

    key: str
    values: tuple[str, ...]

    @property
    def prometheus_label(self) -> str:
        """The Prometheus label of this attribute."""
        return self.key.replace(".", "_")


@dataclass(frozen=True, eq=False)
class Metric:
    """One row of the catalogue.

    Attributes:
        name: OpenTelemetry name.
        kind: Kind of instrument.
        unit: UCUM unit; in braces what is counted.
        description: One sentence, shown as the help text.
        attributes: The attributes, in the order in which label values are given.
        bounds: Histogram bucket bounds, in `unit`.
        label_sets: The combinations of label values that exist at zero from the start, because
            `rate()` loses the first event of a series that appears with it. Those that every app
            can have, and of a histogram those whose rate an alert or a panel needs from the first
            event, since each of its sets is a dozen series. What only some apps have, such as a
            callback or a way to sign in, is added when the app is known to have it.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[Attribute, ...] = ()
    bounds: tuple[float, ...] = ()
    label_sets: tuple[LabelSet, ...] = ((),)

    @property
    def prometheus_name(self) -> str:
        """The Prometheus name: the family of a histogram, the sample of anything else."""
        return prometheus_name(self.name, self.unit, self.kind)

    @property
    def series(self) -> int:
        """How many series one label set costs."""
        return len(self.bounds) + 3 if self.kind == "histogram" else 1

    def labels(self, values: LabelSet) -> dict[str, str]:
        """Return the attributes of one label set, by their OpenTelemetry keys.

        An empty value stands for an attribute that is not there.
        """
        return {
            attribute.key: value
            for attribute, value in zip(self.attributes, values, strict=True)
            if value
        }


def _every(*attributes: Attribute) -> tuple[LabelSet, ...]:
    return tuple(product(*(attribute.values for attribute in attributes)))


SESSION_TYPE = Attribute("chainlit.session.type", ("websocket", "http"))
CLIENT_TYPE = Attribute(
    "chainlit.client.type", ("webapp", "copilot", "teams", "slack", "discord", OTHER)
)
SESSION_ORIGIN = Attribute("chainlit.session.origin", ("new", "thread_resume"))
SESSION_STATE = Attribute("chainlit.session.state", ("connected", "disconnected"))
END_REASON = Attribute(
    "chainlit.session.end_reason", ("cleared", "timeout", "shutdown", "completed", OTHER)
)
PEAK_WINDOW = Attribute("chainlit.peak.window", ("15s", "1m", "5m", "1h", "process"))
LOOKUP_SITE = Attribute(
    "chainlit.lookup.site",
    ("action", "element", "feedback", "file_read", "file_upload", "mcp", "socket", OTHER),
)
TRANSPORT = Attribute("chainlit.connection.transport", ("websocket", "polling"))
CLOSE_REASON = Attribute(
    "chainlit.connection.close_reason",
    (
        "client_disconnect",
        "server_disconnect",
        "transport_close",
        "transport_error",
        "ping_timeout",
        "message_too_large",
        "shutdown",
        OTHER,
    ),
)
INBOUND_DROP_REASON = Attribute("error.type", ("too_large", "too_many", "malformed"))
OUTCOME = Attribute("chainlit.outcome", ("ok", "error", "cancelled"))
CHAT_PROFILE = Attribute("chainlit.chat_profile", ())
DIRECTION = Attribute("chainlit.message.direction", ("inbound", "outbound"))
CALLBACK_NAME = Attribute(
    "chainlit.callback.name",
    (
        "action_callbacks",
        "author_rename",
        "header_auth_callback",
        "oauth_callback",
        "on_app_shutdown",
        "on_app_startup",
        "on_audio_chunk",
        "on_audio_end",
        "on_audio_start",
        "on_chat_end",
        "on_chat_resume",
        "on_chat_start",
        "on_feedback",
        "on_logout",
        "on_mcp_connect",
        "on_mcp_disconnect",
        "on_message",
        "on_settings_edit",
        "on_settings_update",
        "on_shared_thread_view",
        "on_slack_reaction_added",
        "on_stop",
        "on_window_message",
        "password_auth_callback",
        "set_chat_profiles",
        "set_starter_categories",
        "set_starters",
        OTHER,
    ),
)
ACTION_NAME = Attribute("chainlit.action.name", ())
STEP_TYPE = Attribute(
    "chainlit.step.type",
    ("run", "tool", "llm", "embedding", "retrieval", "rerank", "undefined", OTHER),
)
STEP_NAME = Attribute("chainlit.step.name", ())
ASK_TYPE = Attribute("chainlit.ask.type", ("text", "file", "action", "element", "call_fn", OTHER))
ASK_OUTCOME = Attribute("chainlit.outcome", ("answered", "timeout", "cancelled"))
EMIT_EVENT = Attribute(
    "chainlit.emit.event",
    (
        "new_message",
        "update_message",
        "step",
        "stream_start",
        "stream_token",
        "element",
        "ask",
        "call_fn",
        "audio",
    ),
)
# What is one message each. A token, an element, a part of a voice is part of an answer.
MESSAGE_EVENTS = ("new_message", "update_message", "ask")
REFUSAL = Attribute(
    "error.type", ("authentication_failed", "authorization_failed", "missing_user_env", OTHER)
)
OPERATION = Attribute(
    "chainlit.data_layer.operation",
    (
        "create_element",
        "create_step",
        "create_user",
        "delete_element",
        "delete_feedback",
        "delete_step",
        "delete_thread",
        "get_element",
        "get_favorite_steps",
        "get_thread",
        "get_thread_author",
        "get_user",
        "list_threads",
        "set_step_favorite",
        "update_step",
        "update_thread",
        "upsert_feedback",
        OTHER,
    ),
)
DATA_LAYER_NAME = Attribute("chainlit.data_layer.name", ())
QUEUED_OPERATION = Attribute(
    OPERATION.key,
    ("create_element", "create_step", "delete_element", "delete_step", "update_step", OTHER),
)
CACHE_NAME = Attribute("chainlit.cache.name", ())
CACHE_RESULT = Attribute("chainlit.cache.result", ("hit", "miss"))
POOL_NAME = Attribute("db.client.connection.pool.name", ())
POOL_STATE = Attribute("db.client.connection.state", ("idle", "used"))
ACCESS_METHOD = Attribute(
    "chainlit.access.method",
    ("password", "header", "oauth", "jwt", "websocket", "thread", "rate_limit", OTHER),
)
ACCESS_RESULT = Attribute("chainlit.access.result", ("granted", "denied", "error"))
DENIAL_REASON = Attribute("error.type", ())
FEEDBACK_VALUE = Attribute("chainlit.feedback.value", ("positive", "negative", "deleted"))
FILE_DIRECTION = Attribute("chainlit.file.direction", ("upload", "element"))
RETAINED_KIND = Attribute(
    "chainlit.retained.kind", ("chat_contexts", "user_sessions", "sessions", "files")
)
INSTALLED_PROBE = Attribute(
    "chainlit_otel.probe",
    (
        "sessions",
        "sockets",
        "messages",
        "bots",
        "callbacks",
        "steps",
        "mcp",
        "data_layer",
        "access",
        "feedback",
        "files",
        "http",
        "event_loop",
        "lifecycle",
    ),
)
PROBE = Attribute(
    INSTALLED_PROBE.key, (*INSTALLED_PROBE.values, "pools", "caches", "tracing", "server")
)
FOLDED_ATTRIBUTE = Attribute(
    "chainlit_otel.attribute",
    (
        CLIENT_TYPE.key,
        CHAT_PROFILE.key,
        CALLBACK_NAME.key,
        ACTION_NAME.key,
        STEP_TYPE.key,
        STEP_NAME.key,
        OPERATION.key,
        DATA_LAYER_NAME.key,
        CACHE_NAME.key,
        POOL_NAME.key,
        ACCESS_METHOD.key,
        DENIAL_REASON.key,
    ),
)
DROP_REASON = Attribute("chainlit_otel.drop_reason", ("name", "buckets", "value", "unsupported"))
EXPORT_SIGNAL = Attribute("chainlit_otel.signal", ("spans", "metrics", "logs"))
LOSS = Attribute(
    "error.type", ("queue_full", "rejected", "redirect", "timeout", "unreachable", OTHER)
)

# The clients that every app can have; a bot is one of an app that has it.
_CLIENTS = (
    ("websocket", "webapp"),
    ("websocket", "copilot"),
    ("websocket", OTHER),
    ("http", "webapp"),
)
BOTS = ("slack", "teams", "discord")


def starts_of(*clients: tuple[str, str]) -> tuple[LabelSet, ...]:
    """Return how sessions of these types and clients can start: an HTTP session is always new."""
    return tuple(
        (kind, client, origin)
        for kind, client in clients
        for origin in (SESSION_ORIGIN.values if kind == "websocket" else ("new",))
    )


def states_of(*clients: tuple[str, str]) -> tuple[LabelSet, ...]:
    """Return the states that sessions can be in: an HTTP session has no socket to lose."""
    return tuple(
        (kind, client, state)
        for kind, client in clients
        for state in (SESSION_STATE.values if kind == "websocket" else ("connected",))
    )


def ends_of(*clients: tuple[str, str]) -> tuple[LabelSet, ...]:
    """Return how sessions can end: nothing clears an HTTP session, and no grace time runs out."""
    return tuple(
        (kind, client, reason)
        for kind, client in clients
        for reason in END_REASON.values
        if reason not in (("completed",) if kind == "websocket" else ("cleared", "timeout"))
    )


# Turns, first tokens, steps and asks, in seconds: from a canned answer to a long task.
TURN_BOUNDS = tuple(round(0.01 * 2**n, 2) for n in range(16))

# Callbacks, in seconds: most are quick, `on_message` takes as long as its turn.
CALLBACK_BOUNDS = tuple(
    float(s)
    for s in (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
)

# The event loop, in seconds: a browser gives a connection up after 20 to 45 without a ping.
LAG_BOUNDS = tuple(
    float(s)
    for s in (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 45)
)

# Sessions and connections, in seconds: from a bounce to a working day.
LIFETIME_BOUNDS = tuple(
    float(s) for s in (1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800)
)

# Files, in bytes: from an icon to a film.
SIZE_BOUNDS = tuple(float(1024 * 4**n) for n in range(11))

SESSION_STARTS = Metric(
    "chainlit.session.starts",
    "counter",
    "{session}",
    "Sessions started. A reconnect is not a start.",
    (SESSION_TYPE, CLIENT_TYPE, SESSION_ORIGIN),
    label_sets=starts_of(*_CLIENTS),
)
SESSION_ACTIVE = Metric(
    "chainlit.session.active",
    "updowncounter",
    "{session}",
    "Sessions that have started and not ended; disconnected ones wait for their user to come back.",
    (SESSION_TYPE, CLIENT_TYPE, SESSION_STATE),
    label_sets=states_of(*_CLIENTS),
)
SESSION_PEAK = Metric(
    "chainlit.session.peak",
    "gauge",
    "{session}",
    "Most websocket sessions connected at once, in the last closed and the current window.",
    (PEAK_WINDOW,),
    label_sets=_every(PEAK_WINDOW),
)
SESSION_ENDS = Metric(
    "chainlit.session.ends",
    "counter",
    "{session}",
    "Sessions ended.",
    (SESSION_TYPE, CLIENT_TYPE, END_REASON),
    label_sets=ends_of(*_CLIENTS),
)
SESSION_DURATION = Metric(
    "chainlit.session.duration",
    "histogram",
    "s",
    "Duration of ended sessions, from start to last disconnect.",
    (SESSION_TYPE, CLIENT_TYPE, END_REASON),
    LIFETIME_BOUNDS,
    tuple(("websocket", "webapp", reason) for reason in ("cleared", "timeout")),
)
SESSION_TIME = Metric(
    "chainlit.session.time",
    "counter",
    "s",
    "Time spent in all sessions, open ones included; divided by the ends, the mean duration.",
    (SESSION_TYPE,),
    label_sets=_every(SESSION_TYPE),
)
SESSION_RECONNECTS = Metric(
    "chainlit.session.reconnects",
    "counter",
    "{reconnect}",
    "Sockets that took up a session that was already there.",
    (CLIENT_TYPE,),
    label_sets=tuple((client,) for kind, client in _CLIENTS if kind == "websocket"),
)
SESSION_OLDEST_AGE = Metric(
    "chainlit.session.oldest_age",
    "gauge",
    "s",
    "Age of the oldest session that has not ended; 0 when there is none.",
    (SESSION_TYPE,),
    label_sets=_every(SESSION_TYPE),
)
SESSION_LOOKUP_MISSES = Metric(
    "chainlit.session.lookup_misses",
    "counter",
    "{miss}",
    "Requests for a session that this process does not have: it is gone, or on another replica.",
    (LOOKUP_SITE,),
    label_sets=_every(LOOKUP_SITE),
)
SESSION_TURNS = Metric(
    "chainlit.session.turns",
    "histogram",
    "{turn}",
    "Turns of ended websocket sessions; a session without any is a bounce.",
    (END_REASON,),
    tuple(float(n) for n in (0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89)),
    (("cleared",), ("timeout",)),
)
CONNECTION_ACTIVE = Metric(
    "chainlit.connection.active",
    "updowncounter",
    "{connection}",
    "Socket.IO connections open.",
    (TRANSPORT,),
    label_sets=_every(TRANSPORT),
)
CONNECTION_DURATION = Metric(
    "chainlit.connection.duration",
    "histogram",
    "s",
    "Duration of closed Socket.IO connections.",
    (CLOSE_REASON,),
    LIFETIME_BOUNDS,
    (("transport_close",), ("client_disconnect",), ("ping_timeout",)),
)
CONNECTION_REJECTED = Metric(
    "chainlit.connection.rejected",
    "counter",
    "{connection}",
    "Socket.IO connections that Chainlit refused.",
    (REFUSAL,),
    label_sets=_every(REFUSAL),
)
INBOUND_DROPPED = Metric(
    "chainlit.inbound.dropped",
    "counter",
    "{packet}",
    "Packets of browsers that were thrown away before Chainlit saw them; what is too large is one.",
    (INBOUND_DROP_REASON,),
    label_sets=_every(INBOUND_DROP_REASON),
)
TURN_DURATION = Metric(
    "chainlit.turn.duration",
    "histogram",
    "s",
    "Duration of turns, from the arrival of the message until the app is done with it.",
    (OUTCOME, CHAT_PROFILE),
    TURN_BOUNDS,
    tuple((outcome, "") for outcome in OUTCOME.values),
)
TURN_ACTIVE = Metric("chainlit.turn.active", "updowncounter", "{turn}", "Turns under way.")
TURN_PEAK = Metric(
    "chainlit.turn.peak",
    "gauge",
    "{turn}",
    "Most turns under way at once, in the last closed and the current window.",
    (PEAK_WINDOW,),
    label_sets=_every(PEAK_WINDOW),
)
TIME_TO_FIRST_TOKEN = Metric(
    "chainlit.turn.time_to_first_token",
    "histogram",
    "s",
    "From the arrival of the message to the first content sent that a user can see or hear.",
    (CHAT_PROFILE,),
    TURN_BOUNDS,
    (("",),),
)
TIME_PER_OUTPUT_CHUNK = Metric(
    "chainlit.turn.time_per_output_chunk",
    "histogram",
    "s",
    "Mean gap between the streamed chunks of a turn; one record a turn.",
    (),
    CALLBACK_BOUNDS,
)
OUTPUT_CHUNKS = Metric(
    "chainlit.turn.output_chunks", "counter", "{chunk}", "Chunks streamed to browsers."
)
MESSAGES = Metric(
    "chainlit.messages",
    "counter",
    "{message}",
    "Messages from users (inbound) and to them (outbound).",
    (DIRECTION,),
    label_sets=_every(DIRECTION),
)
CALLBACK_DURATION = Metric(
    "chainlit.callback.duration",
    "histogram",
    "s",
    "Duration of the callbacks of the app; Chainlit swallows the errors that this counts.",
    (CALLBACK_NAME, OUTCOME),
    CALLBACK_BOUNDS,
    (),
)
STEP_DURATION = Metric(
    "chainlit.step.duration",
    "histogram",
    "s",
    "Duration of steps.",
    (STEP_TYPE, OUTCOME),
    TURN_BOUNDS,
    (("tool", "error"),),
)
ASK_DURATION = Metric(
    "chainlit.ask.duration",
    "histogram",
    "s",
    "How long the app waited for a user's answer; `timeout` is as long as it cared to wait.",
    (ASK_TYPE, ASK_OUTCOME),
    TURN_BOUNDS,
    (),
)
EMIT_DROPPED = Metric(
    "chainlit.emit.dropped",
    "counter",
    "{event}",
    "Content sent to a socket that is gone: the user never sees it.",
    (EMIT_EVENT,),
    label_sets=_every(EMIT_EVENT),
)
MCP_CONNECTIONS = Metric(
    "chainlit.mcp.connections", "updowncounter", "{connection}", "MCP connections open."
)
DATA_LAYER_OPERATION_DURATION = Metric(
    "chainlit.data_layer.operation.duration",
    "histogram",
    "s",
    "Duration of the operations of the data layer, waiting for a connection included.",
    (OPERATION, DATA_LAYER_NAME, OUTCOME),
    CALLBACK_BOUNDS,
    (),
)
DATA_LAYER_OPERATIONS = Metric(
    "chainlit.data_layer.operations",
    "counter",
    "{operation}",
    "Operations of the data layer; errors that Chainlit or the layer swallows are errors here.",
    (OPERATION, DATA_LAYER_NAME, OUTCOME),
    label_sets=(),
)
DATA_LAYER_QUEUED = Metric(
    "chainlit.data_layer.queued",
    "counter",
    "{operation}",
    "Operations that Chainlit held back until the first message of the user.",
    (QUEUED_OPERATION,),
    label_sets=(),
)
DATA_LAYER_DISCARDED = Metric(
    "chainlit.data_layer.discarded",
    "counter",
    "{operation}",
    "Operations that were held back and never ran, because no message came.",
    (QUEUED_OPERATION,),
    label_sets=(),
)
DATA_LAYER_QUEUE_LENGTH = Metric(
    "chainlit.data_layer.queue_length",
    "updowncounter",
    "{operation}",
    "Operations held back now.",
)
CACHE_LOOKUPS = Metric(
    "chainlit.data_layer.cache.lookups",
    "counter",
    "{lookup}",
    "Lookups in a watched cache.",
    (CACHE_NAME, CACHE_RESULT),
    label_sets=(),
)
CACHE_SIZE = Metric(
    "chainlit.data_layer.cache.size",
    "updowncounter",
    "{entry}",
    "Entries in a watched cache.",
    (CACHE_NAME,),
    label_sets=(),
)
CACHE_EVICTIONS = Metric(
    "chainlit.data_layer.cache.evictions",
    "counter",
    "{entry}",
    "Entries that a watched cache dropped to make room or because they were too old.",
    (CACHE_NAME,),
    label_sets=(),
)
# https://opentelemetry.io/docs/specs/semconv/database/database-metrics/#connection-pools
POOL_CONNECTIONS = Metric(
    "db.client.connection.count",
    "updowncounter",
    "{connection}",
    "Connections of a pool that are currently in the state described by the state attribute.",
    (POOL_NAME, POOL_STATE),
    label_sets=(),
)
POOL_MAX = Metric(
    "db.client.connection.max",
    "updowncounter",
    "{connection}",
    "The maximum number of open connections allowed.",
    (POOL_NAME,),
    label_sets=(),
)
ACCESS_ATTEMPTS = Metric(
    "chainlit.access.attempts",
    "counter",
    "{attempt}",
    "Access checks; an error is a check that could not be made, such as a backend that failed.",
    (ACCESS_METHOD, ACCESS_RESULT),
    label_sets=(
        *product(("websocket", "thread"), ACCESS_RESULT.values),
        ("rate_limit", "denied"),
    ),
)
ACCESS_DENIALS = Metric(
    "chainlit.access.denials",
    "counter",
    "{denial}",
    "What the app itself denied, by the reason that it gave to `access_denied`.",
    (ACCESS_METHOD, DENIAL_REASON),
    label_sets=(),
)
FEEDBACK = Metric(
    "chainlit.feedback",
    "counter",
    "{feedback}",
    "Feedback of users on messages.",
    (FEEDBACK_VALUE,),
    label_sets=_every(FEEDBACK_VALUE),
)
FILE_SIZE = Metric(
    "chainlit.file.size",
    "histogram",
    "By",
    "Size of files: uploads of users, and elements that the app sends.",
    (FILE_DIRECTION,),
    SIZE_BOUNDS,
    _every(FILE_DIRECTION),
)
USER_ACTIVE = Metric(
    "chainlit.user.active", "gauge", "{user}", "Distinct signed-in users connected."
)
EVENT_LOOP_LAG = Metric(
    "chainlit.event_loop.lag",
    "histogram",
    "s",
    "How late the event loop is, at most, in each fifth of a second.",
    (),
    LAG_BOUNDS,
)
EVENT_LOOP_BLOCKED = Metric(
    "chainlit.event_loop.blocked",
    "counter",
    "{stall}",
    "Times that the event loop was blocked for more than 1 s; the log names what by.",
)
RETAINED = Metric(
    "chainlit.retained",
    "gauge",
    "{object}",
    "Objects that Chainlit keeps for sessions that have ended.",
    (RETAINED_KIND,),
    label_sets=_every(RETAINED_KIND),
)
INTERNAL_ERRORS = Metric(
    "chainlit_otel.internal_errors",
    "counter",
    "{error}",
    "Errors of chainlit-otel itself, caught before they reached the application.",
    (PROBE,),
    label_sets=_every(PROBE),
)
PROBE_ENABLED = Metric(
    "chainlit_otel.probe.enabled",
    "gauge",
    "{probe}",
    "1 while the probe observes Chainlit, 0 when this version of Chainlit lacks its seam.",
    (INSTALLED_PROBE,),
    label_sets=_every(INSTALLED_PROBE),
)
LABEL_OVERFLOW = Metric(
    "chainlit_otel.label_overflow",
    "counter",
    "{value}",
    "Label values outside their set, recorded as `other`.",
    (FOLDED_ATTRIBUTE,),
    label_sets=_every(FOLDED_ATTRIBUTE),
)
EXPOSITION_DROPPED = Metric(
    "chainlit_otel.exposition.dropped",
    "counter",
    "{metric}",
    "Metrics of the app that `/metrics` does not show, or not in full; the log names the first.",
    (DROP_REASON,),
    label_sets=_every(DROP_REASON),
)
EXPORT_DROPPED = Metric(
    "chainlit_otel.export.dropped",
    "counter",
    "{item}",
    "Spans, metric data points and log records that exporters of chainlit-otel could not deliver.",
    (EXPORT_SIGNAL, LOSS),
    label_sets=(),
)

# Spans

SPAN_CONNECT = "chainlit.connect"
SPAN_DISCONNECT = "chainlit.disconnect"
SPAN_TURN = "chainlit.turn"
SPAN_CALLBACK = "chainlit.callback"
SPAN_STEP = "chainlit.step"
SPAN_ASK = "chainlit.ask"
SPAN_DATA_LAYER = "chainlit.data_layer"

SESSION_ID = "session.id"
CONVERSATION_ID = "gen_ai.conversation.id"
ERROR_TYPE = "error.type"
USER_ID = "user.id"
TURN_INPUT = "chainlit.turn.input"
TURN_OUTPUT = "chainlit.turn.output"
CODE_FILE = "code.file.path"
CODE_LINE = "code.line.number"
CODE_FUNCTION = "code.function.name"
STEP_INPUT = "chainlit.step.input"
STEP_OUTPUT = "chainlit.step.output"

# Events: the first one of spans, the others of the log

EVENT_ACCESS_DENIED = "chainlit.access.denied"
EVENT_SESSION_START = "session.start"
EVENT_SESSION_END = "session.end"

# Dashboards, by their uid in Grafana

DASHBOARD_SESSIONS = "chainlit-sessions"
DASHBOARD_CONVERSATIONS = "chainlit-conversations"
DASHBOARD_DATA_LAYER = "chainlit-data-layer"
DASHBOARD_RUNTIME = "chainlit-runtime"

METRICS: tuple[Metric, ...] = (
    SESSION_STARTS,
    SESSION_ACTIVE,
    SESSION_PEAK,
    SESSION_ENDS,
    SESSION_DURATION,
    SESSION_TIME,
    SESSION_RECONNECTS,
    SESSION_OLDEST_AGE,
    SESSION_LOOKUP_MISSES,
    SESSION_TURNS,
    CONNECTION_ACTIVE,
    CONNECTION_DURATION,
    CONNECTION_REJECTED,
    INBOUND_DROPPED,
    TURN_DURATION,
    TURN_ACTIVE,
    TURN_PEAK,
    TIME_TO_FIRST_TOKEN,
    TIME_PER_OUTPUT_CHUNK,
    OUTPUT_CHUNKS,
    MESSAGES,
    CALLBACK_DURATION,
    STEP_DURATION,
    ASK_DURATION,
    EMIT_DROPPED,
    MCP_CONNECTIONS,
    DATA_LAYER_OPERATION_DURATION,
    DATA_LAYER_OPERATIONS,
    DATA_LAYER_QUEUED,
    DATA_LAYER_DISCARDED,
    DATA_LAYER_QUEUE_LENGTH,
    CACHE_LOOKUPS,
    CACHE_SIZE,
    CACHE_EVICTIONS,
    POOL_CONNECTIONS,
    POOL_MAX,
    ACCESS_ATTEMPTS,
    ACCESS_DENIALS,
    FEEDBACK,
    FILE_SIZE,
    USER_ACTIVE,
    EVENT_LOOP_LAG,
    EVENT_LOOP_BLOCKED,
    RETAINED,
    INTERNAL_ERRORS,
    PROBE_ENABLED,
    LABEL_OVERFLOW,
    EXPOSITION_DROPPED,
    EXPORT_DROPPED,
)
