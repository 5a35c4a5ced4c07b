"""Histograms of our own, used when a scrape of our `/metrics` is the only reader.

A turn records half a dozen values, and a record of the SDK costs more than all the rest of our work
in it: the SDK serves several readers, temporalities, views and attributes of any type. None of that
is needed here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from threading import Lock
from typing import NamedTuple

from opentelemetry.trace import SpanContext

from chainlit_otel.catalog import LabelSet, Metric


class Exemplar(NamedTuple):
    """A value and the span in which it was recorded, with the names of the SDK."""

    value: float
    time_unix_nano: int
    trace_id: int
    span_id: int


class Series:
    """One series of a histogram.

    Attributes:
        counts: How many values fell into each bucket.
        sum: The sum of the values.
        exemplars: The last value of each bucket that was recorded in a sampled trace.
    """

    __slots__ = ("counts", "exemplars", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}


class Histograms:
    """The series of all histograms of the catalogue. Thread-safe.

    Args:
        exemplars: Which values become exemplars, as `OTEL_METRICS_EXEMPLAR_FILTER` has it:
            `trace_based` takes those of sampled spans, `always_on` those of all spans (an exemplar
            without a trace leads nowhere), `always_off` none.
    """

    def __init__(self, exemplars: str = "trace_based") -> None:
        self._exemplars = exemplars
        self._lock = Lock()
        self._series: dict[tuple[Metric, LabelSet], Series] = {}

    def renewed(self) -> Histograms:
        """Return histograms without a series, with the same filter of exemplars."""
        return Histograms(self._exemplars)

    def record(
        self, metric: Metric, value: float, values: LabelSet, span: SpanContext | None, at: int
    ) -> None:
        """Record one value.

        Args:
            metric: The histogram.
            value: The value, in the metric's unit.
            values: The label values, in the order of the metric's attributes.
            span: The span that was current, if one was; in a sampled one it becomes an exemplar.
            at: When it was, in nanoseconds since the epoch.
        """
        bucket = bisect_left(metric.bounds, value)
        exemplar = self._exemplar(value, span, at)
        with self._lock:
            series = self._series.get((metric, values))
            if series is None:
                series = self._series[metric, values] = Series(len(metric.bounds) + 1)
            series.counts[bucket] += 1
            series.sum += value
            if exemplar is not None:
                series.exemplars[bucket] = exemplar

    def counts(self, metric: Metric) -> list[int]:
        """Return how many values of all series of a histogram fell into each bucket."""
        totals = [0] * (len(metric.bounds) + 1)
        with self._lock:
            for (other, _), series in self._series.items():
                if other is metric:
                    totals = [a + b for a, b in zip(totals, series.counts, strict=True)]
        return totals

    def _exemplar(self, value: float, span: SpanContext | None, at: int) -> Exemplar | None:
        if span is None or self._exemplars == "always_off":
            return None
        if not span.trace_flags.sampled and self._exemplars == "trace_based":
            return None
        return Exemplar(value, at, span.trace_id, span.span_id)

    def read(self) -> Iterator[tuple[Metric, LabelSet, Series]]:
        """Give every series that has a value, as it is now."""
        with self._lock:
            now = [(metric, values, _copy(s)) for (metric, values), s in self._series.items()]
        yield from now


def _copy(series: Series) -> Series:
    copy = Series(0)
    copy.counts, copy.sum = [*series.counts], series.sum
    copy.exemplars = {**series.exemplars}
    return copy
