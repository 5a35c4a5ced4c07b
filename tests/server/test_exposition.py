from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.metrics.view import View
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from prometheus_client import CollectorRegistry
from prometheus_client import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample
from prometheus_client.utils import floatToGoString

from chainlit_otel import catalog
from chainlit_otel.catalog import METRICS, LabelSet, Metric
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.reader import ScrapeReader
from chainlit_otel.server.exposition import OpenTelemetryCollector
from chainlit_otel.server.rendering import Wanted, render
from tests.conftest import CompareGolden
from tests.support.labels import some_labels

RESOURCE: dict[str, str | int] = {
    "service.name": "shop",
    "service.instance.id": "1",
    "process.pid": 7,
}
# Of the others there is nothing before their first value.
SHOWN = [metric for metric in METRICS if metric.kind != "histogram" or metric.label_sets]
TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SPAN = 0xB7AD6B7169203331


def parse_openmetrics(text: str) -> list[Family]:
    return list(openmetrics.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


SeriesKey = tuple[str, frozenset[tuple[str, str]]]


class Served:
    """A MeterProvider and what `/metrics` says of it."""

    def __init__(
        self,
        *views: View,
        histograms: Histograms | None = None,
        resource: Mapping[str, Any] = RESOURCE,
        process: CollectorRegistry | None = None,
    ) -> None:
        self.guard = Guard("server")
        self.reader = ScrapeReader(histograms)
        self.provider = MeterProvider(
            [self.reader], Resource({**resource}), shutdown_on_exit=False, views=views
        )
        self.telemetry = Telemetry([self.provider], self.guard, histograms)
        # As in an app, there is more than histograms.
        self.telemetry.register_observable(catalog.SESSION_STARTS, dict)
        self.collector = OpenTelemetryCollector(
            self.reader, self.guard, process or CollectorRegistry(), self.telemetry.label_sets
        )

    def text(self) -> str:
        return render(self.collector, Wanted()).body.decode()

    def openmetrics(self) -> str:
        return render(self.collector, Wanted(openmetrics=True)).body.decode()

    def samples(self) -> list[Sample]:
        return [s for family in parse_text(self.text()) for s in family.samples]

    def values(self, name: str) -> dict[frozenset[tuple[str, str]], float]:
        return {frozenset(s.labels.items()): s.value for s in self.samples() if s.name == name}

    def families(self) -> dict[str, Family]:
        """The families as a scraper of OpenMetrics sees them."""
        return {family.name: family for family in parse_openmetrics(self.openmetrics())}


@pytest.fixture(params=["kept here", "kept by the SDK"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """The exposition is the same, whoever keeps the histograms."""
    served = Served(histograms=Histograms() if request.param == "kept here" else None)
    yield served
    served.provider.shutdown()


def observe_everything(served: Served) -> None:
    for metric in METRICS:
        if metric.kind != "histogram":
            named = {} if metric.label_sets else dict.fromkeys(some_labels(metric), 0)
            served.telemetry.register_observable(metric, named.copy)


def labels(metric: Metric, values: LabelSet) -> frozenset[tuple[str, str]]:
    return frozenset(
        (a.prometheus_label, v) for a, v in zip(metric.attributes, values, strict=True) if v
    )


def key(sample: Sample) -> SeriesKey:
    return sample.name, frozenset(sample.labels.items())


# From the catalogue


def test_every_series_of_the_catalogue_is_there_at_zero_from_the_first_scrape(
    served: Served,
) -> None:
    observe_everything(served)
    found = {key(sample): sample.value for sample in served.samples()}
    expected: set[SeriesKey] = set()
    for metric in METRICS:
        for values in metric.label_sets if metric.kind == "histogram" else some_labels(metric):
            mine = labels(metric, values)
            if metric.kind != "histogram":
                expected.add((metric.prometheus_name, mine))
                continue
            expected |= {(f"{metric.prometheus_name}_{s}", mine) for s in ("sum", "count")}
            for edge in (*map(floatToGoString, metric.bounds), "+Inf"):
                expected.add((f"{metric.prometheus_name}_bucket", mine | {("le", edge)}))
    assert set(found) - {key(s) for s in served.samples() if s.name == "target_info"} == expected
    assert {value for (name, _), value in found.items() if name != "target_info"} == {0}


def test_the_series_are_the_same_before_and_after_the_first_event(served: Served) -> None:
    observe_everything(served)
    before = sorted((s.name, sorted(s.labels.items())) for s in served.samples())
    for metric in METRICS:
        if metric.kind == "histogram":
            for values in metric.label_sets:
                served.telemetry.record(metric, 3.0, *values)
    after = sorted((s.name, sorted(s.labels.items())) for s in served.samples())
    assert before == after


def test_no_scope_labels_and_nothing_but_the_catalogue_and_the_target(served: Served) -> None:
    observe_everything(served)
    families = served.families()
    assert set(families) == {
        "target",
        *(metric.prometheus_name.removesuffix("_total") for metric in SHOWN),
    }
    names = {label for family in families.values() for s in family.samples for label in s.labels}
    assert not [name for name in names if name.startswith("otel_scope")]


def test_a_family_has_its_type_and_its_help(served: Served) -> None:
    observe_everything(served)
    families = served.families()
    types = {"updowncounter": "gauge"}
    for metric in SHOWN:
        family = families[metric.prometheus_name.removesuffix("_total")]
        assert family.type == types.get(metric.kind, metric.kind)
        assert family.documentation == metric.description


def test_the_resource_is_the_target(served: Served) -> None:
    observe_everything(served)
    (sample,) = served.families()["target"].samples
    assert sample.name == "target_info"
    assert sample.labels == {
        "service_name": "shop",
        "service_instance_id": "1",
        "process_pid": "7",
    }
    assert sample.value == 1


def test_a_histogram_counts_up_to_each_bound_and_sums(served: Served) -> None:
    for seconds in (0.5, 1.0, 1.5, 100_000.0):
        served.telemetry.record(catalog.CONNECTION_DURATION, seconds, "other")
    name = catalog.CONNECTION_DURATION.prometheus_name
    mine = labels(catalog.CONNECTION_DURATION, ("other",))
    buckets = served.values(f"{name}_bucket")
    assert buckets[mine | {("le", "1.0")}] == 2
    assert buckets[mine | {("le", "5.0")}] == 3
    assert buckets[mine | {("le", "28800.0")}] == 3
    assert buckets[mine | {("le", "+Inf")}] == 4
    assert served.values(f"{name}_count")[mine] == 4
    assert served.values(f"{name}_sum")[mine] == 100_003.0


def test_two_scrapers_see_the_same_and_a_scrape_resets_nothing(served: Served) -> None:
    observe_everything(served)
    served.telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    assert served.text() == served.text()
    assert served.openmetrics() == served.openmetrics()


def test_after_a_shutdown_of_the_reader_a_scrape_still_answers(served: Served) -> None:
    observe_everything(served)
    before = served.text()
    served.reader.shutdown()
    assert served.reader.force_flush()
    assert served.text() == before


# What a scraper is given, word for word


def busy(served: Served) -> None:
    """Fill every kind of metric with numbers that are the same at each run."""
    for metric in METRICS:
        if metric.kind != "histogram":
            reading: dict[LabelSet, float] = {some_labels(metric)[0]: 3}
            served.telemetry.register_observable(metric, reading.copy)
    for seconds in (0.25, 42.0, 1800.0, 30_000.5):
        served.telemetry.record(catalog.SESSION_DURATION, seconds, "websocket", "webapp", "cleared")
    with sampled_span():
        served.telemetry.record(catalog.CONNECTION_DURATION, 61.0, "transport_close")
    served.telemetry.record(catalog.TURN_DURATION, 1.5, "ok", "")
    served.telemetry.record(catalog.TURN_DURATION, 2.5, "ok", "fast")


def test_the_text_format_is_as_it_was(served: Served, golden: CompareGolden) -> None:
    busy(served)
    golden("metrics.txt", served.text())


def test_the_openmetrics_format_is_as_it_was(served: Served, golden: CompareGolden) -> None:
    busy(served)
    # The time of an exemplar is that of the run.
    golden("openmetrics.txt", re.sub(r"(# \{.*\} \S+) \S+", r"\1 0.0", served.openmetrics()))


# Exemplars


def sampled_span(sampled: bool = True) -> AbstractContextManager[object]:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return trace.use_span(NonRecordingSpan(SpanContext(TRACE, SPAN, False, flags)))


def exemplars(served: Served) -> dict[str, tuple[dict[str, str], float, float]]:
    """The exemplars of closed connections, by the upper bound of their bucket."""
    family = served.families()[catalog.CONNECTION_DURATION.prometheus_name]
    return {
        s.labels["le"]: (s.exemplar.labels, s.exemplar.value, float(s.exemplar.timestamp or 0))
        for s in family.samples
        if s.exemplar
    }


def test_a_bucket_links_to_the_trace_of_a_value_in_it(served: Served) -> None:
    with sampled_span():
        served.telemetry.record(catalog.CONNECTION_DURATION, 61.0, "other")
        served.telemetry.record(catalog.CONNECTION_DURATION, 60.0, "other")
        served.telemetry.record(catalog.CONNECTION_DURATION, 99_999.0, "other")
    served.telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    found = exemplars(served)
    link = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    assert {le: (labels, value) for le, (labels, value, _) in found.items()} == {
        "60.0": (link, 60.0),
        "120.0": (link, 61.0),
        "+Inf": (link, 99_999.0),
    }
    assert all(at > 1_600_000_000 for *_, at in found.values())


def test_without_a_sampled_trace_there_is_no_exemplar(served: Served) -> None:
    served.telemetry.record(catalog.CONNECTION_DURATION, 61.0, "other")
    with sampled_span(False):
        served.telemetry.record(catalog.CONNECTION_DURATION, 61.0, "other")
    assert exemplars(served) == {}


def test_the_text_format_has_no_exemplars(served: Served) -> None:
    with sampled_span():
        served.telemetry.record(catalog.CONNECTION_DURATION, 61.0, "other")
    assert "trace_id" not in served.text()


# Instruments of others, with the same provider


@pytest.mark.parametrize(
    ("unit", "counter", "gauge", "histogram"),
    [
        ("", "c_total", "g", "h"),
        ("1", "c_total", "g_ratio", "h"),
        ("s", "c_seconds_total", "g_seconds", "h_seconds"),
        ("ms", "c_milliseconds_total", "g_milliseconds", "h_milliseconds"),
        ("By", "c_bytes_total", "g_bytes", "h_bytes"),
        ("{x}", "c_total", "g", "h"),
    ],
)
def test_instruments_of_others_are_served_by_the_rules(
    served: Served, unit: str, counter: str, gauge: str, histogram: str
) -> None:
    meter = served.provider.get_meter("theirs")
    meter.create_counter("c", unit).add(2, {"a.b": "x"})
    meter.create_up_down_counter("u").add(-3)
    meter.create_gauge("g", unit).set(0.5)
    meter.create_histogram("h", unit).record(7)
    assert served.values(counter) == {frozenset({("a_b", "x")}): 2}
    assert served.values("u") == {frozenset(): -3}
    assert served.values(gauge) == {frozenset(): 0.5}
    assert served.values(f"{histogram}_count") == {frozenset(): 1}
    assert served.values(f"{histogram}_sum") == {frozenset(): 7}
    assert_valid(served)


def test_attributes_that_are_no_strings_and_texts_with_quotes_come_through(
    served: Served,
) -> None:
    attributes: dict[str, Any] = {"b": True, "n": 3, "f": 0.5, "l": ["x", "y"], "t": 'q"\\\nü'}
    counter = served.provider.get_meter("theirs").create_counter("c", "", 'say "\\\nü')
    counter.add(1, attributes)
    ((found, value),) = served.values("c_total").items()
    assert dict(found) == {
        "b": "true",
        "n": "3",
        "f": "0.5",
        "l": '["x", "y"]',
        "t": 'q"\\\nü',
    }
    assert value == 1
    assert served.families()["c"].documentation == 'say "\\\nü'


def test_attribute_names_become_valid_labels(served: Served) -> None:
    counter = served.provider.get_meter("theirs").create_counter("c")
    counter.add(1, {"1st": "a", "größe": "b", "a-b/c": "d"})
    assert_valid(served)
    ((found, _),) = served.values("c_total").items()
    assert dict(found).keys() >= {"a_b_c"}
    assert all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label) for label, _ in found)


def test_two_scopes_that_share_a_name_are_told_apart_and_only_they(served: Served) -> None:
    for scope in ("one", "two"):
        meter = served.provider.get_meter(scope)
        meter.create_counter("shared").add(1)
        meter.create_histogram("shared.time", "s").record(1)
        meter.create_counter(f"alone.{scope}").add(1)
    assert set(served.values("shared_total")) == {
        frozenset({("otel_scope_name", "one")}),
        frozenset({("otel_scope_name", "two")}),
    }
    assert len(served.values("shared_time_seconds_count")) == 2
    assert set(served.values("alone_one_total")) == {frozenset()}
    assert_valid(served)


def test_two_versions_of_a_scope_do_not_give_one_series_twice(served: Served) -> None:
    for version in ("1", "2"):
        served.provider.get_meter("theirs", version).create_counter("shared").add(1)
    assert_valid(served)


def test_two_names_that_become_one_do_not_give_one_series_twice(served: Served) -> None:
    served.provider.get_meter("one").create_counter("x.y").add(1)
    served.provider.get_meter("two").create_counter("x_y").add(1)
    assert_valid(served)


def test_our_metrics_do_not_depend_on_who_else_reads(served: Served) -> None:
    """A provider may have several readers; each keeps its own state."""
    other, ours = InMemoryMetricReader(), ScrapeReader()
    provider = MeterProvider([other, ours], Resource({**RESOURCE}), shutdown_on_exit=False)
    Telemetry([provider], served.guard).record(catalog.CONNECTION_DURATION, 2.0, "other")
    other.get_metrics_data()
    label_sets = served.telemetry.label_sets
    collector = OpenTelemetryCollector(ours, served.guard, CollectorRegistry(), label_sets)
    text = render(collector, Wanted()).body.decode()
    assert (
        'chainlit_connection_duration_seconds_count{chainlit_connection_close_reason="other"} 1.0'
        in text
    )
    provider.shutdown()


def assert_valid(served: Served) -> None:
    """Both parsers take it, and no series is there twice."""
    for family in (*parse_text(served.text()), *parse_openmetrics(served.openmetrics())):
        twice = [series for series, n in Counter(map(key, family.samples)).items() if n > 1]
        assert not twice
    names = [line.split()[2] for line in served.text().splitlines() if line.startswith("# TYPE")]
    assert len(set(names)) == len(names)
