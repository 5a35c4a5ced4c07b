"""Spans of ours, and which of them is the current one. Knows nothing of Chainlit.

Samplers and span processors are the application's, and may raise whenever a span starts or ends.
`Tracing` guards these calls, so that no figure of a probe depends on them.
"""

from __future__ import annotations

import time
import traceback
from asyncio import CancelledError
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    Link,
    ProxyTracer,
    Span,
    SpanContext,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)

from chainlit_otel import catalog
from chainlit_otel.guard import Guard, frames_of
from chainlit_otel.pipeline.kept_traces import TraceKeeper
from chainlit_otel.pipeline.local_spans import LocalSpan, SpanObserver

_SCOPE_KEY = otel_context.create_key("chainlit_otel-scope")

# The key is private, and `get_current_span` takes twice as long as to look into the context.
_SPAN_KEY = next(iter(set_span_in_context(INVALID_SPAN, Context())))

Attributes = Mapping[str, str | bool]


class SpanScope:
    """A span of ours while it is the current one, and the context that was attached before it."""

    __slots__ = ("context", "ended", "parent_scope", "previous_context", "span")

    def __init__(
        self, span: Span, previous_context: Context, parent_scope: SpanScope | None
    ) -> None:
        self.span = span
        self.previous_context = previous_context
        self.parent_scope = parent_scope
        self.ended = False
        self.context = previous_context


EMPTY_CONTEXT = Context()

NOOP_SCOPE = SpanScope(INVALID_SPAN, EMPTY_CONTEXT, None)
"""The scope of every span while tracing is not enabled. It has ended, so all is a no-op."""
NOOP_SCOPE.ended = True


def _innermost(context: Context) -> SpanScope | None:
    """Return the scope that was attached last, ended or not."""
    # A context is a dict; `otel_context.get_value` would take four times as long.
    values: Mapping[str, Any] = context
    scope: SpanScope | None = values.get(_SCOPE_KEY)
    return scope


def _open(scope: SpanScope | None) -> SpanScope | None:
    """Return the innermost scope that has not ended.

    The scope of a step in an abandoned async generator ends in another context and stays attached
    in this one, so scopes that have ended are skipped.
    """
    while scope is not None and scope.ended:
        scope = scope.parent_scope
    return scope


def current() -> SpanScope | None:
    """Return the innermost scope that has not ended."""
    return _open(_innermost(otel_context.get_current()))


def in_trace() -> bool:
    """Tell whether a span of ours is in the current context, ended or not.

    A task that outlives its turn still belongs to the trace of the turn.
    """
    return _SCOPE_KEY in otel_context.get_current()


def _is_innermost(scope: SpanScope, context: Context) -> bool:
    """Tell whether a scope is the innermost of a context, not counting abandoned children of it.

    In another task or thread than the one in which it started, the current context is left alone.
    """
    top = _innermost(context)
    if top is None or context is not top.context:
        return False
    while top is not None and top is not scope and top.ended:
        top = top.parent_scope
    return top is scope


def _local(scope: SpanScope) -> LocalSpan | None:
    return scope.span if isinstance(scope.span, LocalSpan) else None


def _trace_id(scope: SpanScope) -> int:
    return scope.span.get_span_context().trace_id


def trace_of(scope: SpanScope) -> int:
    """Return the trace of a span as a number, sampled or not; 0 if there is none."""
    local = _local(scope)
    return _trace_id(scope) if local is None else local.trace_id


def sampled_ids(scope: SpanScope) -> tuple[str, str]:
    """Return the ids of the trace and of a span in hex digits; empty if it is not sampled."""
    context = scope.span.get_span_context()
    if not context.is_valid or not context.trace_flags.sampled:
        return "", ""
    return format_trace_id(context.trace_id), format_span_id(context.span_id)


def span_in(context: Context) -> SpanContext:
    """Return what names the current span of a context, whoever started it; invalid without one."""
    values: Mapping[str, Any] = context
    span: Span | None = values.get(_SPAN_KEY)
    return INVALID_SPAN_CONTEXT if span is None else span.get_span_context()


