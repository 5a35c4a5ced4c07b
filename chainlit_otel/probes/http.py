"""HTTP requests: `opentelemetry-instrumentation-fastapi`, told what not to look at.

Left to itself it opens a span for each frame of a websocket, times Socket.IO's polls of up to 25 s
like requests, and tells what people write in URLs and headers. Some of its releases fail beside
some releases of FastAPI, and its failure would be the answer to the request. So it is tried on an
application of ours first (`http_trial`), sees a redacted copy of each request, and stands behind
our guard: the application is called once, with what the server gave, whatever becomes of the rest.

An application is instrumented when it builds its middleware stack, with its first request: by then
it has been decided whether Chainlit is mounted in another one, where, and whether somebody else has
instrumented it. Each request is seen once, by the application that has its route; where the app has
instrumented the outer one itself, its choice stands for what is mounted in there, too. FastAPI's
own telemetry (0.142 and newer) steps back where it finds this one, even if that looks at nothing.
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
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    Tracer,
    get_current_span,
)

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.pipeline.spans import describe_exception, message_of
from chainlit_otel.privacy import redact_scope
from chainlit_otel.probes import http_trial
from chainlit_otel.probes.lifecycle import mounts_of
from chainlit_otel.probes.probe import Probe, ProbeContext

_EVERYTHING = ".*"
_EXCLUDED = ("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS")
# Free text of the client, and of no use to the instrumentation.
_HIDDEN_HEADERS = ("host", "user-agent", "tracestate")
# They build their stack once, and are instrumented again after `disable()`, or in a forked child.
_left: WeakSet[Any] = WeakSet()
_CAPTURED_HEADERS = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_REQUEST"


class Http(Probe):
    """The HTTP requests to Chainlit's application, and to those that mount it."""

    name = "http"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._pipeline = context.pipeline
        self._metrics_path = context.settings.metrics_path
        self._exception_messages = context.settings.capture_exception_messages
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
        while _left:
            app = _left.pop()
            app.middleware_stack = around(app, app.middleware_stack)

    def _excluded(self, chainlit: Any, app: Any, mounted: list[str]) -> list[str]:
        if app is chainlit and self._is_seen_from_outside(chainlit):
            return [_EVERYTHING]
        own_path = self._metrics_path if app is chainlit or "" in mounted else None
        return [*_chosen_by_user(), *_excluded(mounted, own_path)]

    def _is_seen_from_outside(self, chainlit: Any) -> bool:
        for app in {*self._built, *_instrumented_by_host()}:
            mounted = _paths_of(chainlit, app)
            # Mounted at the root, its requests cannot be told apart from those of the outer app.
            if "" in mounted if app in self._ours else mounted and _is_instrumented(app):
                return True
        return False

    def _instrument(
        self, patches: Patches, middleware: Any, app: Any, stack: Any, excluded: list[str]
    ) -> Any:
        instrumented = _Instrumented(
            stack, middleware, self.guard, excluded, self._hidden, self._exception_messages
        )

        def undo() -> None:
            instrumented.remove()
            if app.middleware_stack is instrumented:
                app.middleware_stack = stack
                _left.add(app)

        patches.add_cleanup(undo)
        native = getattr(app, "_native_telemetry", None)
        if hasattr(native, "enabled"):
            patches.wrap_on_instance(native, "enabled", functools.partial(_step_back, patches))
        return instrumented


