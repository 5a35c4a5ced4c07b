"""Samplers, span processors, log processors and log handlers that raise: not one figure changes."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx
import pytest

from chainlit_otel import catalog
from chainlit_otel.testing import Refused, Visitor
from tests.support import LAYER
from tests.support.otlp import Receiver
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer
from tests.support.sign_in import sign_in
from tests.support.story import MAIN, TOOLS

pytestmark = pytest.mark.e2e

# Everything of the application that hears of spans and log lines fails wherever BROKEN says.
HOST = """
import logging
import os

from opentelemetry import _logs, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler

BROKEN = os.environ["BROKEN"].split()


def fail(where):
    if where in BROKEN:
        # An exporter that can't be reached is an OSError, a bug in a processor anything.
        raise KeyError(f"broken {where}")


class Broken(SpanProcessor):
    def on_start(self, span, parent_context=None):
        fail("on_start")

    def on_end(self, span):
        fail("on_end")

    def shutdown(self):
        fail("flush")

    def force_flush(self, timeout_millis=30000):
        fail("flush")
        return True


class BrokenSampler(Sampler):
    def should_sample(self, parent_context, trace_id, name, *args, **kwargs):
        fail("sampler")
        return ALWAYS_ON.should_sample(parent_context, trace_id, name, *args, **kwargs)

    def get_description(self):
        return "broken"


class BrokenLogs:
    def on_emit(self, *args):
        fail("on_emit")

    emit = on_emit

    def shutdown(self):
        fail("flush")

    def force_flush(self, timeout_millis=30000):
        fail("flush")
        return True


class BrokenHandler(logging.Handler):
    def emit(self, record):
        fail("handler")

    def handle(self, record):
        fail("handler")


provider = TracerProvider(BrokenSampler(), shutdown_on_exit=False)
provider.add_span_processor(Broken())
trace.set_tracer_provider(provider)
logs = LoggerProvider(shutdown_on_exit=False)
logs.add_log_record_processor(BrokenLogs())
_logs.set_logger_provider(logs)
logging.getLogger("chainlit_otel").addHandler(BrokenHandler())
"""

APP = """
import asyncio
import sys
import time

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.config import McpFeature, StdioMcpServer, config
from layer import Layer

config.features.mcp = McpFeature(
    enabled=True,
    servers=[StdioMcpServer(name="tools", type="stdio", command=sys.executable + " tools.py")],
)


class Pool:
    hits = misses = 3


chainlit_otel.watch_cache("cache", pool := Pool())


@cl.data_layer
def data_layer():
    return Layer({"thread": "Ada"})


@cl.password_auth_callback
def password(name, password):
    if password == "unknown":
        raise ConnectionError("The directory is down.")
    return cl.User(name) if password == "demo" else None


@cl.on_chat_start
async def start():
    await cl.Message("Hello.").send()


@cl.on_chat_resume
async def resume(thread):
    pass


@cl.on_mcp_connect
async def connected(connection, session):
    pass


@cl.action_callback("press")
async def press(action):
    raise ValueError("pressed")


@cl.on_settings_update
async def settings(settings):
    pass


@cl.step(type="tool")
async def search(topic):
    return topic


@cl.step(type="retrieval")
def find(topic):
    raise LookupError(topic)


@cl.on_message
async def answer(message):
    command = message.content
    if command == "fail":
        raise ValueError("This went wrong.")
    if command == "ask":
        said = await cl.AskUserMessage("How many?", timeout=20).send()
        await cl.Message("You want " + said["output"]).send()
    elif command == "wait":
        await cl.Message("Waiting.").send()
        await asyncio.Event().wait()
    elif command == "block":
        time.sleep(1.5)
        await cl.Message("done").send()
    elif command == "stream":
        await search("sun")
        try:
            find("rain")
        except LookupError:
            pass
        stream = cl.Message("", elements=[cl.Text(name="note", content="text", display="inline")])
        for token in ("one ", "two ", "three"):
            await stream.stream_token(token)
        await stream.send()
    elif command == "limit":
        chainlit_otel.access_denied("rate_limit", "messages")
        await cl.Message("no more").send()
    else:
        await cl.Message("You said: " + command).send()
