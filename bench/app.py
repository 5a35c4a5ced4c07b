"""The app that is measured: a turn is one tool step and 50 streamed tokens.

`BENCH_OBSERVER` says what observes it. SIGUSR1 has done what still waits to be recorded or
exported, so that it is part of what is measured, and then adds a line to the file `flushed`: how
many garbage collections of the middle and of the last generation there were so far, and how many
seconds of CPU time those of the last took, which are the full ones. With `BENCH_STEADY` nothing
comes by the clock, and the only garbage collections are two at that signal: of what is new, and of
that with the middle generation, as CPython has them before an object is old.
"""

import asyncio
import gc
import os
import signal
import time
from contextlib import ExitStack
from typing import Any

import chainlit as cl
from chainlit.server import sio
from opentelemetry import trace

TOKENS = 50
ATTRIBUTES = ("session.id", "gen_ai.conversation.id", "chainlit.client.type")
OBSERVER = os.environ["BENCH_OBSERVER"]
STEADY = "BENCH_STEADY" in os.environ
SLOWER = 1000


def slow_timers() -> None:
    """Have the loop's timers run later, but for what a turn waits for."""
    # The client is told of it. Each packet has a timeout that depends on it, and stays in the heap
    # of the loop when it is cancelled, until the next ping takes thousands of them out of it.
    sio.eio.ping_interval *= SLOWER
    call_later = asyncio.BaseEventLoop.call_later

    def slowly(loop: Any, delay: float, *args: Any, **options: Any) -> Any:
        return call_later(loop, delay * SLOWER if 0.1 <= delay < 60 else delay, *args, **options)

    asyncio.BaseEventLoop.call_later = slowly  # type: ignore[method-assign, assignment]


for name in [name for name in os.environ if name.startswith("BENCH_LAYOUT")]:
    # It has had its effect, and `requests` looks through all variables at each export.
    del os.environ[name]
if STEADY:
    slow_timers()
if OBSERVER == "chainlit_otel":
    import chainlit_otel
    from chainlit_otel import api
    from chainlit_otel.core import stalls
    from chainlit_otel.probes import event_loop
    from chainlit_otel.probes.messages import Messages
    from chainlit_otel.records import queue

    if STEADY:
        # The watchdog waits by itself, and would take slow timers for a stall.
        for module, name in ((stalls, "THRESHOLD"), (event_loop, "THRESHOLD"), (queue, "_POLL")):
            setattr(module, name, SLOWER)
    chainlit_otel.enable()
    if STEADY and api._active is not None:
        api._active._recorder.queue._delay = SLOWER
