"""With us, with us broken, without us: the app does the same; and `disable()` undoes it all."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support import STARTS_AGAIN
from tests.support.refusal import be_refused
from tests.support.scrape import Scrape, wait_until, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

SEED = 20260713
VISITORS = 4

# The same visitors, with every part of ours broken in turn

APP = """
import asyncio
from pathlib import Path

import chainlit as cl


def note(line):
    with open("calls.txt", "a") as file:
        print(line, file=file)


@cl.on_chat_start
async def start():
    note("start")
    await cl.Message("Hello.").send()


@cl.on_message
async def answer(message):
    note("message " + message.content)
    if message.content == "fail":
        raise ValueError("This went wrong.")
    if message.content == "ask":
        said = await cl.AskUserMessage("How many?", timeout=20).send()
        await cl.Message("You want " + said["output"]).send()
    elif message.content == "disable":
        import chainlit_otel

        chainlit_otel.disable()
        await cl.Message("Disabled.").send()
    elif message.content == "wait":
        await cl.Message("Waiting.").send()
        await asyncio.Event().wait()
    elif message.content == "stream":
        async with cl.Step("work") as step:
            step.output = "done"
        stream = cl.Message("")
        for token in ("one ", "two ", "three"):
            await stream.stream_token(token)
        await stream.send()
    else:
        await cl.Message("You said: " + message.content).send()


@cl.on_stop
def stop():
    note("stop")


@cl.on_chat_end
def end():
    note("end")
"""

ENABLE = """
import chainlit_otel

chainlit_otel.enable()
"""

BREAK = """
import inspect
import importlib


def broken(*args, **kwargs):
    raise RuntimeError("broken on purpose")


def break_all(*names, constructors=False):
    for name in names:
        module = importlib.import_module(name)
        owners = [v for v in vars(module).values() if inspect.isclass(v)]
        for owner in [o for o in owners if o.__module__ == name]:
            for key, value in list(vars(owner).items()):
                if inspect.isroutine(value) and key != "__init__":
                    setattr(owner, key, broken)
        if constructors:
            for key, value in list(vars(module).items()):
                if inspect.isfunction(value) and value.__module__ == name:
                    setattr(module, key, broken)


