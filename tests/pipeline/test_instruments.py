from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from threading import Event, Thread
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as SdkMetric
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from chainlit_otel import __version__, catalog
from chainlit_otel.catalog import METRICS, LabelSet, Metric
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.pipeline.instruments import Telemetry, _instruments_of
from tests.conftest import InternalErrors
from tests.support.labels import some_labels

OBSERVED = [metric for metric in METRICS if metric.kind != "histogram"]
HISTOGRAMS = [metric for metric in METRICS if metric.kind == "histogram"]


class Host:
    """A MeterProvider of the application, and what its reader gets."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.provider = SdkMeterProvider([self.reader], shutdown_on_exit=False)

    def metrics(self) -> dict[str, SdkMetric]:
        data = self.reader.get_metrics_data()
        found = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                assert (scope.scope.name, scope.scope.version) == (catalog.SCOPE, __version__)
                for metric in scope.metrics:
                    assert metric.name not in found
                    found[metric.name] = metric
        return found

    def numbers(self, metric: Metric) -> dict[LabelSet, float]:
        """What was observed, by label values in the order of the catalogue."""
        numbers = {}
        for point in self._points(metric):
            assert isinstance(point, NumberDataPoint)
            assert list(point.attributes or {}) == [a.key for a in metric.attributes]
            numbers[tuple(str(value) for value in (point.attributes or {}).values())] = point.value
        return numbers

    def points(self, metric: Metric) -> list[HistogramDataPoint]:
        return [p for p in self._points(metric) if isinstance(p, HistogramDataPoint)]

    def _points(self, metric: Metric) -> Sequence[object]:
        found = self.metrics().get(metric.name)
        return found.data.data_points if found else ()


@pytest.fixture
def host() -> Iterable[Host]:
    host = Host()
    yield host
    host.provider.shutdown()


def telemetry_of(*providers: MeterProvider, guard: Guard | None = None) -> Telemetry:
    return Telemetry(providers, guard or Guard("server"))


@pytest.mark.parametrize("metric", OBSERVED, ids=lambda metric: metric.name)
def test_every_label_set_is_there_at_zero_before_anything_happened(
    host: Host, metric: Metric
) -> None:
    telemetry_of(host.provider).register_observable(metric, dict)
    numbers = host.numbers(metric)
    assert set(numbers) == set(metric.label_sets)
    assert all(n == 0 for n in numbers.values())
    kind = float if metric.unit in ("s", "{USD}") else int
    assert all(type(n) is kind for n in numbers.values())


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_name_unit_kind_and_description_are_those_of_the_catalogue(
    host: Host, metric: Metric
) -> None:
    telemetry = telemetry_of(host.provider)
    if metric.kind == "histogram":
        telemetry.record(metric, 1.0, *some_labels(metric)[0])
    else:
        telemetry.register_observable(metric, lambda: dict.fromkeys(some_labels(metric), 0))
    (found,) = host.metrics().values()
    assert (found.name, found.unit, found.description) == (
        metric.name,
        metric.unit,
        metric.description,
    )
    kinds: dict[type, str] = {Gauge: "gauge", Histogram: "histogram"}
    if isinstance(found.data, Sum):
        assert metric.kind == ("counter" if found.data.is_monotonic else "updowncounter")
    else:
        assert metric.kind == kinds[type(found.data)]


def test_a_reading_is_asked_anew_at_each_collection(host: Host) -> None:
    starts: dict[LabelSet, float] = {("websocket", "webapp", "new"): 1}
    telemetry_of(host.provider).register_observable(catalog.SESSION_STARTS, lambda: starts)
    assert host.numbers(catalog.SESSION_STARTS)["websocket", "webapp", "new"] == 1
    starts["websocket", "webapp", "new"] = 5
    starts["http", "slack", "new"] = 2
    numbers = host.numbers(catalog.SESSION_STARTS)
    assert numbers["websocket", "webapp", "new"] == 5
    assert numbers["http", "slack", "new"] == 2
    assert sum(numbers.values()) == 7


def test_a_gauge_goes_down_again(host: Host) -> None:
    peaks: dict[LabelSet, float] = {("15s",): 9}
    telemetry_of(host.provider).register_observable(catalog.SESSION_PEAK, lambda: peaks)
    assert host.numbers(catalog.SESSION_PEAK)[("15s",)] == 9
    peaks[("15s",)] = 0
    assert host.numbers(catalog.SESSION_PEAK)[("15s",)] == 0


def test_a_reading_that_fails_is_counted_and_takes_no_other_metric_with_it(
    host: Host, expected_internal_errors: InternalErrors
) -> None:
    guard = Guard("server")
    telemetry = telemetry_of(host.provider, guard=guard)

    def broken() -> Mapping[LabelSet, float]:
        raise RuntimeError("ours")

    telemetry.register_observable(catalog.SESSION_STARTS, broken)
    telemetry.register_observable(catalog.SESSION_PEAK, lambda: {("1m",): 3})
    metrics = host.metrics()
    assert not metrics.get(catalog.SESSION_STARTS.name)
    assert catalog.SESSION_PEAK.name in metrics
    assert guard.errors == 1
    assert host.numbers(catalog.SESSION_PEAK)[("1m",)] == 3
    assert guard.errors == len(expected_internal_errors) == 2


def test_an_error_of_a_reading_is_that_of_its_probe(
    host: Host, expected_internal_errors: InternalErrors
) -> None:
    guard, theirs = Guard("server"), Guard("sockets")

    def broken() -> Mapping[LabelSet, float]:
        raise RuntimeError("ours")

    telemetry_of(host.provider, guard=guard).register_observable(
        catalog.CONNECTION_ACTIVE, broken, theirs
    )
    host.metrics()
    assert (guard.errors, theirs.errors) == (0, 1)
    assert [probe for probe, _ in expected_internal_errors] == ["sockets"]


def test_what_is_expected_is_at_zero_from_then_on(host: Host) -> None:
    telemetry = telemetry_of(host.provider)
    telemetry.register_observable(catalog.ACCESS_ATTEMPTS, dict)
    password = tuple(("password", result) for result in catalog.ACCESS_RESULT.values)
    assert not set(password) & set(host.numbers(catalog.ACCESS_ATTEMPTS))
    for _ in range(2):
        telemetry.expect(catalog.ACCESS_ATTEMPTS, *password)
    expected = (*catalog.ACCESS_ATTEMPTS.label_sets, *password)
    assert host.numbers(catalog.ACCESS_ATTEMPTS) == dict.fromkeys(expected, 0)
    assert telemetry.label_sets(catalog.ACCESS_ATTEMPTS) == expected
    assert telemetry.label_sets(catalog.FEEDBACK) == catalog.FEEDBACK.label_sets


@pytest.mark.parametrize("metric", HISTOGRAMS, ids=lambda metric: metric.name)
def test_a_histogram_has_the_bounds_of_the_catalogue(host: Host, metric: Metric) -> None:
    telemetry = telemetry_of(host.provider)
    for bound in metric.bounds:
        telemetry.record(metric, bound, *some_labels(metric)[-1])
    telemetry.record(metric, metric.bounds[-1] * 2, *some_labels(metric)[-1])
    (point,) = host.points(metric)
    assert tuple(point.explicit_bounds) == metric.bounds
    assert list(point.bucket_counts) == [1] * (len(metric.bounds) + 1)
    assert point.attributes == metric.labels(some_labels(metric)[-1])


def test_each_label_set_of_a_histogram_is_a_series(host: Host) -> None:
    telemetry = telemetry_of(host.provider)
    for seconds, reason in ((1.5, "cleared"), (2.5, "cleared"), (4.0, "timeout")):
        telemetry.record(catalog.SESSION_DURATION, seconds, "websocket", "webapp", reason)
    found = {
        str((point.attributes or {})[catalog.END_REASON.key]): (point.count, point.sum)
        for point in host.points(catalog.SESSION_DURATION)
    }
    assert found == {"cleared": (2, 4.0), "timeout": (1, 4.0)}


@pytest.mark.parametrize("values", [(), ("websocket",), ("websocket", "webapp", "cleared", "x")])
def test_a_record_with_another_number_of_label_values_is_counted_as_an_error_and_harms_no_other(
    host: Host, values: tuple[str, ...], expected_internal_errors: InternalErrors
) -> None:
    guard = Guard("server")
    telemetry = telemetry_of(host.provider, guard=guard)
    telemetry.register_observable(catalog.SESSION_PEAK, dict)
    telemetry.record(catalog.SESSION_DURATION, 1.0, *values)
    telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    assert [point.sum for point in host.points(catalog.CONNECTION_DURATION)] == [2.0]
    assert host.points(catalog.SESSION_DURATION) == []
    assert guard.errors == 1


def test_records_wait_for_a_reading_but_not_without_end(host: Host) -> None:
    telemetry = telemetry_of(host.provider)
    telemetry.register_observable(catalog.SESSION_PEAK, dict)
    most = telemetry._max_queued
    for _ in range(most - 1):
        telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    assert len(telemetry._queued) == most - 1
    telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    assert len(telemetry._queued) == 0
    telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    assert [point.count for point in host.points(catalog.CONNECTION_DURATION)] == [most + 1]


def test_who_flushes_at_the_same_time_waits_for_what_another_has_taken() -> None:
    taken, goes_on = Event(), Event()

    class Slow(deque[Any]):
        def popleft(self) -> Any:
            item = super().popleft()
            if not taken.is_set():
                taken.set()
                assert goes_on.wait(60)
            return item

    histograms = Histograms()
    telemetry = Telemetry((), Guard("server"), histograms)
    telemetry.register_observable(catalog.SESSION_PEAK, dict)
    telemetry._queued = Slow()
    for value in (2.0, 3.0):
        telemetry.record(catalog.CONNECTION_DURATION, value, "other")
    first, second = Thread(target=telemetry.flush), Thread(target=telemetry.flush)
    first.start()
    assert taken.wait(60)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    goes_on.set()
    first.join(60)
    second.join(60)
    assert sum(histograms.counts(catalog.CONNECTION_DURATION)) == 2


def sampled_span() -> AbstractContextManager[object]:
    context = SpanContext(7, 9, False, TraceFlags(TraceFlags.SAMPLED))
    return trace.use_span(NonRecordingSpan(context))


@pytest.mark.parametrize("kept_here", [True, False], ids=["kept here", "kept by the SDK"])
def test_an_exemplar_has_the_time_of_its_value_and_not_that_of_the_reading(
    host: Host, kept_here: bool
) -> None:
    histograms = Histograms() if kept_here else None
    telemetry = Telemetry([host.provider], Guard("server"), histograms)
    telemetry.register_observable(catalog.SESSION_PEAK, dict)
    before = time.time_ns()
    with sampled_span():
        telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    after = time.time_ns()
    points = host.points(catalog.CONNECTION_DURATION)
    found: list[Any] = [exemplar for point in points for exemplar in point.exemplars]
    for *_, series in histograms.read() if histograms else ():
        found += series.exemplars.values()
    (exemplar,) = found
    assert before <= exemplar.time_unix_nano <= after
    assert (exemplar.value, exemplar.trace_id, exemplar.span_id) == (2.0, 7, 9)


def test_a_value_takes_no_exemplar_from_where_it_is_handed_on(host: Host) -> None:
    telemetry = telemetry_of(host.provider)
    telemetry.register_observable(catalog.SESSION_PEAK, dict)
    telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    with sampled_span():
        telemetry.record(catalog.CONNECTION_DURATION, 70.0, "other")
    (point,) = host.points(catalog.CONNECTION_DURATION)
    assert point.count == 2
    assert [exemplar.value for exemplar in point.exemplars] == [70.0]


def test_what_was_read_of_a_histogram_does_not_change_any_more() -> None:
    histograms = Histograms()
    span = SpanContext(7, 9, False, TraceFlags(TraceFlags.SAMPLED))
    histograms.record([(catalog.CONNECTION_DURATION, 2.0, ("other",), span, 1)], Guard("server"))
    ((_, _, first),) = histograms.read()
    histograms.record([(catalog.CONNECTION_DURATION, 2.5, ("other",), span, 2)], Guard("server"))
    ((_, _, second),) = histograms.read()
    assert (sum(first.counts), first.sum) == (1, 2.0)
    assert (sum(second.counts), second.sum) == (2, 4.5)
    assert [e.time_unix_nano for e in first.exemplars.values()] == [1]
    assert [e.time_unix_nano for e in second.exemplars.values()] == [2]


def test_every_provider_gets_everything() -> None:
    first, second = Host(), Host()
    telemetry = telemetry_of(first.provider, second.provider)
    telemetry.register_observable(catalog.SESSION_PEAK, lambda: {("1m",): 3})
    telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    for host in (first, second):
        assert host.numbers(catalog.SESSION_PEAK)[("1m",)] == 3
        assert [point.sum for point in host.points(catalog.CONNECTION_DURATION)] == [2.0]


def test_without_a_provider_nothing_happens() -> None:
    telemetry = telemetry_of()
    telemetry.register_observable(catalog.SESSION_PEAK, dict)
    telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    telemetry.close()


def test_a_provider_that_does_nothing_is_no_trouble() -> None:
    telemetry = telemetry_of(NoOpMeterProvider())
    telemetry.register_observable(catalog.SESSION_PEAK, dict)
    telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")


def test_a_provider_need_not_be_hashable() -> None:
    class Compared(NoOpMeterProvider):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, Compared)

        __hash__ = None  # type: ignore[assignment]

    first, second = Compared(), Compared()
    assert _instruments_of(first) is _instruments_of(first)
    assert _instruments_of(first) is not _instruments_of(second)


def test_what_is_closed_falls_silent(host: Host) -> None:
    telemetry = telemetry_of(host.provider)
    asked = []

    def reading() -> Mapping[LabelSet, float]:
        asked.append(1)
        return {}

    telemetry.register_observable(catalog.SESSION_PEAK, reading)
    host.metrics()
    telemetry.close()
    host.metrics()
    assert len(asked) == 1


def test_after_a_close_the_same_provider_is_used_again_and_no_instrument_made_twice(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    for n in (1, 2):
        telemetry = telemetry_of(host.provider)
        reading: dict[LabelSet, float] = {("1m",): n}
        telemetry.register_observable(catalog.SESSION_PEAK, reading.copy)
        telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
        assert host.numbers(catalog.SESSION_PEAK)[("1m",)] == n
        telemetry.close()
    assert [point.count for point in host.points(catalog.CONNECTION_DURATION)] == [2]
    assert caplog.records == []