elif OBSERVER in ("sdk", "fastapi"):
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
elif OBSERVER == "prometheus":
    from prometheus_client import Counter, Gauge, Histogram, start_http_server

    messages = Counter("chainlit_messages", "Messages", ["chainlit_direction"])
    chunks = Counter("chainlit_turn_output_chunks", "Chunks streamed")
    active = Gauge("chainlit_turn_active", "Turns under way")
    turn_time = Histogram("chainlit_turn_duration_seconds", "Turns", ["chainlit_outcome"])
    first_token = Histogram("chainlit_turn_time_to_first_token_seconds", "First chunks")
    chunk_time = Histogram("chainlit_turn_time_per_output_chunk_seconds", "Between two chunks")
    callback_time = Histogram(
        "chainlit_callback_duration_seconds", "Callbacks", ["chainlit_callback", "chainlit_outcome"]
    )
    step_time = Histogram(
        "chainlit_step_duration_seconds", "Steps", ["chainlit_step_type", "chainlit_outcome"]
    )
    tool_calls = Counter("chainlit_tool_calls", "Calls", ["chainlit_tool", "chainlit_outcome"])
    tool_time = Counter("chainlit_tool_time_seconds", "Time", ["chainlit_tool", "chainlit_outcome"])
    start_http_server(int(os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"]), "127.0.0.1")
if OBSERVER == "fastapi":
    from chainlit.server import app
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    trace.set_tracer_provider(provider)
    FastAPIInstrumentor.instrument_app(app)


collections = [0, 0, 0]
seconds, began = 0.0, 0.0


def collecting(phase: str, info: dict[str, int]) -> None:
    """Count the garbage collections, and time the full ones."""
    global seconds, began
    if phase == "stop":
        collections[info["generation"]] += 1
    if info["generation"] == 2 and phase == "start":
        began = time.thread_time()
    elif info["generation"] == 2:
        seconds += time.thread_time() - began


def flush() -> None:
    """Export what is waiting, and say so."""
    if OBSERVER == "chainlit_otel":
        observing = api._active
        assert observing is not None
        if observing.context.get(Messages).ledger.active()[()]:
            # The visitor has the answer a moment before the turn is over.
            asyncio.get_running_loop().call_soon(flush)
            return
        # The records of histograms wait for a scrape, and are part of a turn all the same.
        observing._telemetry.flush()
        observing._recorder.queue.flush(10)
    if STEADY:
        gc.collect(0)
        gc.collect(1)
    tracers = provider if OBSERVER == "sdk" else trace.get_tracer_provider()
    force_flush = getattr(tracers, "force_flush", None)
    if force_flush is not None:
        force_flush()
    with open("flushed", "a") as file:
        file.write(f"{collections[1]} {collections[2]} {seconds}\n")


if STEADY:
    gc.disable()
gc.callbacks.append(collecting)


@cl.on_app_startup
async def started() -> None:
    """Flush when told to."""
    # By the loop, which this wakes: the system may give the signal to another thread.
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, flush)


async def answer(message: cl.Message) -> None:
    """Look something up and stream the answer."""
    async with cl.Step(name="lookup", type="tool") as step:
        step.input = message.content
        step.output = "found"
    reply = cl.Message("")
    for _ in range(TOKENS):
        await reply.stream_token("token ")
    await reply.update()


async def answer_in_spans(message: cl.Message) -> None:
    """Answer within as many spans as ours, which are described as ours are."""
    # Not by the global provider: FastAPI would join in.
    tracer = provider.get_tracer("bench")
    with ExitStack() as spans:
        for number, depth in enumerate(("turn", "callback on_message", "step run", "step tool")):
            attributes = dict.fromkeys(ATTRIBUTES[: 3 if number == 0 else 2], depth)
            span = tracer.start_span(f"bench.{depth}", attributes=attributes)
            spans.callback(span.end)
            spans.callback(span.set_attribute, "chainlit.outcome", "ok")
            spans.enter_context(trace.use_span(span))
        await answer(message)


async def answer_in_numbers(message: cl.Message) -> None:
    """Answer, and keep as many numbers by prometheus-client as chainlit-otel keeps of a turn."""
    started = time.perf_counter()
    messages.labels("inbound").inc()
    with (
        active.track_inprogress(),
        turn_time.labels("ok").time(),
        callback_time.labels("on_message", "ok").time(),
        step_time.labels("run", "ok").time(),
    ):
        before = time.perf_counter()
        async with cl.Step(name="lookup", type="tool") as step:
            step.input = message.content
            step.output = "found"
        seconds = time.perf_counter() - before
        step_time.labels("tool", "ok").observe(seconds)
        tool_calls.labels("lookup", "ok").inc()
        tool_time.labels("lookup", "ok").inc(seconds)
        reply = cl.Message("")
        first = last = 0.0
        for _ in range(TOKENS):
            await reply.stream_token("token ")
            chunks.inc()
            last = time.perf_counter()
            if not first:
                first = last
                first_token.observe(first - started)
        chunk_time.observe((last - first) / (TOKENS - 1))
        await reply.update()
        messages.labels("outbound").inc()


cl.on_message({"sdk": answer_in_spans, "prometheus": answer_in_numbers}.get(OBSERVER, answer))
