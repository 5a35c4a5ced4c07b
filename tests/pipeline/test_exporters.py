from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from chainlit_otel import settings
from chainlit_otel.pipeline import exporters
from chainlit_otel.pipeline.exporters import metric_readers, otlp_protocol, span_processors
from chainlit_otel.pipeline.losses import Losses, SpanDelivery

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
HTTP = "opentelemetry.exporter.otlp.proto.http"
GRPC = "opentelemetry.exporter.otlp.proto.grpc"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """One in which nothing is said yet, and nothing is exported by itself."""
    settings._problems.clear()
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")


@pytest.fixture
def made() -> Iterator[list[Any]]:
    """Takes what has threads, and ends these."""
    made: list[Any] = []
    yield made
    for one in made:
        one.shutdown()


def spans(made: list[Any]) -> list[str]:
    """Where spans go, as the names of packages of exporters."""
    processors: list[BatchSpanProcessor] = [*span_processors(Losses())]
    made.extend(processors)
    deliveries = [processor.span_exporter for processor in processors]
    assert all(isinstance(delivery, SpanDelivery) for delivery in deliveries)
    return [package(delivery.exporter) for delivery in deliveries]


def metrics(made: list[Any]) -> list[str]:
    """Where metrics go, likewise."""
    readers = metric_readers(Losses())
    made.extend(readers)
    return [package(reader.delivery.exporter) for reader in readers]


def package(exporter: object) -> str:
    return type(exporter).__module__.rpartition(".")[0]


SDK = "opentelemetry.sdk.trace", "opentelemetry.sdk.metrics._internal"


@pytest.mark.parametrize(
    ("asked", "protocol", "packages"),
    [
        (None, None, [HTTP]),
        ("", "", [HTTP]),
        ("otlp", "http/protobuf", [HTTP]),
        ("OTLP", " HTTP/Protobuf ", [HTTP]),
        ("otlp", "grpc", [GRPC]),
        ("otlp", "GRPC", [GRPC]),
        ("otlp_proto_http", "grpc", [HTTP]),
        ("otlp_proto_grpc", "http/protobuf", [GRPC]),
        ("otlp,otlp", None, [HTTP]),
        (" otlp , otlp_proto_grpc ", None, [HTTP, GRPC]),
        ("console", None, ["console"]),
        ("console,otlp", None, ["console", HTTP]),
        ("none", None, []),
        ("NONE", None, []),
        (",", None, []),
    ],
)
def test_an_exporter_is_known_by_each_of_its_names(
    asked: str | None,
    protocol: str | None,
    packages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    made: list[Any],
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    for signal in ("TRACES", "METRICS"):
        if asked is not None:
            monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", asked)
    if protocol is not None:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    of_spans, of_metrics = SDK
    assert spans(made) == [of_spans if name == "console" else name for name in packages]
    assert metrics(made) == [of_metrics if name == "console" else name for name in packages]
    assert settings.problems() == []


def test_the_protocol_of_one_signal_goes_before_that_of_all(
    monkeypatch: pytest.MonkeyPatch, made: list[Any]
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")
    assert (spans(made), metrics(made)) == ([HTTP], [GRPC])
    assert (otlp_protocol("TRACES"), otlp_protocol("METRICS")) == ("http/protobuf", "grpc")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "carrier pigeon"),
    ],
)
def test_a_protocol_that_is_not_there_is_logged_once_and_the_default_holds(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch, made: list[Any]
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv(variable, value)
    assert (spans(made), metrics(made)) == ([HTTP], [HTTP])
    (problem,) = settings.problems()
    assert problem.startswith(f"{variable}={value!r} is ignored, http/protobuf holds: ")


def test_the_admin_server_is_the_exporter_for_prometheus(
    monkeypatch: pytest.MonkeyPatch, made: list[Any]
) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus")
    assert metrics(made) == []
    assert settings.problems() == []


@pytest.mark.parametrize("signal", ["TRACES", "METRICS"])
def test_an_exporter_that_is_not_there_is_logged_and_the_others_are_used(
    signal: str, monkeypatch: pytest.MonkeyPatch, made: list[Any]
) -> None:
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "jaeger,otlp")
    assert (spans(made), metrics(made)) == ([HTTP], [HTTP])
    assert settings.problems() == [
        f"OTEL_{signal}_EXPORTER: there is no exporter 'jaeger', it is left out; there are "
        "console, none, otlp, otlp_proto_grpc, otlp_proto_http"
    ]


def test_without_an_endpoint_nothing_is_sent_and_a_named_exporter_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, made: list[Any]
) -> None:
    assert (spans(made), metrics(made)) == ([], [])
    assert settings.problems() == []
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp_proto_grpc")
    assert (spans(made), metrics(made)) == ([], [])
    assert settings.problems() == [
        "OTEL_TRACES_EXPORTER=otlp sends nothing: set OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_METRICS_EXPORTER=otlp_proto_grpc sends nothing: set OTEL_EXPORTER_OTLP_ENDPOINT",
    ]


class Nothing:
    """No exporter at all."""


class Broken:
    def __init__(self) -> None:
        raise OSError("no\n  route")


@pytest.mark.parametrize(
    ("kind", "reported"),
    [("Nothing", "TypeError: Nothing exports something else"), ("Broken", "OSError: no route")],
)
def test_an_exporter_that_cannot_be_made_is_left_out_with_its_reason(
    kind: str, reported: str, monkeypatch: pytest.MonkeyPatch, made: list[Any]
) -> None:
    class Point(metadata.EntryPoint):
        def load(self) -> Any:
            return {"Nothing": Nothing, "Broken": Broken}[kind]

    monkeypatch.setattr(exporters, "entry_points", lambda group: [Point("odd", "x:Y", group)])
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "odd")
    assert spans(made) == []
    assert settings.problems() == [
        f"OTEL_TRACES_EXPORTER: the exporter 'odd' is left out: {reported}"
    ]


def test_a_protocol_without_its_package_is_logged_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, made: list[Any]
) -> None:
    def without(group: str) -> list[metadata.EntryPoint]:
        return [point for point in metadata.entry_points(group=group) if "grpc" not in point.name]

    monkeypatch.setattr(exporters, "entry_points", without)
    monkeypatch.setenv(ENDPOINT, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert (spans(made), metrics(made)) == ([], [])
    assert settings.problems() == [
        "OTLP by grpc needs a package: pip install opentelemetry-exporter-otlp-proto-grpc"
    ]
