"""A backend that takes spans, metrics and logs by OTLP over HTTP, and trees of spans as text."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, NamedTuple

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from tests.support.local import Handler, LocalServer
from tests.support.scrape import wait_until

OURS = "chainlit_otel"

_REQUESTS: dict[str, Any] = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}
_STATUS = ("unset", "ok", "error")
# What differs from run to run, or only says where some line of code is.
_NOT_SHOWN = ("exception.stacktrace", "chainlit.turn.time_to_first_token")


class Happening(NamedTuple):
    """An event of a span, or a log record."""

    name: str
    attributes: dict[str, str]
    time: int = 0


class Span(NamedTuple):
    """A span as it was exported; ids are hexadecimal, `parent` of a root is empty."""

    name: str
    trace: str
    id: str
    parent: str
    links: tuple[str, ...]
    start: int
    end: int
    status: str
    description: str
    attributes: dict[str, str]
    events: tuple[Happening, ...]
    scope: str
    resource: dict[str, str]


class Receiver(LocalServer):
    """A backend on a free port of the loopback interface.

    Attributes:
        endpoint: what `OTEL_EXPORTER_OTLP_ENDPOINT` has to say.
        headers: those of the last request to each path; their names in lower case.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._exports: list[tuple[str, Any, str]] = []
        self.headers: dict[str, dict[str, str]] = {}
        receiver = self

        class Answering(Handler):
            def do_POST(self) -> None:
                body = self.body()
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                receiver.headers[self.path] = {k.lower(): v for k, v in self.headers.items()}
                receiver._take(self.path, body)
                self.answer(kind="application/x-protobuf")

        super().__init__(Answering)
        self.endpoint = self.origin

    @property
    def env(self) -> dict[str, str]:
        """The variables by which an app exports here, soon after anything happens."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BLRP_SCHEDULE_DELAY": "50",
            "OTEL_METRIC_EXPORT_INTERVAL": "200",
        }

    @property
    def spans(self) -> list[Span]:
        """All spans that have arrived, in the order in which they began."""
        spans = [
            _span(raw, scope.scope.name, _attributes(resource.resource.attributes))
            for export in self._of("/v1/traces")
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for raw in scope.spans
        ]
        return sorted(spans, key=lambda span: span.start)

    @property
    def logs(self) -> list[Happening]:
        """All log records that have arrived; the name is that of the event, or the text."""
        return [
            Happening(
                record.event_name or _text(record.body),
                {
                    "scope": scope.scope.name,
                    "trace_id": record.trace_id.hex(),
                    **_attributes(record.attributes),
                },
            )
            for export in self._of("/v1/logs")
            for resource in export.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    @property
    def log_exports(self) -> list[ExportLogsServiceRequest]:
        """What has arrived of logs, oldest first."""
        return self._of("/v1/logs")

    @property
    def metric_exports(self) -> list[ExportMetricsServiceRequest]:
        """What has arrived of metrics, oldest first."""
        return self._of("/v1/metrics")

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics of the last export, as OTLP has them, by name."""
        exports = self.metric_exports
        return {
            metric.name: metric
            for resource in (exports[-1].resource_metrics if exports else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    @property
    def everything(self) -> str:
        """All that has arrived, as text."""
        with self._lock:
            return "\n".join(text for _, _, text in self._exports)

    def named(self, name: str) -> list[Span]:
        """All spans of a name."""
        return [span for span in self.spans if span.name == name]

    def ours(self) -> list[Span]:
        """The spans that this package makes, without those of other instrumentations."""
        return [span for span in self.spans if span.scope == OURS]

    def roots(self, session_id: str) -> list[Span]:
        """The spans of ours that carry a session's hash, without those below another of ours."""
        known, ours = hashed(session_id), self.ours()
        above = {span.id for span in ours}
        return [
            span
            for span in ours
            if span.attributes.get("session.id") == known and span.parent not in above
        ]

    def trace(self, root: Span) -> list[Span]:
        """All spans of the trace that a span belongs to."""
        return [span for span in self.spans if span.trace == root.trace]

    def wait_for(
        self, condition: Callable[[], Any], message: str = "the spans", timeout: float = 10
    ) -> Any:
        """Wait until a condition on what has arrived holds."""
        try:
            return wait_until(condition, timeout, message)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{[span.name for span in self.spans]}") from None

    def _take(self, path: str, body: bytes) -> None:
        if request := _REQUESTS.get(path):
            export = request.FromString(body)
            with self._lock:
                # Ids are bytes there, and would hide a text in them; nobody writes texts there.
                self._exports.append((path, export, str(export)))

    def _of(self, path: str) -> list[Any]:
        with self._lock:
            return [export for at, export, _ in self._exports if at == path]


def hashed(session_id: str) -> str:
    """What stands for a session id in spans."""
    return hashlib.sha256(session_id.encode()).hexdigest()[:16]


def tree(spans: Iterable[Span], names: Mapping[str, str] | None = None) -> str:
    """Spans as an indented tree, without anything that differs from run to run.

    Args:
        spans: the spans; a link or a parent that is not among them is `?`.
        names: what to say for the attribute values that differ, by value; for ids of spans too.
    """
    spans = list(spans)
    said = dict(names or {})
    here = {span.id: span.name for span in spans}
    known = {**here, **said}
    lines: list[str] = []

    def add(span: Span, depth: int) -> None:
        indent = "  " * depth
        links = "".join(f" -> {known.get(link, '?')}" for link in span.links)
        outside = " (below ?)" if span.parent and span.parent not in here else ""
        status = f" [{span.status}: {span.description}]" if span.description else ""
        plain = f" [{span.status}]" if span.status != "unset" and not status else ""
        lines.append(f"{indent}{span.name}{links}{outside}{status}{plain}")
        lines.extend(f"{indent}    {key}={value}" for key, value in _shown(span.attributes, said))
        for event in span.events:
            lines.append(f"{indent}    ! {event.name}")
            lines.extend(
                f"{indent}      {key}={value}" for key, value in _shown(event.attributes, said)
            )
        for child in spans:
            if child.parent == span.id:
                add(child, depth + 1)

    for span in spans:
        if span.parent not in here:
            add(span, 0)
    return "\n".join(lines) + "\n"


def _shown(attributes: Mapping[str, str], names: Mapping[str, str]) -> list[tuple[str, str]]:
    return [
        (key, names.get(value, value))
        for key, value in sorted(attributes.items())
        if key not in _NOT_SHOWN
    ]


def _span(raw: Any, scope: str, resource: dict[str, str]) -> Span:
    return Span(
        raw.name,
        raw.trace_id.hex(),
        raw.span_id.hex(),
        raw.parent_span_id.hex(),
        tuple(link.span_id.hex() for link in raw.links),
        raw.start_time_unix_nano,
        raw.end_time_unix_nano,
        _STATUS[raw.status.code],
        raw.status.message,
        _attributes(raw.attributes),
        tuple(
            Happening(event.name, _attributes(event.attributes), event.time_unix_nano)
            for event in raw.events
        ),
        scope,
        resource,
    )


def _attributes(raw: Iterable[Any]) -> dict[str, str]:
    return {attribute.key: _text(attribute.value) for attribute in raw}


def _text(value: AnyValue) -> str:
    kind = value.WhichOneof("value")
    return "" if kind is None else str(getattr(value, kind))
