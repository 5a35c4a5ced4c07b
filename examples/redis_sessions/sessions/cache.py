"""A least-recently-used cache with a time to live, which counts what it saves."""

from __future__ import annotations

from threading import Lock

from cachetools import TTLCache

from .store import Session


class SessionCache:
    """Sessions by id, the newest version that this process has seen.

    Another process may have written since, so what is in here is at most `ttl` seconds old. The
    figures may be read in another thread: even asking a `TTLCache` for its length changes it.

    Args:
        maxsize: The most sessions.
        ttl: Seconds that one stays.

    Attributes:
        hits: Lookups that found the session.
        misses: Lookups that did not.
    """

    def __init__(self, maxsize: int, ttl: float) -> None:
        self._sessions: TTLCache[str, Session] = TTLCache(maxsize, ttl)
        self._lock = Lock()
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._sessions)

    def look_up(self, id: str) -> Session | None:
        """The session, if it is here; counted."""
        with self._lock:
            session: Session | None = self._sessions.get(id)
        if session is None:
            self.misses += 1
        else:
            self.hits += 1
        return session

    def keep(self, session: Session) -> None:
        """Put a session in, unless a newer version is here.

        A read that began before a write may come back after it.
        """
        with self._lock:
            known = self._sessions.get(session.id)
            if known is None or known.version <= session.version:
                self._sessions[session.id] = session

    def drop(self, id: str) -> None:
        """Take a session out."""
        with self._lock:
            self._sessions.pop(id, None)
