"""From the catalogue to OpenTelemetry instruments. Knows nothing of Chainlit."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from time import time_ns
from typing import Any
from weakref import ReferenceType, ref

from opentelemetry.context import Context, get_current
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation
from opentelemetry.trace import (
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    set_span_in_context,
)

from chainlit_otel import catalog
from chainlit_otel.catalog import LabelSet, Metric
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.histograms import HistogramRecord, Histograms
from chainlit_otel.pipeline.spans import span_in
from chainlit_otel.version import __version__

Reading = Callable[[], Mapping[LabelSet, float]]
"""Gives the numbers of one metric now, by label values; label sets that are missing are zero."""

# The SDK has bucket advice since 1.30; for older ones our own provider has views.
BUCKET_ADVICE = (
    "explicit_bucket_boundaries_advisory" in inspect.signature(Meter.create_histogram).parameters
)


# A collection flushes the queue; between two of them it is flushed at this length.
_MAX_QUEUED = 512


class Telemetry:
    """Records the metrics of the catalogue, with every provider given.

    Counters and gauges are read from plain numbers when somebody collects; only histograms
    record on the way.

    Args:
        providers: Where the instruments are made.
        guard: Holds what goes wrong in a reading.
        histograms: Keep the histograms in place of the last provider; None if that keeps them.
        watched: Histograms that are read in this process, too.
        is_kept: Tells whether it is certain that a trace is kept, so that an exemplar may point to
            it; None if all are.
    """

    def __init__(
        self,
        providers: Iterable[MeterProvider],
        guard: Guard,
        histograms: Histograms | None = None,
        watched: Iterable[Metric] = (),
        is_kept: Callable[[int], bool] | None = None,
    ) -> None:
        self._is_kept = is_kept
        # The SDK's own are not to be read without an effect on its readers.
        self._watched = {m: Histograms() for m in watched} if histograms is None else {}
        self._readings: dict[Metric, Reading] = {}
        self._instruments = [_instruments_of(provider) for provider in providers]
        self._histograms = histograms
        self._recording = self._instruments if histograms is None else self._instruments[:-1]
        self._guard = guard
        self._expected: dict[Metric, tuple[LabelSet, ...]] = {}
        self._queued: deque[HistogramRecord] = deque()
        # Without an observable instrument, no collection flushes the queue.
        self._max_queued = 1
        self._recorders = lru_cache(maxsize=1024)(self._make_recorders)

    def register_observable(
        self, metric: Metric, reading: Reading, guard: Guard | None = None
    ) -> None:
        """Register an observable counter or gauge.

        Args:
            metric: The counter or gauge.
            reading: Gives its numbers.
            guard: Holds what goes wrong in the reading; by default our own.
        """
        guard = guard or self._guard
        self._max_queued = _MAX_QUEUED
        self._readings[metric] = reading
        # Seconds and dollars are floats, counts are not, also at zero: one stream has one type.
        zero = 0.0 if metric.unit in ("s", "{USD}") else 0

        def observations() -> list[Observation]:
            with self._guard:
                self.flush()
            with guard:
                numbers = {**dict.fromkeys(self.label_sets(metric), zero), **reading()}
                return [Observation(n, metric.labels(labels)) for labels, n in numbers.items()]
            return []

        for instruments in self._instruments:
            instruments.register_observable(metric, observations)

    def read(self, metric: Metric) -> Mapping[LabelSet, float]:
        """Return the numbers of a counter or gauge now; none if it is not registered."""
        reading = self._readings.get(metric)
        return {} if reading is None else reading()

    def counts(self, metric: Metric) -> list[int]:
        """Return how many values of a histogram fell into each bucket; it must be watched.

        Call `flush` before: it does not.
        """
        kept = self._watched[metric] if self._histograms is None else self._histograms
        return kept.counts(metric)

    def expect(self, metric: Metric, *label_sets: LabelSet) -> None:
        """Have label sets exist at zero from now on, because this app can produce them."""
        known = self.label_sets(metric)
        if more := [labels for labels in label_sets if labels not in known]:
            self._expected[metric] = (*known, *more)

    def label_sets(self, metric: Metric) -> tuple[LabelSet, ...]:
        """Return the label sets that exist at zero."""
        return self._expected.get(metric, metric.label_sets)

    def record(self, metric: Metric, value: float, *values: str) -> None:
        """Record one value in a histogram.

        Args:
            metric: The histogram.
            value: The value, in the metric's unit.
            values: The label values, in the order of the metric's attributes.
        """
        context = get_current()
        # The `SpanContext` alone: the context itself would keep alive whatever is in it.
        span = span_in(context) if context else None
        if span is not None and self._is_kept is not None and not self._is_kept(span.trace_id):
            span = None
        # Recording in the middle of a turn costs three times as much as recording many at once, so
        # they are queued until the next collection.
        queued = self._queued
        if span is None:
            queued.append((metric, value, values, None, 0))
        else:
            queued.append((metric, value, values, span, time_ns()))
            # Not if it has an exemplar: the SDK gives that the time at which it is recorded.
            if self._recording and span.trace_flags.sampled:
                self.flush()
        if len(queued) >= self._max_queued:
            self.flush()

    def flush(self) -> None:
        """Record in the histograms what is queued."""
        records: list[HistogramRecord] = []
        if self._histograms is not None:
            # Taken under their lock: who flushes at the same time waits until all are recorded.
            self._histograms.record(self._take(records), self._guard)
        else:
            deque(self._take(records), maxlen=0)
        for metric, watched in self._watched.items():
            watched.record(
                [(m, v, (), None, 0) for m, v, *_ in records if m is metric], self._guard
            )
        if self._recording:
            for metric, value, values, span, _ in records:
                with self._guard:
                    context = _context_with(span)
                    for record, attributes in self._recorders(metric, values):
                        record(value, attributes, context)

    def _take(self, taken: list[HistogramRecord]) -> Iterator[HistogramRecord]:
        queued = self._queued
        # Another reader may take the last one.
        with suppress(IndexError):
            while queued:
                taken.append(queued.popleft())
        yield from taken

    def _make_recorders(self, metric: Metric, values: LabelSet) -> list[tuple[Any, dict[str, str]]]:
        attributes = metric.labels(values)
        return [(i.histogram(metric).record, attributes) for i in self._recording]

    def close(self) -> None:
        """Flush, and give no more observations, since instruments cannot be unregistered."""
        self.flush()
        self.silence()

    def silence(self) -> None:
        """Give no more observations, without a flush."""
        self._readings.clear()
        for instruments in self._instruments:
            instruments.silence()


def _context_with(span: SpanContext | None) -> Context:
    """Return a context in which a span, or none, is the current one."""
    # An empty context is false, and the SDK would take the current one instead.
    return set_span_in_context(NonRecordingSpan(span or INVALID_SPAN_CONTEXT), Context())


class _Instruments:
    """The instruments made with one provider, kept so that none is ever made twice."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._histograms: dict[str, Any] = {}
        self._observed: dict[str, Callable[[], list[Observation]]] = {}
        self._made: set[str] = set()

    def histogram(self, metric: Metric) -> Any:
        if metric.name not in self._histograms:
            advice = {"explicit_bucket_boundaries_advisory": metric.bounds} if BUCKET_ADVICE else {}
            self._histograms[metric.name] = self._meter.create_histogram(
                metric.name, metric.unit, metric.description, **advice
            )
        return self._histograms[metric.name]

    def register_observable(
        self, metric: Metric, observations: Callable[[], list[Observation]]
    ) -> None:
        self._observed[metric.name] = observations
        if metric.name in self._made:
            return
        self._made.add(metric.name)

        def callback(_: CallbackOptions) -> list[Observation]:
            observed = self._observed.get(metric.name)
            return observed() if observed else []

        create = {
            "counter": self._meter.create_observable_counter,
            "updowncounter": self._meter.create_observable_up_down_counter,
            "gauge": self._meter.create_observable_gauge,
        }[metric.kind]
        create(metric.name, [callback], metric.unit, metric.description)

    def silence(self) -> None:
        self._observed.clear()


_known: list[tuple[ReferenceType[MeterProvider], _Instruments]] = []


def _instruments_of(provider: MeterProvider) -> _Instruments:
    # By identity, since a provider need not be hashable: the one of logfire is not.
    _known[:] = [known for known in _known if known[0]() is not None]
    for reference, instruments in _known:
        if reference() is provider:
            return instruments
    instruments = _Instruments(provider.get_meter(catalog.SCOPE, __version__))
    _known.append((ref(provider), instruments))
    return instruments
