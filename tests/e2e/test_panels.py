"""Every query of every panel, answered by a real Prometheus, against what the visitors did.

Two replicas of one app with sign-in, a database, a cache, a pool and an MCP server are visited by
people who keep a ledger. One replica is restarted on the way. Then Grafana's part is played: each
query of each dashboard must return what the ledger says, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from chainlit_otel import catalog
from chainlit_otel.cli.visitors import Refused, Visitor
from chainlit_otel.rules import render
from tests.support.grafana import DASHBOARDS, Grafana, Series, panels
from tests.support.otlp import Receiver
from tests.support.postgres import Postgres
from tests.support.prometheus import Prometheus
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer
from tests.support.sign_in import sign_in

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

SEED = 20261125
SCHEMA = (Path(__file__).parents[2] / "examples" / "postgres" / "schema.sql").read_text()
GRACE = 4
SCRAPE = 1  # what Grafana is told; Prometheus looks twice as often
WINDOW = 4 * SCRAPE
REGULARS, GUESTS, RUSH, CLEARED = 6, 3, 8, 5
QUERIES = 2  # those who hold a connection of the pool at the end
TOKENS, PACE, LOOK_UP, BLOCKED, LATE = 10, 0.02, 0.05, 1.5, 0.6
FILE = 5000
POOL = 5
CACHE = 3
TOPICS = ("sun", "rain", "wind", "snow", "fog")
A_WEEK = 7 * 24 * 3600
LAST_WEEK = 12  # sessions started per minute

MAIN = """
from chainlit.context import init_http_context
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

app = FastAPI()


@app.get("/bot")
async def bot():
    import chainlit as cl

    init_http_context(client_type="slack")
    await cl.Message("Said.").send()
    return {}


mount_chainlit(app=app, target="app.py", path="/chat")
"""

APP = """
import asyncio
import os
import pathlib
import sys
import time

import chainlit_otel

chainlit_otel.enable()

import asyncpg
import chainlit as cl
from chainlit.config import McpFeature, StdioMcpServer, config
from chainlit.data import get_data_layer
from chainlit.data.chainlit_data_layer import ChainlitDataLayer


class Topics(dict):
    hits = misses = evictions = 0

    def find(self, topic):
        if topic in self:
            self.hits += 1
        else:
            self.misses += 1
            if len(self) == {cache}:
                self.pop(next(iter(self)))
                self.evictions += 1
            self[topic] = topic.upper()
        return self[topic]


class Layer(ChainlitDataLayer):
    connecting = asyncio.Lock()

    async def connect(self):
        async with self.connecting:
            if not self.pool:
                self.pool = await asyncpg.create_pool(
                    self.database_url, min_size=2, max_size={pool}
                )
                await self.pool.execute(pathlib.Path("schema.sql").read_text())

    async def update_thread(self, thread_id, name=None, user_id=None, metadata=None, tags=None):
        if metadata and "unstorable" in metadata:
            raise ConnectionError("The store is down.")
        await super().update_thread(thread_id, name, user_id, metadata, tags)

    async def get_element(self, thread_id, element_id):
        await self.execute_query("SELECT pg_sleep(60)")


topics = Topics()
chainlit_otel.watch_cache("topics", topics)
config.features.mcp = McpFeature(
    enabled=True,
    servers=[StdioMcpServer(name="tools", type="stdio", command=sys.executable + " tools.py")],
)


@cl.data_layer
def data_layer():
    return Layer(os.environ["DATABASE_URL"])


# So that its operations are there, at zero, before the first of them.
get_data_layer()


@cl.password_auth_callback
def sign_in(name, password):
    if password == "unknown":
        raise ConnectionError("The directory is down.")
    return cl.User(name) if password == "demo" else None


@cl.on_chat_start
async def greet():
    await cl.Message("Welcome.").send()


@cl.on_chat_resume
async def resume(thread):
    pass


@cl.on_mcp_connect
async def connected(connection, session):
    pass


@cl.step(type="tool")
async def look_up(topic):
    await asyncio.sleep({look_up})
    return topics.find(topic)


@cl.step(type="tool")
async def search(topic):
    raise LookupError(topic)


@cl.on_message
async def on_message(message):
    command, _, rest = message.content.partition(" ")
    if command == "tell":
        answer = cl.Message("")
        await look_up(rest)
        for _ in range({tokens}):
            await answer.stream_token("word ")
            await asyncio.sleep({pace})
        await answer.send()
    elif command == "fail":
        raise ValueError("You asked for it.")
    elif command == "search":
        try:
            await search(rest)
        except LookupError:
            await cl.Message("nothing").send()
    elif command == "ask":
        await cl.AskUserMessage("your name?", timeout=int(rest)).send()
    elif command == "wait":
        await cl.Message("waiting").send()
        await asyncio.sleep(60)
    elif command == "query":
        await get_data_layer().get_element("", "")
    elif command == "late":
        await asyncio.sleep({late})
        await cl.Message("too late").send()
    elif command == "file":
        await cl.Message("here", elements=[cl.File(name="f", content=b"x" * int(rest))]).send()
    elif command == "limit":
        chainlit_otel.access_denied("rate_limit", "messages")
        await cl.Message("no more").send()
    elif command == "forget":
        cl.user_session.set("unstorable", True)
        await cl.Message("forgotten").send()
    elif command == "block":
        time.sleep({blocked})
        await cl.Message("done").send()
