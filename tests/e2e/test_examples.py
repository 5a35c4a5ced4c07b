"""The examples run as their READMEs say, and are observed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support.examples import EXAMPLES, dialogs, follow, started_by_script
from tests.support.greeting import greeted
from tests.support.http import fetch
from tests.support.scrape import wait_until, wait_until_async
from tests.support.server import ChainlitServer
from tests.support.sign_in import sign_in

pytestmark = pytest.mark.e2e


def files(example: str) -> dict[str, str]:
    return {path.name: path.read_text() for path in (EXAMPLES / example).glob("*.py")}


def started(server: ChainlitServer, type: str) -> float:
    return server.scrape().sum("chainlit_session_starts_total", chainlit_session_type=type)


def test_quickstart() -> None:
    with ChainlitServer(files("quickstart")) as server:
        sessions = 0
        for dialog, visitors in (("greeting", 1), ("lost_connection", 2), ("people", 4)):
            sessions += follow(server.url, "quickstart", dialog, visitors).sessions
            assert started(server, "websocket") == sessions
    assert sessions == 1 + 2 * 2 + 4
    assert dialogs("quickstart") == ["greeting", "lost_connection", "people"]


# Nobody deletes an HTTP session: it ends when Python collects it, which may take its time.
COLLECT = """

@app.get("/collect")
async def collect() -> None:
    __import__("gc").collect()
"""


def test_fastapi_mount() -> None:
    command = ["uvicorn", "main:app", "--port", "{port}"]
    example = files("fastapi_mount")
    example["main.py"] += COLLECT
    with ChainlitServer(example, command=command, path="/chat") as server:
        origin = server.url.removesuffix("/chat")
        asked = httpx.post(f"{origin}/ask", params={"question": "why"})
        assert asked.json() == {"answer": "You asked: why"}

        def ended() -> bool:
            # What answered may still hold the session when the answer is here, and the timer by
            # which uvicorn closes an idle connection holds it for five seconds more.
            fetch(f"{origin}/collect").raise_for_status()
            ends = server.scrape().sum("chainlit_session_ends_total", chainlit_session_type="http")
            return ends == 1

        wait_until(ended, 60, "the HTTP session to end")
        follow(server.url, "fastapi_mount", "greeting")
        assert (started(server, "http"), started(server, "websocket")) == (1, 1)


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that everybody may enter: PostgreSQL runs as somebody else than root."""
    with tempfile.TemporaryDirectory(prefix="chainlit-otel-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize(
    ("example", "password", "answer"),
    [("postgres", "demo", "You said: hello "), ("redis_sessions", "secret", "You said: hello")],
)
def test_one_command_starts_the_database_too(
    example: str, password: str, answer: str, open_directory: Path
) -> None:
    async def talk(url: str) -> None:
        headers = await sign_in(url, "ada", password)
        visitor = Visitor(url, headers=headers)
        await visitor.connect()
        await greeted(visitor)
        assert (await visitor.say("hello")).texts == [answer]
        async with httpx.AsyncClient(base_url=url, headers=headers) as http:

            async def listed() -> bool:
                page = {"pagination": {"first": 20}, "filter": {}}
                threads = (await http.post("/project/threads", json=page)).json()["data"]
                return [thread["name"] for thread in threads] == ["hello"]

            await wait_until_async(listed, 60, "the chat to be in the history")
        await visitor.leave()

    with started_by_script(example, open_directory) as (url, temporary):
        asyncio.run(talk(url))
        for dialog in dialogs(example):
            follow(url, example, dialog)
        assert list(temporary.iterdir())
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ({}, "Set DATABASE_URL, such as postgresql://user:password@localhost:5432/chat"),
        (
            {"DATABASE_URL": "postgresql://a:secret@127.0.0.1:1/x"},
            "The database of DATABASE_URL cannot be used: ",
        ),
    ],
)
def test_without_a_database_one_line_says_so(url: dict[str, str], line: str) -> None:
    files = {path.name: path.read_text() for path in (EXAMPLES / "postgres").glob("*.*")}
    env = {"CHAINLIT_AUTH_SECRET": "a secret of thirty-two characters", **url}
    with pytest.raises(RuntimeError, match="the server ended with 1") as ended:
        ChainlitServer(files, env=env).start()
    assert line in str(ended.value)
    assert "Traceback" not in str(ended.value)
    assert "secret@" not in str(ended.value)
