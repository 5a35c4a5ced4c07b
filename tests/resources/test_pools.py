"""Pools of the real libraries, on SQLite here; on real servers in the tests of the examples."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import asyncpg
import pytest
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import ServerSelectionTimeoutError
from redis import BlockingConnectionPool as SyncBlockingPool
from redis import ConnectionPool as SyncPool
from redis import asyncio as redis
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool

from chainlit_otel.guard import Guard
from chainlit_otel.resources.pools import Pools
from tests.conftest import InternalErrors


@pytest.fixture
def guard() -> Guard:
    return Guard("pools")


@pytest.fixture
def pools() -> Pools:
    return Pools()


@pytest.fixture
def engine() -> Iterator[AsyncEngine]:
    engine = create_async_engine(
        "sqlite+aiosqlite:///:memory:",
        poolclass=AsyncAdaptedQueuePool,
        pool_size=3,
        max_overflow=2,
    )
    yield engine
    asyncio.run(engine.dispose())


class Layer:
    """A data layer, as far as pools are concerned."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


def connections(pools: Pools, guard: Guard) -> dict[tuple[str, ...], int]:
    pools.read(guard)
    return pools.connections()


def limits_of(pools: Pools, guard: Guard) -> dict[tuple[str, ...], int]:
    pools.read(guard)
    return pools.limits()


def shown(pools: Pools, guard: Guard, name: str) -> tuple[int | None, int | None, int | None]:
    """Used, idle and most."""
    pools.read(guard)
    counts, limits = pools.connections(), pools.limits()
    return counts.get((name, "used")), counts.get((name, "idle")), limits.get((name,))


async def test_an_engine_that_is_used_up_shows_all_its_connections(
    pools: Pools, guard: Guard, engine: AsyncEngine
) -> None:
    pools.watch("db", engine)
    assert shown(pools, guard, "db") == (0, 0, 5)
    held = [await engine.connect() for _ in range(5)]
    assert shown(pools, guard, "db") == (5, 0, 5)
    for connection in held:
        await connection.execute(text("select 1"))
        await connection.close()
    # Beyond its size a pool closes what it gets back.
    assert shown(pools, guard, "db") == (0, 3, 5)


def test_of_sqlalchemy_everything_that_has_a_pool_can_be_named(pools: Pools, guard: Guard) -> None:
    engine = create_engine("sqlite://", poolclass=QueuePool, max_overflow=-1)
    pools.watch("engine", engine)
    assert shown(pools, guard, "engine") == (0, 0, None)
    bare = Pools()
    bare.watch("pool", engine.pool)
    with engine.connect():
        assert shown(bare, guard, "pool") == (1, 0, None)
    engine.dispose()
    with pytest.raises(TypeError, match="must be a pool"):
        pools.watch("none", create_engine("sqlite://", poolclass=NullPool))


async def test_a_pool_of_asyncpg_is_held_until_it_is_closed(pools: Pools, guard: Guard) -> None:
    pool = await asyncpg.create_pool("postgresql://127.0.0.1:1/none", min_size=0, max_size=6)
    pools.watch("db", pool)
    assert shown(pools, guard, "db") == (0, 0, 6)
    await pool.close()
    holders = len(gc.get_referrers(pool))
    assert shown(pools, guard, "db") == (None, None, None)
    assert len(gc.get_referrers(pool)) == holders - 1


async def test_pools_of_redis(pools: Pools, guard: Guard) -> None:
    client = redis.Redis(connection_pool=redis.BlockingConnectionPool(max_connections=7))
    pools.watch("client", client)
    assert shown(pools, guard, "client") == (0, 0, 7)
    unlimited = redis.ConnectionPool(max_connections=2**31)
    pools.watch("unlimited", unlimited)
    assert shown(pools, guard, "unlimited") == (0, 0, None)
    blocking = SyncBlockingPool(max_connections=4)  # type: ignore[no-untyped-call]
    pools.watch("sync", blocking)
    assert shown(pools, guard, "sync") == (0, 0, 4)
    await client.aclose()


async def test_clients_of_mongodb(pools: Pools, guard: Guard) -> None:
    client: MongoClient[Any] = MongoClient("mongodb://127.0.0.1:1,127.0.0.1:2", connect=False)
    pools.watch("sync", client)
    aclient: AsyncMongoClient[Any] = AsyncMongoClient(
        "mongodb://127.0.0.1:1", connect=False, maxPoolSize=9
    )
    pools.watch("async", aclient)
    assert shown(pools, guard, "async")[2] in (9, None)
    assert guard.errors == 0
    client.close()
    await aclient.close()


def test_a_pool_on_a_data_layer_is_found_and_followed_when_it_is_replaced(
    pools: Pools, guard: Guard, engine: AsyncEngine
) -> None:
    layer: Any = Layer(pool=None, url="postgresql://secret", other=3)
    pools.found(layer)
    assert connections(pools, guard) == {}
    layer.pool = engine
    assert shown(pools, guard, "Layer.pool") == (0, 0, 5)
    layer.pool = create_engine("sqlite://", poolclass=QueuePool, pool_size=8, max_overflow=0)
    assert shown(pools, guard, "Layer.pool") == (0, 0, 8)


