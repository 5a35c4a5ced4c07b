"""The spans of FastAPI's own telemetry (0.142 and newer), with a provider of ours.

FastAPI records requests as soon as there is a provider: those to other applications in this
process, and those to Chainlit where it could not be switched off. Its spans have their paths,
queries and hosts, which are redacted here.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Span, SpanKind, Tracer

from chainlit_otel.privacy import redact_attributes

_SCOPE = "fastapi"


class PrivateTracerProvider(TracerProvider):
    """A provider that redacts the spans of FastAPI: they have nothing that a client made up."""

    def get_tracer(self, instrumenting_module_name: str, *args: Any, **kwargs: Any) -> Tracer:
        """Return a tracer for an instrumentation."""
        tracer = super().get_tracer(instrumenting_module_name, *args, **kwargs)
        return _PrivateTracer(tracer) if instrumenting_module_name == _SCOPE else tracer


class _PrivateTracer(Tracer):
    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> Span:
        redacted = redact_attributes(attributes)
        return self._tracer.start_span(name, context, kind, redacted, *args, **kwargs)

    def start_as_current_span(  # type: ignore[override]  # its type is private to the API
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> AbstractContextManager[Span]:
        redacted = redact_attributes(attributes)
        return self._tracer.start_as_current_span(name, context, kind, redacted, *args, **kwargs)