TELEMETRY = ("chainlit_otel.pipeline.instruments",)
LEDGERS = ("chainlit_otel.core.sessions", "chainlit_otel.core.connections")
"""

BROKEN = {
    "telemetry, and it cannot be made": BREAK + "break_all(*TELEMETRY, constructors=True)" + ENABLE,
    "telemetry": BREAK + "break_all(*TELEMETRY)" + ENABLE,
    "telemetry, later": BREAK + ENABLE + "break_all(*TELEMETRY)",
    "ledgers": BREAK + "break_all(*LEDGERS)" + ENABLE,
    "ledgers, later": BREAK + ENABLE + "break_all(*LEDGERS)",
}

Transcript = list[object]


class Guest:
    """A visitor that does the same whatever it meets, and writes down what it gets."""

    def __init__(self, url: str, seed: int) -> None:
        self._rng = random.Random(seed)
        self._url = url
        self._env = {"KEY": "value"}
        self._visitor = self._new(self._env)
        self.transcript: Transcript = []

    async def visit(self) -> None:
        await self._visitor.connect()
        await self._greeted()
        actions: list[Callable[[], Awaitable[None]]] = [
            self._talk,
            self._stream,
            self._fail,
            self._ask,
            self._stop,
            self._come_back,
            self._new_chat,
            self._be_refused,
            self._ask_for_files,
        ]
        self._rng.shuffle(actions)
        for action in actions:
            self.transcript.append(action.__name__)
            await action()
        await self._visitor.leave(clear=self._rng.random() < 0.5)
        self.transcript += [[event.name, event.data] for event in self._visitor.events]

    def _new(self, env: dict[str, str]) -> Visitor:
        visitor = Visitor(self._url, transports=["websocket"], rng=self._rng)
        visitor.user_env = env
        return visitor

    async def _greeted(self, seen: int = 0) -> None:
        def over() -> bool:
            names = [event.name for event in self._visitor.events[seen:]]
            return "task_start" in names and names[-1] == "task_end"

        await self._visitor.until(over, "the greeting")

    async def _talk(self) -> None:
        text = f"hello {self._rng.random()}"
        self.transcript.append((await self._visitor.say(text)).texts)

    async def _stream(self) -> None:
        self.transcript.append((await self._visitor.say("stream")).texts)

    async def _fail(self) -> None:
        self.transcript.append((await self._visitor.say("fail")).texts)

    async def _ask(self) -> None:
        self.transcript.append((await self._visitor.say("ask")).texts)
        self.transcript.append((await self._visitor.say("two")).texts)

    async def _stop(self) -> None:
        seen = len(self._visitor.events)
        await self._visitor.send("wait")

        def has(name: str, text: str = "") -> Callable[[], bool]:
            return lambda: any(
                event.name == name and text in json.dumps(event.data)
                for event in self._visitor.events[seen:]
            )

        await self._visitor.until(has("new_message", "Waiting."), "the work")
        await self._visitor.emit("stop")
        await self._visitor.until(has("task_end"), "the end of the work")

    async def _come_back(self) -> None:
        await self._visitor.drop()
        seen = len(self._visitor.events)
        await self._visitor.reconnect()
        if STARTS_AGAIN:
            await self._greeted(seen)

    async def _new_chat(self) -> None:
        await self._visitor.new_chat()
        await self._greeted()

    async def _be_refused(self) -> None:
        self.transcript.append(await be_refused(self._new({"OTHER": "value"}), patience=1))

    async def _ask_for_files(self) -> None:
        async with httpx.AsyncClient() as http:
            where = {"session_id": "nobody"}
            upload = await http.post(
                f"{self._url}/project/file", params=where, files={"file": b"x"}
            )
            action = await http.post(
                f"{self._url}/project/action",
                json={"sessionId": "nobody", "action": {"name": "a", "payload": {}, "label": ""}},
            )
        self.transcript += [upload.status_code, upload.text, action.status_code, action.text]


def normal(transcript: Transcript) -> Transcript:
    """Take out what differs from run to run: ids become numbers, times are dropped."""
    text = json.dumps(transcript)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z?", "<time>", text)
    ids: dict[str, str] = {}
    uuid = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    text = re.sub(uuid, lambda match: ids.setdefault(match[0], f"<{len(ids)}>"), text)
    result: Transcript = json.loads(text)
    return result


def app_server(app: str) -> ChainlitServer:
    config = {"project": {"session_timeout": 60, "user_env": ["KEY"]}}
    return ChainlitServer({"app.py": app}, config=config)


async def visits(server: ChainlitServer) -> tuple[list[Transcript], Counter[str]]:
    """Send the guests, one after the other; return what they and what the app saw."""
    transcripts = []
    for number in range(VISITORS):
        guest = Guest(server.url, SEED + number)
        await guest.visit()
        transcripts.append(normal(guest.transcript))

    def ended() -> bool:
        calls = Counter(server.read("calls.txt").splitlines())
        # Every guest starts two chats and leaves one connection more, by losing it.
        return calls["end"] == 3 * VISITORS

    await asyncio.to_thread(wait_until, ended, 60, "the end of every connection")
    return transcripts, Counter(server.read("calls.txt").splitlines())


Seen = tuple[list[Transcript], Counter[str], int]


@pytest.fixture(scope="module")
def without_us() -> Iterator[Seen]:
    with app_server(APP) as server:
        transcripts, calls = asyncio.run(visits(server))
        assert len(transcripts[0]) > 50
        yield transcripts, calls, server.stop()


@pytest.mark.parametrize("part", ["nothing", *BROKEN])
async def test_the_app_does_the_same_with_us_broken(part: str, without_us: Seen) -> None:
    transcripts, calls, code = without_us
    with app_server(BROKEN.get(part, ENABLE) + APP) as server:
        seen, heard = await visits(server)
        assert seen == transcripts
        assert heard == calls

        if part == "telemetry, and it cannot be made":
            assert server.log.count("RuntimeError\n") == 1
        else:
            url = server.metrics_url.replace("/metrics", "/healthz")
            async with httpx.AsyncClient() as http:
                state = (await http.get(url)).json()
            errors = state["internal_errors"]
            assert any(errors.values()) == (part != "nothing")
            # Once for each probe that failed, then only counted.
            failed = [probe for probe, number in errors.items() if number]
            assert {probe for probe, why in state["off"].items() if "failed" in why} == set(failed)
            assert server.log.count("RuntimeError\n") == len(failed)
        if part in ("ledgers", "ledgers, later"):
            scraped = await asyncio.to_thread(server.scrape)
            counted = {
                probe: scraped.value(
                    "chainlit_otel_internal_errors_total", chainlit_otel_probe=probe
                )
                for probe in failed
            }
            assert all(counted[probe] >= errors[probe] for probe in failed)

        last = Visitor(server.url, transports=["websocket"])
        last.user_env = {"KEY": "value"}
        await last.connect()
        assert (await last.say("disable")).texts == ["Disabled."]
        await last.leave(clear=True)
        with pytest.raises(httpx.ConnectError):
            await asyncio.to_thread(server.scrape)
        assert await asyncio.to_thread(server.stop) == code


# Enable, disable, enable

SWITCH = """
import json

