"""HTTP requests: `opentelemetry-instrumentation-fastapi`, restricted and guarded.

By itself it starts a span for each frame of a websocket, measures Socket.IO's polls of up to 25 s
like requests, and records what people write in URLs and headers. Some of its releases fail with
some releases of FastAPI, and the request would fail with it. So it is first tried on an application
of ours (`http_trial`), gets a redacted copy of each request, and runs under our guard: the
application is called once, with what the server gave, whatever happens in the instrumentation.

An application is instrumented when it builds its middleware stack, at its first request: by then it
is known whether and where Chainlit is mounted in another application, and whether the app has
instrumented it. Each request is measured once, by the application that has its route; if the app
has instrumented the outer application, ours does nothing for Chainlit in it. FastAPI's own
telemetry (0.142 and newer) does nothing for an application with this instrumentation.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from typing import Any
from weakref import WeakSet

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    Tracer,
    get_current_span,
)

from chainlit_otel import catalog
from chainlit_otel.core.hashes import hashed
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.pipeline.spans import describe_exception, message_of
from chainlit_otel.privacy import redact_scope
from chainlit_otel.probes import http_trial
from chainlit_otel.probes.lifecycle import mounts_of
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.synthetic import Synthetic

_EVERYTHING = ".*"
_EXCLUDED = ("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS")
# Free text of clients, which the instrumentation does not need.
_HIDDEN_HEADERS = ("host", "user-agent", "tracestate")
# Applications build their stack once, so those that were uninstrumented by `disable()` are kept, to
# be instrumented again by the next `enable()`, or in a forked child.
_uninstrumented: WeakSet[Any] = WeakSet()
# By which the page has its load balancer keep the tab on one replica.
_SESSION_COOKIE = b"X-Chainlit-Session-id="
_CAPTURED_HEADERS = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST"


class Http(Probe):
    """The HTTP requests to Chainlit's application, and to those that mount it."""

    name = "http"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._pipeline = context.pipeline
        self._metrics_path = context.settings.metrics_path
        self._exception_messages = context.settings.capture_exception_messages
        self._synthetic = context.get(Synthetic)
        self._unmeasured: Any = None
        self._hidden = _hidden_headers()
        self._built: WeakSet[Any] = WeakSet()
        self._ours: WeakSet[Any] = WeakSet()

    def install(self, patches: Patches) -> None:
        """Instrument the applications when they start.

        Args:
            patches: Takes the changes.

        Raises:
            SeamMissing: FastAPI builds its middleware stack elsewhere.
            Unavailable: The instrumentation does not work with this FastAPI.
        """
        chainlit = import_module("chainlit.server").app
        # Not `fastapi.FastAPI`, which others replace by a class of their own.
        fastapi = import_module("fastapi.applications").FastAPI
        http_trial.check()
        middleware = http_trial.build_middleware(
            self._pipeline.tracer_provider, self._pipeline.meter_providers[0]
        )
        if self._synthetic.is_enabled:
            self._unmeasured = http_trial.build_middleware(
                self._pipeline.tracer_provider, NoOpMeterProvider()
            )

        def wrapper(wrapped: Any, app: Any, args: Any, kwargs: Any) -> Any:
            return around(app, wrapped(*args, **kwargs))

        def around(app: Any, stack: Any) -> Any:
            with self.guard:
                self._built.add(app)
                mounted = _paths_of(chainlit, app)
                is_ours = app is chainlit or (mounted and isinstance(app, fastapi))
                if is_ours and not _is_instrumented(app):
                    self._ours.add(app)
                    excluded = self._excluded(chainlit, app, mounted)
                    return self._instrument(patches, middleware, app, stack, excluded)
            return stack

        patches.wrap_attribute(
            _owner(fastapi, "build_middleware_stack"), "build_middleware_stack", wrapper
        )
        while _uninstrumented:
            app = _uninstrumented.pop()
            app.middleware_stack = around(app, app.middleware_stack)

    def _excluded(self, chainlit: Any, app: Any, mounted: list[str]) -> list[str]:
        if app is chainlit and self._is_measured_outside(chainlit):
            return [_EVERYTHING]
        own_path = self._metrics_path if app is chainlit or "" in mounted else None
        return [*_chosen_by_user(), *_excluded(mounted, own_path)]

    def _is_measured_outside(self, chainlit: Any) -> bool:
        for app in {*self._built, *_instrumented_by_host()}:
            mounted = _paths_of(chainlit, app)
            # If it is mounted at the root, its requests look like those of the outer application.
            if "" in mounted if app in self._ours else mounted and _is_instrumented(app):
                return True
        return False

    def _instrument(
        self, patches: Patches, middleware: Any, app: Any, stack: Any, excluded: list[str]
    ) -> Any:
        instrumented = _Instrumented(
            stack,
            middleware,
            self.guard,
            excluded,
            self._hidden,
            self._exception_messages,
            self._unmeasured,
            self._synthetic.shown_by_request,
        )

        def undo() -> None:
            instrumented.remove()
            if app.middleware_stack is instrumented:
                app.middleware_stack = stack
                _uninstrumented.add(app)

        patches.add_cleanup(undo)
        native = getattr(app, "_native_telemetry", None)
        if hasattr(native, "enabled"):
            patches.wrap_on_instance(native, "enabled", functools.partial(_wrap_enabled, patches))
        return instrumented


