from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel import catalog
from chainlit_otel.catalog import METRICS, Attribute, Kind, Metric, prometheus_name
from chainlit_otel.core.peaks import WINDOWS
from chainlit_otel.probes import PROBES

# https://opentelemetry.io/docs/specs/otel/metrics/api/#instrument-name-syntax
INSTRUMENT = re.compile(r"[A-Za-z][A-Za-z0-9_./-]{0,254}")
# Ours within that: dotted words, so that nothing has to be replaced but the dots.
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*(\.[a-z][a-z0-9]*(_[a-z0-9]+)*)+")
# https://prometheus.io/docs/concepts/data_model/#metric-names-and-labels
PROMETHEUS_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
PROMETHEUS_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*")

# Names that dashboards of others may rely on from the first release.
HEADLINES = {
    "chainlit_session_starts_total": catalog.SESSION_STARTS,
    "chainlit_session_time_seconds_total": catalog.SESSION_TIME,
    "chainlit_session_duration_seconds": catalog.SESSION_DURATION,
    "chainlit_session_peak": catalog.SESSION_PEAK,
    "chainlit_session_active": catalog.SESSION_ACTIVE,
}

# What no app has before it is known to: it has a data layer, a callback, a pool, an exporter; or
# histograms, whose rate nobody needs from the first event.
NOT_AT_FIRST = (
    catalog.EXPORT_DROPPED,
    catalog.RECORDS_WRITTEN,
    catalog.RECORDS_DROPPED,
    catalog.TURN_TOKENS,
    catalog.TURN_COST,
    catalog.TURN_INFERENCES,
    catalog.WASTED_COST,
    catalog.UNLINKED_USAGE,
    catalog.CALLBACK_DURATION,
    catalog.ASK_DURATION,
    catalog.DATA_LAYER_OPERATION_DURATION,
    catalog.DATA_LAYER_OPERATIONS,
    catalog.DATA_LAYER_QUEUED,
    catalog.DATA_LAYER_DISCARDED,
    catalog.CACHE_LOOKUPS,
    catalog.CACHE_SIZE,
    catalog.CACHE_EVICTIONS,
    catalog.POOL_CONNECTIONS,
    catalog.POOL_MAX,
    catalog.ACCESS_DENIALS,
    catalog.TOOL_CALLS,
    catalog.TOOL_TIME,
    catalog.SCORE,
)

# Metrics of which some sets only are there from the start: the clients and methods of every app.
SOME_AT_FIRST = (
    catalog.SESSION_STARTS,
    catalog.SESSION_ACTIVE,
    catalog.SESSION_ENDS,
    catalog.SESSION_DURATION,
    catalog.SESSION_RECONNECTS,
    catalog.SESSION_TURNS,
    catalog.CONNECTION_DURATION,
    catalog.STEP_DURATION,
    catalog.ACCESS_ATTEMPTS,
)

every_metric = pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)


def attributes() -> list[Attribute]:
    return [attribute for metric in METRICS for attribute in metric.attributes]


@every_metric
def test_a_name_is_valid_in_both_worlds(metric: Metric) -> None:
    assert INSTRUMENT.fullmatch(metric.name)
    assert NAME.fullmatch(metric.name)
    assert PROMETHEUS_NAME.fullmatch(metric.prometheus_name)
    assert "__" not in metric.prometheus_name


def test_the_headline_figures_have_their_names() -> None:
    assert {metric.prometheus_name: metric for metric in HEADLINES.values()} == HEADLINES


def test_no_two_metrics_share_a_name_or_a_prometheus_series() -> None:
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    series: list[str] = []
    for metric in METRICS:
        suffixes = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        series += [metric.prometheus_name + suffix for suffix in suffixes]
    assert len(set(series)) == len(series)


@every_metric
def test_a_description_is_one_sentence(metric: Metric) -> None:
    assert re.fullmatch(r"\S.*\.", metric.description)


@every_metric
def test_a_count_is_a_count_of_something_and_no_unit_is_one(metric: Metric) -> None:
    # Other pipelines would append `_ratio` to a gauge of unit 1.
    assert metric.unit in ("s", "By", "{USD}") or re.fullmatch(r"\{[a-z_]+\}", metric.unit)


