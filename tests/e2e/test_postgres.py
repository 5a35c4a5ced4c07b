"""The PostgreSQL example and its data layer, against what the database itself counts."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chainlit_otel import catalog
from chainlit_otel.testing import Visitor
from tests.support.greeting import greeted
from tests.support.otlp import Receiver
from tests.support.postgres import Postgres
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer
from tests.support.sign_in import sign_in

pytestmark = pytest.mark.e2e

SEED = 20261124
EXAMPLE = Path(__file__).parents[2] / "examples" / "postgres"
FILES = {path.name: path.read_text() for path in EXAMPLE.iterdir() if path.is_file()}
OPERATIONS = "chainlit_data_layer_operations_total"
SECONDS = "chainlit_data_layer_operation_duration_seconds"
USERS = ("ada", "grace", "alan")


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with Postgres() as database:
        yield database


def app(
    database: Postgres, files: dict[str, str] = FILES, env: dict[str, str] | None = None
) -> ChainlitServer:
    known = {"CHAINLIT_AUTH_SECRET": "a secret of thirty-two characters"}
    return ChainlitServer(files, env={**known, "DATABASE_URL": database.url, **(env or {})})


def operations(scrape: Scrape, outcome: str, *names: str) -> float:
    return sum(
        scrape.sum(OPERATIONS, chainlit_data_layer_operation=name, chainlit_outcome=outcome)
        for name in names
    )


class Person:
    """A signed-in user with a browser, and what they did."""

    def __init__(
        self, server: ChainlitServer, database: Postgres, name: str, dice: random.Random
    ) -> None:
        self.name = name
        self._database = database
        self.done: Counter[str] = Counter()
        self.threads: list[str] = []
        self._server = server
        self._dice = dice

    async def come(self) -> None:
        """Sign in, chat, judge, upload, look at the history and open a chat of it again."""
        headers = await sign_in(self._server.url, self.name)
        self.done["sign_in"] += 1
        async with httpx.AsyncClient(
            base_url=self._server.url, headers=headers, timeout=20
        ) as http:
            for _ in range(2):
                await self._chat(http, headers)
            silent = Visitor(self._server.url, headers=headers)
            await silent.connect()
            await greeted(silent)
            await silent.leave(clear=True)
            self.done["greeting"] += 1
            listed = await http.post("/project/threads", json=_FIRST_PAGE)
            self.done["list"] += 1
            assert {thread["id"] for thread in listed.json()["data"]} >= set(self.threads)
            await self._chat(http, headers, self._dice.choice(self.threads))

    async def _chat(
        self, http: httpx.AsyncClient, headers: dict[str, str], thread: str | None = None
    ) -> None:
        visitor = Visitor(self._server.url, headers=headers)
        visitor.thread_id = thread
        await visitor.connect()
        if thread is None:
            await greeted(visitor)
            self.done["greeting"] += 1
        for _ in range(self._dice.randint(1, 3)):
            assert (await visitor.say("hello")).texts == ["You said: hello "]
            self.done["turn"] += 1
        await visitor.until(lambda: visitor.thread_id is not None, "the name of the thread")
        if thread is None:
            self.threads.append(str(visitor.thread_id))
        upload = await http.post(
            "/project/file",
            params={"session_id": visitor.session_id},
            files={"file": ("note.txt", b"x" * 100, "text/plain")},
        )
        self.done["upload"] += upload.status_code == 200
        answers = [
            event.data["id"]
            for event in visitor.events
            if event.name == "new_message" and event.data["type"] == "assistant_message"
        ]
        await until_stored(self._database, answers[-1])
        judged = await http.put(
            "/feedback",
            json={
                "feedback": {"forId": answers[-1], "value": self._dice.choice([0, 1])},
                "sessionId": visitor.session_id,
            },
        )
        self.done["feedback"] += judged.status_code == 200
        await visitor.leave(clear=True)


async def until_stored(database: Postgres, step: str) -> None:
    """Wait until a step is in the database, where Chainlit puts it in its own time."""

    def stored() -> bool:
        return bool(database.query('SELECT FROM "Step" WHERE id = $1', step))

    await asyncio.to_thread(wait_until, stored, 60, "the step to be stored")


_FIRST_PAGE = {"pagination": {"first": 20}, "filter": {}}


def settled_operations(server: ChainlitServer) -> Scrape:
    """The figures once nothing happens any more: twice the same."""
    last: list[float] = [-1.0]

    def same() -> bool:
        now = server.scrape().sum(OPERATIONS)
        last.append(now)
        return last[-1] == last[-2] == last[-3] if len(last) > 3 else False

    wait_until(same, 60, "the operations to end")
    return server.scrape()


async def test_the_figures_are_those_of_the_database_and_of_the_script(database: Postgres) -> None:
    with Receiver() as receiver, app(database, env=receiver.env) as server:
        dice = random.Random(SEED)
        people = [Person(server, database, name, random.Random(dice.random())) for name in USERS]
        # Chainlit makes a pool for each of several first queries at once, and keeps the last.
        await sign_in(server.url, people[0].name)
        people[0].done["sign_in"] += 1
        await asyncio.gather(*(person.come() for person in people))
        scrape = await asyncio.to_thread(settled_operations, server)
        done: Counter[str] = sum((person.done for person in people), Counter())

        def ok(*names: str) -> float:
            return operations(scrape, "ok", *names)

        def calls(like: str) -> int:
            return database.calls(like)

        def rows(sql: str) -> Any:
            return database.query(sql)[0]["n"]

        counted = await asyncio.to_thread(
            lambda: {
                "users": (calls('%INSERT INTO "User"%'), rows('SELECT count(*) n FROM "User"')),
                "lists": calls('%FROM "Thread" t%LEFT JOIN "User" u%LIMIT%'),
                "threads": rows('SELECT count(*) n FROM "Thread"'),
                "feedback": rows('SELECT count(*) n FROM "Feedback"'),
                "positive": rows('SELECT count(*) n FROM "Feedback" WHERE value = 1'),
                "messages": rows("SELECT count(*) n FROM \"Step\" WHERE type = 'user_message'"),
                "steps": rows('SELECT count(*) n FROM "Step"'),
                "stores": calls('%INSERT INTO "Step" (%COALESCE%'),
            }
        )
        print(f"\nthe script: {dict(done)}\nthe database: {counted}")
        assert scrape.sum(OPERATIONS, chainlit_outcome="error") == 0
        # Each sign-in stores the user, and each user is one.
        assert ok("create_user") == counted["users"][0] == done["sign_in"]
        assert counted["users"][1] == len(USERS)
        chats = sum(len(person.threads) for person in people)
        assert ok("list_threads") == counted["lists"] == done["list"]
        assert ok("upsert_feedback") == counted["feedback"] == done["feedback"] == 9
        given = {
            value: scrape.value("chainlit_feedback_total", chainlit_feedback_value=value)
            for value in ("positive", "negative")
        }
        assert given["positive"] == counted["positive"]
        assert sum(given.values()) == done["feedback"]
        assert counted["messages"] == done["turn"]
        assert scrape.sum("chainlit_turn_duration_seconds_count") == done["turn"]
        # A chat begins with a greeting in a run; a turn is a message, a run, a thought, an answer.
        assert ok("create_step") == counted["steps"] == 2 * chats + 4 * done["turn"]
        assert ok("update_step") == chats + 2 * done["turn"]
        # Whoever writes nothing leaves nothing: no thread, and no greeting.
        assert counted["threads"] == chats
        held = {"queued": 3 * done["greeting"], "discarded": 3 * len(people)}
        for what, number in held.items():
            assert scrape.sum(f"chainlit_data_layer_{what}_total") == number
        assert scrape.value("chainlit_data_layer_queue_length") == 0
        # Each run of `create_step` is one statement, also on behalf of `update_step` or of a step
        # whose parent is not there yet: within another operation it is a span and no operation.
        assert ok("create_step", "update_step") <= counted["stores"]
        await asyncio.to_thread(
            wait_until,
            lambda: len(receiver.named("chainlit.data_layer create_step")) == counted["stores"],
            10,
            f"{counted['stores']} spans",
        )
        uploads = {"chainlit_file_direction": "upload"}
        assert scrape.value("chainlit_file_size_bytes_count", **uploads) == done["upload"] == 9
        assert scrape.value("chainlit_file_size_bytes_sum", **uploads) == 900
        attempts = {"chainlit_access_method": "password", "chainlit_access_result": "granted"}
        assert scrape.value("chainlit_access_attempts_total", **attempts) == done["sign_in"]
        pool = scrape.sum("db_client_connection_count")
        connected = await asyncio.to_thread(
            rows,
            "SELECT count(*) n FROM pg_stat_activity WHERE application_name = '' "
            "AND backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
        assert pool == connected
        assert scrape.sum("chainlit_otel_internal_errors_total") == 0


# The example, in which a query may run for long, and which tells what has become of its pool.
POOL = """

