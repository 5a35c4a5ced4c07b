"""When visitors come, against a naive count of how many are expected."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.testing.arrivals import Stage, evenly, staged, steady

stages = st.lists(
    st.builds(
        Stage, seconds=st.floats(0.1, 100), rate=st.one_of(st.just(0.0), st.floats(0.01, 50))
    ),
    min_size=1,
    max_size=5,
)


class Units(random.Random):
    """Draws nothing but one: the arrivals are those at which one more is expected."""

    def expovariate(self, lambd: float = 1.0) -> float:
        return 1.0 / lambd


def expected_until(parts: list[Stage], at: float) -> float:
    """How many arrivals are expected until a moment: the area below the rate, in small pieces."""
    area, begin, before = 0.0, 0.0, 0.0
    for part in parts:
        length = max(0.0, min(part.seconds, at - begin))
        reached = before + (part.rate - before) * length / part.seconds
        area += length * (before + reached) / 2
        begin, before = begin + part.seconds, part.rate
    return area


@given(stages)
def test_each_arrival_is_where_one_more_is_expected(parts: list[Stage]) -> None:
    times = list(staged(parts, Units()))
    assert times == sorted(times)
    length = sum(part.seconds for part in parts)
    for number, at in enumerate(times, 1):
        assert 0 <= at <= length * (1 + 1e-9)
        assert expected_until(parts, at) == pytest.approx(number, rel=1e-6, abs=1e-6)
    assert len(times) == pytest.approx(expected_until(parts, length), abs=1.001)


def test_stages_go_up_and_hold() -> None:
    parts = [Stage(100, 20), Stage(100, 20), Stage(100, 0)]
    times = list(staged(parts, random.Random(1)))
    thirds = [sum(begin <= at < begin + 100 for at in times) for begin in (0, 100, 200)]
    assert thirds == [
        pytest.approx(1000, rel=0.1),
        pytest.approx(2000, rel=0.1),
        pytest.approx(1000, rel=0.1),
    ]
    assert list(staged(parts, random.Random(1))) == times


def test_a_steady_rate() -> None:
    times = list(itertools.islice(steady(4, random.Random(1)), 20_000))
    assert times[-1] == pytest.approx(5000, rel=0.03)


def test_equal_distances() -> None:
    assert list(evenly(2, 3)) == [0.25, 0.75, 1.25, 1.75, 2.25, 2.75]


def test_stages_as_they_are_written() -> None:
    assert Stage.parse("30s:5") == Stage(30, 5)
    assert Stage.parse("2m:0.5") == Stage(120, 0.5)
    for text in ("30s", "30s:", ":5", "0s:5", "30s:-1", "30s:inf", "soon:5", "30s:nan"):
        with pytest.raises(ValueError, match="is not a stage such as 30s:5"):
            Stage.parse(text)
