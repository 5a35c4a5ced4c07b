"""The ledger of turns: a turn is a message of a user, and all that the app sends in answer."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from threading import Lock

from chainlit_otel.core.peaks import HighWaterMark
from chainlit_otel.core.sessions import NS, Clock


class Turn:
    """One turn; chunks are counted by plain assignments, since tokens are many.

    Attributes:
        arrived: Monotonic time at which the message arrived, in nanoseconds.
        profile: Chat profile, as a bounded label.
        message_id: Id of the user's message; empty if it is not known.
        error: The exception that a callback raised and Chainlit swallowed, if any.
        cancelled: Whether the user, or the end of the process, stopped it.
        ended: Whether it is over.
        chunks: Chunks streamed in it.
        last_chunk: Monotonic time of the last of them, in nanoseconds.
        room: The room they are streamed to, the same object for all of them; None before the
            first and after the end. For one more chunk to this room, it is enough to set
            `chunks` and `last_chunk`, without a call.
    """

    __slots__ = (
        "arrived",
        "cancelled",
        "chunks",
        "ended",
        "error",
        "first_chunk",
        "first_output",
        "last_chunk",
        "message_id",
        "profile",
        "room",
    )

    def __init__(self, arrived: int, profile: str) -> None:
        self.arrived = arrived
        self.profile = profile
        self.message_id = ""
        self.error: BaseException | None = None
        self.cancelled = False
        self.ended = False
        self.chunks = 0
        self.first_output = 0
        self.first_chunk = 0
        self.last_chunk = 0
        self.room: object = None

    def output(self, now: int) -> None:
        """Something that a user can see was sent, at monotonic time `now` (nanoseconds)."""
        if not self.first_output:
            self.first_output = now

    def chunk(self, now: int, room: object = None) -> None:
        """A chunk was streamed to `room`, at monotonic time `now` (nanoseconds)."""
        if self.chunks == 0:
            self.first_chunk = now
            self.output(now)
        self.last_chunk = now
        self.chunks += 1
        self.room = room

    @property
    def outcome(self) -> str:
        """`error`, `cancelled` or `ok`. An error that was recorded wins over a stop."""
        if self.error is not None:
            return "error"
        return "cancelled" if self.cancelled else "ok"

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the arrival to the first output; None if there was none."""
        return (self.first_output - self.arrived) / NS if self.first_output else None

    @property
    def time_per_output_chunk(self) -> float | None:
        """Mean seconds between two chunks; None for less than two."""
        if self.chunks < 2:
            return None
        return (self.last_chunk - self.first_chunk) / (self.chunks - 1) / NS


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
        self, on_end: OnTurnEnd, clock: Clock = time.monotonic_ns, wall: Clock = time.time_ns
    ) -> None:
        self._on_end = on_end
        self._clock = clock
        self._wall = wall
        self._lock = Lock()
        self._open: set[Turn] = set()
        self._peak = HighWaterMark(clock(), wall())
        self._chunks = 0
        self.messages: Counter[tuple[str, ...]] = Counter()
        self.dropped: Counter[tuple[str, ...]] = Counter()

    def start(self, arrived: int, profile: str) -> Turn:
        """Open a turn for a message that arrived at monotonic time `arrived` (nanoseconds)."""
        turn = Turn(arrived, profile)
        with self._lock:
            self._open.add(turn)
            self._peak.move(len(self._open), self._clock(), self._wall())
        return turn

    def end(self, turn: Turn) -> None:
        """End the turn; a second call does nothing."""
        with self._lock:
            if turn.ended:
                return
            turn.ended, turn.room = True, None
            self._chunks += turn.chunks
            self._open.discard(turn)
            self._peak.move(len(self._open), self._clock(), self._wall())
        self._on_end(turn, (self._clock() - turn.arrived) / NS)

    def message(self, direction: str) -> None:
        """A message was received from a user, or sent to one."""
        with self._lock:
            self.messages[(direction,)] += 1

    def drop(self, event: str) -> None:
        """Content was sent to a socket that is gone."""
        with self._lock:
            self.dropped[(event,)] += 1

    def cancel_all(self) -> None:
        """Every turn under way ends as cancelled, because the process stops."""
        with self._lock:
            turns = list(self._open)
        for turn in turns:
            turn.cancelled = True
            self.end(turn)

    def streamed(self, turn: Turn | None, now: int, room: object = None) -> None:
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

    def active(self) -> dict[tuple[str, ...], int]:
        """Turns under way."""
        return {(): len(self._open)}

    def peaks(self) -> dict[tuple[str, ...], int]:
        """Most turns under way at once, by window."""
        with self._lock:
            values = self._peak.values(self._clock(), self._wall())
        return {(window,): n for window, n in values.items()}
