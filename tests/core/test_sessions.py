from __future__ import annotations

import gc
import heapq
import math
import random
import statistics
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from threading import Thread
from types import FunctionType, MethodType, ModuleType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from chainlit_otel.core.sessions import OnEnd, Session, SessionLedger, SessionType
from tests.core.clocks import NS, Clock, SwitchingClock, hurried_threads

TYPES: tuple[SessionType, ...] = ("websocket", "websocket", "http")
CLIENTS = ("webapp", "copilot", "slack", "other")
WEBSOCKET_REASONS = ("cleared", "timeout", "shutdown", "other")
HTTP_REASONS = ("completed", "shutdown", "other")

Ended = tuple[str, str, str, float]


def noting(ended: list[Ended]) -> OnEnd:
    """Note what is reported of each end, without a reference to the session."""

    def note(session: Session, reason: str, seconds: float) -> None:
        ended.append((session.type, session.client, reason, seconds))

    return note


# What the ledger must have, computed from the list of what happened alone


@dataclass(frozen=True)
class Event:
    """Something that somebody reported, whether or not it made sense at that moment.

    Attributes:
        at: Monotonic time, in nanoseconds.
        session: Number of the session.
        what: start, drop, restore or end.
        detail: Type, client type and origin of a start; the reason of an end.
    """

    at: int
    session: int
    what: str
    detail: tuple[str, ...] = ()


@dataclass(frozen=True)
class Life:
    """One session, as its events tell it."""

    type: str
    client: str
    origin: str
    started: int
    left: int | None
    reason: str | None
    reconnects: int

    @property
    def state(self) -> str:
        if self.reason is not None:
            return "ended"
        return "connected" if self.left is None else "disconnected"

    def duration(self, now: int) -> int:
        return (now if self.left is None else self.left) - self.started


def lives(events: list[Event]) -> list[Life]:
    return [life(events, event.session) for event in events if event.what == "start"]


def life(events: list[Event], session: int) -> Life:
    first, *rest = (event for event in events if event.session == session)
    left, reason, reconnects = None, None, 0
    for event in rest:
        if reason is not None:
            break
        if event.what == "restore":
            left, reconnects = None, reconnects + 1
        elif left is None:
            left = event.at
        if event.what == "end":
            (reason,) = event.detail
    type, client, origin = first.detail
    return Life(type, client, origin, first.at, left, reason, reconnects)


def peak(events: list[Event]) -> int:
    """The most websocket sessions connected at once."""
    levels = [0]
    for n in range(len(events)):
        known = lives(events[: n + 1])
        levels.append(sum((s.type, s.state) == ("websocket", "connected") for s in known))
    return max(levels)


