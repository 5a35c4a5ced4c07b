"""Labels of bounded cardinality, whatever a browser or an app sends."""

from __future__ import annotations

from collections.abc import Iterable

from chainlit_otel.core.counts import Counts

_OTHER = "other"  # recorded in place of values that overflow
_LONGEST = 64  # characters of a value that is added while the application runs


class EnumLabel:
    """A label with a fixed set of values; any other value overflows.

    Args:
        values: The values, with `other` among them.

    Raises:
        ValueError: `other` is not among the values.
    """

    def __init__(self, values: Iterable[str]) -> None:
        self._values = frozenset(values)
        if _OTHER not in self._values:
            raise ValueError(f"{_OTHER!r} is not one of the values")
        self._overflowed: Counts[None] = Counts()

    def __call__(self, value: object) -> str:
        """Return `value` if it is one of the values, and `other`, counted, if it is not."""
        if isinstance(value, str) and value in self._values:
            return value
        self._overflowed.add(None)
        return _OTHER

    @property
    def overflowed(self) -> int:
        """How many values have overflowed."""
        return self._overflowed.read().get(None, 0)


class BoundedLabel:
    """A label whose values are added while the application runs, up to a limit.

    Args:
        limit: How many values it takes; later ones overflow.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._enum = EnumLabel((_OTHER,))
        self._members: frozenset[str] = frozenset()

    def add(self, values: Iterable[str]) -> None:
        """Add values, up to the limit."""
        for value in values:
            if len(self._members) < self._limit:
                self._members |= {value}

    def admit(self, value: object) -> str:
        """Add a value while there is room, unless it is empty or long; return the label of it."""
        if isinstance(value, str) and value not in self._members and 0 < len(value) <= _LONGEST:
            self.add((value,))
        return self(value)

    def __call__(self, value: object) -> str:
        """Return `value` if it is one of the values, and `other`, counted, if it is not."""
        return value if isinstance(value, str) and value in self._members else self._enum(value)

    @property
    def overflowed(self) -> int:
        """How many values have overflowed."""
        return self._enum.overflowed
