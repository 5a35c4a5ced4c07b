"""The Redis example, driven by signed-in visitors: what is kept, denied and counted."""

from __future__ import annotations

import asyncio
import contextlib
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chainlit_otel.testing import Refused, Visitor
from tests.support.redis import Redis
from tests.support.scrape import Scrape, wait_until, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

EXAMPLE = Path(__file__).parents[2] / "examples" / "redis_sessions"
SEED = 20261124
LIMIT = 6
NAMES = ("ada", "bob", "cyd", "dan", "eve", "fay", "gus", "hal", "ida", "jon")
WAIT = 15.0

OPERATIONS = "chainlit_data_layer_operations_total"
LOOKUPS = "chainlit_data_layer_cache_lookups_total"
CONNECTIONS = "db_client_connection_count"
ATTEMPTS = "chainlit_access_attempts_total"
DENIALS = "chainlit_access_denials_total"


def serve(redis: Redis, replica: Redis | None = None, **env: str) -> ChainlitServer:
    files = {str(path.relative_to(EXAMPLE)): path.read_text() for path in EXAMPLE.rglob("*.py")}
    if replica is not None:
        env["REDIS_REPLICA_URL"] = replica.url
    return ChainlitServer(
        files,
        config={"features": {"favorites": True}},
        env={
            "REDIS_URL": redis.url,
            "CHAT_USERS": ",".join(f"{name}=secret of {name}" for name in NAMES),
            "CHAINLIT_AUTH_SECRET": "for tests only, for tests only, for tests only",
            # Longer than any test, so that a count does not depend on how long one takes.
            "MESSAGE_LIMIT": str(LIMIT),
            "MESSAGE_WINDOW": "3600",
            **env,
        },
    )


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture(scope="module")
def replica(redis: Redis) -> Iterator[Redis]:
    with Redis(replica_of=redis) as server:
        yield server


@pytest.fixture(scope="module")
def shared(redis: Redis, replica: Redis) -> Iterator[ChainlitServer]:
    with serve(redis, replica, REDIS_REPLICA_LAG="0.2") as server:
        yield server


@pytest.fixture
def server(shared: ChainlitServer, redis: Redis) -> ChainlitServer:
    """The shared server with empty limits: each test may talk as if it were the first."""
    with redis.client() as client:
        for key in client.scan_iter("limit:*"):
            client.delete(key)
    return shared


class Person:
    """Somebody who is signed in: by HTTP what the page asks for, and tabs for the chat."""

    def __init__(self, server: ChainlitServer, name: str, dice: random.Random) -> None:
        self.name = name
        self.http = httpx.AsyncClient(base_url=server.url, timeout=60)
        self._server, self._dice = server, dice
        self._tabs: list[Visitor] = []

    async def sign_in(self) -> Person:
        form = {"username": self.name, "password": f"secret of {self.name}"}
        answer = await self.http.post("/login", data=form)
        assert answer.status_code == 200, answer.text
        return self

    async def open_tab(self, thread_id: str | None = None) -> Visitor:
        cookie = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        tab = Visitor(self._server.url, headers={"Cookie": cookie}, rng=self._dice)
        tab.thread_id = thread_id
        self._tabs.append(tab)
        await tab.connect()
        # A stored thread says more, and something else.
        await tab.until(
            lambda: any(event.name in ("new_message", "resume_thread") for event in tab.events),
            "the greeting",
        )
        return tab

    async def threads(self, **filter: Any) -> list[dict[str, Any]]:
        page = {"pagination": {"first": 2}, "filter": filter}
        threads: list[dict[str, Any]] = []
        while True:
            answer = (await self.http.post("/project/threads", json=page)).json()
            threads += answer["data"]
            if not answer["pageInfo"]["hasNextPage"]:
                return threads
            page["pagination"] = {"first": 2, "cursor": answer["pageInfo"]["endCursor"]}

    async def until_kept(self, tab: Visitor, output: str) -> None:
        """Wait for what Chainlit writes while the user has the answer already."""

        async def kept() -> bool:
            return output in await self.outputs(tab.thread_id)

        await wait_until_async(kept, WAIT, "the conversation to be kept")

    async def outputs(self, thread_id: str | None) -> list[str]:
        answer = await self.http.get(f"/project/thread/{thread_id}")
        if answer.status_code == 404:
            return []
        thread = answer.json()
        return [
            step["output"]
            for step in thread["steps"]
            if step["type"] in ("user_message", "assistant_message")
        ]

    async def leave(self) -> None:
        for tab in self._tabs:
            await tab.leave(clear=True)
        await self.http.aclose()


