"""A visitor of a Chainlit app: over Socket.IO, what Chainlit's own page does in a browser.

The page asks for the sticky-session cookie, opens one Socket.IO connection below
``/ws/socket.io`` with an identity it made up itself (``sessionId``), and from then on sends and
receives events. Everything an app, a proxy or a probe can see of a browser tab can be seen of a
`Visitor`, so that load, demonstrations and tests run against the real thing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import aiohttp
import socketio
from engineio.packet import CLOSE, MESSAGE, Packet
from engineio.payload import Payload
from socketio.exceptions import SocketIOError

from chainlit_otel.testing.page import Answer, ChatPage, Event

TIMEOUT = 30.0
_NORMAL = 1000
_GOING_AWAY = 1001  # the close code of a browser tab that is closed or leaves the page
_CLOSE_TIMEOUT = 2.0  # seconds that the app has to close its side
_DISCONNECT = "1"  # the Socket.IO packet by which a client disconnects

# Both libraries set up a stderr handler of their own unless they are given a logger. Whatever
# happens to a connection raises an exception or is in `Visitor.events`.
_SILENT = logging.getLogger("chainlit_otel.visitors")
_SILENT.setLevel(logging.CRITICAL + 1)

# An answer to a poll holds whatever the app has sent since the last one. Engine.IO for Python gives
# a connection up over more than 16 packets, also as a client; a browser takes them all.
Payload.max_decode_packets = max(Payload.max_decode_packets, 100_000)


class VisitError(Exception):
    """Something that a visitor has tried did not succeed."""


class Unreachable(VisitError):
    """Nothing answers at the address, or what answers does not speak Chainlit's protocol."""


class Refused(VisitError):
    """The app does not let this visitor in; the message is the app's reason."""


class NoAnswer(VisitError):
    """The app did not answer in time."""


class ConnectionLost(VisitError):
    """The connection ended while something was still expected from it."""