class _Instrumented:
    """The middleware stack of an application, with the instrumentation around it.

    Args:
        stack: The stack that the application has built.
        middleware: The instrumentation, as a template: each request has a copy, since it keeps in
            itself how long an answer is.
        guard: Holds what goes wrong in the instrumentation.
        excluded: What not to look at, as regular expressions.
        hidden: Names of the headers that it must not see.
        exception_messages: Whether the messages of exceptions are recorded.
    """

    def __init__(
        self,
        stack: Any,
        middleware: Any,
        guard: Guard,
        excluded: list[str],
        hidden: frozenset[bytes],
        exception_messages: bool,
    ) -> None:
        # So it is called in every middleware: FastAPI looks for the instrumentation along it.
        self.app = _copy_of(middleware, stack)
        self.app.tracer = _GuardedTracer(middleware.tracer, guard)
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
        # What answers for an exception is within the stack, and the span ends with the answer.
        self._witness = _Witness(stack.app, self) if isinstance(stack, errors) else None
        if self._witness is not None:
            stack.app = self._witness

    def remove(self) -> None:
        """Leave the stack as it was built, and pass on what still comes."""
        self._is_active = False
        if self._witness is not None and self._stack.app is self._witness:
            self._stack.app = self._witness.app

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        # No coroutine for what it does not look at, such as a websocket, which would keep it for as
        # long as its tab is open.
        looks_at = False
        with self.guard:
            looks_at = self._looks_at(scope)
        call = self._call if looks_at else self._stack
        answer: Awaitable[None] = call(scope, receive, send)
        return answer

    async def _call(self, scope: Any, receive: Any, send: Any) -> None:
        request = context = None
        with self.guard:
            route = self._describe(scope)
            redacted = redact_scope(scope, route[1].get("http.route"), self._hidden)
            context = otel_context.get_current()
            request = _Request(self, self._stack, scope, receive, send)
        if request is None or context is None:
            await self._stack(scope, receive, send)
            return
        # What the application raises does not come this way: the request keeps it.
        with self.guard:
            middleware = _copy_of(self.app, request)
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

    def _looks_at(self, scope: Any) -> bool:
        if not self._is_active or scope["type"] not in ("http", "websocket"):
            return False
        # FastAPI's own telemetry has seen it in an application around, which was built before
        # Chainlit was mounted in it.
        if scope.get("fastapi.telemetry") is not None:
            return False
        return not self._is_excluded(self._url_of(scope)[2])

    def _describe(self, scope: Any) -> tuple[str, dict[str, str]]:
        """Return the name of the span of a request, and its attributes: the route, if there is one.

        Of an application for a host the instrumentation gives the path, which is no route, and
        would be a series of its own for each path that anybody asks for.
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
    """The tracer of the instrumentation, which measures a request even if its span cannot start.

    What a span processor raises at the end of a span needs no such care: the span ends last.
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
    """A request that the instrumentation looks at, in the place of the application.

    Attributes:
        was_called: Whether the instrumentation has got as far as calling the application.
        error: What the application raised, to be raised again when the instrumentation is done.
        failure: The exception that the application has no answer for.
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
        # Somebody may have suppressed it here: then it looks at nothing, and gives back its own.
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
        """Send a message of the application, and tell the instrumentation of it.

        The instrumentation may add headers to the start of an answer, so it hears of that first;
        it ends the span with the last message, so of the others it hears when they are sent.
        """
        guard = self._instrumented.guard
        if type(message) is dict and message.get("type") == "http.response.start":
            with guard:
                await self._notify(message)
                self._record_failure()
            await self._send(message)
        else:
            await self._send(message)
            with guard:
                await self._notify(message)

    def _record_failure(self) -> None:
        """Have the span say of an exception what it is, and its message if a setting says so.

        The status of the answer, which the instrumentation sets, says less.
        """
        span, error = self._span, self.failure
        if span is None or error is None or not span.is_recording():
            return
        message = message_of(error) if self._instrumented.exception_messages else ""
        self._span = None
        describe_exception(span, error, message)


class _Witness:
    """Sees the exceptions that go up to what makes the answer to them, inside a stack."""

    def __init__(self, app: Any, instrumented: _Instrumented) -> None:
        self.app = app
        self._requests = instrumented.requests

    def __call__(self, scope: Any, receive: Any, send: Any) -> Awaitable[None]:
        request = self._requests.get(id(scope))
        call: Awaitable[None] = self.app(scope, receive, send)
        return call if request is None else _witnessed(call, request)


async def _witnessed(call: Awaitable[None], request: _Request) -> None:
    try:
        await call
    except Exception as error:
        request.failure = error
        raise


async def _ignore(_: Any) -> None:
    """Take a message of the instrumentation's: what the application sends goes past it."""


def _step_back(patches: Patches, enabled: Callable[[], bool]) -> Callable[[], bool]:
    """Have FastAPI's own telemetry not even look: it finds the instrumentation, and does nothing.

    That takes a kilobyte of each open websocket.
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
    """Return the headers that are not told, but for those that a standard variable asks for."""
    wanted = [p.strip() for p in os.environ.get(_CAPTURED_HEADERS, "").split(",") if p.strip()]
    pattern = re.compile("|".join(wanted), re.IGNORECASE) if wanted else None
    asked_for = [name for name in _HIDDEN_HEADERS if pattern and pattern.fullmatch(name)]
    return frozenset(name.encode() for name in _HIDDEN_HEADERS if name not in asked_for)


def _paths_of(app: Any, outer: Any) -> list[str]:
    return [path for path, inner in mounts_of(outer) if inner is app]


def _instrumented_by_host() -> list[Any]:
    """Return the applications that the instrumentation knows of: they may not ask us any more."""
    instrumentation = import_module("opentelemetry.instrumentation.fastapi")
    known = getattr(instrumentation, "_InstrumentedFastAPI", None)
    return list(getattr(known, "_instrumented_fastapi_apps", ()))


def _is_instrumented(app: Any) -> bool:
    """Tell whether an application is instrumented by somebody else, by whichever way."""
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
    # The instrumentation takes a list, and splits it at commas.
    return re.escape(path).replace(",", r"\x2c")


def _chosen_by_user() -> list[str]:
    for variable in _EXCLUDED:
        if urls := os.environ.get(variable):
            return [urls]
    return []
