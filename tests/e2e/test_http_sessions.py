"""HTTP sessions: one for each request that asks Chainlit for a context, and nothing stays."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import aiohttp
import pytest

from chainlit_otel.live.sessions import ENDED, WITH_TROUBLE
from chainlit_otel.testing import Visitor
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

REQUESTS = 10_000
AT_ONCE = 16

MAIN = """
import asyncio
import gc
import weakref

from chainlit.context import init_http_context
from chainlit.utils import mount_chainlit
from fastapi import FastAPI, HTTPException

app = FastAPI()
gate = asyncio.Event()


@app.get("/say")
async def say(client: str = "webapp"):
    import chainlit as cl

    init_http_context(client_type=client)
    await cl.Message("Said.").send()
    return {"said": True}


@app.get("/plain")
async def plain():
    return {"session": init_http_context().session.id}


@app.get("/refuse")
async def refuse():
    init_http_context()
    raise HTTPException(418)


@app.get("/fail")
async def fail():
    context = init_http_context()
    raise RuntimeError(f"This went wrong in {context.session.id}.")


@app.get("/hold")
async def hold():
    init_http_context()
    await gate.wait()
    return {}


@app.get("/release")
async def release():
    gate.set()
    return {}


@app.get("/census")
async def census():
    from chainlit.session import HTTPSession
    from chainlit_otel.core.sessions import Session

    gc.collect()
    objects = gc.get_objects()
    return {
        "sessions of ours": sum(type(o) is Session for o in objects),
        "HTTP sessions": sum(type(o) is HTTPSession for o in objects),
        "finalizers": len(weakref.finalize._registry),
    }


