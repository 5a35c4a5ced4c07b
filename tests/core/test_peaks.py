from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chainlit_otel.core.peaks import WINDOWS, HighWaterMark
from tests.core.clocks import NS

START = 1_700_000_007 * NS
# The start of a window of each length, so that examples read easily.
ALIGNED = START // WINDOWS["1h"] * WINDOWS["1h"]
SHORTEST = WINDOWS["15s"]

# A wall clock may run up to 500 parts in a million fast or slow, and still not be stepped.
SLEW = 500

# A window that the slew has made a little shorter is still a whole one.
WHOLE = 0.99


@dataclass(frozen=True)
class Moved:
    """The level changed, or (None) somebody read it."""

    now: int
    wall: int
    level: int | None


def levels() -> st.SearchStrategy[int | None]:
    return st.none() | st.integers(0, 5)


def gaps() -> st.SearchStrategy[int]:
    """Time between two events: nothing, a moment, the windows and more, and close to them."""
    edges = [0, 1, *WINDOWS.values(), *(2 * ns for ns in WINDOWS.values())]
    near = st.builds(lambda edge, by: max(0, edge + by), st.sampled_from(edges), st.integers(-2, 2))
    return near | st.integers(0, 20 * NS) | st.integers(0, 3 * 3600 * NS)


def histories(max_size: int = 25) -> st.SearchStrategy[list[tuple[int, int | None]]]:
    return st.lists(st.tuples(gaps(), levels()), min_size=1, max_size=max_size)


