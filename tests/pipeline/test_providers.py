from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server
from threading import Event, Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from chainlit_otel import Settings, catalog
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline import providers
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.providers import Pipeline, build_pipeline
from tests.conftest import InternalErrors

ROOT = Path(__file__).parents[1]

PRELUDE = """
import json, sys, threading
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from chainlit_otel import Settings, catalog
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.providers import build_pipeline
from chainlit_otel.settings import problems
from chainlit_otel.pipeline.instruments import Telemetry, _instruments_of as instruments_of

def say(**facts):
    print(json.dumps(facts))

def record(pipeline):
    telemetry = Telemetry(pipeline.meter_providers, Guard("server"), pipeline.histograms)
    if pipeline.histograms is not None:
        # As in an app, there is more than histograms.
        telemetry.register_observable(catalog.SESSION_STARTS, dict)
    telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")

def resource(pipeline):
    record(pipeline)
    return dict(pipeline.reader.read().resource_metrics[0].resource.attributes)

def exporting(signal="Metric"):
    # An exporter has a thread of its own.
    return any(signal in thread.name for thread in threading.enumerate())

def trace_something(pipeline):
    pipeline.tracer().start_span("ours").end()

def global_tracers():
    return type(trace.get_tracer_provider()).__name__
"""


def run(code: str, **env: str) -> dict[str, Any]:
    """Run code in a process of its own, since a global provider is set once in each."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PRELUDE + textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


# The application's provider


def test_a_global_provider_of_the_application_is_used_as_it_is() -> None:
    facts = run("""
        host = MeterProvider([reader := InMemoryMetricReader()])
        metrics.set_meter_provider(host)
        pipeline = build_pipeline(Settings())
        record(pipeline)
        (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
        say(reused=pipeline.meter_providers == (host,), reader=pipeline.reader is not None,
            still_global=metrics.get_meter_provider() is host,
            got=[metric.name for metric in scope.metrics])
    """)
    assert facts == {
        "reused": True,
        "reader": False,
        "still_global": True,
        "got": ["chainlit.connection.duration"],
    }


def test_when_asked_to_the_metrics_go_to_both() -> None:
    facts = run("""
        host = MeterProvider([reader := InMemoryMetricReader()])
        metrics.set_meter_provider(host)
        pipeline = build_pipeline(Settings(always_serve_metrics=True))
        record(pipeline)
        say(providers=len(pipeline.meter_providers), first=pipeline.meter_providers[0] is host,
            global_is_host=metrics.get_meter_provider() is host,
            read=[sum(len(scope.metrics) for scope in data.resource_metrics[0].scope_metrics)
                  for data in (reader.get_metrics_data(), pipeline.reader.read())],
            kept=[metric.name for metric, *_ in pipeline.histograms.read()])
    """)
    assert facts == {
        "providers": 2,
        "first": True,
        "global_is_host": True,
        "read": [2, 1],
        "kept": ["chainlit.connection.duration"],
    }


def test_a_given_provider_is_used_and_made_nobody_elses() -> None:
    facts = run("""
        given = MeterProvider()
        alone = build_pipeline(Settings(), given)
        both = build_pipeline(Settings(always_serve_metrics=True), given)
        say(alone=alone.meter_providers == (given,), reader=alone.reader is not None,
            both=[p is given for p in both.meter_providers],
            serves=both.reader is not None,
            global_is=type(metrics.get_meter_provider()).__name__)
    """)
    assert facts == {
        "alone": True,
        "reader": False,
        "both": [True, False],
        "serves": True,
        "global_is": "_ProxyMeterProvider",
    }


def test_a_given_provider_goes_before_the_global_one() -> None:
    facts = run("""
        metrics.set_meter_provider(MeterProvider())
        given = MeterProvider()
        say(given=build_pipeline(Settings(), given).meter_providers == (given,))
    """)
    assert facts == {"given": True}


# Ours


def test_without_one_of_the_application_ours_is_built_and_becomes_the_global_one() -> None:
    facts = run("""
        pipeline = build_pipeline(Settings())
        (provider,) = pipeline.meter_providers
        again = build_pipeline(Settings())
        say(is_global=metrics.get_meter_provider() is provider, exporting=exporting(),
            again=again.meter_providers == (provider,) and again.reader is pipeline.reader,
            resource=resource(pipeline))
    """)
    assert facts["is_global"]
    assert facts["again"], "a global provider can be set once only, so ours is used again"
    assert not facts["exporting"]
    assert facts["resource"]["service.name"] == "chainlit"
    assert uuid.UUID(facts["resource"]["service.instance.id"])


@pytest.mark.parametrize(
    ("keyword", "env", "expected"),
    [
        ("None", {"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ("None", {"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=shop"}, "shop"),
        (
            "None",
            {"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": "service.name=x"},
            "shop",
        ),
        ("'desk'", {"OTEL_SERVICE_NAME": "shop"}, "desk"),
        ("None", {"OTEL_RESOURCE_ATTRIBUTES": "a=b"}, "chainlit"),
        ("None", {"OTEL_RESOURCE_ATTRIBUTES": "a=b, service.name = sh%20op"}, "sh op"),
        ("None", {"OTEL_RESOURCE_ATTRIBUTES": "a=b,peer.service.name=db"}, "chainlit"),
        ("None", {"OTEL_RESOURCE_ATTRIBUTES": "a=b,note=service.name%3Dx"}, "chainlit"),
        ("None", {"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name="}, "chainlit"),
    ],
)
def test_the_service_is_named_by_keyword_then_environment(
    keyword: str, env: dict[str, str], expected: str
) -> None:
    settings = "Settings()" if keyword == "None" else f"Settings(service_name={keyword})"
    facts = run(
        f"say(resource=resource(build_pipeline({settings})))",
        **env,
    )
    assert facts["resource"]["service.name"] == expected
    assert ("a" in facts["resource"]) is ("a=b" in env.get("OTEL_RESOURCE_ATTRIBUTES", ""))


def test_an_instance_id_of_the_environment_is_kept() -> None:
    facts = run(
        "say(resource=resource(build_pipeline(Settings())))",
        OTEL_RESOURCE_ATTRIBUTES="service.instance.id=pod-7",
    )
    assert facts["resource"]["service.instance.id"] == "pod-7"


def test_our_histograms_have_our_bounds_and_those_of_fastapi_itself_are_dropped() -> None:
    facts = run("""
        pipeline = build_pipeline(Settings())
        (provider,) = pipeline.meter_providers
        for metric in catalog.METRICS:
            if metric.kind == "histogram":
                instruments_of(provider).histogram(metric).record(1)
        provider.get_meter("fastapi").create_histogram("http.server.request.duration").record(1)
        provider.get_meter("theirs").create_histogram("their.duration").record(1)
        found = {m.name: list(m.data.data_points[0].explicit_bounds)
                 for s in pipeline.reader.read().resource_metrics[0].scope_metrics
                 for m in s.metrics}
        say(**found)
    """)
    theirs = facts.pop("their.duration")
    assert len(theirs) == 15
    assert facts == {
        metric.name: list(metric.bounds) for metric in catalog.METRICS if metric.kind == "histogram"
    }


# OTLP


TRACES = "/v1/traces"


class Collector:
    """A collector that takes OTLP by HTTP and keeps what it got, by path."""

    def __init__(self) -> None:
        self.got: list[tuple[str, ExportMetricsServiceRequest]] = []
        self.traced: list[ExportTraceServiceRequest] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == TRACES:
                    collector.traced.append(ExportTraceServiceRequest.FromString(body))
                else:
                    collector.got.append((self.path, ExportMetricsServiceRequest.FromString(body)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def spans(self) -> list[tuple[str, str, str]]:
        """Name of the service, of the scope and of the span of each span that came."""
        return [
            (service.value.string_value, scope.scope.name, span.name)
            for request in self.traced
            for resource in request.resource_spans
            for service in resource.resource.attributes
            if service.key == "service.name"
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def metrics(self) -> set[str]:
        return {
            metric.name
            for _, request in self.got
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


EXPORT = """
    pipeline = build_pipeline(Settings())
    record(pipeline)
    say(exporting=exporting(), flushed=pipeline.flush(10, Guard("server")),
        scraped=len(pipeline.reader.read().resource_metrics))
"""


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "/v1/metrics"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", ""),
    ],
)
def test_metrics_go_where_the_standard_variables_say_and_are_served_too(
    endpoint: str, path: str, collector: Collector
) -> None:
    facts = run(EXPORT, **{endpoint: collector.url})
    assert facts["flushed"]
    assert facts["scraped"] == 1
    assert facts["exporting"]
    assert collector.metrics() == {"chainlit.connection.duration"}
    assert {got for got, _ in collector.got} == {path or "/"}


@pytest.mark.parametrize("exporters", ["otlp", "none, otlp", ""])
def test_an_exporter_that_is_asked_for_by_name_or_by_default_exports(
    exporters: str, collector: Collector
) -> None:
    run(EXPORT, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_METRICS_EXPORTER=exporters)
    assert collector.metrics() == {"chainlit.connection.duration"}


@pytest.mark.parametrize("exporters", ["none", "prometheus"])
def test_an_exporter_that_is_not_asked_for_exports_nothing(
    exporters: str, collector: Collector
) -> None:
    facts = run(EXPORT, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_METRICS_EXPORTER=exporters)
    assert facts == {"exporting": False, "flushed": True, "scraped": 1}
    assert collector.got == []


def test_without_an_endpoint_nothing_is_exported() -> None:
    facts = run(EXPORT, OTEL_METRICS_EXPORTER="otlp", OTEL_EXPORTER_OTLP_ENDPOINT="")
    assert facts == {"exporting": False, "flushed": True, "scraped": 1}


# The environment stops nobody

ODD = """
    pipeline = build_pipeline(Settings())
    record(pipeline)
    trace_something(pipeline)
    flushed = pipeline.flush(10, Guard("server"))
    say(flushed=flushed, problems=problems(), tracers=global_tracers())
"""


def test_whatever_is_in_the_environment_stops_nobody_and_is_logged(collector: Collector) -> None:
    facts = run(
        ODD,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_PROTOCOL="http/json",
        OTEL_TRACES_EXPORTER="jaeger,OTLP",
        OTEL_BSP_MAX_QUEUE_SIZE="3",
        OTEL_METRIC_EXPORT_INTERVAL="0",
        OTEL_ATTRIBUTE_COUNT_LIMIT="-3",
        OTEL_METRICS_EXEMPLAR_FILTER="sometimes",
        OTEL_EXPERIMENTAL_RESOURCE_DETECTORS="nonsense",
        OTEL_RESOURCE_ATTRIBUTES="nonsense",
        OTEL_TRACES_SAMPLER="nonsense",
        OTEL_EXPORTER_OTLP_COMPRESSION="nonsense",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="nonsense",
        CHAINLIT_OTEL_PORT="tcp://10.0.0.7:9464",
    )
    assert facts["flushed"]
    assert collector.metrics() == {"chainlit.connection.duration"}
    assert collector.spans() == [("chainlit", catalog.SCOPE, "ours")]
    reported = [problem.split(":")[0].partition(" ")[0] for problem in facts["problems"]]
    assert sorted(reported) == [
        "OTEL_BSP_*",
        "OTEL_EXPORTER_OTLP_PROTOCOL='http/json'",
        "OTEL_METRICS_EXEMPLAR_FILTER='sometimes'",
        "OTEL_METRIC_EXPORT_*",
        "OTEL_TRACES_EXPORTER",
        "ignored,",
        "the",
    ]


@pytest.mark.parametrize(
    ("exporter", "before", "reported"),
    [
        ("otlp", "", True),
        ("jaeger", "", True),
        ("none", "", False),
        ("", "", False),
        (
            "otlp",
            "from opentelemetry import _logs; from opentelemetry.sdk._logs import LoggerProvider; "
            "_logs.set_logger_provider(LoggerProvider(shutdown_on_exit=False))",
            False,
        ),
    ],
    ids=["known", "unknown", "none", "empty", "a provider of the app"],
)
def test_an_exporter_of_logs_without_a_provider_is_a_warning(
    exporter: str, before: str, reported: bool
) -> None:
    facts = run(
        f"{before}\nbuild_pipeline(Settings())\nsay(problems=problems())",
        OTEL_LOGS_EXPORTER=exporter,
    )
    expected = (
        f"OTEL_LOGS_EXPORTER={exporter} sends nothing: logs are exported by a LoggerProvider of "
        "the app, or by that of opentelemetry-instrument"
    )
    assert facts["problems"] == ([expected] if reported else [])


def test_the_console_prints_spans_and_metrics() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(ODD)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OTEL_TRACES_EXPORTER": "console",
            "OTEL_METRICS_EXPORTER": "Console",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    *printed, facts = done.stdout.splitlines()
    assert json.loads(facts) == {
        "flushed": True,
        "problems": [],
        "tracers": "OurTracerProvider",
    }
    assert '    "name": "ours",' in printed
    assert any('"name": "chainlit.connection.duration"' in line for line in printed)


def test_an_sdk_that_cannot_be_imported_here_leaves_the_application_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import chainlit_otel\nchainlit_otel.enable()\nprint('runs')"],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "many",
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert done.stdout == "runs\n"
    (line,) = done.stderr.splitlines()
    assert line.startswith("chainlit-otel is off, the OpenTelemetry SDK cannot be imported: ")
    assert "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT" in line


def test_the_protocol_of_the_metrics_goes_before_that_of_all_signals(collector: Collector) -> None:
    facts = run(
        EXPORT,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        OTEL_EXPORTER_OTLP_METRICS_PROTOCOL="http/protobuf",
        OTEL_TRACES_EXPORTER="none",
    )
    assert facts["exporting"]
    assert collector.metrics() == {"chainlit.connection.duration"}


SHAPES = """
    pipeline = build_pipeline(Settings())
    record(pipeline)
    pipeline.flush(10, Guard("server"))
    (scope,) = pipeline.reader.read().resource_metrics[0].scope_metrics
    (metric,) = [m for m in scope.metrics if m.name == "chainlit.connection.duration"]
    say(kind=type(metric.data).__name__, cumulative=int(metric.data.aggregation_temporality) == 2,
        bounds=list(metric.data.data_points[0].explicit_bounds))
"""


def test_an_exporter_has_the_buckets_and_the_temporality_that_it_is_asked_for(
    collector: Collector,
) -> None:
    facts = run(
        SHAPES,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION="base2_exponential_bucket_histogram",
        OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="delta",
        OTEL_TRACES_EXPORTER="none",
    )
    # A scrape has its own: those of the catalogue, from the start of the process.
    assert facts == {
        "kind": "Histogram",
        "cumulative": True,
        "bounds": list(catalog.CONNECTION_DURATION.bounds),
    }
    _, request = collector.got[-1]
    (metric,) = [
        metric
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "chainlit.connection.duration"
    ]
    assert metric.WhichOneof("data") == "exponential_histogram"
    assert metric.exponential_histogram.aggregation_temporality == 1
    assert metric.exponential_histogram.data_points[0].count == 1


def test_spans_and_metrics_are_of_one_instance(collector: Collector) -> None:
    run(ODD, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
    (spans,) = {r.resource.SerializeToString() for e in collector.traced for r in e.resource_spans}
    (metrics,) = {
        r.resource.SerializeToString() for _, e in collector.got for r in e.resource_metrics
    }
    assert spans == metrics


# Traces

TRACE = """
    pipeline = build_pipeline(Settings(service_name="shop"))
    trace_something(pipeline)
    say(ours=pipeline.tracer_provider is not None, tracers=global_tracers(),
        exporting=exporting("Span"), flushed=pipeline.flush(10, Guard("server")))
"""


def test_an_exit_handler_exports_where_it_may_start_no_thread(collector: Collector) -> None:
    facts = run(
        """
    pipeline = build_pipeline(Settings(service_name="shop"))
    trace_something(pipeline)
    def refuse(thread):
        raise RuntimeError("can't create new thread at interpreter shutdown")
    threading.Thread.start = refuse
    say(flushed=pipeline.flush(10, Guard("server")))
""",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    )
    assert facts == {"flushed": True}
    assert collector.spans() == [("shop", catalog.SCOPE, "ours")]


@pytest.mark.parametrize(
    ("endpoint", "path"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", ""),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", TRACES),
    ],
)
@pytest.mark.parametrize("exporters", ["otlp", ""])
def test_with_an_endpoint_spans_go_there_by_a_global_provider_of_ours(
    endpoint: str, path: str, exporters: str, collector: Collector
) -> None:
    facts = run(TRACE, **{endpoint: collector.url + path, "OTEL_TRACES_EXPORTER": exporters})
    assert facts == {
        "ours": False,
        "tracers": "OurTracerProvider",
        "exporting": True,
        "flushed": True,
    }
    assert collector.spans() == [("shop", catalog.SCOPE, "ours")]


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "{url}/v1/metrics"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "{url}", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_an_endpoint_for_them_no_provider_makes_spans_for_nobody(
    env: dict[str, str], collector: Collector
) -> None:
    facts = run(TRACE, **{name: text.format(url=collector.url) for name, text in env.items()})
    assert facts["tracers"] == "ProxyTracerProvider"
    assert not facts["exporting"]
    assert collector.spans() == []


def test_a_global_tracer_provider_of_the_application_is_used_as_it_is(collector: Collector) -> None:
    facts = run(
        """
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        host = TracerProvider()
        host.add_span_processor(SimpleSpanProcessor(exporter := InMemorySpanExporter()))
        trace.set_tracer_provider(host)
        pipeline = build_pipeline(Settings())
        trace_something(pipeline)
        say(got=[span.name for span in exporter.get_finished_spans()],
            still_global=trace.get_tracer_provider() is host, exporting=exporting("Span"))
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    )
    assert facts == {"got": ["ours"], "still_global": True, "exporting": False}
    assert collector.spans() == []