import chainlit as cl
import wrapt
from chainlit import auth, data, server, session, socket
from chainlit.config import config
from starlette.routing import Router
from uvicorn import Server


def seams():
    tables = {
        "WebsocketSession": vars(session.WebsocketSession),
        "HTTPSession": vars(session.HTTPSession),
        "sio.handlers": server.sio.handlers["/"],
        "sio.eio.handlers": server.sio.eio.handlers,
        "sio.eio": {"_bad_request": vars(server.sio.eio).get("_bad_request")},
        "BaseSession": vars(session.BaseSession),
        "server": functions(server),
        "socket": functions(socket),
        "auth": functions(auth),
        "data": functions(data),
        "Router": vars(Router),
        "Server": vars(Server),
        "routes": dict(enumerate(server.app.router.routes)),
        "lifespan": {"context": server.app.router.lifespan_context},
        "config.code": {k: v for k, v in vars(config.code).items() if k != "on_message"},
    }
    return {f"{t}[{key!r}]": value for t, table in tables.items() for key, value in table.items()}


def functions(module):
    return {name: value for name, value in vars(module).items() if callable(value)}


before = seams()

import chainlit_otel

chainlit_otel.enable()

theirs = {"calls": 0}


def on_top(wrapped, instance, args, kwargs):
    theirs["calls"] += 1
    return wrapped(*args, **kwargs)


def wrap_what_is_wrapped():
    for name in ("__init__", "restore", "delete", "get_by_id", "require"):
        setattr(
            session.WebsocketSession,
            name,
            wrapt.FunctionWrapper(vars(session.WebsocketSession)[name], on_top),
        )
    for handlers, names in (
        (server.sio.handlers["/"], ("connect", "disconnect")),
        (server.sio.eio.handlers, ("disconnect",)),
    ):
        for name in names:
            handlers[name] = wrapt.FunctionWrapper(handlers[name], on_top)
    Router.lifespan = wrapt.FunctionWrapper(vars(Router)["lifespan"], on_top)


@cl.on_message
async def answer(message):
    said = None
    if message.content == "enable":
        chainlit_otel.enable()
    elif message.content == "disable":
        chainlit_otel.disable()
    elif message.content == "wrap":
        wrap_what_is_wrapped()
    elif message.content == "compare":
        now = seams()
        said = sorted(k for k in {*now, *before} if now.get(k) is not before.get(k))
    elif message.content == "theirs":
        said = theirs["calls"]
    await cl.Message(json.dumps(said)).send()
