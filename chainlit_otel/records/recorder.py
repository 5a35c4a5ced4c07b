"""Makes rows of what the probes report, if records are kept."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

from chainlit_otel import catalog
from chainlit_otel.core.hashes import hashed
from chainlit_otel.core.sessions import Session
from chainlit_otel.core.turns import Turn
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.providers import Pipeline, resource_of
from chainlit_otel.records import rows
from chainlit_otel.records.files import JsonLines
from chainlit_otel.records.log_events import LogEvents
from chainlit_otel.records.queue import Destination, RecordQueue
from chainlit_otel.records.rows import TurnReference
from chainlit_otel.settings import Settings, warn
from chainlit_otel.version import __version__

_SERVICE = ("service.name", "service.version", "service.instance.id")
_MESSAGES = 10_000
_FEEDBACK = 10_000


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


class Recorder:
    """Records sessions, turns, feedback and scores. Without a destination it does nothing.

    Args:
        queue: Takes the rows.
        guard: Holds what goes wrong here.
        wall: Wall clock, in nanoseconds since the epoch.

    Attributes:
        queue: Takes the rows.
        guard: Holds what goes wrong here.
        is_enabled: Whether there is a destination.
    """

    def __init__(
        self, queue: RecordQueue, guard: Guard, wall: Callable[[], int] = time.time_ns
    ) -> None:
        self.queue = queue
        self.guard = guard
        self.is_enabled = bool(queue.destinations)
        self._wall = wall
        # Turns and values by the id of the message, and that by the id of the feedback.
        self._turns: _Bounded[TurnReference] = _Bounded(_MESSAGES)
        self._values: _Bounded[str] = _Bounded(_FEEDBACK)
        self._messages: _Bounded[str] = _Bounded(_FEEDBACK)

    def session_started(self, session: Session) -> None:
        """A session has started."""
        if self.is_enabled:
            self.queue.put(rows.session_started(session))

    def session_ended(self, session: Session, reason: str, seconds: float) -> None:
        """A session has ended, after so many seconds."""
        if self.is_enabled:
            self.queue.put(rows.session_ended(session, reason, seconds, self._wall()))

    def turn_ended(self, turn: Turn, seconds: float) -> None:
        """A turn has ended, after so many seconds."""
        if self.is_enabled:
            self.queue.put(rows.turn_ended(turn, seconds))

    def message_sent(self, message_id: object, turn: Turn) -> None:
        """A message was sent in a turn, or a step; somebody may judge it later."""
        if not self.is_enabled or not isinstance(message_id, str):
            return
        # Most messages are sent twice in their turn, and steps when they start and when they end.
        known = self._turns.get(message_id)
        is_new = known is None or known.session is not turn.session or known.number != turn.number
        if is_new or turn.session is None:
            self._turns.put(message_id, rows.reference(turn))

    def feedback_given(
        self, message_id: object, feedback_id: object, value: str, has_comment: bool
    ) -> None:
        """Feedback was given, or given again.

        Args:
            message_id: Id of the message or step that it is about.
            feedback_id: Its own id.
            value: `positive` or `negative`.
            has_comment: Whether there is a comment.
        """
        if not self.is_enabled:
            return
        message = str(message_id)
        turn = self._turns.get(message)
        self._judge(message, turn, value)
        self._messages.put(str(feedback_id), message)
        self.queue.put(rows.feedback_given(turn, hashed(message), value, has_comment, self._wall()))

    def feedback_deleted(self, feedback_id: object) -> None:
        """Feedback was taken back."""
        if not self.is_enabled:
            return
        message = self._messages.pop(str(feedback_id))
        turn = None if message is None else self._turns.get(message)
        about = ""
        if message is not None:
            about = hashed(message)
            self._judge(message, turn, None)
        self.queue.put(rows.feedback_given(turn, about, "deleted", None, self._wall()))

    def _judge(self, message: str, turn: TurnReference | None, value: str | None) -> None:
        """Have the last feedback on a message count in its session, and no other."""
        before = self._values.pop(message)
        if value is not None:
            self._values.put(message, value)
        if turn is None or turn.session is None:
            return
        given = turn.session.feedback
        if before is not None:
            given[before] = given.get(before, 1) - 1
        if value is not None:
            given[value] = given.get(value, 0) + 1

    def score_given(
        self,
        turn: Turn | None,
        session: Session | None,
        name: str,
        value: float,
        label: str | None,
    ) -> None:
        """The app has given a score.

        Args:
            turn: The turn under way; None if there is none.
            session: The session that the app works for, if it does for any.
            name: Name of the score.
            value: The score.
            label: The score in a word, if it has one.
        """
        if not self.is_enabled:
            return
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            warn(
                f"record_score({rows.shortened(str(name))!r}) keeps nothing: its value must be a "
                "finite number"
            )
            return
        about = rows.TurnReference(session, 0, "", "") if turn is None else rows.reference(turn)
        row = rows.score_given(
            about, str(name), number, None if label is None else str(label), self._wall()
        )
        self.queue.put(row)


def build_recorder(settings: Settings, pipeline: Pipeline, guard: Guard) -> Recorder:
    """Return a recorder with the destinations that the settings name.

    Args:
        settings: The settings.
        pipeline: Where log events go.
        guard: Holds what goes wrong in it.
    """
    destinations: list[Destination] = []
    if settings.records_dir is not None:
        resource = resource_of(settings).attributes
        named = {key: str(resource[key]) for key in _SERVICE if resource.get(key)}
        destinations.append(
            JsonLines(
                settings.records_dir, named, settings.records_max_bytes, settings.records_keep_days
            )
        )
    if pipeline.logger_provider is not None:
        logger = pipeline.logger_provider.get_logger(catalog.SCOPE, __version__)
        destinations.append(LogEvents(logger))
    return Recorder(RecordQueue(destinations), guard)
