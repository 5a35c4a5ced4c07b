"""From sessions and turns to rows, as the catalogue says. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, NamedTuple

from chainlit_otel import catalog
from chainlit_otel.core.sessions import NS, Session
from chainlit_otel.core.turns import Turn, TurnReference
from chainlit_otel.core.usage import UsageTotals, sum_of

_DIGITS = 6  # of seconds: a microsecond
_LONGEST = 256  # characters of a text; apps name scores, and classes of exceptions


class Record(NamedTuple):
    """One record.

    Attributes:
        kind: What it is about.
        time: When it happened, in nanoseconds since the epoch.
        values: The values of its fields, by their OpenTelemetry keys; None and an empty text stand
            for a field that is not there.
    """

    kind: catalog.RecordKind
    time: int
    values: Mapping[str, Any]


def shortened(text: str) -> str:
    """Return a text as every store can take it: UTF-8, and no more than 256 characters."""
    if text.isascii() and len(text) <= _LONGEST:
        return text
    return text[:_LONGEST].encode(errors="replace").decode()


def fields_of(row: Record) -> dict[str, Any]:
    """Return the fields that a record has, by their keys, texts as every store takes them."""
    # False and zero say something; None, an empty text and an empty list do not.
    return {
        key: shortened(value) if isinstance(value, str) else value
        for key, value in row.values.items()
        if value or value == 0
    }


def rfc3339(at: int) -> str:
    """Return a time, in nanoseconds since the epoch, as RFC 3339 has it, in UTC."""
    seconds, rest = divmod(at, NS)
    return f"{_to_the_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=64)
def _to_the_second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%S}"


def session_started(session: Session) -> Record:
    """Return the record of a session that has started."""
    return Record(catalog.SESSION_START_RECORD, session.started_at, _session(session))


def session_ended(session: Session, reason: str, seconds: float, now: int) -> Record:
    """Return the record of a session that has ended.

    Args:
        session: The session.
        reason: Why it has ended.
        seconds: Its duration.
        now: The time, in nanoseconds since the epoch.
    """
    first = session.first_turn
    outcomes, feedback = session.outcomes, session.feedback
    values = {
        **_session(session),
        catalog.SESSION_STARTED_AT: rfc3339(session.started_at),
        catalog.SESSION_SECONDS: round(seconds, _DIGITS),
        catalog.SESSION_CONNECTED: round(seconds - session.away / NS, _DIGITS),
        catalog.END_REASON.key: reason,
        catalog.TURNS_STARTED: session.turns,
        catalog.TURNS_OK: outcomes.get("ok", 0),
        catalog.TURNS_ERROR: outcomes.get("error", 0),
        catalog.TURNS_CANCELLED: outcomes.get("cancelled", 0),
        catalog.RECONNECTS: session.reconnects,
        catalog.LONGEST_GAP: _seconds(session.longest_gap or None),
        catalog.TIME_TO_FIRST_TURN: _seconds(None if first is None else first - session.started),
        catalog.SESSION_UNDELIVERED: session.undelivered,
        **({} if session.spent is None else usage_of(catalog.SESSION_USAGE, session.spent)),
        catalog.FEEDBACK_POSITIVE: feedback.get("positive", 0),
        catalog.FEEDBACK_NEGATIVE: feedback.get("negative", 0),
        catalog.CLOSE_REASON.key: session.close_reason,
        catalog.CONVERSATION_ID: session.conversation,
    }
    return Record(catalog.SESSION_END_RECORD, now, values)


def turn_ended(turn: Turn, seconds: float) -> Record:
    """Return the record of a turn that has ended.

    Args:
        turn: The turn.
        seconds: Its duration.
    """
    session, first = turn.session, turn.time_to_first_token
    values = {
        **_turn(turn.reference),
        catalog.TURN_SOURCE: turn.source,
        catalog.TURN_STARTED_AT: rfc3339(turn.started_at),
        catalog.TURN_SECONDS: round(seconds, _DIGITS),
        catalog.FIRST_TOKEN_SECONDS: None if first is None else round(first, _DIGITS),
        catalog.TURN_CHUNKS: turn.chunks,
        catalog.OUTCOME.key: turn.outcome,
        catalog.ERROR_TYPE: turn.error_type,
        catalog.CALLBACK_NAME.key: turn.failed_callback or None,
        catalog.TURN_STEPS: turn.steps,
        catalog.TURN_TOOLS: [
            {"name": t.name, "duration": round(t.duration, _DIGITS), "outcome": t.outcome}
            for t in turn.tools
        ],
        **(_spent(turn.spent) if turn.spent else {}),
        catalog.INPUT_SIZE: turn.input_size,
        catalog.OUTPUT_SIZE: sum(turn.output_sizes.values()),
        catalog.TURN_UNDELIVERED: turn.undelivered,
        catalog.DATA_LAYER_ERRORS: turn.data_layer_errors,
        catalog.CONVERSATION_ID: "" if session is None else session.conversation,
    }
    return Record(catalog.TURN_RECORD, turn.started_at + round(seconds * NS), values)


def feedback_given(
    turn: TurnReference | None, message: str, value: str, has_comment: bool | None, now: int
) -> Record:
    """Return the record of feedback.

    Args:
        turn: The turn that it is about; None if that is not known.
        message: What stands for the message that it is about; empty if that is not known.
        value: `positive`, `negative` or `deleted`.
        has_comment: Whether there is a comment; None if it is deleted.
        now: The time, in nanoseconds since the epoch.
    """
    values = {
        **({} if turn is None else _judged(turn)),
        catalog.FEEDBACK_MESSAGE: message,
        catalog.FEEDBACK_VALUE.key: value,
        catalog.HAS_COMMENT: has_comment,
        **evaluation(catalog.USER_FEEDBACK, catalog.FEEDBACK_SCORES.get(value), value),
    }
    return Record(catalog.FEEDBACK_RECORD, now, values)


def score_given(
    turn: TurnReference | None, name: str, value: float, label: str | None, now: int
) -> Record:
    """Return the record of a score.

    Args:
        turn: The turn that it is about; None if there is none.
        name: Name of the score.
        value: The score.
        label: The score in a word, if it has one.
        now: The time, in nanoseconds since the epoch.
    """
    values = {
        **({} if turn is None else _judged(turn)),
        **evaluation(name, value, label),
    }
    return Record(catalog.SCORE_RECORD, now, values)


def evaluation(name: str, value: float | None, label: str | None) -> dict[str, Any]:
    """Return the attributes of the result of an evaluation, None for what it does not have."""
    return {
        catalog.EVALUATION_NAME: name,
        catalog.EVALUATION_SCORE: value,
        catalog.EVALUATION_LABEL: label,
    }


def usage_of(prefix: str, totals: UsageTotals) -> dict[str, Any]:
    """Return what model calls have used, by the keys that begin with `prefix`."""
    return {f"{prefix}{name}": value for name, value in totals.values().items()}


def _spent(spent: Mapping[str, UsageTotals]) -> dict[str, Any]:
    models = [{"name": name, **totals.values()} for name, totals in spent.items()]
    return {catalog.TURN_MODELS: models, **usage_of(catalog.TURN_USAGE, sum_of(spent))}


def _seconds(nanoseconds: int | None) -> float | None:
    return None if nanoseconds is None else round(nanoseconds / NS, _DIGITS)


def _session(session: Session) -> dict[str, Any]:
    return {
        catalog.SESSION_ID: session.hash,
        catalog.SESSION_TYPE.key: session.type,
        catalog.CLIENT_TYPE.key: session.client,
        catalog.SESSION_ORIGIN.key: session.origin,
        catalog.USER_HASH: session.user,
        catalog.CHAT_PROFILE.key: session.profile,
    }


def _judged(turn: TurnReference) -> dict[str, Any]:
    return {**_turn(turn), catalog.REQUEST_MODEL.key: turn.model}


def _turn(turn: TurnReference) -> dict[str, Any]:
    values: dict[str, Any] = {
        catalog.TURN_NUMBER: turn.number or None,
        catalog.ID_OF_TRACE: turn.trace_id,
        catalog.ID_OF_SPAN: turn.span_id,
        catalog.CHAT_PROFILE.key: turn.profile,
    }
    if (session := turn.session) is not None:
        values[catalog.SESSION_ID] = session.hash
        values[catalog.CLIENT_TYPE.key] = session.client
        values[catalog.USER_HASH] = session.user
    return values