"""


class Operator:
    """Stays connected and switches the observation of the app on and off."""

    def __init__(self, server: ChainlitServer) -> None:
        self._server = server
        self._visitor = Visitor(server.url, transports=["websocket"])

    async def __aenter__(self) -> Operator:
        await self._visitor.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._visitor.leave(clear=True)

    async def tell(self, what: str) -> Any:
        [answer] = (await self._visitor.say(what)).texts
        return json.loads(answer)

    async def one_visit(self) -> None:
        """Somebody comes, talks, loses the line, comes back and leaves for good."""
        visitor = Visitor(self._server.url, transports=["websocket"])
        await visitor.connect()
        assert (await visitor.say("hello")).texts == ["null"]
        await visitor.drop()
        await visitor.reconnect()
        assert (await visitor.say("hello")).texts == ["null"]
        await visitor.leave(clear=True)

    async def scrape(self, closed: int) -> Scrape:
        """Scrape once so many connections have closed, the end of each session included."""

        async def condition() -> Scrape | None:
            scrape = await asyncio.to_thread(self._server.scrape)
            over = scrape.sum("chainlit_connection_duration_seconds_count") == closed
            gone = scrape.sum("chainlit_session_active") == 1
            return await asyncio.to_thread(self._server.scrape) if over and gone else None

        found = await wait_until_async(condition, 60, f"the end of {closed} connections")
        assert found is not None
        return found

    async def unreachable(self) -> bool:
        try:
            await asyncio.to_thread(self._server.scrape)
        except httpx.ConnectError:
            return True
        return False


@pytest.fixture
def switched() -> Iterator[ChainlitServer]:
    env = {"CHAINLIT_OTEL_METRICS_PATH": "/metrics"}
    with ChainlitServer({"app.py": SWITCH}, env=env) as server:
        yield server


def figures(scrape: Scrape) -> dict[str, float]:
    return {
        "starts": scrape.sum("chainlit_session_starts_total"),
        "reconnects": scrape.sum("chainlit_session_reconnects_total"),
        "cleared": scrape.sum(
            "chainlit_session_duration_seconds_count", chainlit_session_end_reason="cleared"
        ),
        "by clients": scrape.sum(
            "chainlit_connection_duration_seconds_count",
            chainlit_connection_close_reason="client_disconnect",
        ),
    }


def grown(before: Scrape, after: Scrape) -> dict[str, float]:
    first, second = figures(before), figures(after)
    return {name: second[name] - first[name] for name in first}


ONE_VISIT = {"starts": 1, "reconnects": 1, "cleared": 1, "by clients": 1}


async def test_disable_puts_every_original_back(switched: ChainlitServer) -> None:
    async with Operator(switched) as operator:
        patched = await operator.tell("compare")
        for seam in (
            "WebsocketSession['__init__']",
            "WebsocketSession['restore']",
            "WebsocketSession['delete']",
            "HTTPSession['__init__']",
            "sio.handlers['connect']",
            "sio.handlers['disconnect']",
            "sio.eio.handlers['disconnect']",
            "sio.eio['_bad_request']",
            "BaseSession['persist_file']",
            "server['_authenticate_user']",
            "server['_get_oauth_redirect_error']",
            "server['is_thread_author']",
            "server['decode_jwt']",
            "auth['decode_jwt']",
            "socket['_authenticate_connection']",
            "socket['resume_thread']",
            "data['get_data_layer']",
            "server['get_data_layer']",
            "Router['lifespan']",
            "Server['shutdown']",
            "routes[0]",
        ):
            assert seam in patched
        for _ in range(2):
            await operator.tell("disable")
            assert await operator.tell("compare") == []
            assert await operator.unreachable()
            await operator.tell("enable")
            assert await operator.tell("compare") == patched


async def test_enabled_again_it_counts_again(switched: ChainlitServer) -> None:
    async with Operator(switched) as operator:
        start = await operator.scrape(closed=0)
        await operator.one_visit()
        first = await operator.scrape(closed=2)
        assert grown(start, first) == ONE_VISIT

        await operator.tell("disable")
        await operator.one_visit()
        await operator.tell("enable")
        again = await asyncio.to_thread(switched.scrape)
        unseen = grown(first, again)
        assert unseen["cleared"] == unseen["reconnects"] == unseen["by clients"] == 0

        await operator.one_visit()
        closed = again.sum("chainlit_connection_duration_seconds_count")
        last = await operator.scrape(closed=int(closed) + 2)
        assert grown(again, last) == ONE_VISIT
        assert last.sum("chainlit_session_active", chainlit_session_state="connected") == 1
        assert last.sum("chainlit_connection_active") == 1
        assert last.sum("chainlit_otel_internal_errors_total") == 0


async def test_a_wrapper_under_a_later_one_goes_inert(switched: ChainlitServer) -> None:
    async with Operator(switched) as operator:
        await operator.tell("wrap")
        await operator.one_visit()
        start = await operator.scrape(closed=2)
        calls = await operator.tell("theirs")
        assert calls >= 7

        await operator.tell("disable")
        await operator.one_visit()
        assert await operator.tell("theirs") >= 2 * 7, "theirs stays in its place"
        await operator.tell("enable")
        again = await asyncio.to_thread(switched.scrape)
        unseen = grown(start, again)
        assert unseen["cleared"] == unseen["reconnects"] == unseen["by clients"] == 0

        # Now there are two layers of ours, and the lower one must stay silent.
        await operator.one_visit()
        closed = again.sum("chainlit_connection_duration_seconds_count")
        last = await operator.scrape(closed=int(closed) + 2)
        assert grown(again, last) == ONE_VISIT
        assert last.sum("chainlit_connection_active") == 1
        assert last.sum("chainlit_otel_internal_errors_total") == 0


# Chainlit's own failures at disconnect

GRACE = 1
FAILURES = [
    (place, error, way)
    for place in ("chat_end", "data_layer", "nowhere")
    for error in ("RuntimeError", "TypeError")
    for way in ("drop", "leave", "clear")
]

FAILING = """
import builtins

