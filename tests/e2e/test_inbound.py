"""What browsers send and Chainlit never sees, against a ledger of what was really sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections import Counter
from collections.abc import Iterator

import aiohttp
import httpx
import pytest

from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.on_message
async def on_message(message): ...


@cl.on_window_message
async def heard(message):
    with open("heard", "a") as out:
        out.write("x")
    raise ValueError("of the app, and nobody's packet")
"""

MEGABYTE = 1_000_000
PACKET = '42["window_message","x"]'


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP}) as server:
        yield server


def greeting() -> str:
    auth = {
        "sessionId": str(uuid.uuid4()),
        "clientType": "webapp",
        "userEnv": "{}",
        "chatProfile": "",
        "threadId": "",
    }
    return "40" + json.dumps(auth)


async def by_websocket(server: ChainlitServer, *frames: str, closes: bool) -> None:
    url = f"{server.url}/ws/socket.io/?EIO=4&transport=websocket"
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as socket:
        assert (await socket.receive_str()).startswith("0")
        await socket.send_str(greeting())
        assert (await socket.receive_str()).startswith("40")
        # The server closes it while the rest is still on its way.
        with contextlib.suppress(*((aiohttp.ClientError, OSError) if closes else ())):
            for frame in frames:
                await socket.send_str(frame)
            if closes:
                async for _ in socket:
                    pass


class Poller:
    """A browser whose proxy lets no websocket through."""

    def __init__(self, server: ChainlitServer) -> None:
        self.http = httpx.AsyncClient(base_url=server.url, timeout=60)
        self.query = {"EIO": "4", "transport": "polling"}

    async def connect(self) -> None:
        opened = await self.http.get("/ws/socket.io/", params=self.query)
        self.query["sid"] = json.loads(opened.text[1:])["sid"]
        await self.post(greeting())
        await self.http.get("/ws/socket.io/", params=self.query)

    async def post(self, body: str | bytes) -> int:
        return (await self.http.post("/ws/socket.io/", params=self.query, content=body)).status_code

    async def post_and_be_closed(self, body: str) -> None:
        """Post without waiting for an answer: it comes when a poll gets the close."""
        with contextlib.suppress(httpx.ReadTimeout):
            await self.http.post("/ws/socket.io/", params=self.query, content=body, timeout=0.5)

    async def close(self) -> None:
        await self.post("1")
        await self.http.aclose()


def dropped(scrape: Scrape) -> Counter[str]:
    return Counter(
        {
            reason: int(scrape.value("chainlit_inbound_dropped_total", error_type=reason))
            for reason in ("too_large", "too_many", "malformed")
        }
    )


def closed(scrape: Scrape, reason: str) -> float:
    return scrape.sum(
        "chainlit_connection_duration_seconds_count", chainlit_connection_close_reason=reason
    )


async def after(server: ChainlitServer, before: Scrape, **more: int) -> Scrape:
    """The figures when this has been dropped, and no connection is open any more."""
    expected = dropped(before) + Counter(more)

    def as_expected() -> bool:
        scrape = server.scrape()
        is_open = scrape.sum("chainlit_connection_active")
        return +dropped(scrape) == expected and is_open == 0

    await asyncio.to_thread(wait_until, as_expected, 60, f"{expected}")
    return server.scrape()


# The one of Engine.IO, and the one of the web server.
@pytest.mark.parametrize("size", [MEGABYTE + 1, 17 * MEGABYTE])
async def test_a_message_over_a_limit(server: ChainlitServer, size: int) -> None:
    before = server.scrape()
    await by_websocket(server, "42" + "x" * size, PACKET, closes=True)
    now = await after(server, before, too_large=1)
    assert closed(now, "message_too_large") == closed(before, "message_too_large") + 1
    for reason in ("transport_close", "server_disconnect"):
        assert closed(now, reason) == closed(before, reason)


async def test_a_message_at_the_limit_is_none(server: ChainlitServer) -> None:
    before, heard = server.scrape(), len(server.read("heard"))
    head, tail = '42["window_message","', '"]'
    full = head + "x" * (MEGABYTE - len(head + tail)) + tail
    await by_websocket(server, full, PACKET, closes=False)
    now = await after(server, before)
    assert closed(now, "message_too_large") == closed(before, "message_too_large")
    assert len(server.read("heard")) == heard + 2


async def test_a_poll_over_the_limit(server: ChainlitServer) -> None:
    before = server.scrape()
    poller = Poller(server)
    await poller.connect()
    await poller.post_and_be_closed("42" + "x" * MEGABYTE)
    now = await after(server, before, too_large=1)
    assert closed(now, "message_too_large") == closed(before, "message_too_large") + 1
    await poller.http.aclose()


@pytest.mark.parametrize(
    ("body", "lost"),
    [
        ("\x1e".join([PACKET] * 600), {"too_many": 600}),
        ("\x1e".join([PACKET] * 17), {"too_many": 17}),
        ("\x1e".join([PACKET] * 16), {}),
        (b"\x1e".join([PACKET.encode(), b"4\xff", PACKET.encode()]), {"malformed": 3}),
        ('42["window_message"', {"malformed": 1}),
    ],
    ids=["600", "17", "16", "no text", "no JSON"],
)
async def test_a_poll_that_is_dropped(
    server: ChainlitServer, body: str | bytes, lost: dict[str, int]
) -> None:
    before, heard = server.scrape(), len(server.read("heard"))
    poller = Poller(server)
    await poller.connect()
    # Engine.IO says that all is well, whatever it did.
    assert await poller.post(body) == 200
    assert await poller.post(PACKET) == 200
    heard += 1 + (16 if not lost else 0)
    await asyncio.to_thread(
        wait_until, lambda: len(server.read("heard")) == heard, 60, f"{heard} messages"
    )
    await poller.close()
    now = await after(server, before, **lost)
    assert closed(now, "message_too_large") == closed(before, "message_too_large")


async def test_a_packet_that_is_none(server: ChainlitServer) -> None:
    before = server.scrape()
    poller = Poller(server)
    await poller.connect()
    # Only a server sends the packet that opens a connection.
    await poller.post_and_be_closed("0\x1e" + PACKET)
    await after(server, before, malformed=1)
    await by_websocket(server, "4" + "9", closes=False)
    now = await after(server, before, malformed=2)
    assert now.sum("chainlit_otel_internal_errors_total") == 0
    await poller.http.aclose()
