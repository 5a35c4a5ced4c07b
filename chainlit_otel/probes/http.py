"""HTTP requests: `opentelemetry-instrumentation-fastapi`, told what not to look at.

Left to itself it opens a span for each frame of a websocket and times Socket.IO's polls of up
to 25 s like requests. An application is instrumented when it builds its middleware stack, with
its first request: by then it has been decided whether Chainlit is mounted in another one, where,
and whether somebody else has instrumented it. Each request is seen once, by the application
that has its route; where the app has instrumented the outer one itself, its choice stands for what
is mounted in there, too. FastAPI's own telemetry (0.142 and newer) steps back where it finds this
one, even if that is told to look at nothing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any
from weakref import WeakSet

from opentelemetry.instrumentation import fastapi as instrumentation
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.probes.lifecycle import mounts_of
from chainlit_otel.telemetry import Telemetry
from chainlit_otel.tracing import describe_exception

_STABILITY = "OTEL_SEMCONV_STABILITY_OPT_IN"
_EVERYTHING = ".*"
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
    chainlit = import_module("chainlit.server").app
    # Not `fastapi.FastAPI`, which others replace by a class of their own.
    fastapi = import_module("fastapi.applications").FastAPI
    built: WeakSet[Any] = WeakSet()
    ours: WeakSet[Any] = WeakSet()

    def wrapper(wrapped: Any, app: Any, args: Any, kwargs: Any) -> Any:
        # Instrumented, it comes here again, and then it is the original's turn.
        if app in ours:
            return wrapped(*args, **kwargs)
        build, mounted, names = wrapped, [], contextlib.ExitStack()
        with guard:
            built.add(app)
            mounted = _paths_of(chainlit, app)
            if (app is chainlit or (mounted and isinstance(app, fastapi))) and not _is_seen(app):
                ours.add(app)
        if app in ours:
            with guard:
                names.enter_context(_stable_names())
            with guard:
                instrument(app, mounted)
                build = app.build_middleware_stack
        with names:
            stack = build(*args, **kwargs)
        with guard:
            if app in ours and isinstance(getattr(stack, "app", None), OpenTelemetryMiddleware):
                stack.app = _Once(stack.app)
        return stack

    def instrument(app: Any, mounted: list[str]) -> None:
        if app is chainlit and is_seen_from_outside():
            excluded = [_EVERYTHING]
        else:
            own_path = metrics_path if app is chainlit or "" in mounted else None
            excluded = [*_chosen_by_user(), *_excluded(mounted, own_path)]
        FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            excluded_urls=",".join(excluded),
            exclude_spans=["receive", "send"],
            server_request_hook=functools.partial(_redact, guard, not exception_messages),
        )
        patches.on_undo(lambda: FastAPIInstrumentor.uninstrument_app(app))

    def is_seen_from_outside() -> bool:
        for app in {*built, *_instrumented_by_host()}:
            mounted = _paths_of(chainlit, app)
            # Mounted at the root, its requests cannot be told from those of the outer app.
            if "" in mounted if app in ours else mounted and _is_seen(app):
                return True
        return False

    patches.wrap(_owner(fastapi, "build_middleware_stack"), "build_middleware_stack", wrapper)


def _paths_of(app: Any, outer: Any) -> list[str]:
    return [path for path, inner in mounts_of(outer) if inner is app]


def _instrumented_by_host() -> list[Any]:
    """Return the applications that the instrumentation knows of: they may not ask us any more."""
    known = getattr(instrumentation, "_InstrumentedFastAPI", None)
    return list(getattr(known, "_instrumented_fastapi_apps", ()))


class _Once:
    """Lets a request pass by that FastAPI's own telemetry has seen in an application around.

    It has where that application was built before Chainlit was mounted in it.
    """

    def __init__(self, app: Any) -> None:
        # So it is called in every middleware: FastAPI looks for the instrumentation along it.
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        seen = scope.get("fastapi.telemetry") is not None
        await (self.app.app if seen else self.app)(scope, receive, send)


def _is_seen(app: Any) -> bool:
    """Tell whether an application is instrumented, by whichever way."""
    return getattr(app, "_is_instrumented_by_opentelemetry", False) or any(
        added.cls is OpenTelemetryMiddleware for added in app.user_middleware
    )


@contextlib.contextmanager
def _stable_names() -> Iterator[None]:
    """Have what is instrumented meanwhile use the names that the conventions have settled on.

    All instrumentations of a process share one choice. The first of them takes it from the
    environment, and it may stand on the names that were given up. It is not ours to change for
    what the app instruments, before or after, so it is put back.
    """
    module = import_module("opentelemetry.instrumentation._semconv")
    shared = module._OpenTelemetrySemanticConventionStability
    shared._initialize()
    signal = module._OpenTelemetryStabilitySignalType.HTTP
    modes = shared._OTEL_SEMCONV_STABILITY_SIGNAL_MAPPING
    before = modes[signal]
    chosen = [choice.strip() for choice in os.environ.get(_STABILITY, "").split(",")]
    modes[signal] = type(before)("http/dup" if "http/dup" in chosen else "http")
    try:
        yield
    finally:
        modes[signal] = before


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