class SessionMachine(RuleBasedStateMachine):
    """Any order of events, sensible or not, against the naive model."""

    sessions = Bundle("sessions")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock(now=123_456_789)
        self.ended: list[Ended] = []
        self.ledger = SessionLedger(
            noting(self.ended),
            lambda: self.clock.now,
            lambda: self.clock.wall,
        )
        self.events: list[Event] = []
        self.handles: list[Session] = []
        self.time_before = {"websocket": 0.0, "http": 0.0}

    def happened(self, session: int, what: str, *detail: str) -> None:
        self.events.append(Event(self.clock.now, session, what, detail))

    def started(self, type: SessionType, client: str, origin: str) -> int:
        number = len(self.handles)
        self.handles.append(self.ledger.start(type, client, origin))
        self.happened(number, "start", type, client, origin)
        return number

    @initialize(target=sessions, types=st.lists(st.sampled_from(TYPES), min_size=2, max_size=5))
    def some_are_there(self, types: list[SessionType]) -> MultipleResults[int]:
        return multiple(*(self.started(type, "webapp", "new") for type in types))

    @rule(
        target=sessions,
        type=st.sampled_from(TYPES),
        client=st.sampled_from(CLIENTS),
        origin=st.sampled_from(["new", "thread_resume"]),
    )
    def start(self, type: SessionType, client: str, origin: str) -> int:
        return self.started(type, client, origin)

    @rule(number=sessions)
    def drop(self, number: int) -> None:
        self.ledger.drop(self.handles[number])
        self.happened(number, "drop")

    @rule(number=sessions)
    def restore(self, number: int) -> None:
        is_over = life(self.events, number).state == "ended"
        assert self.ledger.restore(self.handles[number]) is not is_over
        self.happened(number, "restore")

    @rule(number=sessions, data=st.data())
    def end(self, number: int, data: st.DataObject) -> None:
        websocket = self.handles[number].type == "websocket"
        reason = data.draw(st.sampled_from(WEBSOCKET_REASONS if websocket else HTTP_REASONS))
        self.ledger.end(self.handles[number], reason)
        self.happened(number, "end", reason)

    @rule(number=sessions, data=st.data())
    def expire(self, number: int, data: st.DataObject) -> None:
        """The grace time that began at some disconnect, the last one or not, runs out."""
        known = life(self.events, number)
        drops = [e.at for e in self.events if (e.session, e.what) == (number, "drop")]
        left = data.draw(st.sampled_from([known.left, *drops, None, 1]))
        due = known.state == "disconnected" and left == known.left
        assert self.ledger.expire(self.handles[number], left) is due
        if due:
            self.happened(number, "end", "timeout")

    @rule(number=sessions)
    def collect(self, number: int) -> None:
        """The finalizer of the host's object runs."""
        reason = "completed" if self.handles[number].type == "http" else "other"
        self.ledger.finalized(self.handles[number], reason)
        self.happened(number, "end", reason)

    @rule(
        gone=sessions,
        number=sessions,
        after=st.integers(0, 10 * NS),
        then=st.sampled_from(["drop", "restore", "end", "expire", "wait"]),
        data=st.data(),
    )
    def collect_and_let_something_else_book_it(
        self, gone: int, number: int, after: int, then: str, data: st.DataObject
    ) -> None:
        self.collect(gone)
        self.clock.advance(after)
        if then in ("end", "expire"):
            getattr(self, then)(number, data)
        elif then != "wait":
            getattr(self, then)(number)

    @rule()
    def shut_down(self) -> None:
        self.ledger.end_all("shutdown")
        for number in range(len(self.handles)):
            self.happened(number, "end", "shutdown")

    @rule(ns=st.integers(0, 3) | st.integers(0, 4000 * NS))
    def wait(self, ns: int) -> None:
        self.clock.advance(ns)

    @rule(ns=st.integers(-4000 * NS, 4000 * NS))
    def step_the_wall_clock(self, ns: int) -> None:
        self.clock.step(ns)

    @invariant()
    def the_books_agree_with_the_events(self) -> None:
        known = lives(self.events)
        assert +Counter(self.ledger.starts()) == Counter(
            (s.type, s.client, s.origin) for s in known
        )
        assert +Counter(self.ledger.ends()) == Counter(
            (s.type, s.client, s.reason) for s in known if s.reason
        )
        assert min(self.ledger.active().values(), default=0) >= 0
        assert +Counter(self.ledger.active()) == Counter(
            (s.type, s.client, s.state) for s in known if s.reason is None
        )
        assert +Counter(self.ledger.reconnects()) == sum(
            (Counter({(s.client,): s.reconnects}) for s in known), Counter()
        )

    @invariant()
    def time_and_age_agree_with_the_events(self) -> None:
        now, known = self.clock.now, lives(self.events)
        for type in ("websocket", "http"):
            mine = [s for s in known if s.type == type]
            time = self.ledger.time()[(type,)]
            assert time == sum(s.duration(now) for s in mine) / NS
            assert time >= self.time_before[type], "session time runs backwards"
            self.time_before[type] = time
            ages = [now - s.started for s in mine if s.reason is None]
            assert self.ledger.oldest_age()[(type,)] == max(ages, default=0) / NS

    @invariant()
    def every_session_that_ended_was_told_once(self) -> None:
        self.ledger.ends()  # what was finalized is recorded at the next reading
        assert sorted(self.ended) == sorted(
            (s.type, s.client, s.reason, s.duration(self.clock.now) / NS)
            for s in lives(self.events)
            if s.reason
        )

    @invariant()
    def the_peak_is_the_highest_level_there_was(self) -> None:
        peaks = {window: n for (window,), n in self.ledger.peaks().items()}
        assert peaks["process"] == peak(self.events)
        connected = sum((s.type, s.state) == ("websocket", "connected") for s in lives(self.events))
        windows = [n for window, n in peaks.items() if window != "process"]
        assert all(connected <= n <= peaks["process"] for n in windows)

    def teardown(self) -> None:
        self.clock.advance(NS)
        self.shut_down()
        self.every_session_that_ended_was_told_once()
        for type in ("websocket", "http"):
            durations = [round(ended[3] * NS) for ended in self.ended if ended[0] == type]
            assert self.ledger.time()[(type,)] == sum(durations) / NS
        self.clock.advance(NS)
        self.time_and_age_agree_with_the_events()
        self.handles.clear()
        assert sessions_held_by(self.ledger) == 0


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=200, stateful_step_count=25)


