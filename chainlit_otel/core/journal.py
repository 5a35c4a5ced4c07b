"""What has happened in each session, in a few bytes an event."""

from __future__ import annotations

from struct import Struct
from threading import Lock
from typing import Literal, NamedTuple, get_args

EventKind = Literal[
    "connect",
    "turn",
    "turn_end",
    "drop",
    "reconnect",
    "undelivered",
    "data_layer_error",
    "callback_error",
    "end",
]

MAX_EVENTS = 128
"""How many events of a session are kept; of more, those in the middle are dropped."""

MS = 1_000_000
"""Nanoseconds of a millisecond."""

_FIRST = 16  # of those that are kept are its first ones
_MAX_DETAILS = 1000
_LONGEST = 200  # characters of a detail
_KINDS: tuple[EventKind, ...] = get_args(EventKind)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_EVENT = Struct("<IBH")
_FULL = MAX_EVENTS * _EVENT.size
_MIDDLE = _FIRST * _EVENT.size
_HIGHEST = 2**16 - 1 - _MAX_DETAILS
_LATEST = 2**32 - 1  # milliseconds: 49 days


class SessionEvent(NamedTuple):
    """One event of a session.

    Attributes:
        after: Milliseconds since the start of the session.
        kind: What has happened.
        detail: More about it; empty if there is nothing to add.
    """

    after: int
    kind: EventKind
    detail: str


class Events:
    """The events of one session; they belong to the journal.

    Args:
        journal: Keeps them.

    Attributes:
        journal: Keeps them.
        packed: Those that are kept, one after the other.
        dropped: How many are not.
    """

    __slots__ = ("dropped", "journal", "packed")

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.packed = b""
        self.dropped = 0

    @property
    def count(self) -> int:
        """How many there were."""
        return len(self.packed) // _EVENT.size + self.dropped


class Journal:
    """Keeps the events of sessions. Thread-safe.

    Content that is lost is one event until there is another. An event takes 7 bytes, in which a
    detail that is a number has its place. Another detail is kept once for all events that have it;
    of more than a thousand, the rest is `other`, and so are numbers from 64,536 on.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._details: dict[str, int] = {"": 0, "other": 1}
        self._texts = ["", "other"]

    def add(self, events: Events, kind: EventKind, after: int, detail: str | int = "") -> None:
        """Add an event.

        Args:
            events: Those of its session.
            kind: What has happened.
            after: When, in nanoseconds since the start of the session.
            detail: More about it.
        """
        with self._lock:
            number = _NUMBERS[kind]
            # Of an answer that is lost, each token is.
            if kind == "undelivered" and events.packed[-_EVENT.size :][4:5] == bytes([number]):
                return
            at = after // MS if after > 0 else 0
            packed = _EVENT.pack(at if at < _LATEST else _LATEST, number, self._number_of(detail))
            # New bytes, and not a bytearray: these have no room to spare, and readers need no lock.
            kept = events.packed
            if len(kept) < _FULL:
                events.packed = kept + packed
            else:
                events.packed = kept[:_MIDDLE] + kept[_MIDDLE + _EVENT.size :] + packed
                events.dropped += 1

    def read(self, events: Events) -> list[SessionEvent]:
        """Return the events that are kept, the oldest first."""
        return [
            SessionEvent(after, _KINDS[kind], self._text_of(detail))
            for after, kind, detail in _EVENT.iter_unpack(events.packed)
        ]

    def _number_of(self, detail: str | int) -> int:
        if isinstance(detail, int):
            return _MAX_DETAILS + detail if detail <= _HIGHEST else 1
        detail = detail[:_LONGEST]
        number = self._details.get(detail)
        if number is None:
            if len(self._texts) >= _MAX_DETAILS:
                return 1
            number = self._details[detail] = len(self._texts)
            self._texts.append(detail)
        return number

    def _text_of(self, number: int) -> str:
        return self._texts[number] if number < _MAX_DETAILS else str(number - _MAX_DETAILS)
