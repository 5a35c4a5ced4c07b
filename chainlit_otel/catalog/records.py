"""What is kept of a session, a turn, a feedback or a score when it is over. Data only.

A record is one flat row. Keys are OpenTelemetry attribute names; in files and tables their dots are
underscores. Counts are always there; what did not happen, or is not known, is not. Users, queries
and reports depend on the names and on what they mean: a change of either takes another
`RECORD_SCHEMA`, more fields do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from chainlit_otel.catalog.attributes import (
    CALLBACK_NAME,
    CHAT_PROFILE,
    CLIENT_TYPE,
    CLOSE_REASON,
    END_REASON,
    FEEDBACK_VALUE,
    OUTCOME,
    REQUEST_MODEL,
    SESSION_ORIGIN,
    SESSION_TYPE,
)
from chainlit_otel.catalog.spans import (
    CONVERSATION_ID,
    ERROR_TYPE,
    EVENT_EVALUATION,
    SESSION_ID,
)

# Keys that are of records alone

TURN_NUMBER = "chainlit.turn.number"
ID_OF_TRACE = "trace_id"
ID_OF_SPAN = "span_id"
USER_HASH = "user.hash"
SESSION_STARTED_AT = "chainlit.session.start"
SESSION_SECONDS = "chainlit.session.duration"
SESSION_CONNECTED = "chainlit.session.connected"
TURNS_STARTED = "chainlit.session.turns.started"
TURNS_OK = "chainlit.session.turns.ok"
TURNS_ERROR = "chainlit.session.turns.error"
TURNS_CANCELLED = "chainlit.session.turns.cancelled"
RECONNECTS = "chainlit.session.reconnects"
LONGEST_GAP = "chainlit.session.longest_gap"
TIME_TO_FIRST_TURN = "chainlit.session.time_to_first_turn"
SESSION_UNDELIVERED = "chainlit.session.undelivered"
FEEDBACK_POSITIVE = "chainlit.session.feedback.positive"
FEEDBACK_NEGATIVE = "chainlit.session.feedback.negative"
TURN_SOURCE = "chainlit.turn.source"
TURN_STARTED_AT = "chainlit.turn.start"
TURN_SECONDS = "chainlit.turn.duration"
FIRST_TOKEN_SECONDS = "chainlit.turn.time_to_first_token"
TURN_CHUNKS = "chainlit.turn.chunks"
TURN_STEPS = "chainlit.turn.steps"
TURN_TOOLS = "chainlit.turn.tools"
TURN_MODELS = "chainlit.turn.models"
TURN_USAGE = "chainlit.turn."
SESSION_USAGE = "chainlit.session."
INPUT_SIZE = "chainlit.turn.input_size"
OUTPUT_SIZE = "chainlit.turn.output_size"
TURN_UNDELIVERED = "chainlit.turn.undelivered"
DATA_LAYER_ERRORS = "chainlit.turn.data_layer_errors"
FEEDBACK_MESSAGE = "chainlit.feedback.message"
HAS_COMMENT = "chainlit.feedback.has_comment"
EVALUATION_NAME = "gen_ai.evaluation.name"
EVALUATION_SCORE = "gen_ai.evaluation.score.value"
EVALUATION_LABEL = "gen_ai.evaluation.score.label"

USER_FEEDBACK = "user_feedback"
"""Name of feedback among the results of evaluations, as Chainlit's own data layer has it."""

FEEDBACK_SCORES = {"positive": 1.0, "negative": 0.0}
"""What feedback is as a score, by its value; what was deleted is none."""

RECORDS_LOCK_FILE = ".lock"
"""Beside the files of records: locked shared by who writes them, alone by who takes rows out."""

RECORD_SCHEMA_KEY = "chainlit_otel.record.schema"

RECORD_SCHEMA = 1
"""Of which schema the records are that are written now."""

FieldType = Literal["string", "integer", "double", "boolean", "time", "tools", "models"]
"""`time` is RFC 3339 in UTC. `tools` is a list of objects with `name`, `duration` and `outcome`;
`models` is one of objects with `name` and what is in `USAGE`."""

