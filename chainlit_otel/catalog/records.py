"""What is kept of a session, a turn, a feedback or a score when it is over. Data only.

A record is one flat row. Keys are OpenTelemetry attribute names; in files and tables their dots are
underscores. Counts are always there; what did not happen, or is not known, is not. Users, queries
and reports depend on the names and on what they mean: a change of either takes another
`RECORD_SCHEMA`, more fields do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from chainlit_otel.catalog.attributes import (
    CALLBACK_NAME,
    CHAT_PROFILE,
    CLIENT_TYPE,
    CLOSE_REASON,
    END_REASON,
    FEEDBACK_VALUE,
    OUTCOME,
    SESSION_ORIGIN,
    SESSION_TYPE,
)
from chainlit_otel.catalog.spans import CONVERSATION_ID, ERROR_TYPE, SESSION_ID

RECORD_SCHEMA = 1
"""Of which schema the records are that are written now."""

FieldType = Literal["string", "integer", "double", "boolean", "time", "tools"]
"""`time` is RFC 3339 in UTC. `tools` is a list of objects with `name`, `duration` and `outcome`."""


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
        return self.key.replace(".", "_")


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
    "user.hash",
    "string",
    "What stands for the user who is signed in; only with `user_hash_key`.",
)
_CLIENT = RecordField(CLIENT_TYPE.key, "string", "Client.")
_PROFILE = RecordField(CHAT_PROFILE.key, "string", "Chat profile.")
_CONVERSATION = RecordField(CONVERSATION_ID, "string", "Thread.")
_TURN_NUMBER = RecordField(
    "chainlit.turn.number", "integer", "Which turn of its session it is, from 1."
)
_TRACE = RecordField("trace_id", "string", "Trace of the turn, if it has one.")
_SESSION = (
    _SESSION_ID,
    RecordField(SESSION_TYPE.key, "string", "Type of the session."),
    _CLIENT,
    RecordField(SESSION_ORIGIN.key, "string", "Whether it is new or goes on with a stored thread."),
    _USER_HASH,
    _PROFILE,
)

SESSION_START_RECORD = RecordKind(
    "session.start", "A session, when it starts.", "session.start", _SESSION
)
SESSION_END_RECORD = RecordKind(
    "session.end",
    "A session, when it has ended.",
    "session.end",
    (
        *_SESSION,
        RecordField("chainlit.session.start", "time", "When it started."),
        RecordField(
            "chainlit.session.duration", "double", "Seconds from its start to its last disconnect."
        ),
        RecordField(
            "chainlit.session.connected", "double", "Seconds of these in which it was connected."
        ),
        RecordField(END_REASON.key, "string", "Why it ended."),
        RecordField("chainlit.session.turns.started", "integer", "Turns."),
        RecordField("chainlit.session.turns.ok", "integer", "Turns that were answered."),
        RecordField("chainlit.session.turns.error", "integer", "Turns that failed."),
        RecordField("chainlit.session.turns.cancelled", "integer", "Turns that were stopped."),
        RecordField("chainlit.session.reconnects", "integer", "How often its user came back."),
        RecordField(
            "chainlit.session.longest_gap",
            "double",
            "Seconds of the longest time without a connection after which its user came back.",
        ),
        RecordField(
            "chainlit.session.time_to_first_turn",
            "double",
            "Seconds from its start to the first message of its user.",
        ),
        RecordField(
            "chainlit.session.undelivered",
            "integer",
            "Messages, chunks, elements and questions that were sent to a socket that was gone.",
        ),
        RecordField("chainlit.session.feedback.positive", "integer", "Feedback that was good."),
        RecordField("chainlit.session.feedback.negative", "integer", "Feedback that was bad."),
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
        RecordField("span_id", "string", "Span of the turn, if it has one."),
        RecordField(
            "chainlit.turn.source",
            "string",
            "How the message came: `message`, `edit`, `voice` or `bot`.",
        ),
        _CLIENT,
        _USER_HASH,
        _PROFILE,
        RecordField("chainlit.turn.start", "time", "When the message arrived."),
        RecordField("chainlit.turn.duration", "double", "Seconds from then to the end."),
        RecordField(
            "chainlit.turn.time_to_first_token",
            "double",
            "Seconds from then to the first thing that the user could see or hear.",
        ),
        RecordField("chainlit.turn.chunks", "integer", "Chunks that were streamed."),
        RecordField(OUTCOME.key, "string", "Outcome."),
        RecordField(ERROR_TYPE, "string", "Class of the exception that made it fail."),
        RecordField(CALLBACK_NAME.key, "string", "Callback that raised it."),
        RecordField("chainlit.turn.steps", "integer", "Steps, tools included."),
        RecordField(
            "chainlit.turn.tools",
            "tools",
            "The first 50 steps of type `tool`: `name`, `duration` in seconds, `outcome`.",
        ),
        RecordField("chainlit.turn.input_size", "integer", "Characters of the user's message."),
        RecordField("chainlit.turn.output_size", "integer", "Characters of the answers."),
        RecordField(
            "chainlit.turn.undelivered",
            "integer",
            "Messages, chunks, elements and questions that were sent to a socket that was gone.",
        ),
        RecordField(
            "chainlit.turn.data_layer_errors",
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
    "chainlit.feedback",
    (
        _SESSION_ID,
        _TURN_NUMBER,
        _TRACE,
        RecordField(FEEDBACK_VALUE.key, "string", "`positive`, `negative` or `deleted`."),
        RecordField("chainlit.feedback.has_comment", "boolean", "Whether there is a comment."),
        _CLIENT,
        _USER_HASH,
        _PROFILE,
    ),
)
SCORE_RECORD = RecordKind(
    "score",
    "A score that the app has given to a turn by `record_score()`.",
    "gen_ai.evaluation.result",
    (
        _SESSION_ID,
        _TURN_NUMBER,
        _TRACE,
        RecordField("gen_ai.evaluation.name", "string", "Name of the score."),
        RecordField("gen_ai.evaluation.score.value", "double", "The score."),
        RecordField("gen_ai.evaluation.score.label", "string", "The score in a word."),
        _CLIENT,
        _USER_HASH,
        _PROFILE,
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
