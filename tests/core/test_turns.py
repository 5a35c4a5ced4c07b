from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from chainlit_otel.core.peaks import WINDOWS
from chainlit_otel.core.sessions import Session
from chainlit_otel.core.turns import MAX_SOCKET_CHANGES, SocketChange, Turn, TurnLedger
from tests.core.clocks import NS, Clock, SwitchingClock, hurried_threads

START = 123_456_789
ROOM = object()


# What the ledger must have, computed from the list of what happened alone


@dataclass(frozen=True)
class Event:
    """Something that somebody reported, whether or not it made sense at that moment.

    Attributes:
        at: Monotonic time, in nanoseconds.
        turn: Number of the turn.
        what: start, output, chunk, lost chunk, lost step, fail, cancel or end.
        arrived: Of a start: when the message arrived.
        profile: Of a start: the chat profile.
    """

    at: int
    turn: int
    what: str
    arrived: int = 0
    profile: str = ""


@dataclass(frozen=True)
class Reported:
    """What is reported of a turn that ended."""

    turn: int
    seconds: float
    outcome: str
    profile: str
    first_token: float | None
    per_chunk: float | None
    undelivered: int


def told_of(turn: Turn, number: int, seconds: float) -> Reported:
    return Reported(
        number,
        seconds,
        turn.outcome,
        turn.profile,
        turn.time_to_first_token,
        turn.time_per_output_chunk,
        turn.undelivered,
    )


def expected(events: list[Event], number: int) -> Reported | None:
    """What must have been reported of a turn; None while it is under way."""
    mine = [event for event in events if event.turn == number]
    end = next((n for n, event in enumerate(mine) if event.what == "end"), None)
    if end is None:
        return None
    start, story = mine[0], mine[1:end]
    what = [event.what for event in story]
    seen = [event.at for event in story if event.what in ("output", "chunk")]
    chunks = [event.at for event in story if "chunk" in event.what]
    gaps = [b - a for a, b in pairwise(chunks)]
    outcome = "error" if "fail" in what else "cancelled" if "cancel" in what else "ok"
    return Reported(
        number,
        (mine[end].at - start.arrived) / NS,
        outcome,
        start.profile,
        (seen[0] - start.arrived) / NS if seen else None,
        sum(gaps) / len(gaps) / NS if gaps else None,
        sum("lost" in event.what for event in story),
    )


def levels(events: list[Event]) -> list[tuple[int, int]]:
    """How many turns were under way, and since when."""
    found, under_way = [(START, 0)], set()
    for event in events:
        if event.what == "start":
            under_way.add(event.turn)
        elif event.what == "end":
            under_way.discard(event.turn)
        found.append((event.at, len(under_way)))
    return found


def peak(events: list[Event], since: int) -> int:
    """The most turns under way at once at or after a moment."""
    found = levels(events)
    ends = [at for at, _ in found[1:]]
    return max(
        n for (_, n), end in zip(found, [*ends, None], strict=True) if end is None or end >= since
    )