import contextlib
import gc

from asyncpg.pool import Pool
from chainlit.data import get_data_layer

answer = on_message
queries = []


async def sleep() -> None:
    with contextlib.suppress(Exception):
        await get_data_layer().execute_query("SELECT pg_sleep(600)")


@cl.on_message
async def on_message(message: cl.Message) -> None:
    if message.content == "sleep":
        queries.append(asyncio.create_task(sleep()))
    elif message.content == "pool":
        gc.collect()
        pools = [thing for thing in gc.get_objects() if isinstance(thing, Pool)]
        closed = sum(pool.is_closing() for pool in pools)
        await cl.Message(f"{closed} closed, {len(pools) > closed}").send()
    else:
        await answer(message)
"""
TELLING = {**FILES, "app.py": FILES["app.py"] + POOL}
BARE = {**TELLING, "app.py": TELLING["app.py"].replace("chainlit_otel.enable()", "")}
AWAY = 5


async def answers(server: ChainlitServer, database: Postgres, observed: bool) -> list[object]:
    """What one user gets before, while and after the database is away."""
    headers = await sign_in(server.url, "ada")
    visitor = Visitor(server.url, headers=headers)
    await visitor.connect()
    await greeted(visitor)
    said: list[object] = [(await visitor.say("before")).texts]
    step = [e.data["id"] for e in visitor.events if e.name == "new_message"][-1]
    await until_stored(database, step)
    await visitor.say("sleep")
    sleeps = "SELECT FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%sleep(600)'"
    await asyncio.to_thread(wait_until, lambda: database.query(sleeps), 60, "the long query")
    if observed:
        assert server.scrape().value("db_client_connection_count", **USED) >= 1
    await asyncio.to_thread(database.stop)
    try:
        said += [(await visitor.say(f"away {n}")).texts for n in range(AWAY)]
        if observed:
            await asyncio.to_thread(
                wait_until, lambda: lost(server.scrape()) == LOST, 10, f"{LOST} to be lost"
            )
    finally:
        await asyncio.to_thread(database.start)
    said += [(await visitor.say(f"after {n}")).texts for n in range(5)]
    said.append((await visitor.say("pool")).texts)
    await visitor.leave(clear=True)
    return said


def lost(scrape: Scrape) -> dict[str, float]:
    """The operations that failed, by name."""
    names = catalog.OPERATION.values
    return {name: number for name in names if (number := operations(scrape, "error", name))}


USED = {
    "db_client_connection_pool_name": "ChainlitDataLayer.pool",
    "db_client_connection_state": "used",
}
# Of each turn the message, the run, the thought and the answer, two of which end later.
LOST = {"create_step": 4 * AWAY, "update_step": 2 * AWAY}
# Of the greeting and of eleven turns of the example; the two that do something else have fewer.
OPERATIONS_OF_ALL = 6 * 11 + 3 + 3 + 4


async def test_a_database_that_goes_away_costs_no_answer_and_shows(database: Postgres) -> None:
    with app(database, BARE) as bare:
        expected = await answers(bare, database, observed=False)
    with app(database, TELLING) as server:
        assert await answers(server, database, observed=True) == expected

        def all_have_ended() -> bool:
            now = server.scrape()
            ended = operations(now, "ok", *LOST) + operations(now, "error", *LOST)
            return ended == OPERATIONS_OF_ALL

        await asyncio.to_thread(
            wait_until, all_have_ended, 60, f"the end of {OPERATIONS_OF_ALL} operations"
        )
        scrape = server.scrape()
        assert expected[1] == ["You said: away 0 "]
        assert expected[-1] == ["0 closed, True"]
        kept = operations(scrape, "ok", *LOST)
        print(f"\nlost: {lost(scrape)}; kept: {kept}")
        # A layer whose pool is broken may lose some more before it has made another one.
        lost_by_then = lost(scrape)
        assert lost_by_then.keys() == LOST.keys()
        assert all(lost_by_then[name] >= number for name, number in LOST.items())
        assert scrape.sum("chainlit_turn_duration_seconds_count", chainlit_outcome="ok") == 13
        before = operations(scrape, "ok", "create_step")
        headers = await sign_in(server.url, "ada")
        visitor = Visitor(server.url, headers=headers)
        await visitor.connect()
        await visitor.say("well again")
        scrape = await asyncio.to_thread(settled_operations, server)
        await visitor.leave(clear=True)
        assert operations(scrape, "ok", "create_step") > before
        assert lost(scrape) == lost_by_then
        # The layer has thrown its pool away and made another one, which is followed.
        assert scrape.sum("db_client_connection_count") > 0
        assert scrape.sum("db_client_connection_max") == 10
        assert scrape.sum("chainlit_otel_internal_errors_total") == 0


EXHAUSTED = """
import asyncpg
import chainlit as cl
import chainlit_otel
from chainlit.data.chainlit_data_layer import ChainlitDataLayer