@contextlib.asynccontextmanager
async def people(server: ChainlitServer, *names: str) -> AsyncIterator[list[Person]]:
    dice = random.Random(f"{SEED} {names}")
    # Ids are kept from one test to the next in the Redis that they share.
    everybody = [Person(server, name, random.Random(dice.random())) for name in names]
    try:
        yield [await person.sign_in() for person in everybody]
    finally:
        for person in everybody:
            await person.leave()


class Change:
    """By how much figures have changed since the scrape that it was made with."""

    def __init__(self, server: ChainlitServer) -> None:
        self._server, self._before = server, server.scrape()

    def of(self, name: str, **labels: str) -> float:
        return _sum(self._server.scrape(), name, labels) - _sum(self._before, name, labels)


def _sum(scrape: Scrape, name: str, labels: dict[str, str]) -> float:
    # A series with names from the app is only there once something has happened.
    try:
        return scrape.sum(name, **labels)
    except KeyError:
        return 0.0


# -- what is kept ------------------------------------------------------------------------------


async def test_a_conversation_is_kept_listed_resumed_and_deleted(server: ChainlitServer) -> None:
    async with people(server, "ada") as [ada]:
        first = await ada.open_tab()
        assert (await first.say("hello")).texts == ["You said: hello"]
        assert (await first.say("again")).texts == ["You said: again"]
        said = ["Hello. What is it about?", "hello", "You said: hello", "again", "You said: again"]

        await ada.until_kept(first, said[-1])
        assert await ada.outputs(first.thread_id) == said
        second = await ada.open_tab()
        await second.say("something else")
        await (await ada.open_tab()).say("a third thing")

        async def names() -> list[str]:
            return [thread["name"] for thread in await ada.threads()]

        assert await names() == ["a third thing", "something else", "hello"]
        assert [thread["name"] for thread in await ada.threads(search="AGAIN")] == ["hello"]

        rename = {"threadId": first.thread_id, "name": "a greeting"}
        assert (await ada.http.put("/project/thread", json=rename)).status_code == 200
        await first.leave(clear=True)
        resumed = await ada.open_tab(first.thread_id)
        await resumed.until(
            lambda: any(event.name == "resume_thread" for event in resumed.events), "the thread"
        )
        [thread] = [event.data for event in resumed.events if event.name == "resume_thread"]
        assert thread["name"] == "a greeting"
        assert (await resumed.say("once more")).texts == ["You said: once more"]

        gone = {"threadId": second.thread_id}
        assert (await ada.http.request("DELETE", "/project/thread", json=gone)).status_code == 200
        await second.leave(clear=True)  # Chainlit writes to the thread once more
        assert await names() == ["a third thing", "a greeting"]
        assert (await ada.http.get(f"/project/thread/{second.thread_id}")).status_code == 404


async def test_feedback_and_favourites(server: ChainlitServer) -> None:
    async with people(server, "bob") as [bob]:
        tab = await bob.open_tab()
        await tab.say("a question")
        message = next(
            event.data
            for event in tab.events
            if event.name == "new_message" and event.data["output"] == "You said: a question"
        )

        async def give() -> bool:
            feedback = {"forId": message["id"], "value": 1, "comment": "good"}
            body = {"feedback": feedback, "sessionId": tab.session_id}
            return (await bob.http.put("/feedback", json=body)).status_code == 200

        await wait_until_async(give, WAIT, "the message to be kept")
        assert len(await bob.threads(feedback=1)) == 1
        assert await bob.threads(feedback=0) == []
        taken_back = {"feedbackId": message["id"]}
        await bob.http.request("DELETE", "/feedback", json=taken_back)
        assert await bob.threads(feedback=1) == []

        message["metadata"] = {"favorite": True}
        seen = len(tab.events)
        await tab.emit("message_favorite", {"message": message})
        await tab.until(
            lambda: any(event.name == "set_favorites" for event in tab.events[seen:]), "the mark"
        )
        [favorites] = [event.data for event in tab.events[seen:] if event.name == "set_favorites"]
        assert [step["id"] for step in favorites] == [message["id"]]


async def test_lists_are_read_on_the_replica(
    server: ChainlitServer, redis: Redis, replica: Redis
) -> None:
    async with people(server, "jon") as [jon]:
        await (await jon.open_tab()).say("hello")
        assert len(await jon.threads()) == 1, "who has just written reads what he wrote"

        async def from_replica() -> bool:
            before = replica.commandstats().get("zrange", 0)
            assert len(await jon.threads()) == 1
            return replica.commandstats().get("zrange", 0) > before

        await wait_until_async(from_replica, WAIT, "a list that was read on the replica")
        replica.stop(abruptly=True)
        before = redis.commandstats().get("zrange", 0)
        assert len(await jon.threads()) == 1
        assert redis.commandstats()["zrange"] > before
        replica.start()
        await wait_until_async(from_replica, WAIT, "the replica to be asked again")