class _Instrumented:
    """The middleware stack of an application, with the instrumentation around it.

    Args:
        stack: The stack that the application has built.
        middleware: The instrumentation, as a template: each request has a copy, since it stores the
            length of an answer in itself.
        guard: Holds what goes wrong in the instrumentation.
        excluded: Regular expressions of the URLs that are not measured.
        hidden: Names of the headers that are removed.
        exception_messages: Whether the messages of exceptions are recorded.
        unmeasured: The instrumentation without metrics, for requests of synthetic visitors; None if
            there can be no such visitors.
        is_synthetic: Tells whether this request is one of them.
    """

    def __init__(
        self,
        stack: Any,
        middleware: Any,
        guard: Guard,
        excluded: list[str],
        hidden: frozenset[bytes],
        exception_messages: bool,
        unmeasured: Any,
        is_synthetic: Callable[[], bool],
    ) -> None:
        # The attribute by which FastAPI looks for the instrumentation along the middlewares.
        self.app = _copy_of(middleware, stack)
        self.app.tracer = _GuardedTracer(middleware.tracer, guard)
        self._unmeasured = unmeasured
        self._is_synthetic = is_synthetic
        self.guard = guard
        self.exception_messages = exception_messages
        self.requests: dict[int, _Request] = {}
        self._stack = stack
        self._hidden = hidden
        self._is_active = True
        asgi = import_module("opentelemetry.instrumentation.asgi")
        http = import_module("opentelemetry.util.http")
        self._url_of: Callable[[Any], tuple[Any, Any, str]] = asgi.get_host_port_url_tuple
        self._is_excluded = http.parse_excluded_urls(",".join(excluded)).url_disabled
        self._host_route = import_module("starlette.routing").Host
        errors = import_module("starlette.middleware.errors").ServerErrorMiddleware
        # The span ends with the answer, and that to an exception is made inside the stack.
        self._observer = _FailureObserver(stack.app, self) if isinstance(stack, errors) else None
        if self._observer is not None:
            stack.app = self._observer

    def remove(self) -> None:
        """Restore the stack, and pass on the requests that still come here."""
        self._is_active = False
        if self._observer is not None and self._stack.app is self._observer:
            self._stack.app = self._observer.app

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        # No coroutine for requests that are not measured: that of a websocket would take memory for
        # as long as its tab is open.
        is_measured = False
        with self.guard:
            is_measured = self._is_measured(scope)
        call = self._call if is_measured else self._stack
        answer: Awaitable[None] = call(scope, receive, send)
        return answer

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        request = context = None
        with self.guard:
            route, template = self._describe(scope), self.app
            if self._is_synthetic():
                template = self._unmeasured
                route[1][catalog.SYNTHETIC] = True
            redacted = redact_scope(scope, route[1].get("http.route"), self._hidden)
            context = otel_context.get_current()
            request = _Request(self, self._stack, scope, receive, send)
        if request is None or context is None:
            await self._stack(scope, receive, send)
            return
        # An exception of the application is kept in the request, and does not come through here.
        with self.guard:
            middleware = _copy_of(template, request)
            middleware.tracer = self.app.tracer
            middleware.default_span_details = lambda _: route
            await middleware(redacted, receive, _ignore)
        if not request.was_called:
            otel_context.attach(context)
            await self._stack(scope, receive, send)
        elif request.error is not None:
            try:
                raise request.error
            finally:
                request.error = None

    def _is_measured(self, scope: Any) -> bool:
        if not self._is_active or scope["type"] not in ("http", "websocket"):
            return False
        # FastAPI's own telemetry has measured it in an outer application, which was built before
        # Chainlit was mounted in it.
        if scope.get("fastapi.telemetry") is not None:
            return False
        return not self._is_excluded(self._url_of(scope)[2])

    def _describe(self, scope: Any) -> tuple[str, dict[str, Any]]:
        """Return the name of the span of a request, and its attributes: the route, if there is one.

        For an application that is routed by host, the instrumentation returns the path as the
        route, which would make a new series for each path that anybody requests.
        """
        name, attributes = self.app.default_span_details(scope)
        route = attributes.get("http.route")
        if route is not None and route == scope.get("path"):
            kind = self._host_route
            for other in scope["app"].routes:
                if isinstance(other, kind) and other.matches(scope)[0].name == "FULL":
                    return name.partition(" ")[0] if scope["type"] == "http" else "websocket", {}
        return name, attributes


