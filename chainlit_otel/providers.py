"""Which providers take metrics and spans: the application's own, or ones of ours."""

from __future__ import annotations

import functools
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from threading import Thread
from time import monotonic
from typing import Any, TypeVar

from opentelemetry import metrics, trace
from opentelemetry._logs import get_logger_provider
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.metrics.view import DropAggregation, ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Tracer, TracerProvider

from chainlit_otel import catalog
from chainlit_otel.forks import MetricsOfOneProcess, ReaderOfOneProcess, SpansOfOneProcess, forget
from chainlit_otel.guard import Guard
from chainlit_otel.histograms import Histograms
from chainlit_otel.server.exposition import ScrapeReader
from chainlit_otel.settings import Settings
from chainlit_otel.version import __version__

T = TypeVar("T")


@dataclass(frozen=True)
class Pipeline:
    """Where metrics and spans go.

    Attributes:
        meter_providers: The providers to record metrics with.
        reader: What `/metrics` reads; None when all goes to the application's own readers.
        tracer_provider: The provider to open spans with; None for the global one, which may
            be set later.
    """

    meter_providers: tuple[MeterProvider, ...]
    reader: ScrapeReader | None
    tracer_provider: TracerProvider | None

    @property
    def histograms(self) -> Histograms | None:
        """What keeps the histograms in place of our provider; None if that keeps them itself."""
        return self.reader.histograms if self.reader is not None else None

    def given(self) -> tuple[MeterProvider | None, TracerProvider | None]:
        """Return the providers of the application, as `build_pipeline` takes them."""
        meters = self.meter_providers[0]
        return None if is_ours(meters) else meters, self.tracer_provider

    def tracer(self) -> Tracer:
        """Return the tracer of this package."""
        return trace.get_tracer(catalog.SCOPE, __version__, self.tracer_provider)

    def flush(self, timeout: float, guard: Guard) -> bool:
        """Export everything recorded so far.

        Args:
            timeout: Seconds that this may take, whatever the exporters do.
            guard: Holds what goes wrong in an exporter.

        Returns:
            Whether the exporters were done in time.
        """
        deadline = monotonic() + timeout
        providers = [
            *self.meter_providers,
            self.tracer_provider or trace.get_tracer_provider(),
            get_logger_provider(),
        ]
        # A thread for each, that nobody waits for in vain: an exporter whose backend is down
        # goes on trying, past the timeout that it was given.
        threads = [
            Thread(target=_flush, args=(provider, timeout, guard), daemon=True)
            for provider in providers
            if hasattr(provider, "force_flush")
        ]
        for thread in threads:
            _start(thread)
        for thread in threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - monotonic()))
        return not any(thread.is_alive() for thread in threads)


def build_pipeline(
    settings: Settings,
    meter_provider: MeterProvider | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Pipeline:
    """Reuse the application's providers, or build ours and make them the global ones.

    Args:
        settings: The settings.
        meter_provider: The one passed to `enable()`; else the global one, if somebody set it.
        tracer_provider: Likewise, for spans.

    Returns:
        The pipeline.

    Raises:
        ValueError: A standard variable asks for an exporter that is not there.
    """
    global _our_tracers
    _renew()
    # What is refused is refused before any global provider is set.
    exporter = None if tracer_provider is not None else _span_exporter()
    meters, reader = _meter_providers(settings, meter_provider)
    if exporter is not None:
        resource = _resource(settings)
        provider = SdkTracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(_renewable(exporter)))
        trace.set_tracer_provider(provider)
        _our_tracers = provider
    return Pipeline(meters, reader, tracer_provider)