"""

TOOLS = """
import json
import sys

for line in sys.stdin:
    asked = json.loads(line)
    if "id" not in asked:
        continue
    result = {}
    if asked["method"] == "initialize":
        result = {
            "protocolVersion": asked["params"]["protocolVersion"],
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "tools", "version": "1"},
        }
    elif asked["method"] == "tools/list":
        result = {"tools": []}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""

NUMBERS = {
    "cache": CACHE,
    "pool": POOL,
    "look_up": LOOK_UP,
    "tokens": TOKENS,
    "pace": PACE,
    "late": LATE,
    "blocked": BLOCKED,
}


def filled_in(app: str) -> str:
    for name, number in NUMBERS.items():
        app = app.replace(f"{{{name}}}", str(number))
    return app


FILES = {"main.py": MAIN, "app.py": filled_in(APP), "tools.py": TOOLS, "schema.sql": SCHEMA}


def replica(database: Postgres, receiver: Receiver) -> ChainlitServer:
    return ChainlitServer(
        FILES,
        config={
            "project": {"session_timeout": GRACE},
            "features.spontaneous_file_upload": {"enabled": True},
        },
        env={
            "CHAINLIT_AUTH_SECRET": "a secret of thirty-two characters",
            "DATABASE_URL": database.url,
            **receiver.env,
        },
        command=["uvicorn", "main:app", "--port", "{port}", "--log-level", "critical"],
        path="/chat",
    )


def address(server: ChainlitServer) -> str:
    return f"127.0.0.1:{server.admin_port}"


def last_week(now: float) -> str:
    """What Prometheus would have kept from a week ago: one replica, starts at a constant rate."""
    labels = ",".join(
        f'{name}="{value}"'
        for name, value in {
            "job": "chat",
            "instance": "last week's:9464",
            "chainlit_session_type": "websocket",
            "chainlit_client_type": "webapp",
            "chainlit_session_origin": "new",
        }.items()
    )
    lines = ["# TYPE chainlit_session_starts counter"]
    for second in range(-300, 600):
        at, count = now - A_WEEK + second, (second + 300) * LAST_WEEK / 60
        lines.append(f"chainlit_session_starts_total{{{labels}}} {count:g} {at:.3f}")
    return "\n".join([*lines, "# EOF", ""])


