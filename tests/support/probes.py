"""What probes are given, without an instance that observes anything."""

from __future__ import annotations

from typing import Any

from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import NoOpTracer, Tracer

from chainlit_otel import Settings, catalog
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.providers import Pipeline
from chainlit_otel.pipeline.spans import Tracing
from chainlit_otel.probes.probe import ProbeContext
from chainlit_otel.records.queue import RecordQueue
from chainlit_otel.records.recorder import Recorder


def probe_context(
    tracer: Tracer | None = None, histograms: Histograms | None = None, **settings: Any
) -> ProbeContext:
    """Return what probes share, with a guard of its own for each.

    Args:
        tracer: Makes the spans; by default it does nothing.
        histograms: Keep what is recorded; by default nothing does.
        settings: Settings other than the defaults.
    """
    guards = {name: Guard(name) for name in catalog.PROBE.values}
    providers = [] if histograms is None else [NoOpMeterProvider()]
    return ProbeContext(
        Settings(**settings),
        Pipeline(tuple(providers), None, None),
        guards,
        Telemetry(providers, guards["server"], histograms),
        Tracing(tracer or NoOpTracer(), False, guards["tracing"]),
        Recorder(RecordQueue([]), guards["records"]),
        None,
        announce=lambda _: None,
        stop=lambda: None,
    )
