"""Spans of ours, and which of them is the current one. Knows nothing of Chainlit.

Samplers and span processors are the application's, and may raise whenever a span starts or ends.
No probe notices: `Tracing` holds what they raise, so that not one figure depends on them.
"""

from __future__ import annotations

import time
import traceback
from asyncio import CancelledError
from collections.abc import Iterable, Mapping
from contextlib import suppress

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    ProxyTracer,
    Span,
    SpanContext,
    Status,
    StatusCode,
    Tracer,
    get_current_span,
    set_span_in_context,
)

from chainlit_otel import catalog
from chainlit_otel.guard import Guard, frames_of

_FRAME = otel_context.create_key("chainlit_otel-frame")

Attributes = Mapping[str, str]


class Frame:
    """A span of ours while it is the current one, and what was current before it."""

    __slots__ = ("context", "ended", "outer", "previous", "span")

    def __init__(self, span: Span, previous: Context, outer: Frame | None) -> None:
        self.span = span
        self.previous = previous
        self.outer = outer
        self.ended = False
        self.context = previous


_NOTHING = Context()

UNHEARD = Frame(INVALID_SPAN, _NOTHING, None)
"""Stands for every span while nobody listens. It has ended, so nothing comes of it."""
UNHEARD.ended = True


def current() -> Frame | None:
    """Return the innermost frame that has not ended.

    A step in an async generator that was abandoned ends somewhere else, and leaves its context
    behind as the current one here: such frames are passed over.
    """
    frame = otel_context.get_value(_FRAME)
    while isinstance(frame, Frame) and frame.ended:
        frame = frame.outer
    return frame if isinstance(frame, Frame) else None


def within() -> bool:
    """Tell whether this runs on behalf of a span of ours, be it over.

    What a turn leaves behind as a task belongs to its trace, however late it is.
    """
    return otel_context.get_value(_FRAME) is not None


def _is_innermost(frame: Frame) -> bool:
    """Tell whether a frame is current here, but for frames that were abandoned in it.

    Elsewhere than where it was opened, the current context is somebody else's.
    """
    top = otel_context.get_value(_FRAME)
    if not isinstance(top, Frame) or otel_context.get_current() is not top.context:
        return False
    while top is not None and top is not frame and top.ended:
        top = top.outer
    return top is frame


def _trace(frame: Frame) -> int:
    return frame.span.get_span_context().trace_id


def current_span_context() -> SpanContext:
    """Return the context of the current span, whoever opened it."""
    return get_current_span().get_span_context()


