"""Sums and quantiles of a window that slides, against a model that keeps everything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chainlit_otel.live.sliding import SlidingQuantiles, SlidingSum, quantile

BOUNDS = (0.1, 1.0, 10.0)
WINDOW = 60

steps = st.lists(st.integers(1, 5) | st.sampled_from([59, 60, 61, 3600]), max_size=60)


@settings(max_examples=60, deadline=None)
@given(steps, st.data())
def test_a_sum_is_that_of_the_window(steps: list[int], data: st.DataObject) -> None:
    sliding, counts = SlidingSum(WINDOW), dict[int, int]()
    for second in accumulate(steps, initial=7):
        counts[second] = data.draw(st.integers(0, 5))
        sliding.add(second, counts[second])
        assert sliding.total == sum(n for s, n in counts.items() if second - WINDOW < s <= second)


@settings(max_examples=60, deadline=None)
@given(steps, st.data())
def test_a_quantile_is_that_of_the_window(steps: list[int], data: st.DataObject) -> None:
    sliding = SlidingQuantiles(BOUNDS, WINDOW)
    totals, samples = [3, 0, 1, 2], dict[int, list[int]]()
    sliding.add(6, totals)
    for second in accumulate(steps, initial=7):
        samples[second] = [data.draw(st.integers(0, 5)) for _ in totals]
        totals = [a + b for a, b in zip(totals, samples[second], strict=True)]
        sliding.add(second, totals)
        window = [new for s, new in samples.items() if second - WINDOW < s <= second]
        counts = [sum(column) for column in zip(*window, strict=True)]
        assert sliding.quantile(0.95) == quantile(0.95, BOUNDS, counts)


# By the formula of `histogram_quantile`.
@pytest.mark.parametrize(
    ("q", "counts", "expected"),
    [
        (0.5, [10, 0, 0, 0], 0.05),
        (0.95, [10, 10, 0, 0], 0.91),
        (0.99, [1, 1, 1, 97], 10.0),
        (0.5, [0, 0, 4, 0], 5.5),
        (0.5, [0, 0, 0, 0], None),
    ],
)
def test_a_quantile_is_estimated_as_prometheus_does(
    q: float, counts: Sequence[int], expected: float | None
) -> None:
    found = quantile(q, BOUNDS, counts)
    assert found == expected or math.isclose(found or 0, expected or 0)
