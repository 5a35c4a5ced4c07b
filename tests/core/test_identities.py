"""What is known by identity is neither compared nor kept."""

from __future__ import annotations

import gc

from chainlit_otel.core.identities import WeakIdentitySet


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