def sessions_held_by(ledger: SessionLedger) -> int:
    """Count the sessions that can be reached from the ledger."""
    seen: dict[int, Any] = {}
    found: list[Any] = [ledger]
    while found:
        thing = found.pop()
        if id(thing) not in seen:
            seen[id(thing)] = thing
            if not isinstance(thing, (FunctionType, MethodType, ModuleType, type)):
                found += gc.get_referents(thing)
    return sum(isinstance(thing, Session) for thing in seen.values())


# What an example says better


class Recorded:
    def __init__(self) -> None:
        self.clock = Clock()
        self.ended: list[Ended] = []
        self.ledger = SessionLedger(
            noting(self.ended),
            lambda: self.clock.now,
            lambda: self.clock.wall,
        )

    def websocket(self) -> Session:
        return self.ledger.start("websocket", "webapp", "new")

    def http(self) -> Session:
        return self.ledger.start("http", "slack", "new")


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_the_grace_time_is_no_part_of_the_duration(recorded: Recorded) -> None:
    session = recorded.websocket()
    recorded.clock.advance(10 * NS)
    recorded.ledger.drop(session)
    recorded.clock.advance(3600 * NS)
    assert recorded.ledger.expire(session, session.left)
    assert recorded.ended == [("websocket", "webapp", "timeout", 10.0)]


def test_the_gap_before_a_reconnect_is_part_of_the_duration(recorded: Recorded) -> None:
    session = recorded.websocket()
    recorded.clock.advance(10 * NS)
    recorded.ledger.drop(session)
    recorded.clock.advance(20 * NS)
    assert recorded.ledger.time()[("websocket",)] == 10.0
    assert recorded.ledger.restore(session)
    assert recorded.ledger.time()[("websocket",)] == 30.0
    recorded.clock.advance(NS)
    recorded.ledger.end(session, "cleared")
    assert recorded.ended == [("websocket", "webapp", "cleared", 31.0)]


def test_a_grace_time_that_somebody_came_back_in_ends_nothing(recorded: Recorded) -> None:
    session = recorded.websocket()
    recorded.ledger.drop(session)
    left = session.left
    recorded.clock.advance(NS)
    recorded.ledger.restore(session)
    assert not recorded.ledger.expire(session, left)
    recorded.clock.advance(NS)
    recorded.ledger.drop(session)
    assert not recorded.ledger.expire(session, left)
    assert recorded.ledger.expire(session, session.left)


def test_a_reconnect_over_a_socket_not_yet_known_to_be_lost_counts_and_changes_no_state(
    recorded: Recorded,
) -> None:
    session = recorded.websocket()
    assert recorded.ledger.restore(session)
    assert recorded.ledger.reconnects() == {("webapp",): 1}
    assert recorded.ledger.active() == {("websocket", "webapp", "connected"): 1}


def test_an_ended_session_does_not_come_back(recorded: Recorded) -> None:
    session = recorded.websocket()
    recorded.ledger.end(session, "cleared")
    assert not recorded.ledger.restore(session)
    assert recorded.ledger.reconnects() == {}
    assert +Counter(recorded.ledger.active()) == Counter()


def test_http_sessions_do_not_enter_the_peak(recorded: Recorded) -> None:
    for _ in range(5):
        recorded.http()
    recorded.websocket()
    assert set(recorded.ledger.peaks().values()) == {1}


