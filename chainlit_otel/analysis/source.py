"""Where records are asked: files or a database."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chainlit_otel.analysis.selection import Selection
from chainlit_otel.analysis.tables import Periods, Row
from chainlit_otel.catalog import RECORD_SCHEMA

Progress = Callable[[float], None]
"""Is called with the share of the work that is done, from 0 to 1."""


class RecordSource(Protocol):
    """Records that can be asked.

    Attributes:
        progress: Hears how far the work is.
        reading: What was read, and what could not be.
    """

    progress: Progress | None
    reading: ReadCounts

    def prepare(self, periods: Periods) -> None:
        """Make ready for questions about these periods."""

    def ask(self, name: str) -> list[Row]:
        """Return the answer to a question."""

    def export(self, selection: Selection, form: str, file: Path) -> int:
        """Write rows to a file, and return how many."""

    def close(self) -> None:
        """Give up what is held."""


class AnalysisError(Exception):
    """What a user has to know, in one line."""


@contextmanager
def scratch() -> Iterator[Path]:
    """Give a temporary directory; what stands there is about persons, and is gone afterwards."""
    directory = tempfile.mkdtemp(prefix="chainlit-otel-")
    try:
        yield Path(directory)
    finally:
        try:
            shutil.rmtree(directory, ignore_errors=True)
        finally:  # SIGTERM may have interrupted it
            shutil.rmtree(directory, ignore_errors=True)


def counted(number: int, noun: str) -> str:
    """Return a number of things in words, the noun in the plural unless there is one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


@dataclass(frozen=True)
class ReadCounts:
    """What was read, and what could not be.

    Attributes:
        records: Records that were read.
        unreadable: Lines that are no record: cut by a crash, for the most part.
        unknown: Records of a schema or a kind that this release does not know.
    """

    records: int
    unreadable: int
    unknown: int

    def __str__(self) -> str:
        parts = [counted(self.records, "record")]
        if self.unreadable:
            parts.append(f"{counted(self.unreadable, 'line')} skipped: no whole record")
        if self.unknown:
            parts.append(
                f"{counted(self.unknown, 'record')} skipped: of another schema than "
                f"{RECORD_SCHEMA}, or of an unknown kind; a newer release has written them"
            )
        return "; ".join(parts)
