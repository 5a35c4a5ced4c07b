"""The tables of an analysis: their columns from the catalogue, their SQL from files."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from chainlit_otel.catalog import COMMON_FIELDS, RECORD_KIND, RECORD_SCHEMA_FIELD, RECORDS
from chainlit_otel.catalog.records import FieldType

Table = Literal["sessions", "turns", "feedback", "scores"]
TABLES: tuple[Table, ...] = get_args(Table)

SQL_TYPES: dict[FieldType, str] = {
    "string": "VARCHAR",
    "integer": "BIGINT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
    "time": "TIMESTAMP",
    "tools": "STRUCT(name VARCHAR, duration DOUBLE, outcome VARCHAR)[]",
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

COLUMNS_OF_RECORDS = [
    c for c in FIELDS if c not in (RECORD_KIND.column, RECORD_SCHEMA_FIELD.column)
]


@cache
def view(table: Table) -> str:
    """Return the SQL that makes a table of the records, in DuckDB's dialect."""
    return _read("views", table)


@cache
def question(name: str) -> str:
    """Return the SQL of a question about the tables, in DuckDB's dialect."""
    return _read("queries", name)


def _read(directory: str, name: str) -> str:
    file = files("chainlit_otel.analysis") / directory / f"{name}.sql"
    return file.read_text(encoding="utf-8")


def literal(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"