def test_a_pool_counts_once_and_by_the_name_it_was_given(
    pools: Pools, guard: Guard, engine: AsyncEngine
) -> None:
    layers = [Layer(engine=engine), Layer(engine=engine)]
    for layer in layers:
        pools.found(layer)
    pools.watch("db", engine.sync_engine)
    assert limits_of(pools, guard) == {("db",): 5}


def test_a_function_may_return_a_pool_that_is_made_later(
    pools: Pools, guard: Guard, engine: AsyncEngine
) -> None:
    made: list[AsyncEngine] = []
    pools.watch("later", lambda: made[0] if made else None)
    assert connections(pools, guard) == {}
    made.append(engine)
    assert shown(pools, guard, "later") == (0, 0, 5)


def test_one_that_fails_takes_no_other_with_it(
    pools: Pools,
    guard: Guard,
    engine: AsyncEngine,
    expected_internal_errors: InternalErrors,
) -> None:
    def broken() -> None:
        raise RuntimeError("of the app")

    pools.watch("broken", broken)
    pools.watch("db", engine)
    assert shown(pools, guard, "db") == (0, 0, 5)
    assert guard.errors == len(expected_internal_errors) == 1


def test_a_pool_is_not_kept_alive(pools: Pools, guard: Guard) -> None:
    engine = create_engine("sqlite://", poolclass=QueuePool)
    layer = Layer(engine=engine)
    pools.watch("db", engine)
    pools.found(layer)
    assert limits_of(pools, guard)
    gone = weakref.ref(engine)
    del engine, layer
    gc.collect()
    assert gone() is None
    assert connections(pools, guard) == {}


def test_names_are_few_and_what_is_beyond_is_added_up(pools: Pools, guard: Guard) -> None:
    engines = [create_engine("sqlite://", poolclass=QueuePool, max_overflow=0) for _ in range(34)]
    for n, engine in enumerate(engines):
        pools.watch(f"db{n}", engine)
    limits = limits_of(pools, guard)
    assert len(limits) == 33
    assert limits[("other",)] == 10
    assert pools.names.overflowed == 2


@pytest.mark.parametrize(("name", "pool"), [("db", 3), ("db", None), ("", print), (7, print)])
def test_what_is_no_pool_is_refused_in_one_line(pools: Pools, name: Any, pool: Any) -> None:
    with pytest.raises(TypeError, match=r"^watch_pool\(.*$"):
        pools.watch(name, pool)


class Busy(asyncpg.Pool):  # type: ignore[misc]  # asyncpg has no types
    """A pool some of whose connections are used, with no server behind it."""

    def __init__(self) -> None:
        """Connect to nothing."""

    def is_closing(self) -> bool:
        return False

    def get_size(self) -> int:
        return 7

    def get_idle_size(self) -> int:
        return 2

    def get_max_size(self) -> int:
        return 9


def test_a_pool_of_asyncpg_tells_its_used_connections_from_the_idle(
    pools: Pools, guard: Guard
) -> None:
    pool = Busy()
    pools.watch("db", pool)
    assert shown(pools, guard, "db") == (5, 2, 9)


def test_a_client_of_mongodb_tells_its_used_connections_from_the_idle(
    pools: Pools, guard: Guard
) -> None:
    client: MongoClient[Any]
    with MongoClient("mongodb://127.0.0.1:1", maxPoolSize=9, serverSelectionTimeoutMS=1) as client:
        with pytest.raises(ServerSelectionTimeoutError):
            client.admin.command("ping")
        (server,) = client._topology._servers.values()
        # It empties the pool of a server that it cannot reach, again and again.
        server._monitor.close()
        server._monitor._executor.join()
        # Those that are in use are not in it, and no server is there to give any.
        server.pool.active_sockets = 3
        server.pool.conns.extend([Mock(), Mock()])
        pools.watch("db", client)
        assert shown(pools, guard, "db") == (3, 2, 9)


def test_pools_of_redis_tell_their_used_connections_from_the_idle(
    pools: Pools, guard: Guard
) -> None:
    # Connections connect when they are first used, so there is no server behind them.
    pool = SyncPool(max_connections=9)
    given = [pool.make_connection() for _ in range(5)]
    pool._in_use_connections.update(given[:3])
    pool._available_connections.extend(given[3:])
    pools.watch("sync", pool)
    assert shown(pools, guard, "sync") == (3, 2, 9)
    blocking = SyncBlockingPool(max_connections=4)  # type: ignore[no-untyped-call]
    idle, *_ = [blocking.make_connection() for _ in range(3)]  # type: ignore[no-untyped-call]
    blocking.pool.get_nowait()
    blocking.pool.put_nowait(idle)
    pools.watch("blocking", blocking)
    assert shown(pools, guard, "blocking") == (2, 1, 4)
