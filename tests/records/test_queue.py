"""The queue of records: bounded, counted, emptied by a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from threading import Event

import pytest

from chainlit_otel import catalog
from chainlit_otel.records import queue as module
from chainlit_otel.records.queue import RecordQueue
from chainlit_otel.records.rows import Record
from tests.support.scrape import wait_until


class Shelf:
    """A destination that may be slow, full or broken.

    Args:
        name: Its name.
        room: How many records of a batch it takes.
    """

    def __init__(self, name: str = "file", room: int = 1_000_000) -> None:
        self.name = name
        self.room = room
        self.error: Exception | None = None
        self.batches: list[int] = []
        self.closed = 0
        self.open = Event()
        self.open.set()

    def __str__(self) -> str:
        return f"the {self.name}"

    def write(self, rows: Sequence[Record]) -> int:
        assert self.open.wait(60)
        if self.error is not None:
            raise self.error
        self.batches.append(len(rows))
        return min(len(rows), self.room)

    def close(self) -> None:
        self.closed += 1


def record(kind: catalog.RecordKind = catalog.TURN_RECORD) -> Record:
    return Record(kind, 0, {})


def test_what_is_put_is_written_by_each_destination_and_counted() -> None:
    one, other = Shelf("file"), Shelf("log")
    queue = RecordQueue([one, other], delay=0.01)
    assert queue.written()["turn", "file"] == 0, "at zero before the first"
    for _ in range(3):
        queue.put(record())
    queue.put(record(catalog.FEEDBACK_RECORD))
    assert queue.flush(60) == 0
    assert sum(one.batches) == sum(other.batches) == 4
    for name in ("file", "log"):
        assert queue.written()["turn", name] == 3
        assert queue.written()["feedback", name] == 1
    assert set(queue.dropped().values()) == {0}


def test_many_rows_are_one_batch() -> None:
    shelf = Shelf()
    queue = RecordQueue([shelf], delay=0.3)
    for _ in range(100):
        queue.put(record())
    wait_until(lambda: sum(shelf.batches) == 100, 60, "the rows to be written without a flush")
    assert len(shelf.batches) <= 3


def test_closed_it_has_written_all_and_no_thread_and_begins_again_by_the_next_row() -> None:
    shelf = Shelf()
    queue = RecordQueue([shelf], delay=60)
    for total in (1, 2):
        queue.put(record())
        thread = queue._thread
        assert thread is not None
        queue.close(60)
        assert not thread.is_alive()
        assert (sum(shelf.batches), shelf.closed) == (total, total)
    queue.close(60)
    assert shelf.closed == 2


def test_it_polls_while_nothing_is_put(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POLL", 0.01)
    queue, polled = RecordQueue([Shelf()], delay=0), Event()
    queue.poll = polled.set
    queue.put(record())
    assert polled.wait(60)


def test_without_a_row_there_is_no_thread_and_nothing_to_wait_for() -> None:
    queue = RecordQueue([Shelf()])
    assert queue.flush(0) == 0
    assert queue._thread is None


def test_a_full_queue_drops_and_counts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MAX_QUEUED", 10)
    shelf = Shelf()
    shelf.open.clear()
    queue = RecordQueue([shelf], delay=0)
    queue.put(record())
    wait_until(lambda: not queue._queued, 60, "the first to be taken")
    with caplog.at_level(logging.WARNING, "chainlit_otel"):
        for _ in range(15):
            queue.put(record())
    assert queue.dropped()["turn", "file"] == 5
    shelf.open.set()
    assert queue.flush(60) == 0
    assert queue.written()["turn", "file"] == 11
    (line,) = caplog.records
    assert "the file): the queue is full" in line.getMessage()


def test_a_destination_that_fails_loses_and_the_other_does_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broken, whole = Shelf("file"), Shelf("log")
    broken.error = OSError(28, "No space left on device")
    queue = RecordQueue([broken, whole], delay=0)
    with caplog.at_level(logging.WARNING, "chainlit_otel"):
        for _ in range(3):
            queue.put(record())
            assert queue.flush(60) == 0
    assert queue.dropped()["turn", "file"] == 3
    assert queue.written()["turn", "file"] == 0
    assert queue.written()["turn", "log"] == 3
    (line,) = caplog.records
    assert "No space left on device" in line.getMessage()
    assert catalog.RECORDS_DROPPED.prometheus_name in line.getMessage()
    broken.error = None
    queue.put(record())
    assert queue.flush(60) == 0
    assert queue.written()["turn", "file"] == 1


def test_a_part_of_a_batch_may_be_written() -> None:
    shelf = Shelf(room=2)
    queue = RecordQueue([shelf], delay=60)
    for _ in range(5):
        queue.put(record())
    assert queue.flush(60) == 0
    assert (queue.written()["turn", "file"], queue.dropped()["turn", "file"]) == (2, 3)


def test_a_flush_ends_in_time_though_the_destination_does_not() -> None:
    shelf = Shelf()
    shelf.open.clear()
    queue = RecordQueue([shelf], delay=0)
    queue.put(record())
    assert queue.flush(0.05) == 1
    shelf.open.set()
    assert queue.flush(60) == 0
    assert queue.written()["turn", "file"] == 1
