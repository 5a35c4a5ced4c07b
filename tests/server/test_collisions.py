"""What becomes the same in Prometheus, what has no place there, and all else that apps measure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.metrics import Meter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Gauge as SdkGauge
from opentelemetry.sdk.metrics.export import Metric as SdkMetric
from opentelemetry.sdk.metrics.view import (
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client import Metric as Family
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.registry import Collector

from chainlit_otel import catalog
from chainlit_otel.pipeline.reader import Dropped
from chainlit_otel.server.exposition import OpenTelemetryCollector
from chainlit_otel.server.rendering import Wanted, names_of, render
from tests.conftest import InternalErrors
from tests.server.test_exposition import (
    Served,
    assert_valid,
    key,
    observe_everything,
    parse_openmetrics,
)


@pytest.fixture
def served() -> Iterable[Served]:
    served = Served()
    yield served
    served.provider.shutdown()


def dropped(served: Served) -> dict[str, int]:
    return {reason: n for (reason,), n in served.reader.dropped.counts().items() if n}


# Attributes


def test_attributes_that_differ_in_their_type_alone_are_one_series(served: Served) -> None:
    meter = served.provider.get_meter("theirs")
    counter, gauge = meter.create_counter("calls"), meter.create_gauge("level")
    wait = meter.create_histogram("wait", "s")
    for code, n in ((200, 5), ("200", 7)):
        counter.add(n, {"code": code})
        gauge.set(n, {"code": code})
        wait.record(n, {"code": code})
    one = frozenset({("code", "200")})
    assert served.values("calls_total") == {one: 12}
    assert served.values("level") == {one: 7}
    assert served.values("wait_seconds_sum") == {one: 12}
    assert served.values("wait_seconds_count") == {one: 2}
    assert served.values("wait_seconds_bucket")[one | {("le", "5.0")}] == 1
    assert served.values("wait_seconds_bucket")[one | {("le", "+Inf")}] == 2
    assert_valid(served)


def test_attributes_whose_keys_become_one_are_joined_in_the_order_of_the_keys(
    served: Served,
) -> None:
    counter = served.provider.get_meter("theirs").create_counter("calls")
    counter.add(1, {"a_b": "last", "a.b": "middle", "a-b": "first"})
    counter.add(2, {"a.b": "x"})
    counter.add(4, {"a_b": "x"})
    assert served.values("calls_total") == {
        frozenset({("a_b", "first;middle;last")}): 1,
        frozenset({("a_b", "x")}): 6,
    }
    assert_valid(served)


def test_an_empty_attribute_is_none(served: Served) -> None:
    counter = served.provider.get_meter("theirs").create_counter("calls")
    counter.add(1, {"a": "", "b": "x"})
    counter.add(2, {"b": "x"})
    assert served.values("calls_total") == {frozenset({("b", "x")}): 3}
    assert_valid(served)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("le", "exported_le"),
        ("quantile", "exported_quantile"),
        ("__name__", "_name_"),
        ("__address__", "_address_"),
        ("1st", "_1st"),
        ("größe", "gr_e"),
        ("caf\udce9", "caf_"),
        ("x" * 5000, "x" * 5000),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_a_key_that_is_no_label_or_a_reserved_one_becomes_another(
    served: Served, name: str, label: str
) -> None:
    meter = served.provider.get_meter("theirs")
    counter, wait = meter.create_counter("calls"), meter.create_histogram("wait")
    for value in ("a", "b"):
        counter.add(1, {name: value})
        wait.record(3, {name: value})
    expected = {frozenset({(label, "a")}): 1, frozenset({(label, "b")}): 1}
    assert served.values("calls_total") == served.values("wait_count") == expected
    assert_valid(served)


def test_text_that_is_no_utf_8_is_written_out() -> None:
    served = Served(resource={"team": "caf\udce9", "le": "x"})
    meter = served.provider.get_meter("theirs")
    counter = meter.create_counter("calls", "", "caf\udce9")
    counter.add(1, {"file": "caf\udce9.txt"})
    counter.add(2, {"file": "caf\udcea.txt"})
    assert served.values("calls_total") == {
        frozenset({("file", r"caf\udce9.txt")}): 1,
        frozenset({("file", r"caf\udcea.txt")}): 2,
    }
    families = served.families()
    assert families["calls"].documentation == r"caf\udce9"
    assert families["target"].samples[0].labels == {"team": r"caf\udce9", "exported_le": "x"}
    assert_valid(served)


# Names


@pytest.fixture
def process() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("process_open_fds", "Files.", registry=registry).set(5)
    Counter("process_cpu_seconds", "Time.", registry=registry).inc(2)
    return registry


def test_the_names_of_the_process_stay_its_own(process: CollectorRegistry) -> None:
    served = Served(process=process)
    meter = served.provider.get_meter("theirs")
    meter.create_gauge("process.open_fds").set(7)
    meter.create_counter("process.cpu", "s").add(3)
    meter.create_counter("process.open_fds").add(1)
    theirs = frozenset({("otel_scope_name", "theirs")})
    assert served.values("process_open_fds") == {frozenset(): 5, theirs: 7}
    cpu = served.values("process_cpu_seconds_total")
    assert cpu == {frozenset(): 2, theirs: 3}
    assert served.values("process_open_fds_total") == {}
    assert dropped(served) == {"name": 1}
    assert_valid(served)


def test_the_names_of_the_catalogue_stay_ours(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    observe_everything(served)
    served.telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    before = {key(sample): sample.value for sample in served.samples()}
    meter = served.provider.get_meter("theirs")
    meter.create_gauge("chainlit.session.starts").set(1)
    meter.create_gauge("chainlit.connection.duration", "s").set(1)
    meter.create_gauge("chainlit_connection_duration_seconds_count").set(1)
    meter.create_gauge("target.info").set(1)
    meter.create_up_down_counter("chainlit.turn.active").add(9)
    after = {key(sample): sample.value for sample in served.samples()}
    mine = ("chainlit_turn_active", frozenset({("otel_scope_name", "theirs")}))
    assert after == {**before, mine: 9}
    assert dropped(served) == {"name": 4}
    (said,) = [r.message for r in caplog.records if r.name == "chainlit_otel"]
    assert "leaves out 'chainlit.session.starts'" in said
    assert_valid(served)
    assert dropped(served) == {"name": 4}


MAKE: dict[str, Callable[[Meter], None]] = {
    "gauge": lambda meter: meter.create_gauge("shared").set(1),
    "counter": lambda meter: meter.create_counter("shared").add(1),
    "histogram": lambda meter: meter.create_histogram("shared").record(1),
}


@pytest.mark.parametrize(
    ("first", "second"),
    [("gauge", "histogram"), ("counter", "gauge"), ("histogram", "counter")],
)
def test_of_two_types_of_one_name_the_first_is_shown(
    served: Served, first: str, second: str
) -> None:
    MAKE[first](served.provider.get_meter("one"))
    MAKE[second](served.provider.get_meter("two"))
    served.provider.get_meter("two").create_counter("fine").add(1)
    assert served.families()["shared"].type == first
    assert served.values("fine_total") == {frozenset(): 1}
    assert dropped(served) == {"name": 1}
    assert_valid(served)


def test_two_instruments_that_differ_in_unit_or_help_are_both_shown(served: Served) -> None:
    meter = served.provider.get_meter("theirs")
    for unit, help, n in (("s", "one", 1), ("s", "two", 2), ("ms", "one", 4)):
        meter.create_counter("wait", unit, help).add(n)
    assert served.values("wait_seconds_total") == {frozenset(): 3}
    assert served.values("wait_milliseconds_total") == {frozenset(): 4}
    assert served.families()["wait_seconds"].documentation == "one"
    assert dropped(served) == {}
    assert_valid(served)


def test_histograms_that_become_one_and_have_other_buckets_are_not_mixed() -> None:
    few = ExplicitBucketHistogramAggregation([1.0, 2.0])
    served = Served(View(instrument_name="wait_time", aggregation=few))
    meter = served.provider.get_meter("theirs")
    meter.create_histogram("wait.time").record(3)
    meter.create_histogram("wait_time").record(4)
    assert served.values("wait_time_sum") == {frozenset(): 3}
    assert dropped(served) == {"buckets": 1}
    assert_valid(served)


def test_what_has_no_prometheus_form_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    wide = View(instrument_name="wide", aggregation=ExponentialBucketHistogramAggregation())
    served = Served(wide)
    observe_everything(served)
    meter = served.provider.get_meter("theirs")
    meter.create_histogram("wide").record(5)
    meter.create_histogram("plain").record(5)
    samples = served.samples()
    assert not [s for s in samples if s.name.startswith("wide")]
    assert [s.value for s in samples if s.name == "plain_count"] == [1]
    assert "chainlit_session_starts_total" in {s.name for s in samples}
    assert dropped(served) == {"unsupported": 1}
    assert "'wide': ExponentialHistogram has no Prometheus form" in caplog.text


# Values


def collected(data: Sum | SdkGauge | Histogram) -> Served:
    """What is served if an SDK has collected this; the newer ones let little of it through."""
    served = Served()
    metric = SdkMetric("wait", "", "", data)
    scopes = [ScopeMetrics(InstrumentationScope("theirs"), [metric], "")]
    found = MetricsData([ResourceMetrics(Resource({}), scopes, "")])
    served.reader.read = lambda: found  # type: ignore[method-assign]
    return served


def number(value: Any, which: str) -> NumberDataPoint:
    return NumberDataPoint({"which": which}, 0, 0, value)


@pytest.mark.parametrize("value", [math.nan, -1, 10**400, "many", None], ids=lambda v: str(v)[:5])
def test_a_value_that_no_counter_can_have_costs_itself_only(value: Any) -> None:
    points = [number(value, "bad"), number(1, "good")]
    served = collected(Sum(points, AggregationTemporality.CUMULATIVE, True))
    assert served.values("wait_total") == {frozenset({("which", "good")}): 1}
    assert dropped(served) == {"value": 1}
    assert_valid(served)


@pytest.mark.parametrize("value", [math.nan, -1, math.inf, -math.inf])
def test_a_gauge_can_have_any_number(value: float) -> None:
    served = collected(SdkGauge([number(value, "odd"), number(1, "even")]))
    values = served.values("wait")
    assert str(values[frozenset({("which", "odd")})]) == str(float(value))
    assert len(values) == 2
    assert dropped(served) == {}
    assert_valid(served)


def histogram(bounds: Sequence[float], total: float = 10) -> Histogram:
    counts = [1] * (len(bounds) + 1)
    point = HistogramDataPoint({}, 0, 0, sum(counts), total, counts, bounds, 0, 0)
    return Histogram([point], AggregationTemporality.CUMULATIVE)


def test_no_bucket_below_zero_is_shown_and_none_twice() -> None:
    served = collected(histogram([-5.0, -0.0, 0.0, 5.0, 5.0, math.inf]))
    buckets = {dict(labels)["le"]: n for labels, n in served.values("wait_bucket").items()}
    assert buckets == {"0.0": 3, "5.0": 5, "+Inf": 7}
    assert served.values("wait_count") == {frozenset(): 7}
    assert served.values("wait_sum") == {frozenset(): 10}
    assert dropped(served) == {}
    assert_valid(served)


@pytest.mark.parametrize(
    "data",
    [
        histogram([5.0, 1.0]),
        histogram([math.nan]),
        histogram([1.0, math.nan, 2.0]),
        histogram([1.0], math.nan),
        histogram([1.0], -1),
    ],
)
def test_buckets_in_no_order_and_sums_that_are_none_cannot_be_shown(data: Histogram) -> None:
    served = collected(data)
    assert served.values("wait_count") == {}
    assert dropped(served) == {"value": 1}
    assert_valid(served)


def test_no_more_than_so_many_names_of_what_is_dropped_are_kept() -> None:
    found = Dropped()
    for n in range(5000):
        found.add("name", f"metric {n}", "it is one too many")
    assert found.counts()["name",] == 1000


class Broken(Collector):
    def collect(self) -> Iterable[Family]:
        yield Family("process_open_fds", "Files.", "gauge")
        raise OSError("no /proc")


def test_a_collector_that_fails_takes_nothing_else_with_it(
    served: Served, expected_internal_errors: InternalErrors
) -> None:
    observe_everything(served)
    label_sets = served.telemetry.label_sets
    collector = OpenTelemetryCollector(served.reader, served.guard, Broken(), label_sets)
    text = render(collector, Wanted()).body.decode()
    assert "chainlit_session_starts_total" in text
    assert [str(error) for _, error in expected_internal_errors] == ["no /proc"]


# Any instruments, any names, any attributes

SOME_NAMES = ("a.b", "a_b", "a.b.count", "a_b_total", "a.bucket", "le", "target", "x" * 255)
NAMES = st.sampled_from(SOME_NAMES) | st.from_regex(
    r"[A-Za-z][A-Za-z0-9_./-]{0,20}", fullmatch=True
)
UNITS = st.sampled_from(["", "1", "s", "ms", "By", "{x}", "%", "count", "total", "\t"])
SOME_TEXTS = ("", "x", "caf\udce9", '"', "\\", "\n", "a;b", " ", "x" * 999)
TEXTS = st.text(max_size=8) | st.sampled_from(SOME_TEXTS)
SOME_KEYS = ("le", "quantile", "__name__", "a.b", "a_b", "1", "otel.scope.name", "ß")
KEYS = st.sampled_from(SOME_KEYS) | st.text(min_size=1, max_size=8)
ATTRIBUTES = st.dictionaries(
    KEYS, TEXTS | st.integers() | st.booleans() | st.floats() | st.lists(TEXTS), max_size=3
)


VERBS = ("add", "set", "record")


class Recorded(NamedTuple):
    """What one instrument was given."""

    scope: str
    kind: str
    name: str
    unit: str
    help: str
    values: list[tuple[int, dict[str, Any]]]

    def replay(self, meter: Meter) -> None:
        make: Any = {
            "counter": meter.create_counter,
            "updowncounter": meter.create_up_down_counter,
            "gauge": meter.create_gauge,
            "histogram": meter.create_histogram,
        }[self.kind]
        instrument = make(self.name, self.unit, self.help)
        (record,) = (getattr(instrument, v) for v in VERBS if hasattr(instrument, v))
        for amount, attributes in self.values:
            record(amount, attributes)


RECORDED = st.builds(
    Recorded,
    st.sampled_from(["one", "two", "chainlit_otel"]),
    st.sampled_from(["counter", "gauge", "histogram", "updowncounter"]),
    NAMES,
    UNITS,
    TEXTS,
    st.lists(st.tuples(st.integers(0, 1000), ATTRIBUTES), min_size=1, max_size=3),
)


@settings(max_examples=50)
@given(st.lists(RECORDED, max_size=6), st.dictionaries(KEYS, TEXTS, max_size=3))
def test_whatever_an_app_measures_the_page_parses_and_the_sums_are_kept(
    instruments: list[Recorded], resource: dict[str, str]
) -> None:
    served = Served(resource=resource)
    for recorded in instruments:
        recorded.replay(served.provider.get_meter(recorded.scope))
    families = list(served.collector.collect())
    assert served.guard.errors == 0
    names = [name for family in families for name in names_of(family)]
    assert len(set(names)) == len(names)
    theirs = Fixed([family for family in families if family.name not in OURS])
    for wanted in (Wanted(), Wanted(openmetrics=True)):
        text = render(theirs, wanted).body.decode()
        parsed = (parse_openmetrics if wanted.openmetrics else parse_text)(text)
        shown = sums_shown(family for family in parsed)
        if dropped(served):
            assert all(total <= sums_given(served)[name] for name, total in shown.items())
        else:
            assert shown == sums_given(served)
    served.provider.shutdown()


OURS = {metric.prometheus_name.removesuffix("_total") for metric in catalog.METRICS}


class Fixed(Collector):
    """Families that are there already."""

    def __init__(self, families: list[Family]) -> None:
        self.families = families

    def collect(self) -> Iterable[Family]:
        return self.families


def sums_given(served: Served) -> dict[str, float]:
    """The sum of each counter and histogram that the SDK has, by its name in Prometheus."""
    sums: dict[str, float] = defaultdict(float)
    data = served.reader.read()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                if metric.name == "chainlit.session.starts":
                    continue
                if isinstance(metric.data, Sum) and metric.data.is_monotonic:
                    name = catalog.prometheus_name(metric.name, metric.unit or "", "counter")
                    sums[name] += sum(point.value for point in metric.data.data_points)
                elif isinstance(metric.data, Histogram):
                    name = catalog.prometheus_name(metric.name, metric.unit or "", "histogram")
                    sums[f"{name}_sum"] += sum(point.sum for point in metric.data.data_points)
    return dict(sums)


def sums_shown(families: Iterable[Family]) -> dict[str, float]:
    """The sum of each counter and histogram; no series is there twice."""
    sums: dict[str, float] = defaultdict(float)
    for family in families:
        series = [key(sample) for sample in family.samples]
        assert len(set(series)) == len(series)
        for sample in family.samples:
            counts = family.type == "counter" or sample.name == f"{family.name}_sum"
            if counts and family.type in ("counter", "histogram"):
                sums[sample.name] += sample.value
    return dict(sums)
