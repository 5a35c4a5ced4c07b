"""Our own errors: counted, logged once for each probe, never raised into the application."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Lock
from time import monotonic
from types import TracebackType

logger = logging.getLogger("chainlit_otel")

_MANY = 512
_MINUTE = 60.0  # seconds


class PlainError(Exception):
    """An error of ours whose message is logged, since it has no text of a user."""


def log(level: int, message: str, *args: object) -> None:
    """Log a line, whatever the handlers and filters raise: they are the application's.

    Args:
        level: Level of the line, as `logging` has it.
        message: Its text, with a placeholder for each argument.
        args: The arguments.
    """
    with suppress(Exception):
        logger.log(level, message, *args)


class OnceAMinute:
    """Tells whether a line that comes again and again may be logged. Not thread-safe.

    Args:
        clock: Gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._last: float | None = None

    def is_due(self) -> bool:
        """Tell whether a minute is over since the last time that it was due."""
        now = self._clock()
        if self._last is not None and now - self._last < _MINUTE:
            return False
        self._last = now
        return True


def frames_of(error: BaseException) -> str:
    """Return the frames of an exception, without source lines: these may contain a key."""
    frames = traceback.walk_tb(error.__traceback__)
    summary = traceback.StackSummary.extract(frames, lookup_lines=False)
    return "".join(f'  File "{f.filename}", line {f.lineno}, in {f.name}\n' for f in summary)


def _lines_of(error: BaseException | None) -> Iterator[str]:
    """Give class and frames of an exception, and then of its causes.

    Not its message, which may quote what a user wrote: a log has other readers than spans.
    """
    while error is not None:
        kind = type(error).__qualname__
        yield f"{kind}: {error}\n" if isinstance(error, PlainError) else f"{kind}\n"
        yield frames_of(error)
        error = error.__cause__


class Guard:
    """A context manager around code of ours that runs inside the application.

    It swallows `Exception` only: a cancellation or an exit of the application passes. It must
    never hold a call of the application itself. What runs in every turn has a `try` in its
    place and gives what is raised to `on_error`: a `with` takes 2,000 instructions, a `try` none.

    Args:
        probe: Name of the probe that the code belongs to.
    """

    __slots__ = ("_added", "_errors", "_lock", "_logged", "probe")

    def __init__(self, probe: str) -> None:
        self.probe = probe
        self._errors = 0
        # Code of ours may fail in a finalizer or a signal handler that has interrupted this, so an
        # error is queued here, without a lock.
        self._added: deque[None] = deque()
        self._lock = Lock()
        self._logged = Lock()  # taken once, by the first error

    @property
    def errors(self) -> int:
        """How many errors of ours there were."""
        with self._lock:
            self._add_up()
            return self._errors

    def _add_up(self) -> None:
        while self._added:
            self._added.pop()
            self._errors += 1

    def __enter__(self) -> None:
        """Enter the guarded code."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """Count an error of ours and swallow it."""
        if error is None or not isinstance(error, Exception):
            return False
        self.on_error(error)
        return True

    def on_error(self, error: Exception) -> None:
        """Count an error of ours that was caught; the first one is logged."""
        self._added.append(None)
        if len(self._added) >= _MANY and self._lock.acquire(blocking=False):
            try:
                self._add_up()
            finally:
                self._lock.release()
        first = self._logged.acquire(blocking=False)
        if first:
            log(
                logging.WARNING,
                "the %s probe failed; the application is not affected, further errors are "
                "only counted (chainlit_otel_internal_errors_total): %s",
                self.probe,
                "".join(_lines_of(error)).rstrip(),
            )
