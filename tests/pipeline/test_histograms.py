from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.trace import SpanContext, TraceFlags

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.histograms import Histograms
from tests.conftest import InternalErrors


def span(flags: int) -> SpanContext:
    return SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(flags))


@pytest.mark.parametrize(
    ("asked", "of_no_span", "of_a_span_left_out", "of_a_sampled_span"),
    [
        ("trace_based", 0, 0, 1),
        ("always_on", 0, 1, 1),
        ("always_off", 0, 0, 0),
    ],
)
def test_the_standard_filter_decides_which_values_become_exemplars(
    asked: str, of_no_span: int, of_a_span_left_out: int, of_a_sampled_span: int
) -> None:
    for context, expected in (
        (None, of_no_span),
        (span(TraceFlags.DEFAULT), of_a_span_left_out),
        (span(TraceFlags.SAMPLED), of_a_sampled_span),
    ):
        histograms = Histograms(asked)
        histograms.record(
            [(catalog.CONNECTION_DURATION, 2.0, ("other",), context, 7)], Guard("server")
        )
        ((_, _, series),) = histograms.read()
        assert [e.time_unix_nano for e in series.exemplars.values()] == [7] * expected


def test_a_value_that_cannot_be_recorded_takes_none_with_it(
    expected_internal_errors: InternalErrors,
) -> None:
    histograms, metric, guard = Histograms(), catalog.CONNECTION_DURATION, Guard("server")
    wrong: Any = "long"
    values = (1.0, wrong, 2.0)
    histograms.record([(metric, value, ("other",), None, 0) for value in values], guard)
    ((_, labels, series),) = histograms.read()
    assert (labels, series.sum, sum(series.counts)) == (("other",), 3.0, 2)
    assert [type(error) for _, error in expected_internal_errors] == [TypeError]
    assert guard.errors == 1
