"""The distinct users who are connected, and nothing of those who are gone."""

from __future__ import annotations

import weakref
from collections import Counter, deque
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary


class Users:
    """The distinct users of the sessions that are connected. Thread-safe.

    An identifier is kept while one of its sessions is connected, and only to tell users apart.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._present: WeakKeyDictionary[Any, weakref.finalize[..., Any]] = WeakKeyDictionary()
        self._sessions: Counter[str] = Counter()
        self._gone: deque[str] = deque()

    def connect(self, session: Any, identifier: str) -> None:
        """A session of a user is connected; it counts once."""
        with self._lock:
            self._drain()
            if session not in self._present:
                # A finalizer may run at any instruction, even of this method, so it takes no lock.
                finalizer = weakref.finalize(session, self._gone.append, identifier)
                finalizer.atexit = False
                self._present[session] = finalizer
                self._sessions[identifier] += 1

    def disconnect(self, session: Any) -> None:
        """A session is no longer connected."""
        with self._lock:
            if finalizer := self._present.pop(session, None):
                finalizer()
            self._drain()

    def active(self) -> int:
        """How many users are connected."""
        with self._lock:
            self._drain()
            return len(self._sessions)

    def _drain(self) -> None:
        while self._gone:
            identifier = self._gone.popleft()
            self._sessions[identifier] -= 1
            if not self._sessions[identifier]:
                del self._sessions[identifier]