class Tracing:
    """Opens and ends spans. None of its methods raises.

    Args:
        tracer: Makes the spans. It may be one that does nothing, or does so for now.
        exception_messages: Whether the messages of exceptions are recorded; they may hold what
            users wrote.
        guard: Holds what samplers and span processors raise.
    """

    def __init__(self, tracer: Tracer, exception_messages: bool, guard: Guard) -> None:
        self.guard = guard
        self._tracer = tracer
        self._is_global = isinstance(tracer, ProxyTracer)
        self._exception_messages = exception_messages

    @property
    def idle(self) -> bool:
        """Whether nobody listens: no span need be described. Somebody may listen later.

        A span that goes nowhere would cost as much as ten tokens, and `get_tracer_provider`, which
        asks the environment, no less. Without the variable that it sets there is always a listener.
        """
        return self._is_global and getattr(trace, "_TRACER_PROVIDER", self) is None

    def open_root(
        self,
        name: str,
        attributes: Attributes,
        links: Iterable[SpanContext] = (),
        start: int | None = None,
    ) -> Frame:
        """Begin a trace of its own, whatever span is current, and make its span the current one.

        Args:
            name: Name of the span.
            attributes: Attributes of the span.
            links: What the trace belongs to without being a part of it.
            start: Start time, in nanoseconds since the epoch; now by default.
        """
        if self.idle:
            return UNHEARD
        with self.guard:
            valid = [Link(linked) for linked in links if linked.is_valid]
            span = self._tracer.start_span(
                name, Context(), attributes=attributes, links=valid, start_time=start
            )
            return self._enter(span, None, Context(), otel_context.get_current())
        return UNHEARD

    def open_child(
        self,
        name: str,
        attributes: Attributes,
        start: int | None = None,
        above: Frame | None = None,
    ) -> Frame:
        """Open a span below the current one, and make it the current one.

        Args:
            name: Name of the span.
            attributes: Attributes of the span.
            start: Start time, in nanoseconds since the epoch; now by default.
            above: What it is below instead, unless that is in another trace.
        """
        if self.idle:
            return UNHEARD
        with self.guard:
            outer = current()
            previous = base = self._base(outer)
            if (
                above is not None
                and _trace(above)
                and (not outer or _trace(outer) == _trace(above))
            ):
                base = set_span_in_context(above.span, base)
            span = self._tracer.start_span(name, base, attributes=attributes, start_time=start)
            return self._enter(span, outer, base, previous)
        return UNHEARD

    def leave(self, frame: Frame) -> None:
        """Make current again what was before a frame that was just opened, without ending it.

        It keeps nothing alive from then on, and may be closed anywhere.
        """
        if frame.context is not frame.previous:
            otel_context.attach(frame.previous)
        frame.context = frame.previous = _NOTHING
        frame.outer = None

    def close(
        self,
        frame: Frame,
        outcome: str,
        error: BaseException | None = None,
        end: int | None = None,
    ) -> None:
        """Make current again what was before a frame, and end its span.

        A span processor that raises changes nothing that counts: the ledger comes before this.

        Args:
            frame: The frame; ending it again changes nothing.
            outcome: `ok`, `error` or `cancelled`.
            error: The exception, if there was one.
            end: End time, in nanoseconds since the epoch; now by default.
        """
        if frame.ended:
            return
        frame.ended = True
        if frame.context is not frame.previous and _is_innermost(frame):
            previous, outer = frame.previous, current()
            if outer is not None and outer is not frame.outer:
                # What was current before has ended, too: two steps need not be nested.
                previous = outer.context
            otel_context.attach(previous)
        span = frame.span
        if not span.is_recording():
            return
        with self.guard:
            span.set_attribute(catalog.OUTCOME.key, outcome)
            if outcome == "error":
                self._describe(span, error)
        with self.guard:
            span.end(end)

    def _enter(self, span: Span, outer: Frame | None, base: Context, previous: Context) -> Frame:
        frame = Frame(span, previous, outer)
        if span.get_span_context().is_valid:
            frame.context = otel_context.set_value(_FRAME, frame, set_span_in_context(span, base))
            otel_context.attach(frame.context)
        return frame

    def _base(self, outer: Frame | None) -> Context:
        now = otel_context.get_current()
        innermost = otel_context.get_value(_FRAME, now)
        return now if outer is innermost or outer is None else outer.context

    def _describe(self, span: Span, error: BaseException | None) -> None:
        if error is None:
            span.set_status(StatusCode.ERROR)
            return
        describe_exception(span, error, message_of(error) if self._exception_messages else "")


def message_of(error: BaseException) -> str:
    """Return the message of an exception; empty if the app's own class fails to give one."""
    with suppress(Exception):
        return printable(error)
    return ""


def describe_exception(span: Span, error: BaseException, message: str) -> None:
    """Mark a span as failed by an exception, with no message of it but the one given."""
    kind = type(error).__qualname__
    frames = "".join(traceback.format_tb(error.__traceback__)) if message else frames_of(error)
    span.set_status(Status(StatusCode.ERROR, f"{kind}: {message}" if message else kind))
    span.set_attribute(catalog.ERROR_TYPE, kind)
    recorded = {
        "exception.type": kind,
        "exception.stacktrace": f"Traceback (most recent call last):\n{frames}{kind}",
    }
    if message:
        recorded["exception.message"] = message
        recorded["exception.stacktrace"] += f": {message}"
    span.add_event("exception", recorded, timestamp=time.time_ns())


def printable(value: object) -> str:
    """Return a value as text that every exporter can encode.

    A browser may send half of a surrogate pair, and one span with it would lose its whole batch.
    """
    return str(value).encode(errors="replace").decode()


def outcome_of(error: BaseException | None) -> str:
    """Return the outcome of a call that raised `error`.

    A stop by the user is no error, and neither is a generator that nobody wants to read on.
    """
    if error is None:
        return "ok"
    return "cancelled" if isinstance(error, (CancelledError, GeneratorExit)) else "error"
