"""The session state machine and the ledger of all sessions of this process.

    start --> CONNECTED --drop--> DISCONNECTED --restore--> CONNECTED
                  |                     |
                  +---------end---------+--> ENDED

A session's duration runs from its start to its last disconnect, on the monotonic clock; the
grace time in which a user may come back is not part of it. All times are whole nanoseconds,
so that sums of durations are exact.
"""

from __future__ import annotations

import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Literal

from chainlit_otel.core.journal import EventKind, Events, Journal
from chainlit_otel.core.peaks import HighWaterMark
from chainlit_otel.core.usage import UsageTotals

SessionType = Literal["websocket", "http"]
Clock = Callable[[], int]
OnEnd = Callable[["Session", str, float], None]
"""Called with the session, its end reason and its duration in seconds."""

NS = 1_000_000_000


class Session:
    """A handle on one session; its fields belong to the ledger.

    Attributes:
        type: `websocket` or `http`.
        client: Client type.
        started: Monotonic time of the start, in nanoseconds.
        left: Monotonic time of the disconnect, in nanoseconds; None while connected.
        ended: Whether the session is over.
        hash: The hash of its id, which is exported in place of the id.
        origin: `new` or `thread_resume`.
        started_at: Wall clock of the start, in nanoseconds since the epoch.
        away: Nanoseconds between disconnects and the reconnects that followed them.
        longest_gap: The longest of these, in nanoseconds.
        reconnects: How often a socket has taken it up.
        turns: How many turns it has had.
        first_turn: Monotonic time of the start of the first of them, in nanoseconds.
        outcomes: How many turns have ended, by outcome.
        feedback: How much feedback there was, by value.
        undelivered: How much was sent to a socket that was gone.
        close_reason: Why its last connection closed.
        profile: Chat profile, as a bounded label.
        user: What stands for the user who is signed in; empty if there is none, or no key for it.
        conversation: Thread id.
        events: What has happened in it; None if nobody keeps that.
        spent: What the model calls of its turns that have ended used; None without any.
        is_synthetic: Whether it is a session of a synthetic visitor.
    """

    __slots__ = (
        "away",
        "client",
        "close_reason",
        "conversation",
        "ended",
        "events",
        "feedback",
        "first_turn",
        "hash",
        "is_synthetic",
        "left",
        "longest_gap",
        "origin",
        "outcomes",
        "profile",
        "reconnects",
        "spent",
        "started",
        "started_at",
        "turns",
        "type",
        "undelivered",
        "user",
    )

    def __init__(
        self,
        type: SessionType,
        client: str,
        hash: str,
        started: int,
        origin: str = "",
        started_at: int = 0,
    ) -> None:
        self.type: SessionType = type
        self.client = client
        self.hash = hash
        self.origin = origin
        self.started = started
        self.started_at = started_at
        self.left: int | None = None
        self.ended = False
        self.away = 0
        self.longest_gap = 0
        self.reconnects = 0
        self.turns = 0
        self.first_turn: int | None = None
        self.outcomes: dict[str, int] = {}
        self.feedback: dict[str, int] = {}
        self.undelivered = 0
        self.close_reason = ""
        self.profile = ""
        self.user = ""
        self.conversation = ""
        self.events: Events | None = None
        self.spent: UsageTotals | None = None
        self.is_synthetic = False

    @property
    def outcome(self) -> str:
        """The worst outcome of its turns so far: `error`, `cancelled` or `ok`."""
        return next((name for name in ("error", "cancelled") if self.outcomes.get(name)), "ok")

    def record(self, kind: EventKind, at: int, detail: str | int = "") -> None:
        """Something has happened in it; keep that, if somebody is to see it.

        Args:
            kind: What has happened.
            at: Monotonic time, in nanoseconds.
            detail: More about it.
        """
        if self.events is not None:
            self.events.journal.add(self.events, kind, at - self.started, detail)