class Ledger(Counter[str]):
    """What was done, by those who did it."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = self.seconds_of_ended = 0.0


class Script:
    """The people, and what they do.

    Args:
        first: the replica that most of them go to.
        second: the one that is restarted.
        database: of both.
        prometheus: which watches both.
    """

    def __init__(
        self,
        first: ChainlitServer,
        second: ChainlitServer,
        database: Postgres,
        prometheus: Prometheus,
    ) -> None:
        self.done = Ledger()
        self._first, self._second = first, second
        self._database, self._prometheus = database, prometheus
        self.instances = address(first), address(second)
        self._headers: dict[str, dict[str, str]] = {}
        self._since: dict[Visitor, float] = {}

    async def play(self) -> None:
        dice = random.Random(SEED)
        regulars = [await self._come(f"regular {n}") for n in range(REGULARS)]
        guests = asyncio.create_task(self._guests())
        kinds = [self._tell, self._fail, self._search, self._answer, self._stop, self._limit]
        doings = [*kinds * 2, *dice.choices(kinds, [6, 1, 1, 1, 1, 1], k=18)]
        dice.shuffle(doings)
        share = len(doings) // REGULARS
        await asyncio.gather(
            *(
                self._one_after_the_other(
                    regular,
                    doings[n * share : (n + 1) * share],
                    random.Random(f"{SEED}/{n}"),
                )
                for n, regular in enumerate(regulars)
            )
        )
        await self._lose(regulars[0])
        await self._ask_in_vain(regulars[1])
        await self._seen("chainlit_access_denials_total", "messages")
        await self._limit(regulars[5])
        await self._rate(regulars[2])
        await self._files(regulars[3])
        await self._mcp(regulars[4])
        await self._at_the_door()
        await self._come_and_go()
        await guests
        await self._rush()
        for regular in regulars[:2]:
            await self._block(regular)
        await self._everybody_counted()
        await self._stay(regulars)

    # What a regular does

    async def _one_after_the_other(
        self, visitor: Visitor, doings: Sequence[Callable[[Visitor], Any]], dice: random.Random
    ) -> None:
        for doing in doings:
            await (self._tell(visitor, dice) if doing == self._tell else doing(visitor))

    async def _tell(self, visitor: Visitor, dice: random.Random | None = None) -> None:
        topic = dice.choice(TOPICS) if dice else TOPICS[0]
        assert await visitor.talk(f"tell {topic}") == ["word " * TOKENS]
        self._turn("ok", outbound=1)
        self.done["tool ok"] += 1
        self.done["chunks"] += TOKENS
        self.done["lookups"] += 1

    async def _fail(self, visitor: Visitor) -> None:
        await visitor.talk("fail")
        self._turn("error")

    async def _search(self, visitor: Visitor) -> None:
        assert await visitor.talk("search everywhere") == ["nothing"]
        self._turn("ok", outbound=1)
        self.done["tool error"] += 1

    async def _answer(self, visitor: Visitor) -> None:
        await visitor.talk("ask 30")
        await visitor.talk("Ada")
        self._turn("ok", inbound=2, outbound=1)
        self.done["answered"] += 1

    async def _stop(self, visitor: Visitor) -> None:
        turn = await self._begin(visitor, "wait", "waiting")
        await visitor.emit("stop")
        await turn
        self._turn("cancelled", outbound=2)

    async def _limit(self, visitor: Visitor) -> None:
        assert await visitor.talk("limit") == ["no more"]
        self._turn("ok", outbound=1)
        self.done["limited"] += 1

    async def _lose(self, visitor: Visitor) -> None:
        await visitor.say("late")
        await visitor.until(
            lambda: any(
                event.name == "new_message" and event.data["name"] == "on_message"
                for event in visitor.events[-3:]
            ),
            "the app to start",
        )
        await visitor.drop()
        await self._scraped("chainlit_emit_dropped_total", 1, chainlit_emit_event="new_message")
        await visitor.reconnect()
        self._turn("ok")
        self.done["lost"] += 1
        self.done["reconnects"] += 1

    async def _ask_in_vain(self, visitor: Visitor) -> None:
        await visitor.talk("ask 1")
        await visitor.until(
            lambda: any(event.name == "ask_timeout" for event in visitor.events), "the time-out"
        )
        self._turn("ok", outbound=1)
        self.done["timed out"] += 1

    async def _rate(self, visitor: Visitor) -> None:
        """Judge an answer three times, take one back, and judge what is not there."""
        await self._tell(visitor)
        answer = next(
            event.data["id"]
            for event in reversed(visitor.events)
            if event.name == "new_message" and event.data["type"] == "assistant_message"
        )
        count = 'SELECT count(*) n FROM "Step" WHERE id = $1'
        await asyncio.to_thread(
            wait_until,
            lambda: self._database.query(count, answer)[0]["n"],
            10,
            "the answer to be stored",
        )
        async with self._http(visitor) as http:
            for value in (1, 1, 0):
                judged = await http.put("/feedback", json=_feedback(visitor, answer, value))
                judged.raise_for_status()
                self.done["positive" if value else "negative"] += 1
            taken = {"feedbackId": judged.json()["feedbackId"]}
            (await http.request("DELETE", "/feedback", json=taken)).raise_for_status()
            self.done["deleted"] += 1
            unknown = await http.put("/feedback", json=_feedback(visitor, "nothing", 1))
            assert unknown.status_code >= 400
            self.done["failed feedback"] += 1

    async def _files(self, visitor: Visitor) -> None:
        async with self._http(visitor) as http:
            for session in (visitor.session_id, visitor.session_id, "somewhere else"):
                answer = await http.post(
                    "/project/file",
                    params={"session_id": session},
                    files={"file": ("notes.txt", b"x" * FILE, "text/plain")},
                )
                self.done["uploaded" if answer.status_code == 200 else "missed"] += 1
        assert await visitor.talk(f"file {FILE}") == ["here"]
        self._turn("ok", outbound=1)
        self.done["elements"] += 1

    async def _mcp(self, visitor: Visitor) -> None:
        asked = {"sessionId": visitor.session_id, "name": "tools"}
        async with self._http(visitor) as http:
            answer = await http.post("/mcp", json=asked)
            assert answer.json().get("success"), answer.text
        self.done["mcp"] += 1

    async def _block(self, visitor: Visitor) -> None:
        assert await visitor.talk("block") == ["done"]
        self._turn("ok", outbound=1)
        self.done["blocked"] += 1

    async def _stay(self, regulars: list[Visitor]) -> None:
        """Leave turns under way, some of which hold a connection of the pool."""
        for regular in regulars[QUERIES:]:
            await self._begin(regular, "wait", "waiting")
            self.done["inbound"] += 1
            self.done["outbound"] += 1
            self.done["under way"] += 1
        for regular in regulars[:QUERIES]:
            await regular.say("query")
            self.done["inbound"] += 1
            self.done["under way"] += 1
        await self._scraped("chainlit_turn_active", REGULARS)
        used = {"db_client_connection_state": "used"}
        await self._scraped("db_client_connection_count", QUERIES, **used)

    # Others

    async def _guests(self) -> None:
        """Chat with the second replica, see it restart, and come back."""
        guests = [await self._come(f"guest {n}", self._second) for n in range(GUESTS)]
        for guest in guests:
            await self._tell(guest)
        target = f'{{instance="{address(self._second)}"}}'
        turns = f"sum(chainlit_turn_duration_seconds_count{target})"
        await self._prometheus_says(turns, GUESTS)
        await asyncio.to_thread(self._second.stop)
        for guest in guests:
            self.done.seconds += time.monotonic() - self._since[guest]
        await asyncio.to_thread(self._second.start)
        # Until a whole window is of the new process.
        await self._prometheus_says(f"min_over_time(up{target}[{WINDOW}s])", 1)
        for guest in guests:
            await guest.reconnect()
            self._since[guest] = time.monotonic()
            self.done["resumed"] += 1
            if guest is guests[0]:
                resumes = "chainlit_callback_duration_seconds_count"
                await self._seen(resumes, "on_chat_resume", self._second)

    async def _at_the_door(self) -> None:
        """Be refused, fail to sign in, and come by HTTP."""
        for _ in range(2):
            stranger = Visitor(self._first.url, transports=["websocket"])
            with pytest.raises(Refused):
                await stranger.connect()
            self.done["refused"] += 1
        await sign_in(self._first.url, "mallory", "guessed")
        self.done["denied"] += 1
        await sign_in(self._first.url, "ada", "unknown")
        self.done["unknown"] += 1
        async with httpx.AsyncClient(timeout=20) as http:
            for n in range(4):
                (await http.get(f"http://127.0.0.1:{self._first.port}/bot")).raise_for_status()
                self.done["bots"] += 1
                if n == 0:
                    await self._seen("http_server_request_duration_seconds_count", "/bot")

    async def _come_and_go(self) -> None:
        """Poll, use another client, go on with a stored chat, and be impossible to let go of."""
        polling = await self._come("poll", transports=["polling"])
        await self._tell(polling)
        copilot = await self._come("copilot", client_type="copilot")
        await self._tell(copilot)
        odd = await self._come("odd", client_type="odd")
        self.done["odd"] += 1
        for one in (
            'chainlit_connection_active{chainlit_connection_transport="polling"}',
            'chainlit_session_active{chainlit_client_type="copilot"}',
            'chainlit_session_active{chainlit_client_type="other"}',
        ):
            # For long enough to be on a panel, too.
            await self._prometheus_says(f"min_over_time((sum({one}))[{2 * SCRAPE}s:500ms])", 1)
        await self._leave(polling)
        await self._leave(copilot, clear=False)
        await self._leave(odd)
        self.done["bounced"] += 1
        again = await self._come("copilot", thread=copilot.thread_id)
        await self._tell(again)
        await self._leave(again)
        forgotten = await self._come("forgotten")
        assert await forgotten.talk("forget") == ["forgotten"]
        self._turn("ok", outbound=1)
        await self._leave(forgotten)
        self.done["stuck"] += 1

    async def _rush(self) -> None:
        """Come all at once, so that the peak is known, and leave without a word."""
        everybody = self.done["connected"] + RUSH
        crowd = [self._come(f"rush {n}") for n in range(RUSH)]
        rush = await asyncio.gather(*crowd)
        self.done["peak"] = everybody
        connected = "min_over_time(job:chainlit_session_active:sum"
        await self._prometheus_says(f"{connected}[{2 * SCRAPE}s])", everybody)
        await asyncio.gather(
            *(self._leave(visitor, clear=n < CLEARED) for n, visitor in enumerate(rush))
        )
        self.done["bounced"] += RUSH

    def settle(self) -> None:
        """Count the time of those who are still there."""
        self.done.seconds += sum(time.monotonic() - since for since in self._since.values())

    async def _everybody_counted(self) -> None:
        await self._scraped(
            "chainlit_session_ends_total",
            self.done["cleared"] + self.done["timeout"],
            chainlit_session_type="websocket",
        )

    # Coming and going

    async def _come(
        self, name: str, server: ChainlitServer | None = None, thread: str | None = None, **how: Any
    ) -> Visitor:
        server = server or self._first
        if name not in self._headers:
            self._headers[name] = await sign_in(server.url, name)
            self.done["signed in"] += 1
        visitor = Visitor(
            server.url, headers=self._headers[name], **{"transports": ["websocket"], **how}
        )
        visitor.thread_id = thread
        began = time.monotonic()
        await visitor.connect()
        self._since[visitor] = began
        if thread:
            self.done["resumed"] += 1
        else:
            await visitor.until(lambda: _has_said(visitor, "Welcome."), "the greeting")
            self.done["new"] += 1
            self.done["outbound"] += 1
        self.done["connected"] += 1
        return visitor

    async def _leave(self, visitor: Visitor, *, clear: bool = True) -> None:
        await visitor.leave(clear=clear)
        seconds = time.monotonic() - self._since.pop(visitor)
        self.done.seconds += seconds
        self.done.seconds_of_ended += seconds
        self.done["cleared" if clear else "timeout"] += 1
        self.done["connected"] -= 1

    async def _begin(self, visitor: Visitor, text: str, sign: str) -> asyncio.Task[list[str]]:
        seen = len(visitor.events)
        turn = asyncio.create_task(visitor.talk(text))
        await visitor.until(lambda: _has_said(visitor, sign, seen), sign)
        return turn

    def _turn(self, outcome: str, inbound: int = 1, outbound: int = 0) -> None:
        self.done[f"turn {outcome}"] += 1
        self.done["inbound"] += inbound
        self.done["outbound"] += outbound

    def _http(self, visitor: Visitor) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=str(visitor.address), headers=visitor.headers, timeout=20)

    async def _scraped(self, name: str, value: float, **labels: str) -> None:
        await asyncio.to_thread(
            wait_until,
            lambda: self._first.scrape().sum(name, **labels) >= value,
            20,
            f"{name} to be {value}",
        )

    async def _seen(self, name: str, label: str, server: ChainlitServer | None = None) -> None:
        """Wait for a series that is not there from the start: `rate()` needs it twice."""
        query = f'{name}{{instance="{address(server or self._first)}"}}'

        def there() -> bool:
            return any(label in labels.values() for labels, _ in self._prometheus.query(query))

        await asyncio.to_thread(wait_until, there, 20, f"{name} of {label}")

    async def _prometheus_says(self, query: str, value: float) -> None:
        def says() -> bool:
            return [found for _, found in self._prometheus.query(query)] == [value]

        await asyncio.to_thread(wait_until, says, 20, f"{query} to be {value}")


def _has_said(visitor: Visitor, text: str, since: int = 0) -> bool:
    return any(
        event.name == "new_message" and event.data["output"] == text
        for event in visitor.events[since:]
    )


def _feedback(visitor: Visitor, step: str, value: int) -> dict[str, Any]:
    return {"feedback": {"forId": step, "value": value}, "sessionId": visitor.session_id}


# What Grafana is given


@dataclass
class Shown:
    """All that the dashboards show.

    Attributes:
        done: the ledger.
        chosen: the values of the variables, by dashboard.
        panels: the series of each panel, by dashboard, title and type, each with its legend.
        starts: the annotations, by dashboard.
        exemplars: how many there are, by title.
        empty: the queries that returned nothing.
        instances: the replicas.
        seconds: for how long was looked.
        end: when.
    """

    done: Ledger
    instances: tuple[str, str]
    seconds: float
    end: float
    chosen: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    panels: dict[tuple[str, str, str], list[tuple[str, Series]]] = field(default_factory=dict)
    starts: dict[str, set[tuple[str, float]]] = field(default_factory=dict)
    exemplars: dict[str, int] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)

    def look(self, grafana: Grafana) -> None:
        for name, dashboard in DASHBOARDS.items():
            self.chosen[name] = grafana.choose_all(dashboard)
            self.starts[name] = grafana.annotations(dashboard)
            for panel in panels(dashboard):
                key = name, panel["title"], panel["type"]
                self.panels[key] = grafana.panel(panel)
                for target in panel["targets"]:
                    if not list(grafana.target(target)):
                        self.empty.append(f"{panel['title']}: {target['expr']}")
                    if target["exemplar"]:
                        self.exemplars[panel["title"]] = len(grafana.exemplars(target))


@pytest.fixture(scope="module")
def shown() -> Iterator[Shown]:
    began = time.time()
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        database = stack.enter_context(Postgres())
        replicas = [replica(database, receiver) for _ in range(2)]
        with ThreadPoolExecutor() as threads:
            first, second = threads.map(stack.enter_context, replicas)
        prometheus = stack.enter_context(
            Prometheus(
                [address(first), address(second)],
                render(),
                interval="500ms",
                history=last_week(began),
            )
        )
        yield asyncio.run(_shown(Script(first, second, database, prometheus), prometheus))


async def _shown(script: Script, prometheus: Prometheus) -> Shown:
    await asyncio.to_thread(
        wait_until, lambda: prometheus.query("sum(up) == 2"), 20, "both to be scraped"
    )
    start = math.floor(time.time())
    await script.play()
    # The last window of `rate()` has to be one in which nothing happens any more.
    await asyncio.sleep(WINDOW + 1)
    script.settle()
    end = math.floor(time.time())
    shown = Shown(script.done, script.instances, end - start, end)
    with Grafana(prometheus.url, start, end, scrape=SCRAPE) as grafana:
        await asyncio.to_thread(shown.look, grafana)
    print(f"{end - start} s: {dict(script.done)}")
    return shown


# What it has to be


@dataclass(frozen=True)
class Expected:
    """What a series has to be.

    Attributes:
        what: says what is looked at.
        measure: looks at it.
        low: the least that it may be.
        high: the most.
    """

    what: str
    measure: Callable[[Series], float]
    low: float
    high: float

    def check(self, name: str, series: Series) -> None:
        found = self.measure(series)
        assert self.low <= found <= self.high, (
            f"{name}: {self.what} is {found:g}, not from {self.low:g} to {self.high:g}"
        )


Checks = tuple[Expected, ...]


def last(low: float, high: float | None = None) -> Checks:
    """The last value, exactly if only one is given."""
    return (Expected("the last", lambda s: s.last, low, low if high is None else high),)


def near(value: float, by: float = 0.03) -> Checks:
    """The last value, but for rounding and what differs between two replicas' scrapes."""
    return last(value * (1 - by), value * (1 + by))


