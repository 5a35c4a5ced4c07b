"""Takes rows from the application and hands them to their destinations, in a thread of its own."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from threading import Event, Lock, Thread, current_thread
from typing import Protocol

from chainlit_otel import catalog
from chainlit_otel.catalog import LabelSet
from chainlit_otel.guard import OnceAMinute, log
from chainlit_otel.records.rows import Record

_MAX_QUEUED = 10_000
_MAX_BATCH = 512
_DELAY = 0.3  # seconds in which rows gather: one waking of the thread for many of them
_POLL = 1.0  # seconds


class Destination(Protocol):
    """Where rows go."""

    name: str
    """As `chainlit_otel.record.destination` has it."""

    def write(self, rows: Sequence[Record]) -> int:
        """Write rows, and return how many of them, from the first on, are written.

        Raises:
            Exception: Whatever is wrong. None of them is written then.
        """

    def close(self) -> None:
        """Let go of what it has open; another `write` opens it again."""


class RecordQueue:
    """A bounded queue of rows, and the thread that empties it. Thread-safe.

    Args:
        destinations: Where the rows go.
        delay: Seconds in which rows gather before they are written.

    Attributes:
        poll: Called once a second while nothing is put: a session whose object was collected ends
            without anybody being told.
    """

    def __init__(self, destinations: Iterable[Destination], delay: float = _DELAY) -> None:
        self._destinations = list(destinations)
        self._delay = delay
        self._queued: deque[Record | Event] = deque()
        self._wake = Event()
        self._hurry = Event()
        self._lock = Lock()
        self._thread: Thread | None = None
        self._under_way = 0
        self.poll: Callable[[], object] = lambda: None
        self._written: Counter[LabelSet] = Counter()
        self._dropped: Counter[LabelSet] = Counter()
        self._line = OnceAMinute()
        for kind in catalog.RECORDS:
            for destination in self._destinations:
                self._written[kind.name, destination.name] = 0
                self._dropped[kind.name, destination.name] = 0

    @property
    def destinations(self) -> list[Destination]:
        """Where the rows go."""
        return self._destinations

    def put(self, row: Record) -> None:
        """Queue a row; it is dropped, and counted, if the queue is full."""
        if len(self._queued) >= _MAX_QUEUED:
            for destination in self._destinations:
                self._drop([row], destination, "the queue is full")
            return
        self._queued.append(row)
        if not self._wake.is_set():
            self._start()
            self._wake.set()

    def flush(self, timeout: float) -> int:
        """Have all rows written that are queued.

        Args:
            timeout: Seconds that this may take.

        Returns:
            How many are not written by then.
        """
        if self._thread is None:
            # An interpreter that is about to end starts no thread any more.
            self._empty()
            return 0
        done = Event()
        self._queued.append(done)
        self._hurry.set()
        self._wake.set()
        if done.wait(timeout):
            return 0
        return self._under_way + sum(isinstance(item, Record) for item in list(self._queued))

    def close(self, timeout: float) -> None:
        """Write what is queued and end the thread; another row starts it again.

        Args:
            timeout: Seconds that this may take.
        """
        self.flush(timeout)
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        self._hurry.set()
        self._wake.set()
        thread.join(timeout)
        if not thread.is_alive():
            for destination in self._destinations:
                destination.close()

    def written(self) -> dict[LabelSet, int]:
        """Return how many records were written, by kind and destination."""
        with self._lock:
            return dict(self._written)

    def dropped(self) -> dict[LabelSet, int]:
        """Return how many records were dropped, by kind and destination."""
        with self._lock:
            return dict(self._dropped)

    def _start(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            thread = Thread(target=self._run, name="chainlit-otel-records", daemon=True)
            self._thread = thread
            try:
                thread.start()
            except RuntimeError:
                self._thread = None

    def _run(self) -> None:
        while self._thread is current_thread():
            while not self._wake.wait(_POLL):
                self.poll()
            self._hurry.wait(self._delay)
            # In this order: what is queued from here on wakes this again.
            self._wake.clear()
            self._hurry.clear()
            self._empty()

    def _empty(self) -> None:
        while self._queued:
            rows: list[Record] = []
            flushed: Event | None = None
            while self._queued and len(rows) < _MAX_BATCH and flushed is None:
                item = self._queued.popleft()
                if isinstance(item, Event):
                    flushed = item
                else:
                    rows.append(item)
            self._under_way = len(rows)
            if rows:
                for destination in self._destinations:
                    self._write(rows, destination)
            self._under_way = 0
            if flushed is not None:
                flushed.set()

    def _write(self, rows: list[Record], destination: Destination) -> None:
        written, reason = 0, "it took a part of them only"
        try:
            written = destination.write(rows)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a loss and no more
            reason = getattr(error, "strerror", None) or type(error).__name__
        with self._lock:
            self._written.update((row.kind.name, destination.name) for row in rows[:written])
        if written < len(rows):
            self._drop(rows[written:], destination, reason)

    def _drop(self, rows: Sequence[Record], destination: Destination, reason: str) -> None:
        with self._lock:
            self._dropped.update((row.kind.name, destination.name) for row in rows)
            if not self._line.is_due():
                return
        log(
            logging.WARNING,
            "records are lost (%s): %s. The application is not affected. %s counts on; this is "
            "logged once a minute at most",
            destination,
            reason,
            catalog.RECORDS_DROPPED.prometheus_name,
        )
