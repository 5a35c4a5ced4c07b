"""What Chainlit keeps for sessions that are gone, and that our own ledgers let go of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import httpx
import pytest

from chainlit_otel import catalog
from chainlit_otel.testing import Visitor
from tests.support import LAYER
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

MAIN = """
import asyncio
import gc

from chainlit.context import init_http_context
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

app = FastAPI()
gate = asyncio.Event()


async def use():
    import chainlit as cl

    init_http_context()
    cl.user_session.set("key", "value")
    await cl.Message("Said.", elements=[cl.File(name="f", content=b"x")]).send()


@app.get("/use")
async def in_a_moment():
    await use()
    return {}


@app.get("/delete")
async def and_delete():
    from chainlit.context import context

    await use()
    await context.session.delete()
    return {}


@app.get("/hold")
async def hold():
    await use()
    await gate.wait()
    return {}


@app.get("/release")
async def release():
    gate.set()
    return {}


@app.get("/collect")
async def collect():
    gc.collect()
    return {}


mount_chainlit(app=app, target="app.py", path="/chat")
"""

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from layer import Layer


@cl.data_layer
def data_layer():
    return Layer()


@cl.on_message
async def answer(message):
    cl.user_session.set("key", "value")
    await cl.Message("Here.", elements=[cl.File(name="f", content=b"x")]).send()
"""

FILES = {"main.py": MAIN, "app.py": APP, "layer.py": LAYER}
UVICORN = ["uvicorn", "main:app", "--port", "{port}", "--log-level", "critical"]


@pytest.fixture
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer(
        FILES, config={"project": {"session_timeout": 1}}, command=UVICORN, path="/chat"
    ) as server:
        yield server


def retained(scrape: Scrape) -> dict[str, float]:
    name, label = "chainlit_retained", "chainlit_retained_kind"
    return {kind: scrape.value(name, **{label: kind}) for kind in catalog.RETAINED_KIND.values}


async def scrape(server: ChainlitServer) -> Scrape:
    return await asyncio.to_thread(server.scrape)


async def test_what_http_sessions_leave_behind(server: ChainlitServer) -> None:
    visitor = Visitor(server.url, transports=["websocket"])
    await visitor.connect()
    assert (await visitor.say("hello")).texts == ["Here."]
    # One connection a request: uvicorn holds the last request's context on a kept one.
    once = {"Connection": "close"}
    origin = f"http://127.0.0.1:{server.port}"
    async with httpx.AsyncClient(base_url=origin, headers=once, timeout=60) as http:
        held = asyncio.create_task(http.get("/hold"))
        for path in ("/use", "/use", "/delete", "/delete", "/delete"):
            (await http.get(path)).raise_for_status()

        async def all_have_files() -> bool:
            # The visitor, the one who is held, and two who left theirs.
            return len(list((server.directory / ".files").iterdir())) == 4

        await wait_until_async(all_have_files, 60, "the files")
        await http.get("/collect")
        # Those who are there have as much, and do not count.
        assert retained(await scrape(server)) == {
            "chat_contexts": 5,
            "user_sessions": 5,
            "sessions": 0,
            "files": 2,
        }
        await http.get("/release")
        await held
        await http.get("/collect")
    now = retained(await scrape(server))
    assert (now["chat_contexts"], now["user_sessions"]) == (6, 6)
    await visitor.leave(clear=True)

    async def gone() -> bool:
        return retained(await scrape(server))["chat_contexts"] == 7

    await wait_until_async(gone, 60, "the visitor's end")
    now = retained(await scrape(server))
    assert (now["user_sessions"], now["sessions"]) == (6, 0)


async def test_sessions_that_chainlit_cannot_let_go_of(server: ChainlitServer) -> None:
    (server.directory / "broken.json").write_text(json.dumps({"update_thread": 10**6}))
    visitors = [Visitor(server.url, transports=["websocket"]) for _ in range(3)]
    for visitor in visitors:
        await visitor.connect()
        assert (await visitor.say("hello")).texts == ["Here."]
    (server.directory / "broken.json").write_text(json.dumps({"update_thread": 0}))
    await visitors[0].leave(clear=True)
    await visitors[1].leave()
    await visitors[2].drop()

    async def over() -> Scrape | None:
        now = await scrape(server)
        return await scrape(server) if now.sum("chainlit_session_ends_total") == 3 else None

    now = await wait_until_async(over, 60, "the end of the grace time")
    assert now is not None
    assert now.sum("chainlit_session_active") == 0
    assert now.sum("chainlit_connection_active") == 0
    assert now.sum("chainlit_otel_internal_errors_total") == 0
    # Chainlit holds the sessions, and with them all the rest, which is not theirs alone.
    assert retained(now) == {"chat_contexts": 0, "user_sessions": 0, "sessions": 3, "files": 0}
