"""From sessions and turns to the rows of the page. Pure.

Times are those of the monotonic clock, as the wall clock has them now: after a step of that, ages
are right, and what follows each other does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from chainlit_otel.core.journal import MS, SessionEvent
from chainlit_otel.core.sessions import Session
from chainlit_otel.core.turns import Turn
from chainlit_otel.core.usage import UsageTotals

Row = dict[str, Any]

At = Callable[[int], float]
"""Returns seconds since the epoch for a monotonic time in nanoseconds."""

_LONGEST = 200  # characters of the name of an exception
_DIGITS = 6  # of seconds: a microsecond


class EndedSession(NamedTuple):
    """A session that has ended.

    Attributes:
        session: The session.
        reason: Why it has ended.
        seconds: Its duration.
    """

    session: Session
    reason: str
    seconds: float

    @property
    def had_trouble(self) -> bool:
        """Whether something went wrong in it."""
        session = self.session
        return bool(session.outcomes.get("error") or session.undelivered)


class Doing(NamedTuple):
    """What a session is doing at this moment.

    Attributes:
        since: Monotonic time of the start of its turn, in nanoseconds.
        callback: The callback under way; empty if that is not known.
        step: The innermost step under way; empty if there is none.
    """

    since: int
    callback: str
    step: str


def key_of(session: Session) -> str:
    """Return what tells a session from all others, also from those with the same id."""
    return f"{session.hash}-{session.started_at // 1000:x}"


def session_row(
    session: Session,
    at: At,
    doing: Doing | None = None,
    end: EndedSession | None = None,
) -> Row:
    """Return the row of a session.

    Args:
        session: The session.
        at: What time it was.
        doing: What it is doing; None if it is idle.
        end: Its end; None if it is open.
    """
    left, outcomes = session.left, session.outcomes
    state = "connected" if left is None else "disconnected"
    return {
        "key": key_of(session),
        "id": session.hash,
        "mode": session.type,
        "client": session.client,
        "profile": session.profile,
        "origin": session.origin,
        "state": state if end is None else "ended",
        "started": at(session.started),
        "left": None if left is None else at(left),
        "turns": session.turns,
        "errors": outcomes.get("error", 0),
        "cancelled": outcomes.get("cancelled", 0),
        "reconnects": session.reconnects,
        "undelivered": session.undelivered,
        "doing": None
        if doing is None
        else {"since": at(doing.since), "callback": doing.callback, "step": doing.step},
        "reason": "" if end is None else end.reason,
        "seconds": None if end is None else round(end.seconds, _DIGITS),
    }


def turn_row(key: str, turn: Turn, seconds: float, at: At, kept: str, trace_url: str) -> Row:
    """Return the row of a turn that has ended.

    Args:
        key: What tells it from all others.
        turn: The turn.
        seconds: Its duration.
        at: What time it was.
        kept: Why it is kept: `last`, `failed` or `slow`.
        trace_url: Where its trace is to be seen; empty if nowhere.
    """
    session, first = turn.session, turn.time_to_first_token
    return {
        "key": key,
        "session": "" if session is None else session.hash,
        "session_key": "" if session is None else key_of(session),
        "client": "" if session is None else session.client,
        "number": turn.reference.number,
        "source": turn.source,
        "profile": turn.profile,
        "started": at(turn.arrived),
        "seconds": round(seconds, _DIGITS),
        "first_token": None if first is None else round(first, _DIGITS),
        "chunks": turn.chunks,
        "outcome": turn.outcome_at_end,
        "error": turn.error_type[:_LONGEST],
        "callback": turn.failed_callback,
        "steps": turn.steps,
        "tools": [
            {"name": name, "seconds": round(seconds, _DIGITS), "outcome": outcome}
            for name, seconds, outcome in turn.tools
        ],
        "models": [{"name": name, **used.values()} for name, used in _spent(turn)],
        "undelivered": turn.undelivered,
        "data_layer_errors": turn.data_layer_errors,
        "trace_id": turn.reference.trace_id,
        "trace_url": trace_url,
        "kept": kept,
    }


def _spent(turn: Turn) -> list[tuple[str, UsageTotals]]:
    # A task that outlives its turn may go on to use models.
    return [] if turn.spent is None else list(turn.spent.items())


def event_row(session: Session, event: SessionEvent, at: At) -> Row:
    """Return the row of an event of a session.

    Args:
        session: The session.
        event: The event.
        at: What time it was.
    """
    when = at(session.started + event.after * MS)
    return {"at": when, "kind": event.kind, "detail": event.detail}
