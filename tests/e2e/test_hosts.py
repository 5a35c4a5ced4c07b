"""Side by side with other telemetry: spans arrive once, where the host wants them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import NamedTuple

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support.otlp import Receiver
from tests.support.scrape import wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

# What a host exports to: one line a span, at once.
LINES = """
import json

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult


class Lines(SpanExporter):
    def export(self, spans):
        with open("spans.jsonl", "a") as file:
            for span in spans:
                entry = {
                    "name": span.name,
                    "scope": span.instrumentation_scope.name,
                    "kind": span.kind.name,
                    "id": span.context.span_id,
                    "trace": span.context.trace_id,
                    "parent": span.parent.span_id if span.parent else 0,
                    "links": [link.context.span_id for link in span.links],
                    "attributes": {key: str(value) for key, value in span.attributes.items()},
                }
                file.write(json.dumps(entry) + "\\n")
        return SpanExportResult.SUCCESS


def provider():
    made = TracerProvider()
    made.add_span_processor(SimpleSpanProcessor(Lines()))
    return made
"""

ENABLE = """
import chainlit_otel

chainlit_otel.enable()
"""

CHAT = """
import chainlit as cl


@cl.on_message
async def on_message(message):
    answer = cl.Message("")
    for token in "done":
        await answer.stream_token(token)
    await answer.send()
"""

PARENT = """
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

app = FastAPI()


@app.get("/hello/{name}")
async def hello(name: str):
    return {}
"""

MOUNT = """
mount_chainlit(app=app, target="chat.py", path="/chat")
"""

MOUNTED_LATE = """
import contextlib

from chainlit.utils import mount_chainlit
from fastapi import FastAPI


@contextlib.asynccontextmanager
async def lifespan(app):
    mount_chainlit(app=app, target="chat.py", path="/chat")
    yield


app = FastAPI(lifespan=lifespan)


@app.get("/hello/{name}")
async def hello(name: str):
    return {}
"""

PROVIDER = """
from lines import provider
from opentelemetry import trace

trace.set_tracer_provider(provider())
"""

ARGUMENT = """
import chainlit_otel
from lines import provider

chainlit_otel.enable(tracer_provider=provider())
"""

TRACELOOP = """
from lines import Lines
from traceloop.sdk import Traceloop
from traceloop.sdk.instruments import Instruments

Traceloop.init(
    "app",
    exporter=Lines(),
    disable_batch=True,
    telemetry_enabled=False,
    instruments={Instruments.OPENAI},
)
"""

LOGFIRE = """
import logfire
from lines import Lines
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

logfire.configure(
    send_to_logfire=False,
    console=False,
    inspect_arguments=False,
    additional_span_processors=[SimpleSpanProcessor(Lines())],
)
"""

SIO = """
from chainlit.server import sio

sio.instrument(auth=False)
"""

# The ways in which a host has an application seen, by the name that it has in each kind of host.
INSTRUMENT = """
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

FastAPIInstrumentor.instrument_app(app)
"""
INSTRUMENT_BY_LOGFIRE = """
import logfire

logfire.instrument_fastapi(app)
"""
MIDDLEWARE = """
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

app.add_middleware(OpenTelemetryMiddleware)
"""
WAYS = {"instrument_app": INSTRUMENT, "middleware": MIDDLEWARE}
# All applications that are made from then on.
INSTRUMENT_ALL = """
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

FastAPIInstrumentor().instrument()
"""
CHAINLITS_APP = """
from chainlit.server import app
"""
OTHER_APP = """
from fastapi import FastAPI