def test_disconnected_sessions_do_not_enter_the_peak(recorded: Recorded) -> None:
    for _ in range(5):
        recorded.ledger.drop(recorded.websocket())
    assert recorded.ledger.peaks()[("process",)] == 1


def test_a_collected_session_ends_when_it_was_collected_not_when_it_was_booked(
    recorded: Recorded,
) -> None:
    session = recorded.http()
    recorded.clock.advance(7 * NS)
    recorded.ledger.finalized(session, "completed")
    assert recorded.ended == []
    recorded.clock.advance(50 * NS)
    assert recorded.ledger.time()[("http",)] == 7.0
    assert recorded.ended == [("http", "slack", "completed", 7.0)]


def test_a_grace_time_that_ends_nothing_returns_so_though_another_session_was_collected(
    recorded: Recorded,
) -> None:
    connected = recorded.websocket()
    recorded.ledger.finalized(recorded.http(), "completed")
    assert not recorded.ledger.expire(connected, None)
    assert [reason for *_, reason, _ in recorded.ended] == ["completed"]


def test_time_does_not_run_backwards_when_a_reading_overtakes_a_finalizer() -> None:
    """A finalizer asks for the time; before it has noted it, another thread reads the ledger."""
    now = 0
    overtaking: list[Any] = []

    def clock() -> int:
        asked = now
        if overtaking:
            overtaking.pop()()
        return asked

    ledger = SessionLedger(lambda *_: None, clock, lambda: 0)
    session = ledger.start("http", "slack", "new")
    readings = []

    def read_later() -> None:
        nonlocal now
        now += NS
        readings.append(ledger.time()[("http",)])

    now = 5 * NS
    overtaking.append(read_later)
    ledger.finalized(session, "completed")
    readings.append(ledger.time()[("http",)])
    assert readings == sorted(readings)
    now += NS
    assert ledger.time()[("http",)] == readings[-1]


def test_the_wall_clock_does_not_enter_durations(recorded: Recorded) -> None:
    session = recorded.websocket()
    recorded.clock.advance(10 * NS)
    recorded.clock.step(-86_400 * NS)
    recorded.ledger.end(session, "cleared")
    assert recorded.ended == [("websocket", "webapp", "cleared", 10.0)]
    assert recorded.ledger.time()[("websocket",)] == 10.0


def test_a_reading_is_a_copy(recorded: Recorded) -> None:
    recorded.websocket()
    for reading in (recorded.ledger.starts, recorded.ledger.active):
        numbers = reading()
        numbers.update(dict.fromkeys(numbers, 99))
        assert set(reading().values()) == {1}


def test_time_is_exact_after_a_hundred_days_of_odd_nanoseconds(recorded: Recorded) -> None:
    durations = []
    for n in range(1000):
        session = recorded.websocket()
        recorded.clock.advance(8_640_000_000_001 + n)
        durations.append(8_640_000_000_001 + n)
        recorded.ledger.end(session, "other")
    assert recorded.ledger.time()[("websocket",)] == sum(durations) / NS


def test_nothing_is_held_of_sessions_that_ended(recorded: Recorded) -> None:
    open_sessions = [recorded.websocket() for _ in range(50)] + [recorded.http() for _ in range(50)]
    assert sessions_held_by(recorded.ledger) == 100
    for n, session in enumerate(open_sessions):
        recorded.ledger.drop(session)
        if n % 2:
            recorded.ledger.end(session, "other")
        else:
            recorded.ledger.finalized(session, "other")
            recorded.ledger.finalized(session, "other")
    recorded.ledger.starts()
    assert sessions_held_by(recorded.ledger) == 0


def test_what_is_called_at_an_end_gets_the_session_with_its_hash_and_its_turns() -> None:
    reported: list[Session] = []
    ledger = SessionLedger(lambda session, *_: reported.append(session))
    first = ledger.start("websocket", "webapp", "new", "0af7651916cd43dd")
    second = ledger.start("http", "slack", "new")
    first.turns += 3
    ledger.end(second, "completed")
    ledger.finalized(first, "other")
    ledger.starts()
    assert reported == [second, first]
    assert [(session.hash, session.turns) for session in reported] == [
        ("", 0),
        ("0af7651916cd43dd", 3),
    ]


