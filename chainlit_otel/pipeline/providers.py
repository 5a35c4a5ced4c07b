"""The providers of metrics and spans: the application's own, or ours."""

from __future__ import annotations

import functools
import inspect
import os
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from threading import Thread
from time import monotonic
from typing import Any, TypeVar

from opentelemetry import metrics, trace
from opentelemetry._logs import Logger, LoggerProvider, get_logger_provider
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk._logs import LoggerProvider as SdkLoggerProvider
from opentelemetry.sdk.environment_variables import OTEL_METRICS_EXEMPLAR_FILTER
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.view import DropAggregation, ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import SpanLimits
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.trace import Tracer, TracerProvider

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.exporters import (
    log_processors,
    metric_readers,
    one_line,
    span_processors,
    warn_of_logs,
)
from chainlit_otel.pipeline.forks import forget
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.pipeline.instruments import BUCKET_ADVICE
from chainlit_otel.pipeline.kept_traces import TraceKeeper
from chainlit_otel.pipeline.losses import Losses, destination
from chainlit_otel.pipeline.reader import ScrapeReader
from chainlit_otel.pipeline.tracer_provider import OurTracerProvider
from chainlit_otel.settings import Settings, warn
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
        logger_provider: The provider to emit records with; None if nobody wants them, or has them.
        keeper: Decides which turns keep their spans; None if all do.
    """

    meter_providers: tuple[MeterProvider, ...]
    reader: ScrapeReader | None
    tracer_provider: TracerProvider | None
    logger_provider: LoggerProvider | None = None
    keeper: TraceKeeper | None = None

    @property
    def histograms(self) -> Histograms | None:
        """What keeps the histograms in place of our provider; None if that keeps them itself."""
        return self.reader.histograms if self.reader is not None else None

    def host_providers(self) -> tuple[MeterProvider | None, TracerProvider | None]:
        """Return the providers of the application, as `build_pipeline` takes them."""
        meters = self.meter_providers[0]
        return None if is_ours(meters) else meters, self.tracer_provider

    def tracer(self) -> Tracer:
        """Return the tracer of this package."""
        return trace.get_tracer(catalog.SCOPE, __version__, self.tracer_provider)

    def destinations(self) -> dict[str, list[str]]:
        """Return where metrics and spans are sent, in words without a secret."""
        sent: dict[str, list[str]] = {"metrics": [], "spans": []}
        for provider in self.meter_providers:
            sent["metrics"] += _destinations(provider, "metrics", "MeterProvider")
        tracers = self.tracer_provider or trace.get_tracer_provider()
        if not isinstance(tracers, trace.ProxyTracerProvider):
            sent["spans"] += _destinations(tracers, "spans", "TracerProvider")
        if self.logger_provider is not None:
            sent["records"] = _destinations(self.logger_provider, "records", "LoggerProvider")
        return sent

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
            self.logger_provider or get_logger_provider(),
        ]
        # A thread for each, since an exporter whose backend is down retries beyond the timeout that
        # it was given.
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
        The pipeline. Exporters that the standard variables name and that cannot be made are not
        in it.
    """
    global _our_tracers
    _renew()
    meters, reader = _meter_providers(settings, meter_provider)
    tracers = None if tracer_provider is not None else _tracer_provider(settings)
    if tracers is not None:
        trace.set_tracer_provider(tracers)
        _our_tracers = tracers
    loggers = _logger_provider(settings)
    if loggers is None and not _has_logger_provider():
        warn_of_logs()
    return Pipeline(meters, reader, tracer_provider, loggers, _keep_by(settings, tracer_provider))


def _keep_by(settings: Settings, given: TracerProvider | None) -> TraceKeeper | None:
    """Have our provider keep the spans that the settings ask for; return what does, if it must."""
    is_asked = settings.trace_keep == "notable"
    keeper.share = settings.trace_share if is_asked else None
    provider = given or trace.get_tracer_provider()
    if not is_asked or isinstance(provider, trace.ProxyTracerProvider):
        return None
    if not is_ours(provider):
        warn(
            "CHAINLIT_OTEL_TRACE_KEEP=notable keeps all: spans go to the TracerProvider of the "
            "application, whose sampler and collector decide"
        )
        return None
    return keeper


def _has_logger_provider() -> bool:
    return type(get_logger_provider()).__name__ != "ProxyLoggerProvider"


