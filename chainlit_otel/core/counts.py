"""Counts that may be increased at any moment, even by a finalizer or a signal handler."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_MANY = 512


class Counts(Generic[Key]):
    """How often there was what, by key. Thread-safe.

    A finalizer or a signal handler may have interrupted this very code. With a lock that would be a
    deadlock, and with a reentrant one an addition would be lost. So `add` is one append, which is
    atomic; the queue is added up at each reading, or when it is long.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._added: deque[Key] = deque()
        self._totals: Counter[Key] = Counter()

    def add(self, key: Key) -> None:
        """Count one more."""
        self._added.append(key)
        # If the lock is taken, its owner adds this up, too.
        if len(self._added) >= _MANY and self._lock.acquire(blocking=False):
            try:
                self._add_up()
            finally:
                self._lock.release()

    def read(self) -> dict[Key, int]:
        """Return the counts so far."""
        with self._lock:
            self._add_up()
            return dict(self._totals)

    def _add_up(self) -> None:
        while self._added:
            self._totals[self._added.popleft()] += 1
