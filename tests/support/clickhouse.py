"""A ClickHouse: the engine itself, in a process of its own, behind its HTTP interface."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from chainlit_otel.catalog import RECORDS
from tests.support.population import Record
from tests.support.server import python_path

# The table as the exporter of the collector makes it, without codecs, indexes and limits of age.
OTEL_LOGS = """
CREATE TABLE otel_logs (
    Timestamp DateTime64(9),
    TimestampTime DateTime DEFAULT toDateTime(Timestamp),
    TraceId String,
    SpanId String,
    TraceFlags UInt8,
    SeverityText LowCardinality(String),
    SeverityNumber UInt8,
    ServiceName LowCardinality(String),
    Body String,
    ResourceSchemaUrl LowCardinality(String),
    ResourceAttributes Map(LowCardinality(String), String),
    ScopeSchemaUrl LowCardinality(String),
    ScopeName String,
    ScopeVersion LowCardinality(String),
    ScopeAttributes Map(LowCardinality(String), String),
    LogAttributes Map(LowCardinality(String), String),
    EventName String
) ENGINE = MergeTree()
PARTITION BY toDate(TimestampTime)
PRIMARY KEY (ServiceName, TimestampTime)
ORDER BY (ServiceName, TimestampTime, Timestamp)
"""

SERVER = r"""
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import parse_qsl, urlsplit

import chdb

# A connection has what a session has: settings and temporary tables of its own.
sessions = {"": chdb.connect(sys.argv[1])}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        sql = self.rfile.read(int(self.headers["Content-Length"])).decode()
        settings = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        for name in ("database", "session_timeout"):
            settings.pop(name, None)
        session = settings.pop("session_id", "")
        if session not in sessions:
            sessions[session] = chdb.connect(sys.argv[1])
        form = "JSONCompact"
        if " FORMAT " in sql:
            sql, _, form = sql.rpartition(" FORMAT ")
        try:
            if settings:
                words = ", ".join(f"{key} = '{value}'" for key, value in settings.items())
                sessions[session].query(f"SET {words}")
            status, body = 200, bytes(sessions[session].query(sql, form).bytes())
        except Exception as error:
            status, body = 500, str(error).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


class ClickHouseServer:
    """A ClickHouse with the table `otel_logs`.

    Args:
        directory: Where it keeps its data.

    Attributes:
        address: As `--from` takes it.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    @property
    def address(self) -> str:
        return f"clickhouse://reader:secret@127.0.0.1:{self._port}/default"

    def __enter__(self) -> ClickHouseServer:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, self._directory / "data"],
            env={**os.environ, **python_path()},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._port = int(self._process.stdout.readline())
        self.run(OTEL_LOGS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.communicate()

    def run(self, sql: str, session: str = "") -> bytes:
        """Run a statement, and return its answer as JSON of rows without names."""
        url = f"http://127.0.0.1:{self._port}/?session_id={session}"
        with urllib.request.urlopen(
            urllib.request.Request(url, data=sql.encode()), timeout=240
        ) as got:
            answer: bytes = got.read()
            return answer

    def insert(self, records: Iterable[Record]) -> None:
        """Put records there as log events, as the exporter writes them."""
        self.insert_rows(map(log_row, records))

    def insert_rows(self, rows: Iterable[dict[str, Any]]) -> None:
        """Put rows of `otel_logs` there."""
        file = self._directory / "rows.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            for row in rows:
                lines.write(json.dumps(row, separators=(",", ":")) + "\n")
        columns = {
            "Timestamp": "DateTime64(9, \\'UTC\\')",
            "TraceId": "String",
            "SpanId": "String",
            "ServiceName": "String",
            "ResourceAttributes": "Map(String, String)",
            "LogAttributes": "Map(String, String)",
            "EventName": "String",
        }
        structure = ", ".join(f"{name} {kind}" for name, kind in columns.items())
        self.run(
            f"INSERT INTO otel_logs ({', '.join(columns)}) "
            f"SELECT * FROM file('{file}', 'JSONEachRow', '{structure}')"
        )


KEYS = {field.column: field.key for kind in RECORDS for field in kind.fields}
EVENTS = {kind.name: kind.event for kind in RECORDS}
RESOURCE = {
    "service_name": "service.name",
    "service_version": "service.version",
    "service_instance_id": "service.instance.id",
}


def log_row(record: Record) -> dict[str, Any]:
    """A record as a row of `otel_logs`."""
    resource = {key: record[column] for column, key in RESOURCE.items() if column in record}
    attributes = {
        "chainlit_otel.record.kind": record["kind"],
        "chainlit_otel.record.schema": str(record["schema"]),
    }
    for column, value in record.items():
        if column in KEYS and column not in ("trace_id", "span_id"):
            text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
            attributes[KEYS[column]] = text
    return {
        "Timestamp": record["time"].removesuffix("Z").replace("T", " "),
        "TraceId": record.get("trace_id", ""),
        "SpanId": record.get("span_id", ""),
        "ServiceName": record.get("service_name", ""),
        "ResourceAttributes": resource,
        "LogAttributes": attributes,
        "EventName": EVENTS.get(record["kind"], ""),
    }


def exported_rows(export: ExportLogsServiceRequest) -> Iterator[dict[str, Any]]:
    """Log events that came by OTLP, as rows of `otel_logs`: each attribute is a text."""
    for resource in export.resource_logs:
        of_resource = {one.key: text_of(one.value) for one in resource.resource.attributes}
        for scope in resource.scope_logs:
            for event in scope.log_records:
                nanoseconds = event.time_unix_nano or event.observed_time_unix_nano
                time = datetime.fromtimestamp(nanoseconds // 10**9, timezone.utc)
                yield {
                    "Timestamp": f"{time:%Y-%m-%d %H:%M:%S}.{nanoseconds % 10**9:09}",
                    "TraceId": event.trace_id.hex(),
                    "SpanId": event.span_id.hex(),
                    "ServiceName": of_resource.get("service.name", ""),
                    "ResourceAttributes": of_resource,
                    "LogAttributes": {one.key: text_of(one.value) for one in event.attributes},
                    "EventName": event.event_name,
                }


def text_of(value: AnyValue) -> str:
    """A value as the collector writes it: a text as it is, others as JSON has them."""
    kind = value.WhichOneof("value")
    if kind is None:
        return ""
    found = getattr(value, kind)
    return found if kind == "string_value" else json.dumps(found)
