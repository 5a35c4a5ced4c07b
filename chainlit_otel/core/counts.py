"""A count to which anything may add at any moment."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)

_MANY = 512


class Counts(Generic[Key]):
    """How often there was what, by key. Thread-safe.

    A finalizer or a signal handler may add, too, and may have interrupted this very code. It would
    wait for ever for a lock; and one that lets its owner in again would lose one of two additions.
    So to add is one append, which nothing interrupts; what was appended is added up by readings, or
    when it is much.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._added: deque[Key] = deque()
        self._totals: Counter[Key] = Counter()

    def add(self, key: Key) -> None:
        """Count one more."""
        self._added.append(key)
        # Whoever has the lock now takes this along.
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
