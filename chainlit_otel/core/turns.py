"""The ledger of turns: a turn is a message of a user, and all that the app sends in answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from threading import Lock
from typing import Any, Literal, NamedTuple
from weakref import ReferenceType

from chainlit_otel.core.counts import Counts
from chainlit_otel.core.peaks import HighWaterMark
from chainlit_otel.core.sessions import NS, Clock, Session
from chainlit_otel.core.tools import ShownTools
from chainlit_otel.core.usage import Usage, UsageTotals

TurnSource = Literal["message", "edit", "voice", "bot"]

MAX_TOOLS = 50
"""How many tools of a turn are remembered one by one."""

MAX_SOCKET_CHANGES = 32
"""How many changes of its socket are remembered of a turn."""

NOWHERE = object()
"""In place of a room, where there is none."""

_CHUNKS = ("stream_start", "stream_token")


class ToolCall(NamedTuple):
    """One tool that has run in a turn.

    Attributes:
        name: Its name, as a bounded label.
        duration: Seconds that it took.
        outcome: `ok`, `error` or `cancelled`.
    """

    name: str
    duration: float
    outcome: str


class SocketChange(NamedTuple):
    """The socket of a turn's session was lost, or there is one again.

    Attributes:
        at: Monotonic time, in nanoseconds.
        is_back: Whether there is a socket again.
        reason: Why the socket was closed, if it was.
        chunks: Chunks streamed in the turn so far.
        undelivered: How much was sent so far to a socket that was gone.
    """

    at: int
    is_back: bool
    reason: str
    chunks: int
    undelivered: int


@dataclass(eq=False, slots=True)
class TurnReference:
    """What is left of a turn for those who judge it later, and what names it.

    Attributes:
        session: Its session; None if it had none.
        number: Which turn of its session it is, from 1; 0 if it is not known.
        profile: Chat profile, as a bounded label.
        trace_id: Trace of its span in hex digits; empty if that is not sampled.
        span_id: Its span, likewise.
        model: The model that has answered most of it, once it is over; empty without one.
        dropped: The ids of trace and span if these were not kept; a bad judgement may bring them
            back.
    """

    session: Session | None
    number: int = 0
    profile: str = ""
    trace_id: str = ""
    span_id: str = ""
    model: str = ""
    dropped: tuple[str, str] | None = None

    def drop_trace(self) -> None:
        """Its spans are not kept: nobody is to look for them."""
        self.dropped = self.trace_id, self.span_id
        self.trace_id = self.span_id = ""

    @property
    def is_synthetic(self) -> bool:
        """Whether it was a turn of a synthetic visitor."""
        return self.session is not None and self.session.is_synthetic


class Turn:
    """One turn; chunks are counted by plain assignments, since tokens are many.

    Attributes:
        arrived: Monotonic time at which the message arrived, in nanoseconds.
        profile: Chat profile, as a bounded label.
        source: How the message came.
        session: The session that it is one of; None if the message failed before it had one.
        is_synthetic: Whether it is a turn of a synthetic visitor.
        reference: What is kept of it for those who judge it.
        started_at: Wall clock of the arrival, in nanoseconds since the epoch.
        trace: Trace of its span as a number, sampled or not; 0 without a span.
        message_id: Id of the user's message; empty if it is not known.
        input_size: Characters of the user's message.
        output_sizes: Characters of each answer, by its id, as it was last sent.
        steps: How many steps have ended in it.
        tools: The first `MAX_TOOLS` calls of tools.
        shown_tools: Who has shown the last of them; None before the first.
        undelivered: How much was sent to a socket that was gone.
        lost_chunks: How much of that were chunks.
        socket_changes: The first `MAX_SOCKET_CHANGES` losses and returns of its socket.
        data_layer_errors: How many operations of the data layer have failed in it.
        failed_callback: Name of the callback that has raised `error`; empty if none has.
        error: The exception that a callback raised and Chainlit swallowed, if any. Whoever ends the
            turn may drop it then, since its traceback refers to objects of the app.
        error_type: Class of that exception; empty if there was none.
        cancelled: Whether the user, or the end of the process, stopped it.
        ended: Whether it is over.
        outcome_at_end: Its outcome, once it is over.
        usage: Its model calls; None before the first.
        spent: What they have used, by model, once it is over.
        chunks: Chunks streamed in it.
        last_chunk: Monotonic time of the last of them, in nanoseconds.
        room: The room they are streamed to, the same object for all of them; `NOWHERE` before the
            first, after the end, and when its socket is gone. For one more chunk to this room, it
            is enough to set `chunks` and `last_chunk`, without a call.
        task: The task that it runs in, if it has one; held weakly, as its callbacks refer to it.
    """

    __slots__ = (
        "arrived",
        "cancelled",
        "chunks",
        "data_layer_errors",
        "ended",
        "error",
        "error_type",
        "failed_callback",
        "first_chunk",
        "first_output",
        "input_size",
        "is_synthetic",
        "last_chunk",
        "lost_chunks",
        "lost_output",
        "message_id",
        "outcome_at_end",
        "output_sizes",
        "profile",
        "reference",
        "room",
        "session",
        "shown_tools",
        "socket_changes",
        "source",
        "spent",
        "started_at",
        "steps",
        "task",
        "tools",
        "trace",
        "undelivered",
        "usage",
    )

    def __init__(
        self,
        arrived: int,
        profile: str,
        source: TurnSource = "message",
        session: Session | None = None,
        started_at: int = 0,
    ) -> None:
        self.arrived = arrived
        self.profile = profile
        self.source: TurnSource = source
        self.session = session
        self.is_synthetic = session is not None and session.is_synthetic
        self.started_at = started_at
        self.reference = TurnReference(session, 0, profile)
        self.trace = 0
        self.message_id = ""
        self.input_size = 0
        self.output_sizes: dict[str, int] = {}
        self.steps = 0
        self.tools: tuple[ToolCall, ...] = ()
        self.shown_tools: ShownTools | None = None
        self.undelivered = 0
        self.lost_chunks = 0
        self.lost_output = False
        self.socket_changes: tuple[SocketChange, ...] = ()
        self.data_layer_errors = 0
        self.failed_callback = ""
        self.error: BaseException | None = None
        self.error_type = ""
        self.cancelled = False
        self.ended = False
        self.outcome_at_end = ""
        self.usage: Usage | None = None
        self.spent: dict[str, UsageTotals] | None = None
        self.chunks = 0
        self.first_output = 0
        self.first_chunk = 0
        self.last_chunk = 0
        self.room = NOWHERE
        self.task: ReferenceType[Any] | None = None

    def fail(self, error: BaseException, callback: str = "") -> None:
        """A callback, or other code of the app, has raised an exception: the first one counts."""
        if self.error is None:
            self.error, self.failed_callback = error, callback
            self.error_type = type(error).__qualname__

    def output(self, now: int) -> None:
        """Something that a user can see was sent, at monotonic time `now` (nanoseconds)."""
        if not self.first_output:
            self.first_output = now

    def chunk(self, now: int, room: object = NOWHERE) -> None:
        """A chunk was streamed to `room`, at monotonic time `now` (nanoseconds)."""
        self._pace(now)
        if self.chunks == 0:
            self.output(now)
        self.chunks += 1
        self.room = room

    def lose(self, event: str, now: int) -> None:
        """Content was sent to a socket that is gone, at monotonic time `now` (nanoseconds)."""
        self.undelivered += 1
        # A step is no answer, whether or not somebody sees it.
        self.lost_output = self.lost_output or event != "step"
        if event in _CHUNKS:
            self._pace(now)
            self.lost_chunks += 1

    def _pace(self, now: int) -> None:
        if not self.first_chunk:
            self.first_chunk = now
        self.last_chunk = now

    @property
    def is_silent(self) -> bool:
        """Whether the app has answered nothing yet, not even to a socket that is gone."""
        return not (self.first_output or self.lost_output)

    @property
    def outcome(self) -> str:
        """`error`, `cancelled` or `ok`. An error that was recorded wins over a stop."""
        if self.error_type:
            return "error"
        return "cancelled" if self.cancelled else "ok"

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the arrival to the first output; None if there was none."""
        return (self.first_output - self.arrived) / NS if self.first_output else None

    @property
    def time_per_output_chunk(self) -> float | None:
        """Mean seconds between two chunks, lost ones included; None for less than two."""
        chunks = self.chunks + self.lost_chunks
        if chunks < 2:
            return None
        return (self.last_chunk - self.first_chunk) / (chunks - 1) / NS

    def wall_time(self, at: int) -> int:
        """Return a moment of the turn by the wall clock, in nanoseconds since the epoch.

        Args:
            at: The moment by the monotonic clock, in nanoseconds.
        """
        return self.started_at + at - self.arrived


