"""Caches of the real libraries, and of an app's own."""

from __future__ import annotations

import functools
import gc
import weakref
from typing import Any

import cachetools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.core.counters import ResettableCounter
from chainlit_otel.guard import Guard
from chainlit_otel.resources.caches import Caches
from tests.conftest import InternalErrors


@pytest.fixture
def guard() -> Guard:
    return Guard("caches")


@pytest.fixture
def caches() -> Caches:
    return Caches()


class Own:
    """What an app may have written."""

    def __init__(self, hits: int = 0, misses: int = 0) -> None:
        self.hits, self.misses, self.evictions = hits, misses, 0

    def __len__(self) -> int:
        return 4


def all_lookups(caches: Caches, guard: Guard) -> dict[tuple[str, ...], int]:
    caches.read(guard)
    return caches.lookups()


def lookups(caches: Caches, guard: Guard, name: str) -> tuple[int, int]:
    counts = all_lookups(caches, guard)
    return counts[name, "hit"], counts[name, "miss"]


def test_functools(caches: Caches, guard: Guard) -> None:
    @functools.lru_cache(maxsize=2)
    def square(n: int) -> int:
        return n * n

    caches.watch("squares", square)
    for n in (1, 2, 1, 3, 1):
        square(n)
    assert lookups(caches, guard, "squares") == (2, 3)
    assert caches.sizes() == {("squares",): 2}
    assert caches.evictions() == {}
    square.cache_clear()
    assert lookups(caches, guard, "squares") == (2, 3)
    square(1)
    assert lookups(caches, guard, "squares") == (2, 4)


def test_cachetools(caches: Caches, guard: Guard) -> None:
    @cachetools.cached(cachetools.TTLCache(maxsize=10, ttl=60), info=True)
    def square(n: int) -> int:
        return n * n

    caches.watch("squares", square)
    for n in (1, 2, 1):
        square(n)
    assert lookups(caches, guard, "squares") == (1, 2)
    assert caches.sizes() == {("squares",): 2}


def test_an_object_of_the_app_and_a_pair_of_functions(caches: Caches, guard: Guard) -> None:
    own = Own(3, 4)
    own.evictions = 2
    caches.watch("own", own)
    caches.watch("pair", (lambda: 5, lambda: 6))
    assert lookups(caches, guard, "own") == (3, 4)
    assert lookups(caches, guard, "pair") == (5, 6)
    assert caches.sizes() == {("own",): 4}
    assert caches.evictions() == {("own",): 2}


def test_a_cache_with_slots(caches: Caches, guard: Guard) -> None:
    class Slim:
        __slots__ = ("hits", "misses")

    slim: Any = Slim()
    slim.hits, slim.misses = 3, 1
    caches.watch("slim", slim)
    assert all_lookups(caches, guard) == {("slim", "hit"): 3, ("slim", "miss"): 1}


def test_another_cache_of_the_same_name_goes_on_counting(caches: Caches, guard: Guard) -> None:
    first, second = Own(3, 4), Own(1, 1)
    caches.watch("own", first)
    all_lookups(caches, guard)
    first.hits = 5
    caches.watch("own", second)
    assert lookups(caches, guard, "own") == (6, 5)


def test_a_cache_is_not_kept_alive_and_its_counts_stay(caches: Caches, guard: Guard) -> None:
    own = Own(3, 4)
    caches.watch("own", own)
    assert lookups(caches, guard, "own") == (3, 4)
    gone = weakref.ref(own)
    del own
    gc.collect()
    assert gone() is None
    assert lookups(caches, guard, "own") == (3, 4)
    assert caches.sizes() == {}


def test_one_that_fails_takes_no_other_with_it(
    caches: Caches, guard: Guard, expected_internal_errors: InternalErrors
) -> None:
    def broken() -> int:
        raise RuntimeError("of the app")

    own = Own(1, 0)
    caches.watch("broken", (broken, broken))
    caches.watch("own", own)
    assert lookups(caches, guard, "own") == (1, 0)
    assert guard.errors == len(expected_internal_errors) == 1


def test_names_are_few_and_what_is_beyond_is_added_up(caches: Caches, guard: Guard) -> None:
    for n in range(34):
        caches.watch(f"cache{n}", (lambda: 1, lambda: 0))
    counts = all_lookups(caches, guard)
    assert len(counts) == 2 * 33
    assert counts["other", "hit"] == 2
    assert caches.names.overflowed == 2


@pytest.mark.parametrize(
    ("name", "cache"), [("c", {}), ("c", (1, 2)), ("c", (len,)), ("", Own()), (None, Own())]
)
def test_what_is_no_cache_is_refused_in_one_line(caches: Caches, name: Any, cache: Any) -> None:
    with pytest.raises(TypeError, match=r"^watch_cache\(.*$"):
        caches.watch(name, cache)


@given(st.lists(st.lists(st.integers(0, 50))))
def test_a_tally_is_the_sum_of_what_was_counted_over_all_beginnings(runs: list[list[int]]) -> None:
    """Each run counts up from nothing; the last one before a restart may be missed, never more."""
    counter, expected = ResettableCounter(), 0
    for run in runs:
        count = 0
        for step in run:
            count += step
            counter.update(count)
            expected += step
            assert counter.total == expected
        counter.rebase()


def test_a_forked_child_begins_anew(caches: Caches, guard: Guard) -> None:
    own = Own(3, 4)
    caches.watch("own", own)
    assert lookups(caches, guard, "own") == (3, 4)
    own.hits = 5
    caches.renew(guard)
    assert lookups(caches, guard, "own") == (0, 0)
    own.hits, own.misses = 6, 6
    assert lookups(caches, guard, "own") == (1, 2)


def test_the_evictions_of_another_cache_of_the_same_name_go_on(
    caches: Caches, guard: Guard
) -> None:
    first, second = Own(), Own()
    first.evictions, second.evictions = 3, 5
    caches.watch("own", first)
    caches.read(guard)
    first.evictions = 4
    caches.watch("own", second)
    caches.read(guard)
    assert caches.evictions() == {("own",): 9}
    second.evictions = 6
    caches.read(guard)
    assert caches.evictions() == {("own",): 10}