def test_a_given_tracer_provider_is_used_and_made_nobody_elses(collector: Collector) -> None:
    facts = run(
        """
        given = TracerProvider()
        pipeline = build_pipeline(Settings(), None, given)
        say(given=pipeline.tracer_provider is given, tracers=global_tracers(),
            exporting=exporting("Span"))
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    )
    assert facts == {"given": True, "tracers": "ProxyTracerProvider", "exporting": False}


def test_a_tracer_provider_that_is_set_later_gets_the_spans_from_then_on() -> None:
    facts = run("""
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        pipeline = build_pipeline(Settings())
        tracer = pipeline.tracer()
        tracer.start_span("too early").end()
        host = TracerProvider()
        host.add_span_processor(SimpleSpanProcessor(exporter := InMemorySpanExporter()))
        trace.set_tracer_provider(host)
        tracer.start_span("in time").end()
        (span,) = exporter.get_finished_spans()
        say(name=span.name, scope=span.instrumentation_scope.name)
    """)
    assert facts == {"name": "in time", "scope": catalog.SCOPE}


def test_our_tracer_provider_outlives_us_and_is_used_again(collector: Collector) -> None:
    facts = run(
        """
        build_pipeline(Settings())
        first = trace.get_tracer_provider()
        pipeline = build_pipeline(Settings())
        trace_something(pipeline)
        say(same=trace.get_tracer_provider() is first, flushed=pipeline.flush(10, Guard("server")))
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    )
    assert facts == {"same": True, "flushed": True}
    assert len(collector.spans()) == 1


