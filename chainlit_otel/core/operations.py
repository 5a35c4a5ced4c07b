"""What becomes of the operations of a data layer: run, held back, or discarded."""

from __future__ import annotations

from collections import Counter

Labels = tuple[str, ...]


class Held:
    """The operations that are held back for one session, by name."""

    __slots__ = ("__weakref__", "waiting")

    def __init__(self) -> None:
        self.waiting: Counter[str] = Counter()


class OperationLedger:
    """The books of operations: what was held back has run, was discarded or still waits.

    Attributes:
        operations: Operations that have ended, by name, data layer and outcome.
        queued: Operations that were held back, by name.
        discarded: Operations that were held back and will never run, by name.
    """

    def __init__(self) -> None:
        self.operations: Counter[Labels] = Counter()
        self.queued: Counter[Labels] = Counter()
        self.discarded: Counter[Labels] = Counter()
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Operations that are held back now."""
        return self._waiting

    def ended(self, name: str, layer: str, outcome: str) -> None:
        """An operation has ended."""
        self.operations[name, layer, outcome] += 1

    def hold_back(self, held: Held, name: str) -> None:
        """An operation waits until its user writes."""
        held.waiting[name] += 1
        self.queued[(name,)] += 1
        self._waiting += 1

    def replay(self, held: Held, name: str) -> None:
        """An operation that was held back runs; one that was not changes nothing."""
        if held.waiting[name] > 0:
            held.waiting[name] -= 1
            self._waiting -= 1

    def discard(self, held: Held) -> None:
        """The session is gone, and what still waits for it never runs; twice is once."""
        for name, number in held.waiting.items():
            self.discarded[(name,)] += number
            self._waiting -= number
        held.waiting.clear()