def current_span_context() -> SpanContext:
    """Return the context of the current span, whoever started it."""
    return span_in(otel_context.get_current())


class Tracing:
    """Starts and ends spans. None of its methods raises.

    Args:
        tracer: Makes the spans; it may be a no-op, for good or until a provider is set.
        exception_messages: Whether the messages of exceptions are recorded; they may hold what
            users wrote.
        guard: Holds what samplers and span processors raise.
        observer: Is shown the spans that are made where there is no tracer provider; None if
            nobody wants them.
        keeper: Decides which turns keep their spans; None if all do.

    Attributes:
        guard: The guard.
        keeper: The keeper.
    """

    def __init__(
        self,
        tracer: Tracer,
        exception_messages: bool,
        guard: Guard,
        observer: SpanObserver | None = None,
        keeper: TraceKeeper | None = None,
    ) -> None:
        self.guard = guard
        self.keeper = keeper
        self._observer = observer
        self._tracer = tracer
        self._is_global = isinstance(tracer, ProxyTracer)
        self._exception_messages = exception_messages

    # No properties: they are asked several times a turn, and each would be a call by way of C.

    def is_enabled(self) -> bool:
        """Tell whether spans are made, for a tracer provider or for the live page."""
        if self.has_provider():
            return True
        return self._observer is not None and self._observer.is_wanted

    def has_provider(self) -> bool:
        """Tell whether there is a tracer provider; the app may set the global one at any time.

        A no-op span is not free, and neither is `get_tracer_provider`, which reads the
        environment. A release of the API without this variable counts as enabled.
        """
        return not self._is_global or getattr(trace, "_TRACER_PROVIDER", self) is not None

    def start_root(
        self,
        name: str,
        attributes: Attributes,
        links: Iterable[SpanContext] = (),
        start: int | None = None,
    ) -> SpanScope:
        """Start the root span of a new trace, whatever span is current, and attach it.

        Args:
            name: Name of the span.
            attributes: Attributes of the span.
            links: Spans in other traces that this one is related to.
            start: Start time, in nanoseconds since the epoch; now by default.
        """
        if not self.has_provider():
            return self._start_local(name, attributes, start, None, None)
        try:
            valid = [Link(linked) for linked in links if linked.is_valid]
            span = self._tracer.start_span(
                name, EMPTY_CONTEXT, attributes=attributes, links=valid, start_time=start
            )
            return _attach(span, None, EMPTY_CONTEXT, otel_context.get_current())
        except Exception as error:  # noqa: BLE001 - a guard
            self.guard.on_error(error)
        return NOOP_SCOPE

    def start_child(
        self,
        name: str,
        attributes: Attributes,
        start: int | None = None,
        parent: SpanScope | None = None,
    ) -> SpanScope:
        """Start a child of the current span, and attach it.

        Args:
            name: Name of the span.
            attributes: Attributes of the span.
            start: Start time, in nanoseconds since the epoch; now by default.
            parent: Its parent instead of the current span, unless that is in another trace.
        """
        if not self.has_provider():
            return self._start_local(name, attributes, start, current(), parent)
        try:
            previous_context = otel_context.get_current()
            parent_scope = innermost = _innermost(previous_context)
            if innermost is not None and innermost.ended:
                parent_scope = _open(innermost)
                previous_context = _context_of(parent_scope, previous_context)
            base = previous_context
            if (
                parent is not None
                and _trace_id(parent)
                and (not parent_scope or _trace_id(parent_scope) == _trace_id(parent))
            ):
                base = set_span_in_context(parent.span, base)
            span = self._tracer.start_span(name, base, attributes=attributes, start_time=start)
            return _attach(span, parent_scope, base, previous_context)
        except Exception as error:  # noqa: BLE001 - a guard
            self.guard.on_error(error)
        return NOOP_SCOPE

    def detach(self, scope: SpanScope) -> None:
        """Detach a span that was just started, without ending it.

        Its scope refers to no context from then on, and may be ended anywhere.
        """
        if scope.context is not scope.previous_context:
            otel_context.attach(scope.previous_context)
        scope.context = scope.previous_context = EMPTY_CONTEXT
        scope.parent_scope = None

    def end(
        self,
        scope: SpanScope,
        outcome: str,
        error: BaseException | None = None,
        end: int | None = None,
    ) -> None:
        """Detach a span and end it.

        Call it after the ledger, which must not depend on what a span processor raises.

        Args:
            scope: Its scope; ending it again changes nothing.
            outcome: `ok`, `error` or `cancelled`.
            error: The exception, if there was one.
            end: End time, in nanoseconds since the epoch; now by default.
        """
        if scope.ended:
            return
        scope.ended = True
        now = otel_context.get_current()
        if scope.context is not scope.previous_context and _is_innermost(scope, now):
            previous_context, parent_scope = scope.previous_context, _open(scope.parent_scope)
            if parent_scope is not None and parent_scope is not scope.parent_scope:
                # The parent has ended, too: two steps need not be nested.
                previous_context = parent_scope.context
            otel_context.attach(previous_context)
        span = scope.span
        if not span.is_recording():
            return
        try:
            span.set_attribute(catalog.OUTCOME.key, outcome)
            if outcome == "error":
                self._describe(span, error)
        except Exception as ours:  # noqa: BLE001 - a guard
            self.guard.on_error(ours)
        try:
            span.end(end)
        except Exception as ours:  # noqa: BLE001 - a guard
            self.guard.on_error(ours)

    def _start_local(
        self,
        name: str,
        attributes: Attributes,
        start: int | None,
        parent_scope: SpanScope | None,
        parent: SpanScope | None,
    ) -> SpanScope:
        """Start a span that stays in the process, and attach its scope."""
        if self._observer is None or not self._observer.is_wanted:
            return NOOP_SCOPE
        with self.guard:
            above = None if parent_scope is None else _local(parent_scope)
            if (named := None if parent is None else _local(parent)) is not None:
                above = named if above is None or above.trace_id == named.trace_id else above
            span = LocalSpan(self._observer, name, above, attributes, start)
            previous = _context_of(parent_scope, otel_context.get_current())
            scope = SpanScope(span, previous, parent_scope)
            scope.context = otel_context.set_value(_SCOPE_KEY, scope, previous)
            otel_context.attach(scope.context)
            return scope
        return NOOP_SCOPE

    def _describe(self, span: Span, error: BaseException | None) -> None:
        if error is None:
            span.set_status(StatusCode.ERROR)
            return
        describe_exception(span, error, message_of(error) if self._exception_messages else "")


