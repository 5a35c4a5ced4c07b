"""The examples run as their READMEs say, and are observed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from chainlit_otel.cli.visitors import Visitor
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).parents[2] / "examples"


def files(example: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in (EXAMPLES / example).glob("*.py")}


def chat(url: str, text: str) -> list[str]:
    async def visit() -> list[str]:
        visitor = Visitor(url)
        await visitor.connect()
        answers = await visitor.talk(text)
        await visitor.leave()
        return answers

    return asyncio.run(visit())


def started(server: ChainlitServer, type: str) -> float:
    return server.scrape().sum("chainlit_session_starts_total", chainlit_session_type=type)


def test_quickstart() -> None:
    with ChainlitServer(files("quickstart")) as server:
        assert chat(server.url, "hello") == ["You said: hello"]
        assert started(server, "websocket") == 1


def test_fastapi_mount() -> None:
    command = ["uvicorn", "main:app", "--port", "{port}"]
    with ChainlitServer(files("fastapi_mount"), command=command, path="/chat") as server:
        asked = httpx.post(server.url.removesuffix("/chat") + "/ask", params={"question": "why"})
        assert asked.json() == {"answer": "You asked: why"}
        wait_until(
            lambda: (
                server.scrape().sum("chainlit_session_ends_total", chainlit_session_type="http")
                == 1
            ),
            5,
            "the HTTP session to end",
        )
        assert chat(server.url, "hello") == ["You said: hello"]
        assert (started(server, "http"), started(server, "websocket")) == (1, 1)