class Address(NamedTuple):
    """The address of a Chainlit app, parsed as the page does it.

    Attributes:
        origin: scheme, host and port.
        path: the root path or the mount point, without a slash at its end; often empty.
    """

    origin: str
    path: str

    @classmethod
    def parse(cls, url: str) -> Address:
        """Parse `url`.

        Raises:
            ValueError: it is not the http(s) address of a page.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(
                f"{url!r} is not an address: http://host:port or https://host expected"
            )
        return cls(f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/"))

    def __str__(self) -> str:
        return self.origin + self.path


async def check(url: str, timeout: float = 10.0) -> None:
    """Make sure that a Chainlit app answers at `url`, without opening a session there.

    Args:
        url: address of the chat page.
        timeout: seconds to wait for the answer.

    Raises:
        Unreachable: nothing answers, or it is not Chainlit; the message says which, in one line.
        ValueError: `url` is not an http(s) address.
    """
    address = Address.parse(url)
    # The one route that needs no login, exists in every Chainlit 2 and in nothing else.
    route = "/project/translations?language=en-US"
    status, answer = await _get(address, route, {}, timeout)
    if status != 200 or '"translation"' not in answer:
        raise Unreachable(
            f"{address} answers, but it is not the address of a Chainlit app"
            " (one that runs below a path needs that path in the URL)"
        )


async def check_sign_in(url: str, headers: Mapping[str, str], timeout: float = 10.0) -> None:
    """Make sure that the app lets in whoever sends these headers.

    Args:
        url: address of the chat page.
        headers: sent with every request.
        timeout: seconds to wait for the answer.

    Raises:
        Refused: it does not.
        Unreachable: nothing answers.
        ValueError: `url` is not an http(s) address.
    """
    address = Address.parse(url)
    status, _ = await _get(address, "/user", headers, timeout)
    if status == 401 and any(name.lower() == "cookie" for name in headers):
        raise Refused(f"{address} lets nobody in with this cookie")
    if status == 401:
        raise Refused(f"{address} lets in only who has signed in")


async def _get(
    address: Address, route: str, headers: Mapping[str, str], timeout: float
) -> tuple[int, str]:
    """Return status and text of an answer, or raise `Unreachable`."""
    limit = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limit, headers=headers) as http,
            http.get(f"{address}{route}") as response,
        ):
            return response.status, await response.text()
    except asyncio.TimeoutError:
        raise Unreachable(f"{address} does not answer within {timeout:g} s") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unreachable(f"nothing answers at {address}: {_reason(error)}") from None


class Visitor:
    """One browser tab.

    The primitives are what a person can do with it. They are sequential: await one before the
    next. `events` may be read at any time.

    Args:
        url: address of the chat page, with its root path or mount point if it has one.
        client_type: what the page says it is: ``webapp`` or ``copilot``.
        transports: ``["polling"]``, ``["websocket"]``, or None for what a browser does: polling
            first, then an upgrade to a websocket.
        chat_profile: name of the chosen chat profile; empty for none.
        headers: sent with every request. ``Cookie`` carries the login of a signed-in user.
        rng: source of the ids that the page makes up. The operating system's by default, so that
            no two runs ever share a session; give a seeded one to know the ids beforehand.
        timeout: seconds any single step may take.

    Attributes:
        session_id: the id the page made up; kept by `reconnect`, replaced by `new_chat`.
        user_env: environment variables the app wants from its users (sent on connecting).

    Raises:
        ValueError: `url` is not an http(s) address.
    """

    def __init__(
        self,
        url: str,
        *,
        client_type: str = "webapp",
        transports: Sequence[str] | None = None,
        chat_profile: str = "",
        headers: Mapping[str, str] | None = None,
        rng: random.Random | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.address = Address.parse(url)
        self.client_type = client_type
        self.transports = list(transports) if transports else None
        self.chat_profile = chat_profile
        self.headers = dict(headers or {})
        self.timeout = timeout
        self.user_env: dict[str, str] = {}
        self._page = ChatPage()
        self._rng = rng or random.SystemRandom()
        self.session_id = self._new_id()
        self._jar: aiohttp.CookieJar | None = None
        self._http: aiohttp.ClientSession | None = None
        self._sio: Any = None
        self._question: asyncio.Future[dict[str, Any]] | None = None
        self._asks: list[asyncio.Future[dict[str, Any]]] = []
        self._refusal = ""
        self._tick = asyncio.Event()

    @property
    def events(self) -> list[Event]:
        """Everything received since the visitor exists, oldest first."""
        return self._page.events

    @property
    def failures(self) -> int:
        """How many steps and messages the app showed as failed."""
        return self._page.failures

    @property
    def thread_id(self) -> str | None:
        """The thread the app named; None before the first message.

        Set it before `connect` to open a stored thread.
        """
        return self._page.thread_id

    @thread_id.setter
    def thread_id(self, thread_id: str | None) -> None:
        self._page.thread_id = thread_id

    @property
    def connected(self) -> bool:
        """Whether the connection stands, as far as this side knows."""
        return self._sio is not None and bool(self._sio.connected)

    @property
    def transport(self) -> str | None:
        """``websocket`` or ``polling`` while connected."""
        return str(self._sio.transport()) if self.connected else None

    async def connect(self) -> None:
        """Open the page: connect and wait until the app has greeted the session.

        Raises:
            Unreachable: nothing answers in time, or something that is not Chainlit.
            Refused: the app refused the connection.
        """
        if self._sio is not None and not self.connected:
            await self._cut()  # the app had closed the connection
        if self._sio is not None:
            raise RuntimeError("this visitor is connected already")
        self._page.connected()
        self._refusal = ""
        try:
            await self._open_in_time()
        except BaseException:
            await self._cut()
            raise

    async def talk(self, text: str) -> list[str]:
        """Send a message and wait until the app is done with it, or asks something back.

        If the app is waiting for the answer to a question (`AskUserMessage`), `text` is that.

        Returns:
            The texts of the messages that came meanwhile; empty if the app said nothing.

        Raises:
            NoAnswer: the app was not done in time.
            ConnectionLost: the connection ended before.
        """
        answer = await self._send(text)
        await self.until(lambda: self._page.is_over(answer), "the end of the answer")
        return [text for text in answer.texts.values() if text]

    async def say(self, text: str) -> str:
        """Send a message and do not wait for anything.

        Returns:
            The id of the message.
        """
        return (await self._send(text)).message_id

    async def emit(self, event: str, data: Any = None) -> None:
        """Send any event of Chainlit's protocol, e.g. ``stop``."""
        await self._connection().emit(event, data)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds; it is asked again after every event.

        Args:
            condition: asked without arguments.
            what: names the awaited thing in the error message.

        Raises:
            NoAnswer: it did not hold within the visitor's `timeout`.
            ConnectionLost: it does not hold and the connection has ended.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.timeout
        alarm = loop.call_at(deadline, self._wake)
        try:
            while not condition():
                if not self.connected:
                    raise ConnectionLost(f"the connection ended before {what}")
                if loop.time() >= deadline:
                    raise NoAnswer(f"waited {self.timeout:g} s for {what}")
                await self._tick.wait()
        finally:
            alarm.cancel()

    async def drop(self) -> None:
        """Lose the connection: the transport is aborted, without a packet to the app.

        Over a websocket the app notices at once; over polling only by the missing answer to its
        next ping.
        """
        await self._cut()

    async def reconnect(self) -> None:
        """Come back after `drop` with the same session, as the page does by itself.

        Raises:
            Unreachable, Refused: like `connect`.
        """
        await self.connect()

    async def new_chat(self) -> None:
        """Press *New Chat*: end this session and start another one.

        Raises:
            Unreachable, Refused: like `connect`.
            ConnectionLost, NoAnswer: the old session could not be ended.
        """
        await self._clear()
        self.session_id = self._new_id()
        self.thread_id = None
        await self.connect()

    async def leave(self, *, clear: bool = False) -> None:
        """Close the tab.

        Args:
            clear: end the session first, as a page does before it reloads. Without it the
                app has to assume that the visitor may come back, and keeps the session for
                `session_timeout` seconds.
        """
        if clear and self.connected:
            await self._clear()
            return
        await self._cut(_GOING_AWAY)

    # -- the connection ---------------------------------------------------------------------

    async def _open_in_time(self) -> None:
        try:
            await _in_time(self._open(), self.timeout)
        except asyncio.TimeoutError:
            reason = f"{self.address} does not greet within {self.timeout:g} s"
            raise Unreachable(reason) from None
        except SocketIOError as error:
            raise Unreachable(f"{self.address}: {error}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unreachable(f"{self.address}: {_reason(error)}") from None

    async def _open(self) -> None:
        if self._jar is None:
            # Chainlit is often visited by number, and cookies of such hosts are not kept otherwise.
            self._jar = aiohttp.CookieJar(unsafe=True)
        self._http = aiohttp.ClientSession(cookie_jar=self._jar, headers=self.headers)
        await self._get_sticky_cookie(self._http)
        self._sio = sio = socketio.AsyncClient(
            reconnection=False,
            handle_sigint=False,
            http_session=self._http,
            logger=_SILENT,
            engineio_logger=_SILENT,
            request_timeout=self.timeout,
        )
        sio.on("*", self._on_event)
        sio.on("ask", self._on_ask)
        sio.on("connect", self._wake)
        sio.on("connect_error", self._on_refusal)
        sio.on("disconnect", self._on_disconnect)
        seen = len(self.events)
        await sio.connect(
            self.address.origin,
            headers={},
            auth=self._identity(),
            transports=self.transports,
            socketio_path=f"{self.address.path}/ws/socket.io",
            wait=False,
        )
        await self._wait_for_connect(sio)
        await sio.emit("connection_successful")
        await sio.emit("fetch_favorites")
        # The last of the three events by which the app answers `connection_successful`.
        await self.until(
            lambda: any(event.name == "clear_call_fn" for event in self.events[seen:]),
            "the greeting of the app",
        )

    async def _wait_for_connect(self, sio: Any) -> None:
        """Wait until the app accepts or refuses; older python-socketio waits for an accept only."""
        try:
            await self.until(lambda: bool(sio.namespaces), "the app let it in")
        except ConnectionLost as error:
            if not self._refusal:
                raise Unreachable(f"{self.address}: {error}") from None
            # The page closes the connection, too.
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await self._send_disconnect(sio.eio)
            raise Refused(self._refusal) from None

    async def _get_sticky_cookie(self, http: aiohttp.ClientSession) -> None:
        route = f"{self.address}/set-session-cookie"
        try:
            async with http.post(route, json={"session_id": self.session_id}):
                pass
        except aiohttp.ClientConnectorError:
            raise
        except aiohttp.ClientError:
            return  # like the page, which goes on without the cookie

    def _identity(self) -> dict[str, str]:
        return {
            "clientType": self.client_type,
            "sessionId": self.session_id,
            "threadId": self.thread_id or "",
            "userEnv": json.dumps(self.user_env),
            "chatProfile": quote(self.chat_profile, safe=""),
        }

    async def _clear(self) -> None:
        """End the session, then disconnect as the page does."""
        sio = self._connection()
        receipts: list[object] = []

        def on_receipt(*_: Any) -> None:
            receipts.append(None)
            self._wake()

        # With an acknowledgement, unlike the page's: the app handles events concurrently, and might
        # handle the disconnect before this event.
        await sio.emit("clear_session", callback=on_receipt)
        try:
            await self.until(lambda: bool(receipts), "the end of the session")
            await _in_time(self._send_disconnect(sio.eio), self.timeout)
        except asyncio.TimeoutError:
            raise NoAnswer(f"no end of the connection within {self.timeout:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionLost(f"the connection broke on leaving: {error}") from None
        finally:
            await self._cut(_NORMAL)

    async def _send_disconnect(self, eio: Any) -> None:
        """Send a disconnect packet, so that the app does not take this for a lost connection.

        `AsyncClient.disconnect` may close the transport before its packet has gone out, and goes
        on polling after it; the page does neither.
        """
        await _stop_loops(eio)
        packet = Packet(MESSAGE, _DISCONNECT)
        if eio.current_transport == "websocket":
            await eio.ws.send_str(packet.encode())
        elif self._http is not None:
            body = Payload([packet, Packet(CLOSE)]).encode()
            async with self._http.post(eio.base_url, data=body):
                pass

    async def _cut(self, close_code: int | None = None) -> None:
        """Abort the connection; with a code, a websocket is closed by that first."""
        sio, http = self._sio, self._http
        self._sio = self._http = None
        websocket = sio.eio.ws if sio is not None else None
        try:
            if sio is not None:
                # First, since a loop whose HTTP session is closed opens another one.
                await _stop_loops(sio.eio)
            if websocket is not None and close_code is not None:
                with contextlib.suppress(asyncio.TimeoutError):
                    await _in_time(websocket.close(code=close_code), _CLOSE_TIMEOUT)
        finally:
            if http is not None:
                await http.close()
            if websocket is not None:
                await websocket.close()
            if sio is not None:
                await sio.eio.disconnect(abort=True)
                # Engine.IO makes a session of its own where it finds ours closed.
                if sio.eio.http is not None and sio.eio.http is not http:
                    await sio.eio.http.close()
            self._forget_asks()

    def _connection(self) -> Any:
        if not self.connected:
            raise ConnectionLost("the connection has ended")
        return self._sio

    # -- messages ---------------------------------------------------------------------------

    async def _send(self, text: str) -> Answer:
        sio = self._connection()
        question, self._question = self._question, None
        answer = self._page.sent(self._new_id(), answers_question=question is not None)
        message = {
            "id": answer.message_id,
            "threadId": "",
            "name": "User",
            "type": "user_message",
            "output": text,
            "createdAt": datetime.now(timezone.utc).isoformat().replace("+00:00", "Z"),
            "metadata": {"location": str(self.address)},
        }
        if question is not None:
            question.set_result(message)
        else:
            payload = {"message": message, "fileReferences": []}
            # The page asks for no acknowledgement. Without it, the answer to this message could not
            # be told from what the app sends meanwhile.
            await sio.emit("client_message", payload, callback=answer.on_receipt)
        return answer

    # -- what arrives -----------------------------------------------------------------------

    def _on_event(self, name: str, data: Any = None, *_: Any) -> None:
        self._page.receive(name, data)
        if name in ("clear_ask", "ask_timeout"):
            self._forget_asks()
        self._wake()

    async def _on_ask(self, data: Any, *_: Any) -> Any:
        """Keep the app waiting until the visitor talks; the answer is what this returns."""
        self._page.receive("ask", data)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asks.append(answer)
        if data["spec"]["type"] == "text":
            self._question = answer
        self._wake()
        return await answer

    def _forget_asks(self) -> None:
        """Give up the answers to all questions: the app does not wait for them any more."""
        self._question = None
        while self._asks:
            self._asks.pop().cancel()

    def _on_refusal(self, data: Any = None) -> None:
        # Engine.IO reports failures of the transport here, too, in another form.
        if isinstance(data, dict) and "message" in data:
            self._refusal = str(data["message"])
        # The client only afterwards counts itself as not connected.
        asyncio.get_running_loop().call_soon(self._wake)

    def _on_disconnect(self, reason: str = "") -> None:
        self._page.receive("disconnect", reason)
        # The client only afterwards counts itself as not connected.
        asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._tick.set()
        self._tick = asyncio.Event()

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))


async def _in_time(work: Coroutine[Any, Any, Any], seconds: float) -> None:
    """Do the work, or raise `asyncio.TimeoutError`.

    Before Python 3.12, `asyncio.wait_for` loses a cancellation if the work is done at the same
    moment; a visitor who is cancelled would go on.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
    if task.cancelled():
        raise asyncio.TimeoutError
    task.result()


async def _stop_loops(eio: Any) -> None:
    """End the tasks that read and write, so that nothing more happens to the connection."""
    left = {task for task in (eio.read_loop_task, eio.write_loop_task) if task}
    deadline = time.monotonic() + _CLOSE_TIMEOUT
    while left and time.monotonic() < deadline:
        for task in left:
            task.cancel()
        # Again and again: the loops use `asyncio.wait_for`, see above.
        _, left = await asyncio.wait(left, timeout=0.01)


def _reason(error: Exception) -> str:
    """Return why there is no connection, without the words that the library adds."""
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        return os.strerror(number) if number > 0 else str(error.os_error.strerror)
    return str(error)