def _span_exporter() -> Any:
    """Return an exporter if nobody has set a provider and the standard variables name an endpoint.

    Without an endpoint there is none, so that FastAPI does not open spans for nobody.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    protocol = otlp_protocol("TRACES")
    if protocol is None:
        return None
    return SpansOfOneProcess(functools.partial(_otlp_exporter, "TRACES", protocol))


def _meter_providers(
    settings: Settings, given: MeterProvider | None
) -> tuple[tuple[MeterProvider, ...], ScrapeReader | None]:
    host = given or _host_provider()
    if host is not None and not settings.always_serve_metrics:
        return (host,), None
    provider, reader = _our_provider(settings)
    if host is not None:
        return (host, provider), reader
    if _unset(metrics.get_meter_provider()):
        metrics.set_meter_provider(provider)
    return (provider,), reader


def _unset(provider: MeterProvider) -> bool:
    # The API does not export the type of its default provider.
    return type(provider).__name__ == "_ProxyMeterProvider"


def _host_provider() -> MeterProvider | None:
    provider = metrics.get_meter_provider()
    ours = _ours is not None and provider is _ours[0]
    return None if ours or _unset(provider) else provider


# A global provider is set once in a process, so ours outlives `disable()` and is used again.
_ours: tuple[SdkMeterProvider, ScrapeReader] | None = None
_our_tracers: SdkTracerProvider | None = None


def is_ours(provider: object) -> bool:
    """Tell whether a provider was built here, and not by the application."""
    return provider is not None and any(
        provider is built for built in (_our_tracers, _ours and _ours[0])
    )


def _our_provider(settings: Settings) -> tuple[SdkMeterProvider, ScrapeReader]:
    global _ours
    if _ours is None:
        exporting = _otlp_readers()
        # What an exporter sends has the shape that the standard variables ask for.
        reader = _renewable(ScrapeReader(None if exporting else Histograms()))
        provider = SdkMeterProvider(
            metric_readers=[reader, *exporting],
            resource=_resource(settings),
            views=list(_views()),
            shutdown_on_exit=False,
        )
        _ours = provider, reader
    return _ours


_renewables: list[Any] = []
_home = os.getpid()


def _renewable(thing: T) -> T:
    """Have something renewed in a forked child that begins to observe."""
    _renewables.append(thing)
    return thing


def _renew() -> None:
    """In a forked child, have our providers begin anew: they and what was made by them stay."""
    global _home
    if _home == os.getpid():
        return
    _home = os.getpid()
    for thing in _renewables:
        thing.renew()
    if _ours is not None:
        forget(_ours[0])
        _rename(_ours[0]._sdk_config.resource)
    if _our_tracers is not None:
        _rename(_our_tracers.resource)


def _rename(resource: Resource) -> None:
    """Give the resource of a forked child an instance id of its own.

    Newer SDKs do so; they put another resource in its place.
    """
    if isinstance(resource, _OfThisProcess):
        vars(resource).pop("_hash", None)
        own = {**resource.attributes, SERVICE_INSTANCE_ID: _instance_id()}
        resource._attributes = BoundedAttributes(attributes=own)


@functools.lru_cache(maxsize=1)
def _id_of_process(pid: int) -> str:
    return str(uuid.uuid4())


def _instance_id() -> str:
    return _id_of_process(os.getpid())


class _OfThisProcess(Resource):
    """A resource of ours, which is hashed once: the encoder of OTLP asks for that with each span.

    The SDK writes all of it as JSON to do so, a fifth of what it takes to export a span.
    """

    @functools.cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    __eq__ = Resource.__eq__


def _resource(settings: Settings) -> Resource:
    environment = Resource.create().attributes
    named = settings.service_name or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    resource = Resource.create(
        {
            SERVICE_NAME: settings.service_name
            or (str(environment[SERVICE_NAME]) if named else "chainlit"),
            SERVICE_INSTANCE_ID: environment.get(SERVICE_INSTANCE_ID) or _instance_id(),
        }
    )
    return _OfThisProcess(resource.attributes, resource.schema_url)


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
    protocol = otlp_protocol("METRICS")
    if protocol is None:
        return []
    exporter = MetricsOfOneProcess(functools.partial(_otlp_exporter, "METRICS", protocol))
    return [_renewable(ReaderOfOneProcess(_renewable(exporter)))]


def otlp_protocol(signal: str) -> str | None:
    """Return how to export a signal by OTLP; None if the standard variables name no endpoint.

    Raises:
        ValueError: The protocol that they ask for is unknown.
    """
    exporters = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    if not otlp_variable(signal, "ENDPOINT") or "otlp" not in exporters.replace(" ", "").split(","):
        return None
    protocol = otlp_variable(signal, "PROTOCOL") or "http/protobuf"
    if protocol not in ("http/protobuf", "grpc"):
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL (or _{signal}_PROTOCOL) is {protocol!r}: "
            "must be http/protobuf or grpc"
        )
    return protocol


def otlp_variable(signal: str, name: str) -> str:
    """Return the standard variable of one signal, else that of all of them; empty if unset."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}") or os.environ.get(
        f"OTEL_EXPORTER_OTLP_{name}", ""
    )


def _otlp_exporter(signal: str, protocol: str) -> Any:
    transport = "grpc" if protocol == "grpc" else "http"
    module, name = {
        "METRICS": ("metric_exporter", "OTLPMetricExporter"),
        "TRACES": ("trace_exporter", "OTLPSpanExporter"),
    }[signal]
    # What exports later imports these in its thread, while the app may be changing `sys.path`.
    for imported_by_exporters in ("encodings.idna", "netrc"):
        import_module(imported_by_exporters)
    try:
        found = import_module(f"opentelemetry.exporter.otlp.proto.{transport}.{module}")
    except ImportError:
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol} needs a package: "
            f"pip install opentelemetry-exporter-otlp-proto-{transport}"
        ) from None
    return getattr(found, name)()


def _start(thread: Thread) -> None:
    """Start a thread, or do here what it should, if the process exits and may start none any more.

    CPython 3.12 is so strict. The exporter's own timeout is then all there is.
    """
    try:
        thread.start()
    except RuntimeError:
        thread.run()


def _flush(provider: Any, timeout: float, guard: Guard) -> None:
    with guard:
        provider.force_flush(timeout_millis=int(timeout * 1000))
