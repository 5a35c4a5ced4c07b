"""Caches that count their hits and misses, read at each collection.

Evictions are shown only if the cache counts them itself. They are not the misses less the entries:
a cache that was cleared, or missed the same key twice, has other figures.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from chainlit_otel import catalog
from chainlit_otel.core.counters import ResettableCounter
from chainlit_otel.core.labels import BoundedLabel
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.resources.readings import Poller, SharedReading

_NAMES = 32


class CacheStats(NamedTuple):
    """The figures of a cache.

    Attributes:
        hits: Lookups that it could answer.
        misses: Lookups that it could not answer.
        size: Entries; None if it is not known.
        evictions: Entries dropped to make room or for their age; None if it is not known.
    """

    hits: int
    misses: int
    size: int | None = None
    evictions: int | None = None


class _WatchedCache:
    """A cache, and its counts so far, over all caches that had its name."""

    def __init__(self, name: str, label: str) -> None:
        self.name = name
        self.label = label
        self.busy = False
        self.read: Callable[[], CacheStats | None] = lambda: None
        self.hits, self.misses, self.evictions = (
            ResettableCounter(),
            ResettableCounter(),
            ResettableCounter(),
        )
        self.size: int | None = None
        self.evicts = False

    @property
    def counters(self) -> tuple[ResettableCounter, ResettableCounter, ResettableCounter]:
        return self.hits, self.misses, self.evictions

    def update(self) -> None:
        stats = self.read()
        self.size = None if stats is None else stats.size
        if stats is not None:
            self.hits.update(stats.hits)
            self.misses.update(stats.misses)
            if stats.evictions is not None:
                self.evicts = True
                self.evictions.update(stats.evictions)


class Caches:
    """The caches that the app has named."""

    def __init__(self) -> None:
        self.names = BoundedLabel(_NAMES)
        self._watched: dict[str, _WatchedCache] = {}
        self._poller = Poller()

    def watch(self, name: str, cache: Any) -> None:
        """Watch a cache; the same name again replaces it by another one, and the counts go on.

        Args:
            name: Its name in the metrics.
            cache: What has `cache_info()`, or `hits` and `misses`; or a pair of functions that
                return the hits and the misses so far.

        Raises:
            TypeError: It is nothing of that kind.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"watch_cache({name!r}, …): the name must be a string")
        read = _reader(cache)
        if read is None:
            raise TypeError(
                f"watch_cache({name!r}, {type(cache).__name__}): must have cache_info(), or hits "
                "and misses, or be a pair of functions that return these"
            )
        watched = self._watched.get(name)
        if watched is None:
            self.names.add([name])
            watched = _WatchedCache(f"watch_cache({name!r}, …)", self.names(name))
            self._watched[name] = watched
        else:
            # The last counts of the cache that had this name.
            self._poller.poll([watched], suppress(Exception))
        watched.read = read
        for counter in watched.counters:
            counter.rebase()

    def read(self, guard: Guard) -> None:
        """Read the figures of all caches.

        Args:
            guard: Holds what goes wrong with one of them; the others are read all the same.
        """
        self._poller.poll(list(self._watched.values()), guard)

    def renew(self, guard: Guard) -> None:
        """Reset, in a forked child: what caches have counted so far belongs to the parent."""
        watched = list(self._watched.values())
        for one in watched:
            one.busy = False
        self._poller.poll(watched, guard)
        for one in watched:
            for counter in one.counters:
                counter.total = 0

    def lookups(self) -> dict[tuple[str, ...], int]:
        """Return the lookups up to the last reading, by cache and result."""
        counts: dict[tuple[str, ...], int] = {}
        for one in list(self._watched.values()):
            for result, counter in (("hit", one.hits), ("miss", one.misses)):
                counts[one.label, result] = counts.get((one.label, result), 0) + counter.total
        return counts

    def sizes(self) -> dict[tuple[str, ...], int]:
        """Return the entries at the last reading, by cache."""
        sizes: dict[tuple[str, ...], int] = {}
        for one in list(self._watched.values()):
            if one.size is not None:
                sizes[(one.label,)] = sizes.get((one.label,), 0) + one.size
        return sizes

    def evictions(self) -> dict[tuple[str, ...], int]:
        """Return the entries dropped up to the last reading, by cache."""
        counts: dict[tuple[str, ...], int] = {}
        for one in list(self._watched.values()):
            if one.evicts:
                counts[(one.label,)] = counts.get((one.label,), 0) + one.evictions.total
        return counts


def _reader(cache: Any) -> Callable[[], CacheStats | None] | None:
    if isinstance(cache, tuple) and len(cache) == 2 and all(map(callable, cache)):
        hits, misses = cache
        return lambda: CacheStats(hits(), misses())
    if callable(getattr(cache, "cache_info", None)):
        return _weakly(cache, _from_info)
    if hasattr(cache, "hits") and hasattr(cache, "misses"):
        return _weakly(cache, _from_attributes)
    return None


def _weakly(cache: Any, describe: Callable[[Any], CacheStats]) -> Callable[[], CacheStats | None]:
    get: Callable[[], Any]
    try:
        get = weakref.ref(cache)
    except TypeError:
        # Its class has slots, and no `__weakref__`.
        def get() -> Any:
            return cache

    def read() -> CacheStats | None:
        alive = get()
        return None if alive is None else describe(alive)

    return read


def _from_info(cache: Any) -> CacheStats:
    info = cache.cache_info()
    return CacheStats(info.hits, info.misses, getattr(info, "currsize", None))


def _from_attributes(cache: Any) -> CacheStats:
    size = len(cache) if hasattr(cache, "__len__") else None
    return CacheStats(cache.hits, cache.misses, size, getattr(cache, "evictions", None))


def register_observables(telemetry: Telemetry, guard: Guard, caches: Caches) -> None:
    """Register the metrics of the caches."""
    reading = SharedReading(telemetry, guard, functools.partial(caches.read, guard))
    reading.register_observable(catalog.CACHE_LOOKUPS, caches.lookups)
    reading.register_observable(catalog.CACHE_SIZE, caches.sizes)
    reading.register_observable(catalog.CACHE_EVICTIONS, caches.evictions)