@every_metric
def test_bounds_belong_to_histograms_and_increase(metric: Metric) -> None:
    assert bool(metric.bounds) is (metric.kind == "histogram")
    # Nothing takes no time and nothing has no size, but there may be none of a thing.
    lowest = 0 if metric.unit.startswith("{") else 5e-324
    assert all(type(bound) is float and bound >= lowest for bound in metric.bounds)
    assert list(metric.bounds) == sorted(set(metric.bounds))


@every_metric
def test_label_sets_are_made_of_the_values_of_the_attributes(metric: Metric) -> None:
    assert bool(metric.label_sets) is not (metric in NOT_AT_FIRST)
    assert len(set(metric.label_sets)) == len(metric.label_sets)
    for label_set in metric.label_sets:
        assert len(label_set) == len(metric.attributes)
        for attribute, value in zip(metric.attributes, label_set, strict=True):
            assert value in (attribute.values or ("",))


@every_metric
def test_every_value_of_an_attribute_occurs_in_some_label_set(metric: Metric) -> None:
    if metric in NOT_AT_FIRST or metric in SOME_AT_FIRST:
        return
    for n, attribute in enumerate(metric.attributes):
        shown = {label_set[n] for label_set in metric.label_sets}
        assert shown == set(attribute.values or ("",))


def test_what_each_client_does_is_there_for_those_of_every_app_and_for_the_bots_of_some() -> None:
    websockets = {("websocket", client) for client in ("webapp", "copilot", "other")}
    clients = {*websockets, ("http", "webapp")}
    for metric in (catalog.SESSION_STARTS, catalog.SESSION_ACTIVE, catalog.SESSION_ENDS):
        assert {values[:2] for values in metric.label_sets} == clients
    slack = ("http", "slack")
    assert catalog.starts_of(slack) == ((*slack, "new"),)
    assert catalog.states_of(slack) == ((*slack, "connected"),)
    assert {end[2] for end in catalog.ends_of(slack)} == {"completed", "shutdown", "other"}
    page = ("websocket", "webapp")
    assert {start[2] for start in catalog.starts_of(page)} == {"new", "thread_resume"}
    assert {state[2] for state in catalog.states_of(page)} == {"connected", "disconnected"}
    ends = {end[2] for end in catalog.ends_of(page)}
    assert ends == {"cleared", "timeout", "shutdown", "other"}


@every_metric
def test_labels_pair_the_attributes_with_their_values(metric: Metric) -> None:
    for label_set in metric.label_sets:
        labels = metric.labels(label_set)
        given = dict(zip((a.key for a in metric.attributes), label_set, strict=True))
        assert list(labels) == [key for key, value in given.items() if value]
        assert labels == {key: given[key] for key in labels}
    with pytest.raises(ValueError, match="zip"):
        metric.labels(("too", "many", "values", "for", "any", "metric"))


def test_attribute_values_are_distinct_and_their_keys_valid() -> None:
    for attribute in attributes():
        assert bool(attribute.values) is not attribute.is_open
        assert len(set(attribute.values)) == len(attribute.values)
        assert all(re.fullmatch(r"[a-z0-9_.]+", value) for value in attribute.values)
        assert NAME.fullmatch(attribute.key)
        assert PROMETHEUS_LABEL.fullmatch(attribute.prometheus_label)
        assert attribute.prometheus_label == attribute.key.replace(".", "_")


@every_metric
def test_no_two_attributes_of_a_metric_share_a_label(metric: Metric) -> None:
    labels = {attribute.prometheus_label for attribute in metric.attributes}
    assert len(labels) == len(metric.attributes)
    assert not labels & {"le", "job", "instance", "quantile"}


def test_an_empty_value_is_an_attribute_that_is_not_there() -> None:
    assert catalog.TURN_DURATION.labels(("ok", "")) == {"chainlit.outcome": "ok"}
    assert catalog.TIME_TO_FIRST_TOKEN.labels(("",)) == {}
    assert catalog.TURN_DURATION.labels(("ok", "fast")) == {
        "chainlit.outcome": "ok",
        "chainlit.chat_profile": "fast",
    }