import chainlit as cl
from chainlit.data.base import BaseDataLayer


def fail_if(place, what):
    with open("calls.txt", "a") as file:
        print(place, *what, file=file)
    if what[0] == place:
        raise getattr(builtins, what[1])("This went wrong.")


async def nothing(self, *args, **kwargs):
    return None


async def update_thread(self, thread_id, name=None, user_id=None, metadata=None, tags=None):
    if metadata is not None:
        fail_if("data_layer", metadata["what"])


Layer = type(
    "Layer",
    (BaseDataLayer,),
    {**dict.fromkeys(BaseDataLayer.__abstractmethods__, nothing), "update_thread": update_thread},
)


@cl.data_layer
def data_layer():
    return Layer()


@cl.on_message
async def answer(message):
    cl.user_session.set("what", message.content.split())
    await cl.Message("done").send()


@cl.on_chat_end
def end():
    fail_if("chat_end", cl.user_session.get("what"))
"""


def failing_server(app: str) -> ChainlitServer:
    return ChainlitServer({"app.py": app}, config={"project": {"session_timeout": GRACE}})


async def leave_in_every_way(server: ChainlitServer) -> Counter[str]:
    """Let Chainlit fail at every kind of disconnect; return the calls it made of the app."""
    for place, error, way in [*FAILURES, ("nowhere", "RuntimeError", "last")]:
        visitor = Visitor(server.url, transports=["websocket"])
        await visitor.connect()
        assert (await visitor.say(f"{place} {error} {way}")).texts == ["done"]
        if way == "drop":
            await visitor.drop()
        else:
            await visitor.leave(clear=way == "clear")

    def calls() -> Counter[str]:
        return Counter(server.read("calls.txt").splitlines())

    last = "data_layer nowhere RuntimeError last"
    await asyncio.to_thread(wait_until, lambda: calls()[last], 60, "the last disconnect")
    return calls()


async def test_chainlits_failures_at_disconnect() -> None:
    with failing_server(FAILING) as server:
        without_us = await leave_in_every_way(server)
    # Chainlit swallows what the callback raises, and persists the thread nevertheless.
    for place, error, way in FAILURES:
        assert without_us[f"chat_end {place} {error} {way}"] >= 1
        assert without_us[f"data_layer {place} {error} {way}"] >= 1

    with failing_server(FAILING + ENABLE) as server:
        stays = Visitor(server.url, transports=["websocket"])
        await stays.connect()
        assert (await stays.say("data_layer RuntimeError stays")).texts == ["done"]
        await stays.drop()
        await stays.reconnect()

        with_us = await leave_in_every_way(server)
        assert with_us.pop("data_layer data_layer RuntimeError stays") == 1
        assert with_us.pop("chat_end data_layer RuntimeError stays") == 1
        assert with_us == without_us

        cleared = sum(way == "clear" for _, _, way in FAILURES)
        timeout = len(FAILURES) - cleared + 1
        kept = sum(place == "data_layer" for place, _, _ in FAILURES)
        await books_agree(server, {"cleared": cleared, "timeout": timeout}, kept, connected=1)
        assert (await stays.say("data_layer RuntimeError stays")).texts == ["done"]

        await stays.drop()
        await books_agree(server, {"cleared": cleared, "timeout": timeout + 1}, kept + 1)


async def books_agree(
    server: ChainlitServer, ends: dict[str, int], kept: int, connected: int = 0
) -> None:
    """Wait until every session that was left has ended, and check how."""

    async def condition() -> Scrape | None:
        scrape = await asyncio.to_thread(server.scrape)
        over = scrape.sum("chainlit_session_ends_total") >= sum(ends.values())
        # A session has ended before Chainlit fails to let go of it.
        failed = scrape.value("chainlit_retained", chainlit_retained_kind="sessions") >= kept
        return await asyncio.to_thread(server.scrape) if over and failed else None

    scrape = await wait_until_async(condition, 60, "the end of the grace time")
    assert scrape is not None
    for reason, number in ends.items():
        labels = {"chainlit_session_end_reason": reason}
        assert scrape.sum("chainlit_session_ends_total", **labels) == number
        assert scrape.sum("chainlit_session_duration_seconds_count", **labels) == number
    active = {"chainlit_session_state": "connected"}
    assert scrape.sum("chainlit_session_active", **active) == connected
    assert scrape.sum("chainlit_session_active") == connected
    assert scrape.value("chainlit_retained", chainlit_retained_kind="sessions") == kept
    assert scrape.sum("chainlit_otel_internal_errors_total") == 0
