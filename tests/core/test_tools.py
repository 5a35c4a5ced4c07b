"""The ledger of tools against a plain list of the calls."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.core.tools import _RECENT, ShownTools, ToolLedger

calls = st.tuples(
    st.sampled_from(["search", "look up", "other"]),
    st.sampled_from(["ok", "error", "cancelled"]),
    st.floats(0, 1e6),
)


@given(st.lists(calls))
def test_calls_and_time_add_up(made: list[tuple[str, str, float]]) -> None:
    ledger = ToolLedger()
    for call in made:
        ledger.add(*call)
    spent: dict[tuple[str, ...], list[float]] = {}
    for name, outcome, seconds in made:
        spent.setdefault((name, outcome), []).append(seconds)
    assert ledger.calls() == {key: len(times) for key, times in spent.items()}
    assert set(ledger.time()) == set(spent)
    for key, total in ledger.time().items():
        assert math.isclose(total, math.fsum(spent[key]), rel_tol=1e-9)


def test_no_call_is_lost_between_threads() -> None:
    def call() -> None:
        for _ in range(2000):
            ledger.add("search", "ok", 0.5)

    ledger, interval = ToolLedger(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            for _ in range(8):
                threads.submit(call)
    finally:
        sys.setswitchinterval(interval)
    assert ledger.calls() == {("search", "ok"): 16_000}
    assert ledger.time() == {("search", "ok"): 8_000.0}


def test_a_call_of_two_sources_is_one_around_or_beside_each_other() -> None:
    for other in ((90, 210), (110, 190), (150, 300), (200, 200)):
        shown = ShownTools()
        assert shown.add("step", "search", 100, 200)
        assert not shown.add("span", "search", *other)
        assert not shown.add("another's span", "search", *other)


def test_calls_of_one_source_are_as_many_as_it_shows() -> None:
    shown = ShownTools()
    assert [shown.add("span", "search", 0, 10) for _ in range(3)] == [True] * 3
    assert [shown.add("step", "search", 0, 10) for _ in range(4)] == [False] * 3 + [True]


def test_another_tool_or_another_time_is_another_call() -> None:
    shown = ShownTools()
    assert shown.add("step", "search", 100, 200)
    assert shown.add("span", "look up", 100, 200), "a tool in a tool"
    assert shown.add("span", "search", 201, 300)


def test_a_call_is_the_one_with_which_it_has_the_most_time_in_common() -> None:
    shown = ShownTools()
    for start in (0, 100, 200):
        assert shown.add("step", "search", start, start + 100)
    # In another order, and each a little longer.
    for start in (200, 0, 100):
        assert not shown.add("span", "search", start - 1, start + 101)
    assert shown.add("span", "search", 0, 300)


@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 50), st.integers(0, 20))))
def test_what_every_source_shows_counts_as_often_as_one_shows_it(
    made: list[tuple[str, int, int]],
) -> None:
    shown = ShownTools()
    new = [
        shown.add(source, name, start, start + length)
        for name, start, length in made
        for source in ("step", "span")
    ]
    assert sum(new) == len(made)


def test_the_last_calls_are_compared_and_no_more() -> None:
    shown = ShownTools()
    for moment in range(1 + _RECENT):
        assert shown.add("step", "search", moment, moment)
    assert not shown.add("span", "search", 1, 1)
    assert shown.add("span", "search", 0, 0)