def test_what_overflows_is_counted_for_every_attribute_that_outsiders_choose() -> None:
    chosen = {a.key for a in attributes() if not a.values}
    named = {
        catalog.CLIENT_TYPE.key,
        catalog.CALLBACK_NAME.key,
        catalog.ACTION_NAME.key,
        catalog.STEP_TYPE.key,
        catalog.STEP_NAME.key,
        catalog.OPERATION.key,
        catalog.ACCESS_METHOD.key,
    }
    assert set(catalog.OVERFLOW_ATTRIBUTE.values) == chosen | named


def constants(*prefixes: str) -> list[str]:
    """The names of spans, their attributes and events."""
    named = {n: v for n, v in vars(catalog).items() if n.startswith(prefixes)}
    return [value for value in named.values() if isinstance(value, str)]


def test_the_names_of_spans_and_events_are_dotted_and_told_apart() -> None:
    names = constants("SPAN_", "EVENT_")
    assert len(names) >= 6
    assert len(set(names)) == len(names)
    assert all(NAME.fullmatch(name) for name in names)


def test_series_stay_few() -> None:
    """Whatever nobody has used yet: the rest of an idle replica is the process and HTTP."""
    assert sum(len(metric.label_sets) * metric.series for metric in METRICS) <= 440


def test_a_label_set_of_a_histogram_is_a_series_for_each_bucket_the_count_and_the_sum() -> None:
    assert catalog.SESSION_STARTS.series == 1
    assert catalog.SESSION_DURATION.series == len(catalog.SESSION_DURATION.bounds) + 3


def test_the_peak_has_the_windows_that_are_kept_and_the_process() -> None:
    assert catalog.PEAK_WINDOW.values == (*WINDOWS, "process")


def test_what_ends_is_what_has_a_duration() -> None:
    assert catalog.SESSION_ENDS.attributes == catalog.SESSION_DURATION.attributes
    assert set(catalog.SESSION_DURATION.label_sets) <= set(catalog.SESSION_ENDS.label_sets)


@pytest.mark.parametrize(
    ("name", "unit", "kind", "expected"),
    [
        ("a.b", "", "gauge", "a_b"),
        ("a.b", "{session}", "gauge", "a_b"),
        ("a.b", "{session}", "counter", "a_b_total"),
        ("a.b", "{session}", "updowncounter", "a_b"),
        ("a.b", "s", "counter", "a_b_seconds_total"),
        ("a.b", "s", "histogram", "a_b_seconds"),
        ("a.b", "ms", "histogram", "a_b_milliseconds"),
        ("a.b", "By", "updowncounter", "a_b_bytes"),
        ("a.b", "1", "gauge", "a_b_ratio"),
        ("a.b", "1", "counter", "a_b_total"),
        ("a.b", "1", "histogram", "a_b"),
        ("a.b", "%", "gauge", "a_b_percent"),
        ("a.b", "By/s", "gauge", "a_b_bytes_per_second"),
        ("a.b", "m/s", "gauge", "a_b_meters_per_second"),
        ("a.b", "{request}/s", "gauge", "a_b_per_second"),
        ("a.b", "{request}/min", "gauge", "a_b_per_minute"),
        ("a.b", "By{raw}", "gauge", "a_b_bytes"),
        ("a.b", "widgets", "gauge", "a_b_widgets"),
        ("a.seconds", "s", "histogram", "a_seconds"),
        ("a.total", "", "counter", "a_total"),
        ("1st.place", "", "gauge", "_1st_place"),
        ("a-b/c", "", "gauge", "a_b_c"),
        ("a..b", "", "gauge", "a_b"),
        ("a._b", "s", "gauge", "a_b_seconds"),
    ],
)
def test_prometheus_names_follow_the_rules_of_opentelemetry(
    name: str, unit: str, kind: Kind, expected: str
) -> None:
    assert prometheus_name(name, unit, kind) == expected


@given(
    st.from_regex(INSTRUMENT, fullmatch=True),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=63),
    st.sampled_from(["counter", "updowncounter", "gauge", "histogram"]),
)
def test_whatever_others_name_and_measure_the_prometheus_name_is_valid(
    name: str, unit: str, kind: Kind
) -> None:
    assert PROMETHEUS_NAME.fullmatch(prometheus_name(name, unit, kind))


def test_every_probe_has_its_name_in_the_catalogue_and_no_other_does() -> None:
    assert tuple(probe.name for probe in PROBES) == catalog.INSTALLED_PROBE.values