def played(events: list[tuple[int, int | None]], start: int, slew: int) -> list[Moved]:
    """Put the events on both clocks; the wall clock runs `slew` parts in a million fast."""
    now, result = 0, []
    for gap, level in events:
        now += gap
        result.append(Moved(now, start + now + now * slew // 1_000_000, level))
    return result


def expected(moves: list[Moved], start: int) -> dict[str, int]:
    """The peaks at the last of these moments, computed from their list alone."""
    past = [Moved(0, start, 0), *(move for move in moves if move.level is not None)]
    peaks = {"process": max(move.level or 0 for move in past)}
    for name, length in WINDOWS.items():
        opened = (moves[-1].wall // length - 1) * length
        held_at_opening = [move.level or 0 for move in past if move.wall <= opened][-1:]
        since = [move.level or 0 for move in past if move.wall > opened]
        peaks[name] = max([*held_at_opening, *since])
    return peaks


@given(histories(), st.integers(0, 4000 * NS).map(lambda ns: START + ns), st.integers(-SLEW, SLEW))
@example([(NS, 5), (NS, 0), (SHORTEST, None), (SHORTEST, None)], ALIGNED, SLEW)
@example([(NS, 5), (NS, 0), (SHORTEST, None), (SHORTEST, None)], ALIGNED, -SLEW)
@example([(NS, 5), (NS, 0), (2 * SHORTEST, None)], ALIGNED, SLEW)
@example([(NS, 5), (NS, 0), (2 * SHORTEST, None)], ALIGNED, -SLEW)
def test_every_window_is_exact_while_the_clock_is_not_stepped(
    events: list[tuple[int, int | None]], start: int, slew: int
) -> None:
    mark = HighWaterMark(0, start)
    moves = played(events, start, slew)
    for number, move in enumerate(moves):
        if move.level is not None:
            mark.move(move.level, move.now, move.wall)
        assert mark.values(move.now, move.wall) == expected(moves[: number + 1], start)


@given(histories(), histories(), st.integers(-SLEW, SLEW))
def test_reading_changes_nothing(
    events: list[tuple[int, int | None]], readings: list[tuple[int, int | None]], slew: int
) -> None:
    moves = played(events, START, slew)
    read = [Moved(m.now, m.wall, None) for m in played(readings, START, slew)]
    seldom, often = HighWaterMark(0, START), HighWaterMark(0, START)
    for move in sorted([*moves, *read], key=lambda m: m.now):
        if move.level is not None:
            seldom.move(move.level, move.now, move.wall)
            often.move(move.level, move.now, move.wall)
        else:
            often.values(move.now, move.wall)
            often.values(move.now, move.wall)
    end = max(moves[-1].now, read[-1].now) + 1
    wall = START + end + end * slew // 1_000_000
    assert seldom.values(end, wall) == often.values(end, wall) == often.values(end, wall)


def steps() -> st.SearchStrategy[int]:
    """How far the wall clock is set, forwards or backwards; mostly it is left alone."""
    a_window = st.builds(
        int.__mul__, st.sampled_from([*WINDOWS.values()]), st.sampled_from([-1, 1])
    )
    seconds = st.integers(-20, 20).map(lambda n: n * NS)
    return st.just(0) | st.just(0) | a_window | seconds | st.integers(-(10**14), 10**14)


def changes() -> st.SearchStrategy[tuple[int, ...]]:
    """Nothing but a reading, a level that stays, or one that comes and goes unseen."""
    return st.just(()) | st.tuples(st.integers(0, 5)) | st.tuples(st.integers(1, 5), st.just(0))


@given(
    st.lists(
        st.tuples(st.integers(0, 20).map(lambda n: n * NS) | gaps(), changes(), steps()),
        min_size=3,
        max_size=30,
    ),
)
@example([(14 * NS, (5, 0), 0), (NS // 2, (), 15 * NS), (NS // 2, (), 0)])
@example([(14 * NS, (), -14 * NS), (14 * NS, (5, 0), 0), (NS, (), 0)])
@example([(14 * NS, (), -14 * NS), (14 * NS, (), 0), (NS // 2, (5, 0), 0), (NS, (), 0)])
@settings(max_examples=500)
def test_a_stepped_clock_loses_no_peak(events: list[tuple[int, tuple[int, ...], int]]) -> None:
    now, wall = 0, ALIGNED
    mark = HighWaterMark(now, wall)
    # Each level that was held, and until when.
    held = [(0, 0)]
    for gap, to, step in events:
        now, wall = now + gap, max(0, wall + gap + step)
        held.append((mark.level, now))
        for level in to:
            held.append((level, now))
            mark.move(level, now, wall)
        values = mark.values(now, wall)
        assert values == mark.values(now, wall)
        assert values["process"] == max(level for level, _ in held)
        for name, length in WINDOWS.items():
            recent = max(level for level, until in held if until > now - WHOLE * length)
            assert recent <= values[name] <= values["process"]


def at(mark: HighWaterMark, seconds: float) -> dict[str, int]:
    return mark.values(round(seconds * NS), round(seconds * NS))


def test_a_peak_between_two_scrapes_is_seen_then_forgotten_but_not_by_the_process() -> None:
    mark = HighWaterMark(0, 0)
    assert set(at(mark, 0).values()) == {0}
    mark.move(100, 20 * NS, 20 * NS)
    mark.move(0, 21 * NS, 21 * NS)
    assert at(mark, 22) == dict.fromkeys([*WINDOWS, "process"], 100)
    assert at(mark, 44.9)["15s"] == 100
    assert at(mark, 45) == {"15s": 0, "1m": 100, "5m": 100, "1h": 100, "process": 100}
    assert at(mark, 119)["1m"] == 100
    assert at(mark, 120) == {"15s": 0, "1m": 0, "5m": 100, "1h": 100, "process": 100}
    assert at(mark, 7200) == {"15s": 0, "1m": 0, "5m": 0, "1h": 0, "process": 100}


@pytest.mark.parametrize("interval", [1, 5, 10, 14.9, 15])
def test_no_scrape_interval_up_to_the_window_loses_a_peak(interval: float) -> None:
    for moment in range(300, 330):
        mark = HighWaterMark(0, 0)
        scrapes, due = [], interval
        while due < 400:
            if due - interval <= moment < due:
                mark.move(7, moment * NS, moment * NS)
                mark.move(0, moment * NS, moment * NS)
            scrapes.append(at(mark, due)["15s"])
            due += interval
        assert 7 in scrapes


def test_a_level_that_stays_is_the_peak_of_every_window() -> None:
    mark = HighWaterMark(0, 0)
    mark.move(9, NS, NS)
    mark.move(4, 2 * NS, 2 * NS)
    assert at(mark, 86_400) == {"15s": 4, "1m": 4, "5m": 4, "1h": 4, "process": 9}


def test_windows_are_cut_by_the_wall_clock_not_by_the_start_of_the_process() -> None:
    mark = HighWaterMark(0, 14 * NS)
    mark.move(3, 0, 14 * NS)
    mark.move(0, 0, 14 * NS)
    assert mark.values(15 * NS, 29 * NS)["15s"] == 3
    assert mark.values(16 * NS, 30 * NS)["15s"] == 0


@pytest.mark.parametrize("step", [-86_400, -3600, -15, -14, -1, 1, 14, 15, 16, 3600, 86_400])
def test_one_step_at_any_moment_keeps_a_peak_for_a_window(step: int) -> None:
    for peak_at in range(12, 32):
        for step_at in range(8, 50):
            mark = HighWaterMark(0, START)
            for second in range(1, 95):
                now = second * NS
                wall = START + now + (step * NS if second >= step_at else 0)
                if second == peak_at:
                    mark.move(8, now, wall)
                    mark.move(0, now, wall)
                value = mark.values(now, wall)["15s"]
                if peak_at <= second < peak_at + 15 * WHOLE:
                    assert value == 8, (
                        f"peak at {peak_at} s, step at {step_at} s, gone at {second} s"
                    )
                elif second >= peak_at + 60:
                    assert value == 0
