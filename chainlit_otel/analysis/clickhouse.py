"""Records in ClickHouse, where a collector's exporter has put the log events, asked over HTTP.

Nothing is left there. Sessions, turns, feedback and scores are temporary tables while they are
asked: a table of `WITH` would be read again wherever it is named, and the sessions name many.
"""

from __future__ import annotations

import base64
import json
import shutil
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import sqlglot
from sqlglot import exp

from chainlit_otel.analysis.selection import Selection
from chainlit_otel.analysis.source import AnalysisError, Progress, ReadCounts
from chainlit_otel.analysis.tables import (
    FIELDS,
    TABLES,
    Periods,
    Row,
    as_cell,
    in_periods,
    question,
    timestamp,
)
from chainlit_otel.catalog import COMMON_FIELDS, RECORD_SCHEMA, RECORD_TIME, RECORDS, USAGE
from chainlit_otel.catalog.records import FieldType, RecordField

SETTINGS: Mapping[str, str] = {
    "join_use_nulls": "1",
    "prefer_column_name_to_alias": "1",
    "session_timezone": "UTC",
    "date_time_output_format": "iso",
    "format_csv_null_representation": "",
    "output_format_json_quote_64bit_integers": "0",
    "output_format_json_quote_denormals": "0",
    "output_format_json_named_tuples_as_objects": "1",
    "output_format_parquet_string_as_string": "1",
}
"""With these, ClickHouse takes the queries as DuckDB does, and writes what DuckDB writes."""

_OF_ONE_QUERY = ("join_use_nulls", "prefer_column_name_to_alias", "session_timezone")
_KIND = "chainlit_otel.record.kind"
_SCHEMA = "chainlit_otel.record.schema"
_KINDS = ", ".join(f"'{kind.name}'" for kind in RECORDS)
_FORMATS = {"csv": "CSVWithNames", "jsonl": "JSONEachRow", "parquet": "Parquet"}
_TIMEOUT = 600.0  # seconds without a byte of an answer
_READ_ONLY = "; a user who reads only needs readonly = 2, for settings and temporary tables"
_TOOLS = "Array(Tuple(name String, duration Float64, outcome String))"
_USED = ", ".join(
    f"{name} Nullable({'Float64' if of == 'double' else 'Int64'})"
    for name, (of, _) in USAGE.items()
)
_MODELS = f"Array(Tuple(name String, {_USED}))"

_READ: dict[FieldType, str] = {
    "string": "nullIf({0}, '')",
    "integer": "toInt64OrNull({0})",
    "double": "toFloat64OrNull({0})",
    "boolean": "if({0} = '', NULL, {0} = 'true')",
    "time": "parseDateTime64BestEffortOrNull({0}, 6, 'UTC')",
    "tools": f"JSONExtract({{0}}, '{_TOOLS}')",
    "models": f"JSONExtract({{0}}, '{_MODELS}')",
}
"""How a value of a field is read of the text that the exporter makes of it."""


