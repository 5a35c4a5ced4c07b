"""The tracer provider of ours.

The spans of this package are light ones there. Those that FastAPI makes by itself (0.142 and
newer), as soon as there is a provider, are redacted: they have paths, queries and hosts, of
requests to other applications in this process, and of those to Chainlit where it could not be
switched off.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace import Tracer as SdkTracer
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Span, SpanKind, Tracer

from chainlit_otel import catalog
from chainlit_otel.pipeline.light_spans import LightTracer, is_default
from chainlit_otel.privacy import redact_attributes

_SCOPE = "fastapi"


class OurTracerProvider(TracerProvider):
    """A provider that redacts the spans of FastAPI: they have nothing that a client made up.

    The spans of this package are light ones, as long as nobody asks for more.

    Args:
        resource: What describes this process.
        limits: The limits of spans.
    """

    def __init__(self, resource: Resource, limits: SpanLimits) -> None:
        self._light_tracers: list[LightTracer] = []
        self._processors: list[SpanProcessor] = []
        self._is_shared = False
        super().__init__(resource=resource, shutdown_on_exit=False, span_limits=limits)
        self._is_default = is_default(self, limits)

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tracer:
        """Return a tracer for an instrumentation."""
        version = instrumenting_library_version
        tracer = super().get_tracer(instrumenting_module_name, version, *args, **kwargs)
        if instrumenting_module_name == _SCOPE:
            return _PrivateTracer(tracer)
        is_own = instrumenting_module_name == catalog.SCOPE
        if not (is_own and self._is_default and isinstance(tracer, SdkTracer)):
            return tracer
        light = LightTracer(tracer, self, InstrumentationScope(catalog.SCOPE, version or ""))
        self._light_tracers.append(light)
        self._update()
        return light

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Add a processor; one of the app wants the spans of the SDK, which it knows."""
        super().add_span_processor(span_processor)
        self._processors.append(span_processor)
        self._is_shared |= not getattr(span_processor, "takes_light_spans", False)
        self._update()

    def _update(self) -> None:
        for tracer in self._light_tracers:
            tracer.processors = () if self._is_shared else tuple(self._processors)


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
