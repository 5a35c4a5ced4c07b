"""An app with all that the dashboards show, and people who use it and keep a ledger.

Two replicas of the app have one database; the second is killed on the way and started again. What
is done is decided by a seed, and each step waits until the one before it is seen.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx

from chainlit_otel import catalog
from chainlit_otel.testing import Answer, Refused, Visitor
from tests.support.otlp import Receiver
from tests.support.postgres import Postgres
from tests.support.prometheus import Prometheus
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer
from tests.support.sign_in import sign_in

SEED = 20261125
SYNTHETIC_TOKEN = "the-token-of-the-monitor"
SCHEMA = (Path(__file__).parents[2] / "examples" / "postgres" / "schema.sql").read_text()
GRACE = 4
SCRAPE = 1  # what Grafana has as the scrape interval; Prometheus scrapes twice as often
POLL = SCRAPE / 4  # or Prometheus would wait for the pages of the script
WINDOW = 4 * SCRAPE
REGULARS, GUESTS, RUSH, CLEARED = 6, 3, 8, 5
QUERIES = 2  # those who hold a connection of the pool at the end
TOKENS, PACE, LOOK_UP, BLOCKED, LATE = 10, 0.02, 0.05, 1.5, 0.6
FILE = 5000
SCORE = 0.75
INPUT, OUTPUT, COST = 100, 20, 0.5
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
    chainlit_otel.record_usage(model="big", cost=1.0, output_tokens=1)
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
        chainlit_otel.record_score("relevance", {score})
        chainlit_otel.record_usage(
            model="big", input_tokens={input}, output_tokens={output}, cost={cost}
        )
        for _ in range({tokens}):
            await answer.stream_token("word ")
            await asyncio.sleep({pace})
        await answer.send()
    elif command == "fail":
        chainlit_otel.record_usage(model="big", cost={cost}, output_tokens=1)
        raise ValueError("You asked for it.")
    elif command == "search":
        try:
            chainlit_otel.record_usage(model="small")
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
    "score": SCORE,
    "input": INPUT,
    "output": OUTPUT,
    "cost": COST,
}


def filled_in(app: str) -> str:
    for name, number in NUMBERS.items():
        app = app.replace(f"{{{name}}}", str(number))
    return app


FILES = {"main.py": MAIN, "app.py": filled_in(APP), "tools.py": TOOLS, "schema.sql": SCHEMA}


# An app of its own: whoever watches the replicas would be in what they show of themselves.
WATCHED = """
import chainlit as cl


@cl.on_message
async def on_message(message):
    await cl.Message("You said " + message.content).send()