OnTurnEnd = Callable[[Turn, float], None]
"""Called with the turn and its duration in seconds."""


class TurnLedger:
    """The ledger of all turns and of the messages in them. Thread-safe.

    Args:
        on_end: Called with each turn that ended, after it was recorded.
        clock: Monotonic clock, in nanoseconds.
        wall: Wall clock, in nanoseconds since the epoch.

    Attributes:
        messages: Messages, by direction.
        dropped: Content sent to sockets that are gone, by event.
    """

    def __init__(
        self,
        on_end: OnTurnEnd,
        clock: Clock = time.monotonic_ns,
        wall: Clock = time.time_ns,
    ) -> None:
        self._on_end = on_end
        self._clock = clock
        self._wall = wall
        self._lock = Lock()
        self._open: set[Turn] = set()
        self._peak = HighWaterMark(clock(), wall())
        self._chunks = 0
        self._undelivered = 0
        self.messages: Counts[tuple[str, ...]] = Counts()
        self.dropped: Counter[tuple[str, ...]] = Counter()

    def start(
        self,
        arrived: int,
        profile: str,
        source: TurnSource = "message",
        session: Session | None = None,
    ) -> Turn:
        """Open a turn.

        Args:
            arrived: Monotonic time at which the message arrived, in nanoseconds.
            profile: Chat profile, as a bounded label.
            source: How the message came.
            session: The session that the turn is one of, if it has one.
        """
        with self._lock:
            now, wall = self._clock(), self._wall()
            turn = Turn(arrived, profile, source, session, wall - (now - arrived))
            self._open.add(turn)
            self._peak.move(len(self._open), now, wall)
        return turn

    def end(self, turn: Turn) -> None:
        """End the turn; a second call does nothing."""
        with self._lock:
            if turn.ended:
                return
            now, outcome = self._clock(), turn.outcome
            turn.ended, turn.room, turn.outcome_at_end = True, NOWHERE, outcome
            self._chunks += turn.chunks
            self._undelivered += turn.undelivered > 0
            self._open.discard(turn)
            self._peak.move(len(self._open), now, self._wall())
            if (session := turn.session) is not None:
                outcomes = session.outcomes
                outcomes[outcome] = outcomes.get(outcome, 0) + 1
                session.record("turn_end", now, turn.error_type or outcome)
        self._on_end(turn, (now - turn.arrived) / NS)

    def message(self, direction: str) -> None:
        """A message was received from a user, or sent to one."""
        self.messages.add((direction,))

    def drop(self, event: str, turn: Turn | None = None, session: Session | None = None) -> None:
        """Content was sent to a socket that is gone.

        Args:
            event: What was sent.
            turn: The turn in which it was sent, if it was in one.
            session: The session that it was sent to, if that is known.
        """
        with self._lock:
            self.dropped[(event,)] += 1
            if turn is not None and not turn.ended:
                turn.lose(event, self._clock())
            if session is not None:
                session.undelivered += 1
                session.record("undelivered", self._clock(), event)

    def change_socket(self, session: Session, is_back: bool) -> None:
        """The socket of a session was lost, or it has one again: its turns under way note that."""
        with self._lock:
            now, reason = self._clock(), "" if is_back else session.close_reason
            # All of them are looked through: a socket changes less often than a turn starts.
            for turn in self._open:
                if turn.session is session and len(turn.socket_changes) < MAX_SOCKET_CHANGES:
                    turn.socket_changes += (
                        SocketChange(now, is_back, reason, turn.chunks, turn.undelivered),
                    )

    def close_room(self, room: object) -> None:
        """A room is gone: what is streamed to it from now on is seen by nobody."""
        with self._lock:
            for turn in self._open:
                if turn.room == room:
                    turn.room = NOWHERE

    def of_task(self, task: Any) -> Turn | None:
        """Return the turn under way that a task runs; None if it runs none."""
        with self._lock:
            # All of them are looked through: tasks are looked up less often than a turn starts.
            running = [t for t in self._open if t.task is not None and t.task() is task]
        return max(running, key=attrgetter("arrived"), default=None)

    def record_step(self, turn: Turn) -> None:
        """A step of a turn has ended. Threads of the app have steps, too."""
        with self._lock:
            turn.steps += 1

    def record_tool(
        self, turn: Turn, source: str, name: str, start: int, end: int, tool: ToolCall
    ) -> bool:
        """A call of a tool has ended, in a thread or not.

        Args:
            turn: The turn that it is in.
            source: Who shows it.
            name: Its name.
            start: When it began, by the wall clock, in nanoseconds since the epoch.
            end: When it ended, likewise.
            tool: What is kept of it.

        Returns:
            Whether nobody has shown it before, see `ShownTools.add`.
        """
        with self._lock:
            if turn.shown_tools is None:
                turn.shown_tools = ShownTools()
            is_new = turn.shown_tools.add(source, name, start, end)
            if is_new and not turn.ended and len(turn.tools) < MAX_TOOLS:
                turn.tools += (tool,)
            return is_new

    def record_data_layer_error(self, turn: Turn) -> None:
        """An operation of the data layer has failed in a turn."""
        with self._lock:
            turn.data_layer_errors += 1

    def cancel_all(self) -> None:
        """Every turn under way ends as cancelled, because the process stops."""
        with self._lock:
            turns = list(self._open)
        for turn in turns:
            turn.cancelled = True
            self.end(turn)

    def streamed(self, turn: Turn | None, now: int, room: object = NOWHERE) -> None:
        """A chunk was streamed to `room`, in a turn or, if None, outside of any.

        A task that outlives its turn may go on to stream; that does not change the turn.
        """
        if turn is not None and not turn.ended:
            turn.chunk(now, room)
        else:
            with self._lock:
                self._chunks += 1

    def chunks(self) -> dict[tuple[str, ...], int]:
        """Chunks streamed, those of the turns under way included."""
        with self._lock:
            return {(): self._chunks + sum(turn.chunks for turn in self._open)}

    def undelivered(self) -> dict[tuple[str, ...], int]:
        """Turns that have ended of which something was sent to a socket that was gone."""
        return {(): self._undelivered}

    def oldest_waiting(self) -> dict[tuple[str, ...], float]:
        """Seconds since the arrival of the oldest message that has no answer yet; 0 without one."""
        with self._lock:
            arrived = min((turn.arrived for turn in self._open if turn.is_silent), default=None)
            return {(): 0.0 if arrived is None else (self._clock() - arrived) / NS}

    def open(self) -> list[Turn]:
        """Turns under way."""
        with self._lock:
            return list(self._open)

    def active(self) -> dict[tuple[str, ...], int]:
        """Turns under way."""
        return {(): len(self._open)}

    def peaks(self) -> dict[tuple[str, ...], int]:
        """Most turns under way at once, by window."""
        with self._lock:
            values = self._peak.values(self._clock(), self._wall())
        return {(window,): n for window, n in values.items()}
