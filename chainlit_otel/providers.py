"""Which MeterProvider takes the metrics: the application's own, or one of ours."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Thread
from time import monotonic

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.metrics.view import DropAggregation, ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.server.exposition import ScrapeReader
from chainlit_otel.settings import Settings


@dataclass(frozen=True)
class Pipeline:
    """Where the metrics go.

    Attributes:
        providers: The providers to record with.
        reader: What `/metrics` reads; None when all goes to the application's own readers.
    """

    providers: tuple[MeterProvider, ...]
    reader: ScrapeReader | None

    def flush(self, timeout: float, guard: Guard) -> bool:
        """Export everything recorded so far.

        Args:
            timeout: Seconds that this may take, whatever the exporters do.
            guard: Holds what goes wrong in an exporter.

        Returns:
            Whether the exporters were done in time.
        """
        deadline = monotonic() + timeout
        # A thread for each, that nobody waits for in vain: an exporter whose backend is down
        # goes on trying, past the timeout that it was given.
        threads = [
            Thread(target=_flush, args=(provider, timeout, guard), daemon=True)
            for provider in self.providers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(max(0.0, deadline - monotonic()))
        return not any(thread.is_alive() for thread in threads)


def metric_pipeline(settings: Settings, given: MeterProvider | None = None) -> Pipeline:
    """Reuse the application's MeterProvider, or build ours and make it the global one.

    Args:
        settings: The settings.
        given: The provider passed to `enable()`; else the global one, if somebody set it.

    Returns:
        The pipeline.

    Raises:
        ValueError: A standard variable asks for an exporter that is not there.
    """
    host = given or _host_provider()
    if host is not None and not settings.always_serve_metrics:
        return Pipeline((host,), None)
    provider, reader = _our_provider(settings)
    if host is not None:
        return Pipeline((host, provider), reader)
    if _unset(metrics.get_meter_provider()):
        metrics.set_meter_provider(provider)
    return Pipeline((provider,), reader)


def _unset(provider: MeterProvider) -> bool:
    # The API does not export the type of its default provider.
    return type(provider).__name__ == "_ProxyMeterProvider"


def _host_provider() -> MeterProvider | None:
    provider = metrics.get_meter_provider()
    ours = _ours is not None and provider is _ours[0]
    return None if ours or _unset(provider) else provider


# A global provider is set once in a process, so ours outlives `disable()` and is used again.
_ours: tuple[SdkMeterProvider, ScrapeReader] | None = None


def _our_provider(settings: Settings) -> tuple[SdkMeterProvider, ScrapeReader]:
    global _ours
    if _ours is None:
        reader = ScrapeReader()
        provider = SdkMeterProvider(
            metric_readers=[reader, *_otlp_readers()],
            resource=_resource(settings),
            views=list(_views()),
            shutdown_on_exit=False,
        )
        _ours = provider, reader
    return _ours


def _resource(settings: Settings) -> Resource:
    environment = Resource.create().attributes
    named = settings.service_name or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    return Resource.create(
        {
            SERVICE_NAME: settings.service_name
            or (str(environment[SERVICE_NAME]) if named else "chainlit"),
            SERVICE_INSTANCE_ID: environment.get(SERVICE_INSTANCE_ID) or str(uuid.uuid4()),
        }
    )


def _views() -> Iterable[View]:
    for metric in catalog.METRICS:
        if metric.kind == "histogram":
            yield View(
                instrument_name=metric.name,
                aggregation=ExplicitBucketHistogramAggregation(metric.bounds),
            )
    # FastAPI 0.142 and newer times every request by itself once a provider is set, Socket.IO's
    # polls of up to 25 s among them, which would drown every other latency.
    yield View(meter_name="fastapi", aggregation=DropAggregation())


def _otlp_readers() -> list[MetricReader]:
    """Return a reader that exports by OTLP, if the standard variables name an endpoint."""
    exporters = (os.environ.get("OTEL_METRICS_EXPORTER") or "otlp").replace(" ", "").split(",")
    endpoint = _variable("ENDPOINT")
    if not endpoint or "otlp" not in exporters:
        return []
    return [PeriodicExportingMetricReader(_otlp_exporter(_variable("PROTOCOL")))]


def _variable(name: str) -> str:
    return os.environ.get(f"OTEL_EXPORTER_OTLP_METRICS_{name}") or os.environ.get(
        f"OTEL_EXPORTER_OTLP_{name}", ""
    )


def _otlp_exporter(protocol: str) -> MetricExporter:
    if protocol in ("", "http/protobuf"):
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter()
    if protocol == "grpc":
        try:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (
                OTLPMetricExporter as GrpcMetricExporter,
            )
        except ImportError:
            raise ValueError(
                "OTEL_EXPORTER_OTLP_PROTOCOL=grpc needs a package: "
                "pip install opentelemetry-exporter-otlp-proto-grpc"
            ) from None
        return GrpcMetricExporter()
    raise ValueError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol!r}: must be http/protobuf or grpc")


def _flush(provider: MeterProvider, timeout: float, guard: Guard) -> None:
    with guard:
        force_flush = getattr(provider, "force_flush", None)
        if force_flush is not None:
            force_flush(timeout_millis=timeout * 1000)
