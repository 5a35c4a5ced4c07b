"""Which turn is judged: the turns of the last messages, and what users think of these."""

from __future__ import annotations

from threading import Lock
from typing import Generic, TypeVar

from chainlit_otel.core.turns import Turn, TurnReference

_MESSAGES = 10_000
_FEEDBACK = 10_000

T = TypeVar("T")


class _Recent(Generic[T]):
    """A map of what was put into it last. Thread-safe.

    When as many were put as it has to remember, it begins anew, and keeps what it had until then
    for as long again. So it takes no more than a plain assignment to put one: to move each to the
    end of a long list would touch memory all over the place.

    Args:
        enough: How many of the last it remembers at least; twice as many at most.
    """

    def __init__(self, enough: int) -> None:
        self._enough = enough
        self._lock = Lock()
        self._items: dict[str, T] = {}
        self._older: dict[str, T] = {}

    def put(self, key: str, item: T) -> None:
        items = self._items
        items[key] = item
        if len(items) >= self._enough:
            with self._lock:
                if items is self._items:
                    self._items, self._older = {}, items

    def get(self, key: str) -> T | None:
        with self._lock:
            item = self._items.get(key)
            return self._older.get(key) if item is None else item

    def pop(self, key: str) -> T | None:
        with self._lock:
            item, older = self._items.pop(key, None), self._older.pop(key, None)
            return older if item is None else item


class Judgements:
    """The turns that may still be judged, and the feedback on them. Thread-safe."""

    def __init__(self) -> None:
        # Turns and values by the id of the message, and that by the id of the feedback.
        self._turns: _Recent[TurnReference] = _Recent(_MESSAGES)
        # Apart, so that they displace no turn of a user.
        self._synthetic: _Recent[TurnReference] = _Recent(_MESSAGES)
        self._values: _Recent[str] = _Recent(_FEEDBACK)
        self._messages: _Recent[str] = _Recent(_FEEDBACK)

    def message_sent(self, message_id: object, turn: Turn) -> None:
        """A message was sent in a turn, or a step; somebody may judge it later."""
        if isinstance(message_id, str):
            turns = self._synthetic if turn.is_synthetic else self._turns
            turns.put(message_id, turn.reference)

    def turn_of(self, message_id: str) -> TurnReference | None:
        """Return the turn of a message; None if it is not known here, or not any more."""
        return self._turns.get(message_id) or self._synthetic.get(message_id)

    def feedback_given(self, message_id: str, feedback_id: str, value: str) -> TurnReference | None:
        """Feedback was given, or given again; return the turn that it is about, if it is known.

        Args:
            message_id: Id of the message or step that it is about.
            feedback_id: Its own id.
            value: `positive` or `negative`.
        """
        turn = self._turns.get(message_id)
        self._judge(message_id, turn, value)
        self._messages.put(feedback_id, message_id)
        return turn

    def feedback_deleted(self, feedback_id: str) -> tuple[str, TurnReference | None]:
        """Feedback was taken back; return the message and the turn that it was about.

        Args:
            feedback_id: Its id.

        Returns:
            The id of the message, empty if it is not known, and the turn, if that is.
        """
        message_id = self._messages.pop(feedback_id)
        if message_id is None:
            return "", None
        turn = self._turns.get(message_id)
        self._judge(message_id, turn, None)
        return message_id, turn

    def _judge(self, message_id: str, turn: TurnReference | None, value: str | None) -> None:
        """Have the last feedback on a message count in its session, and no other."""
        before = self._values.pop(message_id)
        if value is not None:
            self._values.put(message_id, value)
        if turn is None or turn.session is None:
            return
        given = turn.session.feedback
        if before is not None:
            given[before] = given.get(before, 1) - 1
        if value is not None:
            given[value] = given.get(value, 0) + 1