class _GuardedTracer(Tracer):
    """The tracer of the instrumentation: a request is measured even if its span cannot start.

    An exception at the end of a span changes nothing, since the span ends last.
    """

    def __init__(self, tracer: Tracer, guard: Guard) -> None:
        self._tracer = tracer
        self._guard = guard

    def start_span(
        self, name: str, context: Context | None = None, *args: Any, **kwargs: Any
    ) -> Span:
        with self._guard:
            return self._tracer.start_span(name, context, *args, **kwargs)
        return NonRecordingSpan(get_current_span(context).get_span_context())

    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._tracer.start_as_current_span(*args, **kwargs)


class _Request:
    """A request that is measured; the instrumentation calls it in place of the application.

    Attributes:
        was_called: Whether the instrumentation has called the application.
        error: What the application raised, to be raised again when the instrumentation is done.
        failure: The exception that the application did not handle.
    """

    __slots__ = (
        *("_instrumented", "_receive", "_scope", "_send", "_span", "_stack", "_notify"),
        *("error", "failure", "was_called"),
    )

    def __init__(
        self, instrumented: _Instrumented, stack: Any, scope: Any, receive: Any, send: Any
    ) -> None:
        self._instrumented = instrumented
        self._stack = stack
        self._scope = scope
        self._receive = receive
        self._send = send
        self._span: Span | None = None
        self._notify: Any = None
        self.was_called = False
        self.error: BaseException | None = None
        self.failure: Exception | None = None

    async def __call__(self, redacted: Any, _: Any, notify: Any) -> None:
        self.was_called = True
        scope, requests = self._scope, self._instrumented.requests
        self._notify = notify
        # If instrumentation is suppressed in this context, it passes its own `send` on.
        if notify is not _ignore:
            self._span = get_current_span()
            requests[id(scope)] = self
        try:
            await self._stack(scope, self._receive, self._answer)
        except BaseException as error:  # noqa: BLE001 - it is raised again
            self.error = error
            if self.failure is None and isinstance(error, Exception):
                self.failure = error
        requests.pop(id(scope), None)
        with self._instrumented.guard:
            self._record_failure()
            # The old conventions have the route from there, in one of their metrics.
            if "route" in scope:
                redacted["route"] = scope["route"]

    async def _answer(self, message: Any) -> None:
        """Send a message of the application, and pass it to the instrumentation.

        The instrumentation may add headers to the start of an answer, so it gets that before it is
        sent; it ends the span with the last message, so it gets the others after they are sent.
        """
        guard = self._instrumented.guard
        if type(message) is dict and message.get("type") == "http.response.start":
            with guard:
                await self._notify(message)
                self._record_failure()
                self._name_session(message)
            await self._send(message)
        else:
            await self._send(message)
            with guard:
                await self._notify(message)

    def _name_session(self, message: Any) -> None:
        """Put what stands for the session on the span of the request for its cookie.

        That request has the id in its body, which is the app's to read. Any other request for a
        session looks it up.
        """
        if self._span is None:
            return
        for name, value in message.get("headers", ()):
            if name == b"set-cookie" and value.startswith(_SESSION_COOKIE):
                id = value[len(_SESSION_COOKIE) :].partition(b";")[0].decode("latin-1")
                self._span.set_attribute(catalog.SESSION_ID, hashed(id))

    def _record_failure(self) -> None:
        """Record an exception in the span, with its message if a setting allows it.

        The instrumentation itself records the status of the answer only.
        """
        span, error = self._span, self.failure
        if span is None or error is None or not span.is_recording():
            return
        message = message_of(error) if self._instrumented.exception_messages else ""
        self._span = None
        describe_exception(span, error, message)


