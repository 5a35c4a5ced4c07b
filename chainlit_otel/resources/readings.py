"""Functions of the app that are asked for figures: once a reading, and never for long.

They run in a thread of their own, since they may block, or end their thread by `SystemExit`. One
that does not answer in time is left alone until it does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from threading import Event, Lock, Thread
from typing import Protocol

from chainlit_otel import catalog
from chainlit_otel.guard import Guard, PlainError
from chainlit_otel.pipeline.instruments import Reading, Telemetry

TIMEOUT = 1.0
"""Seconds that all of them together may take."""


class Resource(Protocol):
    """What is asked for figures.

    Attributes:
        name: What to call it in the log.
        busy: Whether it is being asked and has not answered yet.
    """

    name: str
    busy: bool

    def update(self) -> None:
        """Ask, and keep the answer; it may raise anything."""


class Questions:
    """Asks one after the other, for one who wants to know at a time."""

    def __init__(self) -> None:
        self._lock = Lock()

    def ask(self, resources: Iterable[Resource], guard: AbstractContextManager[object]) -> None:
        """Update each of them; return when all are, or when the time is over.

        Args:
            resources: What is asked, but for those that have not answered yet.
            guard: Holds what goes wrong with one of them; the others are asked all the same.
        """
        with self._lock:
            due = [one for one in resources if not one.busy]
            if not due:
                return
            done, late = Event(), Event()
            thread = Thread(
                target=_ask_all,
                args=(due, guard, done, late),
                name="chainlit-otel-questions",
                daemon=True,
            )
            thread.start()
            if not done.wait(TIMEOUT):
                late.set()
                slow = ", ".join(one.name for one in due if one.busy)
                with guard:
                    raise PlainError(f"{slow} did not answer within {TIMEOUT:g} s")


def _ask_all(
    due: list[Resource], guard: AbstractContextManager[object], done: Event, late: Event
) -> None:
    for one in due:
        if late.is_set():
            return
        one.busy = True
        with guard:
            try:
                one.update()
            except BaseException as error:
                raise PlainError(f"{one.name} raised {type(error).__name__}") from error
            finally:
                one.busy = False
    done.set()


class Together:
    """Metrics that are read together: a reading is taken for the first of them that is shown.

    Args:
        telemetry: Shows them.
        guard: Holds what goes wrong in a reading.
        update: Takes a reading.
    """

    def __init__(self, telemetry: Telemetry, guard: Guard, update: Callable[[], None]) -> None:
        self._telemetry = telemetry
        self._guard = guard
        self._update = update
        self._lock = Lock()
        self._shown: set[catalog.Metric] | None = None

    def register_observable(self, metric: catalog.Metric, reading: Reading) -> None:
        """Register a metric.

        Args:
            metric: The metric.
            reading: Gives its numbers as they were when the reading was taken.
        """

        def numbers() -> Mapping[catalog.LabelSet, float]:
            with self._lock:
                if self._shown is None or metric in self._shown:
                    self._update()
                    self._shown = set()
                self._shown.add(metric)
                return reading()

        self._telemetry.register_observable(metric, numbers, self._guard)
