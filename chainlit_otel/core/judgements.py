"""Which turn is judged: the turns of the last messages, and what users think of these."""

from __future__ import annotations

from collections import OrderedDict, deque
from threading import Lock
from typing import Generic, TypeVar

from chainlit_otel.core.turns import Turn, TurnReference

_MESSAGES = 10_000
_FEEDBACK = 10_000
_MANY = 256  # messages that wait, until they are put among the others

T = TypeVar("T")


class _Bounded(Generic[T]):
    """A map that forgets what was put into it first. Thread-safe."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._items: OrderedDict[str, T] = OrderedDict()

    def put(self, key: str, item: T) -> None:
        with self._lock:
            self._items[key] = item
            self._items.move_to_end(key)
            if len(self._items) > self._limit:
                self._items.popitem(last=False)

    def get(self, key: str) -> T | None:
        return self._items.get(key)

    def pop(self, key: str) -> T | None:
        with self._lock:
            return self._items.pop(key, None)


class Judgements:
    """The turns that may still be judged, and the feedback on them. Thread-safe."""

    def __init__(self) -> None:
        # Turns and values by the id of the message, and that by the id of the feedback.
        self._turns: _Bounded[TurnReference] = _Bounded(_MESSAGES)
        # Apart, so that they displace no turn of a user.
        self._synthetic: _Bounded[TurnReference] = _Bounded(_MESSAGES)
        self._values: _Bounded[str] = _Bounded(_FEEDBACK)
        self._messages: _Bounded[str] = _Bounded(_FEEDBACK)
        # Ten thousand messages lie far apart in memory. So what is sent waits until somebody asks,
        # or until there are many.
        self._waiting: deque[tuple[str, TurnReference]] = deque()
        self._lock = Lock()

    def message_sent(self, message_id: object, turn: Turn) -> None:
        """A message was sent in a turn, or a step; somebody may judge it later."""
        if isinstance(message_id, str):
            self._waiting.append((message_id, turn.reference))
            if len(self._waiting) >= _MANY:
                self._keep_all()

    def turn_of(self, message_id: str) -> TurnReference | None:
        """Return the turn of a message; None if it is not known here, or not any more."""
        return self._turn_of_user(message_id) or self._synthetic.get(message_id)

    def feedback_given(self, message_id: str, feedback_id: str, value: str) -> TurnReference | None:
        """Feedback was given, or given again; return the turn that it is about, if it is known.

        Args:
            message_id: Id of the message or step that it is about.
            feedback_id: Its own id.
            value: `positive` or `negative`.
        """
        turn = self._turn_of_user(message_id)
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
        turn = self._turn_of_user(message_id)
        self._judge(message_id, turn, None)
        return message_id, turn

    def _turn_of_user(self, message_id: str) -> TurnReference | None:
        self._keep_all()
        return self._turns.get(message_id)

    def _keep_all(self) -> None:
        with self._lock:
            while self._waiting:
                message_id, turn = self._waiting.popleft()
                turns = self._synthetic if turn.is_synthetic else self._turns
                # Most messages are sent twice in their turn, and so are steps.
                if turns.get(message_id) is not turn:
                    turns.put(message_id, turn)

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