class _FailureObserver:
    """Notes an exception on its way to `ServerErrorMiddleware`, which answers it."""

    def __init__(self, app: Any, instrumented: _Instrumented) -> None:
        self.app = app
        self._requests = instrumented.requests

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        request = self._requests.get(id(scope))
        call: Awaitable[None] = self.app(scope, receive, send)
        return call if request is None else _note_failure(call, request)


async def _note_failure(call: Awaitable[None], request: _Request) -> None:
    try:
        await call
    except Exception as error:
        request.failure = error
        raise


async def _ignore(_: Any) -> None:
    """Drop a message of the instrumentation: those of the application are sent directly."""


def _wrap_enabled(patches: Patches, enabled: Callable[[], bool]) -> Callable[[], bool]:
    """Switch FastAPI's own telemetry off: it would do nothing beside this instrumentation.

    But to find out takes a kilobyte for each open websocket.
    """

    @functools.wraps(enabled)
    def is_enabled() -> bool:
        return not patches.active and enabled()

    return is_enabled


def _copy_of(middleware: Any, app: Any) -> Any:
    copy = object.__new__(type(middleware))
    vars(copy).update(vars(middleware), app=app)
    return copy


def _hidden_headers() -> frozenset[bytes]:
    """Return the headers that are removed; those that a standard variable captures are not."""
    wanted = [p.strip() for p in os.environ.get(_CAPTURED_HEADERS, "").split(",") if p.strip()]
    pattern = re.compile("|".join(wanted), re.IGNORECASE) if wanted else None
    asked_for = [name for name in _HIDDEN_HEADERS if pattern and pattern.fullmatch(name)]
    return frozenset(name.encode() for name in _HIDDEN_HEADERS if name not in asked_for)


def _paths_of(app: Any, outer: Any) -> list[str]:
    return [path for path, inner in mounts_of(outer) if inner is app]


def _instrumented_by_host() -> list[Any]:
    """Return the applications that the app has instrumented, whose stack may be built already."""
    instrumentation = import_module("opentelemetry.instrumentation.fastapi")
    known = getattr(instrumentation, "_InstrumentedFastAPI", None)
    return list(getattr(known, "_instrumented_fastapi_apps", ()))


def _is_instrumented(app: Any) -> bool:
    """Tell whether the app itself has instrumented an application, in whichever way."""
    middleware = import_module("opentelemetry.instrumentation.asgi").OpenTelemetryMiddleware
    return getattr(app, "_is_instrumented_by_opentelemetry", False) or any(
        added.cls is middleware for added in app.user_middleware
    )


def _owner(cls: type, name: str) -> type:
    """Return the class that a method comes from: older releases of FastAPI inherit this one."""
    return next((base for base in cls.__mro__ if name in vars(base)), cls)


def _excluded(mounted: list[str], metrics_path: str | None) -> Iterator[str]:
    yield "/ws/socket\\.io"
    if metrics_path is not None:
        yield _escape(metrics_path) + "/?$"
    for path in filter(None, mounted):
        yield f"://[^/]*{_escape(path)}(/|$)"


def _escape(path: str) -> str:
    # The instrumentation splits the expressions at commas.
    return re.escape(path).replace(",", r"\x2c")


def _chosen_by_user() -> list[str]:
    for variable in _EXCLUDED:
        if urls := os.environ.get(variable):
            return [urls]
    return []
