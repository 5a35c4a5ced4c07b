"""Connection pools, read from the state of their libraries, none of which is imported here.

A pool that is an attribute of the data layer is found without a call of the app, and is looked for
again at each reading: asyncpg's pool of `ChainlitDataLayer` is made at the first query and replaced
when the connection breaks. Pools and layers are held weakly, and no query is sent to a database.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from chainlit_otel import catalog
from chainlit_otel.core.identities import WeakIdentitySet
from chainlit_otel.core.labels import BoundedLabel
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.resources.readings import Poller, SharedReading

_NAMES = 32
_UNLIMITED = 2**31  # the limit of redis-py for a pool without one


class PoolStats(NamedTuple):
    """The connections of a pool.

    Attributes:
        used: Those in use.
        idle: Those that are open and not in use.
        most: How many there can be; None if there is no limit.
    """

    used: int
    idle: int
    most: int | None


class _WatchedPool:
    """A pool, or what gives one, and its figures at the last reading."""

    def __init__(self, name: str, label: str, get: Callable[[], Any]) -> None:
        self.name = name
        self.label = label
        self.busy = False
        self.pool: Any = None
        self.stats: PoolStats | None = None
        self._get = get

    def forget(self) -> None:
        self.pool = self.stats = None

    def update(self) -> None:
        self.forget()
        pool = _pool_of(self._get())
        if pool is not None:
            self.stats = _STATS[_library(pool)](pool)
            self.pool = pool


class Pools:
    """The pools that the app has named, and those of its data layers."""

    def __init__(self) -> None:
        self.names = BoundedLabel(_NAMES)
        self._named: dict[str, _WatchedPool] = {}
        self._layers = WeakIdentitySet()
        self._found: dict[str, str] = {}
        self._poller = Poller()
        self._stats: list[tuple[str, PoolStats]] = []

    def watch(self, name: str, pool: Any) -> None:
        """Watch a pool; the same name again replaces it by another one.

        Args:
            name: Its name in the metrics.
            pool: The pool, or what has one, or a function that returns either.

        Raises:
            TypeError: It is nothing of that kind.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"watch_pool({name!r}, …): the name must be a string")
        if _pool_of(pool) is not None:
            get = _reference(pool)
        elif callable(pool):
            get = pool
        else:
            raise TypeError(
                f"watch_pool({name!r}, {type(pool).__name__}): must be a pool, an engine or a "
                "client of SQLAlchemy, asyncpg, redis or PyMongo, or a function that returns one"
            )
        self.names.add([name])
        self._named[name] = _WatchedPool(f"watch_pool({name!r}, …)", self.names(name), get)

    def found(self, layer: Any) -> None:
        """Look for pools on a data layer."""
        self._layers.add(layer)

    def read(self, guard: Guard) -> None:
        """Read the figures of all pools.

        Args:
            guard: Holds what goes wrong with one of them; the others are read all the same.
        """
        resources = list(self._named.values())
        for one in resources:
            # A pool that times out has no figures, not those of the last reading.
            one.forget()
        self._poller.poll(resources, guard)
        counted: list[Any] = []
        stats: list[tuple[str, PoolStats]] = []
        # Each pool once, by the name that the app gave it, if it did.
        for one in [*resources, *self._on_layers()]:
            with guard:
                if one not in resources:
                    one.update()
                if one.stats is not None and not any(one.pool is other for other in counted):
                    counted.append(one.pool)
                    stats.append((one.label, one.stats))
            one.pool = None
        self._stats = stats

    def renew(self) -> None:
        """Reset, in a forked child: a call that was under way in the parent never returns here."""
        for one in self._named.values():
            one.busy = False

    def connections(self) -> dict[tuple[str, ...], int]:
        """Return the connections at the last reading, by pool and state."""
        counts: dict[tuple[str, ...], int] = {}
        for name, stats in self._stats:
            for state, number in (("idle", stats.idle), ("used", stats.used)):
                counts[name, state] = counts.get((name, state), 0) + number
        return counts

    def limits(self) -> dict[tuple[str, ...], int]:
        """Return how many connections there could be at the last reading, by pool."""
        limits: dict[tuple[str, ...], int] = {}
        for name, stats in self._stats:
            if stats.most is not None:
                limits[(name,)] = limits.get((name,), 0) + stats.most
        return limits

    def _on_layers(self) -> Iterator[_WatchedPool]:
        for layer in self._layers:
            for attribute, value in list(vars(layer).items()):
                if _pool_of(value) is not None:
                    name = self._name_of(f"{type(layer).__name__}.{attribute}")
                    yield _WatchedPool(name, name, functools.partial(_same, value))

    def _name_of(self, name: str) -> str:
        if name not in self._found:
            self.names.add([name])
            self._found[name] = self.names(name)
        return self._found[name]