app = FastAPI()
"""


# A long answer to a poll comes to this client compressed once more than it decodes, with or
# without chainlit-otel, and the client then gives up the connection.
UNCOMPRESSED = {"Accept-Encoding": "identity"}


class Span(NamedTuple):
    name: str
    scope: str
    kind: str
    id: int
    trace: int
    parent: int
    links: list[int]
    attributes: dict[str, str]


def spans(server: ChainlitServer) -> list[Span]:
    return [Span(**json.loads(line)) for line in server.read("spans.jsonl").splitlines()]


def server_of(kind: str, *parts: str, env: dict[str, str] | None = None) -> ChainlitServer:
    """A server of an app made of parts; `run` by Chainlit, or `mount`ed in another one."""
    settings = {"CHAINLIT_OTEL_METRICS_PATH": "/metrics", **(env or {})}
    if kind == "run":
        return ChainlitServer({"lines.py": LINES, "app.py": "".join([*parts, CHAT])}, env=settings)
    return ChainlitServer(
        {"lines.py": LINES, "chat.py": CHAT, "main.py": "".join(parts)},
        env=settings,
        command=["uvicorn", "main:app", "--port", "{port}"],
        path="/chat",
    )


async def visit(
    server: ChainlitServer, kind: str, transports: tuple[str, str] = ("polling", "websocket")
) -> None:
    """Make one request of each kind, and have a turn by each transport."""
    # The requests first: should one of them be recorded twice, both have come when the turns have.
    paths = ["/project/translations"]
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{server.url}/project/translations?language=en-US")).is_success
        if kind == "mount":
            paths.append("/hello/")
            origin = server.url.removesuffix("/chat")
            assert (await client.get(f"{origin}/hello/you")).is_success
        metrics = await client.get(f"{server.url}/metrics")
        assert metrics.text.startswith("#")
    for transport in transports:
        visitor = Visitor(server.url, transports=[transport], headers=UNCOMPRESSED)
        await visitor.connect()
        assert (await visitor.say("hello")).texts == ["done"]
        await visitor.leave(clear=True)

    async def arrived() -> bool:
        names = Counter(span.name for span in spans(server))
        ours = names["chainlit.turn"] >= 2 and names["chainlit.disconnect"] >= 2
        return ours and all(requests(server, path) for path in paths)

    await wait_until_async(arrived, 60, "the spans")


def requests(server: ChainlitServer, path: str) -> list[Span]:
    """The requests of a path, by whichever names somebody has asked for first.

    Seen a second time, a request is no longer a `SERVER` span, but it tells its path again.
    """

    def where(span: Span) -> str:
        reported = span.attributes.get("url.path") or span.attributes.get("http.target")
        return reported or (span.name if span.kind == "SERVER" else "")

    found = [span for span in spans(server) if span.scope != "chainlit_otel"]
    return [
        span for span in found if path in where(span) and "asgi.event.type" not in span.attributes
    ]


def check_ours(server: ChainlitServer) -> None:
    """Each turn is there once, as a root, with what belongs to it below it."""
    found = spans(server)
    assert max(Counter(span.id for span in found).values()) == 1, "a span was exported twice"
    names = Counter(span.name for span in found if span.scope == "chainlit_otel")
    assert names == {
        "chainlit.connect": 2,
        "chainlit.turn": 2,
        "chainlit.callback on_message": 2,
        "chainlit.step run on_message": 2,
        "chainlit.disconnect": 2,
    }
    for turn in (span for span in found if span.name == "chainlit.turn"):
        assert turn.parent == 0
        assert len([span for span in found if span.trace == turn.trace]) == 3
    assert "detach" not in server.log
    assert "probe failed" not in server.log


def check_http(server: ChainlitServer, kind: str) -> None:
    """Each request is there once, by its route, and nothing of the sockets is."""
    (page,) = requests(server, "/project/translations")
    assert page.attributes["http.route"].endswith("/project/translations")
    if kind == "mount":
        (hello,) = requests(server, "/hello/")
        assert hello.name == "GET /hello/{name}"
        assert hello.attributes["http.route"] == "/hello/{name}"
    assert requests(server, "socket.io") == []
    assert requests(server, "/metrics") == []
    kinds = {span.kind for span in spans(server) if span.scope != "chainlit_otel"}
    assert kinds == {"SERVER"}


KINDS = ("run", "mount")
ORDERS: dict[str, list[str]] = {
    "provider first": [PROVIDER, ENABLE],
    "provider last": [ENABLE, PROVIDER],
    "provider as an argument": [ARGUMENT],
    "traceloop first": [TRACELOOP, ENABLE],
    "traceloop last": [ENABLE, TRACELOOP],
    "logfire first": [LOGFIRE, ENABLE],
    "logfire last": [ENABLE, LOGFIRE],
    "sio.instrument first": [PROVIDER, SIO, ENABLE],
    "sio.instrument last": [PROVIDER, ENABLE, SIO],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
async def test_spans_go_to_the_host_once(kind: str, order: str) -> None:
    parts = ORDERS[order]
    if kind == "mount":
        parts = [*parts, PARENT, MOUNT]
    with server_of(kind, *parts) as server:
        await visit(server, kind)
        check_ours(server)
        check_http(server, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize("way", WAYS)
async def test_an_app_that_the_host_instruments_itself(kind: str, order: str, way: str) -> None:
    """The host's choice stands: it may want spans of sockets. No request is seen twice."""
    if kind == "run":
        theirs = [CHAINLITS_APP, WAYS[way]]
        parts = [*theirs, ENABLE] if order == "first" else [ENABLE, *theirs]
    else:
        parts = [PARENT, WAYS[way], ENABLE, MOUNT]
        if order == "last":
            parts = [ENABLE, PARENT, MOUNT, WAYS[way]]
    with server_of(kind, PROVIDER, *parts) as server:
        await visit(server, kind)
        (page,) = requests(server, "/project/translations")
        scope = "fastapi" if way == "instrument_app" else "asgi"
        assert page.scope == f"opentelemetry.instrumentation.{scope}"
        if kind == "mount":
            (hello,) = requests(server, "/hello/")
            assert hello.scope == page.scope
        check_undisturbed(server)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ["first", "last"])
