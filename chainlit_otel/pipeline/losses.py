"""What our exporters lose: counted by signal and reason, and logged once a minute at most."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from threading import Lock, local
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry.sdk._logs import export as logs_export
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from chainlit_otel import catalog
from chainlit_otel.catalog import LabelSet
from chainlit_otel.guard import OnceAMinute, log
from chainlit_otel.pipeline.light_spans import LightSpan

if TYPE_CHECKING:
    from chainlit_otel.pipeline.otlp_http import ExportSession

# Older SDKs have these by other names.
LogExporter: Any = getattr(logs_export, "LogRecordExporter", None) or logs_export.LogExporter
LogExportResult: Any = (
    getattr(logs_export, "LogRecordExportResult", None) or logs_export.LogExportResult
)

Make = Callable[[], "tuple[Any, ExportSession | None]"]
"""Makes an exporter, and the session that it sends by, if it is one of ours."""

_MANY = 512  # items that are put in, until they are added up
_ITEMS = {"spans": "spans", "metrics": "metric data points", "logs": "log records"}


class Losses:
    """Counts what was lost. Thread-safe.

    Args:
        clock: Gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = Lock()
        self._counts: Counter[LabelSet] = Counter()
        self._unlogged: Counter[LabelSet] = Counter()
        self._line = OnceAMinute(clock)

    def renew(self) -> None:
        """Begin anew, in a forked child that has inherited this."""
        self._lock = Lock()
        self._counts = Counter(dict.fromkeys(self._counts, 0))
        self._unlogged.clear()
        self._line = OnceAMinute(self._clock)

    def watch(self, signal: str) -> None:
        """Show a signal's losses from now on, at zero until there are any."""
        with self._lock:
            for reason in catalog.LOSS.values:
                self._counts[signal, reason] += 0

    def add(self, signal: str, reason: str, items: int, detail: str) -> None:
        """Count what was lost, and log it unless a loss was logged within the last minute.

        Args:
            signal: `spans`, `metrics` or `logs`.
            reason: Why, as the catalogue has it.
            items: How many.
            detail: What has happened, for the log.
        """
        with self._lock:
            self._counts[signal, reason] += items
            self._unlogged[signal, reason] += items
            if not self._line.is_due():
                return
            lost, self._unlogged = self._unlogged, Counter()
        items_lost = ", ".join(f"{n:,} {_ITEMS[s]} ({r})" for (s, r), n in sorted(lost.items()))
        log(
            logging.WARNING,
            "telemetry is lost: %s; %s. The application is not affected. "
            "%s counts on; this is logged once a minute at most",
            items_lost,
            detail,
            catalog.EXPORT_DROPPED.prometheus_name,
        )

    def read(self) -> dict[LabelSet, float]:
        """Return what was lost so far, by signal and reason."""
        with self._lock:
            return dict(self._counts)


class _Suppressed(local):
    """Drops what an exporter logs in this thread, which is logged as a loss instead."""

    def __init__(self) -> None:
        self.depth = 0
        self.last: logging.LogRecord | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        if self.depth:
            self.last = record
        return not self.depth


_suppressed = _Suppressed()


@contextmanager
def _suppressing() -> Iterator[_Suppressed]:
    _suppressed.depth += 1
    _suppressed.last = None
    try:
        yield _suppressed
    finally:
        _suppressed.depth -= 1


def _suppress(*names: str) -> None:
    """Suppress the records of these loggers, but only those of an export of ours.

    The loggers are shared with the app, so their levels and handlers stay as they are.
    """
    for name in names:
        filters = logging.getLogger(name).filters
        # Before the SDK's filter, which drops duplicates: they, too, have the reason of a failure.
        if _suppressed.filter not in filters:
            filters.insert(0, _suppressed.filter)


