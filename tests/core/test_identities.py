"""What is known by identity is neither compared nor kept."""

from __future__ import annotations

import gc

from chainlit_otel.core.identities import WeakIdentityDict, WeakIdentitySet


class Unhashable:
    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True


def test_each_object_is_itself_and_goes_when_nobody_else_has_it() -> None:
    known = WeakIdentitySet()
    first, second = Unhashable(), Unhashable()
    assert [known.add(thing) for thing in (first, second, first)] == [True, True, False]
    assert [id(thing) for thing in known] == [id(first), id(second)]
    del first
    gc.collect()
    assert [id(thing) for thing in known] == [id(second)]
    assert all(known.add(Unhashable()) for _ in range(100))


def test_what_is_known_of_an_object_goes_with_it() -> None:
    known: WeakIdentityDict[str] = WeakIdentityDict()
    first, second = Unhashable(), Unhashable()
    known.put(first, "old")
    known.put(first, "first")
    assert (known.get(first), known.get(second), len(known._items)) == ("first", None, 1)
    known.put(second, "second")
    del first
    gc.collect()
    assert (known.get(second), len(known._items)) == ("second", 1)
    for _ in range(100):
        thing = Unhashable()
        assert known.get(thing) is None
        known.put(thing, "new")
        del thing
    assert len(known._items) == 1


def test_what_is_alive_can_be_gone_through() -> None:
    known: WeakIdentityDict[str] = WeakIdentityDict()
    kept, gone = Unhashable(), Unhashable()
    known.put(kept, "kept")
    known.put(gone, "gone")
    del gone
    gc.collect()
    assert [(id(thing), value) for thing, value in known.items()] == [(id(kept), "kept")]