USAGE: dict[str, tuple[Literal["integer", "double"], str]] = {
    "inferences": ("integer", "Model calls."),
    "uncounted": ("integer", "Of how many of these the tokens are not known."),
    "unpriced": ("integer", "For how many more there is no price."),
    "input_tokens": ("integer", "Tokens that were sent to models."),
    "output_tokens": ("integer", "Tokens that models have answered."),
    "cache_read_tokens": ("integer", "Tokens of the input that came from a cache."),
    "cache_write_tokens": ("integer", "Tokens of the input that were put into a cache."),
    "reasoning_tokens": ("integer", "Tokens of the output that were reasoning."),
    "cost": ("double", "US dollars, of the calls that have a price."),
}
"""What the model calls of a turn or a session used; there only if it had any."""


@cache
def column_of(key: str) -> str:
    """Return the name in files and tables of a field, by its OpenTelemetry key."""
    return key.replace(".", "_")


@dataclass(frozen=True)
class RecordField:
    """One field of a record.

    Attributes:
        key: Its OpenTelemetry key.
        type: What its values are.
        description: What it says, with its unit.
    """

    key: str
    type: FieldType
    description: str

    @property
    def column(self) -> str:
        """Its name in files and tables."""
        return column_of(self.key)


@dataclass(frozen=True)
class RecordKind:
    """One kind of record.

    Attributes:
        name: Its name, the value of `kind`.
        description: What it is about, and when it is written.
        event: Name of the log event that carries it.
        fields: The fields that it may have, besides those that all have.
    """

    name: str
    description: str
    event: str
    fields: tuple[RecordField, ...]


RECORD_TIME = RecordField("time", "time", "When it happened; of what lasts, when it was over.")
RECORD_KIND = RecordField("kind", "string", "Kind of the record.")
RECORD_SCHEMA_FIELD = RecordField("schema", "integer", "Schema of the record.")

COMMON_FIELDS = (
    RECORD_TIME,
    RECORD_KIND,
    RECORD_SCHEMA_FIELD,
    RecordField("service.name", "string", "Name of the service."),
    RecordField("service.version", "string", "Version of the service, if it has one."),
    RecordField("service.instance.id", "string", "The process."),
)

_SESSION_ID = RecordField(SESSION_ID, "string", "What stands for the id of the session.")
_USER_HASH = RecordField(
    USER_HASH,
    "string",
    "What stands for the user who is signed in; only with `user_hash_key`.",
)
_CLIENT = RecordField(CLIENT_TYPE.key, "string", "Client.")
_PROFILE = RecordField(CHAT_PROFILE.key, "string", "Chat profile.")
_CONVERSATION = RecordField(CONVERSATION_ID, "string", "Thread.")
_TURN_NUMBER = RecordField(TURN_NUMBER, "integer", "Which turn of its session it is, from 1.")
_TRACE = RecordField(ID_OF_TRACE, "string", "Trace of the turn, if it has one.")
_SPAN = RecordField(ID_OF_SPAN, "string", "Span of the turn, if it has one.")
_MODEL = RecordField(
    REQUEST_MODEL.key, "string", "Model that answered most of the turn, if that was over."
)
_SESSION = (
    _SESSION_ID,
    RecordField(SESSION_TYPE.key, "string", "Type of the session."),
    _CLIENT,
    RecordField(SESSION_ORIGIN.key, "string", "Whether it is new or goes on with a stored thread."),
    _USER_HASH,
    _PROFILE,
)


def _usage(prefix: str) -> tuple[RecordField, ...]:
    return tuple(RecordField(f"{prefix}{name}", *rest) for name, rest in USAGE.items())


