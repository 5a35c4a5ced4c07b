"""Addresses, and what happens where there is no app, or none that lets anybody in."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import pytest
import socketio
from aiohttp import web
from aiohttp.test_utils import TestServer

from chainlit_otel.testing import ConnectionLost, Refused, Unreachable, Visitor
from chainlit_otel.testing.http import Address, PageRequests, check
from tests.support.scrape import wait_until_async
from tests.support.server import free_port


@pytest.mark.parametrize(
    ("url", "origin", "path"),
    [
        ("http://localhost:8000", "http://localhost:8000", ""),
        ("http://localhost:8000/", "http://localhost:8000", ""),
        ("https://example.org/chat/", "https://example.org", "/chat"),
        ("http://[::1]:8000/a/b?x=1#y", "http://[::1]:8000", "/a/b"),
    ],
)
def test_an_address_is_taken_apart_like_the_page_does_it(url: str, origin: str, path: str) -> None:
    assert Address.parse(url) == (origin, path)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://example.org", "http://", "", "/chat"])
def test_what_is_not_the_address_of_a_page_is_named(url: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        Visitor(url)


async def test_nothing_listening_is_one_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable, match=f"^nothing answers at {url}: Connection refused$"):
        await check(url)
    visitor = Visitor(url)
    with pytest.raises(Unreachable, match=r"Connection refused$"):
        await visitor.connect()
    assert not visitor.connected
    await visitor.leave()


async def test_a_server_that_sends_nothing_is_given_up() -> None:
    async def stay_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(stay_silent, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match=r"does not answer within 0\.2 s"):
            await check(f"http://127.0.0.1:{port}", timeout=0.2)
        visitor = Visitor(f"http://127.0.0.1:{port}", timeout=0.2)
        with pytest.raises(Unreachable, match=r"does not greet within 0\.2 s"):
            await visitor.connect()
        assert len(asyncio.all_tasks()) <= 3  # this one and the server's


async def test_who_is_not_connected_cannot_talk_but_may_leave() -> None:
    visitor = Visitor("http://127.0.0.1:1")
    with pytest.raises(ConnectionLost):
        await visitor.say("Hello?")
    with pytest.raises(ConnectionLost):
        await visitor.new_chat()
    await visitor.drop()
    await visitor.leave(clear=True)


def test_ids_are_the_same_only_for_those_who_ask_for_it() -> None:
    def ids(rng: random.Random | None) -> list[str]:
        return [Visitor("http://localhost", rng=rng).session_id for _ in range(2)]

    assert ids(random.Random(1)) == ids(random.Random(1))
    assert len(set(ids(None) + ids(None))) == 4


@pytest.mark.parametrize("transports", [None, ["websocket"], ["polling"]])
async def test_who_is_refused_hears_why_at_once(transports: list[str] | None) -> None:
    sio = socketio.AsyncServer(async_mode="aiohttp")
    gone: list[str] = []

    async def connect(*_: object) -> None:
        raise socketio.exceptions.ConnectionRefusedError("not today")

    async def lost(engine_sid: str, *_: object) -> None:
        gone.append(engine_sid)

    sio.on("connect", connect)
    sio.eio.on("disconnect", lost)
    app = web.Application()
    sio.attach(app, "/ws/socket.io")
    async with TestServer(app) as server:
        # Longer than what any test may take.
        visitor = Visitor(str(server.make_url("/")), transports=transports, timeout=600)
        with pytest.raises(Refused, match="not today"):
            await visitor.connect()
        assert not visitor.connected

        async def is_gone() -> bool:
            return len(gone) == 1

        # The server need not wait for another poll.
        await wait_until_async(is_gone, 60, "the end of the connection")


@pytest.mark.parametrize("transports", [["websocket"], ["polling"]])
async def test_whatever_came_between_two_polls_is_taken(transports: list[str]) -> None:
    sio = socketio.AsyncServer(async_mode="aiohttp")

    async def greet(sid: str, *_: object) -> None:
        # All at once, so that no poll is answered in between.
        await asyncio.gather(*(sio.emit("number", number, to=sid) for number in range(1000)))
        await sio.emit("clear_call_fn", to=sid)

    sio.on("connection_successful", greet)
    sio.on("fetch_favorites", lambda sid: None)
    sio.on("connect", lambda *_: None)
    app = web.Application()
    sio.attach(app, "/ws/socket.io")
    async with TestServer(app) as server:
        visitor = Visitor(str(server.make_url("/")), transports=transports)
        await visitor.connect()
        numbers = [event.data for event in visitor.events if event.name == "number"]
        assert numbers == list(range(1000))
        assert visitor.connected
        await visitor.leave()


@pytest.mark.parametrize(
    ("statuses", "refusal"),
    [([200], None), ([500, 500, 200], None), ([401], "HTTP status 401"), ([500, 403], "403")],
)
async def test_feedback_waits_for_its_message_to_be_stored(
    statuses: list[int], refusal: str | None
) -> None:
    left = iter(statuses)

    async def take(_: web.Request) -> web.Response:
        status = next(left)
        return web.json_response({"feedbackId": "1", "detail": "no such step"}, status=status)

    app = web.Application()
    app.router.add_put("/feedback", take)
    async with TestServer(app) as server, aiohttp.ClientSession() as http:
        requests = PageRequests(Address.parse(str(server.make_url("/"))), http, 60)
        if refusal is None:
            assert await requests.rate("session", {"forId": "m", "value": 1}) == "1"
        else:
            with pytest.raises(Refused, match=refusal):
                await requests.rate("session", {"forId": "m", "value": 1})
    assert list(left) == []
