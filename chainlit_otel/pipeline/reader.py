"""What a scrape reads: the metrics of a MeterProvider; and which of them could not be shown."""

from __future__ import annotations

import logging
import math
from threading import Lock
from typing import Any

from opentelemetry.sdk.metrics.export import MetricReader, MetricsData

from chainlit_otel import catalog
from chainlit_otel.guard import log
from chainlit_otel.pipeline.histograms import Histograms

# An app may make up names without end.
_MOST_DROPPED = 1000


class Dropped:
    """Metrics of the application that could not be shown: counted, and logged once for each reason.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._names: dict[str, set[str]] = {r: set() for r in catalog.DROP_REASON.values}

    def add(self, reason: str, name: str, why: str) -> None:
        """Note that a metric, or a series of it, is not shown."""
        with self._lock:
            names = self._names[reason]
            first = not names
            if len(names) < _MOST_DROPPED:
                names.add(name)
        if first:
            log(
                logging.WARNING,
                "/metrics leaves out %.200r: %s; others for the same reason are only counted (%s)",
                name,
                why,
                catalog.EXPOSITION_DROPPED.prometheus_name,
            )

    def counts(self) -> dict[catalog.LabelSet, int]:
        """Return how many metrics are not shown, or not in full, by reason."""
        with self._lock:
            return {(reason,): len(names) for reason, names in self._names.items()}


class ScrapeReader(MetricReader):
    """Reads what a MeterProvider has, when a scraper asks for it.

    Args:
        histograms: What keeps the histograms of the catalogue, if the provider does not.

    Attributes:
        dropped: What was read and could not be shown.
    """

    def __init__(self, histograms: Histograms | None = None) -> None:
        super().__init__()
        self.histograms = histograms
        self.dropped = Dropped()
        self._lock = Lock()
        self._data: MetricsData | None = None

    def renew(self) -> None:
        """Reset, in a forked child that has inherited this."""
        self._lock = Lock()
        if self.histograms is not None:
            self.histograms = self.histograms.renewed()

    def read(self) -> MetricsData | None:
        """Collect now and return the metrics; None if there are none."""
        with self._lock:
            self._data = None
            # The SDK would measure a limit by the wall clock, which may be stepped meanwhile.
            self.collect(timeout_millis=math.inf)
            return self._data

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        self._data = metrics_data

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing: metrics are pulled."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Do nothing: there is nothing to close."""
