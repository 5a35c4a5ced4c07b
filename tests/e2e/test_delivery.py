"""What the trace of a turn and two figures say of the way of an answer to its user."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support import LAYER
from tests.support.otlp import Happening, Receiver, Span, hashed
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import asyncio
import pathlib

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from layer import Layer


@cl.data_layer
def data_layer():
    return Layer()


@cl.on_feedback
def on_feedback(feedback):
    pass


@cl.action_callback("press")
async def press(action):
    return "pressed"


async def sign(name):
    while not pathlib.Path(name).exists():
        await asyncio.sleep(0.02)
    pathlib.Path(name).unlink()


@cl.on_message
async def answer(message):
    if message.content == "briefly":
        await sign("begin")
        await cl.Message("hello").send()
        return
    reply = cl.Message("")
    for name, tokens in (("begin", 3), ("lose", 2), ("go on", 4)):
        await sign(name)
        for _ in range(tokens):
            await reply.stream_token("t")
    await reply.send()
"""

CONFIG: dict[str, dict[str, object]] = {"features.spontaneous_file_upload": {"enabled": True}}


def app(receiver: Receiver) -> ChainlitServer:
    return ChainlitServer({"app.py": APP, "layer.py": LAYER}, env=receiver.env, config=CONFIG)


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    with app(receiver) as server:
        yield server


async def visitor_of(server: ChainlitServer) -> Visitor:
    visitor = Visitor(server.url, transports=["websocket"])
    await visitor.connect()
    return visitor


async def until(server: ChainlitServer, name: str, expected: float) -> None:
    await asyncio.to_thread(
        wait_until, lambda: server.scrape().sum(name) == expected, 60, f"{name} of {expected:g}"
    )


def give(server: ChainlitServer, sign: str) -> None:
    (server.directory / sign).touch()


async def turn_of(receiver: Receiver, visitor: Visitor) -> Span:
    def turns() -> list[Span]:
        roots = receiver.roots(visitor.session_id)
        return [span for span in roots if span.name == "chainlit.turn"]

    await asyncio.to_thread(receiver.wait_for, turns, "the turn", 60)
    [turn] = turns()
    return turn


def waiting(server: ChainlitServer) -> float:
    return server.scrape().value("chainlit_turn_oldest_waiting_seconds")


async def test_a_socket_that_is_lost_in_the_middle_of_an_answer(
    server: ChainlitServer, receiver: Receiver
) -> None:
    visitor = await visitor_of(server)
    before = server.scrape()
    asked = time.time_ns()
    await visitor.send("at length")
    await until(server, "chainlit_turn_active", 1)
    await asyncio.to_thread(wait_until, lambda: waiting(server) > 0.2, 60, "the turn to wait")
    assert waiting(server) <= (time.time_ns() - asked) / 1e9
    begun = time.time_ns()
    give(server, "begin")
    await visitor.until(
        lambda: sum(e.name in ("stream_start", "stream_token") for e in visitor.events) == 3,
        "three chunks",
    )
    seen = time.time_ns()
    assert waiting(server) == 0
    await visitor.drop()
    await until(server, "chainlit_connection_active", 0)
    give(server, "lose")
    lost = "chainlit_emit_dropped_total"
    await until(server, lost, before.sum(lost) + 2)
    assert server.scrape().sum("chainlit_turn_undelivered_total") == 0, "it is not over"
    await visitor.reconnect()
    give(server, "go on")
    turn = await turn_of(receiver, visitor)

    figures = {key: n for key, n in turn.attributes.items() if key.startswith("chainlit.turn.")}
    first = float(figures.pop("chainlit.turn.time_to_first_token"))
    assert figures == {"chainlit.turn.chunks": "7", "chainlit.turn.undelivered": "2"}
    assert turn.attributes["chainlit.outcome"] == "ok"

    def so_far(undelivered: int) -> dict[str, str]:
        return {"chainlit.turn.chunks": "3", "chainlit.turn.undelivered": str(undelivered)}

    closed = {"chainlit.connection.close_reason": "transport_close"}
    assert [event._replace(time=0) for event in turn.events] == [
        Happening("chainlit.first_token", {}),
        Happening("chainlit.socket_gone", {**so_far(0), **closed}),
        Happening("chainlit.socket_back", so_far(2)),
    ]
    at = [event.time for event in turn.events]
    assert asked < begun <= at[0] <= seen <= at[1] < at[2] <= turn.end
    assert (begun - asked) / 1e9 - 0.1 <= first <= (seen - asked) / 1e9

    now = server.scrape()
    assert now.sum("chainlit_turn_undelivered_total") == 1
    gaps = "chainlit_turn_time_per_output_chunk_seconds"
    assert now.sum(f"{gaps}_count") - before.sum(f"{gaps}_count") == 1
    # From the first chunk to the last there are eight gaps, those of the lost ones included.
    mean = now.sum(f"{gaps}_sum") - before.sum(f"{gaps}_sum")
    assert (at[2] - at[0]) / 1e9 / 8 <= mean <= (turn.end - at[0]) / 1e9 / 8 + 0.001
    assert now.sum("chainlit_otel_internal_errors_total") == 0
    await visitor.leave()