"""
DIALOGS = {
    "greeting": "dialog: [{say: hello, expect: {contains: You said hello}}, {drop: 10ms}]",
    "wish": "dialog: [{say: a wish, expect: {contains: granted}}]",
}


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
            "CHAINLIT_OTEL_RECORDS_DIR": "records",
            "CHAINLIT_OTEL_SYNTHETIC_TOKEN": SYNTHETIC_TOKEN,
            "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.0",
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
        self.target = ""


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
        self.replicas = first, second
        self._first, self._second = first, second
        self._database, self._prometheus = database, prometheus
        self.instances = address(first), address(second)
        self._headers: dict[str, dict[str, str]] = {}
        self._since: dict[Visitor, float] = {}

    async def play(self) -> None:
        dice = random.Random(SEED)
        regulars = [await self._come(f"regular {n}") for n in range(REGULARS)]
        await self._make_series(regulars[0])
        guests = asyncio.create_task(self._guests())
        kinds = [self._tell, self._fail, self._search, self._answer, self._stop, self._limit]
        actions = [*kinds * 2, *dice.choices(kinds, [6, 1, 1, 1, 1, 1], k=18)]
        dice.shuffle(actions)
        share = len(actions) // REGULARS
        await asyncio.gather(
            *(
                self._one_after_the_other(
                    regular,
                    actions[n * share : (n + 1) * share],
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
        await self._monitor()
        await self._come_and_go()
        await guests
        await self._rush()
        for regular in regulars[:2]:
            await self._block(regular)
        await self._everybody_counted()
        await self._stay(regulars)

    async def _make_series(self, visitor: Visitor) -> None:
        """Do what makes series appear at zero, and wait until `rate()` has them from there."""
        await self._tell(visitor)
        where = f'instance="{address(self._first)}",chainlit_outcome="error"'
        failed = f'chainlit_step_duration_seconds_count{{{where},chainlit_step_type="tool"}}'
        await self._prometheus_says(failed, 0)
        await self._answer(visitor, is_first=True)

    # What a regular does

    async def _one_after_the_other(
        self, visitor: Visitor, actions: Sequence[Callable[[Visitor], Any]], dice: random.Random
    ) -> None:
        for action in actions:
            await (self._tell(visitor, dice) if action == self._tell else action(visitor))

    async def _tell(self, visitor: Visitor, dice: random.Random | None = None) -> None:
        topic = dice.choice(TOPICS) if dice else TOPICS[0]
        assert (await visitor.say(f"tell {topic}")).texts == ["word " * TOKENS]
        self._turn("ok", outbound=1)
        self.done["tool ok"] += 1
        self.done["chunks"] += TOKENS
        self.done["lookups"] += 1

    async def _fail(self, visitor: Visitor) -> None:
        await visitor.say("fail")
        self._turn("error")

    async def _search(self, visitor: Visitor) -> None:
        assert (await visitor.say("search everywhere")).texts == ["nothing"]
        self._turn("ok", outbound=1)
        self.done["tool error"] += 1

    async def _answer(self, visitor: Visitor, is_first: bool = False) -> None:
        await visitor.say("ask 30")
        if is_first:
            await self._seen("chainlit_ask_duration_seconds_count", "answered")
        await visitor.say("Ada")
        self._turn("ok", inbound=2, outbound=1)
        self.done["answered"] += 1

    async def _stop(self, visitor: Visitor) -> None:
        turn = await self._begin(visitor, "wait", "waiting")
        await visitor.emit("stop")
        await turn
        self._turn("cancelled", outbound=2)

    async def _limit(self, visitor: Visitor) -> None:
        assert (await visitor.say("limit")).texts == ["no more"]
        self._turn("ok", outbound=1)
        self.done["limited"] += 1

    async def _lose(self, visitor: Visitor) -> None:
        await visitor.send("late")
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
        await visitor.say("ask 1")
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
            greeting = next(e.data["id"] for e in visitor.events if e.name == "new_message")
            judged = await http.put("/feedback", json=_feedback(visitor, greeting, 1))
            judged.raise_for_status()
            self.done["positive"] += 1
            self.done["unlinked"] += 1
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
        assert (await visitor.say(f"file {FILE}")).texts == ["here"]
        self._turn("ok", outbound=1)
        self.done["elements"] += 1

    async def _mcp(self, visitor: Visitor) -> None:
        asked = {"sessionId": visitor.session_id, "name": "tools"}
        async with self._http(visitor) as http:
            answer = await http.post("/mcp", json=asked)
            assert answer.json().get("success"), answer.text
        self.done["mcp"] += 1

    async def _block(self, visitor: Visitor) -> None:
        assert (await visitor.say("block")).texts == ["done"]
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
            await regular.send("query")
            self.done["inbound"] += 1
            self.done["under way"] += 1
        await self._scraped("chainlit_turn_active", REGULARS)
        used = {"db_client_connection_state": "used"}
        await self._scraped("db_client_connection_count", QUERIES, **used)

    # Others

    async def _guests(self) -> None:
        """Chat with the second replica, see it killed and a new version started, and come back."""
        guests = [await self._come(f"guest {n}", self._second) for n in range(GUESTS)]
        for guest in guests:
            await self._tell(guest)
        target = f'{{instance="{address(self._second)}"}}'
        turns = f"sum(chainlit_turn_duration_seconds_count{target})"
        await self._prometheus_says(turns, GUESTS)
        # Records are written a little later, by a thread of their own.
        for kind in ("session.start", "turn"):
            labels = f'instance="{address(self._second)}",chainlit_otel_record_kind="{kind}"'
            await self._prometheus_says(
                f"sum(chainlit_otel_records_written_total{{{labels}}})", GUESTS
            )
        # It is killed: whether a scrape sees an orderly end would be a matter of luck.
        await asyncio.to_thread(self._second.stop, signal.SIGKILL)
        for guest in guests:
            self.done.seconds += time.monotonic() - self._since[guest]
        self._second.env["OTEL_RESOURCE_ATTRIBUTES"] = "service.version=2.0"
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
            try:
                await stranger.connect()
            except Refused:
                self.done["refused"] += 1
        await sign_in(self._first.url, "mallory", "guessed")
        self.done["denied"] += 1
        await sign_in(self._first.url, "ada", "unknown")
        self.done["unknown"] += 1
        async with httpx.AsyncClient(timeout=60) as http:
            came = 'sum(chainlit_session_starts_total{chainlit_client_type="slack"})'
            for _ in range(4):
                (await http.get(f"http://127.0.0.1:{self._first.port}/bot")).raise_for_status()
                self.done["bots"] += 1
                # One between two scrapes: of what comes all at once `rate()` makes more or less.
                await self._prometheus_says(came, self.done["bots"])

    async def _monitor(self) -> None:
        """Come with the synthetic token, which is in no other figure."""
        token = {catalog.SYNTHETIC_HEADER: SYNTHETIC_TOKEN}
        headers = {**self._headers["regular 0"], **token}
        for _ in range(3):
            visitor = Visitor(self._first.url, headers=headers, transports=["websocket"])
            await visitor.connect()
            await visitor.say("fail")
            await visitor.leave(clear=True)
            self.done["synthetic"] += 1

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
        assert (await forgotten.say("forget")).texts == ["forgotten"]
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

    def add_open_time(self) -> None:
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

    async def _begin(self, visitor: Visitor, text: str, sign: str) -> asyncio.Task[Answer]:
        seen = len(visitor.events)
        turn = asyncio.create_task(visitor.say(text))
        await visitor.until(lambda: _has_said(visitor, sign, seen), sign)
        return turn

    def _turn(self, outcome: str, inbound: int = 1, outbound: int = 0) -> None:
        self.done[f"turn {outcome}"] += 1
        self.done["inbound"] += inbound
        self.done["outbound"] += outbound

    def _http(self, visitor: Visitor) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=str(visitor.address), headers=visitor.headers, timeout=60)

    async def _scraped(self, name: str, value: float, **labels: str) -> None:
        await asyncio.to_thread(
            wait_until,
            lambda: self._first.scrape().sum(name, **labels) >= value,
            20,
            f"{name} to be {value}",
            POLL,
        )

    async def _seen(self, name: str, label: str, server: ChainlitServer | None = None) -> None:
        """Wait for a series that is not there from the start: `rate()` needs it twice."""
        query = f'{name}{{instance="{address(server or self._first)}"}}'

        def there() -> bool:
            return any(label in labels.values() for labels, _ in self._prometheus.query(query))

        await asyncio.to_thread(wait_until, there, 60, f"{name} of {label}")

    async def _prometheus_says(self, query: str, value: float) -> None:
        def says() -> bool:
            return [found for _, found in self._prometheus.query(query)] == [value]

        await asyncio.to_thread(wait_until, says, 60, f"{query} to be {value}")


def _has_said(visitor: Visitor, text: str, since: int = 0) -> bool:
    return any(
        event.name == "new_message" and event.data["output"] == text
        for event in visitor.events[since:]
    )


def _feedback(visitor: Visitor, step: str, value: int) -> dict[str, Any]:
    return {"feedback": {"forId": step, "value": value}, "sessionId": visitor.session_id}
