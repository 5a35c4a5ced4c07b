"""Spans that never leave the process, for the live page where no provider of spans is set.

They cost about half of the SDK's. They are not OpenTelemetry's current span: with their context,
requests of the app to others would be marked as not sampled, and so would the traces of those.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from opentelemetry.trace import INVALID_SPAN_CONTEXT, Span, SpanContext, StatusCode

MAX_EVENTS = 128
"""How many events a span has at most, as a span of the SDK by default: the last ones."""


class SpanObserver(Protocol):
    """Is shown each span when it starts and when it ends.

    Attributes:
        is_wanted: Whether spans are to be made for it at this moment.
    """

    is_wanted: bool

    def on_local_start(self, span: LocalSpan) -> None:
        """A span has started."""

    def on_local_end(self, span: LocalSpan) -> None:
        """A span has ended."""


class LocalSpan(Span):
    """A span.

    Args:
        observer: Is shown its end.
        name: Its name.
        parent: Its parent; None if it is the root of a trace.
        attributes: Its attributes.
        start: Start time, in nanoseconds since the epoch; now by default.

    Attributes:
        trace_id: Id of its trace, which is of use in this process alone.
        span_id: Its id, likewise.
        parent_id: Id of its parent; 0 without one.
        name: Its name.
        attributes: Its attributes.
        events: What has happened in it: the time in nanoseconds since the epoch, name, attributes.
        started: Start time, in nanoseconds since the epoch.
        ended: End time, likewise; None while it lasts.
    """

    __slots__ = (
        "_observer",
        "attributes",
        "ended",
        "events",
        "name",
        "parent_id",
        "span_id",
        "started",
        "trace_id",
    )

    def __init__(
        self,
        observer: SpanObserver,
        name: str,
        parent: LocalSpan | None,
        attributes: Mapping[str, Any],
        start: int | None = None,
    ) -> None:
        self._observer = observer
        self.trace_id: int = random.getrandbits(128) if parent is None else parent.trace_id
        self.span_id = random.getrandbits(64)
        self.parent_id = 0 if parent is None else parent.span_id
        self.name = name
        self.attributes = dict(attributes)
        self.events: deque[tuple[int, str, Mapping[str, Any]]] = deque(maxlen=MAX_EVENTS)
        self.started = start or time.time_ns()
        self.ended: int | None = None
        observer.on_local_start(self)

    def get_span_context(self) -> SpanContext:
        """Return no context: nobody but the live page has this span."""
        return INVALID_SPAN_CONTEXT

    def is_recording(self) -> bool:
        """Tell whether it has not ended."""
        return self.ended is None

    def end(self, end_time: int | None = None) -> None:
        """End it; a second call does nothing."""
        if self.ended is None:
            self.ended = end_time or time.time_ns()
            self._observer.on_local_end(self)

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute, unless it has ended: who reads it then needs no lock."""
        if self.ended is None:
            self.attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes, unless it has ended."""
        if self.ended is None:
            self.attributes.update(attributes)

    def add_event(
        self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None
    ) -> None:
        """Add an event, unless it has ended."""
        if self.ended is None:
            self.events.append((timestamp or time.time_ns(), name, attributes or {}))

    def update_name(self, name: str) -> None:
        """Give it another name."""
        self.name = name

    def set_status(self, status: StatusCode | Any, description: str | None = None) -> None:
        """Do nothing: the outcome is an attribute."""

    def record_exception(self, exception: BaseException, *args: Any, **kwargs: Any) -> None:
        """Do nothing: exceptions are added as events."""
