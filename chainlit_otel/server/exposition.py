"""The metrics of a MeterProvider as families of prometheus_client.

The official exporter pins the SDK to one minor release, adds three scope labels to every
series and cannot show a series before its first event; this one does none of that.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from threading import Lock
from typing import Any

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricReader,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as SdkMetric
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import Metric as Family
from prometheus_client.core import Exemplar, Sample
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.histograms import Histograms, Series
from chainlit_otel.version import __version__

_SCOPE_LABELS = ("otel_scope_name", "otel_scope_version")

Labels = Mapping[str, str]


class ScrapeReader(MetricReader):
    """Hands over what a MeterProvider has, when a scraper asks for it.

    Args:
        histograms: What keeps the histograms of the catalogue, if the provider does not.
    """

    def __init__(self, histograms: Histograms | None = None) -> None:
        super().__init__()
        self.histograms = histograms
        self._lock = Lock()
        self._data: MetricsData | None = None

    def renew(self) -> None:
        """Begin anew, in a forked child that has inherited this."""
        self._lock = Lock()
        if self.histograms is not None:
            self.histograms = Histograms()

    def read(self) -> MetricsData | None:
        """Collect now and return the metrics; None if there are none."""
        with self._lock:
            self._data = None
            self.collect()
            if self._data is None or self.histograms is None:
                return self._data
            first, *others = self._data.resource_metrics
            scopes = [_kept(self.histograms), *first.scope_metrics]
            return MetricsData([ResourceMetrics(first.resource, scopes, ""), *others])

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        self._data = metrics_data

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing: a scraper comes for the metrics by itself."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Do nothing: there is nothing to close."""


def _kept(histograms: Histograms) -> ScopeMetrics:
    points: dict[catalog.Metric, list[HistogramDataPoint]] = {}
    for metric, values, series in histograms.read():
        points.setdefault(metric, []).append(_point(metric, metric.labels(values), series))
    metrics = [
        SdkMetric(
            metric.name,
            metric.description,
            metric.unit,
            Histogram(data_points, AggregationTemporality.CUMULATIVE),
        )
        for metric, data_points in points.items()
    ]
    return ScopeMetrics(InstrumentationScope(catalog.SCOPE, __version__), metrics, "")


def _point(metric: catalog.Metric, labels: Labels, series: Series) -> HistogramDataPoint:
    return HistogramDataPoint(
        attributes=labels,
        start_time_unix_nano=0,
        time_unix_nano=0,
        count=sum(series.counts),
        sum=series.sum,
        bucket_counts=series.counts,
        explicit_bounds=metric.bounds,
        min=0.0,
        max=0.0,
        exemplars=list(series.exemplars.values()),  # type: ignore[arg-type]  # of the same names
    )


class OpenTelemetryCollector(Collector):
    """Collects a reader's metrics for a registry of prometheus_client.

    Args:
        reader: The reader.
        guard: Holds what goes wrong with one metric; the others are served all the same.
    """

    def __init__(self, reader: ScrapeReader, guard: Guard) -> None:
        self._reader = reader
        self._guard = guard

    def describe(self) -> Iterable[Family]:
        """Return nothing, so that a registry does not collect in order to register."""
        return ()

    def collect(self) -> Iterable[Family]:
        """Return every metric family, with a series for each label set of the catalogue."""
        families: dict[str, Family] = {}
        data = self._reader.read()
        for resource in data.resource_metrics if data else ():
            families["target"] = _target_info(resource.resource.attributes)
            for metric, labels in _with_scope_labels(resource.scope_metrics):
                with self._guard:
                    _add(families, metric, labels)
        for histogram in _ZEROS:
            _add_zeros(families, histogram)
        return families.values()


def _target_info(attributes: Mapping[str, Any]) -> Family:
    family = Family("target", "Resource of the process.", "info")
    family.add_sample("target_info", _labels(attributes), 1)
    return family


def _with_scope_labels(scopes: Sequence[Any]) -> Iterator[tuple[SdkMetric, Labels]]:
    """Give each metric the label of its scope only where two scopes share the name."""
    owners: dict[str, set[tuple[str, str]]] = {}
    for scope in scopes:
        for metric in scope.metrics:
            owners.setdefault(_series(metric), set()).add(_identity(scope.scope))
    for scope in scopes:
        for metric in scope.metrics:
            shared = len(owners[_series(metric)]) > 1
            told = dict(zip(_SCOPE_LABELS, _identity(scope.scope), strict=True))
            yield metric, {label: value for label, value in told.items() if shared and value}