def grown(count: float) -> Checks:
    """The last value of an `increase()`, which reaches half an interval beyond its samples."""
    return last(count * 0.99, count * 1.08)


def most(low: float, high: float | None = None) -> Checks:
    """The highest value."""
    found = Expected("the most", lambda s: max(s.values), low, low if high is None else high)
    return (found,)


def least(low: float, high: float | None = None) -> Checks:
    """The lowest value."""
    found = Expected("the least", lambda s: min(s.values), low, low if high is None else high)
    return (found,)


def within(low: float, high: float) -> Checks:
    """All values."""
    return (
        Expected("the least", lambda s: min(s.values), low, high),
        Expected("the most", lambda s: max(s.values), low, high),
    )


def total(low: float, high: float | None = None) -> Checks:
    """What a rate adds up to; where scrapes are not quite regular, `rate()` is not quite exact."""
    low, high = (low * 0.7, low * 1.3) if high is None else (low, high)
    return (Expected("the total", lambda s: s.area / PER.get(s.unit, 1), low, high),)


NOTHING = within(0, 0)
RISING = within(0, math.inf)  # buckets are looked at together, below
QUICK = within(0, 5.12)  # the bucket in which the longest turns and callbacks are

# Seconds of what a unit counts by.
PER = {"suffix:/min": 60, "suffix:/s": 1, "Bps": 1}
ANY = "any other"

