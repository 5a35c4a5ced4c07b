"""HTTP requests: `opentelemetry-instrumentation-fastapi`, told what not to look at.

Left to itself it opens a span for each frame of a websocket and times Socket.IO's polls of up
to 25 s like requests. An application is instrumented when it builds its middleware stack, with
its first request: by then it has been decided whether Chainlit is mounted in another one, where,
and whether somebody else has instrumented it. Each request is seen once, by the application
that has its route. FastAPI's own telemetry (0.142 and newer) steps back where it finds this one.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.probes.lifecycle import mounts_of
from chainlit_otel.telemetry import Telemetry
from chainlit_otel.tracing import describe_exception

_STABILITY = "OTEL_SEMCONV_STABILITY_OPT_IN"
# What the semantic conventions put in place of what must not be told.
_REDACTED = "REDACTED"
_ADDRESSES = ("client.address", "net.peer.ip", "http.client_ip")
_SESSION_ID = re.compile(r"(session(?:_|%5f)id=)[^&]*", re.IGNORECASE)
_EXCLUDED = ("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS")


def install(
    patches: Patches,
    guard: Guard,
    telemetry: Telemetry,
    meter_provider: MeterProvider,
    tracer_provider: TracerProvider | None,
    metrics_path: str | None,
    exception_messages: bool,
) -> None:
    """Instrument the application of Chainlit, and those that mount it, when they start.

    Args:
        patches: Takes the changes.
        guard: Holds what goes wrong in this probe.
        telemetry: Not used; the instrumentation has metrics of its own.
        meter_provider: Where the metrics go.
        tracer_provider: Where the spans go; None for the global provider.
        metrics_path: Path at which the app serves our metrics, if it does.
        exception_messages: Whether the messages of exceptions are recorded.

    Raises:
        SeamMissing: FastAPI builds its middleware stack elsewhere.
    """
    # The names that the conventions have settled on; unset means those that they gave up.
    chosen = os.environ.get(_STABILITY, "")
    if not any(choice.strip().startswith("http") for choice in chosen.split(",")):
        os.environ[_STABILITY] = f"{chosen},http" if chosen else "http"
    chainlit = import_module("chainlit.server").app

    # Not `fastapi.FastAPI`, which others replace by a class of their own.
    fastapi = import_module("fastapi.applications").FastAPI
    seen_from_outside = False

    def wrapper(wrapped: Any, app: Any, args: Any, kwargs: Any) -> Any:
        nonlocal seen_from_outside
        build = wrapped
        with guard:
            mounted = [path for path, inner in mounts_of(app) if inner is chainlit]
            outer = bool(mounted) and isinstance(app, fastapi)
            # Mounted at the root, its requests cannot be told from those of the outer app.
            seen_from_outside = seen_from_outside or (outer and "" in mounted)
            ours = outer or (app is chainlit and not seen_from_outside)
            # Instrumented, it comes here again, and then it is the original's turn.
            if ours and not getattr(app, "_is_instrumented_by_opentelemetry", False):
                instrument(app, mounted)
                build = app.build_middleware_stack
        return build(*args, **kwargs)

    def instrument(app: Any, mounted: list[str]) -> None:
        own_path = metrics_path if app is chainlit or seen_from_outside else None
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            excluded_urls=",".join([*_chosen_by_user(), *_excluded(mounted, own_path)]),
            exclude_spans=["receive", "send"],
            server_request_hook=functools.partial(_redact, guard, not exception_messages),
        )
        patches.on_undo(lambda: FastAPIInstrumentor.uninstrument_app(app))

    patches.wrap(_owner(fastapi, "build_middleware_stack"), "build_middleware_stack", wrapper)


def _owner(cls: type, name: str) -> type:
    """Return the class that a method comes from: older releases of FastAPI inherit this one."""
    return next((base for base in cls.__mro__ if name in vars(base)), cls)


def _redact(guard: Guard, hide_exceptions: bool, span: Span, _: Mapping[str, Any]) -> None:
    """Take out what tells who a visitor is, or lets somebody else go on in their session."""
    with guard:
        if not span.is_recording():
            return
        # Which attributes there are depends on the conventions that somebody has chosen.
        for key, value in dict(getattr(span, "attributes", None) or {}).items():
            if key in _ADDRESSES:
                span.set_attribute(key, _REDACTED)
            elif isinstance(value, str) and _SESSION_ID.search(value):
                span.set_attribute(key, _SESSION_ID.sub(rf"\g<1>{_REDACTED}", value))
        if hide_exceptions:
            _hide_exceptions(span)


def _hide_exceptions(span: Span) -> None:
    """Have a span say of an exception what it is, and not what its message is.

    The instrumentation records it in two places, and neither can be told how.
    """
    set_status: Any = span.set_status
    failed: list[str] = []

    def record_exception(error: BaseException, *_: Any, **__: Any) -> None:
        if not failed:
            failed.append(type(error).__qualname__)
            describe_exception(span, error, message="")

    def set_quiet_status(status: Any, description: str | None = None) -> None:
        code = status.status_code if isinstance(status, Status) else status
        if code is StatusCode.ERROR and failed:
            set_status(code, failed[0])
        else:
            set_status(status, description)

    shadow: Any = span
    shadow.record_exception = record_exception
    shadow.set_status = set_quiet_status


def _excluded(mounted: list[str], metrics_path: str | None) -> Iterator[str]:
    yield "/ws/socket\\.io"
    if metrics_path is not None:
        yield _escape(metrics_path) + "/?$"
    for path in filter(None, mounted):
        yield f"://[^/]*{_escape(path)}(/|$)"


def _escape(path: str) -> str:
    # The instrumentation takes a list, and splits it at commas.
    return re.escape(path).replace(",", r"\x2c")


def _chosen_by_user() -> list[str]:
    for variable in _EXCLUDED:
        if urls := os.environ.get(variable):
            return [urls]
    return []
