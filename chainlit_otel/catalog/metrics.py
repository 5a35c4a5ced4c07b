"""The metrics, and which of their series exist from the start."""

from __future__ import annotations

from itertools import product

from chainlit_otel.catalog.attributes import (
    ACCESS_METHOD,
    ACCESS_RESULT,
    ASK_OUTCOME,
    ASK_TYPE,
    CACHE_NAME,
    CACHE_RESULT,
    CALLBACK_NAME,
    CHAT_PROFILE,
    CLIENT_TYPE,
    CLOSE_REASON,
    DATA_LAYER_NAME,
    DENIAL_REASON,
    DIRECTION,
    DROP_REASON,
    EMIT_EVENT,
    END_REASON,
    EXPORT_SIGNAL,
    FEEDBACK_VALUE,
    FILE_DIRECTION,
    INBOUND_DROP_REASON,
    INSTALLED_PROBE,
    LOOKUP_SITE,
    LOSS,
    OPERATION,
    OTHER,
    OUTCOME,
    OVERFLOW_ATTRIBUTE,
    PEAK_WINDOW,
    POOL_NAME,
    POOL_STATE,
    PROBE,
    QUEUED_OPERATION,
    RECORD_DESTINATION,
    RECORD_KIND_ATTRIBUTE,
    REFUSAL,
    REQUEST_MODEL,
    RETAINED_KIND,
    SCORE_NAME,
    SESSION_ORIGIN,
    SESSION_STATE,
    SESSION_TYPE,
    STEP_TYPE,
    TOKEN_TYPE,
    TOOL_NAME,
    TRANSPORT,
    USAGE_STATE,
    WASTE,
)
from chainlit_otel.catalog.model import Attribute, LabelSet, Metric


def _every(*attributes: Attribute) -> tuple[LabelSet, ...]:
    return tuple(product(*(attribute.values for attribute in attributes)))


# The clients that every app can have; a bot is one of an app that has it.
_CLIENTS = (
    ("websocket", "webapp"),
    ("websocket", "copilot"),
    ("websocket", OTHER),
    ("http", "webapp"),
)


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

# Scores of any scale: from 0 to 1, to 5, to 10, to 100.
SCORE_BOUNDS = tuple(
    float(s) for s in (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 2, 3, 4, 5, 10, 50, 100)
)

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

SESSION_LOOKUPS = Metric(
    "chainlit.session.lookups",
    "counter",
    "{lookup}",
    "Requests for a session by its id, the misses included; of sockets, the reconnects.",
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
    "Packets of browsers that were dropped before Chainlit saw them; what is too large is one.",
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

TURN_OLDEST_WAITING = Metric(
    "chainlit.turn.oldest_waiting",
    "gauge",
    "s",
    "Age of the oldest turn under way in which the app has not said a word yet; 0 without one.",
)

UNDELIVERED_TURNS = Metric(
    "chainlit.turn.undelivered",
    "counter",
    "{turn}",
    "Ended turns of which something was sent to a socket that was gone, whatever their outcome.",
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
    "Mean gap between the chunks of a turn, delivered or not; one record a turn.",
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

TURN_TOKENS = Metric(
    "chainlit.turn.tokens",
    "counter",
    "{token}",
    "Tokens of the model calls of turns that are over; those of caches are part of the input, and "
    "the reasoning is of the output.",
    (REQUEST_MODEL, TOKEN_TYPE),
    label_sets=(),
)

TURN_COST = Metric(
    "chainlit.turn.cost",
    "counter",
    "{USD}",
    "What the model calls of turns have cost that have a price, in US dollars.",
    (REQUEST_MODEL, OUTCOME),
    label_sets=(),
)

TURN_INFERENCES = Metric(
    "chainlit.turn.inferences",
    "counter",
    "{inference}",
    "Model calls of turns: with tokens and a price, without a price, or without tokens.",
    (REQUEST_MODEL, USAGE_STATE),
    label_sets=(),
)

WASTED_COST = Metric(
    "chainlit.turn.wasted_cost",
    "counter",
    "{USD}",
    "Cost of turns that failed, that were stopped, or of which something never reached a browser.",
    (WASTE,),
    label_sets=(),
)

UNLINKED_USAGE = Metric(
    "chainlit.usage.unlinked",
    "counter",
    "{inference}",
    "Model calls outside of turns: their tokens and their cost are in no figure.",
    label_sets=(),
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

TOOL_CALLS = Metric(
    "chainlit.tool.calls",
    "counter",
    "{call}",
    "Calls of tools: steps of type `tool`, and spans that other instrumentations end, each once.",
    (TOOL_NAME, OUTCOME),
    label_sets=(),
)

TOOL_TIME = Metric(
    "chainlit.tool.time",
    "counter",
    "s",
    "Time spent in tools; divided by the calls, how long one takes.",
    (TOOL_NAME, OUTCOME),
    label_sets=(),
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
    "Operations that Chainlit queued until the first message of the user.",
    (QUEUED_OPERATION,),
    label_sets=(),
)

DATA_LAYER_DISCARDED = Metric(
    "chainlit.data_layer.discarded",
    "counter",
    "{operation}",
    "Operations that were queued and never ran, because no message came.",
    (QUEUED_OPERATION,),
    label_sets=(),
)

DATA_LAYER_QUEUE_LENGTH = Metric(
    "chainlit.data_layer.queue_length",
    "updowncounter",
    "{operation}",
    "Operations queued now.",
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

FEEDBACK_UNLINKED = Metric(
    "chainlit.feedback.unlinked",
    "counter",
    "{feedback}",
    "Feedback on messages whose turn is not known here: long ago, or in another process.",
)

SCORE = Metric(
    "chainlit.score",
    "histogram",
    "{score}",
    "Scores that the app gave by `record_score`; what a name's scale is, the app knows.",
    (SCORE_NAME,),
    SCORE_BOUNDS,
    (),
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

EVENT_LOOP_BLOCKED_TIME = Metric(
    "chainlit.event_loop.blocked_time",
    "counter",
    "s",
    "Time for which the event loop was blocked, of the stalls of more than 1 s.",
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
    (OVERFLOW_ATTRIBUTE,),
    label_sets=_every(OVERFLOW_ATTRIBUTE),
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

RECORDS_WRITTEN = Metric(
    "chainlit_otel.records.written",
    "counter",
    "{record}",
    "Records that were written, by kind and by where they go.",
    (RECORD_KIND_ATTRIBUTE, RECORD_DESTINATION),
    label_sets=(),
)

RECORDS_DROPPED = Metric(
    "chainlit_otel.records.dropped",
    "counter",
    "{record}",
    "Records that could not be written, because a disk was full or a queue was.",
    (RECORD_KIND_ATTRIBUTE, RECORD_DESTINATION),
    label_sets=(),
)

SYNTHETIC_SESSIONS = Metric(
    "chainlit.synthetic.sessions",
    "counter",
    "{session}",
    "Sessions of synthetic visitors that have ended, by the worst outcome of their turns.",
    (OUTCOME,),
    label_sets=_every(OUTCOME),
)

SYNTHETIC_TURNS = Metric(
    "chainlit.synthetic.turns",
    "counter",
    "{turn}",
    "Turns of synthetic visitors that have ended, by outcome. They are in no other figure.",
    (OUTCOME,),
    label_sets=_every(OUTCOME),
)

METRICS = tuple(row for row in list(vars().values()) if isinstance(row, Metric))
"""Every row, in the order in which they stand here."""
