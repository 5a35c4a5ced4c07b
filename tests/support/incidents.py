"""Eight deployments of one app, the people who use them, and what goes wrong with each.

What breaks in the app is switched on by a request to it; what breaks between the app and its people
is done by these, or by a proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from typing import Any, ClassVar

import httpx

from chainlit_otel.testing import VisitError, Visitor
from chainlit_otel.testing.http import Address
from tests.support import LAYER
from tests.support.prometheus import Prometheus
from tests.support.proxy import RoundRobin
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer
from tests.support.sign_in import sign_in

WORDS = 4
AWAY = 0.5  # seconds until somebody is back who has lost the connection
LATE = 4.0  # seconds until the first word of a report, when its provider is slow

APP = """
import asyncio
import json
import os
import time

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.server import app
from layer import Layer

faults = set()


class BadRequestError(Exception):
    pass


class DataError(Exception):
    pass


class LDAPSocketOpenError(Exception):
    pass


@app.post("/faults/{fault}")
async def start(fault: str):
    faults.add(fault)


class Store(Layer):
    written = 0

    async def write(self, step):
        self.written += 1
        if "steps" in faults and self.written % 5 == 0:
            await asyncio.sleep(0.2)
            raise TimeoutError("statement timeout: could not write to table steps")
        await asyncio.sleep(2 if "steps" in faults else 0.01)

    create_step = update_step = write

    async def update_thread(self, thread_id, name=None, user_id=None, metadata=None, tags=None):
        if len(json.dumps(metadata, default=str)) > 4096:
            raise DataError("value too long for column threads.metadata (4096)")


if "STORE" in os.environ:

    @cl.data_layer
    def store():
        return Store()


if "CHAINLIT_AUTH_SECRET" in os.environ:
    tried = 0

    @cl.password_auth_callback
    def sign_in(name, password):
        global tried
        tried += password == "demo"
        if password == "demo" and "directory" in faults and tried % 2:
            raise LDAPSocketOpenError("socket connection error while opening: timed out")
        return cl.User(name) if password == "demo" else None


@cl.set_chat_profiles
async def profiles(user):
    return [cl.ChatProfile(name=name, markdown_description=name) for name in ("fast", "deep")]


@cl.action_callback("press")
async def press(action):
    return "pressed"


@cl.step(type="tool")
async def search_catalog(topic):
    time.sleep(1.5 if "catalog" in faults else 0.02)  # the line that blocks


@cl.step(type="llm")
async def chat_completion(profile):
    await asyncio.sleep(0.1)
    if "model" in faults and profile == "deep":
        raise BadRequestError("404: the model large-7-preview does not exist")


@cl.step(type="llm")
async def report_writer():
    await asyncio.sleep({late} if "writer" in faults else 0.1)


@cl.on_message
async def on_message(message):
    if "cart" in faults:
        cl.user_session.set("cart", "x" * 5000)
    if message.content == "report":
        await report_writer()
    else:
        await search_catalog(message.content)
        await chat_completion(cl.user_session.get("chat_profile"))
    answer = cl.Message("")
    for _ in range({words}):
        await answer.stream_token("word ")
        await asyncio.sleep(0.1)
    await answer.send()