# -- what is denied ----------------------------------------------------------------------------


async def test_who_talks_too_much_is_denied_and_counted(server: ChainlitServer) -> None:
    dice = random.Random(SEED)
    change = Change(server)
    plan = {name: dice.randrange(LIMIT - 2, LIMIT + 5) for name in ("cyd", "dan", "eve")}
    async with people(server, *plan) as everybody:

        async def talk(person: Person) -> Counter[bool]:
            tab = await person.open_tab()
            answers = [(await tab.say(str(n))).texts for n in range(plan[person.name])]
            return Counter(answer[0].startswith("That was quick") for answer in answers)

        turned_away = sum((await asyncio.gather(*map(talk, everybody))), Counter())
    expected = sum(max(0, messages - LIMIT) for messages in plan.values())
    assert expected > 0
    assert turned_away[True] == expected
    assert turned_away[False] == sum(plan.values()) - expected
    denied = {"chainlit_access_method": "rate_limit", "chainlit_access_result": "denied"}
    assert change.of(ATTEMPTS, **denied) == expected
    assert (
        change.of(DENIALS, chainlit_access_method="rate_limit", error_type="messages") == expected
    )


async def test_nobody_gets_at_the_threads_of_others(server: ChainlitServer) -> None:
    thread = {"chainlit_access_method": "thread", "chainlit_access_result": "denied"}
    async with people(server, "fay", "gus") as [fay, gus]:
        mine = await fay.open_tab()
        await mine.say("private")
        await fay.until_kept(mine, "You said: private")
        change = Change(server)
        target = {"threadId": mine.thread_id}
        attempts = [
            ("GET", f"/project/thread/{mine.thread_id}", None),
            ("PUT", "/project/thread", {**target, "name": "stolen"}),
            ("PUT", "/project/thread/share", {**target, "isShared": True}),
            ("DELETE", "/project/thread", target),
        ]
        for method, path, body in attempts:
            answer = await gus.http.request(method, path, json=body)
            assert answer.status_code == 401, (method, path)
        with pytest.raises(Refused):
            await gus.open_tab(mine.thread_id)
        refused = {"chainlit_access_method": "websocket", "chainlit_access_result": "denied"}
        assert change.of(ATTEMPTS, **refused) == 1
        # To open somebody else's thread in a tab is an attempt on the thread, too.
        assert change.of(ATTEMPTS, **thread) == len(attempts) + 1
        assert change.of(DENIALS, chainlit_access_method="thread") == 0

        async def listed() -> bool:
            return [thread["name"] for thread in await fay.threads()] == ["private"]

        # Its name and its owner are written apart from what was said in it.
        await wait_until_async(listed, WAIT, "the thread to be listed, as it was")
        assert await gus.threads() == []


async def test_a_thread_that_somebody_was_faster_with_stays_his(server: ChainlitServer) -> None:
    """Both tabs open with the same id, made up before, of a thread that does not exist yet."""
    async with people(server, "hal", "ida") as [hal, ida]:
        thread_id = str(uuid.uuid4())
        his, hers = await hal.open_tab(thread_id), await ida.open_tab(thread_id)
        await his.say("mine")
        await hal.until_kept(his, "You said: mine")
        change = Change(server)
        await hers.say("no, mine")

        # The name of the thread, and the steps: greeting, its run, message, run and answer.
        reason = {"chainlit_access_method": "thread", "error_type": "not_owner"}
        wait_until(lambda: change.of(DENIALS, **reason) >= 1, WAIT, "the denial")
        await hers.leave(clear=True)
        await ida.open_tab()
        wait_until(
            lambda: (
                change.of(DENIALS, **reason) == change.of(OPERATIONS, chainlit_outcome="error") > 1
            ),
            WAIT,
            "each denial to be an error of the data layer",
        )
        assert not any("no, mine" in output for output in await hal.outputs(thread_id))
        assert await ida.threads() == []


# -- what is counted ---------------------------------------------------------------------------


def operations(scrape: Scrape, outcome: str) -> dict[str, int]:
    """How many operations of the data layer had this outcome, by their names."""
    family = scrape.families.get(OPERATIONS.removesuffix("_total"))
    return {
        sample.labels["chainlit_data_layer_operation"]: int(sample.value)
        for sample in (family.samples if family else ())
        if sample.name == OPERATIONS
        and sample.labels["chainlit_outcome"] == outcome
        and sample.value
    }