class ClickHouse:
    """The records in a ClickHouse.

    Args:
        address: `clickhouse://user:password@host:8123/database`; with `?table=`, if it is another
            one than `otel_logs`, and with `&secure=1` for HTTPS.
        since: What is older is not read.
        progress: Hears how many of the tables are made.

    Raises:
        AnalysisError: It does not answer, or there is no such table.
    """

    def __init__(
        self, address: str, since: datetime | None = None, progress: Progress | None = None
    ) -> None:
        parts = urlsplit(address)
        options = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if unknown := set(options) - {"table", "secure"}:
            raise AnalysisError(f"clickhouse:// takes ?table= and ?secure=1, not {min(unknown)}")
        secure = options.get("secure", "0") not in ("", "0", "false")
        try:
            port = parts.port or (8443 if secure else 8123)
        except ValueError:
            raise AnalysisError(f"the port of {parts.hostname} is not a number") from None
        self.progress = progress
        self._place = f"{parts.hostname or 'localhost'}:{port}"
        self._url = f"{'https' if secure else 'http'}://{self._place}/"
        self._database = unquote(parts.path.strip("/")) or "default"
        self._headers = {"Content-Type": "text/plain; charset=utf-8"}
        if parts.username:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            token = base64.b64encode(pair.encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._table = options.get("table", "otel_logs")
        self._since = since
        self._session = uuid.uuid4().hex  # temporary tables are those of a session
        self._made: list[str] = []
        self.reading = self._read()

    def close(self) -> None:
        """Drop the temporary tables."""
        for name in self._made:
            self._run(f"DROP TEMPORARY TABLE IF EXISTS {name}")

    def _read(self) -> ReadCounts:
        of_kind = f"LogAttributes['{_KIND}'] IN ({_KINDS})"
        known = f"LogAttributes['{_SCHEMA}'] = '{RECORD_SCHEMA}'"
        (row,) = self._rows(
            f"SELECT countIf({of_kind} AND {known}) AS records, "
            f"countIf(NOT ({of_kind} AND {known})) AS other FROM {_quoted(self._table)} "
            f"WHERE mapContains(LogAttributes, '{_KIND}'){_recent(_time(self._since))}"
        )
        return ReadCounts(row["records"], 0, row["other"])

    def prepare(self, periods: Periods) -> None:
        """Make the tables that questions are about."""
        tables = tables_of(self._table, transpiled(periods.sql()), _time(self._since))
        for number, (name, sql) in enumerate(tables[1:], 1):
            self._run(_made(name, sql, tables))
            self._made.append(name)
            if self.progress is not None:
                self.progress(number / len(tables))

    def ask(self, name: str) -> list[Row]:
        """Return the answer to a question, a row for each line of the table."""
        return self._rows(transpiled(question(name)))

    def export(self, selection: Selection, form: str, file: Path) -> int:
        """Write rows to a file.

        Args:
            selection: Which rows.
            form: `csv`, `jsonl` or `parquet`.
            file: Where to; it is overwritten.

        Returns:
            How many rows.
        """
        records = [("records", records_view(self._table, _time(self._since)))]
        sql = with_tables(transpiled(selection.sql()), records)
        if form == "csv":
            cells = ", ".join(f"{_as_cell(row)} AS {row['name']}" for row in self._columns(sql))
            sql = f"SELECT {cells} FROM ({sql})"
        with file.open("wb") as table, self._answer(f"{sql} FORMAT {_FORMATS[form]}") as answer:
            shutil.copyfileobj(answer, table)
        (row,) = self._rows(f"SELECT count() AS n FROM ({sql})")
        return int(row["n"])

    def _columns(self, sql: str) -> list[Row]:
        return self._rows(f"DESCRIBE TABLE ({sql})")

    def _rows(self, sql: str) -> list[Row]:
        with self._answer(f"{sql} FORMAT JSONCompact") as answer:
            document = json.load(answer)
        names = [column["name"] for column in document["meta"]]
        kinds = [column["type"] for column in document["meta"]]
        return [
            {name: _value(value, kind) for name, value, kind in zip(names, row, kinds, strict=True)}
            for row in document["data"]
        ]

    def _run(self, sql: str) -> None:
        with self._answer(sql) as answer:
            answer.read()

    def _answer(self, sql: str) -> IO[bytes]:
        session = {"session_id": self._session, "session_timeout": f"{_TIMEOUT:.0f}"}
        query = urlencode({**SETTINGS, **session, "database": self._database})
        request = urllib.request.Request(
            f"{self._url}?{query}", data=sql.encode(), headers=self._headers
        )
        try:
            answer: IO[bytes] = urllib.request.urlopen(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as error:
            says = error.read(2000).decode(errors="replace").strip().partition("\n")[0]
            fix = _READ_ONLY if "(READONLY)" in says else ""
            raise AnalysisError(f"{self._place}: {says or error.reason}{fix}") from None
        except OSError as error:
            reason = getattr(error, "reason", error)
            raise AnalysisError(f"{self._place} does not answer: {reason}") from None
        return answer


def _as_cell(column: Row) -> str:
    """Return the SQL of a column as a CSV table has it."""
    name, kind = column["name"], column["type"]
    if kind.startswith("Array"):
        return f"toJSONString({name})"
    return transpiled(as_cell(name)) if kind.endswith(("String", "String)", "String))")) else name


def _value(value: Any, kind: str) -> Any:
    """Return a value of an answer as Python has it."""
    if value is None:
        return None
    if "DateTime" in kind:
        return datetime.fromisoformat(value.removesuffix("Z"))
    if "Date" in kind:
        return datetime.fromisoformat(value).date()
    return float(value) if "Float" in kind else value


def tables_of(table: str, bounds: str, since: str = "") -> list[tuple[str, str]]:
    """Return the tables of a report above a table of the exporter, each by its name and SQL.

    Args:
        table: Of the exporter.
        bounds: The SQL of the table `bounds`, in ClickHouse's dialect.
        since: The SQL of a time; what is older is left out.
    """
    return [
        ("records", records_view(table, since)),
        ("bounds", bounds),
        *((name, transpiled(in_periods(name))) for name in TABLES),
    ]


def script(table: str, periods: Periods, questions: Sequence[str]) -> str:
    """Return everything that a report asks, as a script for the client of ClickHouse.

    Args:
        table: Of the exporter.
        periods: What the report is about.
        questions: Their names.
    """
    tables = tables_of(table, transpiled(periods.sql()), _time(periods.before))
    settings = ", ".join(f"{name} = '{value}'" for name, value in SETTINGS.items())
    made = [_made(name, sql, tables) for name, sql in tables[1:]]
    queries = [transpiled(question(name)) for name in questions]
    return ";\n\n".join([f"SET {settings}", *made, *queries]) + ";\n"


def _made(name: str, sql: str, tables: list[tuple[str, str]]) -> str:
    """Return the statement that makes a temporary table of the records, and of `bounds`."""
    needed = [table for table in tables if table[0] in ("records", "bounds")]
    return f"CREATE TEMPORARY TABLE {name} AS\n{with_tables(sql, needed)}"


def one_query(name: str, select: str, tables: list[tuple[str, str]]) -> str:
    """Return a query that needs nothing in the database but the table of the exporter.

    Args:
        name: Of a question.
        select: What is wanted of its answer, the table `answer`; in DuckDB's dialect.
        tables: Those that `tables_of` returns.
    """
    settings = ", ".join(f"{name} = '{SETTINGS[name]}'" for name in _OF_ONE_QUERY)
    asked = with_tables(transpiled(select), [*tables, ("answer", transpiled(question(name)))])
    return f"{asked}\nSETTINGS {settings}"


def _time(time: datetime | None) -> str:
    return "" if time is None else transpiled(timestamp(time))


def _recent(since: str) -> str:
    return since and f"\nAND Timestamp >= {since}"


@cache
def records_view(table: str, since: str = "") -> str:
    """Return the SQL that makes records of the log events of a table of the exporter.

    Args:
        table: Of the exporter.
        since: The SQL of a time; what is older is left out.
    """
    own = {
        "time": "toTimeZone(CAST(Timestamp AS DateTime64(6)), 'UTC')",
        "kind": f"LogAttributes['{_KIND}']",
        "schema": f"toInt64OrNull(LogAttributes['{_SCHEMA}'])",
        "trace_id": "nullIf(TraceId, '')",
        "span_id": "nullIf(SpanId, '')",
    }
    columns = ",\n    ".join(
        f"{own.get(column) or _read_of(field)} AS {column}" for column, field in FIELDS.items()
    )
    return (
        f"SELECT\n    {columns}\nFROM {_quoted(table)}\n"
        f"WHERE LogAttributes['{_SCHEMA}'] = '{RECORD_SCHEMA}'\n"
        f"AND LogAttributes['{_KIND}'] IN ({_KINDS}){_recent(since)}"
    )


def _read_of(field: RecordField) -> str:
    is_common = field in COMMON_FIELDS and field != RECORD_TIME
    attributes = "ResourceAttributes" if is_common else "LogAttributes"
    return _READ[field.type].format(f"{attributes}['{field.key}']")


@cache
def transpiled(sql: str) -> str:
    """Return a query in DuckDB's dialect in that of ClickHouse."""
    tree = sqlglot.parse_one(sql, read="duckdb").transform(_translated)
    return tree.sql(dialect="clickhouse", pretty=True, comments=False)


def _translated(node: exp.Expression) -> exp.Expression:
    """Return what ClickHouse calls otherwise, where sqlglot does not know it."""
    if isinstance(node, exp.PercentileCont | exp.Quantile):
        # The same interpolation as DuckDB's; the quantile() of ClickHouse is an estimate.
        of = node.args["quantile"] if isinstance(node, exp.Quantile) else node.expression
        return exp.Anonymous(this=f"quantileExactInclusive({of.sql()})", expressions=[node.this])
    if isinstance(node, exp.AggFunc) and isinstance(node.this, exp.Order):
        # ClickHouse has no order within an aggregate.
        node.set("this", node.this.this)
    if isinstance(node, exp.DataType) and node.is_type("TIMESTAMP", "TIMESTAMPNTZ"):
        # Of a timestamp, sqlglot keeps the whole seconds alone.
        return exp.DataType.build("Nullable(DateTime64(6))", dialect="clickhouse")
    if isinstance(node, exp.DateDiff):
        unit = node.args["unit"].name.lower()
        return exp.Anonymous(
            this="dateDiff", expressions=[exp.Literal.string(unit), node.expression, node.this]
        )
    return node


def with_tables(sql: str, tables: list[tuple[str, str]]) -> str:
    """Return a query that brings the tables along that it asks, and those that these ask."""
    tree = sqlglot.parse_one(sql, read="clickhouse")
    used = _tables_of(tree)
    needed: list[tuple[str, str]] = []
    for name, text in reversed(tables):
        if name in used:
            needed.insert(0, (name, text))
            used |= _tables_of(sqlglot.parse_one(text, read="clickhouse"))
    common = [f"{name} AS (\n{text}\n)" for name, text in needed]
    if inner := tree.args.get("with_") or tree.args.get("with"):
        common += [one.sql(dialect="clickhouse", pretty=True) for one in inner.expressions]
        inner.pop()
    rest = tree.sql(dialect="clickhouse", pretty=True)
    return f"WITH {', '.join(common)}\n{rest}" if common else rest


def _tables_of(tree: exp.Expr) -> set[str]:
    return {table.name for table in tree.find_all(exp.Table)}


def _quoted(table: str) -> str:
    return ".".join("`" + part.replace("`", "") + "`" for part in table.split("."))
