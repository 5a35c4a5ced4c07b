"""The metrics of a MeterProvider as families of prometheus_client.

The official exporter pins the SDK to one minor release, adds three scope labels to every series,
and cannot show a series before its first event; this one does none of that.

The result can always be rendered and parsed, whatever the application measures: series that become
the same in Prometheus are merged, and what cannot be shown is left out, counted, and logged once.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from opentelemetry.sdk.metrics.export import (
    Gauge,
    Histogram,
    HistogramDataPoint,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as SdkMetric
from prometheus_client import Metric as Family
from prometheus_client.core import Exemplar, Sample
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.histograms import Series
from chainlit_otel.pipeline.reader import Dropped, ScrapeReader
from chainlit_otel.server.rendering import names_of

Labels = tuple[tuple[str, str], ...]
Scope = tuple[str, str]
"""The name and the version of an instrumentation scope."""

_SCOPE_LABELS = ("otel_scope_name", "otel_scope_version")

# Prometheus itself gives these to the samples of histograms and summaries.
_RESERVED_LABELS = ("le", "quantile")


class OpenTelemetryCollector(Collector):
    """Collects a reader's metrics, and those of the process, as families of prometheus_client.

    Args:
        reader: The reader.
        guard: Holds what goes wrong with one metric; the others are served all the same.
        process: Collects the metrics of the process.
        label_sets: Returns the label sets of a histogram that exist before their first value. The
            SDK shows a series from its first record on, and `rate()` would lose that one.
    """

    def __init__(
        self,
        reader: ScrapeReader,
        guard: Guard,
        process: Collector,
        label_sets: Callable[[catalog.Metric], Iterable[catalog.LabelSet]],
    ) -> None:
        self._reader = reader
        self._guard = guard
        self._process = process
        self._label_sets = label_sets

    def collect(self) -> Iterable[Family]:
        """Return every metric family, with a series for each label set of the catalogue."""
        data = self._reader.read()
        resources = data.resource_metrics if data else ()
        families = _Families(self._reader.dropped)
        # First, so that no metric of others takes the name of one of these or of the catalogue.
        with self._guard:
            for family in self._process.collect():
                families.add(family)
        for resource in resources:
            with self._guard:
                families.add(_target(resource.resource.attributes))
        for row in catalog.METRICS:
            families.declare(_family_name(row.name, row.unit, row.kind), row.kind, row.description)
        others: list[tuple[SdkMetric, Scope]] = []
        for resource in resources:
            for metrics in resource.scope_metrics:
                scope = metrics.scope.name, metrics.scope.version or ""
                for metric in metrics.metrics:
                    if scope[0] == catalog.SCOPE and metric.name in _CATALOGUE:
                        with self._guard:
                            families.add_metric(metric, {})
                    else:
                        others.append((metric, scope))
        for histogram in self._reader.histograms.read() if self._reader.histograms else ():
            with self._guard:
                families.add_series(*histogram)
        for row in _EDGES:
            families.add_zeros(row, self._label_sets(row))
        for metric, labels in families.with_scope_labels(others):
            with self._guard:
                families.add_metric(metric, labels)
        return families.rendered()


_CATALOGUE = frozenset(metric.name for metric in catalog.METRICS)


def _target(attributes: Mapping[str, Any]) -> Family:
    family = Family("target", "Resource of the process.", "info")
    family.add_sample("target_info", dict(_labels(attributes)), 1)
    return family


def _kind(metric: SdkMetric) -> catalog.Kind | None:
    if isinstance(metric.data, Sum):
        return "counter" if metric.data.is_monotonic else "updowncounter"
    if isinstance(metric.data, Gauge):
        return "gauge"
    return "histogram" if isinstance(metric.data, Histogram) else None


def _family_name(name: str, unit: str, kind: catalog.Kind) -> str:
    translated = catalog.prometheus_name(name, unit, kind)
    return translated.removesuffix("_total") if kind == "counter" else translated


# What each type adds to the name of its family in a sample with a number.
_SUFFIXES = {"counter": "_total", "info": "_info"}


class _Buckets(NamedTuple):
    """One series of a histogram.

    Attributes:
        totals: How many values there are up to each upper edge.
        sum: The sum of the values.
        exemplars: By the upper edge of their bucket.
    """

    totals: dict[str, int]
    sum: float
    exemplars: dict[str, Exemplar]

    def plus(self, other: _Buckets) -> _Buckets:
        totals = {edge: total + other.totals[edge] for edge, total in self.totals.items()}
        return _Buckets(totals, self.sum + other.sum, {**self.exemplars, **other.exemplars})


class _Family:
    """A family in the making: each series is in it once."""

    def __init__(self, name: str, type: str, help: str) -> None:
        self.family = Family(name, _utf8_safe(help), type)
        self.names = names_of(self.family)
        self.sample_name = name + _SUFFIXES.get(type, "")
        self.numbers: dict[Labels, float] = {}
        self.histograms: dict[Labels, _Buckets] = {}

    def rendered(self) -> Family:
        name = self.sample_name
        samples = [Sample(name, dict(labels), n) for labels, n in self.numbers.items()]
        for labels, buckets in self.histograms.items():
            samples += _histogram_samples(self.family.name, dict(labels), buckets)
        self.family.samples = samples
        return self.family


def _histogram_samples(name: str, labels: dict[str, str], buckets: _Buckets) -> Iterator[Sample]:
    for edge, total in buckets.totals.items():
        exemplar = buckets.exemplars.get(edge)
        yield Sample(f"{name}_bucket", {**labels, "le": edge}, total, None, exemplar)
    yield Sample(f"{name}_count", labels, total)
    yield Sample(f"{name}_sum", labels, buckets.sum)


class _Families:
    """All that one scrape shows."""

    def __init__(self, dropped: Dropped) -> None:
        self._dropped = dropped
        self._families: dict[str, _Family] = {}
        self._taken: set[str] = set()

    def declare(self, name: str, kind: str, help: str) -> _Family | None:
        """Return the family of this name; None if the name means something else already."""
        type = "gauge" if kind == "updowncounter" else kind
        found = self._families.get(name)
        if found is not None:
            return found if found.family.type == type else None
        made = _Family(name, type, help)
        if not self._taken.isdisjoint(made.names):
            return None
        self._taken |= made.names
        self._families[name] = made
        return made

    def add(self, family: Family) -> None:
        """Add what prometheus_client collects."""
        added = self.declare(family.name, family.type, family.documentation)
        if added is None:
            return
        for sample in family.samples:
            if sample.name == added.sample_name:
                added.numbers[tuple(sorted(sample.labels.items()))] = sample.value

    def with_scope_labels(
        self, metrics: Sequence[tuple[SdkMetric, Scope]]
    ) -> Iterator[tuple[SdkMetric, Mapping[str, str]]]:
        """Give each metric the labels of its scope only where another one has its name."""
        scopes: dict[str, set[Scope]] = {name: {("", "")} for name in self._families}
        named = []
        for metric, scope in metrics:
            kind = _kind(metric)
            name = _family_name(metric.name, metric.unit or "", kind) if kind else ""
            scopes.setdefault(name, set()).add(scope)
            named.append((name, metric, scope))
        for name, metric, scope in named:
            shared = len(scopes[name]) > 1
            yield metric, dict(zip(_SCOPE_LABELS, scope, strict=True)) if shared else {}

    def add_metric(self, metric: SdkMetric, scope: Mapping[str, str]) -> None:
        """Add what the SDK has collected, with the labels of its scope, if any."""
        kind = _kind(metric)
        if kind is None:
            why = f"{type(metric.data).__name__} has no Prometheus form"
            self._dropped.add("unsupported", metric.name, why)
            return
        name = _family_name(metric.name, metric.unit or "", kind)
        family = self.declare(name, kind, metric.description or "") if name else None
        if family is None:
            why = f"the name {name!r} is taken by another metric, or by a part of one"
            self._dropped.add("name", metric.name, why)
            return
        for point in metric.data.data_points:
            labels = _labels({**(point.attributes or {}), **scope})
            if isinstance(point, HistogramDataPoint):
                self._add_buckets(family, labels, metric.name, _buckets(point))
            elif isinstance(point, NumberDataPoint):
                adds = isinstance(metric.data, Sum)
                self._add_number(family, labels, metric.name, point.value, adds)

    def _add_number(
        self, family: _Family, labels: Labels, name: str, value: Any, adds: bool
    ) -> None:
        number = _number(value)
        if number is None or (family.family.type == "counter" and not number >= 0):
            why = f"{value!r:.100} is no value of a {family.family.type}"
            self._dropped.add("value", name, why)
            return
        family.numbers[labels] = number + (family.numbers.get(labels, 0.0) if adds else 0.0)

    def _add_buckets(
        self, family: _Family, labels: Labels, name: str, buckets: _Buckets | None
    ) -> None:
        if buckets is None or not buckets.sum >= 0:
            self._dropped.add("value", name, "its bounds or its sum are no numbers in order")
            return
        known = family.histograms.get(labels)
        if known is not None and known.totals.keys() != buckets.totals.keys():
            why = "the same series is there with other buckets"
            self._dropped.add("buckets", name, why)
            return
        family.histograms[labels] = buckets if known is None else known.plus(buckets)

    def add_series(self, metric: catalog.Metric, values: catalog.LabelSet, series: Series) -> None:
        """Add a series of our own histograms."""
        family = self._families[metric.prometheus_name]
        exemplars = {
            _EDGES[metric][bucket]: _exemplar(exemplar)
            for bucket, exemplar in series.exemplars.items()
        }
        totals = dict(zip(_EDGES[metric], accumulate(series.counts), strict=True))
        buckets = _Buckets(totals, series.sum, exemplars)
        self._add_buckets(family, _labels(metric.labels(values)), metric.name, buckets)

    def add_zeros(self, metric: catalog.Metric, label_sets: Iterable[catalog.LabelSet]) -> None:
        """Add the series of a histogram that have no value yet."""
        histograms = self._families[metric.prometheus_name].histograms
        empty = _Buckets(dict.fromkeys(_EDGES[metric], 0), 0.0, {})
        for values in label_sets:
            histograms.setdefault(_labels(metric.labels(values)), empty)

    def rendered(self) -> list[Family]:
        """Return what has a series."""
        rendered = [family.rendered() for family in self._families.values()]
        return [family for family in rendered if family.samples]


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _buckets(point: HistogramDataPoint) -> _Buckets | None:
    """Return the series of a point; None if no histogram can be made of it."""
    bounds = [*point.explicit_bounds, math.inf]
    total = _number(point.sum)
    if total is None or not all(a <= b for a, b in pairwise(bounds)):
        return None
    # Negative values are never recorded, and OpenMetrics allows no sum with a negative edge.
    totals = {
        _edge(bound): total
        for bound, total in zip(bounds, accumulate(point.bucket_counts), strict=True)
        if bound >= 0
    }
    exemplars = {
        _edge(bounds[bisect_left(bounds, exemplar.value)]): _exemplar(exemplar)
        for exemplar in point.exemplars
        if exemplar.trace_id
    }
    return _Buckets(totals, total, exemplars)


def _edge(bound: float) -> str:
    # So that -0.0 is 0.0.
    return str(floatToGoString(bound + 0.0))  # type: ignore[no-untyped-call]


def _exemplar(exemplar: Any) -> Exemplar:
    labels = {"trace_id": f"{exemplar.trace_id:032x}", "span_id": f"{exemplar.span_id:016x}"}
    return Exemplar(labels, float(exemplar.value), exemplar.time_unix_nano / 1e9)


def _labels(attributes: Mapping[str, Any]) -> Labels:
    """Return attributes as labels; keys that become one label are joined, by the specification.

    https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
    """
    labels: dict[str, str] = {}
    for key in sorted(attributes, key=str):
        value = attributes[key]
        text = _utf8_safe(value if isinstance(value, str) else json.dumps(value, default=str))
        # In Prometheus, an empty label is a missing one.
        if text:
            label = _label(str(key))
            labels[label] = f"{labels[label]};{text}" if label in labels else text
    return tuple(sorted(labels.items()))


@lru_cache(maxsize=1024)
def _label(key: str) -> str:
    # Runs of underscores become one, so that no name starts with two: those are reserved.
    label = re.sub(r"[^a-zA-Z0-9]+", "_", key)
    if not label or label[0].isdigit():
        label = "_" + label
    return f"exported_{label}" if label in _RESERVED_LABELS else label


def _utf8_safe(text: str) -> str:
    """Return a text in which surrogates, which are no UTF-8, are escaped."""
    return text.encode(errors="backslashreplace").decode()


_EDGES = {
    metric: [*map(_edge, metric.bounds), "+Inf"]
    for metric in catalog.METRICS
    if metric.kind == "histogram"
}
