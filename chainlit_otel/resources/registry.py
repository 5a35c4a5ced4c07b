"""The pools and caches that the app has named; it may name them before `enable()`."""

from __future__ import annotations

from typing import Any

from chainlit_otel.resources.caches import Caches
from chainlit_otel.resources.pools import Pools

pools = Pools()
caches = Caches()


def watch_pool(name: str, pool: Any) -> None:
    """Have the connections of a pool in the metrics, as `db.client.connection.*`.

    Pools that are attributes of the data layer are found without it. The pool is not kept alive,
    but for one of asyncpg, which is until it is closed. It may be called before `enable()` or
    after it; the same name again replaces it by another pool. A function is called once a reading,
    in a thread of its own; if it takes longer than a second, the pool is left out until it returns.

    Args:
        name: Name of the pool in the metrics. The first 32 names count, others are `other`.
        pool: A pool or an engine of SQLAlchemy, a pool of asyncpg, a pool or a client of redis, a
            client of PyMongo; or a function without arguments that returns one, for a pool that
            is made later or replaced. It may return None meanwhile.

    Raises:
        TypeError: The name is no string, or the pool none of these.
    """
    pools.watch(name, pool)


def watch_cache(name: str, cache: Any) -> None:
    """Have the hits and misses of a cache in the metrics.

    The cache is not kept alive, unless its class has slots and none for weak references. It may
    be called before `enable()` or after it; the same name again replaces it by another cache, and
    the counts go on. So they do when a cache is cleared. It is read once a reading, in a thread of
    its own; while that takes longer than a second, its counts stay as they are.

    Args:
        name: Name of the cache in the metrics. The first 32 names count, others are `other`.
        cache: What has `cache_info()`, such as a function with `functools.lru_cache` or
            `cachetools.cached(…, info=True)`; what has `hits` and `misses`, and perhaps
            `evictions` and a length; or a pair of functions that return the hits and the misses.

    Raises:
        TypeError: The name is no string, or the cache none of these.
    """
    caches.watch(name, cache)