""".replace("{late}", str(LATE)).replace("{words}", str(WORDS))

FILES = {"app.py": APP, "layer.py": LAYER}
CONFIG: dict[str, dict[str, object]] = {
    "project": {"session_timeout": 60},
    "features.spontaneous_file_upload": {"enabled": True},
}


class Incident:
    """A deployment on a good day, until something happens to it.

    Attributes:
        job: what Prometheus calls it.
        servers: the replicas.
        since: when it happened, in seconds since the epoch; 0 before.
        turns: how many answers were read to their end.
    """

    job: ClassVar[str]
    fault: ClassVar[str] = ""
    replicas: ClassVar[int] = 1
    people: ClassVar[int] = 6
    pause: ClassVar[float] = 1.0
    env: ClassVar[dict[str, str]] = {}

    def __init__(self) -> None:
        self.servers = [self.replica() for _ in range(self.replicas)]
        self.since = 0.0
        self.turns = 0
        self.dice = random.Random(self.job)

    def replica(self) -> ChainlitServer:
        """One more, not started yet."""
        return ChainlitServer(FILES, config=CONFIG, env=self.env)

    def close(self) -> None:
        """Stop the replicas."""
        for server in self.servers:
            server.close()

    @property
    def targets(self) -> list[str]:
        """Where Prometheus finds the replicas."""
        return [f"127.0.0.1:{server.admin_port}" for server in self.servers]

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Let people in, until the end of the `with` block."""
        tasks = [asyncio.create_task(one) for one in self.everybody()]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        failures = [one for one in results if not isinstance(one, asyncio.CancelledError)]
        assert not failures, (self.job, failures)

    async def strike(self) -> None:
        """Let it happen."""
        self.since = time.time()
        if self.fault:
            await self.break_app(self.fault)

    async def break_app(self, fault: str) -> None:
        """Switch a fault of the app on."""
        async with httpx.AsyncClient(verify=False, timeout=60) as http:
            for server in self.servers:
                (await http.post(f"{server.url}/faults/{fault}")).raise_for_status()

    def everybody(self) -> list[Coroutine[Any, Any, None]]:
        """What goes on, each for ever."""
        return [self.stay(number) for number in range(self.people)]

    def url(self, number: int) -> str:
        """Where one of the people gets when he connects."""
        return self.servers[number % len(self.servers)].url

    def visitor(self, number: int) -> Visitor:
        """One of the people; half of them choose the profile `deep`."""
        profile = ("fast", "deep")[number % 2]
        return Visitor(self.url(number), transports=["websocket"], chat_profile=profile)

    async def stay(self, number: int) -> None:
        """Chat, and come back whenever the connection is lost."""
        visitor = self.visitor(number)
        try:
            while True:
                with contextlib.suppress(VisitError):
                    if not visitor.connected:
                        visitor.address = Address.parse(self.url(number))
                        await visitor.connect()
                    await self.turn(visitor)
                    self.turns += 1
                away = 0 if visitor.connected else AWAY
                await asyncio.sleep(away + self.dice.uniform(0.5, 1.5) * self.pause)
        finally:
            await visitor.leave()

    async def look_in(self, number: int) -> None:
        """Come, chat and go, again and again, each time as somebody else."""
        while True:
            visitor = self.visitor(number)
            try:
                with contextlib.suppress(VisitError):
                    await visitor.connect()
                    await self.turn(visitor)
                    self.turns += 1
            finally:
                await visitor.leave()
            await asyncio.sleep(self.dice.uniform(0.5, 1.5) * self.pause)

    async def turn(self, visitor: Visitor) -> None:
        """Send a message and read the answer."""
        await visitor.say("hello")


class BlockedLoop(Incident):
    """A tool that has always blocked the event loop becomes slow."""

    job = "blocked-loop"
    fault = "catalog"


class PeriodicCut(Incident):
    """A proxy cuts all connections at one moment, again and again."""

    job = "periodic-cut"
    people = 8
    PERIOD = 10.0

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        async with RoundRobin([self.servers[0].port]) as self.proxy, super().open():
            yield

    def url(self, number: int) -> str:
        return self.proxy.url

    def everybody(self) -> list[Coroutine[Any, Any, None]]:
        return [*super().everybody(), self._cut()]

    async def _cut(self) -> None:
        while True:
            if self.since:
                self.proxy.cut()
                await asyncio.sleep(self.PERIOD)
            else:
                await asyncio.sleep(0.05)


class OneTable(Incident):
    """All that writes to one table of the data layer is slow, and some of it fails."""

    job = "one-table"
    fault = "steps"
    env: ClassVar = {"STORE": "yes"}


class GoneModel(Incident):
    """The model behind one of two chat profiles is gone."""

    job = "gone-model"
    fault = "model"


class LongMetadata(Incident):
    """At the end of each session it cannot be saved, as what the app keeps in it has grown."""

    job = "long-metadata"
    fault = "cart"
    people = 3
    env: ClassVar = {"STORE": "yes"}

    def everybody(self) -> list[Coroutine[Any, Any, None]]:
        return [self.look_in(number) for number in range(self.people)]


class LostStickiness(Incident):
    """The load balancer forgets who belongs to which of two replicas."""

    job = "lost-stickiness"
    replicas = 2

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        ports = [server.port for server in self.servers]
        async with RoundRobin(ports) as self.balancer, super().open():
            yield

    def url(self, number: int) -> str:
        return self.balancer.url if self.since else super().url(number)

    def everybody(self) -> list[Coroutine[Any, Any, None]]:
        # Who comes back is known to both replicas from then on, so new ones have to come.
        return [
            (self.stay if number % 2 else self.look_in)(number) for number in range(self.people)
        ]

    async def turn(self, visitor: Visitor) -> None:
        await visitor.say("hello")
        url = self.balancer.url if self.since else str(visitor.address)
        async with httpx.AsyncClient(base_url=url, verify=False, timeout=60) as http:
            for _ in range(2):
                await http.post(
                    "/project/file",
                    params={"session_id": visitor.session_id},
                    files={"file": ("notes.txt", b"x" * 100, "text/plain")},
                )
        if self.since and self.dice.random() < 0.1:
            await visitor.drop()


