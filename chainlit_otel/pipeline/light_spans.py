"""Spans of ours as our provider exports them, in a third of the time that those of the SDK take.

A span of the SDK has a lock, three bounded containers with locks of their own, a sampler that is
asked about it, and is copied when it ends. None of that is needed for a dozen attributes that one
task sets. These spans are for a provider of ours that is configured as by default and has no
processors but ours; in any other case they are those of the SDK.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from time import time_ns
from typing import Any

from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    Event,
    ReadableSpan,
    SpanLimits,
    SpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import DEFAULT_ON
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
)

from chainlit_otel.pipeline.spans import span_in

MOST = 128
"""How many attributes, events and links a span has, as in the SDK by default."""

_UNSET = Status()
_PLAIN = frozenset((str, bool, int, float))
_KEYS = frozenset((str,))
_LIMITS = (
    *("max_attributes", "max_events", "max_links", "max_span_attributes"),
    *("max_event_attributes", "max_link_attributes"),
)
_LENGTHS = ("max_attribute_length", "max_span_attribute_length")
_METRICS_OF_SDK = "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED"


class LightSpan(ReadableSpan, Span):
    """A span that is recorded and exported. Has all that a span of the SDK has in public.

    Args:
        tracer: What has started it.
        name: Its name.
        context: Its own context.
        parent: That of its parent; None if it is the root of a trace.
        attributes: Its attributes.
        links: Its links.
        start: Start time, in nanoseconds since the epoch.
    """

    # Each takes the place of a property of the SDK.
    __slots__ = (
        "_processors",
        "_tracer",
        "attributes",
        "context",
        "dropped_attributes",
        "dropped_events",
        "end_time",
        "events",
        "instrumentation_scope",
        "links",
        "name",
        "parent",
        "start_time",
        "status",
    )

    attributes: dict[str, Any]
    context: SpanContext
    dropped_attributes: int
    dropped_events: int
    end_time: int | None
    instrumentation_scope: InstrumentationScope
    events: Sequence[Event]
    links: Sequence[Link]
    name: str
    parent: SpanContext | None
    start_time: int
    status: Status

    kind = SpanKind.INTERNAL
    dropped_links = 0
    instrumentation_info = None

    def __init__(
        self,
        tracer: LightTracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        attributes: Mapping[str, Any] | None,
        links: Sequence[Link],
        start: int,
    ) -> None:
        self._tracer = tracer
        self.instrumentation_scope = tracer.scope
        self.name = name
        self.context = context
        self.parent = parent
        self.attributes = dict(attributes) if attributes and _is_plain(attributes) else {}
        self.events = ()
        self.links = links
        self.status = _UNSET
        self.start_time = start
        self.end_time = None
        self.dropped_attributes = self.dropped_events = 0
        self._processors = tracer.processors
        if attributes and not self.attributes:
            self._add(BoundedAttributes(attributes=attributes))

    @property
    def resource(self) -> Resource:
        """The resource of the provider: a forked child has one of its own."""
        return self._tracer.provider.resource

    def get_span_context(self) -> SpanContext:
        """Return its context."""
        return self.context

    def is_recording(self) -> bool:
        """Tell whether it has not ended."""
        return self.end_time is None

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute, unless it has ended."""
        if self.end_time is not None:
            return
        if type(value) in _PLAIN and type(key) is str and key:
            self._set(key, value)
            return
        cleaned = BoundedAttributes(immutable=False)
        cleaned[key] = value
        self._add(cleaned)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes, unless it has ended."""
        if self.end_time is not None:
            return
        own = self.attributes
        if (
            _is_plain(attributes)
            and own.keys().isdisjoint(attributes)
            and len(own) + len(attributes) <= MOST
        ):
            own.update(attributes)
        else:
            self._add(BoundedAttributes(attributes=attributes))

    def _add(self, cleaned: BoundedAttributes) -> None:
        self.dropped_attributes += cleaned.dropped
        for key, value in cleaned.items():
            self._set(key, value)

    def _set(self, key: str, value: Any) -> None:
        attributes = self.attributes
        # What is set again is the newest, as in the SDK: the oldest go when there are too many.
        attributes.pop(key, None)
        if len(attributes) >= MOST:
            del attributes[next(iter(attributes))]
            self.dropped_attributes += 1
        attributes[key] = value

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        """Add an event, unless it has ended; the first go when there are too many."""
        if self.end_time is not None:
            return
        bounded = BoundedAttributes(MOST, attributes) if attributes else {}
        event = Event(name, bounded, timestamp)
        dropped = len(self.events) >= MOST
        self.events = (*self.events[dropped:], event)
        self.dropped_events += dropped

    def add_link(self, context: SpanContext, attributes: Mapping[str, Any] | None = None) -> None:
        """Add a link, unless it has ended."""
        if self.end_time is None and context is not None and len(self.links) < MOST:
            self.links = (*self.links, Link(context, BoundedAttributes(MOST, attributes)))

    def update_name(self, name: str) -> None:
        """Give it another name, unless it has ended."""
        if self.end_time is None:
            self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Set the status, unless it has ended or is known to be well."""
        if not isinstance(status, Status):
            status = Status(status, description)
        is_final = self.status.status_code is StatusCode.OK or self.end_time is not None
        if not is_final and status.status_code is not StatusCode.UNSET:
            self.status = status

    def record_exception(
        self,
        exception: BaseException,
        attributes: Mapping[str, Any] | None = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Add an event that describes an exception."""
        kind = type(exception)
        module = "" if kind.__module__ in (None, "builtins") else f"{kind.__module__}."
        described = {
            "exception.type": f"{module}{kind.__qualname__}",
            "exception.message": str(exception),
            "exception.stacktrace": "".join(
                traceback.format_exception(kind, exception, exception.__traceback__)
            ),
            "exception.escaped": str(escaped),
        }
        self.add_event("exception", {**described, **(attributes or {})}, timestamp)

    def end(self, end_time: int | None = None) -> None:
        """End it, and give it to the processors; a second call does nothing."""
        if self.end_time is None:
            self.end_time = time_ns() if end_time is None else end_time
            for processor in self._processors:
                processor.on_end(self)

    def readable(self) -> ReadableSpan:
        """Return it as the SDK would, with what is private there, too."""
        return ReadableSpan(
            name=self.name,
            context=self.context,
            parent=self.parent,
            resource=self.resource,
            attributes=self.attributes,
            events=self.events,
            links=[Link(link.context, link.attributes or {}) for link in self.links],
            kind=self.kind,
            status=self.status,
            start_time=self.start_time,
            end_time=self.end_time,
            instrumentation_scope=self.instrumentation_scope,
        )

    def to_json(self, indent: int | None = 4) -> str:
        """Return it as JSON."""
        return str(self.readable().to_json(indent))


def _is_plain(attributes: Mapping[str, Any]) -> bool:
    """Tell whether attributes are kept as they are, by the rules of the SDK."""
    return (
        _PLAIN.issuperset(map(type, attributes.values()))
        and _KEYS.issuperset(map(type, attributes))
        and "" not in attributes
        and len(attributes) <= MOST
    )


class LightTracer(Tracer):
    """Starts light spans, unless something asks for those of the SDK.

    Args:
        tracer: The tracer of the SDK.
        provider: Its provider.
        scope: What the spans say of who has made them.

    Attributes:
        provider: The same.
        scope: The same.
        processors: Are shown the spans; without any, spans are those of the SDK.
    """

    def __init__(
        self, tracer: SdkTracer, provider: TracerProvider, scope: InstrumentationScope
    ) -> None:
        self._tracer = tracer
        self._ids = provider.id_generator
        is_random = getattr(self._ids, "is_trace_id_random", bool)()
        self._of_roots = TraceFlags(TraceFlags.SAMPLED | (0x02 if is_random else 0))
        self.provider = provider
        self.scope = scope
        self.processors: tuple[SpanProcessor, ...] = ()

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        start_time: int | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Span:
        """Start a span."""
        above = span_in(get_current() if context is None else context)
        # A tuple, as its type says: each of its properties is a call by way of C.
        trace_id, _, _, flags, state, is_child = above
        is_sampled = not is_child or flags & TraceFlags.SAMPLED
        if not self.processors or not is_sampled or kind is not SpanKind.INTERNAL:
            return self._tracer.start_span(
                name, context, kind, attributes, links, start_time, *args, **kwargs
            )
        ids = self._ids
        if is_child:
            parent: SpanContext | None = above
            own = SpanContext(trace_id, ids.generate_span_id(), False, flags, state)
        else:
            parent = None
            own = SpanContext(
                ids.generate_trace_id(), ids.generate_span_id(), False, self._of_roots
            )
        start = time_ns() if start_time is None else start_time
        span = LightSpan(self, name, own, parent, attributes, links or (), start)
        for processor in self.processors:
            processor.on_start(span, context)  # type: ignore[arg-type]  # has what is public
        return span

    def start_as_current_span(  # type: ignore[override]  # its type is private to the API
        self, *args: Any, **kwargs: Any
    ) -> AbstractContextManager[Span]:
        """Start a span of the SDK."""
        return self._tracer.start_as_current_span(*args, **kwargs)


def is_default(provider: TracerProvider, limits: SpanLimits) -> bool:
    """Tell whether a provider makes spans as by default, which light spans are like."""
    return (
        provider.sampler is DEFAULT_ON
        and type(provider.id_generator) is RandomIdGenerator
        and all(getattr(limits, name) == MOST for name in _LIMITS)
        and all(getattr(limits, name) is None for name in _LENGTHS)
        and os.environ.get(_METRICS_OF_SDK, "").strip().lower() != "true"
    )
