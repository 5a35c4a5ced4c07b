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
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from os import PathLike
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import socketio
from engineio.packet import CLOSE, MESSAGE, Packet
from engineio.payload import Payload
from socketio.exceptions import SocketIOError

from chainlit_otel.catalog import SYNTHETIC_HEADER
from chainlit_otel.testing.errors import ConnectionLost, NoAnswer, Refused, Unreachable
from chainlit_otel.testing.http import Address, PageRequests, Upload, reason_of
from chainlit_otel.testing.page import Action, Answer, ChatPage, Element, Event, excerpt
from chainlit_otel.testing.speech import chunks_of, read_speech

TIMEOUT = 30.0
_NORMAL = 1000
_GOING_AWAY = 1001  # the close code of a browser tab that is closed or leaves the page
_CLOSE_TIMEOUT = 2.0  # seconds that the app has to close its side
_DISCONNECT = "1"  # the Socket.IO packet by which a client disconnects
_BARRIER_TIMEOUT = 0.5

# Both libraries set up a stderr handler of their own unless they are given a logger. Whatever
# happens to a connection raises an exception or is in `Visitor.events`.
_SILENT = logging.getLogger("chainlit_otel.visitors")
_SILENT.setLevel(logging.CRITICAL + 1)

# An answer to a poll holds whatever the app has sent since the last one. Engine.IO for Python gives
# a connection up over more than 16 packets, also as a client; a browser takes them all.
Payload.max_decode_packets = max(Payload.max_decode_packets, 100_000)


class Question(NamedTuple):
    """What the app asks the visitor, and waits for.

    Attributes:
        kind: ``text``, ``file``, ``action`` or ``element``.
        text: the words of the question.
        spec: all that Chainlit says of what may be answered.
        parent_id: the step that asks.
        reply: takes the answer.
    """

    kind: str
    text: str
    spec: Mapping[str, Any]
    parent_id: str
    reply: asyncio.Future[Any]


