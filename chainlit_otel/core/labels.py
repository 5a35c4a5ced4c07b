"""Label values that stay within a closed set, whatever a browser sends."""

from __future__ import annotations

from collections.abc import Iterable

from chainlit_otel.core.counts import Counts


class ClosedSet:
    """Folds any value to a member of a closed set.

    Args:
        values: The members; `other` must be one of them.
        other: The member that stands for everything else.
    """

    def __init__(self, values: Iterable[str], other: str = "other") -> None:
        self._values = frozenset(values)
        if other not in self._values:
            raise ValueError(f"{other!r} is not one of the values")
        self._other = other
        self._folded: Counts[None] = Counts()

    def __call__(self, value: object) -> str:
        """Return `value` if it is a member, and `other`, counted, if it is not."""
        if isinstance(value, str) and value in self._values:
            return value
        self._folded.add(None)
        return self._other

    @property
    def folded(self) -> int:
        """How many values were folded into `other`."""
        return self._folded.read().get(None, 0)


class LearnedSet:
    """A closed set whose members the application declares as it runs.

    Args:
        limit: How many members it takes; later ones are folded.
        other: The value that stands for everything that is not a member.
    """

    def __init__(self, limit: int, other: str = "other") -> None:
        self._limit = limit
        self._closed = ClosedSet((other,), other)
        self._members: frozenset[str] = frozenset()

    def learn(self, values: Iterable[str]) -> None:
        """Take the values as members, the first ones up to the limit."""
        for value in values:
            if len(self._members) < self._limit:
                self._members |= {value}

    def admit(self, value: object, longest: int = 64) -> str:
        """Make a member of a value of the app's while there is room, and return what stands for it.

        Args:
            value: The value; it may be anything.
            longest: The most characters that a member has.
        """
        if isinstance(value, str) and value not in self._members and 0 < len(value) <= longest:
            self.learn((value,))
        return self(value)

    def __call__(self, value: object) -> str:
        """Return `value` if it is a member, and `other`, counted, if it is not."""
        return value if isinstance(value, str) and value in self._members else self._closed(value)

    @property
    def folded(self) -> int:
        """How many values were folded into `other`."""
        return self._closed.folded