async def test_an_app_that_logfire_instruments(kind: str, order: str) -> None:
    theirs = [LOGFIRE, *([CHAINLITS_APP] if kind == "run" else [PARENT]), INSTRUMENT_BY_LOGFIRE]
    parts = [*theirs, ENABLE] if order == "first" else [ENABLE, *theirs]
    if kind == "mount":
        parts.append(MOUNT)
    with server_of(kind, *parts) as server:
        await visit(server, kind)
        (page,) = requests(server, "/project/translations")
        assert page.scope == "opentelemetry.instrumentation.fastapi"
        if kind == "mount":
            (hello,) = requests(server, "/hello/")
            assert hello.scope == page.scope
        check_undisturbed(server)


def check_undisturbed(server: ChainlitServer) -> None:
    """Each turn is a root, whatever the host has seen of its socket."""
    turns = [span for span in spans(server) if span.name == "chainlit.turn"]
    assert [turn.parent for turn in turns] == [0, 0]
    assert max(Counter(span.id for span in spans(server)).values()) == 1
    assert "probe failed" not in server.log


# Chainlit's app is made when it is imported; `chainlit run` has done so before it runs the app.
@pytest.mark.parametrize("order", ["first", "last"])
async def test_all_apps_are_instrumented_by_the_host(order: str) -> None:
    """Under `mount`, an application that is mounted is one of them, so the host sees it, too."""
    theirs = [INSTRUMENT_ALL, ENABLE] if order == "first" else [ENABLE, INSTRUMENT_ALL]
    with server_of("mount", PROVIDER, *theirs, PARENT, MOUNT) as server:
        await visit(server, "mount")
        (hello,) = requests(server, "/hello/")
        assert hello.name == "GET /hello/{name}"
        seen = [span.kind for span in requests(server, "/project/translations")]
        assert sorted(seen) == ["INTERNAL", "SERVER"], "as without us, and no more"
        check_undisturbed(server)
    parts = [INSTRUMENT_ALL, ENABLE] if order == "first" else [ENABLE, INSTRUMENT_ALL]
    with server_of("run", PROVIDER, *parts) as server:
        await visit(server, "run")
        check_ours(server)
        check_http(server, "run")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "earlier",
    [[TRACELOOP], [PROVIDER, OTHER_APP, INSTRUMENT]],
    ids=["traceloop", "another app"],
)
async def test_our_http_metrics_have_the_stable_names_whatever_was_first(
    kind: str, earlier: list[str]
) -> None:
    parts = [*earlier, ENABLE]
    if kind == "mount":
        parts += [PARENT, MOUNT]
    env = {"CHAINLIT_OTEL_ALWAYS_SERVE_METRICS": "true"}
    with server_of(kind, *parts, env=env) as server:
        await visit(server, kind)
        scrape = server.scrape()
        assert scrape.sum("chainlit_otel_internal_errors_total") == 0
        named = [name for name in scrape.families if name.startswith("http_server")]
        assert "http_server_request_duration_seconds" in named
        assert not [name for name in named if "milliseconds" in name]
        route = "/project/translations"
        assert scrape.sum("http_server_request_duration_seconds_count", http_route=route) == 1


