"""The cost of single events: our own code alone, in this process and without Chainlit."""

from __future__ import annotations

import functools
import statistics
import time
import timeit
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import NoOpTracer, Tracer

from chainlit_otel import catalog
from chainlit_otel.core.sessions import SessionLedger
from chainlit_otel.core.turns import TurnLedger
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.reader import ScrapeReader
from chainlit_otel.pipeline.span_encoding import encode
from chainlit_otel.pipeline.spans import Tracing
from chainlit_otel.probes import messages as messages_probe
from chainlit_otel.probes.messages import Messages, current_turn
from chainlit_otel.probes.sockets.connections import Sockets
from tests.support.probes import probe_context

REPEATS = 9
_EXPORTED = 200  # four of each turn in a slice of the other table

Event = Callable[[], object]


class _Nowhere(SpanExporter):
    def export(self, spans: object) -> SpanExportResult:
        return SpanExportResult.SUCCESS


class _Server:
    """Stands for the Socket.IO server, to send what costs nothing."""

    async def emit(
        self,
        event: str,
        data: object = None,
        to: object = None,
        room: object = None,
        skip_sid: object = None,
        namespace: object = None,
        callback: object = None,
        ignore_queue: bool = False,
    ) -> None:
        """Send nothing; the parameters are those of python-socketio, for which ours is made."""


def measure(seconds: float) -> list[tuple[str, float]]:
    """Return each event and its cost in seconds of CPU time.

    Args:
        seconds: How long each may be measured, about.
    """
    return [(name, _cost(event, seconds)) for name, event in _events()]


def _cost(event: Event, seconds: float) -> float:
    timer = timeit.Timer(event, timer=time.thread_time)
    number, taken = 1, 0.0
    while taken < seconds / REPEATS / 2:
        number *= 2
        taken = timer.timeit(number)
    return statistics.median(timer.repeat(REPEATS, number)) / number


def _events() -> Iterator[tuple[str, Event]]:
    guard = Guard("bench")
    provider = MeterProvider([ScrapeReader()], shutdown_on_exit=False)
    kept, handed_on = Telemetry([provider], guard, Histograms()), Telemetry([provider], guard)
    yield "an empty call, which is in all the others", lambda: None
    yield "guard: enter and exit", functools.partial(_guarded, guard)
    for name, telemetry in (
        ("histogram: one record, read at `/metrics` alone", kept),
        ("histogram: one record, flushed at once to the SDK", handed_on),
    ):
        yield name, functools.partial(telemetry.record, catalog.TURN_DURATION, 0.5, "ok", "")
    yield from _session_events()
    yield from _message_events()
    yield from _span_events()


def _guarded(guard: Guard) -> None:
    with guard:
        pass


def _session_events() -> Iterator[tuple[str, Event]]:
    ledger = SessionLedger(lambda *_: None)
    staying = ledger.start("websocket", "webapp", "new")

    def start_and_end() -> None:
        ledger.end(ledger.start("websocket", "webapp", "new"), "cleared")

    def drop_and_restore() -> None:
        ledger.drop(staying)
        ledger.restore(staying)

    yield "session: start and end", start_and_end
    yield "session: drop and restore", drop_and_restore


def _message_events() -> Iterator[tuple[str, Event]]:
    patches, server, bare = Patches(None), _Server(), _Server()
    context = probe_context(TracerProvider(shutdown_on_exit=False).get_tracer("bench"))
    sockets, messages = context.get(Sockets), context.get(Messages)
    sockets.connections["sid"] = sockets.ledger.open(lambda: True)
    turns = TurnLedger(lambda *_: None)
    wrap = functools.partial(messages_probe._wrap_emit, patches, messages)
    patches.wrap_on_instance(server, "emit", wrap, fast=True)

    def start_and_end() -> None:
        turns.end(turns.start(0, ""))

    yield "turn: start and end", start_and_end
    current_turn.set(turns.start(0, ""))
    yield "emit without us", lambda: _run(bare.emit("stream_token", None, to="sid"))
    yield "emit of a token", lambda: _run(server.emit("stream_token", None, to="sid"))
    yield "emit of another event", lambda: _run(server.emit("task_start", None, to="sid"))
    current_turn.set(None)


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that waits for nothing, without an event loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return


def _span_events() -> Iterator[tuple[str, Event]]:
    exporting = TracerProvider(shutdown_on_exit=False)
    exporting.add_span_processor(BatchSpanProcessor(_Nowhere()))
    for name, tracer in (
        ("span: start and end, tracing is off", NoOpTracer()),
        ("span: start and end, exported", exporting.get_tracer("bench")),
    ):
        tracing = Tracing(tracer, False, Guard("tracing"))
        yield name, functools.partial(_span, tracing)
    bare = exporting.get_tracer("bench")
    yield "span: start and end, by the SDK without us", functools.partial(_bare_span, bare)
    # The exporter is another thread, whose time is not in that.
    spans = [_bare_span(bare) for _ in range(_EXPORTED)]
    yield (
        f"{_EXPORTED} spans: encoding for OTLP",
        lambda: encode(spans).SerializeToString(),
    )
    exporting.shutdown()


def _bare_span(tracer: Tracer) -> Any:
    span = tracer.start_span("bench", attributes={"key": "value"})
    span.set_attribute("chainlit.outcome", "ok")
    span.end()
    return span


def _span(tracing: Tracing) -> None:
    tracing.end(tracing.start_child("bench", {"key": "value"}), "ok")