def _logger_provider(settings: Settings) -> LoggerProvider | None:
    """Return what takes the records: the provider of the application, or one of ours."""
    global _our_loggers
    if not settings.export_records:
        return None
    if not EVENTS:
        warn("CHAINLIT_OTEL_EXPORT_RECORDS sends nothing: it needs opentelemetry-sdk 1.37 or newer")
        return None
    if _has_logger_provider():
        return get_logger_provider()
    if _our_loggers is None:
        processors = log_processors(losses)
        if not processors:
            warn("CHAINLIT_OTEL_EXPORT_RECORDS sends nothing: set OTEL_EXPORTER_OTLP_ENDPOINT")
            return None
        _our_loggers = SdkLoggerProvider(resource=resource_of(settings), shutdown_on_exit=False)
        for processor in processors:
            _sent["records"].append(destination(processor.delivery.exporter))
            _renewable(processor.delivery)
            _our_loggers.add_log_record_processor(processor)
    return _our_loggers


def _tracer_provider(settings: Settings) -> SdkTracerProvider | None:
    """Return a provider if the standard variables name an exporter and nobody has set a provider.

    Without an exporter there is none, so that FastAPI does not open spans for nobody.
    """
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    processors = span_processors(losses)
    if not processors:
        return None
    provider = OurTracerProvider(resource_of(settings), _span_limits())
    for processor in processors:
        _sent["spans"].append(destination(processor.delivery.exporter))
        _renewable(processor.delivery)
    keeper.processors = [*processors]
    provider.add_span_processor(keeper)
    return provider


def _span_limits() -> SpanLimits:
    try:
        return SpanLimits()
    except ValueError as error:
        warn(f"the limits of spans are ignored, the defaults hold: {one_line(error)}")
        return SpanLimits(
            max_attributes=128,
            max_events=128,
            max_links=128,
            max_span_attributes=128,
            max_event_attributes=128,
            max_link_attributes=128,
            max_attribute_length=SpanLimits.UNSET,
            max_span_attribute_length=SpanLimits.UNSET,
        )


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
# Never the global one: the log of the application is not ours to export.
_our_loggers: SdkLoggerProvider | None = None
_sent: dict[str, list[str]] = {"metrics": [], "spans": [], "records": []}


def _destinations(provider: object, signal: str, kind: str) -> list[str]:
    return _sent[signal] if is_ours(provider) else [f"the {kind} of the app"]


def is_ours(provider: object) -> bool:
    """Tell whether a provider was built here, and not by the application."""
    return provider is not None and any(
        provider is built for built in (_our_tracers, _our_loggers, _ours and _ours[0])
    )


def _our_provider(settings: Settings) -> tuple[SdkMeterProvider, ScrapeReader]:
    global _ours
    if _ours is None:
        exporting = metric_readers(losses)
        for one in exporting:
            _sent["metrics"].append(destination(one.delivery.exporter))
            _renewable(one)
            _renewable(one.delivery)
        exemplars = _exemplar_filter()
        # The histograms of an exporter are those of the SDK, as the standard variables configure
        # them.
        reader = _renewable(ScrapeReader(None if exporting else Histograms(exemplars)))
        provider = SdkMeterProvider(
            metric_readers=[reader, *exporting],
            resource=resource_of(settings),
            views=list(_views()),
            shutdown_on_exit=False,
            exemplar_filter=_EXEMPLAR_FILTERS[exemplars](),
        )
        _ours = provider, reader
    return _ours


class _OfKeptTraces(TraceBasedExemplarFilter):
    """Takes the values of sampled spans that are kept, those of the app's own instruments, too."""

    def should_sample(
        self, value: float, time_unix_nano: int, attributes: Any, context: Context
    ) -> bool:
        span = trace.get_current_span(context).get_span_context()
        return keeper.is_kept(span.trace_id) and super().should_sample(
            value, time_unix_nano, attributes, context
        )


_EXEMPLAR_FILTERS: dict[str, Any] = {
    "trace_based": _OfKeptTraces,
    "always_on": AlwaysOnExemplarFilter,
    "always_off": AlwaysOffExemplarFilter,
}