"""

MODES: dict[str, set[str]] = {
    "sampler on_emit handler": {"http", "tracing"},
    "on_start": {"http", "tracing"},
    "on_end": {"http", "tracing"},
    "on_start on_end": {"http", "tracing"},
    "flush": set(),
}
"""The probes whose errors are counted, by what is broken."""


@asynccontextmanager
async def running(broken: str, receiver: Receiver) -> AsyncIterator[ChainlitServer]:
    server = ChainlitServer(
        {"app.py": HOST + APP, "main.py": MAIN, "layer.py": LAYER, "tools.py": TOOLS},
        env={
            "BROKEN": broken,
            "CHAINLIT_AUTH_SECRET": "a-secret-of-this-test-and-nothing-else",
            # Metrics alone: the spans go where the application has said.
            "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": receiver.endpoint + "/v1/metrics",
            "OTEL_METRIC_EXPORT_INTERVAL": "3600000",
            "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=the same in each run",
            "CHAINLIT_OTEL_EXPORT_RECORDS": "true",
        },
        config={
            "project": {"session_timeout": 60},
            "features.spontaneous_file_upload": {"enabled": True, "max_size_mb": 1},
        },
        command=["uvicorn", "main:app", "--port", "{port}"],
        path="/chat",
    )
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.close)


async def visit(server: ChainlitServer) -> Visitor:
    """Have everything happen that a probe sees, one after the other; return who stays."""
    for wrong in ("wrong", "unknown"):
        await sign_in(server.url, "Ada", wrong)
    headers = await sign_in(server.url, "Ada")
    visitor = Visitor(server.url, headers=headers, transports=["websocket"])
    with pytest.raises(Refused):
        await Visitor(server.url, transports=["websocket"]).connect()
    await visitor.connect()
    await visitor.until(lambda: "task_end" in [e.name for e in visitor.events], "the greeting")
    assert (await visitor.say("hello")).texts == ["You said: hello"]
    assert (await visitor.say("stream")).texts == ["one two three"]
    assert (await visitor.say("limit")).texts == ["no more"]
    await visitor.say("fail")
    assert (await visitor.say("ask")).texts == ["How many?"]
    assert (await visitor.say("two")).texts == ["You want two"]
    await visitor.send("wait")
    await visitor.until(lambda: any("Waiting." in str(e.data) for e in visitor.events), "a wait")
    seen = len(visitor.events)
    await visitor.emit("stop")
    await visitor.until(
        lambda: "task_end" in [e.name for e in visitor.events[seen:]], "the end of the wait"
    )
    assert (await visitor.say("block")).texts == ["done"]
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(
        base_url=server.url, headers=headers, timeout=20, limits=limits
    ) as http:
        action = {"name": "press", "payload": {}, "label": "Press", "id": "a"}
        body = {"sessionId": visitor.session_id, "action": action}
        await http.post("/project/action", json=body)
        await http.post("/project/action", json=body | {"sessionId": "nobody"})
        where = {"session_id": visitor.session_id}
        files = {"file": ("notes.txt", b"x" * 100, "text/plain")}
        await http.post("/project/file", params=where, files=files)
        feedback = {"feedback": {"forId": "step", "value": 1}, "sessionId": visitor.session_id}
        await http.put("/feedback", json=feedback)
        (server.directory / "broken.json").write_text('{"upsert_feedback": 0}')
        await http.put("/feedback", json=feedback)
        (server.directory / "broken.json").write_text("{}")
        await http.get("/project/thread/thread")
        asked = {"sessionId": visitor.session_id, "name": "tools"}
        assert (await http.post("/mcp", json=asked)).json().get("success")
        bot = await http.get(server.url.removesuffix("/chat") + "/bot")
        assert bot.json() == {}
    await visitor.drop()
    await visitor.reconnect()
    await visitor.new_chat()
    await visitor.until(
        lambda: [e.name for e in visitor.events].count("task_end") >= 2, "the greeting"
    )
    stored = Visitor(server.url, headers=headers, transports=["websocket"])
    stored.thread_id = "thread"
    await stored.connect()
    await stored.leave(clear=True)
    return visitor


# What depends on the time that something took, and what tells of the fault itself: such a series is
# there in each run, with a value of its own.
_TIMED = re.compile(
    r"_(bucket|sum|bytes|created)$|_seconds(_total)?$|^process_|^python_|^chainlit_event_loop_lag"
    r"|^chainlit_otel_(internal_errors|records)"
)

Figures = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


def figures(scrape: Scrape) -> Figures:
    return {
        (name, labels): 0.0 if _TIMED.search(name) else scrape.value(name, **dict(labels))
        for name, labels in scrape.series
    }


async def at_rest(server: ChainlitServer) -> Scrape:
    """The metrics, once all that was done has come to its end."""

    def is_over() -> Scrape | None:
        now = server.scrape()
        over = now.sum("chainlit_session_ends_total") == 3
        over = over and now.sum("chainlit_turn_active") == 0
        # What Chainlit leaves behind shows when it has let go of the sessions.
        return server.scrape() if over and now.sum("chainlit_retained") == 2 else None

    found = await asyncio.to_thread(wait_until, is_over, 60, "the end of what was left")
    assert found is not None
    return found


async def without_a_fault() -> Figures:
    with Receiver() as receiver:
        async with running("", receiver) as server:
            visitor = await visit(server)
            scrape = await at_rest(server)
            assert scrape.sum("chainlit_otel_internal_errors_total") == 0, server.tail()
            await visitor.leave()
    return figures(scrape)


@pytest.fixture(scope="module")
def normal() -> Figures:
    found = asyncio.run(without_a_fault())
    assert len(found) > 200
    return found


@pytest.mark.parametrize("broken", MODES)
async def test_broken_listeners_change_no_figure(broken: str, normal: Figures) -> None:
    with Receiver() as receiver:
        async with running(broken, receiver) as server:
            visitor = await visit(server)
            scrape = await at_rest(server)
            found = figures(scrape)
            different = {
                series: (normal.get(series), found.get(series))
                for series in {*normal, *found}
                if normal.get(series) != found.get(series)
            }
            assert different == {}
            assert MODES[broken] == {
                probe
                for probe in catalog.PROBE.values
                if scrape.value("chainlit_otel_internal_errors_total", chainlit_otel_probe=probe)
            }
            records = "dropped" if "on_emit" in broken else "written"

            def all_counted() -> bool:
                # Of the four sessions that have started, three have ended.
                now = server.scrape()
                name = f"chainlit_otel_records_{records}_total"
                kinds = ("session.start", "session.end")
                counts = [now.sum(name, chainlit_otel_record_kind=kind) for kind in kinds]
                return counts == [now.sum("chainlit_session_starts_total"), 3]

            await asyncio.to_thread(wait_until, all_counted, 60, f"the records to be {records}")
            await asyncio.to_thread(server.stop)
            await visitor.leave()
            # The last export comes whatever else fails at the end.
            ended = functools.partial(_ended_by_shutdown, receiver)
            await asyncio.to_thread(wait_until, ended, 60, "the end of the open session")


def _ended_by_shutdown(receiver: Receiver) -> bool:
    metric = receiver.metrics.get(catalog.SESSION_ENDS.name)
    ended: int = sum(
        point.as_int
        for point in (metric.sum.data_points if metric is not None else ())
        if any(attribute.value.string_value == "shutdown" for attribute in point.attributes)
    )
    return ended == 1