def lookups(scrape: Scrape, cache: str) -> dict[str, int]:
    return {
        result: int(scrape.value(LOOKUPS, chainlit_cache_name=cache, chainlit_cache_result=result))
        for result in ("hit", "miss")
    }


def connections(scrape: Scrape) -> tuple[int, int]:
    """How many connections of the pool are used and idle."""
    name = "db_client_connection_pool_name"
    used, idle = (
        int(scrape.value(CONNECTIONS, **{name: "redis", "db_client_connection_state": state}))
        for state in ("used", "idle")
    )
    return used, idle


def connections_in_redis(redis: Redis) -> int:
    with redis.client() as client:
        return sum(line["name"] == "chat-redis" for line in client.client_list())


async def thread_of(tab: Visitor) -> str:
    """The thread of a tab, once the app has named it."""
    await tab.until(lambda: tab.thread_id is not None, "the name of the thread")
    return str(tab.thread_id)


async def until_equal(read: Callable[[], object], expected: object) -> None:
    """Wait until a figure is there, and fail with a comparison if it is another."""
    with contextlib.suppress(TimeoutError):
        await asyncio.to_thread(wait_until, lambda: read() == expected, WAIT, "the figures")
    assert read() == expected


def steps_of(tabs: int, turns: int) -> dict[str, int]:
    """Each tab has a greeting in a run, each turn a message, a run and an answer."""
    return {"create_step": 2 * tabs + 3 * turns, "update_step": tabs + turns}


async def test_the_figures_are_those_of_redis_and_of_the_script() -> None:
    dice = random.Random(SEED)
    turns = {name: [dice.randrange(1, 4) for _ in range(dice.randrange(1, 4))] for name in NAMES}
    reads = {name: dice.randrange(4) for name in NAMES}
    strays = {name: dice.randrange(3) for name in NAMES}
    tabs, messages = sum(map(len, turns.values())), sum(map(sum, turns.values()))
    silent = 2  # people who open another tab and say nothing in it
    with Redis() as redis, serve(redis, MESSAGE_LIMIT="100") as server:
        async with people(server, *NAMES) as everybody:
            before = redis.commandstats()

            async def talk(person: Person) -> list[str]:
                threads = []
                for count in turns[person.name]:
                    tab = await person.open_tab()
                    for number in range(count):
                        assert (await tab.say(str(number))).texts == [f"You said: {number}"]
                    threads.append(await thread_of(tab))
                return threads

            threads = dict(zip(NAMES, await asyncio.gather(*map(talk, everybody)), strict=True))
            expected = {
                "create_user": len(NAMES),
                "get_user": tabs,
                "get_favorite_steps": tabs,
                "update_thread": tabs,
                **steps_of(tabs, messages),
            }
            await until_equal(lambda: operations(server.scrape(), "ok"), expected)

            async def look(person: Person) -> None:
                mine = threads[person.name]
                for number in range(reads[person.name]):
                    thread_id = mine[number % len(mine)]
                    answer = await person.http.get(f"/project/thread/{thread_id}")
                    assert answer.json()["userIdentifier"] == person.name
                for _ in range(strays[person.name]):
                    answer = await person.http.get(f"/project/thread/{uuid.uuid4()}")
                    assert answer.status_code == 404
                page = {"pagination": {"first": 20}, "filter": {}}
                answer = await person.http.post("/project/threads", json=page)
                assert {thread["id"] for thread in answer.json()["data"]} == set(mine)

            await asyncio.gather(*map(look, everybody))
            for person in everybody[:silent]:
                await person.open_tab()
            held = {"create_step": 2 * silent, "update_step": silent}
            await until_equal(lambda: held_back(server.scrape()), sum(held.values()))
            read, strayed = sum(reads.values()), sum(strays.values())
            expected |= {
                "get_user": tabs + silent + read + strayed + len(NAMES),
                "get_favorite_steps": tabs + silent,
                "get_thread_author": read + strayed,
                "get_thread": read,
                "list_threads": len(NAMES),
            }
            await until_equal(lambda: operations(server.scrape(), "ok"), expected)
            scrape, after = server.scrape(), redis.commandstats()

        done = Counter(after)
        done.subtract(before)
        assert operations(scrape, "error") == {}
        saved = expected["create_step"] + expected["update_step"]
        assert done["eval"] == saved + expected["update_thread"] + messages
        assert done["incr"] == messages
        assert done["hgetall"] == expected["get_thread"] + expected["get_favorite_steps"]
        # Each update reads the thread first; a page of threads reads each of them.
        assert done["hmget"] == expected["update_thread"] + strayed + tabs
        assert done["zrange"] == len(NAMES)
        asked = expected["get_user"] + expected["update_thread"]
        assert lookups(scrape, "users") == {"hit": asked, "miss": 0}
        assert lookups(scrape, "threads") == {"hit": read, "miss": strayed}
        sizes = "chainlit_data_layer_cache_size"
        assert scrape.value(sizes, chainlit_cache_name="threads") == tabs
        await until_equal(lambda: connections(server.scrape()), (0, connections_in_redis(redis)))
        most = server.scrape().value(
            "db_client_connection_max", db_client_connection_pool_name="redis"
        )
        assert connections_in_redis(redis) <= most == 10

        assert server.scrape().value("chat_writes_waiting") == 0

        # Everybody has left: each thread is written once more, and what was held back is dropped.
        gone = expected | {"update_thread": 2 * tabs}
        await until_equal(lambda: operations(server.scrape(), "ok"), gone)
        await until_equal(lambda: held_back(server.scrape()), 0)
        name = "chainlit_data_layer_operation"
        for operation, count in held.items():
            dropped = server.scrape().value(
                "chainlit_data_layer_discarded_total", **{name: operation}
            )
            assert dropped == count
        queued = server.scrape().value("chainlit_data_layer_queued_total", **{name: "create_step"})
        assert queued == 2 * (tabs + silent)


