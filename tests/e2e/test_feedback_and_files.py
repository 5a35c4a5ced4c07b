"""Feedback, files and users: what was stored and who is there, against what the client did."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from chainlit_otel import catalog
from chainlit_otel.testing import Visitor
from tests.support import LAYER
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import chainlit as cl
from chainlit import data
from layer import Layer


@cl.data_layer
def data_layer():
    return Layer()


@cl.password_auth_callback
def sign_in(name, password):
    return cl.User(identifier=name)


@cl.on_feedback
def on_feedback(feedback):
    raise ValueError("What is stored is stored.")


@cl.on_message
async def answer(message):
    if message.content == "disable":
        import chainlit_otel

        chainlit_otel.disable()
        await cl.Message(str(sorted(vars(data.get_data_layer())))).send()
    else:
        elements = [
            cl.File(name="f", content=b"x" * int(size)) for size in message.content.split()
        ]
        elements += [cl.Image(name="elsewhere", url="http://127.0.0.1/x.png")]
        await cl.Message("Here.", elements=elements).send()
"""

ENABLE = """
import chainlit_otel

chainlit_otel.enable()
"""


def app(enabling: str) -> ChainlitServer:
    return ChainlitServer(
        {"app.py": enabling + APP, "layer.py": LAYER},
        env={"CHAINLIT_AUTH_SECRET": "a-secret-of-this-test-and-nothing-else"},
        config={
            "project": {"session_timeout": 60},
            "features.spontaneous_file_upload": {"enabled": True, "max_size_mb": 1},
        },
    )


class Client:
    """A signed-in user with a tab and a tool for HTTP."""

    def __init__(self, server: ChainlitServer) -> None:
        self.server = server
        limits = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.AsyncClient(base_url=server.url, timeout=60, limits=limits)

    async def sign_in(self, name: str) -> Visitor:
        self.http.cookies.clear()
        form = {"username": name, "password": "any"}
        (await self.http.post("/login", data=form)).raise_for_status()
        cookies = "; ".join(f"{k}={v}" for k, v in self.http.cookies.items())
        return Visitor(self.server.url, headers={"Cookie": cookies}, transports=["websocket"])

    async def rate(self, value: int, session: str = "", step: str = "step") -> int:
        feedback = {"forId": step, "value": value}
        body = {"feedback": feedback, "sessionId": session}
        return (await self.http.put("/feedback", json=body)).status_code

    async def take_back(self, step: str = "step") -> int:
        body = {"feedbackId": step}
        return (await self.http.request("DELETE", "/feedback", json=body)).status_code

    async def upload(self, session: str, size: int) -> int:
        files = {"file": ("notes.txt", b"x" * size, "text/plain")}
        where = {"session_id": session}
        return (await self.http.post("/project/file", params=where, files=files)).status_code

    def break_down(self, **methods: int) -> None:
        (self.server.directory / "broken.json").write_text(json.dumps(methods))

    async def scrape(self) -> Scrape:
        return await asyncio.to_thread(self.server.scrape)


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with app(ENABLE) as server:
        yield server


@pytest.fixture
async def client(server: ChainlitServer) -> AsyncIterator[Client]:
    client = Client(server)
    yield client
    client.break_down()
    await client.http.aclose()
    assert (await client.scrape()).sum("chainlit_otel_internal_errors_total") == 0


def feedback(scrape: Scrape) -> dict[str, float]:
    name, label = "chainlit_feedback_total", "chainlit_feedback_value"
    return {value: scrape.value(name, **{label: value}) for value in catalog.FEEDBACK_VALUE.values}


def files(scrape: Scrape, what: str) -> dict[str, float]:
    name, label = f"chainlit_file_size_bytes_{what}", "chainlit_file_direction"
    return {way: scrape.sum(name, **{label: way}) for way in catalog.FILE_DIRECTION.values}


async def test_feedback_is_what_was_stored(client: Client) -> None:
    visitor = await client.sign_in("ada")
    await visitor.connect()
    assert feedback(await client.scrape()) == {"positive": 0, "negative": 0, "deleted": 0}
    answers = [await client.rate(value, visitor.session_id) for value in (1, 0, 1, 1)]
    answers += [await client.take_back(), await client.take_back()]
    client.break_down(upsert_feedback=0, delete_feedback=0)
    answers += [await client.rate(1), await client.rate(0), await client.take_back()]
    # The second time there is nothing to take back; Chainlit does not tell.
    assert answers == [200, 200, 200, 200, 200, 200, 500, 500, 500]
    assert feedback(await client.scrape()) == {"positive": 3, "negative": 1, "deleted": 1}
    await visitor.leave(clear=True)