class TurnMachine(RuleBasedStateMachine):
    """Any order of events, sensible or not, against the naive model."""

    turns = Bundle("turns")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(now=START)
        self.offset = self.clock.wall - self.clock.now
        self.events: list[Event] = []
        self.handles: list[Turn] = []
        self.reported: list[Reported] = []
        self.chunks_outside = 0
        self.ledger = TurnLedger(
            lambda turn, seconds: self.reported.append(
                told_of(turn, self.handles.index(turn), seconds)
            ),
            lambda: self.clock.now,
            lambda: self.clock.wall,
        )

    def happened(self, turn: int, what: str, arrived: int = 0, profile: str = "") -> None:
        self.events.append(Event(self.clock.now, turn, what, arrived, profile))

    @rule(target=turns, waited=st.integers(0, START), profile=st.sampled_from(["", "fast"]))
    def start(self, waited: int, profile: str) -> int:
        """A message is taken up some time after it arrived."""
        number, arrived = len(self.handles), self.clock.now - waited
        self.handles.append(self.ledger.start(arrived, profile))
        self.happened(number, "start", arrived, profile)
        return number

    @rule(number=turns)
    def output(self, number: int) -> None:
        self.handles[number].output(self.clock.now)
        self.happened(number, "output")

    @rule(number=turns, gaps=st.lists(st.integers(1, NS), min_size=1, max_size=4))
    def stream(self, number: int, gaps: list[int]) -> None:
        turn = self.handles[number]
        for gap in gaps:
            self.clock.advance(gap)
            if turn.room is ROOM:
                turn.chunks += 1
                turn.last_chunk = self.clock.now
            else:
                self.ledger.streamed(turn, self.clock.now, ROOM)
            self.happened(number, "chunk")

    @rule(number=turns, event=st.sampled_from(["stream_token", "step"]))
    def lose(self, number: int, event: str) -> None:
        self.ledger.drop(event, self.handles[number])
        self.happened(number, "lost chunk" if event == "stream_token" else "lost step")

    @rule()
    def stream_outside_of_any_turn(self) -> None:
        self.ledger.streamed(None, self.clock.now, ROOM)
        self.chunks_outside += 1

    @rule(number=turns)
    def fail(self, number: int) -> None:
        self.handles[number].fail(ValueError())
        self.happened(number, "fail")

    @rule(number=turns)
    def cancel(self, number: int) -> None:
        self.handles[number].cancelled = True
        self.happened(number, "cancel")

    @rule(number=turns)
    def end(self, number: int) -> None:
        self.ledger.end(self.handles[number])
        self.happened(number, "end")

    @rule()
    def shut_down(self) -> None:
        self.ledger.cancel_all()
        for number in range(len(self.handles)):
            self.happened(number, "cancel")
            self.happened(number, "end")

    @rule(ns=st.integers(0, 3) | st.integers(0, 40 * NS) | st.integers(0, 8000 * NS))
    def wait(self, ns: int) -> None:
        self.clock.advance(ns)

    @invariant()
    def every_turn_that_ended_was_told_once_as_it_was_at_that_moment(self) -> None:
        ends = [expected(self.events, number) for number in range(len(self.handles))]
        assert sorted(self.reported, key=lambda reported: reported.turn) == [
            reported for reported in ends if reported
        ]
        for number, turn in enumerate(self.handles):
            assert turn.ended is (ends[number] is not None)

    @invariant()
    def as_many_are_active_as_began_and_did_not_end(self) -> None:
        assert self.ledger.active() == {(): levels(self.events)[-1][1]}

    @invariant()
    def as_many_are_undelivered_as_ended_with_something_lost(self) -> None:
        lost = sum(reported.undelivered > 0 for reported in self.reported)
        assert self.ledger.undelivered() == {(): lost}

    @invariant()
    def the_oldest_without_a_word_is_the_one_that_waits(self) -> None:
        spoken = {e.turn for e in self.events if e.what in ("output", "chunk", "lost chunk", "end")}
        arrived = [e.arrived for e in self.events if e.what == "start" and e.turn not in spoken]
        age = (self.clock.now - min(arrived)) / NS if arrived else 0.0
        assert self.ledger.oldest_waiting() == {(): age}

    @invariant()
    def every_chunk_is_counted_whether_its_turn_is_over_or_not(self) -> None:
        in_turns = sum(event.what == "chunk" for event in self.events)
        assert self.ledger.chunks() == {(): in_turns + self.chunks_outside}

    @invariant()
    def the_peaks_are_the_highest_levels_of_their_windows(self) -> None:
        peaks = {window: n for (window,), n in self.ledger.peaks().items()}
        assert peaks.pop("process") == peak(self.events, START)
        for window, length in WINDOWS.items():
            last_cut = self.clock.wall // length * length - self.offset
            assert peaks[window] == peak(self.events, last_cut - length), window


TestTurnMachine = TurnMachine.TestCase
TestTurnMachine.settings = settings(max_examples=200, stateful_step_count=25)


