"""A weak set of objects that are compared by identity."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any


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