def _exemplar_filter() -> str:
    asked = os.environ.get(OTEL_METRICS_EXEMPLAR_FILTER) or "trace_based"
    name = asked.strip().lower()
    if name in _EXEMPLAR_FILTERS:
        return name
    warn(
        f"{OTEL_METRICS_EXEMPLAR_FILTER}={asked!r} is ignored, trace_based holds: it must be one "
        f"of {', '.join(_EXEMPLAR_FILTERS)}"
    )
    return "trace_based"


# Those of all exporters that are made here; like them it lives as long as the process.
losses = Losses()

# Before 1.37 an event was an API of its own.
EVENTS = "event_name" in inspect.signature(Logger.emit).parameters
_renewables: list[Any] = [losses]
_renewed_in = os.getpid()


def _renewable(thing: T) -> T:
    """Register something to be renewed in a forked child that starts to observe."""
    _renewables.append(thing)
    return thing


# Of our provider of spans, which lives as long as the process.
keeper = _renewable(TraceKeeper())


def _renew() -> None:
    """In a forked child, reset our providers; they and their instruments stay the same objects."""
    global _renewed_in
    if _renewed_in == os.getpid():
        return
    _renewed_in = os.getpid()
    for thing in _renewables:
        thing.renew()
    if _ours is not None:
        forget(_ours[0])
        _rename(_ours[0]._sdk_config.resource)
    if _our_tracers is not None:
        _rename(_our_tracers.resource)
    if _our_loggers is not None:
        _rename(_our_loggers.resource)


def _rename(resource: Resource) -> None:
    """Give the resource of a forked child an instance id of its own.

    Newer SDKs do so; they put another resource in its place.
    """
    if isinstance(resource, _CachedResource):
        vars(resource).pop("_hash", None)
        own = {**resource.attributes, SERVICE_INSTANCE_ID: _instance_id()}
        resource._attributes = BoundedAttributes(attributes=own)


@functools.lru_cache(maxsize=1)
def _id_of_process(pid: int) -> str:
    return str(uuid.uuid4())


def _instance_id() -> str:
    return _id_of_process(os.getpid())


class _CachedResource(Resource):
    """A resource whose hash is computed once: the encoder of OTLP needs it for each span.

    The SDK writes the whole resource as JSON for it, a fifth of the time that a span takes.
    """

    @functools.cached_property
    def _hash(self) -> int:
        return super().__hash__()

    def __hash__(self) -> int:
        return self._hash

    __eq__ = Resource.__eq__


def resource_of(settings: Settings) -> Resource:
    """Return what describes this process in all that is exported by providers of ours."""
    try:
        environment = Resource.create()
    except Exception as error:  # noqa: BLE001 - detectors are anybody's; old SDKs let theirs raise
        warn(f"OTEL_EXPERIMENTAL_RESOURCE_DETECTORS is ignored: {type(error).__name__}")
        environment = OTELResourceDetector().detect()
    name = settings.service_name or str(environment.attributes.get(SERVICE_NAME, ""))
    instance = environment.attributes.get(SERVICE_INSTANCE_ID)
    # The name by which the SDK calls a service without one.
    unnamed = not name or name.startswith("unknown_service")
    ours = {
        SERVICE_NAME: "chainlit" if unnamed else name,
        SERVICE_INSTANCE_ID: instance or _instance_id(),
    }
    resource = environment.merge(Resource(ours))
    return _CachedResource(resource.attributes, resource.schema_url)


def _views() -> Iterable[View]:
    for metric in catalog.METRICS:
        # A view wins over the preference of an exporter, such as exponential buckets.
        if metric.kind == "histogram" and not BUCKET_ADVICE:
            yield View(
                instrument_name=metric.name,
                aggregation=ExplicitBucketHistogramAggregation(metric.bounds),
            )
    # A dozen series for each route and status, which no panel shows.
    yield View(instrument_name="http.server.*.body.size", aggregation=DropAggregation())
    # FastAPI 0.142 and newer times every request by itself once a provider is set, Socket.IO's
    # polls of up to 25 s among them, which would drown every other latency.
    yield View(meter_name="fastapi", aggregation=DropAggregation())


def _start(thread: Thread) -> None:
    """Start a thread; run its target here if the process exits and cannot start one any more.

    That is so from CPython 3.12 on. Then only the exporter's own timeout applies.
    """
    try:
        thread.start()
    except RuntimeError:
        thread.run()


def _flush(provider: Any, timeout: float, guard: Guard) -> None:
    with guard:
        provider.force_flush(timeout_millis=int(timeout * 1000))
