"""Builds the FastAPI instrumentation, and tries it before it is used for an application.

It looks up the route of each request in the routes of the application. Several of its releases fail
at that with FastAPI 0.137 to 0.141, whose routers are nested: at every request, or only at
preflights and wrong methods; or they take the path for the route, which makes a new series for each
path that anybody requests. So it is tried on an application of ours with a route of each kind, and
nothing of the host is called.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Coroutine, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import TracerProvider

from chainlit_otel.patching import Unavailable

_PACKAGE = "opentelemetry-instrumentation-fastapi"
_STABILITY = "OTEL_SEMCONV_STABILITY_OPT_IN"
_SANITIZED = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SANITIZE_FIELDS"
# Never recorded, even if all headers are captured: with these, others could use a session.
_SECRET_HEADERS = (
    *("authorization", "cookie", "location", "referer"),
    *(".*api.?key.*", ".*secret.*", ".*session.*", ".*token.*"),
)
# Method, path, and the status and the route that are expected.
_REQUESTS = (
    ("GET", "/plain/a", 200, "/plain/{name}"),
    ("POST", "/plain/a", 405, "/plain/{name}"),
    ("GET", "/nested/a", 200, "/nested/{name}"),
    ("HEAD", "/nested/a", 405, "/nested/{name}"),
    ("PUT", "/nested/deeper/a", 405, "/nested/deeper/{name}"),
    ("OPTIONS", "/nested/a", 405, "/nested/{name}"),
    ("GET", "/nested/deeper/a", 200, "/nested/deeper/{name}"),
    ("GET", "/mounted/a", 404, "/mounted"),
    ("GET", "/absent", 404, None),
    ("OPTIONS", "/absent", 404, None),
)


def build_middleware(tracer_provider: TracerProvider | None, meter_provider: MeterProvider) -> Any:
    """Return the middleware of the instrumentation, around an application of ours.

    Args:
        tracer_provider: Where the spans go; None for the global provider.
        meter_provider: Where the metrics go.

    Raises:
        Unavailable: The instrumentation makes no middleware.
    """
    instrumentation = import_module("opentelemetry.instrumentation.fastapi")
    kind = import_module("opentelemetry.instrumentation.asgi").OpenTelemetryMiddleware
    # Not `fastapi.FastAPI`, which others replace by a class of their own.
    app = import_module("fastapi.applications").FastAPI()
    chosen = [name.strip() for name in os.environ.get(_SANITIZED, "").split(",") if name.strip()]
    with _stable_names(), _background_tasks():
        instrumentation.FastAPIInstrumentor.instrument_app(
            app,
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            excluded_urls="",
            exclude_spans=["receive", "send"],
            http_capture_headers_sanitize_fields=[*_SECRET_HEADERS, *chosen],
        )
        layer = app.build_middleware_stack()
    instrumentation._InstrumentedFastAPI._instrumented_fastapi_apps.discard(app)
    while not isinstance(layer, kind):
        if (layer := getattr(layer, "app", None)) is None:
            raise Unavailable(_advice("it makes no middleware"))
    # Which requests are measured is decided before, by the unredacted URL.
    layer.excluded_urls = None
    return layer


def check() -> None:
    """Let an application of ours answer requests of each kind, with the instrumentation around it.

    Raises:
        Unavailable: The instrumentation fails, or changes an answer, or takes a path for a route.
    """
    # In an empty context, so that the trial adds nothing to a span of the host.
    token = otel_context.attach(Context())
    try:
        tracers = SdkTracerProvider(ALWAYS_ON, Resource.get_empty(), shutdown_on_exit=False)
        meters = SdkMeterProvider(resource=Resource.get_empty(), shutdown_on_exit=False)
        middleware = build_middleware(tracers, meters)
        app = _application()
        middleware.app = app.build_middleware_stack()
        for method, path, status, route in _REQUESTS:
            scope = _scope(app, method, path)
            tried = f"{method} {route or path}"
            answer = _answer(middleware, dict(scope), tried)
            if answer not in (status, None):
                raise Unavailable(_advice(f"{tried} is answered by {answer}, not {status}"))
            _, attributes = middleware.default_span_details(dict(scope))
            if attributes.get("http.route") != route:
                raise Unavailable(_advice(f"{attributes.get('http.route')} is no route"))
    except Unavailable:
        raise
    except Exception as error:
        raise Unavailable(_advice(f"{type(error).__name__} while it was tried")) from error
    finally:
        otel_context.detach(token)


def _application() -> Any:
    fastapi = import_module("fastapi.applications").FastAPI
    new_router = import_module("fastapi.routing").APIRouter

    async def answer(name: str) -> str:
        return name

    deeper, nested = new_router(), new_router()
    deeper.get("/deeper/{name}")(answer)
    nested.get("/{name}")(answer)
    nested.include_router(deeper)
    app = fastapi(openapi_url=None)
    app.get("/plain/{name}")(answer)
    app.include_router(nested, prefix="/nested")
    # A router of Starlette: FastAPI's own telemetry would report requests to a mounted FastAPI.
    app.mount("/mounted", import_module("starlette.routing").Router())
    return app


def _scope(app: Any, method: str, path: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"a=b",
        "headers": [(b"host", b"localhost")],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "app": app,
    }


def _answer(app: Any, scope: dict[str, Any], tried: str) -> int | None:
    """Return the status of an answer; None if the application had to wait for something."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    try:
        if not _run(app(scope, receive, send)):
            return None
    except Exception as error:
        raise Unavailable(_advice(f"{tried} raises {type(error).__name__}")) from error
    return statuses[0] if statuses else 0


def _run(call: Coroutine[Any, Any, None]) -> bool:
    """Run a coroutine without an event loop: one that runs here is the application's.

    Returns:
        Whether it has ended, which it does if it never waits.
    """
    try:
        call.send(None)
    except StopIteration:
        return True
    call.close()
    return False


def _advice(fault: str) -> str:
    def installed(name: str) -> str:
        with contextlib.suppress(PackageNotFoundError):
            return f"{name} {version(name)}"
        return name

    return (
        f"{installed(_PACKAGE)} does not work with {installed('fastapi')} ({fault}): "
        f"pip install -U {_PACKAGE}, or an older fastapi"
    )


@contextlib.contextmanager
def _stable_names() -> Iterator[None]:
    """Use the stable semantic conventions in what is instrumented meanwhile.

    All instrumentations of a process share one choice, which the first takes from the environment,
    and whose default is the old conventions. It is restored afterwards, since what the app itself
    instruments must not change.
    """
    module = import_module("opentelemetry.instrumentation._semconv")
    shared = module._OpenTelemetrySemanticConventionStability
    was_initialized = shared._initialized
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
        shared._initialized = was_initialized


@contextlib.contextmanager
def _background_tasks() -> Iterator[None]:
    """Keep the class of background tasks of Starlette as it is.

    The instrumentation patches it, for all applications, to start a span for each task: without our
    guard, and with the messages of exceptions.
    """
    kind = import_module("starlette.background").BackgroundTask
    before = dict(vars(kind))
    try:
        yield
    finally:
        for name in [name for name in vars(kind) if name not in before]:
            delattr(kind, name)
        kind.__call__ = before["__call__"]