async def test_an_answer_at_once_that_arrives(server: ChainlitServer, receiver: Receiver) -> None:
    before = server.scrape().sum("chainlit_turn_undelivered_total")
    visitor = await visitor_of(server)
    await visitor.send("briefly")
    await asyncio.to_thread(wait_until, lambda: waiting(server) > 0, 60, "the turn to wait")
    give(server, "begin")
    turn = await turn_of(receiver, visitor)
    assert waiting(server) == 0
    assert [event.name for event in turn.events] == ["chainlit.first_token"]
    assert turn.attributes["chainlit.turn.undelivered"] == "0"
    assert server.scrape().sum("chainlit_turn_undelivered_total") == before
    await visitor.leave()


async def test_who_has_nobody_to_answer_to_keeps_nobody_waiting(server: ChainlitServer) -> None:
    before = server.scrape()
    visitor = await visitor_of(server)
    await visitor.send("at length")
    await until(server, "chainlit_turn_active", 1)
    await visitor.drop()
    await until(server, "chainlit_connection_active", 0)
    assert waiting(server) > 0
    give(server, "begin")
    lost = "chainlit_emit_dropped_total"
    await until(server, lost, before.sum(lost) + 3)
    assert server.scrape().value("chainlit_turn_active") == 1
    assert waiting(server) == 0
    give(server, "lose")
    give(server, "go on")
    undelivered = "chainlit_turn_undelivered_total"
    await until(server, undelivered, before.sum(undelivered) + 1)


async def test_a_turn_that_the_end_of_the_process_ends_says_what_was_delivered(
    receiver: Receiver,
) -> None:
    with app(receiver) as server:
        visitor = await visitor_of(server)
        await visitor.send("at length")
        await until(server, "chainlit_turn_active", 1)
        server.stop()
        await visitor.leave()
    turn = await turn_of(receiver, visitor)
    assert turn.attributes["chainlit.outcome"] == "cancelled"
    assert turn.attributes["chainlit.turn.chunks"] == "0"
    assert "chainlit.first_token" not in {event.name for event in turn.events}


async def test_requests_and_operations_of_a_session_have_its_hash(
    server: ChainlitServer, receiver: Receiver
) -> None:
    visitor = await visitor_of(server)
    await visitor.send("briefly")
    give(server, "begin")
    await turn_of(receiver, visitor)
    session = visitor.session_id
    elsewhere = "11111111-2222-4333-8444-555555555555"
    # A connection on which something went wrong is closed once it has answered.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=server.url, limits=limits, timeout=60) as http:
        for id in (session, elsewhere):
            upload = await http.post(
                "/project/file",
                params={"session_id": id},
                files={"file": ("notes.txt", b"text", "text/plain")},
            )
            assert upload.status_code == (200 if id == session else 404)
            action = {"name": "press", "payload": {}, "label": ""}
            await http.post("/project/action", json={"sessionId": id, "action": action})
            await http.post("/set-session-cookie", json={"session_id": id})
            feedback = {"forId": "s", "value": 1}
            await http.put("/feedback", json={"sessionId": id, "feedback": feedback})
    requests = {
        "POST /project/file": 1,
        "POST /project/action": 1,
        "POST /set-session-cookie": 1,
        "PUT /feedback": 1,
    }

    def named(id: str) -> dict[str, int]:
        known = [s for s in receiver.spans if s.attributes.get("session.id") == hashed(id)]
        return {name: sum(span.name == name for span in known) for name in requests}

    # The page asks for the cookie when it opens, too.
    expected = {**requests, "POST /set-session-cookie": 2}
    await asyncio.to_thread(
        receiver.wait_for, lambda: named(session) == expected, "the requests", 60
    )
    await asyncio.to_thread(
        receiver.wait_for, lambda: named(elsewhere) == requests, "those for another", 60
    )
    operations = [
        span.attributes.get("session.id")
        for span in receiver.spans
        if span.name == "chainlit.data_layer create_step"
    ]
    assert hashed(session) in operations
    assert None not in operations
    assert session not in receiver.everything
    assert elsewhere not in receiver.everything
    await visitor.leave()