async def test_files_by_direction_and_size(client: Client) -> None:
    visitor = await client.sign_in("ada")
    await visitor.connect()
    sizes = [1, 1024, 1025, 70_000]
    answers = [await client.upload(visitor.session_id, size) for size in sizes]
    # Too large, for somebody else's session, for nobody's: none of them is kept.
    answers.append(await client.upload(visitor.session_id, 2_000_000))
    answers.append(await client.upload("nobody", 5))
    await client.sign_in("bob")
    answers.append(await client.upload(visitor.session_id, 5))
    assert answers == [200, 200, 200, 200, 400, 404, 401]
    assert (await visitor.say("3000 5 5")).texts == ["Here."]
    scrape = await client.scrape()
    assert files(scrape, "count") == {"upload": 4, "element": 3}
    assert files(scrape, "sum") == {"upload": sum(sizes), "element": 3010}
    small = {"chainlit_file_direction": "upload", "le": "1024.0"}
    assert scrape.value("chainlit_file_size_bytes_bucket", **small) == 2
    await visitor.leave(clear=True)


async def test_users_are_distinct_and_connected(client: Client) -> None:
    ada, again, bob = [await client.sign_in(name) for name in ("ada", "ada", "bob")]

    async def users() -> float:
        return (await client.scrape()).value("chainlit_user_active")

    async def become(number: int) -> None:
        async def reached() -> bool:
            return await users() == number

        await wait_until_async(reached, 60, f"{number} users")

    await become(0)
    await ada.connect()
    await again.connect()
    assert await users() == 1
    await bob.connect()
    assert await users() == 2
    # A second tab takes the session over; the first one's end changes nothing.
    second = await client.sign_in("bob")
    second.session_id = bob.session_id
    await second.connect()
    await bob.leave()
    await second.say("1")
    assert await users() == 2
    await ada.drop()
    await again.say("1")
    assert await users() == 2
    await again.leave(clear=True)
    await become(1)
    await ada.reconnect()
    assert await users() == 2
    await ada.leave(clear=True)
    await second.leave()
    await become(0)
    everything = (await client.scrape()).text
    assert '"ada"' not in everything
    assert '"bob"' not in everything


# The app does the same without us, and with us broken

BREAK = """
import chainlit_otel
from chainlit_otel.core.users import Users
from chainlit_otel.probes import files
from chainlit_otel.probes.data_layer import feedback
from chainlit_otel.probes.retained import Retained
from chainlit_otel.pipeline.instruments import Telemetry


def broken(*args, **kwargs):
    raise RuntimeError("broken on purpose")


for owner, names in (
    (feedback.Feedback, ["on_upserted", "on_deleted", "given"]),
    (files, ["_direction"]),
    (Users, ["connect", "disconnect", "active"]),
    (Retained, ["by_kind"]),
    (Telemetry, ["record"]),
):
    for name in names:
        setattr(owner, name, broken)
chainlit_otel.enable()
"""


async def everything(server: ChainlitServer) -> list[object]:
    """Do everything; return what the client got."""
    client = Client(server)
    visitor = await client.sign_in("ada")
    await visitor.connect()
    session = visitor.session_id
    reported: list[object] = [await client.rate(value, session) for value in (1, 0)]
    reported += [await client.take_back(), await client.take_back()]
    client.break_down(upsert_feedback=0, delete_feedback=0)
    reported += [await client.rate(1), await client.take_back()]
    reported += [await client.upload(*upload) for upload in ((session, 5), (session, 2_000_000))]
    reported += [(await visitor.say("3000")).texts, [event.name for event in visitor.events]]
    reported.append([file.stat().st_size for file in stored(server, session)])
    await visitor.drop()
    await visitor.reconnect()
    if "chainlit_otel" in server.files["app.py"].partition("import chainlit as cl")[0]:
        assert (await visitor.say("disable")).texts == ["['authors', 'feedback', 'users']"]
    client.break_down()
    reported += [await client.rate(1, session), await client.upload(session, 7)]
    await visitor.leave(clear=True)
    await client.http.aclose()
    return reported


def stored(server: ChainlitServer, session: str) -> list[Path]:
    files = (server.directory / ".files" / session).iterdir()
    return sorted(files, key=lambda file: file.stat().st_size)


@pytest.fixture(scope="module")
def without_us() -> Callable[[], list[object]]:
    with app("") as server:
        reported = asyncio.run(everything(server))
    return lambda: reported


@pytest.mark.parametrize("enabling", [ENABLE, BREAK], ids=["with us", "with us broken"])
async def test_the_app_does_the_same(enabling: str, without_us: Callable[[], list[object]]) -> None:
    with app(enabling) as server:
        assert await everything(server) == without_us()
        for probe in ("feedback", "files", "sessions"):
            failed = f"the {probe} probe failed" in server.log
            assert failed == (enabling is BREAK), probe