def held_back(scrape: Scrape) -> int:
    return int(scrape.value("chainlit_data_layer_queue_length"))


async def talk_through_an_outage(
    server: ChainlitServer, redis: Redis, observe: bool
) -> list[list[str]]:
    """Talk before, during and after an outage of Redis; returns what was answered."""
    answers: list[list[str]] = []
    async with people(server, "ada") as [ada]:
        tab = await ada.open_tab()
        answers.append((await tab.say("before")).texts)
        # They are written in an order of their own.
        for text in ("Hello. What is it about?", "before", "You said: before"):
            await ada.until_kept(tab, text)
        if observe:
            kept = Counter(steps_of(1, 1))
            await until_equal(lambda: kept - Counter(operations(server.scrape(), "ok")), Counter())
        redis.stop(abruptly=True)

        answers += [(await tab.say(text)).texts for text in ("down", "still down")]
        new_tab = await ada.open_tab()
        answers.append((await new_tab.say("new tab")).texts)
        async with people(server, "bob") as [bob]:
            answers.append((await (await bob.open_tab()).say("just signed in")).texts)
            if observe:
                lost = Counter(steps_of(0, 2)) + Counter(steps_of(2, 2))
                expected = {
                    **lost,
                    "create_user": 1,  # bob
                    "get_user": 1,  # bob, again; ada is in the cache
                    "get_favorite_steps": 1,
                    "update_thread": 2,
                }
                await until_equal(lambda: operations(server.scrape(), "error"), expected)
                assert connections(server.scrape())[0] == 0
            redis.start()
        answers.append((await tab.say("up again")).texts)
        await ada.until_kept(tab, "You said: up again")
        assert await ada.outputs(tab.thread_id) == [
            *("Hello. What is it about?", "before", "You said: before"),
            *("up again", "You said: up again"),
        ]
        await new_tab.leave(clear=True)

        async def both() -> bool:
            ids = {thread["id"] for thread in await ada.threads()}
            return ids == {tab.thread_id, new_tab.thread_id}

        # What could not be written is lost, but not the thread: it is Ada's when her tab is closed.
        await wait_until_async(both, WAIT, "the thread of the outage to be listed")
        if observe:
            assert operations(server.scrape(), "error") == expected
            used, idle = connections(server.scrape())
            # The pool keeps a broken connection until somebody needs it.
            assert used == 0
            assert connections_in_redis(redis) <= idle <= 10
    return answers


async def test_an_outage_costs_no_answer_and_every_error_is_counted() -> None:
    answers = []
    for observe in (True, False):
        disabled = str(not observe).lower()
        with (
            Redis() as redis,
            serve(redis, MESSAGE_LIMIT="100", OTEL_SDK_DISABLED=disabled) as server,
        ):
            answers.append(await talk_through_an_outage(server, redis, observe))
    observed, bare = answers
    assert observed == bare
    texts = ("before", "down", "still down", "new tab", "just signed in", "up again")
    assert observed == [[f"You said: {text}"] for text in texts]