class Visitor:
    """One browser tab.

    The methods are what a person can do with it. They are sequential: await one before the
    next. `events` may be read at any time. As a context manager it opens the page, and in the end
    ends the session.

    Args:
        url: address of the chat page, with its root path or mount point if it has one.
        client_type: what the page says it is: ``webapp`` or ``copilot``.
        transports: ``["polling"]``, ``["websocket"]``, or None for what a browser does: polling
            first, then an upgrade to a websocket.
        chat_profile: name of the chosen chat profile; empty for none.
        headers: sent with every request. ``Cookie`` carries the sign-in of a user.
        password: user name and password, to sign in with as by the form of the page.
        token: what Chainlit gave to a user who signed in, as an app's own page may have it.
        header_auth: sign in by `headers`, to an app with `header_auth_callback`.
        synthetic_token: that of the app, if it is to leave this visitor out of its figures.
        functions: those of the page around a copilot that the app may call (`CopilotFunction`):
            each takes the arguments as a mapping, and returns the answer.
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
        password: tuple[str, str] | None = None,
        token: str = "",
        header_auth: bool = False,
        synthetic_token: str = "",
        functions: Mapping[str, Callable[[dict[str, Any]], Any]] | None = None,
        rng: random.Random | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.address = Address.parse(url)
        self._password = password
        self._token = token
        self._header_auth = header_auth
        self._signed_in = False
        self.client_type = client_type
        self.transports = list(transports) if transports else None
        self.chat_profile = chat_profile
        self.headers = dict(headers or {})
        if synthetic_token:
            self.headers[SYNTHETIC_HEADER] = synthetic_token
        self.timeout = timeout
        self.user_env: dict[str, str] = {}
        self._page = ChatPage()
        self._rng = rng or random.SystemRandom()
        self.session_id = self._new_id()
        self._jar: aiohttp.CookieJar | None = None
        self._http: aiohttp.ClientSession | None = None
        self._sio: Any = None
        self._functions = dict(functions or {})
        self._questions: list[Question] = []
        self._unanswered: list[asyncio.Future[Any]] = []
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
    def question(self) -> Question | None:
        """What the app waits for the visitor to answer now; None if nothing."""
        return self._questions[-1] if self._questions else None

    @property
    def actions(self) -> list[Action]:
        """The buttons that are on the page now."""
        return list(self._page.actions.values())

    @property
    def elements(self) -> list[Element]:
        """What is attached to messages, or shown beside them, now."""
        return list(self._page.elements.values())

    @property
    def cookies(self) -> dict[str, str]:
        """The cookies that the app has set, such as that of the sign-in."""
        return {} if self._jar is None else {each.key: each.value for each in self._jar}

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

    async def say(
        self,
        text: str,
        *,
        files: Sequence[str | PathLike[str] | Upload] = (),
        command: str = "",
        modes: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a message and wait until the app is done with it, or asks something back.

        If the app is waiting for the answer to a question (`AskUserMessage`), `text` is that.

        Args:
            text: the message.
            files: attached to it: paths of this machine, or uploads.
            command: id of the command that is chosen for it.
            modes: the option that is chosen of each mode, by their ids.

        Returns:
            The answer; without a text if the app said nothing.

        Raises:
            NoAnswer: the app was not done in time.
            ConnectionLost: the connection ended before.
            Refused: the app does not take a file.
        """
        chosen: dict[str, Any] = {"command": command} if command else {}
        if modes:
            chosen["modes"] = dict(modes)
        return await self._whole(await self._send(text, files, chosen))

    async def hear(self, text: str = "") -> Answer:
        """Wait until the app says something by itself, and is done with it or asks something.

        So a greeting is heard, or what the app says to changed settings. What counts is what came
        since the page was opened, or since the last answer ended.

        Args:
            text: part of what it says; empty for whatever comes first.

        Returns:
            All that came.

        Raises:
            NoAnswer: it did not say that in time, or was not done.
            ConnectionLost: the connection ended before.
        """
        page = self._page

        def is_heard() -> bool:
            return page.is_idle and not page.unasked.is_empty and text in page.unasked.text

        try:
            await self.until(is_heard, f"the app to say {text!r}" if text else "the app to speak")
        except NoAnswer as error:
            words = excerpt(page.unasked) if page.unasked.texts else "nothing"
            raise NoAnswer(f"{error}: it said {words}") from None
        return page.heard()

    async def starters(self) -> list[str]:
        """Return the labels of the starters that the page shows before the first message.

        Raises:
            Refused, NoAnswer, Unreachable: the app does not tell.
        """
        return [each["label"] for each in await self._requests().starters(self.chat_profile)]

    async def start_with(self, label: str) -> Answer:
        """Press a starter, and wait as `say` does.

        Args:
            label: the words on it.

        Raises:
            LookupError: there is no such starter.
            NoAnswer, ConnectionLost, Refused: like `say`.
        """
        starters = await self._requests().starters(self.chat_profile)
        for each in starters:
            if each["label"] == label:
                return await self.say(each["message"], command=each.get("command") or "")
        raise LookupError(f"there is no starter {label!r}; {_listed(s['label'] for s in starters)}")

    async def speak(self, recording: str | PathLike[str]) -> Answer:
        """Say something aloud, to an app that takes audio, and wait for the answer as `say` does.

        The recording is sent at once, not at the pace of a speaker.

        Args:
            recording: WAV file, mono, 16 bits, 24,000 samples a second, as the page records it.

        Raises:
            ValueError: it is no such recording.
            Refused: the app takes no audio.
            NoAnswer, ConnectionLost: like `say`.
        """
        samples = read_speech(recording)
        sio, seen = self._connection(), len(self.events)
        await sio.emit("audio_start")

        def states() -> list[Any]:
            return [e.data for e in self.events[seen:] if e.name == "audio_connection"]

        await self.until(lambda: bool(states()), "the app to take audio")
        if states()[0] != "on":
            raise Refused(f"{self.address}: it takes no audio now")
        for chunk in chunks_of(samples):
            await sio.emit("audio_chunk", chunk)
        # The app confirms the end of the audio after its answer, and its messages have no parent.
        answer = self._page.sent(self._new_id(), answers_question=True)
        await sio.emit("audio_end")
        return await self._whole(answer)

    async def post_window_message(self, data: Any) -> None:
        """Send what the page around a copilot, or around an iframe, sends to the app.

        Args:
            data: what JSON can hold.

        Raises:
            ConnectionLost: the connection has ended.
        """
        await self.emit("window_message", data)

    async def send(self, text: str, *, files: Sequence[str | PathLike[str] | Upload] = ()) -> str:
        """Send a message and do not wait for anything.

        Args:
            text: the message.
            files: attached to it: paths of this machine, or uploads.

        Returns:
            The id of the message.

        Raises:
            ConnectionLost: the connection has ended.
            Refused: the app does not take a file.
        """
        return (await self._send(text, files, {})).message_id

    async def answer_with_files(self, *files: str | PathLike[str] | Upload) -> Answer:
        """Answer a question for files (`AskFileMessage`) and wait as `say` does.

        Raises:
            LookupError: the app asks for no files now.
            Refused: the app does not take a file.
            NoAnswer, ConnectionLost: like `say`.
        """
        question = self._asked("file")
        ids = [
            await self._requests().upload(self.session_id, Upload.read(file), question.parent_id)
            for file in files
        ]
        return await self._reply(question, [{"id": file_id} for file_id in ids])

    async def answer_with_action(self, name: str) -> Answer:
        """Press a button that the app asks for (`AskActionMessage`), and wait as `say` does.

        Args:
            name: name or label of the button.

        Raises:
            LookupError: the app asks for no action now, or there is none of this name.
            NoAnswer, ConnectionLost: like `say`.
        """
        question = self._asked("action")
        offered = question.spec["keys"]
        button = self._button(name, offered)
        if button is None:
            names = ", ".join(repr(each.name) for each in self.actions if each.id in offered)
            raise LookupError(f"the app does not offer {name!r}; it offers {names}")
        return await self._reply(question, button.data)

    async def answer_with_element(self, props: Mapping[str, Any] | None) -> Answer:
        """Submit an element that the app asks for (`AskElementMessage`), and wait as `say` does.

        Args:
            props: what is submitted; None to cancel.

        Raises:
            LookupError: the app asks for no element now.
            NoAnswer, ConnectionLost: like `say`.
        """
        question = self._asked("element")
        return await self._reply(question, {**(props or {}), "submitted": props is not None})

    async def change_element(self, name: str, props: Mapping[str, Any]) -> None:
        """Have a custom element change itself, as it does by ``updateElement``.

        Args:
            name: of the element.
            props: those that change.

        Raises:
            LookupError: there is no custom element of this name.
            Refused: the app does not take it.
        """
        custom = [each for each in self.elements if each.type == "custom"]
        found = next((each for each in custom[::-1] if each.name == name), None)
        if found is None:
            raise LookupError(
                f"there is no custom element {name!r}; {_listed(each.name for each in custom)}"
            )
        changed = {**found.data, "props": {**(found.data.get("props") or {}), **props}}
        await self._requests().update_element(self.session_id, changed)

    async def press(self, name: str, payload: Mapping[str, Any] | None = None) -> Answer:
        """Press a button below a message, once it is there; wait for the end of its callback.

        Args:
            name: name or label of the button.
            payload: what a custom element calls the action with (``callAction``); there need be
                no button for it then. None for a button.

        Returns:
            What came meanwhile.

        Raises:
            Refused: the app has no callback for it.
            NoAnswer: the button does not come in time, or the end of its callback.
            ConnectionLost: like `say`.
        """
        if payload is None:
            await self.until(lambda: self._button(name) is not None, f"the button {name!r}")
            button = self._button(name)
            assert button is not None
            action = button.data
        else:
            action = {"id": self._new_id(), "name": name, "payload": dict(payload), "label": ""}
        answer = self._page.sent(action["id"], answers_question=True)
        await self._requests().press(self.session_id, action)
        await self._receive_all()
        await self.until(lambda: self._page.is_idle, "the end of the action")
        self._page.end(answer)
        return answer

    async def edit(self, message_id: str, text: str) -> Answer:
        """Change a message that was sent, and wait for the answer to it as `say` does.

        Args:
            message_id: the message (`Answer.message_id`).
            text: what it says from now on.

        Raises:
            NoAnswer, ConnectionLost: like `say`.
        """
        answer = self._page.sent(message_id, answers_question=False)
        payload = {"message": self._message(message_id, text), "fileReferences": []}
        await self._connection().emit("edit_message", payload, callback=answer.on_receipt)
        return await self._whole(answer)

    async def stop(self) -> None:
        """Press *Stop*: have the app give up the answer that it is working on.

        Raises:
            ConnectionLost: the connection has ended.
        """
        self._page.stopped()
        await self.emit("stop")

    async def give_feedback(self, message_id: str, value: int, comment: str = "") -> str:
        """Give a message of the app a thumb up or down.

        Chainlit stores a message beside sending it. While the app fails, which it does if the
        message is not stored yet, this is tried again for 6 seconds.

        Args:
            message_id: the message (of `Answer.message_ids`).
            value: 1 for a thumb up, 0 for a thumb down.
            comment: words to it.

        Returns:
            The id by which it can be withdrawn.

        Raises:
            Refused: the app takes no feedback, for instance without a data layer.
        """
        feedback = {"forId": message_id, "value": value, "comment": comment}
        if self.thread_id:
            feedback["threadId"] = self.thread_id
        return await self._requests().rate(self.session_id, feedback)

    async def withdraw_feedback(self, feedback_id: str) -> None:
        """Take feedback back.

        Raises:
            Refused: the app does not.
        """
        await self._requests().withdraw_feedback(feedback_id)

    async def change_settings(self, **settings: Any) -> None:
        """Confirm the panel of chat settings with these values.

        Raises:
            ConnectionLost: the connection has ended.
        """
        await self.emit("chat_settings_change", settings)

    async def choose_profile(self, name: str) -> None:
        """Choose a chat profile: a new chat with it begins.

        Raises:
            Unreachable, Refused, ConnectionLost, NoAnswer: like `new_chat`.
        """
        self.chat_profile = name
        await self.new_chat()

    async def resume(self, thread_id: str) -> None:
        """Open a stored thread: this session ends, and another one begins with the thread.

        Raises:
            Unreachable, Refused, ConnectionLost, NoAnswer: like `new_chat`.
        """
        await self._begin_anew(thread_id)

    async def rename_thread(self, name: str) -> None:
        """Give this chat another name in the list of threads.

        Raises:
            NoAnswer: nothing has been said yet, so it is no thread.
            Refused: the app does not, for instance without a data layer.
        """
        await self._requests().rename_thread(await self._thread(), name)

    async def share_thread(self, shared: bool = True) -> None:
        """Let whoever has the link read this chat, or no longer.

        Raises:
            NoAnswer: nothing has been said yet, so it is no thread.
            Refused: the app does not, for instance without a data layer.
        """
        await self._requests().share_thread(await self._thread(), shared)

    async def delete_thread(self) -> None:
        """Delete this chat: another one begins.

        Raises:
            NoAnswer: nothing has been said yet, so it is no thread.
            Refused: the app does not, for instance without a data layer.
            Unreachable, ConnectionLost: like `new_chat`.
        """
        thread_id = await self._thread()
        # As the page does: what the end of the session still stores is deleted, too.
        await self.new_chat()
        await self._requests().delete_thread(thread_id)

    async def _thread(self) -> str:
        """Return the thread of this chat, whose name may come after the answer."""
        await self.until(lambda: self.thread_id is not None, "the app to name the thread")
        return self.thread_id or ""

    async def emit(self, event: str, data: Any = None) -> None:
        """Send any event of Chainlit's protocol, e.g. ``stop``."""
        await self._connection().emit(event, data)

    async def until(
        self, condition: Callable[[], bool], what: str, timeout: float | None = None
    ) -> None:
        """Wait until `condition` holds; it is asked again after every event.

        Args:
            condition: asked without arguments.
            what: names the awaited thing in the error message.
            timeout: seconds; None for those of the visitor.

        Raises:
            NoAnswer: it did not hold in time.
            ConnectionLost: it does not hold and the connection has ended.
        """
        seconds = self.timeout if timeout is None else timeout
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        alarm = loop.call_at(deadline, self._wake)
        try:
            while not condition():
                if not self.connected:
                    raise ConnectionLost(f"the connection ended before {what}")
                if loop.time() >= deadline:
                    raise NoAnswer(f"waited {seconds:g} s for {what}")
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
        await self._begin_anew(None)

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

    async def __aenter__(self) -> Visitor:
        await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave(clear=self.connected)

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
            raise Unreachable(f"{self.address}: {reason_of(error)}") from None

    async def _open(self) -> None:
        if self._jar is None:
            # Chainlit is often visited by number, and cookies of such hosts are not kept otherwise.
            self._jar = aiohttp.CookieJar(unsafe=True)
            if self._token:
                self._jar.update_cookies({"access_token": self._token})
        self._http = aiohttp.ClientSession(cookie_jar=self._jar, headers=self.headers)
        requests = self._requests()
        if not self._signed_in:
            if self._password is not None:
                await requests.sign_in(*self._password)
            if self._header_auth:
                await requests.sign_in_by_header()
            self._signed_in = True
        await requests.get_sticky_cookie(self.session_id)
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
        sio.on("call_fn", self._on_call)
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

    def _identity(self) -> dict[str, str]:
        return {
            "clientType": self.client_type,
            "sessionId": self.session_id,
            "threadId": self.thread_id or "",
            "userEnv": json.dumps(self.user_env),
            "chatProfile": quote(self.chat_profile, safe=""),
        }

    async def _begin_anew(self, thread_id: str | None) -> None:
        await self._clear()
        self.session_id = self._new_id()
        self.thread_id = thread_id
        await self.connect()

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
            self._forget_questions()
            self._forget_calls()

    def _connection(self) -> Any:
        if not self.connected:
            raise ConnectionLost("the connection has ended")
        return self._sio

    def _requests(self) -> PageRequests:
        if self._http is None:
            raise ConnectionLost("the connection has ended")
        return PageRequests(self.address, self._http, self.timeout)

    # -- messages ---------------------------------------------------------------------------

    async def _send(
        self,
        text: str,
        files: Sequence[str | PathLike[str] | Upload],
        chosen: Mapping[str, Any],
    ) -> Answer:
        sio = self._connection()
        question = self.question
        message_id = self._new_id()
        if question is not None and question.kind == "text":
            self._questions.remove(question)
            answer = self._page.sent(message_id, answers_question=True)
            question.reply.set_result(self._message(message_id, text))
            return answer
        uploads = [Upload.read(file) for file in files]
        ids = [await self._requests().upload(self.session_id, upload) for upload in uploads]
        answer = self._page.sent(message_id, answers_question=False)
        payload = {
            "message": {**self._message(message_id, text), **chosen},
            "fileReferences": [{"id": file_id} for file_id in ids],
        }
        # The page asks for no acknowledgement. Without it, the answer to this message could not be
        # told from what the app sends meanwhile.
        await sio.emit("client_message", payload, callback=answer.on_receipt)
        return answer

    def _message(self, message_id: str, text: str) -> dict[str, Any]:
        return {
            "id": message_id,
            "threadId": "",
            "name": "User",
            "type": "user_message",
            "output": text,
            "createdAt": datetime.now(timezone.utc).isoformat().replace("+00:00", "Z"),
            "metadata": {"location": str(self.address)},
        }

    async def _whole(self, answer: Answer) -> Answer:
        await self.until(lambda: self._page.is_over(answer), "the end of the answer")
        return answer

    async def _reply(self, question: Question, reply: Any) -> Answer:
        self._questions.remove(question)
        answer = self._page.sent(self._new_id(), answers_question=True)
        question.reply.set_result(reply)
        return await self._whole(answer)

    def _asked(self, kind: str) -> Question:
        question = self.question
        if question is None or question.kind != kind:
            asks = f"it asks for {question.kind}" if question else "it asks nothing"
            raise LookupError(f"the app does not ask for {kind} now: {asks}")
        return question

    def _button(self, name: str, ids: Sequence[str] | None = None) -> Action | None:
        for button in self.actions[::-1]:
            if (ids is None or button.id in ids) and name in (button.name, button.label):
                return button
        return None

    async def _receive_all(self) -> None:
        """Wait until all that the app has sent so far has arrived."""
        receipts: list[object] = []

        def on_receipt(*_: Any) -> None:
            receipts.append(None)
            self._wake()

        # The page sends this event, too. Older releases do not know it, and confirm nothing.
        await self._connection().emit("fetch_favorites", callback=on_receipt)
        with contextlib.suppress(NoAnswer):
            await self.until(lambda: bool(receipts), "the receipt", _BARRIER_TIMEOUT)

    # -- what arrives -----------------------------------------------------------------------

    def _on_event(self, name: str, data: Any = None, *_: Any) -> None:
        self._page.receive(name, data)
        if name in ("clear_ask", "ask_timeout"):
            self._forget_questions()
        elif name in ("clear_call_fn", "call_fn_timeout"):
            self._forget_calls()
        self._wake()

    async def _on_ask(self, data: Any, *_: Any) -> Any:
        """Keep the app waiting until the visitor answers; the answer is what this returns."""
        reply = asyncio.get_running_loop().create_future()
        spec, message = data["spec"], data["msg"]
        text, parent = message.get("output", ""), str(message.get("parentId"))
        self._questions.append(Question(spec["type"], text, spec, parent, reply))
        self._page.receive("ask", data)
        self._wake()
        return await reply

    async def _on_call(self, data: Any, *_: Any) -> Any:
        """Answer for the page around a copilot; an unknown function never answers, as there."""
        self._page.receive("call_fn", data)
        self._wake()
        if function := self._functions.get(data["name"]):
            return function(data.get("args") or {})
        self._unanswered.append(asyncio.get_running_loop().create_future())
        return await self._unanswered[-1]

    def _forget_calls(self) -> None:
        while self._unanswered:
            self._unanswered.pop().cancel()

    def _forget_questions(self) -> None:
        """Give up the answers to all questions: the app does not wait for them any more."""
        while self._questions:
            self._questions.pop().reply.cancel()

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


def _listed(names: Iterable[str]) -> str:
    return f"there are: {', '.join(map(repr, names)) or 'none'}"


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
