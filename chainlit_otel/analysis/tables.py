"""The tables of an analysis: their columns from the catalogue, their SQL from files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from chainlit_otel.catalog import COMMON_FIELDS, RECORD_SCHEMA, RECORDS, USAGE
from chainlit_otel.catalog.records import FieldType

LONGEST_LINE = 1 << 24
"""Bytes that DuckDB takes as one line at least; a record has some hundred."""

_GLOB = re.compile(r"[*?\[]")

Table = Literal["sessions", "turns", "feedback", "scores"]
Row = dict[str, Any]
"""A row of an answer, by its columns."""

TABLES: tuple[Table, ...] = get_args(Table)

SQL_TYPES: dict[FieldType, str] = {
    "string": "VARCHAR",
    "integer": "BIGINT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
    "time": "TIMESTAMP",
    "tools": "STRUCT(name VARCHAR, duration DOUBLE, outcome VARCHAR)[]",
    "models": "STRUCT(name VARCHAR, "
    + ", ".join(
        f"{name} {'DOUBLE' if of == 'double' else 'BIGINT'}" for name, (of, _) in USAGE.items()
    )
    + ")[]",
}
"""The type of a column in DuckDB, by the type of its field."""

FIELDS = {field.column: field for kind in RECORDS for field in (*COMMON_FIELDS, *kind.fields)}
"""Every field of any record, by its column."""

HAPPENED: dict[Table, str] = {
    "sessions": "chainlit_session_start",
    "turns": "chainlit_turn_start",
    "feedback": "time",
    "scores": "time",
}
"""Which column says when a row of a table began, by which it is in a period or not."""


@dataclass(frozen=True)
class Periods:
    """The period that a report is about, and the one of the same length before it.

    Args:
        since: When it starts.
        until: When it ends, which is not part of it.
    """

    since: datetime
    until: datetime

    @property
    def before(self) -> datetime:
        """When the period before starts."""
        return self.since - (self.until - self.since)

    def sql(self) -> str:
        """Return the table `bounds` of one row, in DuckDB's dialect."""
        return (
            f"SELECT {timestamp(self.before)} AS from_time, {timestamp(self.since)} AS since_time, "
            f"{timestamp(self.until)} AS until_time"
        )


@cache
def view(table: Table) -> str:
    """Return the SQL that makes a table of the records, in DuckDB's dialect."""
    return _read("views", table)


@cache
def question(name: str) -> str:
    """Return the SQL of a question about the tables, in DuckDB's dialect."""
    return _read("queries", name)


@cache
def in_periods(table: Table) -> str:
    """Return the SQL of a table with the column `period`: `this` or `before`."""
    happened = HAPPENED[table]
    return (
        f"SELECT viewed.*, CASE WHEN viewed.{happened} >= bounds.since_time THEN 'this' "
        "ELSE 'before' END AS period\n"
        f"FROM (\n{view(table)}) AS viewed\nCROSS JOIN bounds\n"
        f"WHERE viewed.{happened} >= bounds.from_time AND viewed.{happened} < bounds.until_time"
    )


def made(table: Table) -> str:
    """Return the SQL that makes a table with the column `period`, in DuckDB's dialect.

    What only selects records is a view: to copy them takes longer than all questions together.
    """
    kind = "VIEW" if table in ("turns", "scores") else "TABLE"
    return f"CREATE {kind} {table} AS\n{in_periods(table)}"


def _read(directory: str, name: str) -> str:
    file = files("chainlit_otel.analysis") / directory / f"{name}.sql"
    return file.read_text(encoding="utf-8")


def literal(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def timestamp(time: datetime) -> str:
    """Return a time as SQL has it, in UTC."""
    return f"CAST('{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S.%f}' AS TIMESTAMP)"


def script(periods: Periods, questions: Sequence[str]) -> str:
    """Return everything that a report asks, as a script for the shell of DuckDB.

    Args:
        periods: What it is about.
        questions: Their names.
    """
    known = f"schema = {RECORD_SCHEMA} AND time IS NOT NULL AND kind IS NOT NULL"
    parts = [
        "-- The shell of DuckDB takes this in a directory of records.",
        f"CREATE TABLE records AS\nSELECT * FROM {lines([all_below('.')])}\nWHERE {known};",
        f"CREATE TABLE bounds AS\n{periods.sql()};",
        *(f"{made(table)};" for table in TABLES),
        *(f"{question(name).rstrip()};" for name in questions),
    ]
    return "\n\n".join(parts) + "\n"


def all_below(location: str) -> str:
    """Return the pattern of all `*.jsonl` below a place."""
    place = location.rstrip("/")
    return f"{place if '://' in place else no_pattern(place)}/**/*.jsonl"


def no_pattern(path: str) -> str:
    """Return the pattern that a path alone matches, whatever signs are in it."""
    return _GLOB.sub(r"[\g<0>]", path)


def lines(patterns: Sequence[str], wanted: Iterable[str] = FIELDS) -> str:
    """Return the SQL that reads the lines of files; what is no record has no kind."""
    # As one value, a line is read faster than as columns, of which each costs time in every file.
    fields = ", ".join(f"{column} {SQL_TYPES[FIELDS[column].type]}" for column in wanted)
    places = ", ".join(map(literal, patterns))
    return (
        f"(SELECT line.* FROM read_json([{places}], format = 'newline_delimited', "
        f"records = false, columns = {{'line': 'STRUCT({fields})'}}, ignore_errors = true, "
        f"maximum_object_size = {LONGEST_LINE}))"
    )


def as_cell(column: str) -> str:
    """Return the SQL of a text that no spreadsheet takes for a formula, in DuckDB's dialect."""
    return (
        f"CASE WHEN regexp_matches({column}, '^[=+@\\t\\r-]') "
        f"THEN concat('''', {column}) ELSE {column} END"
    )
