"""Synthetic visitors: in no figure but their own with the right token, in all of them without."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from chainlit_otel import catalog
from chainlit_otel.cli import main
from chainlit_otel.testing import Refused, Visitor
from tests.support import LAYER
from tests.support.http import fetch
from tests.support.otlp import Receiver, Span
from tests.support.scrape import Scrape, wait_until, wait_until_async
from tests.support.server import ChainlitServer
from tests.support.sign_in import sign_in

pytestmark = pytest.mark.e2e

TOKEN = "the-token-of-this-monitor"
RIGHT = {catalog.SYNTHETIC_HEADER: TOKEN}
WRONG = {catalog.SYNTHETIC_HEADER: "the-token-of-that-monitor"}

APP = """
import asyncio
from pathlib import Path

import chainlit as cl
import chainlit_otel
from chainlit.context import init_http_context
from chainlit.data import queue_until_user_message
from chainlit.server import app, sio
from layer import Layer
from starlette.routing import Route

chainlit_otel.enable()


class Queueing(Layer):
    @queue_until_user_message()
    async def create_step(self, step_dict):
        pass


@cl.data_layer
def data_layer():
    return Queueing()


@cl.password_auth_callback
def sign_in(name, password):
    return cl.User(identifier=name) if password == "any" else None


@cl.set_chat_profiles
async def profiles(user):
    return [cl.ChatProfile(name="expert", markdown_description="")]


@cl.on_chat_start
async def start():
    await cl.Message("Welcome.").send()


@cl.on_chat_resume
async def resume(thread):
    pass


@cl.action_callback("vote")
async def vote(action):
    await cl.Message("Voted.").send()


@cl.step(type="tool")
async def search(text):
    return text


@cl.on_message
async def answer(message):
    chainlit_otel.record_usage(model="small", input_tokens=7, output_tokens=2, cost=0.5)
    if message.content == "fail":
        raise ValueError("As it was told.")
    if message.content == "wait":
        await cl.Message("Waiting.").send()
        await asyncio.Event().wait()
    if message.content == "ask":
        await cl.AskUserMessage("Which?", timeout=60).send()
    if message.content == "lose":
        session = cl.context.session
        await cl.Message("Going.").send()
        while sio.manager.is_connected(session.socket_id, "/"):
            await asyncio.sleep(0.01)
        session.current_task.add_done_callback(lambda _: Path(session.id).touch())
        await cl.Message("Too late.").send()
        return
    if message.content == "again":
        chainlit_otel.disable()
        chainlit_otel.enable()
    await search(message.content)
    chainlit_otel.record_score("kindness", 0.5)
    chainlit_otel.access_denied("rate_limit", "too_many")
    async with cl.Step(name="sent by a thread", type="llm") as step:
        await cl.make_async(chainlit_otel.record_score)("haste", 0.5)
        step.output = "."
    said = cl.Message("", elements=[cl.File(name="f", content=b"x" * 9)])
    for word in ("one", "two", "three"):
        await said.stream_token(word)
    await said.send()


async def hook(request):
    from chainlit.session import HTTPSession
    from starlette.responses import JSONResponse

    context = init_http_context(user=cl.User(identifier="hook"))
    chainlit_otel.record_usage(model="small", input_tokens=7)
    await context.session.delete()
    return JSONResponse({})