class _SessionTimeAccumulator:
    """The open sessions of one type, and the time spent in all sessions of it.

    For the connected ones it keeps only their number and the sum of their start times, so a
    reading costs the same for any number of them.
    """

    def __init__(self) -> None:
        self.open: OrderedDict[Session, None] = OrderedDict()
        self._stopped = 0
        self._running = 0
        self._running_starts = 0

    def start(self, session: Session) -> None:
        self._running += 1
        self._running_starts += session.started

    def stop(self, session: Session, until: int) -> None:
        self._running -= 1
        self._running_starts -= session.started
        self._stopped += until - session.started

    def resume(self, session: Session, since: int) -> None:
        self._stopped -= since - session.started
        self.start(session)

    def total(self, now: int) -> int:
        return self._stopped + self._running * now - self._running_starts


class SessionLedger:
    """The ledger of all sessions. Thread-safe; every reading costs the same at any size.

    Args:
        on_end: Called with each session that ended, after it was recorded.
        clock: Monotonic clock, in nanoseconds.
        wall: Wall clock, in nanoseconds since the epoch.
        journal: Keeps what happens in each session, if somebody is to see it.
        is_synthetic: Whether its sessions are those of synthetic visitors.
    """

    def __init__(
        self,
        on_end: OnEnd,
        clock: Clock = time.monotonic_ns,
        wall: Clock = time.time_ns,
        journal: Journal | None = None,
        is_synthetic: bool = False,
    ) -> None:
        self._on_end = on_end
        self._is_synthetic = is_synthetic
        self._journal = journal
        self._clock = clock
        self._wall = wall
        self._lock = Lock()
        self._by_type: dict[str, _SessionTimeAccumulator] = {
            "websocket": _SessionTimeAccumulator(),
            "http": _SessionTimeAccumulator(),
        }
        self._starts: Counter[tuple[str, ...]] = Counter()
        self._ends: Counter[tuple[str, ...]] = Counter()
        self._active: Counter[tuple[str, ...]] = Counter()
        self._reconnects: Counter[tuple[str, ...]] = Counter()
        self._now = clock()
        self._peak = HighWaterMark(self._now, wall())
        self._finalized: deque[tuple[Session, str, int]] = deque()

    # Events

    def start(self, type: SessionType, client: str, origin: str, hash: str = "") -> Session:
        """Start a session, which is connected, and return its handle."""
        with self._transaction() as (now, _):
            session = Session(type, client, hash, now, origin, self._wall())
            session.is_synthetic = self._is_synthetic
            if self._journal is not None:
                session.events = Events(self._journal)
                session.record("connect", now)
            sessions = self._by_type[type]
            sessions.open[session] = None
            sessions.start(session)
            self._starts[type, client, origin] += 1
            self._count(session, "connected", +1)
        return session

    def drop(self, session: Session) -> bool:
        """The current socket of the session is gone; its user may come back.

        Returns:
            Whether it was connected.
        """
        with self._transaction() as (now, _):
            is_lost = not session.ended and session.left is None
            if is_lost:
                self._leave(session, now)
                self._count(session, "disconnected", +1)
                session.record("drop", now, session.close_reason)
        return is_lost

    def restore(self, session: Session) -> bool:
        """A socket has reconnected to the session.

        Returns:
            False, and nothing is recorded, if the session has ended in this ledger.
        """
        with self._transaction() as (now, _):
            if session.ended:
                return False
            self._reconnects[(session.client,)] += 1
            session.reconnects += 1
            session.record("reconnect", now)
            if session.left is not None:
                gap = now - session.left
                session.away += gap
                session.longest_gap = max(session.longest_gap, gap)
                self._by_type[session.type].resume(session, session.left)
                session.left = None
                self._count(session, "disconnected", -1)
                self._count(session, "connected", +1)
        return True

    def start_turn(self, session: Session) -> int:
        """A turn of the session starts; return which one it is, from 1."""
        # No transaction, which costs more than all the rest: a turn changes no time spent.
        with self._lock:
            now = self._clock()
            if session.first_turn is None:
                session.first_turn = now
            session.turns += 1
            session.record("turn", now, session.turns)
            return session.turns

    def record_event(self, session: Session, kind: EventKind, detail: str = "") -> None:
        """Something has happened in a session that is kept with its other events only."""
        session.record(kind, self._clock(), detail)

    def end(self, session: Session, reason: str) -> None:
        """End the session; a second call does nothing."""
        with self._transaction() as (now, ended):
            self._end(session, reason, now, ended)

    def expire(self, session: Session, left: int | None) -> bool:
        """End the session by `timeout` if it has been disconnected since `left`.

        Returns:
            Whether this ended the session.
        """
        with self._transaction() as (now, ended):
            if session.ended or left is None or session.left != left:
                return False
            self._end(session, "timeout", now, ended)
        return True

    def finalized(self, session: Session, reason: str) -> None:
        """The host's object of the session was finalized.

        Safe to call from a finalizer, which may run at any instruction of any thread, even inside
        this ledger: it takes no lock, and the next reading or event records it.
        """
        self._finalized.append((session, reason, self._clock()))

    def record_finalized(self) -> None:
        """Record the sessions that were finalized, and are not recorded yet."""
        with self._transaction():
            pass

    def end_all(self, reason: str) -> None:
        """End every open session."""
        with self._transaction() as (now, ended):
            for sessions in self._by_type.values():
                for session in list(sessions.open):
                    self._end(session, reason, now, ended)

    # Readings

    def open(self) -> list[Session]:
        """Open sessions, the oldest of each type first."""
        with self._transaction():
            return [session for sessions in self._by_type.values() for session in sessions.open]

    def starts(self) -> dict[tuple[str, ...], int]:
        """Sessions started, by type, client type and origin."""
        with self._transaction():
            return dict(self._starts)

    def ends(self) -> dict[tuple[str, ...], int]:
        """Sessions ended, by type, client type and end reason."""
        with self._transaction():
            return dict(self._ends)

    def active(self) -> dict[tuple[str, ...], int]:
        """Open sessions, by type, client type and state."""
        with self._transaction():
            return dict(self._active)

    def reconnects(self) -> dict[tuple[str, ...], int]:
        """Reconnects, by client type."""
        with self._transaction():
            return dict(self._reconnects)

    def peaks(self) -> dict[tuple[str, ...], int]:
        """Most websocket sessions connected at once, by window."""
        with self._transaction() as (now, _):
            return {(window,): n for window, n in self._peak.values(now, self._wall()).items()}

    def time(self) -> dict[tuple[str, ...], float]:
        """Seconds spent in all sessions, open ones included, by type.

        It increases while a session is connected, and by the gap when one reconnects, so that
        once all have ended it is the sum of their durations. Divided by the number of
        ends it estimates the mean duration without the bias towards short sessions that the
        mean of the completed ones has (Little 1961, L = lambda W).
        """
        with self._transaction() as (now, _):
            return {(type,): sessions.total(now) / NS for type, sessions in self._by_type.items()}

    def oldest_age(self) -> dict[tuple[str, ...], float]:
        """Seconds since the start of the oldest open session, by type; 0 if there is none."""
        with self._transaction() as (now, _):
            return {
                (type,): (now - next(iter(sessions.open)).started) / NS if sessions.open else 0.0
                for type, sessions in self._by_type.items()
            }

    # Inside a transaction

    @contextmanager
    def _transaction(self) -> Iterator[tuple[int, list[tuple[Session, str]]]]:
        """Hold the lock; yield the time, and a list for the sessions that end."""
        ended: list[tuple[Session, str]] = []
        with self._lock:
            # The time first: a session finalized after it is then recorded by the next
            # transaction, and the time spent in sessions never runs backwards.
            before, self._now = self._now, self._clock()
            now = self._now
            while self._finalized:
                session, reason, at = self._finalized.popleft()
                self._end(session, reason, max(at, before), ended)
            yield now, ended
        for session, reason in ended:
            left = session.started if session.left is None else session.left
            self._on_end(session, reason, (left - session.started) / NS)

    def _leave(self, session: Session, now: int) -> None:
        session.left = now
        self._by_type[session.type].stop(session, now)
        self._count(session, "connected", -1)

    def _end(
        self, session: Session, reason: str, now: int, ended: list[tuple[Session, str]]
    ) -> None:
        if session.ended:
            return
        if session.left is None:
            self._leave(session, now)
        else:
            self._count(session, "disconnected", -1)
        session.ended = True
        del self._by_type[session.type].open[session]
        self._ends[session.type, session.client, reason] += 1
        session.record("end", now, reason)
        ended.append((session, reason))

    def _count(self, session: Session, state: str, change: int) -> None:
        self._active[session.type, session.client, state] += change
        if session.type == "websocket" and state == "connected":
            self._peak.move(self._peak.level + change, self._clock(), self._wall())
