"""Whoever besets the admin server of a real app: visitors get in, scrapers are answered."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support.http import fetch
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

MOST = 48
APP = """
import threading
import time

import chainlit_otel

chainlit_otel.enable()
called = threading.Event()
goes_on = threading.Event()


def connections():
    called.set()
    goes_on.wait(30)
    raise SystemExit(1)


chainlit_otel.watch_pool("stuck", connections)

import chainlit as cl


@cl.on_message
async def answer(message):
    if message.content == "go on":
        goes_on.set()
    await cl.Message("done").send()
"""


def held(server: ChainlitServer) -> int:
    """Connections of the admin server that its process has taken and not closed."""
    established = "01"
    rows = [row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    taken = {
        f"socket:[{row[9]}]"
        for row in rows
        if row[3] == established and port(row[1]) == server.admin_port
    }
    files = list(Path(f"/proc/{server.pid}/fd").iterdir())
    return sum(str(file.readlink()) in taken for file in files if file.is_symlink())


def port(address: str) -> int:
    return int(address.partition(":")[2], 16)


async def test_half_sent_requests_keep_nobody_out() -> None:
    with ChainlitServer({"app.py": APP}) as server, ExitStack() as stack:
        for _ in range(4 * MOST):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.admin_port))
            )
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHo")
        await asyncio.to_thread(wait_until, lambda: 0 < held(server) <= MOST, 60, "the connections")
        visitor = Visitor(server.url)
        await visitor.connect()
        assert (await visitor.say("hello")).texts == ["done"]

        def scraped() -> Scrape | None:
            try:
                answer = fetch(server.metrics_url)
            except httpx.TransportError:
                return None
            return Scrape(answer.text) if answer.status_code == 200 else None

        # Those who were there first have a second to say what they want.
        scrape = await asyncio.to_thread(wait_until, scraped, 60, "a scrape")
        assert scrape is not None
        assert scrape.sum("chainlit_session_starts_total") == 1
        assert held(server) <= MOST

        # A function of the app hangs, and then ends its thread; both are counted, and no more.
        def failed(times: int) -> bool:
            errors = "chainlit_otel_internal_errors_total"
            return server.scrape().sum(errors, chainlit_otel_probe="pools") >= times

        await asyncio.to_thread(
            wait_until, lambda: failed(1), 10, "the error of the one that hangs"
        )
        assert (await visitor.say("go on")).texts == ["done"]
        await asyncio.to_thread(
            wait_until, lambda: failed(2), 10, "the error of the one that exits"
        )
        health = await asyncio.to_thread(fetch, server.metrics_url.replace("/metrics", "/healthz"))
        assert health.json()["internal_errors"]["server"] == 0

        foreign = {"Host": "evil.example"}
        for path in ("/metrics", "/healthz", "/"):
            url = server.metrics_url.replace("/metrics", path)
            refused = await asyncio.to_thread(fetch, url, headers=foreign)
            assert refused.status_code == 403
        await visitor.leave()