def _attach(
    span: Span, parent_scope: SpanScope | None, base: Context, previous_context: Context
) -> SpanScope:
    scope = SpanScope(span, previous_context, parent_scope)
    if span.get_span_context().is_valid:
        context = set_span_in_context(span, base)
        # Nobody else has this context yet; `otel_context.set_value` would copy it once more.
        dict.__setitem__(context, _SCOPE_KEY, scope)
        scope.context = context
        otel_context.attach(context)
    return scope


def _context_of(parent_scope: SpanScope | None, now: Context) -> Context:
    if parent_scope is None or parent_scope is _innermost(now):
        return now
    return parent_scope.context


def message_of(error: BaseException) -> str:
    """Return the message of an exception; empty if the app's own class fails to give one."""
    with suppress(Exception):
        return utf8_safe(error)
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


def utf8_safe(value: object) -> str:
    """Return a value as text that every exporter can encode.

    A browser may send half of a surrogate pair, and one span with it would lose its whole batch.
    """
    return str(value).encode(errors="replace").decode()


def outcome_of(error: BaseException | None) -> str:
    """Return the outcome of a call that raised `error`, or returned if that is None.

    A cancellation is no error, and neither is a generator that is closed before its end.
    """
    if error is None:
        return "ok"
    return "cancelled" if isinstance(error, (CancelledError, GeneratorExit)) else "error"