Panels = dict[tuple[str, str], dict[str, Checks]]


def sessions(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    starts = done["new"] + done["resumed"]
    ends = done["cleared"] + done["timeout"]
    peak, reconnects = done["peak"], done["reconnects"]
    here = done["connected"]
    mean = near(done.seconds / ends, 0.1)
    ended = done.seconds_of_ended / ends
    return {
        ("Sessions started", "stat"): {"": grown(starts / 5)},
        ("Mean duration", "stat"): {"": mean},
        ("Connected now", "stat"): {"": last(here)},
        ("Peak of the last hour", "stat"): {"at least": last(peak), "at most": last(peak)},
        ("Reconnects", "stat"): {"": grown(reconnects / here)},
        ("Refused", "stat"): {"": near(done["refused"] / (done["refused"] + starts + reconnects))},
        ("Creation rate", "timeseries"): {
            "new": total(done["new"]),
            "thread_resume": total(done["resumed"]),
            "a week ago": within(LAST_WEEK * 0.99, LAST_WEEK * 1.01),
        },
        ("Concurrent sessions", "timeseries"): {
            "connected": last(here) + most(peak),
            "disconnected": last(0) + most(1, done["timeout"] + 1),
            "peak": most(peak),
        },
        ("Peak of all replicas", "timeseries"): {
            "at least": last(peak) + most(peak),
            "at most": last(peak) + most(peak),
            "records": last(peak),
        },
        ("Mean duration", "timeseries"): {
            "all sessions": mean,
            # The browser's side is a little longer.
            "ended sessions": last(ended * 0.6, ended),
        },
        ("Duration of ended sessions", "timeseries"): {
            "p50": within(0, 30),
            "p90": within(0, 30),
            "p99": within(0, 30),
        },
        ("Duration of ended sessions, spread", "heatmap"): {"+Inf": total(ends), ANY: RISING},
        ("Ends by reason", "timeseries"): {
            "cleared": total(done["cleared"]),
            "timeout": total(done["timeout"]),
        },
        ("Turns of a session", "timeseries"): {"p50": within(0, 1), "p90": within(0, 2)},
        ("Bounces", "timeseries"): {"without a turn": near(done["bounced"] / ends)},
        ("Oldest session", "timeseries"): {
            first: last(seconds / 2, seconds),
            second: last(1, seconds),
        },
        ("Reconnects", "timeseries"): {"webapp": total(reconnects)},
        ("Refused connections", "timeseries"): {"authentication_failed": total(done["refused"])},
        ("Closed connections", "timeseries"): {
            "client_disconnect": total(done["cleared"]),
            "transport_close": total(done["timeout"] + done["lost"]),
        },
        ("Duration of connections", "heatmap"): {"+Inf": total(ends + done["lost"]), ANY: RISING},
        ("Client types", "timeseries"): {
            "webapp": last(here) + most(peak),
            "copilot": most(1),
            "other": most(1),
        },
        ("Transports", "timeseries"): {
            "websocket": last(here) + most(peak),
            "polling": last(0) + most(1),
        },
        ("HTTP sessions", "timeseries"): {"slack": total(done["bots"])},
    }


def conversations(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    outcomes = {name: done[f"turn {name}"] for name in ("ok", "error", "cancelled")}
    turns = sum(outcomes.values())
    # Those who wait at the end have heard something, those whose answer was lost have not.
    answered = turns - outcomes["error"] - done["lost"] + done["under way"] - QUERIES
    quantiles = {"p50": QUICK, "p90": QUICK, "p99": QUICK + most(BLOCKED * 0.8, 5.12)}
    return {
        ("Turns", "stat"): {"": grown(turns / 5)},
        ("Failed turns", "stat"): {"": near(outcomes["error"] / turns)},
        ("First token, p90", "stat"): {"": last(LOOK_UP, BLOCKED)},
        ("Turns under way", "stat"): {"": last(done["under way"])},
        ("Lost answers", "stat"): {"": near(done["lost"] / (done["lost"] + done["outbound"]))},
        ("Positive feedback", "stat"): {
            "": near(done["positive"] / (done["positive"] + done["negative"]))
        },
        ("Turns by outcome", "timeseries"): {name: total(n) for name, n in outcomes.items()},
        ("Concurrent turns", "timeseries"): {
            "under way": last(done["under way"]),
            "peak": most(done["under way"], REGULARS + GUESTS),
        },
        ("Duration of turns", "timeseries"): quantiles,
        ("Duration of turns, spread", "heatmap"): {"+Inf": total(turns), ANY: RISING},
        ("Time to first token", "timeseries"): quantiles,
        ("Time to first token, spread", "heatmap"): {"+Inf": total(answered), ANY: RISING},
        ("Gap between chunks", "timeseries"): {
            "p50": within(PACE / 2, 0.5),
            "p90": within(PACE, 0.5),
            "p99": within(PACE, 0.5),
        },
        ("Chunks streamed", "timeseries"): {"chunks": total(done["chunks"])},
        ("Callbacks, p90", "timeseries"): {
            "on_message": QUICK + most(BLOCKED * 0.6, 5),
            "on_chat_start": QUICK,
            "on_chat_resume": QUICK,
            "password_auth_callback": QUICK,
        },
        ("Errors in callbacks", "timeseries"): {"on_message": total(outcomes["error"])},
        ("Steps, p90", "timeseries"): {
            "run": QUICK + most(BLOCKED * 0.6, 5.12),
            "tool": QUICK + most(LOOK_UP, 5.12),
        },
        ("Errors in steps", "timeseries"): {
            "run": total(outcomes["error"]),
            "tool": total(done["tool error"]),
        },
        ("Questions to users", "timeseries"): {
            "answered": total(done["answered"]),
            "timeout": total(done["timed out"]),
        },
        ("MCP connections", "timeseries"): {"open": last(done["mcp"])},
        ("Messages", "timeseries"): {
            "inbound": total(done["inbound"]),
            "outbound": total(done["outbound"]),
        },
        # The message, and that its step is over.
        ("Lost on the way", "timeseries"): {
            "new_message": total(done["lost"]),
            "step": total(done["lost"]),
        },
        ("Feedback", "timeseries"): {
            name: grown(done[name]) for name in ("positive", "negative", "deleted")
        },
        ("Files", "timeseries"): {
            "upload": total(FILE * done["uploaded"]),
            "element": total(FILE * done["elements"]),
        },
    }


def data_layer(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    turns = sum(done[f"turn {name}"] for name in ("ok", "error", "cancelled"))
    feedback = done["positive"] + done["negative"]
    failed = done["stuck"] + done["failed feedback"]
    # A turn is stored as a message and a run, mostly with an answer and a tool, each once updated.
    fewest, highest = 2 * turns, 12 * turns
    sign_ins = {"granted": done["signed in"], "denied": done["denied"], "error": done["unknown"]}
    refused = sign_ins["denied"] + sign_ins["error"]
    connects = done["new"] + done["resumed"] + done["reconnects"]
    stored = {
        "create_user": total(done["signed in"]),
        "get_user": total(done["signed in"], 20 * done["signed in"]),
        "create_step": total(fewest / 2, highest),
        "update_step": total(turns / 2, highest),
        "update_thread": total(done["bounced"] / 2, highest),
        "get_thread": total(1, 5 * done["resumed"]),
        "upsert_feedback": total(feedback + done["failed feedback"]),
        "delete_feedback": total(done["deleted"]),
        "create_element": total(done["elements"]),
    }
    return {
        ("Operations", "stat"): {"": last(fewest / 300, highest / 300)},
        ("Failed operations", "stat"): {"": last(failed / highest, failed / fewest)},
        ("Operations, p95", "stat"): {"": last(0.0005, 5)},
        ("Fullest pool", "stat"): {"": last(QUERIES / POOL)},
        ("Cache hits", "stat"): {"": last(1 / done["lookups"], 1)},
        ("Failed sign-ins", "stat"): {"": near(refused / sum(sign_ins.values()))},
        ("Operations", "timeseries"): stored,
        ("Errors", "timeseries"): {
            "update_thread": total(done["stuck"]),
            "upsert_feedback": total(done["failed feedback"]),
        },
        ("Duration of operations, p95", "timeseries"): {ANY: within(0.0001, 5)},
        ("Duration of operations, spread", "heatmap"): {
            "+Inf": total(fewest, highest),
            ANY: RISING,
        },
        ("Held back now", "timeseries"): {"held back": last(0) + most(1, 5 * done["new"])},
        ("Held back and discarded", "timeseries"): {
            "held back": total(done["new"], 5 * done["new"]),
            "discarded": total(done["bounced"], 5 * done["bounced"]),
        },
        ("Connections", "timeseries"): {
            "Layer.pool used": last(QUERIES) + most(QUERIES, 2 * POOL),
            "Layer.pool idle": most(1, 2 * POOL),
            "Layer.pool most": last(2 * POOL),
        },
        ("Pools in use", "bargauge"): {
            f"{first} Layer.pool": last(QUERIES / POOL),
            f"{second} Layer.pool": last(0),
        },
        ("Cache hits", "timeseries"): {"topics": within(0, 1) + most(0.01, 1)},
        ("Cache entries", "timeseries"): {
            "topics": last(CACHE),
            "topics dropped": total(0.5, done["lookups"]),
        },
        ("Access checks", "timeseries"): {
            **{f"password {result}": total(n) for result, n in sign_ins.items()},
            "websocket granted": total(connects),
            "websocket denied": total(done["refused"]),
            "thread granted": total(done["resumed"] + done["reconnects"]),
            "rate_limit denied": total(done["limited"]),
            "jwt granted": total(connects, 10 * connects),
        },
        ("Sign-ins", "timeseries"): {result: total(n) for result, n in sign_ins.items()},
        # The reason is not known before it is given for the first time.
        ("Denied by the app", "timeseries"): {
            "rate_limit messages": total(0.5, done["limited"] * 1.3),
        },
        ("Users", "timeseries"): {first: last(REGULARS), second: last(GUESTS)},
    }


def runtime(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    megabytes = within(50e6, 1e9)
    lag = within(0, BLOCKED + 1)
    return {
        ("Replicas", "stat"): {"": last(2)},
        ("Stalls", "stat"): {"": grown(done["blocked"])},
        ("Lag, p99", "stat"): {"": last(0.01, BLOCKED + 1)},
        ("Memory", "stat"): {"": last(2 * 50e6, 2e9)},
        ("Retained sessions", "stat"): {"": last(done["stuck"])},
        ("Our own errors", "stat"): {"": NOTHING},
        ("Event loop lag, p99", "timeseries"): {first: lag + most(1, BLOCKED + 1), second: lag},
        ("Event loop lag, spread", "heatmap"): {
            "+Inf": total(2 * seconds, 8 * seconds),
            ANY: RISING,
        },
        ("Stalls", "timeseries"): {first: grown(done["blocked"])},
        ("HTTP requests, p95", "timeseries"): {
            "/bot": QUICK,
            "/login": QUICK,
            "/set-session-cookie": QUICK,
            ANY: QUICK,
        },
        ("Memory", "timeseries"): {first: megabytes, second: megabytes},
        ("Processor", "timeseries"): {first: most(0.01, 2), second: most(0.01, 2)},
        ("Retained objects", "timeseries"): {
            "sessions": last(done["stuck"]),
            "chat_contexts": last(1, done["new"] + done["bots"]),
            "user_sessions": last(0, done["bots"]),
            "files": last(0, done["bots"]),
        },
        ("File descriptors", "timeseries"): {first: most(1e-6, 0.5), second: most(1e-6, 0.5)},
        ("Replicas", "table"): {
            f"A {first}": last(REGULARS),
            f"A {second}": last(GUESTS),
            f"B {first}": last(done["under way"]),
            f"C {first}": last(REGULARS),
            f"C {second}": last(GUESTS),
            f"D {first}": megabytes,
            f"D {second}": megabytes,
            f"E {first}": last(seconds, seconds + 60),
            f"E {second}": last(1, seconds),
        },
        ("Sessions of each replica", "bargauge"): {first: last(REGULARS), second: last(GUESTS)},
        ("Up", "state-timeline"): {
            first: last(1) + within(0, 1),
            second: last(1) + least(0),
        },
        ("Sessions asked for where they are not", "timeseries"): {
            "file_upload": total(done["missed"])
        },
        ("Age of the processes", "timeseries"): {
            first: last(seconds, seconds + 60),
            second: last(1, seconds),
        },
        ("Our own errors", "timeseries"): {},
        ("Probes", "state-timeline"): {ANY: within(1, 1)},
        ("Values folded into other", "timeseries"): {"chainlit.client.type": grown(done["odd"])},
    }


EXPECTED: dict[str, Callable[[Ledger, str, str, float], Panels]] = {
    catalog.DASHBOARD_SESSIONS: sessions,
    catalog.DASHBOARD_CONVERSATIONS: conversations,
    catalog.DASHBOARD_DATA_LAYER: data_layer,
    catalog.DASHBOARD_RUNTIME: runtime,
}


@pytest.mark.parametrize(
    ("name", "panel"),
    [
        pytest.param(name, panel, id=f"{name}-{panel['title']}-{panel['type']}")
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
    ],
)
def test_a_panel_shows_what_happened(shown: Shown, name: str, panel: dict[str, Any]) -> None:
    title, kind = panel["title"], panel["type"]
    expected = EXPECTED[name](shown.done, *shown.instances, shown.seconds)[title, kind]
    drawn = shown.panels[name, title, kind]
    legends = [legend for legend, _ in drawn]
    assert len(set(legends)) == len(legends), "two series have one name"
    assert set(expected) - {ANY} <= set(legends), "a series is missing"
    assert drawn
    for legend, series in drawn:
        assert all(math.isfinite(value) and value >= 0 for value in series.values)
        if series.unit == "percentunit" and title != "Processor":
            assert max(series.values) <= 1
        for check in expected.get(legend, expected.get(ANY, NOTHING)):
            check.check(f"{title} / {legend}", series)


def test_every_query_returns_something(shown: Shown) -> None:
    assert shown.empty == []


def test_buckets_are_cumulative_and_those_of_the_catalogue(shown: Shown) -> None:
    heatmaps = [drawn for (_, _, kind), drawn in shown.panels.items() if kind == "heatmap"]
    assert heatmaps
    known = [[*metric.bounds, math.inf] for metric in catalog.METRICS if metric.kind == "histogram"]
    for drawn in heatmaps:
        ordered = sorted((float(legend), series.area) for legend, series in drawn)
        assert [bound for bound, _ in ordered] in known
        # Not at each moment: of a restart, `rate()` makes something else for each bucket.
        assert all(lower <= upper * 1.1 for (_, lower), (_, upper) in itertools.pairwise(ordered))


def test_everything_is_selected_by_the_variables(shown: Shown) -> None:
    for chosen in shown.chosen.values():
        assert chosen == {"job": ["chat"], "instance": sorted(shown.instances)}


def test_each_start_of_a_process_is_marked_once(shown: Shown) -> None:
    first, second = shown.instances
    for starts in shown.starts.values():
        titles = sorted(title for title, _ in starts)
        assert titles == sorted([f"{first} started"] + 2 * [f"{second} started"])
        assert all(shown.end - 120 < at < shown.end for _, at in starts)


def test_slow_turns_and_operations_lead_to_their_traces(shown: Shown) -> None:
    assert set(shown.exemplars) == {
        "Duration of turns",
        "Duration of turns, spread",
        "Time to first token",
        "Time to first token, spread",
        "Duration of operations, p95",
        "Duration of operations, spread",
    }
    assert all(shown.exemplars.values())