class _Delivery:
    """Calls an exporter and counts what it loses.

    In a forked child it exports nothing until it is renewed.

    Args:
        signal: `spans`, `metrics` or `logs`.
        make: Makes the exporter.
        losses: Counts.
    """

    def __init__(self, signal: str, make: Make, losses: Losses) -> None:
        self._signal = signal
        self._make = make
        self._losses = losses
        self.renew()
        losses.watch(signal)
        modules = {kind.__module__ for kind in type(self.exporter).__mro__}
        _suppress("urllib3.connectionpool", *(name for name in modules if ".exporter." in name))

    def renew(self) -> None:
        """Belong to this process, by an exporter with connections of its own."""
        self.exporter, self._session = self._make()
        self._pid = os.getpid()

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was made or renewed in this process, and not inherited by a fork."""
        return self._pid == os.getpid()

    def __call__(self, items: int, export: Callable[[], Any], success: object) -> Any:
        """Export and return what the exporter returns, None if it raises."""
        if not self.is_of_this_process:
            return success
        result, words = None, "fails"
        if self._session is not None:
            self._session.begin()
        with _suppressing() as suppressed:
            try:
                result = export()
            except Exception as error:  # noqa: BLE001 - whatever an exporter raises is a loss
                words = f"fails ({type(error).__name__})"
            logged = suppressed.last
        if result is not success:
            self.lost(items, *self._why(logged, words))
        elif self._session is not None and (refused := self._session.refused()):
            self.lost(min(refused, items), "rejected", "takes a part of it only")
        return result

    def lost(self, items: int, reason: str, words: str) -> None:
        """Count a loss."""
        self._losses.add(self._signal, reason, items, f"{destination(self.exporter)} {words}")

    def _why(self, logged: logging.LogRecord | None, words: str) -> tuple[str, str]:
        if self._session is not None and self._session.reason is not None:
            return self._session.reason, self._session.detail
        # With gRPC, only the log record has the reason.
        for argument in (logged.args or ()) if logged is not None else ():
            if type(argument).__name__ == "StatusCode":
                code = str(argument).removeprefix("StatusCode.")
                return _OF_GRPC.get(code, "rejected"), f"answers {code}"
        return catalog.OTHER, words


_OF_GRPC = {"UNAVAILABLE": "unreachable", "DEADLINE_EXCEEDED": "timeout"}


def destination(exporter: object) -> str:
    """Return where an exporter sends to, in words that may be shown to anybody."""
    endpoint = getattr(exporter, "_endpoint", None)
    if not isinstance(endpoint, str):
        return type(exporter).__name__
    parts = urlsplit(endpoint)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


class QueueBalance:
    """Finds out how many items a queue has dropped, of which it informs nobody.

    The number of items put in is compared with those taken out and those still in it, at moments at
    which all are one or the other: a batch was just taken, or is being exported. Thread-safe.

    Args:
        dropped: Called with how many more were dropped.
    """

    def __init__(self, dropped: Callable[[int], None]) -> None:
        self.queue: Sized = ()
        self._on_drop = dropped
        self.renew()

    def renew(self) -> None:
        """Begin anew, also in a forked child that has inherited this."""
        self._lock = Lock()
        self._put = len(self.queue)
        # Counted without the lock, which takes longer than to queue the item.
        self._added: deque[None] = deque()
        self._taken = self._dropped = 0
        self._exporting = False

    def put(self, full: bool) -> None:
        """Count an item that is in the queue now.

        Args:
            full: Whether the queue was full, so that another item had to go.
        """
        self._added.append(None)
        # Nothing is taken any more from the queue of a provider that was shut down.
        if full or len(self._added) >= _MANY:
            with self._lock:
                self._add_up()
                more = self._missing() if full and self._exporting else 0
            self._report(more)

    @contextmanager
    def taken(self, items: int) -> Iterator[None]:
        """Count a batch that came out of the queue, and is exported in the meantime."""
        with self._lock:
            self._taken += items
            self._exporting = True
            more = self._missing()
        self._report(more)
        try:
            yield
        finally:
            with self._lock:
                more = self._missing()
                self._exporting = False
            self._report(more)

    def _add_up(self) -> None:
        while self._added:
            self._added.popleft()
            self._put += 1

    def _missing(self) -> int:
        self._add_up()
        # Items that other threads are putting in are not counted yet, so it is never too many.
        more = max(0, self._put - self._taken - len(self.queue) - self._dropped)
        self._dropped += more
        return more

    def _report(self, more: int) -> None:
        if more:
            self._on_drop(more)


class _BatchDelivery:
    """Exports batches by another exporter and counts what that loses, and its queue drops.

    Args:
        signal: `spans` or `logs`.
        make: Makes the other exporter.
        losses: Counts.
        results: What the SDK calls success and failure.
    """

    def __init__(self, signal: str, make: Make, losses: Losses, results: Any) -> None:
        self._deliver = _Delivery(signal, make, losses)
        self._results = results
        self.balance = QueueBalance(
            partial(self._deliver.lost, reason="queue_full", words="is too slow, the queue is full")
        )

    @property
    def exporter(self) -> Any:
        """The other exporter."""
        return self._deliver.exporter

    def renew(self) -> None:
        """Begin anew, in a forked child that has inherited this."""
        self._deliver.renew()
        self.balance.renew()

    def export(self, batch: Sequence[Any]) -> Any:
        """Export, and count if it fails."""
        export = partial(self.exporter.export, batch)
        with self.balance.taken(len(batch)):
            result = self._deliver(len(batch), export, self._results.SUCCESS)
        return result or self._results.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have the other exporter flush."""
        flush = getattr(self.exporter, "force_flush", None)  # exporters of logs may have none
        return flush is None or not self._deliver.is_of_this_process or bool(flush(timeout_millis))

    def shutdown(self) -> None:
        """Have the other exporter shut down."""
        if self._deliver.is_of_this_process:
            self.exporter.shutdown()


