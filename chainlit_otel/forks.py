"""What a forked child inherits and must not use: held locks, connections to a backend, figures.

The SDK starts the threads of its processors and readers in every child. It leaves the figures of
the parent in there, and the exporters with the connections of the parent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_OURS = "chainlit_otel"


def renew_locks(roots: Iterable[Any]) -> None:
    """Have every lock that objects of ours hold free, whoever held it in the parent.

    Args:
        roots: Where to begin; what these refer to is found from there.
    """
    seen: set[int] = set()
    found = list(roots)
    while found:
        thing = found.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        kind = type(thing)
        if kind.__module__ in ("_thread", "threading") and hasattr(thing, "_at_fork_reinit"):
            thing._at_fork_reinit()
        elif isinstance(thing, dict):
            found += thing.values()
        elif isinstance(thing, (list, tuple)):
            found += thing
        elif str(kind.__module__).startswith(_OURS):
            found += getattr(thing, "__dict__", {}).values()
            names = (n for base in kind.__mro__ for n in getattr(base, "__slots__", ()))
            found += [getattr(thing, name, None) for name in names]


class _OfOneProcess:
    """What exporters have in common that send nothing from a process other than their own."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self.renew()

    def renew(self) -> None:
        """Belong to this process, with connections of its own."""
        self._exporter = self._make()
        self._pid = os.getpid()

    def _is_at_home(self) -> bool:
        return self._pid == os.getpid()


class SpansOfOneProcess(_OfOneProcess, SpanExporter):
    """Exports the spans of one process.

    Args:
        make: Makes the exporter.
    """

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans."""
        if not self._is_at_home():
            return SpanExportResult.SUCCESS
        result: SpanExportResult = self._exporter.export(spans)
        return result

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Export what waits in the exporter."""
        return bool(not self._is_at_home() or self._exporter.force_flush(timeout_millis))

    def shutdown(self) -> None:
        """Close the exporter."""
        if self._is_at_home():
            self._exporter.shutdown()


class MetricsOfOneProcess(_OfOneProcess, MetricExporter):
    """Exports the metrics of one process.

    Args:
        make: Makes the exporter.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        _OfOneProcess.__init__(self, make)
        MetricExporter.__init__(
            self, self._exporter._preferred_temporality, self._exporter._preferred_aggregation
        )

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export metrics."""
        if not self._is_at_home():
            return MetricExportResult.SUCCESS
        result: MetricExportResult = self._exporter.export(metrics_data, timeout_millis, **kwargs)
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Export what waits in the exporter."""
        return bool(not self._is_at_home() or self._exporter.force_flush(timeout_millis))

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Close the exporter."""
        if self._is_at_home():
            self._exporter.shutdown(timeout_millis, **kwargs)


class ReaderOfOneProcess(PeriodicExportingMetricReader):
    """Reads the metrics of one process at intervals; a forked child has no thread for that."""

    def _at_fork_reinit(self) -> None:
        pass

    def renew(self) -> None:
        """Begin to read, in a child that has inherited this."""
        self._export_lock = Lock()
        super()._at_fork_reinit()  # type: ignore[no-untyped-call]


def forget(provider: MeterProvider) -> None:
    """Have a provider that a child has inherited forget all that the parent measured.

    Its instruments stay: whoever made them goes on to use them.
    """
    consumer: Any = provider._measurement_consumer
    consumer._lock = Lock()
    consumer._reader_storages = {
        reader: type(storage)(
            provider._sdk_config,
            reader._instrument_class_temporality,
            reader._instrument_class_aggregation,
        )
        for reader, storage in consumer._reader_storages.items()
    }
