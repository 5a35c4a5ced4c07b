"""What Chainlit keeps for sessions that are gone: entries of its tables, and directories of files.

`chat_contexts` is never cleaned up, `user_sessions` only for websocket sessions that end without an
error, and the files of an HTTP session only if the app deletes that. A directory of files counts if
no session of this process has it, also if it is of an earlier process that was killed, or of
another one that runs in the same directory.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Set
from importlib import import_module
from typing import Any

from chainlit_otel.core.sessions import NS

_SAMPLED_EVERY = 15 * NS


class Retained:
    """Counts what belongs to no session that is alive.

    Args:
        clock: Monotonic clock, in nanoseconds.
    """

    def __init__(self, clock: Callable[[], int] = time.monotonic_ns) -> None:
        self._clock = clock
        self._sampled: int | None = None
        self._directories: frozenset[str] = frozenset()

    def by_kind(self, alive: Set[str]) -> dict[tuple[str, ...], int]:
        """Return how many objects there are for other sessions than these, by kind."""
        return {
            ("chat_contexts",): _orphans("chat_context", "chat_contexts", alive),
            ("user_sessions",): _orphans("user_session", "user_sessions", alive),
            ("files",): len(self._files() - alive),
        }

    def _files(self) -> frozenset[str]:
        """Return the sessions that have files, at most some seconds old: it reads the disk."""
        now = self._clock()
        if self._sampled is None or now - self._sampled >= _SAMPLED_EVERY:
            self._sampled = now
            self._directories = _listed(import_module("chainlit.config").FILES_DIRECTORY)
        return self._directories


def _orphans(module: str, table: str, alive: Set[str]) -> int:
    # By its module name: the attribute `chat_context` of the package is another object.
    entries: dict[str, Any] = getattr(import_module(f"chainlit.{module}"), table)
    # Not a loop over the table, which may be large; the sessions that are alive are few.
    return len(entries) - sum(session in entries for session in alive)


def _listed(directory: Any) -> frozenset[str]:
    try:
        with os.scandir(directory) as entries:
            return frozenset(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return frozenset()
