"""What was queued has run, was discarded or is queued still, whatever happens."""

from __future__ import annotations

import gc
from collections import Counter
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chainlit_otel.core.operations import OperationLedger, SessionQueue
from chainlit_otel.core.sessions import NS

SESSIONS = st.integers(0, 3)
NAMES = st.sampled_from(["create_step", "update_step", "other"])


class Recorded(RuleBasedStateMachine):
    """The ledger beside plain lists of what is queued for each session."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = OperationLedger()
        self.queue = [SessionQueue() for _ in range(4)]
        self.waiting: list[list[str]] = [[] for _ in range(4)]
        self.queued: Counter[str] = Counter()
        self.discarded: Counter[str] = Counter()
        self.ran = 0

    @rule(session=SESSIONS, name=NAMES)
    def enqueue(self, session: int, name: str) -> None:
        self.ledger.enqueue(self.queue[session], name)
        self.waiting[session].append(name)
        self.queued[name] += 1

    @rule(session=SESSIONS, name=NAMES)
    def dequeue(self, session: int, name: str) -> None:
        self.ledger.dequeue(self.queue[session], name)
        if name in self.waiting[session]:
            self.waiting[session].remove(name)
            self.ran += 1

    @rule(session=SESSIONS, finalized=st.booleans())
    def discard(self, session: int, finalized: bool) -> None:
        (self.ledger.finalized if finalized else self.ledger.discard)(self.queue[session])
        self.discarded.update(self.waiting[session])
        self.waiting[session].clear()

    @rule(name=NAMES, outcome=st.sampled_from(["ok", "error", "cancelled"]))
    def end(self, name: str, outcome: str) -> None:
        before = self.ledger.operations[name, "Layer", outcome]
        self.ledger.end(name, "Layer", outcome)
        assert self.ledger.operations[name, "Layer", outcome] == before + 1

    @invariant()
    def the_ledger_agrees(self) -> None:
        waiting = sum(map(len, self.waiting))
        assert self.ledger.queue_length == waiting
        assert +self.ledger.queued == {(n,): c for n, c in self.queued.items()}
        assert +self.ledger.discarded == {(n,): c for n, c in self.discarded.items()}
        queued, discarded = self.ledger.queued.total(), self.ledger.discarded.total()
        assert queued == discarded + self.ran + waiting


def test_a_session_may_be_finalized_while_the_ledger_is_being_written() -> None:
    ledger, queue = OperationLedger(), SessionQueue()
    ledger.enqueue(queue, "create_step")
    with ledger._lock:
        ledger.finalized(queue)
    assert (ledger.queue_length, ledger.discarded) == (0, {("create_step",): 1})


TestRecorded = Recorded.TestCase


# Calls that are lost


class Loop:
    """An event loop that runs or does not."""

    def __init__(self) -> None:
        self.running = True

    def is_running(self) -> bool:
        return self.running


class Outer:
    def __init__(self, ended: bool) -> None:
        self.ended = ended


async def operation() -> None:
    """Never awaited here."""


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


def calling(outer: Outer | None = None) -> tuple[OperationLedger, Clock, int, Any]:
    clock = Clock()
    ledger = OperationLedger(clock)
    number, coroutine = ledger.next_id(), operation()
    ledger.add_call(number, coroutine, "create_step", "Layer", outer)
    return ledger, clock, number, coroutine


LOST = {("create_step", "Layer"): 1}
AS_ERROR = {("create_step", "Layer", "error"): 1}


def test_a_call_that_nobody_runs_is_lost_when_it_is_collected() -> None:
    ledger, clock, _, coroutine = calling()
    clock.now = 10 * NS
    assert ledger.lost == {}
    coroutine.close()
    del coroutine
    gc.collect()
    assert (ledger.lost, ledger.operations) == (LOST, AS_ERROR)
    assert (ledger.lost, ledger.operations) == (LOST, AS_ERROR)


def test_a_call_that_is_over_is_not_lost() -> None:
    ledger, clock, number, coroutine = calling()
    loop = Loop()
    ledger.start_call(number, loop)
    assert ledger.end_call(number)
    coroutine.close()
    del coroutine, loop
    gc.collect()
    clock.now = 10 * NS
    assert (ledger.lost, ledger.operations) == ({}, {})


@pytest.mark.parametrize("gone", [True, False])
def test_a_call_whose_loop_has_stopped_is_lost_and_counts_once(gone: bool) -> None:
    ledger, clock, number, coroutine = calling()
    loop = Loop()
    ledger.start_call(number, loop)
    clock.now = 10 * NS
    assert ledger.lost == {}
    if gone:
        del loop
    else:
        loop.running = False
    assert (ledger.operations, ledger.lost) == (AS_ERROR, LOST)
    # It may go on after all, when it has been counted.
    assert not ledger.end_call(number)
    coroutine.close()
    del coroutine
    gc.collect()
    assert ledger.operations == AS_ERROR


def test_a_loop_may_pause_for_a_moment() -> None:
    ledger, clock, number, coroutine = calling()
    loop = Loop()
    ledger.start_call(number, loop)
    loop.running, clock.now = False, NS // 2 - 1
    assert ledger.lost == {}
    loop.running, clock.now = True, NS
    assert ledger.lost == {}
    assert ledger.end_call(number)
    coroutine.close()


@pytest.mark.parametrize(("ended", "lost"), [(True, LOST), (False, {})])
def test_a_part_of_another_operation_counts_for_itself_once_that_is_over(
    ended: bool, lost: dict[tuple[str, ...], int]
) -> None:
    outer = Outer(False)
    ledger, _, _, coroutine = calling(outer)
    outer.ended = ended
    coroutine.close()
    del coroutine
    gc.collect()
    assert ledger.lost == lost
