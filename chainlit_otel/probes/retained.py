"""What Chainlit keeps for sessions that are gone: entries of its tables, and directories of files.

`chat_contexts` is never cleaned, `user_sessions` only for websocket sessions whose end went well,
and the files of an HTTP session only if somebody deletes it. A directory counts as left behind if
no session of this process has it: one of an earlier process that was killed does, and so does one
of another process that runs in the same directory.
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
        """Return the sessions that have files, as of some seconds ago: it takes the disk."""
        now = self._clock()
        if self._sampled is None or now - self._sampled >= _SAMPLED_EVERY:
            self._sampled = now
            self._directories = _listed(import_module("chainlit.config").FILES_DIRECTORY)
        return self._directories


def _orphans(module: str, table: str, alive: Set[str]) -> int:
    # `chainlit.chat_context` as an attribute is something else, of the same name.
    entries: dict[str, Any] = getattr(import_module(f"chainlit.{module}"), table)
    # The table may have grown for a long time; those alive are few.
    return len(entries) - sum(session in entries for session in alive)


def _listed(directory: Any) -> frozenset[str]:
    try:
        with os.scandir(directory) as entries:
            return frozenset(entry.name for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return frozenset()