@pytest.mark.timeout(60)
def test_what_is_called_at_an_end_may_read_the_ledger_and_start_a_session() -> None:
    seen: list[int] = []

    def on_end(*_: object) -> None:
        seen.append(sum(ledger.ends().values()))
        ledger.start("http", "slack", "new")

    ledger = SessionLedger(on_end)
    ledger.end(ledger.start("websocket", "webapp", "new"), "cleared")
    assert seen == [1]
    assert sum(ledger.starts().values()) == 2


class HostObject:
    """Stands for an object of the host that refers to itself, so that only gc frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def no_automatic_gc() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_automatic_gc")
def test_a_finalizer_in_the_middle_of_any_operation_neither_blocks_nor_is_lost() -> None:
    now = count()

    def clock() -> int:
        # The ledger asks for the time while it holds its lock.
        gc.collect(0)
        return next(now)

    ended: list[Ended] = []
    ledger = SessionLedger(noting(ended), clock, clock)
    session = ledger.start("websocket", "webapp", "new")
    operations = (
        lambda: ledger.start("websocket", "webapp", "new"),
        lambda: ledger.drop(session),
        lambda: ledger.restore(session),
        lambda: ledger.expire(session, session.left),
        lambda: ledger.end(session, "cleared"),
        ledger.starts,
        ledger.ends,
        ledger.active,
        ledger.reconnects,
        ledger.peaks,
        ledger.time,
        ledger.oldest_age,
        lambda: ledger.end_all("shutdown"),
    )
    freed_by: list[bool] = []

    def work() -> None:
        for operation in operations:
            handle = ledger.start("http", "slack", "new")
            reference = weakref.ref(host := HostObject())
            weakref.finalize(host, ledger.finalized, handle, "completed").atexit = False
            del host
            was_there = reference() is not None
            operation()
            freed_by.append(was_there and reference() is None)

    # A thread that may be left behind: what waits in a finalizer cannot be interrupted.
    worker = Thread(target=work, daemon=True)
    worker.start()
    worker.join(10)
    assert not worker.is_alive(), f"operation {len(freed_by)} waits for itself"
    assert freed_by == [True] * len(operations)
    ledger.end_all("shutdown")
    reported = Counter((type, reason) for type, _, reason, _ in ended)
    assert reported["http", "completed"] == len(operations)
    assert sum(ledger.ends().values()) == sum(ledger.starts().values())


def test_threads_lose_nothing() -> None:
    rounds, workers = 400, 4
    ended: list[Ended] = []
    ledger = SessionLedger(noting(ended), SwitchingClock())
    backwards: list[tuple[float, float]] = []

    def work(seed: int) -> None:
        shuffled = random.Random(seed)
        before = 0.0
        for _ in range(rounds):
            session = ledger.start("websocket", "webapp", "new")
            ledger.drop(session)
            ledger.restore(session)
            if shuffled.random() < 0.5:
                ledger.drop(session)
                ledger.expire(session, session.left)
            ledger.end(session, "cleared")
            ledger.end(session, "cleared")
            time = ledger.time()[("websocket",)]
            if time < before:
                backwards.append((before, time))
            before = time

    with hurried_threads(), ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work, seed) for seed in range(workers)]:
            future.result()
    total = rounds * workers
    assert ledger.starts() == {("websocket", "webapp", "new"): total}
    assert sum(ledger.ends().values()) == total == len(ended)
    assert ledger.reconnects() == {("webapp",): total}
    assert +Counter(ledger.active()) == Counter()
    assert 1 <= ledger.peaks()[("process",)] <= workers
    durations = sum(round(seconds * NS) for *_, seconds in ended)
    assert ledger.time()[("websocket",)] == durations / NS
    assert backwards == []
    assert sessions_held_by(ledger) == 0


# The mean duration that operators read

MEAN = 1800.0
HOUR = 3600.0


def exponential(numbers: random.Random) -> float:
    return numbers.expovariate(1 / MEAN)


def long_tailed(numbers: random.Random) -> float:
    """Most are short and a few very long: lognormal, sigma 1."""
    return numbers.lognormvariate(math.log(MEAN) - 0.5, 1)


def alike(_: random.Random) -> float:
    return MEAN


class Traffic:
    """Sessions that arrive at random.

    Args:
        draw: Draws a duration, in seconds.
        rate: Arrivals a second.
        grace: Seconds from a disconnect to the end.
    """

    def __init__(
        self, draw: Callable[[random.Random], float], rate: float, grace: float = 0
    ) -> None:
        self.now = 0
        self.completed: list[float] = []
        self.ledger = SessionLedger(
            lambda *ended: self.completed.append(ended[2]), lambda: self.now, lambda: self.now
        )
        self._numbers = random.Random(1)
        self._draw = draw
        self._rate = rate
        self._grace = round(grace * NS)
        self._number = count()
        self._arrival = self._gap()
        self._due: list[tuple[int, int, Session]] = []

    def run_until(self, seconds: float) -> None:
        until = round(seconds * NS)
        while min(self._arrival, self._next_due()) <= until:
            if self._next_due() <= self._arrival:
                self.now, _, session = heapq.heappop(self._due)
                if session.left is None:
                    self.ledger.drop(session)
                    self._plan(self._grace, session)
                else:
                    assert self.ledger.expire(session, session.left)
            else:
                self.now = self._arrival
                session = self.ledger.start("websocket", "webapp", "new")
                self._plan(round(self._draw(self._numbers) * NS), session)
                self._arrival += self._gap()
        self.now = until

    def read(self) -> tuple[float, int]:
        """The two counters that operators divide: seconds of all sessions, sessions ended."""
        return self.ledger.time()[("websocket",)], sum(self.ledger.ends().values())

    def means(self, start: float, end: float) -> tuple[float, float]:
        """Mean durations over a window: by the two counters, and of what completed in it."""
        self.run_until(start)
        time_before, ends_before = self.read()
        self.run_until(end)
        time, ends = self.read()
        by_counters = (time - time_before) / (ends - ends_before)
        completed = statistics.fmean(self.completed[ends_before:])
        print(
            f"{self._draw.__name__}, {start / HOUR:g} h to {end / HOUR:g} h, grace "
            f"{self._grace / NS:g} s: {MEAN:g} s true, time / ends {by_counters:.0f} s, "
            f"completed ones {completed:.0f} s ({ends - ends_before} ended)"
        )
        return by_counters, completed

    def _plan(self, ns: int, session: Session) -> None:
        heapq.heappush(self._due, (self.now + ns, next(self._number), session))

    def _gap(self) -> int:
        return round(self._numbers.expovariate(self._rate) * NS)

    def _next_due(self) -> float:
        return self._due[0][0] if self._due else math.inf


@pytest.mark.parametrize("draw", [exponential, long_tailed, alike])
def test_unbiased_duration_while_traffic_is_steady(
    draw: Callable[[random.Random], float],
) -> None:
    by_counters, _ = Traffic(draw, rate=3, grace=HOUR).means(7 * HOUR, 11 * HOUR)
    assert by_counters == pytest.approx(MEAN, rel=0.02)


def test_unbiased_duration_from_the_start_of_the_process() -> None:
    """Unbiased from the first second if a session is as likely to end at any age."""
    by_counters, completed = Traffic(exponential, rate=25).means(0, HOUR)
    assert by_counters == pytest.approx(MEAN, rel=0.02)
    # Durations d below the remaining time only: their mean, integrated over the hour.
    assert completed == pytest.approx(MEAN * 4 / (math.e**2 + 1), rel=0.02)


def test_unbiased_duration_while_the_first_grace_times_run_if_who_left_counts_as_ended() -> None:
    """Until the first grace time is over nothing ends, though many have left."""
    traffic = Traffic(exponential, rate=25, grace=HOUR)
    traffic.run_until(HOUR)
    time, ends = traffic.read()
    left = traffic.ledger.active()["websocket", "webapp", "disconnected"]
    assert ends == 0
    print(f"1 h from start, grace 1 h: time / (ends + disconnected) {time / (ends + left):.0f} s")
    assert time / (ends + left) == pytest.approx(MEAN, rel=0.02)


def test_with_a_long_tail_the_first_hour_biases_the_mean_of_completed_sessions_more() -> None:
    by_counters, completed = Traffic(long_tailed, rate=10).means(0, HOUR)
    assert completed < by_counters < MEAN
