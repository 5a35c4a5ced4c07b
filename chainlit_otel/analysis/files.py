"""Records in files, of a directory or of an object store, asked by DuckDB."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chainlit_otel.analysis import object_store
from chainlit_otel.analysis.selection import Selection
from chainlit_otel.analysis.source import AnalysisError, Progress, ReadCounts, scratch
from chainlit_otel.analysis.tables import (
    FIELDS,
    LONGEST_LINE,
    SQL_TYPES,
    TABLES,
    Periods,
    Row,
    all_below,
    as_cell,
    lines,
    literal,
    made,
    no_pattern,
    question,
    timestamp,
)
from chainlit_otel.catalog import RECORD_SCHEMA, RECORDS

if TYPE_CHECKING:
    import duckdb

_MEMORY = "768MiB"  # of DuckDB; what needs more goes to its temporary directory
# What the tables need to tell their rows apart, whatever is asked of them.
_ALWAYS = (
    *("time", "kind", "schema", "service_instance_id", "session_id"),
    *("chainlit_session_start", "chainlit_feedback_message"),
)
_NAME = re.compile(r"\w+")
_LOOK = 0.1  # seconds between two looks at the progress


class RecordFiles:
    """The records of all `*.jsonl` below a directory, read once into a temporary database.

    Args:
        location: A directory, or the address of one in an object store, `s3://…`.
        asked: The queries that will be asked. To read a column takes time: those that occur in none
            of them are left out.
        since: What is older is not read.
        progress: Hears how far the reading is, and the writing of an export.

    Raises:
        AnalysisError: There are no such files, or they cannot be read.
    """

    def __init__(
        self,
        location: str,
        asked: Sequence[str],
        since: datetime | None = None,
        progress: Progress | None = None,
    ) -> None:
        import duckdb

        self.progress = progress
        if "://" in location:
            if not location.startswith("s3://"):
                raise AnalysisError(
                    f"{location.partition('://')[0]}:// is not known; --from takes a directory, "
                    "s3://bucket/path or clickhouse://user:password@host:8123/database"
                )
        else:
            directory = Path(location)
            if not directory.is_dir():
                raise AnalysisError(f"{location} is not a directory; --from names one with records")
            if next(directory.rglob("*.jsonl"), None) is None:
                raise AnalysisError(f"there is no *.jsonl below {location}; is it the records_dir?")
        with ExitStack() as held:
            self._directory = held.enter_context(scratch())
            self._connection = duckdb.connect(str(self._directory / "records.db"))
            held.callback(self._connection.close)
            self._connection.execute(f"SET memory_limit = '{_MEMORY}'")
            self._connection.execute(f"SET temp_directory = {literal(str(self._directory))}")
            self._connection.execute("SET preserve_insertion_order = false")
            if "://" in location:
                held.enter_context(object_store.reachable(self._connection, location))
            self.reading = self._read(location, set(_NAME.findall(" ".join(asked))), since)
            self._held = held.pop_all()

    def close(self) -> None:
        """Give up the connection and the temporary database."""
        self._held.close()

    def _read(self, location: str, names: set[str], since: datetime | None) -> ReadCounts:
        wanted = [column for column in FIELDS if column in names or column in _ALWAYS]
        # A line that is no record is a row of nothing.
        unreadable = "(time IS NULL OR kind IS NULL OR schema IS NULL)"
        recent = "true" if since is None else f"(time >= {timestamp(since)} OR {unreadable})"

        def load(patterns: Sequence[str]) -> None:
            self._run(
                f"CREATE TABLE lines AS SELECT * FROM {lines(patterns, wanted)} WHERE {recent}"
            )

        too_long = 0
        try:
            load([all_below(location)])
        except AnalysisError as error:
            if "maximum_object_size" not in str(error) or "://" in location:
                raise
            patterns, too_long = self._without_long_lines(Path(location))
            load(patterns)
        kinds = ", ".join(literal(kind.name) for kind in RECORDS)
        known = f"schema = {RECORD_SCHEMA} AND kind IN ({kinds}) AND time IS NOT NULL"
        columns = ", ".join(
            column if column in wanted else f"CAST(NULL AS {SQL_TYPES[field.type]}) AS {column}"
            for column, field in FIELDS.items()
        )
        self._run(f"CREATE VIEW records AS SELECT {columns} FROM lines WHERE {known}")
        ((records, bad, other),) = self.rows(
            f"SELECT count(*) FILTER (WHERE {known}), count(*) FILTER (WHERE {unreadable}), "
            f"count(*) FILTER (WHERE NOT ({known}) AND NOT {unreadable}) FROM lines"
        )
        return ReadCounts(records, bad + too_long, other)

    def _without_long_lines(self, directory: Path) -> tuple[list[str], int]:
        """Copy files that have lines which DuckDB does not take, without these.

        Returns:
            The patterns of all files or their copies, and how many lines are left out.
        """
        patterns, count = [], 0
        for number, file in enumerate(sorted(directory.rglob("*.jsonl"))):
            if not file.is_file():
                continue
            if any(_is_part(piece) for piece in _pieces(file)):
                copy = self._directory / f"{number}.jsonl"
                count += _copy_short_lines(file, copy)
                file = copy
            patterns.append(no_pattern(str(file)))
        return patterns, count

    def prepare(self, periods: Periods) -> None:
        """Make the tables that questions are about."""
        self._run(f"CREATE TABLE bounds AS {periods.sql()}")
        for table in TABLES:
            self._run(made(table))

    def ask(self, name: str) -> list[Row]:
        """Return the answer to a question, a row for each line of the table."""
        answer = self._run(question(name))
        names = [column[0] for column in answer.description or ()]
        return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows that a query gives."""
        return self._run(sql).fetchall()

    def export(self, selection: Selection, form: str, file: Path) -> int:
        """Write rows to a file.

        Args:
            selection: Which rows.
            form: `csv`, `jsonl` or `parquet`.
            file: Where to; it is overwritten.

        Returns:
            How many rows.
        """
        sql = selection.sql()
        if form != "parquet":
            sql = f"SELECT {', '.join(self._as_text(sql, form))} FROM ({sql})"
        options = {
            "csv": "FORMAT csv, HEADER",
            "jsonl": "FORMAT json",
            "parquet": "FORMAT parquet, COMPRESSION zstd",
        }[form]
        ((count,),) = self.rows(f"COPY ({sql}) TO {literal(str(file))} ({options})")
        return int(count)

    def _as_text(self, sql: str, form: str) -> list[str]:
        """Return the columns of a query, times and lists in the form that records have."""
        selected = []
        for name, kind, *_ in self.rows(f"DESCRIBE {sql}"):
            if kind == "TIMESTAMP":
                selected.append(f"strftime({name}, '%Y-%m-%dT%H:%M:%S.%fZ') AS {name}")
            elif kind.endswith("[]") and form == "csv":
                selected.append(f"to_json({name}) AS {name}")
            elif kind == "VARCHAR" and form == "csv":
                selected.append(f"{as_cell(name)} AS {name}")
            else:
                selected.append(name)
        return selected

    def _run(self, sql: str) -> duckdb.DuckDBPyConnection:
        """Run a query; who waits hears how far it is, and may interrupt it."""
        import duckdb

        with ThreadPoolExecutor(1) as pool:
            running: Future[duckdb.DuckDBPyConnection]
            running = pool.submit(self._connection.execute, sql)
            try:
                while wait_for([running], _LOOK).not_done:
                    if self.progress is not None:
                        self.progress(max(0.0, self._connection.query_progress()) / 100)
                return running.result()
            except duckdb.Error as error:
                raise AnalysisError(_first_line(error)) from None
            except BaseException:
                self._connection.interrupt()
                raise


def _pieces(file: Path) -> Iterator[bytes]:
    """Yield the lines of a file; those that are too long in pieces."""
    with file.open("rb") as stream:
        while piece := stream.readline(LONGEST_LINE):
            yield piece


def _is_part(piece: bytes) -> bool:
    """Tell whether a line goes on after this piece."""
    return len(piece) == LONGEST_LINE and not piece.endswith(b"\n")


def _copy_short_lines(file: Path, copy: Path) -> int:
    """Copy the lines that are not too long, and return how many are."""
    count, is_within = 0, False
    with copy.open("wb") as kept:
        for piece in _pieces(file):
            is_part = _is_part(piece)
            if not is_part and not is_within:
                kept.write(piece)
            count += is_part and not is_within
            is_within = is_part
    return count


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