@pytest.mark.parametrize("order", ["first", "last"])
async def test_an_app_that_was_built_before_chainlit_was_mounted(order: str) -> None:
    """Nobody can instrument it any more, but FastAPI sees its requests, Chainlit's among them."""
    parts = [PROVIDER, ENABLE] if order == "first" else [ENABLE, PROVIDER]
    with server_of("mount", *parts, MOUNTED_LATE) as server:
        await visit(server, "mount")
        for path in ("/project/translations", "/hello/"):
            (request,) = requests(server, path)
            assert request.scope == "fastapi"
        check_undisturbed(server)


LATE = """
import chainlit as cl
import chainlit_otel


@cl.on_chat_start
async def enable():
    chainlit_otel.enable()
    await cl.Message("observed").send()
"""


async def test_the_span_of_a_socket_by_fastapi_is_no_part_of_a_turn() -> None:
    """Nobody stands in its way where the app was built before: the turn is only linked to it."""
    with server_of("run", PROVIDER, LATE) as server:
        visitor = Visitor(server.url, transports=["websocket"], headers=UNCOMPRESSED)
        await visitor.connect()
        await visitor.until(
            lambda: any(e.name == "new_message" for e in visitor.events), "our beginning"
        )
        assert (await visitor.say("hello")).texts == ["done"]
        assert (await visitor.say("hello")).texts == ["done"]
        async with httpx.AsyncClient() as client:
            url = f"{server.url}/project/translations?language=en-US"
            assert (await client.get(url)).is_success
        await visitor.leave(clear=True)

        async def arrived() -> bool:
            names = {span.name for span in spans(server)}
            return {"WS /ws/socket.io/{path}", "chainlit.disconnect"} <= names

        await wait_until_async(arrived, 60, "the end of the socket")
        (socket,) = requests(server, "socket.io")
        (page,) = requests(server, "/project/translations")
        assert (socket.scope, socket.kind) == (page.scope, page.kind) == ("fastapi", "SERVER")
        turns = [span for span in spans(server) if span.name == "chainlit.turn"]
        assert [turn.parent for turn in turns] == [0, 0]
        assert all(socket.id in turn.links for turn in turns)
        ours = [span for span in spans(server) if span.scope == "chainlit_otel"]
        assert socket.trace not in {span.trace for span in ours}
        assert {span.name for span in spans(server) if span.trace == socket.trace} == {socket.name}


async def test_both_get_the_spans_if_the_host_adds_its_exporter_to_our_provider() -> None:
    with Receiver() as receiver, server_of("run", ENABLE, TRACELOOP, env=receiver.env) as server:
        await visit(server, "run")
        check_ours(server)
        await asyncio.to_thread(
            receiver.wait_for, lambda: len(receiver.named("chainlit.disconnect")) == 2
        )
        assert Counter(span.name for span in receiver.ours()) == Counter(
            span.name for span in spans(server) if span.scope == "chainlit_otel"
        )


async def test_the_host_alone_gets_the_spans_if_its_provider_was_there_first() -> None:
    with Receiver() as receiver, server_of("run", PROVIDER, ENABLE, env=receiver.env) as server:
        # By polling, the server would wait with its end for the last poll.
        await visit(server, "run", ("websocket", "websocket"))
        check_ours(server)
        assert await asyncio.to_thread(server.stop) == 0
        assert receiver.spans == []
