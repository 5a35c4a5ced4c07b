"""The spans of turns under way and of those that are kept, whoever makes them.

They come from a tracer provider, ours or the app's, or are made for this alone where there is none.
Spans of other instrumentations may hold what people wrote, so only attributes that are known to be
harmless are shown.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from itertools import islice
from threading import Lock
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import StatusCode

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.attached import Attached
from chainlit_otel.pipeline.local_spans import MAX_EVENTS, LocalSpan

MAX_SPANS = 200
"""How many spans of a turn are kept: the first to start, so that each has its parent."""

MAX_SPANS_OF_ALL = 20_000
"""How many spans are kept in all; the oldest turns lose theirs."""

MAX_TRACES = 2000
"""How many turns have their spans here, those under way included."""

_LONGEST = 200  # characters of a name or an attribute
_MAX_ATTRIBUTES = 64  # of a span, or of an event in it
_LARGEST = 2**63 - 1  # as an attribute: what OTLP has room for
_CONTENT = frozenset(
    (
        *(catalog.TURN_INPUT, catalog.TURN_OUTPUT, catalog.STEP_INPUT, catalog.STEP_OUTPUT),
        catalog.USER_ID,
    )
)
_SHOWN = (
    *("chainlit.", "error.type", "session.id", "exception.type"),
    # Not all of `code.`: a stack trace may quote what people wrote.
    *("code.file", "code.function", "code.line", "code.namespace"),
    *("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.system", "gen_ai.request."),
    *("gen_ai.response.model", "gen_ai.response.finish_reasons", "gen_ai.usage."),
    *("gen_ai.tool.name", "gen_ai.conversation.id", "llm.usage.", "llm.request.type"),
    *("db.system", "db.operation", "http.method", "http.request.method", "http.status_code"),
    *("http.response.status_code", "server.address", "server.port", "rpc.method", "rpc.system"),
)
_TURN_OF_CHAINLIT = f"{catalog.SPAN_STEP} run on_message"


class KeptSpan(NamedTuple):
    """A span that has ended.

    Attributes:
        span_id: Its id.
        parent_id: Id of its parent; 0 without one.
        name: Its name.
        started: Start time, in nanoseconds since the epoch.
        ended: End time, likewise.
        outcome: `ok`, `error` or `cancelled`; empty if it says none.
        attributes: Its attributes that are shown.
        events: What has happened in it: time, name and attributes that are shown.
    """

    span_id: int
    parent_id: int
    name: str
    started: int
    ended: int
    outcome: str
    attributes: Mapping[str, Any]
    events: tuple[tuple[int, str, Mapping[str, Any]], ...]

    @classmethod
    def of_local(cls, span: LocalSpan) -> KeptSpan:
        """Return a span that was made for the page."""
        return cls(
            span.span_id,
            span.parent_id,
            span.name,
            span.started,
            span.ended or span.started,
            str(span.attributes.get(catalog.OUTCOME.key, "")),
            _shown(span.attributes),
            tuple((at, name, _shown(attributes)) for at, name, attributes in span.events),
        )

    @classmethod
    def of_sdk(cls, span: ReadableSpan) -> KeptSpan:
        """Return a span of the SDK."""
        attributes, started = span.attributes or {}, span.start_time or 0
        failed = span.status.status_code is StatusCode.ERROR
        return cls(
            span.context.span_id if span.context else 0,
            span.parent.span_id if span.parent else 0,
            str(span.name)[:_LONGEST],
            started,
            span.end_time or started,
            str(attributes.get(catalog.OUTCOME.key, "error" if failed else "")),
            _shown(attributes),
            tuple(
                (e.timestamp, str(e.name)[:_LONGEST], _shown(e.attributes or {}))
                for e in span.events[-MAX_EVENTS:]
            ),
        )


class Trace:
    """The spans of one turn.

    Attributes:
        under_way: The spans that have not ended, by their ids, the oldest first: the name of each,
            and whether it is to be kept.
        started: How many have started.
        spans: Those that have ended and are kept.
        dropped: How many more have ended.
    """

    __slots__ = ("dropped", "spans", "started", "under_way")

    def __init__(self) -> None:
        self.under_way: dict[int, tuple[str, bool]] = {}
        self.started = 0
        self.spans: list[KeptSpan | LocalSpan] = []
        self.dropped = 0


class TraceStore:
    """Keeps the spans of turns. Thread-safe.

    The spans of other traces are not kept: only a root span with the name of a turn opens one. And
    none are while nobody looks, since spans are the most of what the page costs. Those of synthetic
    visitors are not kept either, as the page has none of their turns.

    Attributes:
        is_wanted: Whether somebody looks.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self._lock = Lock()
        self._traces: dict[int, Trace] = {}
        self._size = 0

    @property
    def is_empty(self) -> bool:
        """Whether no turn has its spans here, so that the end of any span is of no interest."""
        return not self._traces

    # From the probes

    def on_local_start(self, span: LocalSpan) -> None:
        """A span that is made for the page has started."""
        self._start(span.trace_id, span.span_id, span.parent_id, span.name, span.attributes)

    def on_local_end(self, span: LocalSpan) -> None:
        """A span that is made for the page has ended."""
        # What is kept of the app's content must not depend on what settings are for.
        if not _CONTENT.isdisjoint(span.attributes):
            for key in _CONTENT:
                span.attributes.pop(key, None)
        self._end(span.trace_id, span.span_id, span)

    # From a tracer provider

    def on_start(self, span: ReadableSpan) -> None:
        """A span of the SDK has started."""
        if span.context is not None:
            parent_id = span.parent.span_id if span.parent else 0
            ids = span.context.trace_id, span.context.span_id, parent_id
            self._start(*ids, span.name, span.attributes or {})

    def on_end(self, span: ReadableSpan) -> None:
        """A span of the SDK has ended."""
        if span.context is not None and span.context.trace_id in self._traces:
            self._end(span.context.trace_id, span.context.span_id, KeptSpan.of_sdk(span))

    # For the page

    def forget(self, trace_ids: Iterable[int]) -> None:
        """Drop the spans of turns that are not kept any longer."""
        with self._lock:
            for trace_id in trace_ids:
                self._drop(trace_id)

    def under_way(self, trace_id: int) -> tuple[str, str]:
        """Return the callback and the innermost step, or other work, that a turn is in now."""
        with self._lock:
            trace = self._traces.get(trace_id)
            spans = [] if trace is None else list(trace.under_way.values())
        callback = step = ""
        for name, _ in spans:
            kind, _, rest = name.partition(" ")
            if kind == catalog.SPAN_CALLBACK:
                callback, step = rest, ""
            elif name not in (catalog.SPAN_TURN, _TURN_OF_CHAINLIT):
                step = rest if kind == catalog.SPAN_STEP else name.removeprefix("chainlit.")
        return callback, step

    def read(self, trace_id: int) -> tuple[list[KeptSpan], int]:
        """Return the spans of a turn that have ended, by their start, and how many were dropped."""
        with self._lock:
            trace = self._traces.get(trace_id) or Trace()
            spans, dropped = list(trace.spans), trace.dropped
        kept = [s if isinstance(s, KeptSpan) else KeptSpan.of_local(s) for s in spans]
        return sorted(kept, key=lambda span: span.started), dropped

    def _start(
        self,
        trace_id: int,
        span_id: int,
        parent_id: int,
        name: str,
        attributes: Mapping[str, Any],
    ) -> None:
        with self._lock:
            trace = self._traces.get(trace_id)
            if trace is None:
                if parent_id or name != catalog.SPAN_TURN or catalog.SYNTHETIC in attributes:
                    return
                trace = self._traces[trace_id] = Trace()
                if len(self._traces) > MAX_TRACES:
                    self._drop_oldest()
            if len(trace.under_way) < 2 * MAX_SPANS:
                trace.under_way[span_id] = (str(name)[:_LONGEST], trace.started < MAX_SPANS)
            trace.started += 1

    def _end(self, trace_id: int, span_id: int, span: KeptSpan | LocalSpan) -> None:
        with self._lock:
            if (trace := self._traces.get(trace_id)) is None:
                return
            _, is_kept = trace.under_way.pop(span_id, ("", False))
            if not is_kept:
                trace.dropped += 1
                return
            trace.spans.append(span)
            self._size += 1
            while self._size > MAX_SPANS_OF_ALL:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        self._drop(next(iter(self._traces)))

    def _drop(self, trace_id: int) -> None:
        if (trace := self._traces.pop(trace_id, None)) is not None:
            self._size -= len(trace.spans)