chainlit_otel.enable()


class Layer(ChainlitDataLayer):
    async def connect(self):
        if not self.pool:
            self.pool = await asyncpg.create_pool(self.database_url, min_size=5, max_size=5)

    async def get_thread(self, thread_id):
        await self.execute_query("SELECT pg_sleep(0.4)")


layer = Layer(__import__("os").environ["DATABASE_URL"])


@cl.data_layer
def data_layer():
    return layer


@cl.on_app_startup
async def connect():
    # Five queries at once would make five pools otherwise.
    await layer.connect()


@cl.on_message
async def on_message(message):
    await cl.data._data_layer.get_thread("slow")
    await cl.Message("done").send()
"""


async def test_a_pool_that_runs_dry_shows_before_users_see_errors(database: Postgres) -> None:
    with app(database, {"app.py": EXHAUSTED}) as server:
        visitors = [Visitor(server.url) for _ in range(20)]
        await asyncio.gather(*(visitor.connect() for visitor in visitors))
        seen: list[tuple[float, float]] = []

        def used_up() -> bool:
            scrape = server.scrape()
            used = scrape.sum("db_client_connection_count", db_client_connection_state="used")
            seen.append((used, scrape.sum("db_client_connection_max")))
            return seen[-1] == (5, 5)

        talks = asyncio.gather(*(visitor.say("go") for visitor in visitors))
        await asyncio.to_thread(wait_until, used_up, 60, "the pool to be used up")
        assert [answer.texts for answer in await talks] == [["done"]] * 20
        assert max(seen) == (5, 5)
        scrape = server.scrape()
        slow = {"chainlit_data_layer_operation": "get_thread", "chainlit_outcome": "ok"}
        assert scrape.sum(OPERATIONS, **slow) == 20
        # Four waves of five: by 0.4 s each, they wait for one, two and three others.
        waited = scrape.sum(f"{SECONDS}_sum", **slow) - 20 * 0.4
        assert waited >= 5 * 0.4 * (1 + 2 + 3) * 0.9
        assert scrape.sum(OPERATIONS, chainlit_outcome="error") == 0
        await asyncio.gather(*(visitor.leave(clear=True) for visitor in visitors))