app.router.routes.insert(0, Route("/hook", hook))
"""

# What a visitor changes of the process that serves all of them.
PROCESS_WIDE = (
    *("process_", "python_", "chainlit_event_loop_", "chainlit_retained", "db_client_"),
    "chainlit_session_oldest_age",
)
# What is forgotten when its window is over.
PEAKS = ("chainlit_session_peak", "chainlit_turn_peak")
OWN = ("chainlit_synthetic_sessions_total", "chainlit_synthetic_turns_total")

# What no visit of this kind changes: it is read from the state of now, or is of other apps.
UNCHANGED = {
    *(catalog.SESSION_ACTIVE, catalog.SESSION_OLDEST_AGE, catalog.CONNECTION_ACTIVE),
    *(catalog.TURN_ACTIVE, catalog.TURN_OLDEST_WAITING, catalog.USER_ACTIVE),
    *(catalog.DATA_LAYER_QUEUE_LENGTH, catalog.MCP_CONNECTIONS, catalog.RETAINED),
    *(catalog.EVENT_LOOP_LAG, catalog.EVENT_LOOP_BLOCKED, catalog.EVENT_LOOP_BLOCKED_TIME),
    *(catalog.POOL_CONNECTIONS, catalog.POOL_MAX),
    *(catalog.CACHE_LOOKUPS, catalog.CACHE_SIZE, catalog.CACHE_EVICTIONS),
    *(catalog.INTERNAL_ERRORS, catalog.PROBE_ENABLED, catalog.LABEL_OVERFLOW),
    *(catalog.EXPOSITION_DROPPED, catalog.EXPORT_DROPPED, catalog.RECORDS_DROPPED),
    *(catalog.SESSION_PEAK, catalog.TURN_PEAK),
    *(catalog.SYNTHETIC_SESSIONS, catalog.SYNTHETIC_TURNS),
}


# What a visit of turns that are all alike adds, by turn or by session.
TURNS = 3
EACH = 12
EXPECTED = {
    "chainlit_session_starts_total": EACH,
    "chainlit_session_ends_total": EACH,
    "chainlit_session_duration_seconds_count": EACH,
    "chainlit_connection_duration_seconds_count": EACH,
    "chainlit_turn_duration_seconds_count": EACH * TURNS,
    "chainlit_turn_time_to_first_token_seconds_count": EACH * TURNS,
    "chainlit_turn_output_chunks_total": EACH * TURNS * 3,
    "chainlit_turn_tokens_total": EACH * TURNS * 9,
    "chainlit_turn_inferences_total": EACH * TURNS,
    "chainlit_messages_total": EACH * (TURNS * 2 + 1),
    "chainlit_tool_calls_total": EACH * TURNS,
    "chainlit_score_count": EACH * TURNS * 2,
    "chainlit_file_size_bytes_count": EACH * TURNS,
    "chainlit_access_denials_total": EACH * TURNS,
}

PAGE = "/{full_path:path}"
CAPTURED = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST"

HOST = """
import chainlit_otel
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

chainlit_otel.enable()
app = FastAPI()


@app.get("/prepare")
async def prepare():
    from chainlit.context import init_http_context

    context = init_http_context()
    await context.session.delete()


mount_chainlit(app, "chat.py", path="/chat")
"""

CHAT = """
import chainlit as cl


@cl.on_message
async def answer(message):
    await cl.Message(message.content).send()
