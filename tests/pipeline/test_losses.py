from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from chainlit_otel import catalog
from chainlit_otel.pipeline.exporters import metric_readers, span_processors
from chainlit_otel.pipeline.losses import BatchProcessor, Losses, QueueBalance, SpanDelivery
from tests.support.broken import BrokenBackend

NOTHING = dict.fromkeys(catalog.LOSS.values, 0)


def lost(losses: Losses, signal: str = "spans") -> dict[str, float]:
    """What is lost of a signal, by reason."""
    return {reason: n for (of, reason), n in losses.read().items() if of == signal}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


# Counting and saying


def test_a_signal_is_there_at_zero_once_it_is_watched() -> None:
    losses = Losses()
    assert losses.read() == {}
    losses.watch("spans")
    assert losses.read() == {("spans", reason): 0 for reason in catalog.LOSS.values}


def test_losses_are_logged_once_a_minute_with_their_sums(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    losses = Losses(clock)
    losses.add("spans", "timeout", 3, "http://a does not answer in time")
    clock.now += 59.9
    losses.add("spans", "timeout", 1000, "http://a does not answer in time")
    losses.add("metrics", "rejected", 7, "http://b answers 503")
    assert len(caplog.records) == 1
    clock.now += 0.1
    losses.add("spans", "timeout", 1, "http://a does not answer in time")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(
        "telemetry is lost: 3 spans (timeout); http://a does not answer in time. "
    )
    assert second.startswith(
        "telemetry is lost: 7 metric data points (rejected), 1,001 spans (timeout); http://a does"
    )
    assert losses.read() == {("spans", "timeout"): 1004, ("metrics", "rejected"): 7}


# Exporters


class Odd(SpanExporter):
    """An exporter that returns what the test says, and logs."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.got: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        logging.getLogger("x.exporter.odd").error("again")
        self.got += [span.name for span in spans]
        if isinstance(self.result, Exception):
            raise self.result
        return self.result  # type: ignore[no-any-return]


Odd.__module__ = "x.exporter.odd"


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (SpanExportResult.SUCCESS, 0),
        (SpanExportResult.FAILURE, 2),
        (None, 2),
        (OSError("no route to alice:secret@host"), 2),
    ],
)
def test_an_export_that_is_no_success_is_a_loss_and_never_raises(
    result: Any, expected: int, caplog: pytest.LogCaptureFixture
) -> None:
    losses = Losses()
    spans: Any = [ReadableSpan("a"), ReadableSpan("b")]
    delivery = SpanDelivery(lambda: (Odd(result), None), losses)
    assert (delivery.export(spans) is SpanExportResult.SUCCESS) is (expected == 0)
    assert lost(losses) == {**NOTHING, "other": expected}
    # What the exporter says itself would be said with every export.
    assert [record.name for record in caplog.records] == ["chainlit_otel"] * bool(expected)
    assert "alice" not in caplog.text


def test_an_exporter_of_the_application_logs_what_it_likes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exporter = Odd(SpanExportResult.SUCCESS)
    SpanDelivery(lambda: (exporter, None), Losses()).export([])
    assert caplog.records == []
    exporter.export([])
    assert [record.name for record in caplog.records] == ["x.exporter.odd"]


def test_a_forked_child_sends_nothing_and_begins_at_zero_once_it_is_renewed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Odd] = []

    def make() -> tuple[Odd, None]:
        made.append(Odd(SpanExportResult.FAILURE))
        return made[-1], None

    losses = Losses()
    spans: Any = [ReadableSpan("a")]
    delivery = SpanDelivery(make, losses)
    delivery.export(spans)
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    assert delivery.export(spans) is SpanExportResult.SUCCESS
    assert [odd.got for odd in made] == [["a"]]
    delivery.renew()
    losses.renew()
    assert lost(losses) == NOTHING
    delivery.export(spans)
    assert [odd.got for odd in made] == [["a"], ["a"]]
    assert lost(losses) == {**NOTHING, "other": 1}


# The queue


@given(st.lists(st.integers(0, 12), max_size=30))
def test_what_a_queue_drops_is_put_in_less_what_came_out_and_what_is_in_it(
    batches: list[int],
) -> None:
    dropped: list[int] = []
    balance = QueueBalance(dropped.append)
    queue: deque[int] = deque(maxlen=5)
    balance.queue = queue
    put = taken = 0
    for items in batches:
        for _ in range(items):
            full = len(queue) == queue.maxlen
            queue.append(put)
            put += 1
            balance.put(full)
        batch = [queue.popleft() for _ in range(min(3, len(queue)))]
        taken += len(batch)
        with balance.taken(len(batch)):
            pass
        assert sum(dropped) == put - taken - len(queue)


def test_what_is_put_in_where_nothing_is_taken_any_more_takes_no_memory() -> None:
    dropped: list[int] = []
    balance = QueueBalance(dropped.append)
    for _ in range(10_000):
        balance.put(False)
    assert len(balance._added) < 1_000
    assert dropped == []


class Held(SpanExporter):
    """An exporter that takes its time."""

    def __init__(self) -> None:
        self.begun, self.released = Event(), Event()
        self.got: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.begun.set()
        assert self.released.wait(30)
        self.got += [span.name for span in spans]
        return SpanExportResult.SUCCESS


def test_what_a_full_queue_drops_is_counted_at_once_and_to_the_last_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    losses, exporter = Losses(), Held()
    processor = BatchProcessor(
        SpanDelivery(lambda: (exporter, None), losses),
        max_queue_size=8,
        max_export_batch_size=4,
        schedule_delay_millis=3_600_000,
    )
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    tracer = provider.get_tracer("test")
    for n in range(4):
        tracer.start_span(f"first {n}").end()
    assert exporter.begun.wait(30)
    threads = [
        Thread(target=lambda: [tracer.start_span("more").end() for _ in range(100)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lost(losses) == {**NOTHING, "queue_full": 400 - 8}
    exporter.released.set()
    provider.force_flush()
    provider.shutdown()
    assert len(exporter.got) == 4 + 8
    assert lost(losses) == {**NOTHING, "queue_full": 400 - 8}
    (record,) = caplog.records
    assert "spans (queue_full); Held is too slow, the queue is full" in record.getMessage()


def test_a_span_that_is_not_sampled_is_no_loss() -> None:
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    losses, exporter = Losses(), Odd(SpanExportResult.SUCCESS)
    processor = BatchProcessor(SpanDelivery(lambda: (exporter, None), losses))
    provider = TracerProvider(shutdown_on_exit=False, sampler=ALWAYS_OFF)
    provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("a").end()
    processor.on_end(
        ReadableSpan("b", context=provider.get_tracer("t").start_span("c").get_span_context())
    )
    provider.force_flush()
    provider.shutdown()
    assert exporter.got == []
    assert lost(losses) == NOTHING


# Backends, by the real exporters


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    monkeypatch.delenv("OTEL_METRICS_EXPORTER", raising=False)


PARTIAL = ExportMetricsServiceResponse()
PARTIAL.partial_success.rejected_data_points = 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("mode", "reason", "words"),
    [
        ("blackhole", "timeout", "does not answer in time"),
        ("drip", "timeout", "does not answer in time"),
        ("slow_header", "timeout", "does not answer in time"),
        ("handshake", "timeout", "does not answer in time"),
        ("endless", "other", "answers with more than OTLP has to say"),
        ("redirect", "redirect", "answers with a redirect (307)"),
        ("400", "rejected", "answers 400"),
        ("401", "rejected", "answers 401"),
        ("503", "rejected", "answers 503"),
        ("garbage", "unreachable", "cannot be reached"),
        ("reset", "unreachable", "cannot be reached (Connection reset by peer)"),
        (b"OK", None, None),
        (b"<p>" * 1000, None, None),
        (b"<p>" * 3000, "other", "answers with more than OTLP has to say"),
        (b"", None, None),
    ],
)
def test_a_wrong_backend_costs_what_was_sent_to_it_and_no_more(
    mode: str | bytes,
    reason: str | None,
    words: str | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    losses = Losses()
    if reason != "timeout":
        # The fault itself has to show on a busy machine; some are tried again till then.
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "5")
    with BrokenBackend(mode) as backend:
        secret = backend.endpoint.replace("//", "//alice:secret@") + "/v1/traces?key=secret"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", secret)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=secret")
        (processor,) = span_processors(losses)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(processor)
        for _ in range(2):
            for name in ("a", "b", "c"):
                provider.get_tracer("test").start_span(name).end()
            provider.force_flush()
        provider.shutdown()
        heads = list(backend.requests)
    expected = {} if reason is None else {reason: 6}
    assert lost(losses) == {**NOTHING, **expected}
    assert all(head.startswith(b"POST /v1/traces?key=secret ") for head in heads), "followed"
    if words is None:
        assert caplog.records == []
    else:
        (record,) = caplog.records
        where = f"{backend.endpoint}/v1/traces"
        assert f"3 spans ({reason}); {where} {words}" in record.getMessage()
        assert "secret" not in caplog.text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("mode", "expected"),
    [("400", {"rejected": 3}), (PARTIAL.SerializeToString(), {"rejected": 1}), (b"", {})],
)
def test_of_metrics_the_data_points_are_counted_also_those_that_a_backend_refuses(
    mode: str | bytes, expected: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = Losses()
    with BrokenBackend(mode) as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        (reader,) = metric_readers(losses)
        provider = MeterProvider([reader], shutdown_on_exit=False)
        counter = provider.get_meter("test").create_counter("a")
        counter.add(1, {"b": "1"})
        counter.add(1, {"b": "2"})
        provider.get_meter("test").create_histogram("c").record(1)
        provider.force_flush()
        assert lost(losses, "metrics") == {**NOTHING, **expected}
        provider.shutdown()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://127.0.0.1/"])
def test_an_address_that_is_none_is_a_loss(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    losses = Losses()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    (processor,) = span_processors(losses)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    provider.get_tracer("test").start_span("a").end()
    provider.force_flush()
    provider.shutdown()
    assert lost(losses) == {**NOTHING, "other": 1}
    assert "cannot be sent to" in caplog.text


@pytest.mark.usefixtures("quick")
def test_with_grpc_the_status_is_the_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    losses = Losses()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    with BrokenBackend("blackhole") as backend:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", backend.endpoint)
        (processor,) = span_processors(losses)
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(processor)
        provider.get_tracer("test").start_span("a").end()
        provider.force_flush()
        provider.shutdown()
    reported = lost(losses)
    assert reported["timeout"] + reported["unreachable"] == sum(reported.values()) == 1
    (record,) = caplog.records
    assert "answers " in record.getMessage()


class Later(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A backend that has one come back in an hour, by the standard's `RetryInfo`."""

    def service(self, call: Any) -> Any:
        def answer(request: bytes, context: Any) -> bytes:
            info = RetryInfo()
            info.retry_delay.seconds = 3600
            reported = info.SerializeToString()
            context.set_trailing_metadata([("google.rpc.retryinfo-bin", reported)])
            context.abort(grpc.StatusCode.UNAVAILABLE, "later")
            raise AssertionError

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.mark.usefixtures("quick")
@pytest.mark.timeout(60)
def test_by_grpc_a_backend_does_not_decide_how_long_an_export_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    losses = Losses()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    backend = grpc.server(ThreadPoolExecutor(1), handlers=[Later()])
    port = backend.add_insecure_port("127.0.0.1:0")
    backend.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    (processor,) = span_processors(losses)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    for _ in range(2):
        provider.get_tracer("test").start_span("a").end()
        provider.force_flush()
    assert lost(losses) == {**NOTHING, "unreachable": 2}
    provider.shutdown()
    backend.stop(None).wait()
