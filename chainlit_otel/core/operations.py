"""What becomes of the operations of a data layer: run, held back, or discarded."""

from __future__ import annotations

from collections import Counter, deque
from threading import Lock

Labels = tuple[str, ...]


class Held:
    """The operations that are held back for one session, by name."""

    __slots__ = ("__weakref__", "waiting")

    def __init__(self) -> None:
        self.waiting: Counter[str] = Counter()


class OperationLedger:
    """The books of operations: what was held back has run, was discarded or still waits.

    Thread-safe.

    Attributes:
        operations: Operations that have ended, by name, data layer and outcome.
        queued: Operations that were held back, by name.
    """

    def __init__(self) -> None:
        self.operations: Counter[Labels] = Counter()
        self.queued: Counter[Labels] = Counter()
        self._discarded: Counter[Labels] = Counter()
        self._waiting = 0
        self._lock = Lock()
        self._collected: deque[Held] = deque()

    @property
    def waiting(self) -> int:
        """Operations that are held back now."""
        with self._lock:
            self._settle()
            return self._waiting

    @property
    def discarded(self) -> Counter[Labels]:
        """Operations that were held back and will never run, by name."""
        with self._lock:
            self._settle()
            return self._discarded.copy()

    def ended(self, name: str, layer: str, outcome: str) -> None:
        """An operation has ended."""
        with self._lock:
            self.operations[name, layer, outcome] += 1

    def hold_back(self, held: Held, name: str) -> None:
        """An operation waits until its user writes."""
        with self._lock:
            held.waiting[name] += 1
            self.queued[(name,)] += 1
            self._waiting += 1

    def replay(self, held: Held, name: str) -> None:
        """An operation that was held back runs; one that was not changes nothing."""
        with self._lock:
            if held.waiting[name] > 0:
                held.waiting[name] -= 1
                self._waiting -= 1

    def discard(self, held: Held) -> None:
        """The session is gone, and what still waits for it never runs; twice is once."""
        with self._lock:
            self._discard(held)

    def collected(self, held: Held) -> None:
        """The host's session was garbage-collected, and what waits for it is discarded.

        That may happen anywhere, be it in the middle of another method here. So it only takes
        note, and the next reading books it.
        """
        self._collected.append(held)

    def _settle(self) -> None:
        while self._collected:
            self._discard(self._collected.popleft())

    def _discard(self, held: Held) -> None:
        for name, number in held.waiting.items():
            self._discarded[(name,)] += number
            self._waiting -= number
        held.waiting.clear()
