"""Histograms of our own, used when a scrape of our `/metrics` is the only reader.

A turn records half a dozen values, and a record of the SDK costs more than all the rest of our work
in it: the SDK serves several readers, temporalities, views and attributes of any type. None of that
is needed here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from threading import Lock
from typing import NamedTuple

from opentelemetry.trace import SpanContext

from chainlit_otel.catalog import LabelSet, Metric
from chainlit_otel.guard import Guard


class Exemplar(NamedTuple):
    """A value and the span in which it was recorded, with the names of the SDK."""

    value: float
    time_unix_nano: int
    trace_id: int
    span_id: int


HistogramRecord = tuple[Metric, float, LabelSet, SpanContext | None, int]
"""One value: the histogram, the value in its unit, and the label values in the order of its
attributes; the span that was current, if one was, and for that the time in nanoseconds since the
epoch. A plain tuple, which takes a tenth of the time of a named one."""


class Series:
    """One series of a histogram.

    Attributes:
        counts: How many values fell into each bucket.
        sum: The sum of the values.
        last: The last value of each bucket that becomes an exemplar, its time and its span.
    """

    __slots__ = ("counts", "last", "sum")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.sum = 0.0
        self.last: dict[int, tuple[float, int, SpanContext]] = {}

    @property
    def exemplars(self) -> dict[int, Exemplar]:
        """The exemplar of each bucket that has one."""
        return {
            bucket: Exemplar(value, at, span.trace_id, span.span_id)
            for bucket, (value, at, span) in self.last.items()
        }


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

    def record(self, records: Iterable[HistogramRecord], guard: Guard) -> None:
        """Record values.

        Args:
            records: The values.
            guard: Takes what is wrong with one of them, which the others do not depend on.
        """
        # Many under one lock, which takes as long as all the rest of a value.
        with self._lock:
            for metric, value, values, span, at in records:
                try:
                    bucket = bisect_left(metric.bounds, value)
                    series = self._series.get((metric, values))
                    if series is None:
                        series = self._series[metric, values] = Series(len(metric.bounds) + 1)
                    series.counts[bucket] += 1
                    series.sum += value
                    if span is not None and self._is_exemplar(span):
                        series.last[bucket] = value, at, span
                except Exception as error:  # noqa: BLE001, PERF203 - a guard
                    guard.on_error(error)

    def counts(self, metric: Metric) -> list[int]:
        """Return how many values of all series of a histogram fell into each bucket."""
        totals = [0] * (len(metric.bounds) + 1)
        with self._lock:
            for (other, _), series in self._series.items():
                if other is metric:
                    totals = [a + b for a, b in zip(totals, series.counts, strict=True)]
        return totals

    def _is_exemplar(self, span: SpanContext) -> bool:
        if self._exemplars == "trace_based":
            return span.trace_flags.sampled
        return self._exemplars == "always_on"

    def read(self) -> Iterator[tuple[Metric, LabelSet, Series]]:
        """Give every series that has a value, as it is now."""
        with self._lock:
            now = [(metric, values, _copy(s)) for (metric, values), s in self._series.items()]
        yield from now


def _copy(series: Series) -> Series:
    copy = Series(0)
    copy.counts, copy.sum = [*series.counts], series.sum
    copy.last = {**series.last}
    return copy
