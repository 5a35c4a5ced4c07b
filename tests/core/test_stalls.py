from __future__ import annotations

import time
from threading import Barrier, Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.core.stalls import INTERVAL, THRESHOLD, Check, Heartbeat, Source, Stall

NS = 1_000_000_000
MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heart(clock: Clock) -> Heartbeat:
    heart = Heartbeat(clock)
    heart.beat()
    return heart


def after(clock: Clock, seconds: float) -> None:
    """Let the next beat be due, and so many seconds more."""
    clock.now += int((INTERVAL + seconds) * NS)


def test_the_first_beat_is_never_late(clock: Clock) -> None:
    heart = Heartbeat(clock)
    clock.now = 3600 * NS
    assert heart.check() == Check(False, THRESHOLD)
    assert heart.beat() is None
    assert heart.stalls == 0


@pytest.mark.parametrize("late", [0.0, 0.0015, 0.5, 0.999])
def test_a_late_beat_has_a_lag_and_is_no_stall(heart: Heartbeat, clock: Clock, late: float) -> None:
    after(clock, late)
    assert not heart.check().began
    beat = heart.beat()
    assert beat is not None
    assert beat.lag == pytest.approx(late)
    assert (beat.late_detection, heart.stalls) == (False, 0)


def test_a_beat_that_comes_early_is_not_late(heart: Heartbeat, clock: Clock) -> None:
    clock.now += 10 * MS
    beat = heart.beat()
    assert beat is not None
    assert beat.lag == 0


def test_a_stall_is_reported_once_counted_while_it_lasts_and_its_end_has_its_length(
    heart: Heartbeat, clock: Clock
) -> None:
    after(clock, 1.001)
    assert heart.check().began
    assert (heart.stalls, heart.stalled) == (1, True)
    clock.now += 60 * NS
    assert not heart.check().began
    beat = heart.beat()
    assert beat is not None
    assert beat.lag == pytest.approx(61.001)
    assert not beat.late_detection
    assert (heart.stalls, heart.stalled) == (1, False)
    after(clock, 1.001)
    assert heart.check().began
    assert heart.blocked() == {(): 2}


def test_a_stall_that_held_the_watchdog_up_too_is_counted_by_the_beat(
    heart: Heartbeat, clock: Clock
) -> None:
    after(clock, 2.5)
    beat = heart.beat()
    assert beat == (2.5, True)
    assert (heart.stalls, heart.stalled) == (1, False)
    assert not heart.check().began


def test_a_loop_that_does_not_run_is_not_blocked(heart: Heartbeat, clock: Clock) -> None:
    heart.pause()
    after(clock, 60)
    assert not heart.check().began
    assert heart.beat() is None
    after(clock, 1.5)
    assert heart.check().began, "it is watched again since its beat"


def test_a_pause_in_a_stall_ends_it(heart: Heartbeat, clock: Clock) -> None:
    after(clock, 1.5)
    heart.check()
    heart.pause()
    assert not heart.stalled
    assert heart.beat() is None
    assert heart.stalls == 1


@given(st.lists(st.integers(0, 5 * NS), max_size=40))
def test_a_watchdog_that_checks_when_due_detects_every_stall_as_it_begins(gaps: list[int]) -> None:
    """Between two beats lies the interval and one of the gaps."""
    clock = Clock()
    heart = Heartbeat(clock)
    heart.beat()
    look = int(heart.check().wait * NS)
    stalls = 0
    for gap in gaps:
        due = clock.now + int(INTERVAL * NS)
        end = due + gap
        began = []
        while look < end:
            clock.now = look
            check = heart.check()
            if check.began:
                began.append(clock.now)
            assert check.wait > 0
            look += max(1, round(check.wait * NS))
        clock.now = end
        beat = heart.beat()
        stalls += gap >= THRESHOLD * NS
        assert beat is not None
        assert beat.lag * NS == pytest.approx(gap)
        # Rounding a wait to nanoseconds may cost one of them.
        assert all(due + THRESHOLD * NS <= moment <= due + THRESHOLD * NS + 1 for moment in began)
        assert beat.late_detection == (gap >= THRESHOLD * NS and not began)
        assert not (beat.late_detection and gap > THRESHOLD * NS + 1)
        assert heart.stalls == stalls


@given(st.lists(st.tuples(st.sampled_from(["beat", "check"]), st.integers(0, 3 * NS)), max_size=60))
def test_however_seldom_the_watchdog_checks_each_stall_is_reported_and_counted_once(
    events: list[tuple[str, int]],
) -> None:
    clock = Clock()
    heart = Heartbeat(clock)
    heart.beat()
    reported, expected, due = 0, 0, int(INTERVAL * NS)
    for event, gap in events:
        clock.now += gap
        if event == "check":
            reported += heart.check().began
            continue
        beat = heart.beat()
        assert beat is not None
        reported += beat.late_detection
        expected += clock.now - due >= THRESHOLD * NS
        due = clock.now + int(INTERVAL * NS)
        assert reported == heart.stalls == expected
    assert reported == heart.stalls


def test_two_threads_count_a_stall_once() -> None:
    rounds = 300
    clock = Clock()

    def switching() -> int:
        time.sleep(0)
        return clock.now

    heart = Heartbeat(switching)
    heart.beat()
    reported = [0, 0]
    barrier = Barrier(2)

    def watch() -> None:
        for _ in range(rounds):
            barrier.wait()
            reported[0] += heart.check().began
            barrier.wait()

    def live() -> None:
        for _ in range(rounds):
            after(clock, 2)
            barrier.wait()
            beat = heart.beat()
            reported[1] += beat is not None and beat.late_detection
            barrier.wait()

    threads = [Thread(target=watch), Thread(target=live)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert heart.stalls == sum(reported) == rounds


def test_the_time_of_stalls_runs_while_they_last_and_leaves_out_what_is_no_stall(
    heart: Heartbeat, clock: Clock
) -> None:
    def blocked() -> float:
        return heart.blocked_time()[()]

    after(clock, 0.9)
    heart.beat()
    assert blocked() == 0
    after(clock, 1.5)
    assert heart.check().began
    assert blocked() == pytest.approx(1.5)
    clock.now += NS
    assert blocked() == pytest.approx(2.5)
    heart.beat()
    assert blocked() == pytest.approx(2.5)
    after(clock, 3.0)
    heart.beat()
    assert blocked() == pytest.approx(5.5), "the watchdog has not seen this one"
    after(clock, 2.0)
    assert heart.check().began
    heart.pause()
    clock.now += 60 * NS
    assert blocked() == pytest.approx(7.5), "a loop that does not run is not blocked"


@pytest.mark.parametrize(
    ("stall", "text"),
    [
        (
            Stall("on_message", Source("app.py", 14, "slow_call")),
            "by on_message at app.py:14 in slow_call",
        ),
        (Stall(None, Source("app.py", 14, "slow_call")), "at app.py:14 in slow_call"),
        (
            Stall("on_message", Source("app.py", 14, "hog"), seen_late=True),
            "by on_message at or just before app.py:14 in hog",
        ),
        (
            Stall(
                "on_message",
                Source("app.py", 14, "search"),
                step=("tool", "search_catalog"),
                innermost=Source("socket.py", 705, "readinto"),
            ),
            "by on_message in tool search_catalog at app.py:14 in search, "
            "inside socket.py:705 in readinto",
        ),
        (Stall(), "by unknown code"),
    ],
)
def test_what_is_logged_of_a_stall(stall: Stall, text: str) -> None:
    assert str(stall) == text
