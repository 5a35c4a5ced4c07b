"""Spans are encoded as the SDK does it, whatever is in them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from chainlit_otel.pipeline import span_encoding
from chainlit_otel.pipeline.span_encoding import encode, encode_by

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.just("long " * 300)
numbers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
values = st.one_of(
    *(texts, st.booleans(), numbers, floats),
    *(st.lists(each, max_size=3) for each in (texts, st.booleans(), numbers, floats)),
)
attributes = st.dictionaries(texts.filter(bool), values, max_size=6)
contexts = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.booleans(),
    st.just(TraceFlags(TraceFlags.SAMPLED)),
    st.sampled_from([TraceState(), TraceState([("a", "1"), ("b", "2")])]),
)
statuses = st.sampled_from(
    [None, Status(StatusCode.OK), Status(StatusCode.ERROR), Status(StatusCode.ERROR, "so")]
)
events = st.lists(st.tuples(texts, attributes, st.integers(1, 2**63)), max_size=4)
spans = st.fixed_dictionaries(
    {
        "name": texts,
        "kind": st.sampled_from(SpanKind),
        "parent": st.none() | contexts,
        "attributes": attributes,
        "links": st.lists(st.builds(Link, contexts, attributes), max_size=4),
        "events": events,
        "status": statuses,
        "start": st.integers(1, 2**63),
        "seconds": st.integers(0, 10**9),
        "scope": st.sampled_from([("one", "1", None), ("two", "", "https://example.org/schema")]),
        "resource": st.sampled_from(["a", "b"]),
    }
)


def made(descriptions: Sequence[dict[str, Any]]) -> Sequence[ReadableSpan]:
    """Spans of the SDK, of which some have more of everything than the limits allow."""
    exporter = InMemorySpanExporter()
    limits = SpanLimits(
        max_span_attributes=4, max_event_attributes=3, max_links=2, max_events=2,
        max_link_attributes=3,
    )  # fmt: skip
    providers = {}
    for name in ("a", "b"):
        providers[name] = TracerProvider(
            resource=Resource({"service.name": name}, "https://example.org"), span_limits=limits
        )
        providers[name].add_span_processor(SimpleSpanProcessor(exporter))
    for described in descriptions:
        name, version, schema = described["scope"]
        tracer = providers[described["resource"]].get_tracer(name, version, schema_url=schema)
        parent = described["parent"]
        span = tracer.start_span(
            described["name"],
            None if parent is None else set_span_in_context(NonRecordingSpan(parent)),
            described["kind"],
            described["attributes"],
            described["links"],
            described["start"],
        )
        for event, more, at in described["events"]:
            span.add_event(event, more, at)
        if described["status"] is not None:
            span.set_status(described["status"])
        span.end(described["start"] + described["seconds"])
    return exporter.get_finished_spans()


PLAIN = {
    "name": "one",
    "kind": SpanKind.INTERNAL,
    "parent": None,
    "attributes": {"a": "b"},
    "links": [],
    "events": [],
    "status": None,
    "start": 1,
    "seconds": 1,
    "scope": ("one", "1", None),
    "resource": "a",
}


def by_scope(request: Any) -> list[tuple[bytes, bytes, str, str, list[bytes]]]:
    return sorted(
        (
            of_resource.resource.SerializeToString(),
            of_scope.scope.SerializeToString(),
            of_resource.schema_url,
            of_scope.schema_url,
            [span.SerializeToString() for span in of_scope.spans],
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
    )


@pytest.fixture
def never_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK is asked for single spans only."""

    def of_one(spans: Sequence[ReadableSpan]) -> Any:
        assert len(spans) == 1
        return encode_spans(spans)

    monkeypatch.setattr(span_encoding, "encode_spans", of_one)


@given(st.lists(spans, max_size=5))
def test_it_has_what_the_sdk_has_for_any_spans(descriptions: list[dict[str, Any]]) -> None:
    finished = made(descriptions)
    request = type(encode_spans([])).FromString(span_encoding._request(finished))
    assert by_scope(request) == by_scope(encode_spans(finished))


@pytest.mark.usefixtures("never_all")
def test_the_sdk_is_asked_for_one_span_of_a_scope() -> None:
    finished = made([PLAIN, PLAIN, {**PLAIN, "scope": ("two", "", None)}])
    assert sum(len(s.spans) for r in encode(finished).resource_spans for s in r.scope_spans) == 3


@pytest.mark.parametrize(
    "odd", [{"a": "\ud800"}, {"a": 2**63}, {"a": [2**63]}], ids=["surrogate", "int", "ints"]
)
def test_what_cannot_be_encoded_is_left_to_the_sdk(odd: dict[str, Any]) -> None:
    finished = made([PLAIN, {**PLAIN, "attributes": {**odd, "good": "yes"}}])
    assert encode(finished) == encode_spans(finished)
    assert b"good" in encode(finished).SerializeToString()


def test_a_release_that_encodes_differently_is_left_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def other(spans: Sequence[ReadableSpan]) -> Any:
        asked.append(len(spans))
        request = encode_spans(spans)
        for each in request.resource_spans[0].scope_spans[0].spans:
            each.flags = 0x101
        return request

    monkeypatch.setattr(span_encoding, "encode_spans", other)
    finished = made([PLAIN, PLAIN])
    sent = encode(finished).resource_spans[0].scope_spans[0].spans
    assert [span.flags for span in sent] == [0x101, 0x101]
    assert asked == [1, 2]


def test_one_exporter_encodes_here_and_others_of_its_class_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def counted(spans: Sequence[ReadableSpan]) -> bytes:
        asked.append(len(spans))
        raise ValueError

    monkeypatch.setattr(span_encoding, "_request", counted)
    ours, other = (OTLPSpanExporter("http://127.0.0.1:9/v1/traces", timeout=1) for _ in range(2))
    encode_by(ours)
    finished = made([PLAIN, PLAIN])
    for exporter in (ours, other):
        # Nobody listens there; older releases raise.
        with suppress(requests.ConnectionError):
            exporter.export(finished)
        SimpleSpanProcessor(exporter).shutdown()
    assert asked == [2]
