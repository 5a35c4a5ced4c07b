"""Chainlit's own page in a real browser, and a network between both that can be lost."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import struct
from collections.abc import AsyncIterator, Callable

import pytest
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.support.scrape import wait_until_async
from tests.support.server import ChainlitServer

TIMEOUT = 15.0
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The page asks for fonts from elsewhere; a test has no business there.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_RESET = struct.pack("ii", 1, 0)
_CHUNK = 65536


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run a headless Chromium; a machine without one fails the test."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("the browser tests need a `chromium` on the PATH", pytrace=False)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


class Network:
    """The way from the browser to the server: a TCP proxy on the loopback interface.

    Taking the browser offline would not do: it leaves a websocket that is open as it is.

    Args:
        port: where the server listens.

    Attributes:
        url: address of the page by this way.
        refused: how many connections were turned away while the network was lost.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: asyncio.Server | None = None
        self._lost = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._carriers: set[asyncio.Task[None]] = set()
        self.url = ""
        self.refused = 0

    def lose(self) -> None:
        """Reset every connection, and each new one until `restore`."""
        self._lost = True
        for writer in self._writers:
            _reset(writer)

    def restore(self) -> None:
        """Carry connections again."""
        self._lost = False

    async def __aenter__(self) -> Network:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        self.lose()
        await asyncio.gather(*self._carriers)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._lost:
            self.refused += 1
            _reset(writer)
            return
        carrier = asyncio.create_task(self._carry(reader, writer))
        self._carriers.add(carrier)
        carrier.add_done_callback(self._carriers.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            _reset(writer)
        else:
            self._writers.add(to_server)
            await asyncio.gather(_pump(reader, to_server), _pump(from_server, writer))
            self._writers.discard(to_server)
        self._writers.discard(writer)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


class User:
    """Somebody in front of a browser of his own, who opens the page of a Chainlit app.

    Args:
        context: the browser, without anything in its cache.
        network: the way to the app.

    Attributes:
        network: the way to the app.
    """

    def __init__(self, context: BrowserContext, network: Network) -> None:
        self._context = context
        self._tabs: list[Page] = []
        self._questions = 0
        self.network = network

    @property
    def is_there(self) -> bool:
        """Whether a tab is open."""
        return bool(self._tabs)

    async def open_tab(self) -> None:
        """Open the page in a new tab and turn to it."""
        tab = await self._context.new_page()
        tab.set_default_timeout(TIMEOUT * 1000)
        self._tabs.append(tab)
        await tab.goto(self.network.url)

    async def close_tab(self) -> None:
        """Close the tab."""
        await self._tabs.pop().close()

    async def reload(self) -> None:
        """Reload the page."""
        await self._tabs[-1].reload()

    async def new_chat(self) -> None:
        """Press *New Chat*, and *Confirm* in the dialog that opens."""
        tab = self._tabs[-1]
        await tab.locator("#new-chat-button").click()
        await tab.locator("#new-chat-dialog #confirm").click()
        await tab.locator("#new-chat-dialog").wait_for(state="detached")

    async def ask(self) -> str:
        """Send a message and return the answer, once it is all there."""
        tab = self._tabs[-1]
        self._questions += 1
        question = f"question {self._questions}"
        await tab.locator("#chat-input").fill(question)
        await tab.locator("#chat-submit").click()
        answer = tab.get_by_text(re.compile(rf"^answer \d+ to {question}$"))
        await answer.wait_for()
        # While the app is busy, a button to stop it stands where the one to send stands.
        await tab.locator("#chat-submit").wait_for()
        return await answer.inner_text()

    async def lose_network(self) -> None:
        """Lose the network, and have the page try in vain to come back."""
        self.network.lose()
        await self.until(lambda: self.network.refused > 0, "the page to try to come back")
        await self._tabs[-1].get_by_text("Could not reach the server").wait_for()

    async def until(self, condition: Callable[[], bool], message: str) -> None:
        """Wait for a condition."""

        async def ask() -> bool:
            return condition()

        await wait_until_async(ask, TIMEOUT, message)


@contextlib.asynccontextmanager
async def user_of(server: ChainlitServer, browser: Browser) -> AsyncIterator[User]:
    """Somebody with a fresh browser and a way to the server; both are gone afterwards."""
    async with Network(server.port) as network:
        context = await browser.new_context(locale="en-US")
        try:
            yield User(context, network)
        finally:
            await context.close()