@given(st.lists(st.sampled_from(["output", "chunk"])), st.lists(st.integers(1, NS)))
def test_the_first_that_a_user_sees_counts_whatever_it_is(what: list[str], gaps: list[int]) -> None:
    now, turn = START, Turn(START, "")
    seen: list[tuple[str, int]] = []
    for kind, gap in zip(what, gaps, strict=False):
        now += gap
        getattr(turn, kind)(now)
        seen.append((kind, now))
    assert turn.time_to_first_token == ((seen[0][1] - START) / NS if seen else None)
    assert turn.chunks == sum(kind == "chunk" for kind, _ in seen)


# What an example says better


class Recorded:
    def __init__(self) -> None:
        self.clock = Clock(now=START)
        self.reported: list[tuple[Turn, float]] = []
        self.ledger = TurnLedger(
            lambda turn, seconds: self.reported.append((turn, seconds)),
            lambda: self.clock.now,
            lambda: self.clock.wall,
        )

    def turn(self) -> Turn:
        return self.ledger.start(self.clock.now, "")


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_before_anything_happens_all_is_at_zero(recorded: Recorded) -> None:
    assert recorded.ledger.active() == {(): 0}
    assert set(recorded.ledger.peaks()) == {(window,) for window in (*WINDOWS, "process")}
    assert set(recorded.ledger.peaks().values()) == {0}
    assert recorded.ledger.chunks() == {(): 0}
    assert (recorded.ledger.messages.read(), recorded.ledger.dropped) == ({}, {})


def test_a_turn_lasts_from_the_arrival_of_its_message(recorded: Recorded) -> None:
    arrived = recorded.clock.now
    recorded.clock.advance(2 * NS)
    turn = recorded.ledger.start(arrived, "fast")
    recorded.clock.advance(3 * NS)
    turn.output(recorded.clock.now)
    recorded.clock.advance(NS)
    recorded.ledger.end(turn)
    assert recorded.reported == [(turn, 6.0)]
    assert turn.time_to_first_token == 5.0


def test_the_gap_between_chunks_is_their_mean_and_needs_two(recorded: Recorded) -> None:
    turn = recorded.turn()
    recorded.clock.advance(10 * NS)
    turn.chunk(recorded.clock.now)
    assert turn.time_per_output_chunk is None
    for gap in (1, 2, 6):
        recorded.clock.advance(gap * NS)
        turn.chunk(recorded.clock.now)
    assert turn.time_per_output_chunk == 3.0
    assert turn.time_to_first_token == 10.0


def test_the_turns_of_a_session_note_when_its_socket_is_lost_and_when_it_is_back(
    recorded: Recorded,
) -> None:
    session, other = (Session("websocket", "webapp", name, START) for name in ("a", "b"))
    ledger, clock = recorded.ledger, recorded.clock
    done, first, second, elsewhere = (
        ledger.start(clock.now, "", session=owner) for owner in (session, session, session, other)
    )
    ledger.end(done)
    clock.advance(NS)
    ledger.streamed(first, clock.now)
    session.close_reason = "transport_close"
    ledger.change_socket(session, is_back=False)
    gone = clock.now
    clock.advance(2 * NS)
    ledger.drop("stream_token", first, session)
    ledger.drop("step", first, session)
    ledger.change_socket(session, is_back=True)
    assert list(first.socket_changes) == [
        SocketChange(gone, False, "transport_close", 1, 0),
        SocketChange(clock.now, True, "", 1, 2),
    ]
    assert [change.chunks for change in second.socket_changes] == [0, 0]
    assert done.socket_changes == elsewhere.socket_changes == ()
    assert first.wall_time(gone) == first.started_at + NS
    assert first.time_per_output_chunk == 2.0, "lost chunks have their pace, too"
    for _ in range(MAX_SOCKET_CHANGES):
        ledger.change_socket(session, is_back=False)
    assert len(first.socket_changes) == MAX_SOCKET_CHANGES
    for turn in (first, second, elsewhere):
        ledger.end(turn)
    ledger.change_socket(session, is_back=False)
    assert len(second.socket_changes) == MAX_SOCKET_CHANGES
    assert ledger.undelivered() == {(): 1}


