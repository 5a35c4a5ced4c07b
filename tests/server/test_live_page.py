"""The live page as an application: its files, what it refuses, and streams of its events."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest

from chainlit_otel.core.sessions import SessionLedger
from chainlit_otel.guard import Guard
from chainlit_otel.live.page import Live
from chainlit_otel.server import live_page
from chainlit_otel.server.app import Guarded
from chainlit_otel.server.live_page import _MAX_QUEUED, MAX_STREAMS, RENEW, LivePage, _Answers
from tests.conftest import InternalErrors


async def health() -> Mapping[str, Any]:
    return {"status": "ok"}


class Opened:
    """The page, and one ledger of sessions behind it."""

    def __init__(self) -> None:
        self.live = Live()
        self.page = LivePage(self.live, health, Guard("server"))
        self.sessions = SessionLedger(self.live.sessions.ended, journal=self.live.journal)
        self.live._open_sessions = self.sessions.open

    @property
    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.page.app)
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.fixture
def opened() -> Opened:
    return Opened()


async def test_every_file_of_the_page_is_there_and_from_nowhere_else(opened: Opened) -> None:
    async with opened.client as client:
        index = await client.get("/")
        assert index.headers["content-type"] == "text/html; charset=utf-8"
        named = set(re.findall(r'(?:src|href)="(live/assets/[^"]+)"', index.text))
        assert {"live/assets/page.css", "live/assets/page.js"} <= named
        seen = set[str]()
        while named - seen:
            path = (named - seen).pop()
            seen.add(path)
            answer = await client.get(f"/{path}")
            assert answer.status_code == 200, path
            if path.endswith(".js"):
                assert answer.headers["content-type"].startswith("text/javascript")
                modules = re.findall(r'from "\./([\w.]+\.js)"', answer.text)
                named |= {f"live/assets/{module}" for module in modules}
            again = await client.get(f"/{path}", headers={"If-None-Match": answer.headers["etag"]})
            assert (again.status_code, again.content) == (304, b"")
        assert len(seen) > 10
    assert "://" not in re.sub(r"http://www\.w3\.org/\S+", "", index.text)
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|style=", index.text)


@pytest.mark.parametrize(
    "path",
    [
        "/live/assets/nothing.js",
        "/live/assets/../page.py",
        "/live/assets/..%2Fpage.py",
        "/live/assets/%2e%2e/history.py",
        "/live/data/nothing",
        "/live/data/sessions/nothing",
        "/live/data/sessions/../../healthz",
        "/live/data/turns/1",
        "/live/data/turns/-1",
        "/live/data/turns/\N{SUPERSCRIPT TWO}",
        "/live/data/turns/" + 5000 * "9",
        "/live/data/turns/",
        "/live/data/sessions/",
    ],
)
async def test_what_is_not_there(opened: Opened, path: str) -> None:
    async with opened.client as client:
        assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    "query", ["", "?step=2", "?step=1&since=x", "?step=60&since=nan", "?step=1&since=inf"]
)
async def test_a_history_is_asked_for_rightly(opened: Opened, query: str) -> None:
    async with opened.client as client:
        answer = await client.get(f"/live/data/history{query}")
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


@pytest.mark.parametrize("since", ["0", "-1e300", "1e300", "5.5"])
async def test_a_history_since_any_time(opened: Opened, since: str) -> None:
    async with opened.client as client:
        for step in (1, 60):
            answer = await client.get(f"/live/data/history?step={step}&since={since}")
            assert (answer.status_code, answer.json()["step"]) == (200, step)


async def test_who_waits_for_the_same_gets_the_same_and_who_asks_later_what_is_new(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_page, "_PAUSE", 1e9)
    over = asyncio.Event()

    async def sleep(seconds: float) -> None:
        if seconds > 0:
            await over.wait()

    opened.page._answers = _Answers(sleep)
    session = opened.sessions.start("websocket", "webapp", "new", "ab" * 8)
    made = 0
    read = opened.live.read_sessions

    def count() -> dict[str, Any]:
        nonlocal made
        made += 1
        return read()

    opened.live.read_sessions = count  # type: ignore[method-assign]
    async with opened.client as client:

        async def state() -> str:
            data = (await client.get("/live/data/sessions")).json()
            (row,) = data["open"] + data["ended"]
            return str(row["state"])

        assert await asyncio.gather(*(state() for _ in range(5))) == ["connected"] * 5
        # In the pause all wait for one that has what has happened by then.
        waiting = [asyncio.ensure_future(state()) for _ in range(5)]
        await settled()
        assert made == 1
        # What is of another kind does not wait for it.
        assert (await client.get("/live/data/turns")).json()["rows"] == []
        opened.sessions.end(session, "cleared")
        waiting[0].cancel()
        over.set()
        assert await asyncio.gather(*waiting[1:]) == ["ended"] * 4
        assert made == 2


class Browser:
    """Reads a stream, as slowly as it likes."""

    def __init__(self, opened: Opened) -> None:
        self.renewed = 0
        self.status = 0
        self.events: list[tuple[str, Any]] = []
        self.reads = asyncio.Event()
        self.reads.set()
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/live/data/stream",
            "headers": [],
            "query_string": b"",
            "root_path": "",
            RENEW: self._renew,
        }
        self._gone = asyncio.Event()
        self.task = asyncio.ensure_future(opened.page.app(scope, self._receive, self._send))

    def _renew(self) -> None:
        self.renewed += 1

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        await self.reads.wait()
        for event in message["body"].decode().split("\n\n")[:-1]:
            name, data = event.split("\n")
            found = name.removeprefix("event: "), json.loads(data.removeprefix("data: "))
            self.events.append(found)

    async def leave(self) -> None:
        self._gone.set()
        await self.task


@pytest.fixture
async def browser(opened: Opened) -> AsyncIterator[Browser]:
    browser = Browser(opened)
    await settled()
    yield browser
    await browser.leave()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_stream_sends_what_changes(opened: Opened, browser: Browser) -> None:
    session = opened.sessions.start("websocket", "webapp", "new", "ab" * 8)
    opened.page._publish()
    opened.sessions.drop(session)
    opened.page._publish()
    opened.page._publish()
    await settled()
    assert [name for name, _ in browser.events] == [
        *("tick", "tick", "sessions", "tick", "sessions", "tick"),
    ]
    rows = [row for name, data in browser.events if name == "sessions" for row in data["rows"]]
    assert [(row["id"], row["state"]) for row in rows] == [
        ("ab" * 8, "connected"),
        ("ab" * 8, "disconnected"),
    ]
    # What is sent and taken gives the stream more time.
    assert browser.renewed == 4


async def test_who_does_not_read_is_given_up(opened: Opened, browser: Browser) -> None:
    other = Browser(opened)
    await settled()
    browser.reads.clear()
    for _ in range(_MAX_QUEUED + 2):
        opened.page._publish()
        await settled()
    assert opened.page._streams != set()
    assert len(opened.page._streams) == 1
    assert len(other.events) == _MAX_QUEUED + 3
    renewed = browser.renewed
    opened.page._publish()
    await settled()
    assert browser.renewed == renewed
    browser.reads.set()
    await asyncio.wait_for(browser.task, 10)
    await other.leave()


async def test_so_many_pages_may_be_open_and_a_closed_one_makes_room(opened: Opened) -> None:
    browsers = [Browser(opened) for _ in range(MAX_STREAMS + 1)]
    await settled()
    assert [b.status for b in browsers] == [200] * MAX_STREAMS + [503]
    await browsers[0].leave()
    browsers.append(Browser(opened))
    await settled()
    assert browsers[-1].status == 200
    for browser in browsers[1:]:
        await browser.leave()
    assert opened.page._streams == set()


async def test_a_browser_that_is_gone_at_once_takes_no_place(opened: Opened) -> None:
    browser = Browser(opened)
    await browser.leave()
    assert opened.page._streams == set()


async def test_a_server_that_stops_ends_the_streams(opened: Opened, browser: Browser) -> None:
    running = asyncio.ensure_future(opened.page.run())
    await settled()
    running.cancel()
    await asyncio.wait([running])
    await asyncio.wait_for(browser.task, 10)


async def test_what_fails_is_counted_and_answered(
    opened: Opened, expected_internal_errors: InternalErrors
) -> None:
    def fail() -> None:
        raise LookupError

    opened.live.read_turns = fail  # type: ignore[method-assign, assignment]
    guard = opened.page._guard
    transport = httpx.ASGITransport(Guarded(opened.page.app, guard))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.get("/live/data/turns")).status_code == 500
        assert guard.errors == 1
        assert (await client.get("/live/data/sessions")).status_code == 200
