"""Sessions by the thousand, each a bare websocket that takes little of its own."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp

_AT_ONCE = 20
_TIMEOUT = 300.0


class Session:
    """One session of a page, which answers to pings.

    Args:
        client: Opens the websocket.
        url: Of the chat.
    """

    def __init__(self, client: aiohttp.ClientSession, url: str) -> None:
        self._client = client
        self._url = url
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._reading: asyncio.Task[None] | None = None
        self._task_ended = asyncio.Event()

    async def connect(self) -> None:
        """Open the page, and wait until `on_chat_start` has run."""
        url = f"{self._url}/ws/socket.io/?EIO=4&transport=websocket"
        self._socket = await self._client.ws_connect(url, max_msg_size=0)
        self._reading = asyncio.create_task(self._read(self._socket))
        await self._task_end()

    async def say(self, text: str) -> None:
        """Send a message, and wait until the app has answered it."""
        said = {"id": str(uuid.uuid4()), "name": "user", "type": "user_message", "output": text}
        said["createdAt"] = "2026-01-01T00:00:00Z"
        await self._send(
            f"42{json.dumps(['client_message', {'message': said, 'fileReferences': []}])}"
        )
        await self._task_end()

    async def leave(self) -> None:
        """End the session, and close the page."""
        await self._send('42["clear_session"]')
        await self.close()

    async def close(self) -> None:
        """Close the page."""
        assert self._socket is not None
        assert self._reading is not None
        await self._socket.close()
        await self._reading

    async def _send(self, packet: str) -> None:
        assert self._socket is not None
        self._task_ended.clear()
        await self._socket.send_str(packet)

    async def _task_end(self) -> None:
        await asyncio.wait_for(self._task_ended.wait(), _TIMEOUT)

    async def _read(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        auth = {"sessionId": str(uuid.uuid4()), "clientType": "webapp", "userEnv": "{}"}
        async for message in socket:
            text = str(message.data)
            if text.startswith("0"):
                await socket.send_str(f"40{json.dumps(auth)}")
            elif text.startswith("40"):
                await socket.send_str('42["connection_successful"]')
            elif text == "2":
                await socket.send_str("3")
            elif text.startswith('42["task_end"'):
                self._task_ended.set()


@asynccontextmanager
async def pages() -> AsyncIterator[aiohttp.ClientSession]:
    """Give what opens as many websockets as are wanted."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        yield client


async def connect(client: aiohttp.ClientSession, url: str, number: int) -> list[Session]:
    """Connect so many sessions, some at a time."""
    sessions = [Session(client, url) for _ in range(number)]
    for begin in range(0, number, _AT_ONCE):
        await asyncio.gather(*(each.connect() for each in sessions[begin : begin + _AT_ONCE]))
    return sessions