SESSION_START_RECORD = RecordKind(
    "session.start", "A session, when it starts.", "session.start", _SESSION
)
SESSION_END_RECORD = RecordKind(
    "session.end",
    "A session, when it has ended.",
    "session.end",
    (
        *_SESSION,
        RecordField(SESSION_STARTED_AT, "time", "When it started."),
        RecordField(SESSION_SECONDS, "double", "Seconds from its start to its last disconnect."),
        RecordField(SESSION_CONNECTED, "double", "Seconds of these in which it was connected."),
        RecordField(END_REASON.key, "string", "Why it ended."),
        RecordField(TURNS_STARTED, "integer", "Turns."),
        RecordField(TURNS_OK, "integer", "Turns that were answered."),
        RecordField(TURNS_ERROR, "integer", "Turns that failed."),
        RecordField(TURNS_CANCELLED, "integer", "Turns that were stopped."),
        RecordField(RECONNECTS, "integer", "How often its user came back."),
        RecordField(
            LONGEST_GAP,
            "double",
            "Seconds of the longest time without a connection after which its user came back.",
        ),
        RecordField(
            TIME_TO_FIRST_TURN,
            "double",
            "Seconds from its start to the first message of its user.",
        ),
        RecordField(
            SESSION_UNDELIVERED,
            "integer",
            "Messages, steps, chunks, files and questions sent to a socket that was gone.",
        ),
        RecordField(FEEDBACK_POSITIVE, "integer", "Messages with good feedback."),
        RecordField(FEEDBACK_NEGATIVE, "integer", "Messages with bad feedback."),
        *_usage(SESSION_USAGE),
        RecordField(CLOSE_REASON.key, "string", "Why its last connection closed."),
        _CONVERSATION,
    ),
)
TURN_RECORD = RecordKind(
    "turn",
    "A turn, when it is over.",
    "chainlit.turn",
    (
        _SESSION_ID,
        _TURN_NUMBER,
        _TRACE,
        _SPAN,
        RecordField(
            TURN_SOURCE,
            "string",
            "How the message came: `message`, `edit`, `voice` or `bot`.",
        ),
        _CLIENT,
        _USER_HASH,
        _PROFILE,
        RecordField(TURN_STARTED_AT, "time", "When the message arrived."),
        RecordField(TURN_SECONDS, "double", "Seconds from then to the end."),
        RecordField(
            FIRST_TOKEN_SECONDS,
            "double",
            "Seconds from then to the first thing that the user could see or hear.",
        ),
        RecordField(TURN_CHUNKS, "integer", "Chunks that were streamed."),
        RecordField(OUTCOME.key, "string", "Outcome."),
        RecordField(ERROR_TYPE, "string", "Class of the exception that made it fail."),
        RecordField(CALLBACK_NAME.key, "string", "Callback that raised it."),
        RecordField(TURN_STEPS, "integer", "Steps, tools included."),
        RecordField(
            TURN_TOOLS,
            "tools",
            "The first 50 calls of tools: `name`, `duration` in seconds, `outcome`.",
        ),
        RecordField(TURN_MODELS, "models", "What was used of each model."),
        *_usage(TURN_USAGE),
        RecordField(INPUT_SIZE, "integer", "Characters of the user's message."),
        RecordField(OUTPUT_SIZE, "integer", "Characters of the answers."),
        RecordField(
            TURN_UNDELIVERED,
            "integer",
            "Messages, steps, chunks, files and questions sent to a socket that was gone.",
        ),
        RecordField(
            DATA_LAYER_ERRORS,
            "integer",
            "Data-layer operations that failed.",
        ),
        _CONVERSATION,
    ),
)
FEEDBACK_RECORD = RecordKind(
    "feedback",
    "Feedback, when it is given, changed or deleted. With the turn that it is about, if that was "
    "in this process and among the last 10,000 messages; without one, it is unlinked.",
    EVENT_EVALUATION,
    (
        _SESSION_ID,
        _TURN_NUMBER,
        _TRACE,
        _SPAN,
        RecordField(
            FEEDBACK_MESSAGE,
            "string",
            "What stands for the message that it is about. Who changes their mind gives feedback "
            "on the same one again, and the last counts.",
        ),
        RecordField(FEEDBACK_VALUE.key, "string", "`positive`, `negative` or `deleted`."),
        RecordField(HAS_COMMENT, "boolean", "Whether there is a comment."),
        RecordField(EVALUATION_NAME, "string", f"`{USER_FEEDBACK}`."),
        RecordField(EVALUATION_SCORE, "double", "1 if it is positive, 0 if negative."),
        RecordField(EVALUATION_LABEL, "string", "The value once more."),
        _CLIENT,
        _USER_HASH,
        _PROFILE,
        _MODEL,
    ),
)
SCORE_RECORD = RecordKind(
    "score",
    "A score that the app has given to a turn by `record_score()`.",
    EVENT_EVALUATION,
    (
        _SESSION_ID,
        _TURN_NUMBER,
        _TRACE,
        _SPAN,
        RecordField(EVALUATION_NAME, "string", "Name of the score."),
        RecordField(EVALUATION_SCORE, "double", "The score."),
        RecordField(EVALUATION_LABEL, "string", "The score in a word."),
        _CLIENT,
        _USER_HASH,
        _PROFILE,
        _MODEL,
    ),
)

RECORDS = (
    SESSION_START_RECORD,
    SESSION_END_RECORD,
    TURN_RECORD,
    FEEDBACK_RECORD,
    SCORE_RECORD,
)
"""All kinds of records."""
