"""Calls functions of the app for figures: once a reading, with a timeout.

They run in a thread of their own, since they may block, or end their thread by `SystemExit`. One
that has timed out is not called again until it has returned.
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
    """A pool or a cache, which is polled for figures.

    Attributes:
        name: Its name in the log.
        busy: Whether a call has not returned yet.
    """

    name: str
    busy: bool

    def update(self) -> None:
        """Read its figures, and keep them; it may raise anything."""


class Poller:
    """Polls resources, one after the other, for one reading at a time."""

    def __init__(self) -> None:
        self._lock = Lock()

    def poll(self, resources: Iterable[Resource], guard: AbstractContextManager[object]) -> None:
        """Update each of them; return when all are updated, or after the timeout.

        Args:
            resources: The resources; those that are busy are left out.
            guard: Holds what goes wrong with one of them; the others are polled all the same.
        """
        with self._lock:
            due = [one for one in resources if not one.busy]
            if not due:
                return
            done, late = Event(), Event()
            thread = Thread(
                target=_update_all,
                args=(due, guard, done, late),
                name="chainlit-otel-poller",
                daemon=True,
            )
            thread.start()
            if not done.wait(TIMEOUT):
                late.set()
                slow = ", ".join(one.name for one in due if one.busy)
                with guard:
                    raise PlainError(f"{slow} did not answer within {TIMEOUT:g} s")


def _update_all(
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


class SharedReading:
    """One reading for several metrics: it is taken for the first of them that is collected.

    Args:
        telemetry: Registers the metrics.
        guard: Holds what goes wrong in a reading.
        update: Takes a reading.
    """

    def __init__(self, telemetry: Telemetry, guard: Guard, update: Callable[[], None]) -> None:
        self._telemetry = telemetry
        self._guard = guard
        self._update = update
        self._lock = Lock()
        self._collected: set[catalog.Metric] | None = None

    def register_observable(self, metric: catalog.Metric, reading: Reading) -> None:
        """Register a metric.

        Args:
            metric: The metric.
            reading: Gives its numbers as they were when the reading was taken.
        """

        def numbers() -> Mapping[catalog.LabelSet, float]:
            with self._lock:
                if self._collected is None or metric in self._collected:
                    self._update()
                    self._collected = set()
                self._collected.add(metric)
                return reading()

        self._telemetry.register_observable(metric, numbers, self._guard)