class _UntilClosed:
    """A reference to a pool that cannot be referenced weakly, as those of asyncpg."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def __call__(self) -> Any:
        if self._pool is not None and self._pool.is_closing():
            self._pool = None
        return self._pool


def _reference(pool: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(pool)
    except TypeError:
        return _UntilClosed(pool)


def _library(thing: Any) -> str:
    """Return the library whose class an object is of, or whose class it inherits from."""
    for kind in type(thing).__mro__:
        library = kind.__module__.partition(".")[0]
        if library in _STATS:
            return library
    return ""


def _pool_of(thing: Any) -> Any:
    """Return the pool itself of what has one; None if it has none."""
    library = _library(thing)
    if library == "sqlalchemy":
        thing = getattr(thing, "sync_engine", thing)
        thing = getattr(thing, "pool", thing)
        return thing if hasattr(thing, "checkedout") else None
    if library == "asyncpg":
        return thing if hasattr(thing, "get_idle_size") else None
    if library == "redis":
        thing = getattr(thing, "connection_pool", thing)
        return thing if hasattr(thing, "max_connections") else None
    if library == "pymongo":
        return thing if "_topology" in vars(thing) else None
    return None


def _sqlalchemy(pool: Any) -> PoolStats:
    overflow = pool._max_overflow
    most = pool.size() + overflow if overflow >= 0 else None
    return PoolStats(pool.checkedout(), pool.checkedin(), most)


def _asyncpg(pool: Any) -> PoolStats | None:
    if pool.is_closing():
        return None
    idle = pool.get_idle_size()
    return PoolStats(pool.get_size() - idle, idle, pool.get_max_size())


def _redis(pool: Any) -> PoolStats:
    most = pool.max_connections if pool.max_connections < _UNLIMITED else None
    if hasattr(pool, "_in_use_connections"):
        return PoolStats(len(pool._in_use_connections), len(pool._available_connections), most)
    # The blocking pool that is not asynchronous has empty places in a queue.
    idle = sum(connection is not None for connection in list(pool.pool.queue))
    return PoolStats(len(pool._connections) - idle, idle, most)


def _pymongo(client: Any) -> PoolStats | None:
    topology = client._topology
    if topology is None:
        return None
    # One pool for each server of a cluster.
    pools = [server.pool for server in list(topology._servers.values())]
    limits = [pool.opts.max_pool_size for pool in pools]
    return PoolStats(
        sum(pool.active_sockets for pool in pools),
        sum(len(pool.conns) for pool in pools),
        sum(limits) if limits and all(limits) else None,
    )


_STATS: dict[str, Callable[[Any], PoolStats | None]] = {
    "sqlalchemy": _sqlalchemy,
    "asyncpg": _asyncpg,
    "redis": _redis,
    "pymongo": _pymongo,
}


def _same(pool: Any) -> Any:
    return pool


def register_observables(telemetry: Telemetry, guard: Guard, pools: Pools) -> None:
    """Register the metrics of the pools."""
    reading = SharedReading(telemetry, guard, functools.partial(pools.read, guard))
    reading.register_observable(catalog.POOL_CONNECTIONS, pools.connections)
    reading.register_observable(catalog.POOL_MAX, pools.limits)