class GuessedPasswords(Incident):
    """Somebody guesses passwords, and the directory fails for real users: two at once."""

    job = "guessed-passwords"
    fault = "directory"
    people = 3
    env: ClassVar = {"CHAINLIT_AUTH_SECRET": "a secret of thirty-two characters"}

    def everybody(self) -> list[Coroutine[Any, Any, None]]:
        return [*(self._sign_in_and_out(number) for number in range(self.people)), self._guess()]

    async def _sign_in_and_out(self, number: int) -> None:
        while True:
            headers = await sign_in(self.servers[0].url, f"person {number}")
            if headers["Cookie"]:
                visitor = self.visitor(number)
                visitor.headers = headers
                await visitor.connect()
                await self.turn(visitor)
                self.turns += 1
                await visitor.leave(clear=True)
            await asyncio.sleep(self.dice.uniform(0.3, 0.7))

    async def _guess(self) -> None:
        for number in itertools.count():
            if self.since:
                await sign_in(self.servers[0].url, "ada", f"guess {number}")
            await asyncio.sleep(0.1)


class CutAtFirstWord(Incident):
    """Something ends connections soon after the first word; the fault `writer` may come on top."""

    job = "cut-at-first-word"
    people = 8

    async def turn(self, visitor: Visitor) -> None:
        seen = len(visitor.events)
        talk = asyncio.create_task(visitor.say("report"))
        try:
            await visitor.until(
                lambda: any(one.name == "stream_start" for one in visitor.events[seen:]),
                "the first word",
            )
            if self.since and self.dice.random() < 0.5:
                await asyncio.sleep(0.1)
                await visitor.drop()
            else:
                await talk
        finally:
            talk.cancel()
            await asyncio.gather(talk, return_exceptions=True)


class Visited(Incident):
    """People come for one answer each, at a steady rate.

    Attributes:
        usual: how many start a session each second, about.
    """

    usual: ClassVar[float]

    def everybody(self) -> list[Coroutine[Any, Any, None]]:
        return [self.look_in(number) for number in range(self.people)]


class Outage(Visited):
    """The only replica ends, and nobody starts it again."""

    job = "outage"
    people = 2
    usual = 1.0

    async def strike(self) -> None:
        await super().strike()
        await asyncio.to_thread(self.servers[0].stop, signal.SIGKILL)


class Launch(Visited):
    """Ten times as many come as on any other day."""

    job = "launch"
    people = 1
    usual = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._open = asyncio.Event()

    async def strike(self) -> None:
        await super().strike()
        self._open.set()

    def everybody(self) -> list[Coroutine[Any, Any, None]]:
        crowd = range(self.people, 10 * self.people)
        return [*super().everybody(), *(self._come_later(number) for number in crowd)]

    async def _come_later(self, number: int) -> None:
        await self._open.wait()
        await self.look_in(number)


class Deploy(Visited):
    """An autoscaler doubles the replicas, then they are replaced, one after the other.

    Attributes:
        prometheus: told of each change, as by Kubernetes; to be set before it strikes.
    """

    job = "deploy"
    people = 2
    usual = 1.0
    tabs = 8
    prometheus: Prometheus

    def everybody(self) -> list[Coroutine[Any, Any, None]]:
        return [*super().everybody(), *(self.stay(number) for number in range(self.tabs))]

    async def strike(self) -> None:
        await super().strike()
        await self._add()
        for _ in range(2 * self.replicas):
            await self._add()
            await self._remove()

    async def _add(self) -> None:
        self.servers.append(await asyncio.to_thread(self.replica().start))
        await self._seen()

    async def _remove(self) -> None:
        oldest = self.servers.pop(0)
        await self._seen()
        await asyncio.to_thread(oldest.stop)
        oldest.close()

    async def _seen(self) -> None:
        self.prometheus.scrape(self.targets, self.job)

        def seen() -> bool:
            up = self.prometheus.query(f'up{{job="{self.job}"}}')
            replicas = {labels["instance"] for labels, is_up in up if is_up}
            return len(up) == len(replicas) and replicas == {*self.targets}

        await asyncio.to_thread(wait_until, seen, 60, f"{self.job}'s replicas to be scraped")