HOST = "trace.set_tracer_provider(TracerProvider())"


@pytest.mark.parametrize(
    ("before", "keeps", "warned"),
    [("", True, 0), (HOST, False, 1)],
    ids=["a provider of ours", "one of the app"],
)
def test_notable_turns_are_kept_by_our_provider_alone(
    before: str, keeps: bool, warned: int, collector: Collector
) -> None:
    facts = run(
        f"""
        {before}
        keepers = [build_pipeline(Settings(trace_keep="notable")).keeper for _ in range(2)]
        say(keeps=[keeper is not None for keeper in keepers], problems=problems(),
            again=build_pipeline(Settings()).keeper is None)
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
    )
    assert facts["keeps"] == [keeps, keeps]
    assert facts["again"]
    assert len(facts["problems"]) == warned
    assert all("CHAINLIT_OTEL_TRACE_KEEP=notable keeps all" in each for each in facts["problems"])


@pytest.mark.parametrize("variables", [{}, {"OTEL_METRICS_EXPORTER": "none"}])
def test_no_exemplar_points_to_a_turn_that_is_not_kept(
    variables: dict[str, str], collector: Collector
) -> None:
    facts = run(
        """
        pipeline = build_pipeline(Settings(trace_keep="notable", trace_share=0))
        histogram = pipeline.meter_providers[0].get_meter("app").create_histogram("of.the.app")
        traces = []
        for value, is_notable in ((1.0, True), (1000.0, False)):
            with pipeline.tracer().start_as_current_span("turn") as span:
                trace_id = span.get_span_context().trace_id
                pipeline.keeper.begin(trace_id)
                pipeline.keeper.decide(trace_id, is_notable)
                histogram.record(value)
            traces.append(trace_id)
        read = pipeline.reader.read()
        led = [
            exemplar.trace_id
            for of_resource in read.resource_metrics
            for of_scope in of_resource.scope_metrics
            for metric in of_scope.metrics
            if metric.name == "of.the.app"
            for point in metric.data.data_points
            for exemplar in point.exemplars
        ]
        say(traces=traces, led=led)
        """,
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        **variables,
    )
    assert facts["led"] == facts["traces"][:1]


# The last export


class Slow(MeterProvider):
    """A provider whose backend keeps it waiting."""

    def __init__(self) -> None:
        super().__init__(shutdown_on_exit=False)
        self.released = Event()
        self.asked_for: float | None = None

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        self.asked_for = timeout_millis
        self.released.wait(30)
        return True


def test_a_flush_takes_no_longer_than_it_may() -> None:
    slow, quick = Slow(), InMemoryMetricReader()
    pipeline = Pipeline((slow, MeterProvider([quick], shutdown_on_exit=False)), None, None)
    begun = time.monotonic()
    assert not pipeline.flush(0.3, Guard("server"))
    assert 0.25 < time.monotonic() - begun < 3
    assert slow.asked_for == pytest.approx(300)
    slow.released.set()
    assert pipeline.flush(10, Guard("server"))


def test_all_providers_together_take_no_longer_than_they_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, waited = 0.0, []

    class Hanging(Thread):
        """One that is waited for by a clock of ours."""

        def join(self, timeout: float | None = None) -> None:
            nonlocal now
            assert timeout is not None
            waited.append(timeout)
            now += timeout

        def is_alive(self) -> bool:
            return True

    monkeypatch.setattr(providers, "Thread", Hanging)
    monkeypatch.setattr(providers, "monotonic", lambda: now)
    slow = [Slow() for _ in range(3)]
    assert not Pipeline(tuple(slow), None, None).flush(3, Guard("server"))
    for provider in slow:
        provider.released.set()
    assert sum(waited) == 3
    assert len(waited) >= 3


def test_a_backend_that_takes_connections_and_says_nothing_holds_up_nobody() -> None:
    with create_server(("127.0.0.1", 0)) as silent:
        facts = run(
            """
            import os, time
            pipeline = build_pipeline(Settings())
            record(pipeline)
            begun = time.monotonic()
            flushed = pipeline.flush(0.5, Guard("server"))
            say(flushed=flushed, seconds=time.monotonic() - begun)
            sys.stdout.flush()
            os._exit(0)
            """,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{silent.getsockname()[1]}",
        )
    assert not facts["flushed"]
    assert facts["seconds"] < 3


def test_what_fails_in_an_exporter_is_counted_and_the_others_flush(
    expected_internal_errors: InternalErrors,
) -> None:
    class Broken(MeterProvider):
        def force_flush(self, timeout_millis: float = 10_000) -> bool:
            raise OSError("no route")

    guard, fine = Guard("server"), Slow()
    fine.released.set()
    pipeline = Pipeline((Broken(shutdown_on_exit=False), fine), None, None)
    assert pipeline.flush(5, guard)
    assert guard.errors == 1
    assert "no route" in str(expected_internal_errors[0][1])
    assert fine.asked_for is not None


def test_a_provider_that_cannot_flush_is_no_trouble() -> None:
    from opentelemetry.metrics import NoOpMeterProvider

    given = NoOpMeterProvider()
    pipeline = build_pipeline(Settings(), given)
    assert pipeline.meter_providers == (given,)
    assert pipeline.flush(5, Guard("server"))


def test_a_flush_takes_in_a_given_tracer_provider() -> None:
    asked = []

    class Watched(TracerProvider):
        def force_flush(self, timeout_millis: int = 30_000) -> bool:
            asked.append(timeout_millis)
            return True

    pipeline = Pipeline((), None, Watched(shutdown_on_exit=False))
    assert pipeline.flush(5, Guard("server"))
    assert asked == [5000]


def test_a_flush_exports_what_was_recorded_last() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    telemetry = Telemetry([provider], Guard("server"))
    telemetry.record(catalog.CONNECTION_DURATION, 2.0, "other")
    assert Pipeline((provider,), None, None).flush(5, Guard("server"))
    assert reader.get_metrics_data() is not None
