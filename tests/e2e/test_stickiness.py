"""Two processes of one app behind a proxy that sends each request to the next of them.

Whoever does not have the session counts the miss, by what was asked of it; and the client sees
just as many requests fail.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from packaging.version import Version

from chainlit_otel import catalog
from chainlit_otel.testing import Visitor
from tests.support import CHAINLIT, LAYER
from tests.support.proxy import RoundRobin
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

ROUNDS = 3
# Older releases call `on_feedback` wherever the feedback comes to, on behalf of no session.
FEEDBACK_IN_SESSION = Version("2.7.2") <= CHAINLIT

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from layer import Layer


@cl.data_layer
def data_layer():
    return Layer()


@cl.on_feedback
def on_feedback(feedback):
    with open("feedback.txt", "a") as file:
        print(feedback.forId, file=file)


@cl.action_callback("press")
async def press(action):
    return "pressed"


@cl.on_mcp_connect
async def connect(connection, session):
    pass


@cl.on_message
async def answer(message):
    await cl.Message("You said: " + message.content).send()
"""

FILES = {"app.py": APP, "layer.py": LAYER}
CONFIG: dict[str, dict[str, object]] = {
    "project": {"session_timeout": 60},
    "features.spontaneous_file_upload": {"enabled": True},
}


@pytest.fixture(scope="module")
def servers() -> Iterator[list[ChainlitServer]]:
    first, second = (ChainlitServer(FILES, config=CONFIG) for _ in range(2))
    with first, second:
        yield [first, second]


@pytest.fixture
async def proxy(servers: list[ChainlitServer]) -> AsyncIterator[RoundRobin]:
    async with RoundRobin([server.port for server in servers]) as proxy:
        yield proxy


async def scrapes(servers: list[ChainlitServer]) -> list[Scrape]:
    return [await asyncio.to_thread(server.scrape) for server in servers]


def misses(before: Scrape, now: Scrape, kind: str = "lookup_misses") -> Counter[str]:
    """The misses, or the lookups, between two scrapes, by site."""
    name, label = f"chainlit_session_{kind}_total", "chainlit_lookup_site"

    def grown(site: str) -> int:
        return int(now.value(name, **{label: site}) - before.value(name, **{label: site}))

    return +Counter({site: grown(site) for site in catalog.LOOKUP_SITE.values})


class Requests:
    """All that a page asks of the process that has its session."""

    def __init__(self, http: httpx.AsyncClient, session: str) -> None:
        self._http = http
        self._session = session
        self._file = ""

    def all(self) -> dict[str, Callable[[], Awaitable[httpx.Response]]]:
        """Each request, and the site that its miss is counted for."""
        stored = dict.fromkeys(("objectKey", "chainlitKey", "url"))
        element = {"id": "e", "type": "custom", "name": "n", "display": "inline", **stored}
        on_element = {"sessionId": self._session, "element": element}
        action = {"name": "press", "payload": {}, "label": ""}
        mcp = {"sessionId": self._session, "name": "m"}
        return {
            "file_upload": self.upload,
            "file_read": self.read,
            "action": self._json(
                "POST", "/project/action", {"sessionId": self._session, "action": action}
            ),
            "element": self._json("PUT", "/project/element", on_element),
            "element ": self._json("DELETE", "/project/element", on_element),
            "mcp": self._json("DELETE", "/mcp", mcp),
            "mcp ": self._json(
                "POST", "/mcp", {**mcp, "clientType": "sse", "url": "http://127.0.0.1:1/sse"}
            ),
            "feedback": self._json(
                "PUT",
                "/feedback",
                {"sessionId": self._session, "feedback": {"forId": "s", "value": 1}},
            ),
        }

    async def upload(self) -> httpx.Response:
        answer = await self._http.post(
            "/project/file",
            params={"session_id": self._session},
            files={"file": ("notes.txt", b"text", "text/plain")},
        )
        if answer.status_code == 200:
            self._file = answer.json()["id"]
        return answer

    async def read(self) -> httpx.Response:
        where = {"session_id": self._session}
        return await self._http.get(f"/project/file/{self._file}", params=where)

    def _json(self, method: str, path: str, body: Any) -> Callable[[], Awaitable[httpx.Response]]:
        return lambda: self._http.request(method, path, json=body)