"""


def app(env: dict[str, str], token: str | None = TOKEN) -> ChainlitServer:
    return ChainlitServer(
        {"app.py": APP, "layer.py": LAYER},
        env={
            "CHAINLIT_AUTH_SECRET": "a-secret-of-this-test-and-nothing-else",
            "CHAINLIT_OTEL_RECORDS_DIR": "records",
            **({} if token is None else {"CHAINLIT_OTEL_SYNTHETIC_TOKEN": token}),
            **env,
        },
        config={
            "project": {"session_timeout": 3600},
            "features.spontaneous_file_upload": {"enabled": True, "max_size_mb": 1},
        },
    )


class Visit:
    """All that a signed-in user can do, by one session."""

    def __init__(self, server: ChainlitServer, headers: dict[str, str], name: str) -> None:
        self.name = name
        self.url, self.directory = server.url, server.directory
        self.headers = headers
        self.http = httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60)

    async def run(self) -> None:
        async with self.http as http:
            await self._sign_in()
            visitor = Visitor(
                self.url, headers={**self.headers, **self._cookie()}, chat_profile="expert"
            )
            await visitor.connect()
            await self._converse(visitor)
            await self._judge(visitor)
            await http.post("/project/file", params={"session_id": visitor.session_id}, files=FILE)
            await self._lose(visitor)
            await visitor.reconnect()
            await self._stop(visitor)
            await self._go_astray()
            await http.get("/hook")
            await visitor.leave(clear=True)

    def _cookie(self) -> dict[str, str]:
        return {"Cookie": "; ".join(f"{k}={v}" for k, v in self.http.cookies.items())}

    async def _sign_in(self) -> None:
        for password, status in (("wrong", 401), ("any", 200)):
            form = {"username": self.name, "password": password}
            assert (await self.http.post("/login", data=form)).status_code == status
        assert (await self.http.get("/user")).status_code == 200
        assert (await self.http.get("/project/thread/none")).status_code == 404

    async def _converse(self, visitor: Visitor) -> None:
        await visitor.say("search")
        await visitor.say("fail")
        await visitor.say("ask")
        await visitor.say("this")
        action = {"name": "vote", "payload": {}, "label": "", "id": "1"}
        body = {"sessionId": visitor.session_id, "action": action}
        assert (await self.http.post("/project/action", json=body)).status_code == 200

    async def _judge(self, visitor: Visitor) -> None:
        answers = [e.data["id"] for e in visitor.events if e.name == "stream_start"]
        for step in (answers[0], f"unknown {self.name}"):
            body = {"feedback": {"forId": step, "value": 1}, "sessionId": visitor.session_id}
            assert (await self.http.put("/feedback", json=body)).status_code == 200
        await self.http.request("DELETE", "/feedback", json={"feedbackId": answers[0]})

    async def _lose(self, visitor: Visitor) -> None:
        await visitor.send("lose")
        await visitor.until(lambda: said(visitor, "Going."), "the turn")
        await visitor.drop()
        lost = self.directory / visitor.session_id

        async def is_lost() -> bool:
            return lost.exists()

        await wait_until_async(is_lost, 60, "the answer that nobody gets")

    async def _stop(self, visitor: Visitor) -> None:
        await visitor.send("wait")
        await visitor.until(lambda: said(visitor, "Waiting."), "the turn")
        await visitor.emit("stop")
        await visitor.until(lambda: said(visitor, "Task manually stopped."), "the stop")

    async def _go_astray(self) -> None:
        """Send what is refused, lost or dropped."""
        silent = Visitor(self.url, headers={**self.headers, **self._cookie()})
        await silent.connect()
        await silent.until(lambda: said(silent, "Welcome."), "the greeting")
        await silent.leave(clear=True)
        with pytest.raises(Refused):
            await Visitor(self.url, headers=self.headers).connect()
        await self.http.get("/project/file/x", params={"session_id": "unknown"})
        path, query = "/ws/socket.io/", {"EIO": "4", "transport": "polling"}
        assert (await self.http.get(path, params={**query, "sid": "unknown"})).status_code == 400
        opened = await self.http.get(path, params=query)
        sid = json.loads(opened.text[1:])["sid"]
        await self.http.post(path, params={**query, "sid": sid}, content="no packet")


FILE = {"file": ("notes.txt", b"x" * 7, "text/plain")}


def said(visitor: Visitor, text: str, times: int = 1) -> bool:
    texts = {
        e.data["id"]: e.data["output"]
        for e in visitor.events
        if e.name in ("new_message", "update_message")
    }
    return list(texts.values()).count(text) >= times


def figures(scrape: Scrape) -> dict[Any, float]:
    """Every sample but those of the process, of peaks, and of synthetic visitors."""
    return {
        (sample.name, *sorted(sample.labels.items())): float(sample.value)
        for family in scrape.families.values()
        for sample in family.samples
        if not sample.name.startswith((*PROCESS_WIDE, *PEAKS, *OWN))
    }


def counts(scrape: Scrape) -> dict[Any, float]:
    """What does not depend on how long anything takes."""
    return {
        key: value
        for key, value in figures(scrape).items()
        if key[0].endswith(("_total", "_count")) and "_seconds_total" not in key[0]
    }


def changes(after: dict[Any, float], before: dict[Any, float]) -> dict[Any, float]:
    return {k: v - before.get(k, 0) for k, v in after.items() if v != before.get(k, 0)}


def own(scrape: Scrape) -> list[dict[str, int]]:
    """Synthetic sessions and turns, by outcome."""
    outcomes = catalog.OUTCOME.values
    return [{o: int(scrape.value(name, chainlit_outcome=o)) for o in outcomes} for name in OWN]


def health_of(server: ChainlitServer) -> str:
    return server.metrics_url.removesuffix("metrics") + "healthz"


def turns_in(receiver: Receiver) -> list[Span]:
    return [span for span in receiver.spans if span.name == catalog.SPAN_TURN]


def is_marked(span: Span) -> bool:
    return catalog.SYNTHETIC in span.attributes


def peaks(scrape: Scrape) -> dict[Any, float]:
    return {
        (sample.name, *sorted(sample.labels.items())): float(sample.value)
        for name in PEAKS
        for sample in scrape.families[name].samples
    }


async def once_ended(server: ChainlitServer, ends: str, number: int) -> Scrape:
    """What `/metrics` says once so many sessions have ended, and nothing moves any more."""

    seen: list[Scrape] = []

    async def is_settled() -> bool:
        seen.append(await asyncio.to_thread(server.scrape))
        if seen[-1].sum(ends) < number or seen[-1].sum("chainlit_turn_active"):
            return False
        # What another thread or a request counts after the end of the session.
        await asyncio.sleep(1)
        seen.append(await asyncio.to_thread(server.scrape))
        return not changes(figures(seen[-1]), figures(seen[-2]))

    await wait_until_async(is_settled, 60, f"{number} of {ends}")
    return seen[-1]


ENDS = "chainlit_session_ends_total"


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with app({}) as server:
        yield server


def records(server: ChainlitServer) -> list[str]:
    return [
        line
        for file in sorted((server.directory / "records").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def live(server: ChainlitServer, rows: str) -> str:
    """Data of the live page."""
    url = server.metrics_url.removesuffix("metrics") + f"live/data/{rows}"
    return fetch(url).raise_for_status().text


def shown(server: ChainlitServer) -> list[str]:
    """The keys of the sessions and turns that the live page shows."""
    sessions, turns = (json.loads(live(server, rows)) for rows in ("sessions", "turns"))
    return [row["key"] for row in (*sessions["open"], *sessions["ended"], *turns["rows"])]


async def test_with_the_right_token_a_visit_is_in_no_figure_but_its_own(
    server: ChainlitServer,
) -> None:
    await Visit(server, {}, "ada").run()
    before = await once_ended(server, ENDS, 3)
    kept = records(server)
    before_on_page = shown(server)
    # More at once than there were users.
    await asyncio.gather(*(Visit(server, RIGHT, f"monitor {n}").run() for n in range(3)))
    after = await once_ended(server, OWN[0], 9)
    assert changes(figures(after), figures(before)) == {}
    assert after.series == before.series
    assert all(value <= peaks(before)[key] for key, value in peaks(after).items())
    assert records(server) == kept
    assert shown(server) == before_on_page
    assert len(before_on_page) == 3 + 5
    # Two of each had no turns, one of them an HTTP session.
    sessions, turns = own(after)
    assert sessions == {"ok": 6, "error": 3, "cancelled": 0}
    assert turns == {"ok": 9, "error": 3, "cancelled": 3}


async def test_while_it_is_there_a_synthetic_session_is_in_no_figure_either(
    server: ChainlitServer,
) -> None:
    cookie = await sign_in(server.url, "monitor", "any")
    before = await once_ended(server, ENDS, 0)
    before_on_page = shown(server)
    visitor = Visitor(server.url, headers={**RIGHT, **cookie})
    await visitor.connect()
    await visitor.send("wait")
    await visitor.until(lambda: said(visitor, "Waiting."), "the turn")
    during = server.scrape()
    during_on_page = shown(server)
    await visitor.emit("stop")
    await visitor.until(lambda: said(visitor, "Task manually stopped."), "the stop")
    await visitor.leave(clear=True)
    assert changes(figures(during), figures(before)) == {}
    assert during_on_page == before_on_page
    assert during.value("chainlit_user_active") == during.sum("chainlit_turn_active") == 0
    await once_ended(server, OWN[0], sum(own(before)[0].values()) + 1)


async def test_with_a_wrong_token_or_where_none_is_set_a_visit_is_in_all_of_them(
    server: ChainlitServer,
) -> None:
    seen: list[dict[Any, float]] = []
    for headers in ({}, WRONG):
        before = await once_ended(server, ENDS, 0)
        await Visit(server, headers, f"user {len(seen)}").run()
        number = int(before.sum(ENDS)) + 3
        seen.append(changes(counts(await once_ended(server, ENDS, number)), counts(before)))
        # None of the ends was that of a synthetic session.
        assert own(await once_ended(server, ENDS, number)) == own(before)
    with app({}, token=None) as other:
        before = await once_ended(other, ENDS, 0)
        await Visit(other, RIGHT, "user").run()
        after = await once_ended(other, ENDS, 3)
        seen.append(changes(counts(after), counts(before)))
    assert seen[0] == seen[1] == seen[2]
    assert not set(OWN) & {name for name, _ in after.series}
    moved = {key[0].removesuffix("_count") for key in changes(figures(after), figures(before))}
    still = {metric for metric in catalog.METRICS if metric.prometheus_name not in moved}
    assert still <= UNCHANGED


async def test_the_sums_of_users_are_exact_beside_many_synthetic_visitors(
    server: ChainlitServer,
) -> None:
    before = await once_ended(server, ENDS, 0)
    cookies = await asyncio.gather(
        *(sign_in(server.url, f"{n}", "any") for n in range(2 * EACH)),
    )
    begun = server.scrape()
    dice = random.Random(20261126)

    async def visit(cookie: dict[str, str], headers: dict[str, str]) -> None:
        transports = dice.choice((["websocket"], ["polling"], None))
        visitor = Visitor(server.url, headers={**headers, **cookie}, transports=transports)
        await asyncio.sleep(dice.random())
        await visitor.connect()
        for _ in range(TURNS):
            await visitor.say("search")
        await visitor.leave(clear=True)

    await asyncio.gather(*(visit(c, RIGHT if n % 2 else {}) for n, c in enumerate(cookies)))
    after = await once_ended(server, OWN[0], sum(own(before)[0].values()) + EACH)
    found = changes(counts(after), counts(begun))
    sums: dict[str, float] = {}
    for (name, *_), change in found.items():
        sums[name] = sums.get(name, 0) + change
    assert {name: sums[name] for name in EXPECTED} == EXPECTED
    assert own(after)[1]["ok"] - own(before)[1]["ok"] == EACH * TURNS


async def test_to_know_the_id_of_a_session_is_not_enough_to_hide_in_it(
    server: ChainlitServer,
) -> None:
    before = await once_ended(server, ENDS, 0)
    cookie = await sign_in(server.url, "monitor", "any")
    visitor = Visitor(server.url, headers={**RIGHT, **cookie})
    await visitor.connect()
    await visitor.drop()
    visitor.headers = {**WRONG, **cookie}
    await visitor.reconnect()
    await visitor.say("search")
    await visitor.leave(clear=True)
    after = await once_ended(server, ENDS, int(before.sum(ENDS)) + 1)
    found = changes(counts(after), counts(before))
    assert sum(v for (name, *_), v in found.items() if name == "chainlit_session_starts_total") == 1
    assert sum(v for (name, *_), v in found.items() if name.startswith("chainlit_turn_dur")) == 1
    assert own(after)[0]["ok"] - own(before)[0]["ok"] == 1
    assert own(after)[1] == own(before)[1]


async def test_a_session_of_a_user_stays_one(server: ChainlitServer) -> None:
    before = await once_ended(server, ENDS, 0)
    cookie = await sign_in(server.url, "ada", "any")
    visitor = Visitor(server.url, headers=cookie)
    await visitor.connect()
    await visitor.drop()
    visitor.headers = {**RIGHT, **cookie}
    await visitor.reconnect()
    await visitor.leave(clear=True)
    after = await once_ended(server, ENDS, int(before.sum(ENDS)) + 1)
    assert own(after) == own(before)
    for name in ("session_starts", "session_ends", "session_reconnects"):
        assert after.sum(f"chainlit_{name}_total") - before.sum(f"chainlit_{name}_total") == 1
    ended = "chainlit_connection_duration_seconds_count"
    assert after.sum(ended) - before.sum(ended) == 2


async def test_the_spans_of_a_synthetic_visitor_say_so_and_the_token_is_nowhere() -> None:
    with Receiver() as receiver:
        env = {**receiver.env, CAPTURED: ".*", "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS": "true"}
        with app(env) as server:
            for name, headers in (("ada", {}), ("monitor", RIGHT)):
                await Visit(server, headers, name).run()
            scrape = await once_ended(server, OWN[0], 3)
            told = [live(server, rows) for rows in ("sessions", "turns", "health")]
            told += [scrape.text, server.log, fetch(health_of(server)).text, *records(server)]
        assert scrape.sum(ENDS) == 3
        wait_until(lambda: len(turns_in(receiver)) == 10, 60, "the turns")
        assert Counter(span.attributes.get(catalog.SYNTHETIC) for span in turns_in(receiver)) == {
            None: 5,
            "True": 5,
        }
        # The page itself is asked for once, by whoever has started the server.
        routes = [s for s in receiver.spans if s.attributes.get("http.route", PAGE) != PAGE]
        marked = Counter(span.attributes["http.route"] for span in routes if is_marked(span))
        assert marked == Counter(
            span.attributes["http.route"] for span in routes if not is_marked(span)
        )
        assert set(marked) >= {"/login", "/hook"}
        spent = [s.attributes.get("chainlit.turn.cost") for s in turns_in(receiver) if is_marked(s)]
        assert spent == ["0.5"] * 5
        told.append(str(receiver.spans))
        assert TOKEN not in " ".join(told)


async def test_after_disable_and_enable_an_open_synthetic_session_is_still_one() -> None:
    with app({}) as server:
        cookie = await sign_in(server.url, "monitor", "any")
        visitor = Visitor(server.url, headers={**RIGHT, **cookie})
        await visitor.connect()
        await visitor.say("again")
        await visitor.say("search")
        await visitor.leave(clear=True)
        scrape = await once_ended(server, OWN[0], 2)
    # Its first turn was under way when all that is open was ended.
    assert own(scrape) == [{"ok": 1, "error": 0, "cancelled": 1}] * 2
    assert scrape.sum("chainlit_session_starts_total") == 0
    assert scrape.sum("chainlit_turn_duration_seconds_count") == 0


def sent_by_the_command(server: ChainlitServer) -> None:
    few = ["--visitors", "1", "--rate", "50", "--length", "0.01", "--quiet"]
    given = ["visit", server.url, *few, "--metrics", server.metrics_url]
    done = CliRunner().invoke(main, given, env={"CHAINLIT_OTEL_SYNTHETIC_TOKEN": TOKEN})
    assert done.exit_code == 0, done.output
    assert re.search(r"^turns +1 +0 +-1$", done.output, re.MULTILINE), done.output
    assert re.search(r"^synthetic turns +1 +1 +0$", done.output, re.MULTILINE), done.output
    assert "The app has visitors with its synthetic token in its synthetic figures" in done.output


async def test_below_a_path_the_endpoints_of_the_host_are_left_out_too() -> None:
    with ChainlitServer(
        {"main.py": HOST, "chat.py": CHAT},
        env={"CHAINLIT_OTEL_SYNTHETIC_TOKEN": TOKEN},
        command=["uvicorn", "main:app", "--port", "{port}"],
        path="/chat",
    ) as server:
        before = await once_ended(server, ENDS, 0)
        origin = server.url.removesuffix("/chat")
        async with httpx.AsyncClient(headers=RIGHT, timeout=60) as http:
            (await http.get(f"{origin}/prepare")).raise_for_status()
        async with Visitor(server.url, synthetic_token=TOKEN, client_type="copilot") as visitor:
            await visitor.say("hello")
        await asyncio.to_thread(sent_by_the_command, server)
        after = await once_ended(server, OWN[0], 3)
        assert changes(figures(after), figures(before)) == {}
        assert own(after)[0]["ok"] == 3
        (await asyncio.to_thread(fetch, f"{origin}/prepare")).raise_for_status()
        assert (await once_ended(server, ENDS, 1)).sum("chainlit_session_starts_total") == 1
