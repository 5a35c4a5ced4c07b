from __future__ import annotations

import pytest
from opentelemetry.trace import SpanContext, TraceFlags

from chainlit_otel import catalog
from chainlit_otel.pipeline.histograms import Histograms


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
        histograms.record(catalog.CONNECTION_DURATION, 2.0, ("other",), context, 7)
        ((_, _, series),) = histograms.read()
        assert [e.time_unix_nano for e in series.exemplars.values()] == [7] * expected
