"""Spans of other instrumentations lie below the turn, the callback and the step they belong to."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from chainlit_otel.testing import Visitor
from tests.support.model import Model
from tests.support.otlp import Receiver, Span, hashed
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import os

import chainlit as cl
import httpx
from openai import AsyncOpenAI
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.openai import OpenAIInstrumentor

import chainlit_otel

chainlit_otel.enable()
OpenAIInstrumentor().instrument()
HTTPXClientInstrumentor().instrument()

URL = os.environ["MODEL_URL"]
client = AsyncOpenAI(base_url=URL, api_key="none")
ASKED = {"model": "stub", "messages": [{"role": "user", "content": "hello"}]}


@cl.step(type="tool")
async def look_up():
    async with httpx.AsyncClient() as http:
        await http.get(URL + "/looked-up")


@cl.on_message
async def on_message(message):
    answer = cl.Message("")
    if message.content == "look up":
        await look_up()
        answer.content = "found"
    elif message.content == "whole":
        completion = await client.chat.completions.create(**ASKED)
        answer.content = completion.choices[0].message.content
    else:
        async for chunk in await client.chat.completions.create(stream=True, **ASKED):
            await answer.stream_token(chunk.choices[0].delta.content)
    await answer.send()
"""


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model() as model:
        yield model


@pytest.fixture(scope="module")
def server(receiver: Receiver, model: Model) -> Iterator[ChainlitServer]:
    env = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.endpoint}/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "MODEL_URL": model.url,
        "TRACELOOP_TRACE_CONTENT": "false",
    }
    with ChainlitServer({"app.py": APP}, env=env) as server:
        yield server


async def trace_of(
    server: ChainlitServer, receiver: Receiver, text: str, answer: str
) -> tuple[str, dict[str, Span]]:
    """The session, and the spans of a turn by their ids, once all their parents are there."""
    visitor = Visitor(server.url)
    await visitor.connect()
    assert (await visitor.say(text)).texts == [answer]
    session = visitor.session_id
    found: dict[str, Span] = {}

    def complete() -> bool:
        for root in receiver.roots(session):
            if root.name == "chainlit.turn":
                found.update({span.id: span for span in receiver.trace(root)})
        return bool(found) and {s.parent for s in found.values()} - set(found) == {""}

    await asyncio.to_thread(wait_until, complete, 60, "the spans of the turn")
    await visitor.leave(clear=True)
    return session, found


def ancestors(spans: dict[str, Span], span: Span) -> list[str]:
    names = []
    while span.parent:
        span = spans[span.parent]
        names.append(span.name)
    return names


CALLBACK = ["chainlit.step run on_message", "chainlit.callback on_message", "chainlit.turn"]


async def test_a_request_by_httpx_lies_below_the_step_that_makes_it(
    server: ChainlitServer, receiver: Receiver, model: Model
) -> None:
    session, spans = await trace_of(server, receiver, "look up", "found")
    (request,) = (s for s in spans.values() if s.scope.endswith("instrumentation.httpx"))
    assert ancestors(spans, request) == ["chainlit.step tool look_up", *CALLBACK]
    (headers,) = (headers for path, headers in model.asked if path == "/v1/looked-up")
    assert headers["traceparent"].split("-")[1:3] == [request.trace, request.id]
    assert session not in str(headers)
    assert hashed(session) not in str(headers)


@pytest.mark.parametrize("way", ["whole", "streamed"])
async def test_a_call_of_openai_lies_below_the_callback_that_makes_it(
    server: ChainlitServer, receiver: Receiver, way: str
) -> None:
    _, spans = await trace_of(server, receiver, way, "in a word")
    (call,) = (s for s in spans.values() if s.scope.endswith("instrumentation.openai.v1"))
    assert ancestors(spans, call) == CALLBACK
    assert call.attributes["gen_ai.request.model"] == "stub"