def test_output_that_is_no_chunk_is_between_no_chunks(recorded: Recorded) -> None:
    turn = recorded.turn()
    recorded.clock.advance(NS)
    turn.output(recorded.clock.now)
    recorded.clock.advance(NS)
    turn.chunk(recorded.clock.now)
    assert turn.time_to_first_token == 1.0
    assert turn.time_per_output_chunk is None


def test_a_turn_without_output_has_no_first_token(recorded: Recorded) -> None:
    turn = recorded.turn()
    assert turn.time_to_first_token is None
    assert turn.time_per_output_chunk is None


def test_an_error_wins_over_a_stop(recorded: Recorded) -> None:
    turn = recorded.turn()
    assert turn.outcome == "ok"
    turn.cancelled = True
    assert turn.outcome == "cancelled"
    turn.fail(ValueError())
    assert turn.outcome == "error"


def test_a_second_end_changes_nothing(recorded: Recorded) -> None:
    turn, other = recorded.turn(), recorded.turn()
    recorded.ledger.end(turn)
    recorded.clock.advance(NS)
    recorded.ledger.end(turn)
    assert recorded.reported == [(turn, 0.0)]
    assert recorded.ledger.active() == {(): 1}
    recorded.ledger.end(other)
    assert recorded.ledger.active() == {(): 0}


def test_the_end_of_the_process_cancels_what_is_under_way_and_nothing_else(
    recorded: Recorded,
) -> None:
    done, failed, under_way = recorded.turn(), recorded.turn(), recorded.turn()
    recorded.ledger.end(done)
    failed.fail(ValueError())
    recorded.clock.advance(4 * NS)
    recorded.ledger.cancel_all()
    assert {(turn, seconds) for turn, seconds in recorded.reported[1:]} == {
        (failed, 4.0),
        (under_way, 4.0),
    }
    assert [turn.outcome for turn in (done, failed, under_way)] == ["ok", "error", "cancelled"]
    recorded.ledger.cancel_all()
    assert len(recorded.reported) == 3
    assert recorded.ledger.active() == {(): 0}


def test_the_wall_clock_does_not_enter_durations(recorded: Recorded) -> None:
    turn = recorded.turn()
    recorded.clock.advance(10 * NS)
    recorded.clock.step(-86_400 * NS)
    recorded.ledger.end(turn)
    assert recorded.reported == [(turn, 10.0)]


@pytest.mark.timeout(60)
def test_what_is_called_at_an_end_may_read_the_ledger_and_start_a_turn() -> None:
    seen: list[dict[tuple[str, ...], int]] = []

    def on_end(*_: object) -> None:
        seen.append(ledger.active())
        ledger.peaks()
        ledger.start(0, "")

    ledger = TurnLedger(on_end)
    ledger.end(ledger.start(0, ""))
    assert seen == [{(): 0}]
    assert ledger.active() == {(): 1}


def test_threads_lose_nothing() -> None:
    rounds, workers = 400, 4
    reported: list[Turn] = []
    ledger = TurnLedger(lambda turn, _: reported.append(turn), SwitchingClock())

    def work(seed: int) -> None:
        shuffled = random.Random(seed)
        for _ in range(rounds):
            turns = [ledger.start(0, "") for _ in range(shuffled.randrange(1, 4))]
            for turn in turns[1:]:
                ledger.end(turn)
            if shuffled.random() < 0.1:
                ledger.cancel_all()
            for turn in turns:
                ledger.end(turn)
                ledger.end(turn)

    with hurried_threads(), ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work, seed) for seed in range(workers)]:
            future.result()
    draws = [random.Random(seed) for seed in range(workers)]
    began = 0
    for numbers in draws:
        for _ in range(rounds):
            began += numbers.randrange(1, 4)
            numbers.random()
    assert len(reported) == len(set(reported)) == began
    assert ledger.active() == {(): 0}
    assert 1 <= ledger.peaks()[("process",)] <= 3 * workers
