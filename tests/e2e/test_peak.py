"""The peak of sessions that no scrape ever saw."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from chainlit_otel.testing import Visitor
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

CROWD = 100
WINDOWS = ("15s", "1m", "5m", "1h", "process")

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.on_message
async def answer(message):
    await cl.Message("here").send()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP}) as server:
        yield server


def peaks(scrape: Scrape) -> dict[str, float]:
    return {
        window: scrape.value("chainlit_session_peak", chainlit_peak_window=window)
        for window in WINDOWS
    }


async def come_and_go(server: ChainlitServer) -> None:
    crowd = [Visitor(server.url, transports=["websocket"]) for _ in range(CROWD)]
    await asyncio.gather(*(visitor.connect() for visitor in crowd))
    await asyncio.gather(*(visitor.leave(clear=True) for visitor in crowd))


def test_a_crowd_between_two_scrapes_shows_in_the_peak_only(server: ChainlitServer) -> None:
    before = server.scrape()
    assert before.sum("chainlit_session_starts_total") == 0
    assert peaks(before) == dict.fromkeys(WINDOWS, 0)

    asyncio.run(come_and_go(server))

    # The last visitor is gone before the server knows of it.
    wait_until(
        lambda: server.scrape().sum("chainlit_session_active") == 0, 60, "everybody to be gone"
    )
    one, other = server.scrape(), server.scrape()
    print(f"active {one.sum('chainlit_session_active'):g}, peaks {peaks(one)}")
    assert one.sum("chainlit_session_starts_total") == CROWD
    assert one.sum("chainlit_session_active") == 0
    assert peaks(one) == peaks(other) == dict.fromkeys(WINDOWS, CROWD)

    # The window in which it was and the one after it have to pass.
    wait_until(lambda: peaks(server.scrape())["15s"] == 0, 31, "the 15 s window to forget")
    later = peaks(server.scrape())
    print(f"two windows later: {later}")
    assert later["process"] == CROWD
