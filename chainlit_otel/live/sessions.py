"""The sessions that are shown: those that are open, and the last ones that have ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from threading import Lock

from chainlit_otel.core.sessions import Session
from chainlit_otel.live.rows import At, Doing, EndedSession, Row, key_of, session_row

ENDED = 500
"""How many of the last ended sessions are kept, whatever they were."""

WITH_TROUBLE = 500
"""How many ended sessions are kept besides these that had trouble."""

DoingOf = Callable[[], Mapping[Session, Doing]]
"""Returns what each session is doing that is doing something."""


class SessionBoard:
    """Shows sessions. Sessions may end in any thread; one alone reads.

    Args:
        open: Returns the open sessions.
        doing: Returns what they are doing.
        at: Returns seconds since the epoch for a monotonic time in nanoseconds.
    """

    def __init__(self, open: Callable[[], list[Session]], doing: DoingOf, at: At) -> None:
        self._open = open
        self._doing = doing
        self._at = at
        self._lock = Lock()
        self._last: deque[EndedSession] = deque()
        self._with_trouble: deque[EndedSession] = deque()
        # What was shown last: how much had happened in a session, how much was lost, and what it
        # was doing.
        self._shown: dict[Session, tuple[int, int, Doing | None]] = {}
        self._just_ended: deque[EndedSession] = deque(maxlen=ENDED)

    def ended(self, session: Session, reason: str, seconds: float) -> None:
        """A session has ended, after so many seconds."""
        with self._lock:
            ended = EndedSession(session, reason, seconds)
            self._last.append(ended)
            self._just_ended.append(ended)
            if len(self._last) > ENDED:
                oldest = self._last.popleft()
                if oldest.had_trouble:
                    self._with_trouble.append(oldest)
            if len(self._with_trouble) > WITH_TROUBLE:
                self._with_trouble.popleft()

    def open_rows(self) -> list[Row]:
        """Return the rows of the open sessions."""
        doing = self._doing()
        return [session_row(s, self._at, doing.get(s)) for s in self._open() if not s.ended]

    def ended_rows(self) -> list[Row]:
        """Return the rows of the ended sessions that are kept, the oldest first."""
        with self._lock:
            kept = [*self._with_trouble, *self._last]
        return [session_row(ended.session, self._at, end=ended) for ended in kept]

    def changes(self) -> list[Row]:
        """Return the rows that are other ones than at the last call.

        Of a session that is no longer open, and of whose end nothing is known any more, the row
        has its key and the state `gone`.
        """
        doing, changed = self._doing(), []
        with self._lock:
            just_ended = list(self._just_ended)
            self._just_ended.clear()
        shown: dict[Session, tuple[int, int, Doing | None]] = {}
        for session in self._open():
            if session.ended:
                continue
            happened = session.events.count if session.events else 0
            now = (happened, session.undelivered, doing.get(session))
            shown[session] = now
            if self._shown.get(session) != now:
                changed.append(session_row(session, self._at, now[2]))
        gone = self._shown.keys() - shown.keys() - {ended.session for ended in just_ended}
        self._shown = shown
        return [
            *changed,
            *(session_row(e.session, self._at, end=e) for e in just_ended),
            *({"key": key_of(session), "state": "gone"} for session in gone),
        ]

    def forget(self) -> None:
        """Forget what was shown: nobody looks, and sessions that end meanwhile must be free."""
        self._shown = {}

    def find(self, key: str) -> tuple[Session, Row] | None:
        """Return a session and its row; None if it is neither open nor kept."""
        with self._lock:
            kept = [*self._with_trouble, *self._last]
        for ended in kept:
            if key_of(ended.session) == key:
                return ended.session, session_row(ended.session, self._at, end=ended)
        for session in self._open():
            if key_of(session) == key:
                return session, session_row(session, self._at, self._doing().get(session))
        return None
