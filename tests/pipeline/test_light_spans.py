"""A light span is what a span of the SDK would have been, whatever is done to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Span as SdkSpan
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from chainlit_otel import catalog
from chainlit_otel.pipeline.light_spans import MOST, LightSpan
from chainlit_otel.pipeline.losses import BatchProcessor, Losses, SpanDelivery
from chainlit_otel.pipeline.span_encoding import encode
from chainlit_otel.pipeline.tracer_provider import OurTracerProvider


class Recorded(SpanProcessor):
    """Keeps what has started and ended."""

    takes_light_spans = True

    def __init__(self) -> None:
        self.started: list[Span] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: SdkSpan, parent_context: Context | None = None) -> None:
        self.started.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


RESOURCE = Resource({"service.name": "x"}, "https://example.org")


def ours(*processors: SpanProcessor) -> OurTracerProvider:
    provider = OurTracerProvider(RESOURCE, SpanLimits())
    for processor in processors:
        provider.add_span_processor(processor)
    return provider


keys = st.sampled_from(["a", "b", "c", *(f"key {n}" for n in range(MOST))])
plain = st.one_of(st.text("xyz", max_size=3), st.booleans(), st.integers(-9, 99), st.floats(-1, 1))
values = st.one_of(plain, st.lists(st.integers(0, 3), max_size=2), st.lists(st.text("x")))
attributes = st.dictionaries(keys, values, max_size=5)
context = SpanContext(5, 6, True, TraceFlags(TraceFlags.SAMPLED), TraceState([("k", "v")]))
statuses = st.sampled_from(
    [
        (StatusCode.ERROR, "so"),
        (StatusCode.OK,),
        (StatusCode.UNSET,),
        (Status(StatusCode.ERROR, "thus"),),
        (Status(StatusCode.UNSET),),
    ]
)
calls = st.one_of(
    st.tuples(st.just("set_attribute"), st.tuples(keys, values)),
    st.tuples(st.just("set_attributes"), st.tuples(attributes)),
    st.tuples(st.just("add_event"), st.tuples(st.text("e"), attributes, st.integers(1, 9))),
    st.tuples(st.just("add_event"), st.tuples(st.text("e"), st.none(), st.integers(1, 9))),
    st.tuples(st.just("add_link"), st.tuples(st.just(context), attributes)),
    st.tuples(st.just("update_name"), st.tuples(st.text("n"))),
    st.tuples(st.just("set_status"), statuses),
    st.tuples(st.just("end"), st.tuples(st.integers(10, 20))),
)
roots = st.sampled_from([INVALID_SPAN.get_span_context(), context])


def described(span: ReadableSpan) -> dict[str, Any]:
    """All that a span has, but for the ids that are drawn."""
    known: dict[str, Any] = json.loads(span.to_json())
    known["context"].pop("span_id")
    known["context"].pop("trace_id")
    known["flags"] = int(span.context.trace_flags)
    known["state"] = dict(span.context.trace_state)
    known["dropped"] = (span.dropped_attributes, span.dropped_events, span.dropped_links)
    parts: list[Any] = [*span.events, *span.links]
    known["dropped"] += tuple(part.dropped_attributes for part in parts)
    known["scope"] = span.instrumentation_scope
    return known


@given(roots, attributes, st.lists(calls, max_size=12), st.integers(1, 200))
def test_it_has_what_the_sdk_has_whatever_is_called(
    above: SpanContext, given_: dict[str, Any], calls: list[Any], times: int
) -> None:
    seen = Recorded(), Recorded()
    sdk = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    sdk.add_span_processor(seen[0])
    parent = set_span_in_context(NonRecordingSpan(above), Context())
    spans = []
    for provider in (sdk, ours(seen[1])):
        tracer = provider.get_tracer(catalog.SCOPE, "1")
        span: Any = tracer.start_span(
            "first", parent, attributes=given_, links=[Link(context, {"a": 1})], start_time=3
        )
        for name, arguments in calls:
            # Often enough for the limits.
            for _ in range(times if name == "add_event" else 1):
                getattr(span, name)(*arguments)
        spans.append(span)
        span.end(30)
        span.end(31)
    assert isinstance(spans[1], LightSpan)
    assert isinstance(spans[1], ReadableSpan)
    assert not isinstance(spans[0], LightSpan)
    assert spans[0].is_recording() == spans[1].is_recording() is False
    (before,), (after,) = seen[0].ended, seen[1].ended
    assert described(after) == described(before)
    assert list(after.attributes or {}) == list(before.attributes or {})
    assert encode([after]) == encode_spans([after])


@pytest.mark.parametrize("odd", [b"bytes", {"a": {"b": 1}}, [None, 1], object(), None, ""])
def test_values_of_any_type_are_cleaned_as_the_sdk_does(odd: Any) -> None:
    found = []
    for provider in (TracerProvider(shutdown_on_exit=False), ours(Recorded())):
        span: Any = provider.get_tracer(catalog.SCOPE).start_span("one", attributes={"first": odd})
        span.set_attribute("second", odd)
        span.set_attributes({"third": odd, "": 1})
        span.set_attribute("", 1)
        span.set_attribute(7, 1)
        found.append((dict(span.attributes), span.dropped_attributes))
    text = str(found[0][0].get("first"))
    if " object at 0x" not in text:
        assert found[0] == found[1]


def test_more_attributes_than_fit_push_out_the_oldest() -> None:
    found = []
    for provider in (TracerProvider(shutdown_on_exit=False), ours(Recorded())):
        span: Any = provider.get_tracer(catalog.SCOPE).start_span("one")
        for number in range(MOST + 2):
            span.set_attribute(f"key {number}", number)
        span.set_attributes({f"more {number}": number for number in range(MOST - 1)})
        found.append((dict(span.attributes), span.dropped_attributes))
    assert found[0] == found[1]
    assert found[1][1] == MOST + 1


def test_an_exception_is_recorded_as_the_sdk_does() -> None:
    seen = Recorded(), Recorded()
    sdk = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    sdk.add_span_processor(seen[0])
    try:
        raise json.JSONDecodeError("no", "", 0)
    except ValueError as error:
        for provider in (sdk, ours(seen[1])):
            span = provider.get_tracer(catalog.SCOPE).start_span("one", Context(), start_time=1)
            span.record_exception(error, {"more": True}, timestamp=2)
            span.end(3)
    assert described(seen[1].ended[0]) == described(seen[0].ended[0])


def test_processors_see_it_start_and_end_once() -> None:
    seen = Recorded()
    tracer = ours(seen).get_tracer(catalog.SCOPE)
    span = tracer.start_span("one")
    assert seen.started == [span]
    assert seen.ended == []
    span.end()
    span.end()
    assert list(map(id, seen.ended)) == [id(span)]


def test_children_of_both_kinds_are_in_one_trace() -> None:
    seen = Recorded()
    provider = ours(seen)
    root = provider.get_tracer(catalog.SCOPE).start_span("root", Context())
    in_root = set_span_in_context(root, Context())
    theirs = provider.get_tracer("other").start_span("theirs", in_root)
    child = provider.get_tracer(catalog.SCOPE).start_span(
        "child", set_span_in_context(theirs, in_root)
    )
    for span in (child, theirs, root):
        span.end()
    assert [type(span) is LightSpan for span in seen.ended] == [True, False, True]
    last, middle, first = seen.ended
    assert last.parent == middle.context
    assert middle.parent == first.context
    assert first.parent is None
    assert len({span.context.trace_id for span in seen.ended}) == 1


class Apps(SpanProcessor):
    """A processor of the application, which may know what is private in the SDK."""


def shared() -> OurTracerProvider:
    return ours(Recorded(), Apps())


def with_limits() -> OurTracerProvider:
    provider = OurTracerProvider(RESOURCE, SpanLimits(max_span_attributes=3))
    provider.add_span_processor(Recorded())
    return provider


@pytest.mark.parametrize("make", [shared, with_limits])
def test_what_is_configured_otherwise_has_spans_of_the_sdk(
    make: Callable[[], OurTracerProvider],
) -> None:
    assert isinstance(make().get_tracer(catalog.SCOPE).start_span("one"), SdkSpan)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "3"),
        ("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "3"),
        ("OTEL_SDK_DISABLED", "true"),
        ("OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED", "true"),
    ],
)
def test_the_standard_variables_hold(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(ours(Recorded()).get_tracer(catalog.SCOPE).start_span("one"), LightSpan)
    monkeypatch.setenv(variable, value)
    span = ours(Recorded()).get_tracer(catalog.SCOPE).start_span("one")
    assert not isinstance(span, LightSpan)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": SpanKind.CLIENT},
        {"context": set_span_in_context(NonRecordingSpan(SpanContext(1, 2, True)), Context())},
    ],
    ids=["another kind", "a parent that is not sampled"],
)
def test_what_it_does_not_know_is_left_to_the_sdk(arguments: dict[str, Any]) -> None:
    seen = Recorded()
    span = ours(seen).get_tracer(catalog.SCOPE).start_span("one", **arguments)
    assert not isinstance(span, LightSpan)
    assert span.is_recording() is ("kind" in arguments)


def test_a_processor_that_is_added_later_gets_spans_of_the_sdk() -> None:
    seen = Recorded()
    provider = ours(seen)
    tracer = provider.get_tracer(catalog.SCOPE)
    before = tracer.start_span("before")
    provider.add_span_processor(Apps())
    after = tracer.start_span("after")
    assert isinstance(after, SdkSpan)
    after.end()
    before.end()
    assert [span.name for span in seen.ended] == ["after", "before"]


def test_an_exporter_of_the_app_gets_what_is_private_in_the_sdk_too() -> None:
    class Exporter:
        def __init__(self) -> None:
            self.names: list[str] = []

        def export(self, spans: Any) -> Any:
            self.names += [span._name for span in spans]

        def shutdown(self) -> None:
            pass

    exporter = Exporter()
    processor = BatchProcessor(SpanDelivery(lambda: (exporter, None), Losses()))
    ours(processor).get_tracer(catalog.SCOPE).start_span("one").end()
    processor.force_flush()
    processor.delivery.shutdown()
    assert exporter.names == ["one"]
