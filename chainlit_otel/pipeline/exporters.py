"""The exporters that the standard variables name. No value of these stops the application.

Exporters are found by the names of their entry points, as the SDK does; one that is unknown, or
cannot be made, is left out with one warning.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

from chainlit_otel.pipeline.forks import RenewableReader
from chainlit_otel.pipeline.losses import (
    BatchProcessor,
    LogBatchProcessor,
    LogDelivery,
    LogExporter,
    Losses,
    Make,
    MetricDelivery,
    SpanDelivery,
)
from chainlit_otel.settings import warn

if TYPE_CHECKING:
    from chainlit_otel.pipeline.otlp_http import ExportSession

_ENTRY_POINTS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_PACKAGE = "opentelemetry-exporter-otlp-proto-"

T = TypeVar("T")


def span_processors(losses: Losses) -> list[BatchProcessor]:
    """Return a processor for each exporter of spans that the standard variables ask for.

    Args:
        losses: Counts what they lose.
    """
    defaults = {
        "max_queue_size": 2048,
        "schedule_delay_millis": 5000,
        "max_export_batch_size": 512,
        "export_timeout_millis": 30000,
    }
    return [
        _or_default("OTEL_BSP_*", BatchProcessor, delivery, defaults)
        for delivery in _deliveries("TRACES", SpanExporter, SpanDelivery, losses)
    ]


class ExportingReader(RenewableReader):
    """Reads the metrics at intervals, and exports them.

    Attributes:
        delivery: Where the metrics go.
    """

    def __init__(self, delivery: MetricDelivery, **kwargs: Any) -> None:
        super().__init__(delivery, **kwargs)
        self.delivery = delivery


def metric_readers(losses: Losses) -> list[ExportingReader]:
    """Return a reader for each exporter of metrics that the standard variables ask for.

    Args:
        losses: Counts what they lose.
    """
    defaults = {"export_interval_millis": 60000, "export_timeout_millis": 30000}
    return [
        _or_default("OTEL_METRIC_EXPORT_*", ExportingReader, delivery, defaults)
        for delivery in _deliveries("METRICS", MetricExporter, MetricDelivery, losses)
    ]


def log_processors(losses: Losses) -> list[LogBatchProcessor]:
    """Return a processor for each exporter of logs that the standard variables ask for.

    Args:
        losses: Counts what they lose.
    """
    defaults = {
        "max_queue_size": 2048,
        "schedule_delay_millis": 1000,
        "max_export_batch_size": 512,
        "export_timeout_millis": 30000,
    }
    return [
        _or_default("OTEL_BLRP_*", LogBatchProcessor, delivery, defaults)
        for delivery in _deliveries("LOGS", LogExporter, LogDelivery, losses)
    ]


def _or_default(
    variables: str, make: Callable[..., T], delivery: Any, defaults: Mapping[str, int]
) -> T:
    try:
        return make(delivery)
    except ValueError as error:
        warn(f"{variables} are ignored, the defaults hold: {one_line(error)}")
        return make(delivery, **defaults)


def otlp_protocol(signal: str) -> str | None:
    """Return how a signal is exported by OTLP; None if it is not.

    Args:
        signal: `TRACES` or `METRICS`.
    """
    found = (_protocol(signal, name) for name in exporter_names(signal) if name.startswith("otlp"))
    return next((protocol for protocol in found if protocol is not None), None)


def otlp_variable(signal: str, name: str) -> str:
    """Return the standard variable of one signal, else that of all of them; empty if unset."""
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_{name}") or os.environ.get(
        f"OTEL_EXPORTER_OTLP_{name}", ""
    )


def exporter_names(signal: str) -> list[str]:
    """Return the names of the exporters that are asked for, in the order in which they are.

    Args:
        signal: `TRACES`, `METRICS` or `LOGS`.
    """
    asked = os.environ.get(f"OTEL_{signal}_EXPORTER") or "otlp"
    names = (name.strip().lower() for name in asked.split(","))
    return [name for name in dict.fromkeys(names) if name and name != "none"]


def warn_of_logs() -> None:
    """Warn if exporters of logs are asked for: we have no LoggerProvider that could use them."""
    variable = "OTEL_LOGS_EXPORTER"
    asked = os.environ.get(variable, "")
    if asked and exporter_names("LOGS"):
        warn(
            f"{variable}={asked} sends nothing: logs are exported by a LoggerProvider of the app, "
            "or by that of opentelemetry-instrument"
        )


def _protocol(signal: str, name: str) -> str | None:
    """Return the protocol of a name of an OTLP exporter; None if it would send nothing."""
    if not otlp_variable(signal, "ENDPOINT"):
        if os.environ.get(f"OTEL_{signal}_EXPORTER"):
            warn(f"OTEL_{signal}_EXPORTER={name} sends nothing: set OTEL_EXPORTER_OTLP_ENDPOINT")
        return None
    by_name = {point: protocol for protocol, point in _ENTRY_POINTS.items()}
    if name in by_name:
        return by_name[name]
    if name != "otlp":
        return None
    own = f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"
    variable = own if os.environ.get(own) else "OTEL_EXPORTER_OTLP_PROTOCOL"
    asked = os.environ.get(variable, "")
    protocol = asked.strip().lower() or "http/protobuf"
    if protocol in _ENTRY_POINTS:
        return protocol
    warn(
        f"{variable}={asked!r} is ignored, http/protobuf holds: it must be http/protobuf or grpc, "
        "the SDK for Python has no other"
    )
    return "http/protobuf"


def _deliveries(
    signal: str, kind: type, deliver: Callable[[Make, Losses], T], losses: Losses
) -> Iterator[T]:
    """Give the deliveries to the exporters of a signal.

    Args:
        signal: `TRACES` or `METRICS`.
        kind: What an exporter of this signal is.
        deliver: Makes a delivery, and by this the exporter.
        losses: Counts what they lose.
    """
    for name in exporter_names(signal):
        # The admin server is the Prometheus exporter.
        if signal == "METRICS" and name == "prometheus":
            continue
        point = _entry_point(signal, name)
        if point is None:
            continue
        try:
            yield deliver(partial(_load, point, signal, kind), losses)
        except Exception as error:  # noqa: BLE001 - an exporter may raise anything
            warn(
                f"OTEL_{signal}_EXPORTER: the exporter {name!r} is left out: "
                f"{type(error).__name__}: {one_line(error)}"
            )


def _entry_point(signal: str, name: str) -> EntryPoint | None:
    """Return the entry point of an exporter; None if there is none, or it would send nothing."""
    wanted = name
    if name == "otlp" or name in _ENTRY_POINTS.values():
        protocol = _protocol(signal, name)
        if protocol is None:
            return None
        wanted = _ENTRY_POINTS[protocol]
    group = f"opentelemetry_{signal.lower()}_exporter"
    known = {point.name: point for point in entry_points(group=group)}
    if wanted in known:
        return known[wanted]
    if wanted in _ENTRY_POINTS.values():
        transport = wanted.rpartition("_")[2]
        warn(f"OTLP by {transport} needs a package: pip install {_PACKAGE}{transport}")
    else:
        names = ", ".join(sorted({"none", "otlp", *known}))
        warn(
            f"OTEL_{signal}_EXPORTER: there is no exporter {name!r}, it is left out; there are "
            f"{names}"
        )
    return None


def _load(point: EntryPoint, signal: str, kind: type) -> tuple[Any, ExportSession | None]:
    """Make an exporter, and the session that it sends by, if it is one of ours."""
    # Exporters import these later in their threads, while the app may be changing `sys.path`.
    for imported_by_exporters in ("encodings.idna", "netrc"):
        import_module(imported_by_exporters)
    session = _session(signal) if point.name == "otlp_proto_http" else None
    make = point.load()
    exporter = make() if session is None else make(session=session)
    if not isinstance(exporter, kind):
        raise TypeError(f"{type(exporter).__name__} exports something else")
    if point.name == "otlp_proto_http" and signal == "TRACES":
        from chainlit_otel.pipeline.span_encoding import encode_by

        encode_by(exporter)
    return exporter, session


def _session(signal: str) -> ExportSession | None:
    """Return a session for an exporter of OTLP by HTTP; None if the environment names one."""
    provider = "CREDENTIAL_PROVIDER"
    if any(
        os.environ.get(f"OTEL_PYTHON_EXPORTER_OTLP_HTTP_{part}{provider}")
        for part in ("", f"{signal}_")
    ):
        return None
    from chainlit_otel.pipeline.otlp_http import ExportSession

    return ExportSession()


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())