async def test_the_one_without_the_session_counts_the_misses(
    servers: list[ChainlitServer], proxy: RoundRobin
) -> None:
    visitor = Visitor(proxy.url, transports=["websocket"])
    await visitor.connect()
    assert (await visitor.say("hello")).texts == ["You said: hello"]
    home = proxy.turns[-1]
    with_it, without = sorted(servers, key=lambda server: server.port != home)
    before = await scrapes([with_it, without])

    failed: Counter[str] = Counter()
    rated = 0
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=proxy.url, limits=limits, timeout=60) as http:
        requests = Requests(http, visitor.session_id)
        for _ in range(ROUNDS):
            for name, ask in requests.all().items():
                # Each twice: once here and once there.
                answers = {}
                for _ in servers:
                    answer = await ask()
                    answers[proxy.turns[-1]] = answer
                bad = answers[without.port]
                good = answers[with_it.port]
                if name == "feedback":
                    # It is stored there, too; only `on_feedback` is not called.
                    assert (good.status_code, bad.status_code) == (200, 200)
                    rated += 1
                    assert with_it.read("feedback.txt").count("s\n") == rated
                    assert without.read("feedback.txt") == (
                        "" if FEEDBACK_IN_SESSION else "s\n" * rated
                    )
                else:
                    expected = {"file_upload": 404, "file_read": 401}.get(name, 500)
                    assert bad.status_code == expected, name
                    assert good.status_code != bad.status_code, (name, good.text)
                if name != "feedback" or FEEDBACK_IN_SESSION:
                    failed[name.strip()] += 1

    now = await scrapes([with_it, without])
    assert misses(before[0], now[0]) == {}
    assert misses(before[1], now[1]) == failed
    for earlier, later in zip(before, now, strict=True):
        assert misses(earlier, later, "lookups") == failed, "each was asked for as much"
    assert failed == {
        "file_upload": 3,
        "file_read": 3,
        "action": 3,
        "element": 6,
        "mcp": 6,
        **({"feedback": 3} if FEEDBACK_IN_SESSION else {}),
    }
    # A tab in the middle of a conversation comes back to the wrong one, which has nothing of it.
    await visitor.drop()
    came = Counter[int]()
    while len(came) < len(servers):
        await visitor.connect()
        came[proxy.turns[-1]] += 1
        await visitor.drop()
    again = await scrapes([with_it, without])
    assert misses(now[0], again[0]) == {}
    assert misses(now[1], again[1]) == {"socket": 1}
    for server, earlier, later in zip((with_it, without), now, again, strict=True):
        assert misses(earlier, later, "lookups") == {"socket": came[server.port]}


async def test_a_socket_without_its_session_counts_if_its_tab_must_have_had_one() -> None:
    app = APP.replace(
        'await cl.Message("You',
        "if message.content == 'resume from now on': cl.on_chat_resume(answer)\n"
        '    await cl.Message("You',
    )
    config: dict[str, dict[str, object]] = {"project": {"session_timeout": 1}}
    with ChainlitServer({**FILES, "app.py": app}, config=config) as server:

        async def counted(
            visitor: Visitor, thread: str | None
        ) -> tuple[Counter[str], Counter[str]]:
            before = await asyncio.to_thread(server.scrape)
            visitor.thread_id = thread
            await visitor.connect()
            await visitor.leave(clear=True)
            now = await asyncio.to_thread(server.scrape)
            return misses(before, now), misses(before, now, "lookups")

        thread = "0a1b2c3d-0000-4000-8000-000000000000"
        nothing: Counter[str] = Counter()
        assert await counted(Visitor(server.url), None) == (nothing, nothing), "a visitor"
        socket = {"socket": 1}
        assert await counted(Visitor(server.url), thread) == (socket, socket), (
            "a tab from elsewhere"
        )
        copilot = Visitor(server.url, client_type="copilot")
        assert await counted(copilot, thread) == (nothing, nothing), "it remembers its thread"

        late = Visitor(server.url)
        await late.connect()
        await late.say("hello")
        await late.drop()
        ends = {"chainlit_session_end_reason": "timeout"}
        await asyncio.to_thread(
            wait_until,
            lambda: server.scrape().sum("chainlit_session_ends_total", **ends) == 1,
            60,
            "the grace time to end",
        )
        assert late.thread_id
        assert await counted(late, late.thread_id) == (nothing, nothing), "it timed out here"

        visitor = Visitor(server.url)
        await visitor.connect()
        await visitor.say("resume from now on")
        assert await counted(Visitor(server.url), thread) == (nothing, nothing), "from the history"


async def test_polls_that_come_to_the_wrong_one(
    servers: list[ChainlitServer], proxy: RoundRobin
) -> None:
    before = await scrapes(servers)
    refused: Counter[int] = Counter()
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(base_url=proxy.url, limits=limits, timeout=60) as http:
        for _ in range(5):
            # A browser's own way: open by polling, then say what session it is.
            poll = {"EIO": "4", "transport": "polling"}
            opened = await http.get("/ws/socket.io/", params=poll)
            # One packet, of type 0.
            poll["sid"] = json.loads(opened.text.removeprefix("0"))["sid"]
            answer = await http.post("/ws/socket.io/", params=poll, content='40{"sessionId":"x"}')
            assert answer.status_code == 400
            assert "Invalid session" in answer.text
            refused[proxy.turns[-1]] += 1
            # Bad requests of other kinds are no misses.
            for wrong in ({"EIO": "3"}, {"transport": "pigeon"}):
                other = await http.get("/ws/socket.io/", params={"EIO": "4", **wrong})
                assert other.status_code == 400
            assert (
                await http.post("/ws/socket.io/", params={"EIO": "4", "transport": "polling"})
            ).status_code == 400
    now = await scrapes(servers)
    counted = {
        server.port: misses(earlier, later)["socket"]
        for server, earlier, later in zip(servers, before, now, strict=True)
    }
    assert +Counter(counted) == refused
    assert sum(refused.values()) == 5
    assert len(refused) == 2, "each of them has been the wrong one"


async def test_a_tab_whose_session_another_one_took(servers: list[ChainlitServer]) -> None:
    server = servers[0]
    first = Visitor(server.url, transports=["websocket"])
    await first.connect()
    second = Visitor(server.url, transports=["websocket"])
    second.session_id = first.session_id
    await second.connect()
    [before] = await scrapes([server])
    events = ["window_message", "chat_settings_change"]
    for event in events:
        await first.emit(event, {})
    if Version("2.9.5") <= CHAINLIT:
        events.append("fetch_favorites")
        await first.emit("fetch_favorites")
    assert (await second.say("hello")).texts == ["You said: hello"]
    await first.leave()
    await second.leave(clear=True)
    [now] = await scrapes([server])
    assert misses(before, now) == {"socket": len(events)}