mount_chainlit(app=app, target="app.py", path="/chat")
"""

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.on_message
async def answer(message):
    await cl.Message("You said: " + message.content).send()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer(
        {"main.py": MAIN, "app.py": APP},
        command=["uvicorn", "main:app", "--port", "{port}", "--log-level", "critical"],
        path="/chat",
    ) as server:
        yield server


class Client:
    """Asks the application's own endpoints."""

    def __init__(self, server: ChainlitServer, http: aiohttp.ClientSession) -> None:
        self._server = server
        self._http = http

    async def get(self, path: str) -> int:
        async with self._http.get(path) as answer:
            await answer.read()
            return answer.status

    async def get_cheaply(self, path: str) -> int:
        """Do the same by a bare socket, which takes less CPU than an HTTP client."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._server.port)
        try:
            request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            answer = await asyncio.wait_for(reader.read(), 60)
        finally:
            writer.close()
        return int(answer.split(b" ", 2)[1])

    async def census(self) -> dict[str, int]:
        """Collect the garbage of the server and count what is left."""
        async with self._http.get("/census") as answer:
            counted: dict[str, int] = await answer.json()
            return counted

    async def scrape(self) -> Scrape:
        return await asyncio.to_thread(self._server.scrape)

    async def settled(self) -> tuple[Scrape, dict[str, int]]:
        """Scrape when all that was finalized is recorded, and count what is left then.

        A session that was finalized is recorded by the next reading, and let go of with that.
        """
        await self.census()
        scrape = await self.scrape()
        return scrape, await self.census()


@pytest.fixture
async def client(server: ChainlitServer) -> AsyncIterator[Client]:
    # One connection a request: uvicorn's timer for the next request on a kept connection holds
    # the context of the last one for 5 seconds, and with it Chainlit's session.
    async with aiohttp.ClientSession(
        f"http://127.0.0.1:{server.port}",
        timeout=aiohttp.ClientTimeout(total=60),
        connector=aiohttp.TCPConnector(force_close=True, limit=2 * AT_ONCE),
    ) as http:
        yield Client(server, http)


def figures(scrape: Scrape) -> dict[str, float]:
    """The metrics of HTTP sessions, and those of websocket sessions where they must be zero."""
    http = {"chainlit_session_type": "http"}
    completed = {**http, "chainlit_session_end_reason": "completed"}
    return {
        "starts": scrape.sum("chainlit_session_starts_total", **http),
        "ends": scrape.sum("chainlit_session_ends_total", **http),
        "completed": scrape.sum("chainlit_session_ends_total", **completed),
        "durations": scrape.sum("chainlit_session_duration_seconds_count", **completed),
        "active": scrape.sum("chainlit_session_active", **http),
        "peak": scrape.value("chainlit_session_peak", chainlit_peak_window="process"),
        "websockets": scrape.sum(
            "chainlit_session_starts_total", chainlit_session_type="websocket"
        ),
        "errors": scrape.sum("chainlit_otel_internal_errors_total"),
    }


def after(requests: int) -> dict[str, float]:
    return {
        **dict.fromkeys(("starts", "ends", "completed", "durations"), requests),
        **dict.fromkeys(("active", "peak", "websockets", "errors"), 0),
    }


def grown(before: Scrape, now: Scrape) -> dict[str, float]:
    first, second = figures(before), figures(now)
    return {name: second[name] - first[name] for name in first}


@pytest.mark.parametrize(
    ("path", "status"),
    [("/plain", 200), ("/say", 200), ("/refuse", 418), ("/fail", 500)],
)
async def test_a_request_is_a_session(client: Client, path: str, status: int) -> None:
    before = await client.scrape()
    assert await client.get(path) == status
    await client.census()
    assert grown(before, await client.scrape()) == after(1)


async def test_the_client_type_is_kept(client: Client) -> None:
    before = await client.scrape()
    for _ in range(3):
        await client.get("/say?client=teams")
    await client.get("/say?client=made-up")
    await client.census()
    now = await client.scrape()

    def started(client_type: str) -> float:
        name, labels = "chainlit_session_starts_total", {"chainlit_client_type": client_type}
        return now.sum(name, **labels) - before.sum(name, **labels)

    assert [started("teams"), started("other"), started("webapp")] == [3, 1, 0]


async def test_open_requests_are_active_and_no_part_of_the_peak(client: Client) -> None:
    before = await client.scrape()
    held = [asyncio.create_task(client.get("/hold")) for _ in range(5)]

    async def all_there() -> Scrape | None:
        scrape = await client.scrape()
        return scrape if grown(before, scrape)["active"] == 5 else None

    scrape = await wait_until_async(all_there, 60, "five open requests")
    assert scrape is not None
    assert grown(before, scrape) == {**after(0), "starts": 5, "active": 5}
    await client.get("/release")
    assert await asyncio.gather(*held) == [200] * 5
    await client.census()
    assert grown(before, await client.scrape()) == after(5)


async def test_a_visitor_meanwhile_is_the_whole_peak(
    client: Client, server: ChainlitServer
) -> None:
    before = await client.scrape()
    visitor = Visitor(server.url)
    await visitor.connect()
    await asyncio.gather(*(client.get("/say") for _ in range(20)))
    assert (await visitor.say("hello")).texts == ["You said: hello"]
    await client.census()
    now = grown(before, await client.scrape())
    await visitor.leave(clear=True)
    assert now == {**after(20), "peak": 1, "websockets": 1}


@pytest.mark.timeout(900)
async def test_ten_thousand_requests_leave_nothing(client: Client) -> None:
    paths = ["/plain", "/say", "/plain", "/refuse", "/plain", "/fail", "/plain", "/plain"]
    for path in paths:  # what is made once is there before the counting begins
        await client.get(path)
    before, alive = await client.settled()

    requests = iter(range(REQUESTS))
    answers: Counter[int] = Counter()

    async def ask() -> None:
        for number in requests:
            answers[await client.get_cheaply(paths[number % len(paths)])] += 1

    await asyncio.gather(*(ask() for _ in range(AT_ONCE)))
    share = REQUESTS // len(paths)
    assert answers == {200: 6 * share, 418: share, 500: share}

    now, still_alive = await client.settled()
    assert grown(before, now) == after(REQUESTS)
    # What the live page shows of the last that have ended.
    alive["sessions of ours"] += ENDED + WITH_TROUBLE
    # Less is well: a visitor of another test is let go of when his next ping would be due.
    assert all(still_alive[what] <= alive[what] for what in alive)
    assert still_alive["HTTP sessions"] == 0
