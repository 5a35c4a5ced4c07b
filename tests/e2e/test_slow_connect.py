"""A browser that gives up while Chainlit still connects it leaves no session behind for ever."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import aiohttp
import httpx
import pytest

from tests.support.scrape import Scrape, wait_until, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

GRACE = 2
PING = 0.25  # seconds, for the interval and for the timeout; 20 and 25 by default

APP = """
import asyncio
from pathlib import Path

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.data.base import BaseDataLayer
from chainlit.server import sio

sio.eio.ping_interval = sio.eio.ping_timeout = PING


async def nothing(self, *args, **kwargs):
    return None


async def get_user(self, identifier):
    return cl.PersistedUser(id=identifier, createdAt="", identifier=identifier)


async def get_thread(self, thread_id):
    if thread_id.startswith("slow"):
        Path(thread_id + ".entered").touch()
        while not Path(thread_id + ".released").exists():
            await asyncio.sleep(0.01)
    return None


Layer = type(
    "Layer",
    (BaseDataLayer,),
    {
        **dict.fromkeys(BaseDataLayer.__abstractmethods__, nothing),
        "get_user": get_user,
        "get_thread": get_thread,
    },
)


@cl.data_layer
def data_layer():
    return Layer()


@cl.password_auth_callback
def sign_in(name, password):
    return cl.User(identifier=name)


@cl.on_message
async def answer(message):
    await cl.Message("done").send()
