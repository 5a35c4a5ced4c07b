"""A least-recently-used cache with a time to live, which counts what it saves."""

from __future__ import annotations

from cachetools import TTLCache

from .store import Session


class SessionCache(TTLCache[str, Session]):
    """Sessions by id, the newest version that this process has seen.

    Another process may have written since, so what is in here is at most `ttl` seconds old.

    Args:
        maxsize: The most sessions.
        ttl: Seconds that one stays.

    Attributes:
        hits: Lookups that found the session.
        misses: Lookups that did not.
    """

    def __init__(self, maxsize: int, ttl: float) -> None:
        super().__init__(maxsize, ttl)
        self.hits = 0
        self.misses = 0

    def look_up(self, id: str) -> Session | None:
        """The session, if it is here; counted."""
        session: Session | None = self.get(id)
        if session is None:
            self.misses += 1
        else:
            self.hits += 1
        return session

    def keep(self, session: Session) -> None:
        """Put a session in, unless a newer version is here.

        A read that began before a write may come back after it.
        """
        known: Session | None = self.get(session.id)
        if known is None or known.version <= session.version:
            self[session.id] = session
