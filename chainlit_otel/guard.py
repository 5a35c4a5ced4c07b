"""Our own errors: counted, logged once for each probe, never raised into the application."""

from __future__ import annotations

import logging
from contextlib import suppress
from threading import Lock
from types import TracebackType

logger = logging.getLogger("chainlit_otel")


def log(level: int, message: str, *args: object, error: BaseException | None = None) -> None:
    """Log a line, whatever the handlers and filters of the log do: they are the application's.

    Args:
        level: Level of the line, as `logging` has it.
        message: Its text, with a placeholder for each argument.
        args: The arguments.
        error: The exception whose traceback is added.
    """
    with suppress(Exception):
        logger.log(level, message, *args, exc_info=error)


class Guard:
    """A context manager around code of ours that runs inside the application.

    It swallows `Exception` only: a cancellation or an exit of the application passes. It must
    never hold a call of the application itself.

    Args:
        probe: Name of the probe that the code belongs to.
    """

    __slots__ = ("_lock", "errors", "probe")

    def __init__(self, probe: str) -> None:
        self.probe = probe
        self.errors = 0
        self._lock = Lock()

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
        with self._lock:
            self.errors += 1
            first = self.errors == 1
        if first:
            log(
                logging.WARNING,
                "the %s probe failed; the application is not affected, further errors are "
                "only counted (chainlit_otel_internal_errors_total)",
                self.probe,
                error=error,
            )
        return True
