"""The live page and its data as an ASGI application; see `chainlit_otel.live`."""

from __future__ import annotations

import asyncio
import gzip
import json
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from importlib.resources import files
from mimetypes import guess_type
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from chainlit_otel.guard import Guard
from chainlit_otel.live.page import Live

_Read = Callable[[], Mapping[str, Any] | None]

LiveHealth = Callable[[], Awaitable[Mapping[str, Any]]]
"""Returns what the page shows of our own health."""

RENEW = "chainlit_otel.renew"
"""The key of a scope under which is what gives an answer more time to be read."""

MAX_STREAMS = 24
"""How many pages may be open at a time: half of the connections that the server has."""

_MAX_QUEUED = 60  # messages for a page that reads too slowly
_PAUSE = 2.0  # seconds for each second that an answer has taken
_COMPRESSED = 4096  # bytes from which on an answer is compressed
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_LATE = 0.05  # seconds after the full second at which the figures are read


class LivePage:
    """Serves the page, samples its figures each second, and sends them to whoever has it open.

    Args:
        live: What it shows.
        health: What it shows of our own health.
        guard: Holds what goes wrong.
    """

    def __init__(self, live: Live, health: LiveHealth, guard: Guard) -> None:
        self._live = live
        self._health = health
        self._guard = guard
        # Read here, and not in the thread of the server, which must import nothing.
        self._assets = {name: (content, kind, tag) for name, content, kind, tag in _read_assets()}
        self._answers = _Answers()
        self._streams: set[asyncio.Queue[bytes | None]] = set()
        data = "/live/data"
        self.app = Starlette(
            routes=[
                Route("/", self._index),
                Route("/live/assets/{name}", self._asset),
                Route(f"{data}/history", self._history),
                Route(f"{data}/sessions", self._sessions),
                Route(f"{data}/sessions/{{key}}", self._session),
                Route(f"{data}/turns", self._turns),
                Route(f"{data}/turns/{{key}}", self._turn),
                Route(f"{data}/health", self._show_health),
                Route(f"{data}/stream", self._stream),
            ]
        )
        # Such a redirect has an address of its own making, which a proxy's path is not in.
        self.app.router.redirect_slashes = False

    async def run(self) -> None:
        """Sample each second, for as long as the server serves."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                now = loop.time()
                await asyncio.sleep(math.floor(now) + 1 + _LATE - now)
                with self._guard:
                    self._live.sample(len(self._streams))
                if self._streams:
                    with self._guard:
                        self._publish()
        finally:
            for queue in list(self._streams):
                self._end(queue)

    def _publish(self) -> None:
        """Send what is new to all pages, rendered once for all of them."""
        sessions, turns = self._live.changes()
        messages = [_event("tick", self._live.tick())]
        if sessions:
            messages.append(_event("sessions", {"rows": sessions}))
        if turns:
            messages.append(_event("turns", {"rows": turns}))
        message = b"".join(messages)
        for queue in list(self._streams):
            if queue.qsize() >= _MAX_QUEUED:
                self._end(queue)
            else:
                queue.put_nowait(message)

    def _end(self, queue: asyncio.Queue[bytes | None]) -> None:
        self._streams.discard(queue)
        queue.put_nowait(None)

    # Routes

    async def _index(self, request: Request) -> Response:
        return self._file(request, "page.html")

    async def _asset(self, request: Request) -> Response:
        return self._file(request, request.path_params["name"])

    def _file(self, request: Request, name: str) -> Response:
        if name not in self._assets:
            return _not_found("There is no such file.")
        content, kind, tag = self._assets[name]
        headers = {"ETag": tag, "Cache-Control": "no-cache"}
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=kind, headers=headers)

    async def _history(self, request: Request) -> Response:
        step = request.query_params.get("step")
        since = _number(request.query_params.get("since", "0"))
        if step not in ("1", "60") or since is None:
            return JSONResponse({"error": "step must be 1 or 60, and since a number"}, 400)
        read = partial(self._live.read_history, 1 if step == "1" else 60, since)
        return await self._answer(request, "history", read)

    async def _sessions(self, request: Request) -> Response:
        return await self._answer(request, "sessions", self._live.read_sessions)

    async def _session(self, request: Request) -> Response:
        read = partial(self._live.read_session, request.path_params["key"])
        return await self._answer(request, "session", read)

    async def _turns(self, request: Request) -> Response:
        return await self._answer(request, "turns", self._live.read_turns)

    async def _turn(self, request: Request) -> Response:
        read = partial(self._live.read_turn, request.path_params["key"])
        return await self._answer(request, "turn", read)

    async def _answer(self, request: Request, kind: str, read: _Read) -> Response:
        # Not by `request.url`, which fails on bytes that are no UTF-8.
        query = request.scope["query_string"].decode("latin-1")
        asked = f"{request.scope['path']}?{query}"
        body = await self._answers.make(kind, asked, read)
        return _not_found("This is not kept.") if body is None else _respond(request, body)

    async def _show_health(self, request: Request) -> Response:
        return _respond(request, _dump(await self._health()))

    async def _stream(self, request: Request) -> Response:
        if len(self._streams) >= MAX_STREAMS:
            return JSONResponse({"error": f"{MAX_STREAMS} pages are open, which is the most."}, 503)
        if request.method == "HEAD":
            return Response(headers=_STREAM_HEADERS, media_type="text/event-stream")
        if not self._streams:
            self._live.look()
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._streams.add(queue)
        queue.put_nowait(_event("tick", self._live.tick()))
        messages = _messages(queue, request.scope.get(RENEW))
        return _Stream(messages, partial(self._streams.discard, queue))


class _Answers:
    """Makes answers: of one kind one at a time, with pauses, and each for all who wait for it.

    So whoever asks again and again takes no more than a share of the processor: the app needs it.

    Args:
        sleep: Sleeps for seconds.
    """

    def __init__(self, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self._sleep = sleep
        self._queued: dict[str, asyncio.Task[bytes | None]] = {}
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._paused_until: defaultdict[str, float] = defaultdict(float)

    async def make(self, kind: str, asked: str, read: _Read) -> bytes | None:
        """Return an answer of what is there now; None if there is none.

        Args:
            kind: Its kind.
            asked: What is asked for.
            read: Reads it.
        """
        if asked not in self._queued:
            self._queued[asked] = asyncio.ensure_future(self._make(kind, asked, read))
        # A request that is cancelled must not cancel the answer of the others.
        return await asyncio.shield(self._queued[asked])

    async def _make(self, kind: str, asked: str, read: _Read) -> bytes | None:
        clock = asyncio.get_running_loop().time
        async with self._locks[kind]:
            await self._sleep(max(0.0, self._paused_until[kind] - clock()))
            # Whoever asks from now on gets another one, which has what happens meanwhile.
            del self._queued[asked]
            began = clock()
            found = read()
            body = None if found is None else _dump(found)
            self._paused_until[kind] = clock() + _PAUSE * (clock() - began)
            return body


class _Stream(StreamingResponse):
    """A stream of events.

    Args:
        messages: The events.
        ended: Called at its end, also if its browser was gone before the first event.
    """

    def __init__(self, messages: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        super().__init__(messages, media_type="text/event-stream", headers=_STREAM_HEADERS)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._ended()


async def _messages(
    queue: asyncio.Queue[bytes | None], renew: Callable[[], None] | None
) -> AsyncIterator[bytes]:
    while (message := await queue.get()) is not None:
        yield message
        # What was sent before has been taken.
        if renew is not None:
            renew()


def _read_assets() -> Iterator[tuple[str, bytes, str, str]]:
    for file in files("chainlit_otel.live").joinpath("assets").iterdir():
        content = file.read_bytes()
        kind = _KINDS.get(file.name.rpartition(".")[2]) or guess_type(file.name)[0] or "text/plain"
        yield file.name, content, kind, f'"{sha256(content).hexdigest()[:16]}"'


# `mimetypes` reads the registry of the machine, which may have anything for these.
_KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def _event(name: str, data: Mapping[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), _dump(data))


def _dump(data: Mapping[str, Any]) -> bytes:
    """Encode row by row: the encoder of `json` lets no other thread run until it is done."""
    parts = []
    for name, value in data.items():
        is_rows = isinstance(value, list)
        encoded = f"[{','.join([_encode(row) for row in value])}]" if is_rows else _encode(value)
        parts.append(f"{_encode(name)}:{encoded}")
    return f"{{{','.join(parts)}}}".encode()


_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


def _respond(request: Request, body: bytes) -> Response:
    headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
    if len(body) >= _COMPRESSED and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, 1)
        headers["Content-Encoding"] = "gzip"
    return Response(body, media_type="application/json", headers=headers)


def _not_found(why: str) -> Response:
    return JSONResponse({"error": why}, 404)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
