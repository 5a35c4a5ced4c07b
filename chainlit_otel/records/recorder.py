"""Makes rows of what the probes report, if records are kept."""

from __future__ import annotations

import time
from collections.abc import Callable

from chainlit_otel import catalog
from chainlit_otel.core.hashes import hashed
from chainlit_otel.core.sessions import Session
from chainlit_otel.core.turns import Turn, TurnReference
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.providers import Pipeline, resource_of
from chainlit_otel.records import rows
from chainlit_otel.records.files import JsonLines
from chainlit_otel.records.log_events import LogEvents
from chainlit_otel.records.queue import Destination, RecordQueue
from chainlit_otel.settings import Settings
from chainlit_otel.version import __version__

_SERVICE = ("service.name", "service.version", "service.instance.id")


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

    def feedback_given(
        self, turn: TurnReference | None, message: str, value: str, has_comment: bool | None
    ) -> None:
        """Feedback was given, given again, or deleted.

        Args:
            turn: The turn that it is about; None if that is not known.
            message: Id of the message that it is about; empty if that is not known.
            value: `positive`, `negative` or `deleted`.
            has_comment: Whether there is a comment; None if it is deleted.
        """
        if self.is_enabled:
            about = hashed(message) if message else ""
            row = rows.feedback_given(turn, about, value, has_comment, self._wall())
            self.queue.put(row)

    def score_given(
        self, turn: TurnReference | None, name: str, value: float, label: str | None
    ) -> None:
        """The app has given a score.

        Args:
            turn: What it is about; None if that is not known.
            name: Name of the score.
            value: The score.
            label: The score in a word, if it has one.
        """
        if self.is_enabled:
            self.queue.put(rows.score_given(turn, name, value, label, self._wall()))


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