class TraceProcessor(SpanProcessor):
    """Shows the spans of a provider to a store, for as long as there is one.

    What fails here must not reach the app, which starts and ends its own spans, too.

    Attributes:
        store: The store; None after `disable()`, since a processor cannot be removed.
        guard: Holds what goes wrong.
    """

    takes_light_spans = True

    def __init__(self) -> None:
        self.store: TraceStore | None = None
        self.guard = Guard("tracing")

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """A span has started."""
        if (store := self.store) is not None and store.is_wanted:
            with self.guard:
                store.on_start(span)

    def on_end(self, span: ReadableSpan) -> None:
        """A span has ended."""
        if (store := self.store) is not None and not store.is_empty:
            with self.guard:
                store.on_end(span)


_processors: Attached[TraceProcessor] = Attached(TraceProcessor)


def attach(provider: Any, store: TraceStore | None, guard: Guard) -> None:
    """Have a store shown the spans of a provider; again changes nothing.

    Args:
        provider: The provider; nothing happens if it takes no span processors.
        store: The store; None to show them to nobody any more.
        guard: Holds what goes wrong when a span starts or ends.
    """
    processor = _processors.to(provider)
    if processor is not None:
        processor.store, processor.guard = store, guard


@functools.lru_cache(maxsize=1024)
def _is_shown(key: str) -> bool:
    return key.startswith(_SHOWN) and key not in _CONTENT


def _shown(attributes: Mapping[str, Any]) -> dict[str, Any]:
    shown = (
        (key, _value(value))
        for key, value in attributes.items()
        if _is_shown(key) and isinstance(value, (str, bool, int, float))
    )
    return dict(islice(shown, _MAX_ATTRIBUTES))


def _value(value: str | float) -> str | float:
    """Return the value of an attribute as JSON can have it."""
    if isinstance(value, str):
        return value[:_LONGEST]
    # `json` writes NaN for a number that is none, and fails at an integer of 4,300 digits.
    return value if -_LARGEST <= value <= _LARGEST else "not a number"
