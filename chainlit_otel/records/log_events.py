"""Records as log events of OpenTelemetry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from opentelemetry._logs import Logger, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from chainlit_otel import catalog
from chainlit_otel.pipeline.spans import utf8_safe
from chainlit_otel.records.rows import Record, fields_of

# What the log record itself has.
_OWN = (catalog.ID_OF_TRACE, catalog.ID_OF_SPAN)


class LogEvents:
    """Emits records as log events.

    Args:
        logger: Emits them.
    """

    name = "log"

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def __str__(self) -> str:
        return "CHAINLIT_OTEL_EXPORT_RECORDS"

    def write(self, rows: Sequence[Record]) -> int:
        """Emit rows, and return how many there were."""
        for row in rows:
            self._logger.emit(
                timestamp=row.time,
                context=_context(row),
                severity_number=SeverityNumber.INFO,
                event_name=row.kind.event,
                attributes=_attributes(row),
            )
        return len(rows)

    def close(self) -> None:
        """Do nothing: the provider is not ours to shut down."""


def _attributes(row: Record) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        catalog.RECORD_KIND_ATTRIBUTE.key: row.kind.name,
        catalog.RECORD_SCHEMA_KEY: catalog.RECORD_SCHEMA,
    }
    for key, value in fields_of(row).items():
        if key in _OWN:
            continue
        if isinstance(value, list):
            # Few stores keep lists of objects, all keep texts.
            value = utf8_safe(json.dumps(value, ensure_ascii=False, separators=(",", ":")))
        attributes[key] = value
    return attributes


def _context(row: Record) -> Context:
    """Return a context in which the span of the row's turn is current, or none is."""
    trace_id = row.values.get(catalog.ID_OF_TRACE)
    span_id = row.values.get(catalog.ID_OF_SPAN)
    if not trace_id:
        return Context()
    span = SpanContext(
        int(trace_id, 16), int(span_id or "0", 16), False, TraceFlags(TraceFlags.SAMPLED)
    )
    return set_span_in_context(NonRecordingSpan(span), Context())
