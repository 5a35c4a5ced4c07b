"""What is added anywhere is there, whoever was interrupted."""

from __future__ import annotations

from collections import deque
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from threading import Event, get_ident

import pytest

from chainlit_otel.core.counts import _MANY, Counts
from chainlit_otel.core.labels import EnumLabel
from tests.core.clocks import hurried_threads


def test_what_is_added_while_somebody_reads_waits_for_nobody_and_is_not_lost() -> None:
    counts: Counts[str] = Counts()
    # As a signal handler finds it that has interrupted a reading.
    with counts._lock:
        for _ in range(_MANY + 10):
            counts.add("a")
        counts.add("b")
    assert counts.read() == {"a": _MANY + 10, "b": 1}
    assert counts.read() == {"a": _MANY + 10, "b": 1}


def test_what_nobody_reads_does_not_grow() -> None:
    counts: Counts[str] = Counts()
    for _ in range(10 * _MANY):
        counts.add("a")
    assert len(counts._added) < _MANY
    assert counts.read() == {"a": 10 * _MANY}


def test_threads_lose_nothing() -> None:
    counts: Counts[int] = Counts()
    values = EnumLabel(["other"])

    def add(n: int) -> None:
        for _ in range(3000):
            counts.add(n % 2)
            values(n)

    with hurried_threads(), ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    assert counts.read() == {0: 6000, 1: 6000}
    assert values.overflowed == 12000


class Paused(deque[str]):
    """What was added; the first thread that takes of it is held up, and others may come in."""

    def __init__(self) -> None:
        super().__init__()
        self.takers: set[int] = set()
        self.taking, self.goes_on = Event(), Event()

    def popleft(self) -> str:
        self.takers.add(get_ident())
        if not self.taking.is_set():
            self.taking.set()
            self.goes_on.wait(30)
        return super().popleft()


def test_one_at_a_time_adds_up() -> None:
    counts: Counts[str] = Counts()
    added = counts._added = Paused()
    counts.add("a")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(counts.read)
        try:
            assert added.taking.wait(30)
            # So many that they are added up at once, but for somebody who does so already.
            for _ in range(_MANY):
                counts.add("a")
            second = pool.submit(counts.read)
            with pytest.raises(FutureTimeoutError):
                second.result(0.2)
            assert len(added.takers) == 1
        finally:
            added.goes_on.set()
        assert first.result(30) == second.result(30) == {"a": _MANY + 1}
