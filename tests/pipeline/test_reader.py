"""What a scrape reads: in a forked child, and while the clock is stepped."""

from __future__ import annotations

import itertools

import pytest
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics._internal import measurement_consumer
from opentelemetry.trace import SpanContext, TraceFlags

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.pipeline.reader import ScrapeReader

SAMPLED = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
UNSAMPLED = SpanContext(1, 2, is_remote=False)


@pytest.mark.parametrize(
    ("exemplars", "of_sampled", "of_others"),
    [("trace_based", True, False), ("always_on", True, True), ("always_off", False, False)],
)
def test_a_child_has_no_figure_of_its_parent_and_chooses_exemplars_as_it_did(
    exemplars: str, of_sampled: bool, of_others: bool
) -> None:
    reader = ScrapeReader(Histograms(exemplars))
    assert reader.histograms is not None
    reader.histograms.record(
        [(catalog.CONNECTION_DURATION, 1.0, ("other",), SAMPLED, 0)], Guard("server")
    )
    reader.renew()
    assert [*reader.histograms.read()] == []
    for span, expected in ((SAMPLED, of_sampled), (UNSAMPLED, of_others)):
        reader.renew()
        reader.histograms.record(
            [(catalog.CONNECTION_DURATION, 1.0, ("other",), span, 0)], Guard("server")
        )
        ((_, _, series),) = reader.histograms.read()
        assert bool(series.exemplars) is expected


def test_a_clock_that_is_stepped_fails_no_scrape(monkeypatch: pytest.MonkeyPatch) -> None:
    hours = itertools.count()
    monkeypatch.setattr(measurement_consumer, "time_ns", lambda: next(hours) * 3600 * 10**9)
    reader = ScrapeReader()
    provider = MeterProvider([reader])
    provider.get_meter("test").create_observable_gauge("g", [lambda _: [Observation(1)]])
    read = reader.read()
    assert read is not None
    (resource,) = read.resource_metrics
    (scope,) = resource.scope_metrics
    assert [metric.name for metric in scope.metrics] == ["g"]