""".replace("PING", str(PING))


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer(
        {"app.py": APP},
        config={"project": {"session_timeout": GRACE}},
        env={"CHAINLIT_AUTH_SECRET": "a-secret-of-this-test-and-nothing-else"},
    ) as server:
        yield server


class Tab:
    """A browser tab of a signed-in user, as far as the connection goes."""

    def __init__(self, server: ChainlitServer, http: aiohttp.ClientSession) -> None:
        self._server = server
        self._http = http
        self._session_id = str(uuid.uuid4())
        self._thread_id = f"slow-{self._session_id}"
        self._polling = ""
        self._post: asyncio.Task[None] | None = None

    async def connect(self, *, slow: bool, polling: bool = False) -> None:
        """Ask for a connection; wait until it stands, or as long as Chainlit has begun with it."""
        url = f"{self._server.url}/ws/socket.io/?EIO=4&transport="
        thread = self._thread_id if slow else ""
        auth = {"sessionId": self._session_id, "clientType": "webapp", "threadId": thread}
        packet = "40" + json.dumps(auth)
        if polling:
            async with self._http.get(f"{url}polling") as answer:
                opened = await answer.text()
        else:
            websocket = await self._http.ws_connect(f"{url}websocket")
            opened = str(await websocket.receive_str(timeout=60))
        self._polling = f"{url}polling&sid={json.loads(opened[1:])['sid']}"
        if polling:
            self._post = asyncio.create_task(self._send(packet))
        else:
            await websocket.send_str(packet)
        if slow:
            entered = self._server.directory / f"{self._thread_id}.entered"
            await asyncio.to_thread(wait_until, entered.exists, 60, "Chainlit at the connect")
        else:
            assert str(await websocket.receive_str(timeout=60)).startswith("40{")

    async def release(self) -> None:
        """Let Chainlit go on with the connect."""
        (self._server.directory / f"{self._thread_id}.released").touch()

    async def drop(self) -> None:
        """The line is cut, without a word."""
        if self._post is not None:
            self._post.cancel()
            await asyncio.wait([self._post])
        await self._http.close()

    # Ways to give up. Each returns when the server knows, if it can know before it is done.

    async def lose_the_line(self) -> None:
        await self.drop()

    async def say_goodbye(self) -> None:
        await self._send("1")

    async def answer_no_ping(self) -> None:
        async def dead() -> bool:
            async with self._http.get(self._polling) as answer:
                return "Invalid session" in await answer.text()

        await wait_until_async(dead, 60, "the ping timeout")

    async def _send(self, packet: str) -> None:
        async with self._http.post(self._polling, data=packet) as answer:
            await answer.read()


@pytest.fixture
async def tab(server: ChainlitServer) -> AsyncIterator[Tab]:
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{server.url}/login", data={"username": "ada", "password": "x"})
    answer.raise_for_status()
    cookie = "; ".join(f"{name}={value}" for name, value in answer.cookies.items())
    async with aiohttp.ClientSession(headers={"Cookie": cookie}) as http:
        tab = Tab(server, http)
        yield tab
        await tab.drop()


def figures(scrape: Scrape) -> dict[str, float]:
    timeout = {"chainlit_session_end_reason": "timeout"}
    return {
        "starts": scrape.sum("chainlit_session_starts_total"),
        "reconnects": scrape.sum("chainlit_session_reconnects_total"),
        "timeouts": scrape.sum("chainlit_session_ends_total", **timeout),
        "ends": scrape.sum("chainlit_session_ends_total"),
        "closed": scrape.sum("chainlit_connection_duration_seconds_count"),
        "retained": scrape.value("chainlit_retained", chainlit_retained_kind="sessions"),
        "errors": scrape.sum("chainlit_otel_internal_errors_total"),
    }


class Recorded:
    """What the server has recorded since the beginning of a test."""

    def __init__(self, server: ChainlitServer) -> None:
        self._server = server
        self._before = figures(server.scrape())

    async def become(self, **expected: int) -> None:
        """Wait until nothing is open and so many sessions have ended; check everything."""

        async def settled() -> Scrape | None:
            scrape = await asyncio.to_thread(self._server.scrape)
            open_now = scrape.sum("chainlit_session_active") + scrape.sum(
                "chainlit_connection_active"
            )
            ends = figures(scrape)["ends"] - self._before["ends"]
            return (
                await asyncio.to_thread(self._server.scrape)
                if open_now == 0 and ends >= 1
                else None
            )

        scrape = await wait_until_async(settled, 5 * GRACE, "the end of the session")
        assert scrape is not None
        now = figures(scrape)
        grown = {name: now[name] - self._before[name] for name in now}
        assert grown == {**dict.fromkeys(grown, 0), **expected}

    async def show_nobody_connected(self) -> None:
        """Wait until the session is there, and nobody is in it."""

        async def holds() -> bool:
            scrape = await asyncio.to_thread(self._server.scrape)
            states = {
                state: scrape.sum("chainlit_session_active", chainlit_session_state=state)
                for state in ("connected", "disconnected")
            }
            return states == {"connected": 0, "disconnected": 1}

        await wait_until_async(holds, GRACE, "a session without a connection")


WAYS: list[tuple[Callable[[Tab], Awaitable[None]], bool, int]] = [
    # How it gives up, whether by polling, and whether Chainlit keeps the session for ever.
    (Tab.lose_the_line, False, 0),
    (Tab.answer_no_ping, False, 1),
    (Tab.say_goodbye, True, 1),
    (Tab.answer_no_ping, True, 1),
]
IDS = [f"{way[0].__name__} by {'polling' if way[1] else 'websocket'}" for way in WAYS]


@pytest.mark.parametrize(("give_up", "polling", "retained"), WAYS, ids=IDS)
async def test_a_new_session_on_a_dead_socket(
    server: ChainlitServer,
    tab: Tab,
    give_up: Callable[[Tab], Awaitable[None]],
    polling: bool,
    retained: int,
) -> None:
    recorded = Recorded(server)
    await tab.connect(slow=True, polling=polling)
    await give_up(tab)
    await tab.release()
    await recorded.show_nobody_connected()
    await recorded.become(starts=1, timeouts=1, ends=1, closed=1, retained=retained)


@pytest.mark.parametrize(("give_up", "polling", "retained"), WAYS, ids=IDS)
async def test_a_session_taken_up_by_a_dead_socket(
    server: ChainlitServer,
    tab: Tab,
    give_up: Callable[[Tab], Awaitable[None]],
    polling: bool,
    retained: int,
) -> None:
    recorded = Recorded(server)
    await tab.connect(slow=False)
    await tab.connect(slow=True, polling=polling)
    await give_up(tab)
    await tab.release()
    await recorded.show_nobody_connected()
    await recorded.become(starts=1, reconnects=1, timeouts=1, ends=1, closed=2, retained=retained)