def _identity(scope: Any) -> tuple[str, str]:
    return scope.name, scope.version or ""


def _series(metric: SdkMetric) -> str:
    return catalog.prometheus_name(metric.name, metric.unit or "", "counter")


def _kind(metric: SdkMetric) -> catalog.Kind:
    if isinstance(metric.data, Sum):
        return "counter" if metric.data.is_monotonic else "updowncounter"
    if isinstance(metric.data, Gauge):
        return "gauge"
    if isinstance(metric.data, Histogram):
        return "histogram"
    raise ValueError(f"{metric.name}: {type(metric.data).__name__} has no Prometheus form")


def _add(families: dict[str, Family], metric: SdkMetric, scope: Labels) -> None:
    kind = _kind(metric)
    family = _family(families, metric.name, metric.unit or "", metric.description or "", kind)
    for point in metric.data.data_points:
        labels = {**_labels(point.attributes or {}), **scope}
        if isinstance(point, HistogramDataPoint):
            family.samples.extend(_histogram_samples(family.name, labels, point))
        elif isinstance(point, NumberDataPoint):
            suffix = "_total" if kind == "counter" else ""
            family.add_sample(family.name + suffix, dict(labels), point.value)


def _family(
    families: dict[str, Family], name: str, unit: str, help: str, kind: catalog.Kind
) -> Family:
    translated = catalog.prometheus_name(name, unit, kind)
    if kind == "counter":
        translated = translated.removesuffix("_total")
    type = "gauge" if kind == "updowncounter" else kind
    family = families.setdefault(translated, Family(translated, help, type))
    if family.type != type:
        raise ValueError(f"{name} is a {type} here and a {family.type} elsewhere")
    return family


def _labels(attributes: Mapping[str, Any]) -> dict[str, str]:
    return {
        "".join(c if c.isalnum() else "_" for c in key): value
        if isinstance(value, str)
        else json.dumps(value, default=list)
        for key, value in attributes.items()
    }


def _histogram_samples(name: str, labels: Labels, point: HistogramDataPoint) -> Iterator[Sample]:
    exemplars = {
        bisect_left(point.explicit_bounds, exemplar.value): _exemplar(exemplar)
        for exemplar in point.exemplars
        if exemplar.trace_id
    }
    edges = [*map(floatToGoString, point.explicit_bounds), "+Inf"]
    for i, (edge, total) in enumerate(zip(edges, accumulate(point.bucket_counts), strict=True)):
        yield Sample(f"{name}_bucket", {**labels, "le": edge}, total, None, exemplars.get(i))
    yield Sample(f"{name}_count", dict(labels), point.count)
    yield Sample(f"{name}_sum", dict(labels), point.sum)


def _exemplar(exemplar: Any) -> Exemplar:
    labels = {"trace_id": f"{exemplar.trace_id:032x}", "span_id": f"{exemplar.span_id:016x}"}
    return Exemplar(labels, exemplar.value, exemplar.time_unix_nano / 1e9)


def _zero_samples(metric: catalog.Metric) -> dict[frozenset[tuple[str, str]], list[Sample]]:
    empty = _point(metric, {}, Series(len(metric.bounds) + 1))
    zeros = {}
    for values in metric.label_sets:
        labels = _labels(metric.labels(values))
        zeros[frozenset(labels.items())] = list(
            _histogram_samples(metric.prometheus_name, labels, empty)
        )
    return zeros


# The SDK shows a histogram's series from its first record on, and `rate()` would lose that one.
_ZEROS = {metric: _zero_samples(metric) for metric in catalog.METRICS if metric.kind == "histogram"}


def _add_zeros(families: dict[str, Family], metric: catalog.Metric) -> None:
    family = _family(families, metric.name, metric.unit, metric.description, metric.kind)
    present = {
        frozenset(sample.labels.items())
        for sample in family.samples
        if sample.name.endswith("_count")
    }
    for labels, samples in _ZEROS[metric].items():
        if labels not in present:
            family.samples.extend(samples)
