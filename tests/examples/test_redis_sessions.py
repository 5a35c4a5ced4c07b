"""The session store of the Redis example, on a real Redis: many writers, outages, cancellation."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as Client
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, RedisError

from examples.redis_sessions.sessions.cache import SessionCache
from examples.redis_sessions.sessions.history import Foreign, History
from examples.redis_sessions.sessions.limits import RateLimit
from examples.redis_sessions.sessions.store import (
    _WRITE,
    Change,
    Conflict,
    Deleted,
    Document,
    Exists,
    Session,
    SessionStore,
)
from examples.redis_sessions.sessions.writes import BatchWriter, Overloaded
from tests.support.redis import Redis
from tests.support.scrape import wait_until_async

SEED = 20261124


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with Redis() as server:
        yield server


def client_of(server: Redis) -> Client:
    pool = BlockingConnectionPool.from_url(
        server.url, max_connections=8, decode_responses=True, retry=Retry(NoBackoff(), 1)
    )
    return Client.from_pool(pool)


@pytest.fixture
async def redis(server: Redis) -> AsyncIterator[Client]:
    async with client_of(server) as client:
        await client.flushall()
        yield client


def add(amount: int, owner: str = "ada") -> Change:
    def change(found: Session | None) -> tuple[str, Document]:
        return owner, {"sum": (found.data["sum"] if found else 0) + amount}

    return change


def put(owner: str, text: str, _: Session | None) -> tuple[str, Document]:
    return owner, {"text": text}


async def ids_of(store: SessionStore, owner: str, after: Session | None = None) -> list[str]:
    place = (after.created, after.id) if after else None
    return [session.id async for session in store.sessions_of(owner, place)]


# -- the store ---------------------------------------------------------------------------------


async def test_no_update_is_lost_between_many_writers(server: Redis, redis: Client) -> None:
    dice = random.Random(SEED)
    sums = dict.fromkeys(("a", "b", "c"), 0)
    async with client_of(server) as other_process:
        stores = [SessionStore(client, "s", attempts=500) for client in (redis, other_process)]

        async def write(plan: list[tuple[int, str, int]]) -> None:
            for store, id, amount in plan:
                await stores[store].update(id, 1, add(amount))

        plans = []
        for _ in range(24):
            plan = [
                (dice.randrange(2), dice.choice("abc"), dice.randrange(1, 100)) for _ in range(15)
            ]
            plans.append(plan)
            for _, id, amount in plan:
                sums[id] += amount
        await asyncio.gather(*map(write, plans))
    for id, total in sums.items():
        session = await stores[0].read(id)
        assert session is not None
        assert session.data == {"sum": total}
        assert session.version == sum(id == name for plan in plans for _, name, _ in plan)


async def test_the_slower_of_two_writers_gets_an_error(redis: Client) -> None:
    store = SessionStore(redis, "s", attempts=3)
    seen = []

    def change(found: Session | None) -> tuple[str, Document]:
        seen.append(found)
        return "ada", {"n": len(seen)}

    class Busy(SessionStore):
        async def read(self, id: str) -> Session | None:
            found = await super().read(id)
            await store.update(id, 1, add(1, "bob") if found is None else add(1))
            return found

    with pytest.raises(Conflict, match="3 times"):
        await Busy(redis, "s", attempts=3).update("x", 1, change)
    assert len(seen) == 3
    session = await store.read("x")
    assert session is not None
    assert session.data == {"sum": 3}


async def test_a_write_that_comes_twice_is_one(redis: Client) -> None:
    arguments = ("s:x", "ss-of:ada", "", "my token", "x", "ada", 1, "{}", 0, "s:")
    assert [await redis.eval(_WRITE, 2, *arguments) for _ in range(2)] == [1, 1]
    session = await SessionStore(redis, "s").read("x")
    assert session is not None
    assert session.version == 1


async def test_what_is_deleted_while_it_is_changed_stays_deleted(redis: Client) -> None:
    store = SessionStore(redis, "s")
    first = await store.create("x", "ada", 1, {"sum": 1})

    class Slow(SessionStore):
        async def read(self, id: str) -> Session | None:
            found = await super().read(id)
            await store.delete(first)
            return found

    with pytest.raises(Deleted):
        await Slow(redis, "s").update("x", 1, add(1))
    assert await store.read("x") is None
    assert await redis.ttl("s:x") > 0


async def test_what_changes_nothing_is_not_written(server: Redis, redis: Client) -> None:
    store = SessionStore(redis, "s")
    await store.create("x", "ada", 1, {"n": 1})
    before = server.commandstats()["eval"]
    same = await store.update("x", 1, lambda found: ("ada", {"n": 1}))
    assert (same.version, server.commandstats()["eval"]) == (1, before)


async def test_a_change_that_raises_leaves_the_session_alone(redis: Client) -> None:
    store = SessionStore(redis, "s")
    before = await store.create("x", "ada", 1, {"n": 1})
    mine = PermissionError("not yours")

    def change(found: Session | None) -> tuple[str, Document]:
        raise mine

    with pytest.raises(PermissionError) as caught:
        await store.update("x", 1, change)
    assert caught.value is mine
    assert await store.read("x") == before


IDS = st.sampled_from("abcd")
OWNERS = st.sampled_from(["", "ada", "bob"])
STEPS = st.one_of(
    st.tuples(st.just("create"), IDS, OWNERS, st.integers(0, 3), st.text(max_size=5)),
    st.tuples(st.just("update"), IDS, OWNERS, st.integers(0, 3), st.text(max_size=5)),
    st.tuples(st.just("delete"), IDS, OWNERS, st.just(0), st.just("")),
)


@settings(max_examples=60)
@given(steps=st.lists(STEPS, max_size=12))
def test_it_is_a_dictionary(server: Redis, steps: list[tuple[str, str, str, int, str]]) -> None:
    """An owner is for life here, as in the app: nothing moves a session between the lists."""

    async def run() -> None:
        async with client_of(server) as client:
            await client.flushall()
            store = SessionStore(client, "s")
            model: dict[str, tuple[str, int, str]] = {}
            deleted: set[str] = set()
            for action, id, owner, created, text in steps:
                found = await store.read(id)
                assert (found is None) == (id not in model)
                if action == "delete":
                    if found is not None:
                        await store.delete(found)
                        del model[id]
                        deleted.add(id)
                elif id in deleted:
                    with pytest.raises(Deleted):
                        await store.update(id, created, partial(put, owner, text))
                    with pytest.raises(Deleted):
                        await store.create(id, owner, created, {"text": text})
                elif action == "create":
                    if id in model:
                        with pytest.raises(Exists):
                            await store.create(id, owner, created, {"text": text})
                    else:
                        await store.create(id, owner, created, {"text": text})
                        model[id] = (owner, created, text)
                else:
                    owner, created, _ = model.get(id, (owner, created, ""))
                    await store.update(id, created, partial(put, owner, text))
                    model[id] = (owner, created, text)
            for owner in ("ada", "bob"):
                expected = sorted(
                    ((at, id) for id, (whose, at, _) in model.items() if whose == owner),
                    reverse=True,
                )
                assert await ids_of(store, owner) == [id for _, id in expected]
            for id, (owner, created, text) in model.items():
                session = await store.read(id)
                assert session is not None
                assert (session.owner, session.created) == (owner, created)
                assert session.data == {"text": text}

    asyncio.run(run())


async def test_pages_neither_skip_nor_repeat_what_comes_and_goes(redis: Client) -> None:
    store, dice = SessionStore(redis, "s"), random.Random(SEED)
    made = [
        await store.create(f"{number:03}", "ada", 1000 + dice.randrange(40), {})
        for number in range(130)
    ]
    order = sorted(made, key=lambda session: (session.created, session.id), reverse=True)
    read: list[str] = []
    after: Session | None = None
    for turn in range(13):
        page: list[Session] = []
        place = (after.created, after.id) if after else None
        async for session in store.sessions_of("ada", place):
            page.append(session)
            if len(page) == 10:
                break
        read += [session.id for session in page]
        after = page[-1]
        await store.create(f"new {turn}", "ada", 5000 + turn, {})
        await store.delete(order[turn])  # seen already, but for the cursor it makes no difference
    assert read == [session.id for session in order]


@pytest.mark.parametrize("moments", [1, 130])
async def test_going_through_all_sees_each_once(redis: Client, moments: int) -> None:
    store = SessionStore(redis, "s")
    for number in range(130):
        await store.create(f"{number:03}", "ada", 1000 + number % moments, {})
    seen: list[str] = []
    async for session in store.sessions_of("ada"):
        seen.append(session.id)
        await store.delete(session)
        await store.create(f"new {session.id}", "ada", 5000, {})
    assert seen == [f"{number:03}" for number in reversed(range(130))]


async def test_what_nobody_writes_to_expires_with_its_entry(redis: Client) -> None:
    store = SessionStore(redis, "s", ttl=0.05)
    lasting = SessionStore(redis, "s", ttl=60)
    await store.create("old", "ada", 1, {})
    await lasting.create("x", "ada", 2, {})

    async def gone() -> bool:
        return await store.read("old") is None

    await wait_until_async(gone, 60, "the session to expire")
    assert await ids_of(store, "ada") == ["x"]
    await lasting.create("y", "ada", 3, {})
    assert await redis.zrange("ss-of:ada", 0, -1) == ["x", "y"]


# -- the history -------------------------------------------------------------------------------


@pytest.fixture
async def history(redis: Client) -> AsyncIterator[History]:
    store, writer = SessionStore(redis, "s"), BatchWriter(redis)
    await store.create("x", "ada", 1, {})
    await store.create("z", "bob", 1, {})
    yield History(redis, store, writer)
    await writer.close()


async def said(history: History, kind: str = "step") -> dict[str, Document]:
    found = await history.read("x")
    assert found is not None
    return found[1][kind]


async def test_a_new_step_does_not_undo_a_change_that_overtook_it(history: History) -> None:
    await history.save_step("x", "ada", {"id": "1", "output": "done"}, replace=True)
    await history.save_step("x", "ada", {"id": "1", "output": ""}, replace=False)
    assert await said(history) == {"1": {"id": "1", "output": "done"}}


async def test_steps_are_written_in_the_order_of_the_calls(history: History) -> None:
    saves = [
        history.save_step("x", "ada", {"id": "1", "output": str(number)}, replace=True)
        for number in range(300)
    ]
    await asyncio.gather(*saves)
    assert (await said(history))["1"]["output"] == "299"


async def test_nobody_writes_to_what_is_another_users(history: History) -> None:
    await history.save_step("x", "ada", {"id": "1", "output": "mine"}, replace=True)
    attempts = [
        history.save_step("x", "bob", {"id": "2"}, replace=True),
        # The id of a step comes from the browser: not even by way of one's own session.
        history.save_step("z", "bob", {"id": "1", "output": "stolen"}, replace=True),
        history.delete_step("1", "bob"),
        history.save("x", "bob", "feedback", "1", {"value": 0}),
        history.save("x", "bob", "element", "1", {}),
    ]
    for attempt in attempts:
        with pytest.raises(Foreign):
            await attempt
    assert await said(history) == {"1": {"id": "1", "output": "mine"}}
    assert await history.session_of("1") == "x"


async def test_favourites_feedback_and_elements(history: History) -> None:
    step = {"id": "1", "createdAt": "2", "metadata": {"favorite": True}}
    older = {"id": "2", "createdAt": "1", "metadata": {"favorite": True}}
    for document in (step, older):
        await history.save_step("x", "ada", document, replace=True)
    assert await history.favorites_of("ada") == [older, step]
    await history.save_step("x", "ada", {**older, "metadata": {}}, replace=True)
    assert await history.favorites_of("ada") == [step]
    await history.save("x", "ada", "feedback", "1", {"value": 1})
    await history.save("x", "ada", "element", "e", {"name": "picture"})
    assert await history.read_one("x", "element", "e") == {"name": "picture"}
    await history.delete_step("1", "ada")
    assert await history.favorites_of("ada") == []
    assert (await said(history, "feedback"), await history.session_of("1")) == ({}, None)
    await history.save("x", "ada", "element", "e", None)
    assert await said(history, "element") == {}


async def test_a_deleted_session_leaves_nothing_behind(redis: Client, history: History) -> None:
    await history.save_step("x", "ada", {"id": "1", "metadata": {"favorite": 1}}, replace=True)
    found = await history.read("x")
    assert found is not None
    await history.delete(found[0])
    for late in (
        history.save_step("x", "ada", {"id": "2"}, replace=False),
        history.save("x", "ada", "feedback", "1", {"value": 1}),
    ):
        with pytest.raises(Deleted):
            await late
    assert set(await redis.keys("*")) == {"s:x", "s:z", "ss-of:bob"}
    assert await redis.hgetall("s:x") == {"deleted": "1"}


# -- writes in batches -------------------------------------------------------------------------

APPEND = "return redis.call('RPUSH', KEYS[1], ARGV[1])"


async def test_many_writes_are_few_round_trips_and_keep_their_order(redis: Client) -> None:
    writer = BatchWriter(redis, at_once=100, waiting=1000)
    numbers = await asyncio.gather(*(writer.run(APPEND, ["l"], n) for n in range(500)))
    assert numbers == list(range(1, 501))
    assert await redis.lrange("l", 0, -1) == [str(n) for n in range(500)]
    assert writer.batches == 5
    await writer.close()


async def test_a_write_too_many_is_refused_at_once(redis: Client) -> None:
    writer = BatchWriter(redis, waiting=3)
    results = await asyncio.gather(
        *(writer.run(APPEND, ["l"], n) for n in range(5)), return_exceptions=True
    )
    assert results[:3] == [1, 2, 3]
    assert [type(result) for result in results[3:]] == [Overloaded, Overloaded]
    await writer.close()


async def test_one_bad_write_fails_alone(redis: Client) -> None:
    writer = BatchWriter(redis)
    results: list[object] = await asyncio.gather(
        writer.run(APPEND, ["l"], "a"),
        writer.run("return redis.call('NONSENSE')", ["l"]),
        writer.run(APPEND, ["l"], "b"),
        return_exceptions=True,
    )
    assert results[::2] == [1, 2]
    assert isinstance(results[1], RedisError)
    await writer.close()


async def test_a_caller_that_is_cancelled_takes_nobody_along(redis: Client) -> None:
    writer = BatchWriter(redis)
    tasks = [asyncio.create_task(writer.run(APPEND, ["l"], n)) for n in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results[::2])
    assert all(isinstance(result, int) for result in results[1::2])
    await writer.close()


async def test_closing_waits_for_the_writes_that_came(redis: Client) -> None:
    writer = BatchWriter(redis, at_once=10)
    tasks = [asyncio.create_task(writer.run(APPEND, ["l"], n)) for n in range(55)]
    await asyncio.sleep(0)
    await writer.close()
    assert await redis.llen("l") == 55
    await asyncio.gather(*tasks)
    with pytest.raises(RedisError, match="closed"):
        await writer.run(APPEND, ["l"], "late")


async def test_an_outage_is_an_error_for_every_caller_and_then_over() -> None:
    with Redis() as server:
        async with client_of(server) as client:
            writer, limit = BatchWriter(client), RateLimit(client, "m", times=1, window=60)
            assert await writer.run(APPEND, ["l"], "before") == 1
            server.stop(abruptly=True)
            results = await asyncio.gather(
                *(writer.run(APPEND, ["l"], n) for n in range(50)), return_exceptions=True
            )
            assert [type(result) for result in results] == [ConnectionError] * 50
            with pytest.raises(ConnectionError):
                await limit.take("ada")
            server.start()
            assert await writer.run(APPEND, ["l"], "after") == 2
            assert await client.lrange("l", 0, -1) == ["before", "after"]
            await writer.close()


# -- limits and the cache ----------------------------------------------------------------------


async def test_a_limit_holds_for_all_at_once(redis: Client) -> None:
    limit = RateLimit(redis, "m", times=7, window=60)
    waits = await asyncio.gather(*(limit.take("ada") for _ in range(50)))
    assert sum(wait == 0 for wait in waits) == 7
    assert all(0 < wait <= 60 for wait in waits if wait)
    assert await limit.take("bob") == 0


async def test_a_limit_ends(redis: Client) -> None:
    limit = RateLimit(redis, "m", times=1, window=0.3)
    assert await limit.take("ada") == 0
    assert 0 < await limit.take("ada") <= 0.3

    async def again() -> bool:
        return await limit.take("ada") == 0

    await wait_until_async(again, 60, "the window to end")


def test_the_cache_keeps_the_newest_version_and_counts() -> None:
    def version(number: int, id: str = "x") -> Session:
        return Session(id, number, str(number), "ada", 1, {})

    cache = SessionCache(2, 60)
    assert cache.look_up("x") is None
    cache.keep(version(2))
    cache.keep(version(1))
    assert cache.look_up("x") == version(2)
    cache.keep(version(3))
    assert cache.look_up("x") == version(3)
    cache.keep(version(1, "y"))
    assert cache.look_up("x") is not None
    cache.keep(version(1, "z"))
    assert cache.look_up("y") is None
    assert (cache.hits, cache.misses, len(cache)) == (3, 2, 2)
    cache.drop("x")
    assert cache.look_up("x") is None
