"""The ledger of the operations of a data layer: they run, are queued, discarded or lost."""

from __future__ import annotations

import itertools
import time
import weakref
from collections import Counter, deque
from functools import partial
from threading import Lock
from typing import Any

from chainlit_otel.core.sessions import NS, Clock

Labels = tuple[str, ...]

_PAUSE = NS // 2


class SessionQueue:
    """The operations that are queued for one session, by name."""

    __slots__ = ("__weakref__", "operations")

    def __init__(self) -> None:
        self.operations: Counter[str] = Counter()


class _OperationCall:
    """One call of an operation that is not over.

    Attributes:
        coroutine: What runs it, held weakly.
        labels: Name and data layer.
        at: Monotonic time of the call, in nanoseconds.
        parent: The operation inside which it was called, which has `ended` or not; or None.
        loop: The event loop in which it has started, held weakly; None before.
    """

    __slots__ = ("at", "coroutine", "labels", "loop", "parent")

    def __init__(self, coroutine: weakref.ref[Any], labels: Labels, at: int, parent: Any) -> None:
        self.coroutine = coroutine
        self.labels = labels
        self.at = at
        self.parent = parent
        self.loop: weakref.ref[Any] | None = None

    def is_stranded(self, now: int) -> bool:
        """Tell whether its event loop has stopped for longer than a moment."""
        if self.loop is None or now - self.at < _PAUSE:
            return False
        loop = self.loop()
        return loop is None or not loop.is_running()


class OperationLedger:
    """The ledger of operations: what was queued has run, was discarded or is queued still.

    Thread-safe. A call makes a coroutine, which may be lost without any notice: a task that is
    cancelled before its first step runs nothing, and one whose event loop has stopped does not go
    on. So each call is kept until it has ended.

    Args:
        clock: Monotonic clock, in nanoseconds.

    Attributes:
        queued: Operations that were queued, by name.
    """

    def __init__(self, clock: Clock = time.monotonic_ns) -> None:
        self.queued: Counter[Labels] = Counter()
        self._clock = clock
        self._operations: Counter[Labels] = Counter()
        self._lost: Counter[Labels] = Counter()
        self._discarded: Counter[Labels] = Counter()
        self._queue_length = 0
        self._lock = Lock()
        self._finalized: deque[SessionQueue] = deque()
        self._numbers = itertools.count()
        self._calls: dict[int, _OperationCall] = {}
        self._gone: deque[_OperationCall] = deque()

    @property
    def operations(self) -> Counter[Labels]:
        """Operations so far, by name, data layer and outcome; what was lost is an error."""
        with self._lock:
            self._drain()
            return self._operations.copy()

    @property
    def lost(self) -> Counter[Labels]:
        """Operations that were called and never ran to their end, by name and data layer."""
        with self._lock:
            self._drain()
            return self._lost.copy()

    @property
    def queue_length(self) -> int:
        """Operations that are queued now."""
        with self._lock:
            self._drain()
            return self._queue_length

    @property
    def discarded(self) -> Counter[Labels]:
        """Operations that were queued and will never run, by name."""
        with self._lock:
            self._drain()
            return self._discarded.copy()

    def next_id(self) -> int:
        """Return a number for a call."""
        return next(self._numbers)

    def add_call(
        self, number: int, coroutine: Any, name: str, layer: str, parent: Any = None
    ) -> None:
        """An operation was called.

        Args:
            number: The number of the call.
            coroutine: What runs it.
            name: Name of the operation.
            layer: Name of the data layer.
            parent: The operation inside which it was called, which has `ended` or not; if not, the
                call does not count.
        """
        # It may be garbage-collected inside any code, this ledger's methods included, so that
        # callback takes no lock.
        reference = weakref.ref(coroutine, partial(self._coroutine_gone, number))
        self._calls[number] = _OperationCall(reference, (name, layer), self._clock(), parent)

    def start_call(self, number: int, loop: Any) -> None:
        """A call has started to run in an event loop."""
        if (call := self._calls.get(number)) is not None:
            call.loop = weakref.ref(loop)

    def end_call(self, number: int) -> bool:
        """A call has ended.

        Returns:
            False if it was counted as lost before.
        """
        return self._calls.pop(number, None) is not None

    def _coroutine_gone(self, number: int, _: object) -> None:
        if (call := self._calls.pop(number, None)) is not None:
            self._gone.append(call)

    def end(self, name: str, layer: str, outcome: str) -> None:
        """An operation has ended."""
        with self._lock:
            self._operations[name, layer, outcome] += 1

    def enqueue(self, queue: SessionQueue, name: str) -> None:
        """An operation was queued until its user writes."""
        with self._lock:
            queue.operations[name] += 1
            self.queued[(name,)] += 1
            self._queue_length += 1

    def dequeue(self, queue: SessionQueue, name: str) -> None:
        """An operation that was queued runs; one that was not changes nothing."""
        with self._lock:
            if queue.operations[name] > 0:
                queue.operations[name] -= 1
                self._queue_length -= 1

    def discard(self, queue: SessionQueue) -> None:
        """The session is gone, and what is still queued never runs; a second call does nothing."""
        with self._lock:
            self._discard(queue)

    def finalized(self, queue: SessionQueue) -> None:
        """The host's session was finalized, and what is queued for it is discarded.

        Safe to call from a finalizer, which may run at any instruction of any thread: it takes
        no lock, and the next reading records it.
        """
        self._finalized.append(queue)

    def _drain(self) -> None:
        while self._finalized:
            self._discard(self._finalized.popleft())
        now = self._clock()
        for number, call in list(self._calls.items()):
            if call.is_stranded(now) and self.end_call(number):
                self._gone.append(call)
        while self._gone:
            call = self._gone.popleft()
            if call.parent is None or call.parent.ended:
                self._lost[call.labels] += 1
                self._operations[(*call.labels, "error")] += 1

    def _discard(self, queue: SessionQueue) -> None:
        for name, number in queue.operations.items():
            self._discarded[(name,)] += number
            self._queue_length -= number
        queue.operations.clear()
