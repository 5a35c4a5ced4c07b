"""Where records are asked: files or a database."""

from __future__ import annotations

from collections.abc import Callable
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


@dataclass(frozen=True)
class ReadCounts:
    """What was read, and what could not be.

    Attributes:
        records: Records that were read.
        unreadable: Lines that are no record: cut by a crash, for the most part.
        other_schema: Records of a schema that this release does not know.
    """

    records: int
    unreadable: int
    other_schema: int

    def __str__(self) -> str:
        parts = [f"{self.records:,} records"]
        if self.unreadable:
            parts.append(f"{self.unreadable:,} lines skipped that are no whole record")
        if self.other_schema:
            parts.append(
                f"{self.other_schema:,} records skipped that are of another schema than "
                f"{RECORD_SCHEMA}: a newer release has written them"
            )
        return "; ".join(parts)