class SpanDelivery(_BatchDelivery, SpanExporter):
    """Exports spans by another exporter and counts what that loses.

    Args:
        make: Makes the other exporter.
        losses: Counts.
    """

    def __init__(self, make: Make, losses: Losses) -> None:
        super().__init__("spans", make, losses, SpanExportResult)

    def export(self, batch: Sequence[ReadableSpan]) -> Any:
        """Export, and count if it fails."""
        # Those of OpenTelemetry read what is public; others may know what is private in the SDK.
        if not type(self.exporter).__module__.startswith("opentelemetry.exporter."):
            batch = [s.readable() if isinstance(s, LightSpan) else s for s in batch]
        return super().export(batch)


class LogDelivery(_BatchDelivery, LogExporter):  # type: ignore[misc]
    """Exports log records by another exporter and counts what that loses.

    Args:
        make: Makes the other exporter.
        losses: Counts.
    """

    def __init__(self, make: Make, losses: Losses) -> None:
        super().__init__("logs", make, losses, LogExportResult)


class _Batching:
    """What the processors of the SDK lack: what their queues drop is counted.

    Attributes:
        delivery: Where the batches go.
    """

    delivery: _BatchDelivery

    def _find_queue(self) -> None:
        _suppress(BatchSpanProcessor.__module__, "opentelemetry.sdk._shared_internal")
        # Since 1.34 the queue is a part of another object.
        batches: Any = getattr(self, "_batch_processor", None)
        owner: Any = self if batches is None else batches
        self._queue: deque[Any] = owner.queue if batches is None else owner._queue
        self._balance = self.delivery.balance
        self._balance.queue = self._queue

    def _put(self, put: Callable[[Any], None], item: Any) -> None:
        full = len(self._queue) == self._queue.maxlen
        if full:
            with _suppressing():
                put(item)
        else:
            put(item)
        self._balance.put(full)


class BatchProcessor(_Batching, BatchSpanProcessor):
    """The SDK's processor of spans; what its queue drops is counted.

    Args:
        delivery: Where the spans go.
        kwargs: The limits; by default those of the standard variables.
    """

    takes_light_spans = True

    def __init__(self, delivery: SpanDelivery, **kwargs: Any) -> None:
        super().__init__(delivery, **kwargs)
        self.delivery = delivery
        self._find_queue()

    def on_end(self, span: ReadableSpan) -> None:
        """Queue a span, if it is sampled."""
        if span.context.trace_flags.sampled:
            self._put(super().on_end, span)


class LogBatchProcessor(_Batching, BatchLogRecordProcessor):
    """The SDK's processor of log records; what its queue drops is counted.

    Args:
        delivery: Where the log records go.
        kwargs: The limits; by default those of the standard variables.
    """

    def __init__(self, delivery: LogDelivery, **kwargs: Any) -> None:
        super().__init__(delivery, **kwargs)
        self.delivery = delivery
        self._find_queue()

    def on_emit(self, log_record: Any) -> None:
        """Queue a log record."""
        self._put(super().on_emit, log_record)


class MetricDelivery(MetricExporter):
    """Exports metrics by another exporter and counts the data points that it loses.

    Args:
        make: Makes the other exporter.
        losses: Counts.
    """

    def __init__(self, make: Make, losses: Losses) -> None:
        self._deliver = _Delivery("metrics", make, losses)
        # A reader asks its exporter for these two, which the standard variables decide on.
        super().__init__(self.exporter._preferred_temporality, self.exporter._preferred_aggregation)

    @property
    def exporter(self) -> Any:
        """The other exporter."""
        return self._deliver.exporter

    def renew(self) -> None:
        """Begin anew, in a forked child that has inherited this."""
        self._deliver.renew()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> MetricExportResult:
        """Export, and count if it fails."""
        export = partial(self.exporter.export, metrics_data, timeout_millis, **kwargs)
        result = self._deliver(_points(metrics_data), export, MetricExportResult.SUCCESS)
        return result or MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Have the other exporter flush."""
        return not self._deliver.is_of_this_process or bool(
            self.exporter.force_flush(timeout_millis)
        )

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Have the other exporter shut down."""
        if self._deliver.is_of_this_process:
            self.exporter.shutdown(timeout_millis, **kwargs)


def _points(data: MetricsData) -> int:
    return sum(
        len(metric.data.data_points)
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    )
