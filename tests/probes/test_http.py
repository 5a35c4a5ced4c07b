"""What is measured, what is redacted, and that no fault of the instrumentation is the answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from opentelemetry import context as otel_context
from opentelemetry.instrumentation import _semconv, asgi
from opentelemetry.instrumentation import fastapi as instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler, SamplingResult
from opentelemetry.trace import get_current_span
from opentelemetry.util.http import parse_excluded_urls
from starlette.background import BackgroundTask
from starlette.routing import Host, Match

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Unavailable
from chainlit_otel.probes import http_trial
from chainlit_otel.probes.http import _chosen_by_user, _excluded, _hidden_headers, _Instrumented
from chainlit_otel.probes.http_trial import _stable_names

HOST = "http://localhost:8000"


def is_excluded(path: str, mounted: list[str] | None = None, metrics: str | None = None) -> bool:
    """Ask the instrumentation, which is given the patterns as one text."""
    patterns = ",".join(_excluded(mounted or [], metrics))
    return parse_excluded_urls(patterns).url_disabled(HOST + path)


@pytest.mark.parametrize(
    "path",
    [
        "/ws/socket.io",
        "/ws/socket.io/",
        "/ws/socket.io/?EIO=4&transport=polling&t=x",
        "/chat/ws/socket.io/",
    ],
)
def test_polls_of_a_socket_are_not_requests(path: str) -> None:
    assert is_excluded(path)


@pytest.mark.parametrize("path", ["/", "/project/settings", "/ws/socketXio/", "/user", "/metrics"])
def test_other_requests_are(path: str) -> None:
    assert not is_excluded(path)


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("/int.ernal/metrics", True),
        ("/int.ernal/metrics/", True),
        ("/prefix/int.ernal/metrics", True),
        ("/int.ernal/metrics/more", False),
        ("/intXernal/metrics", False),
        ("/metrics", False),
    ],
)
def test_scrapes_of_our_metrics_are_not_requests(path: str, excluded: bool) -> None:
    assert is_excluded(path, metrics="/int.ernal/metrics") is excluded


@pytest.mark.parametrize(
    ("path", "excluded"),
    [
        ("/chat", True),
        ("/chat/", True),
        ("/chat/project/settings", True),
        ("/a+b/project", True),
        ("/", False),
        ("/chatter", False),
        ("/api/chat", False),
        ("/api/chat/more", False),
        ("/aab/project", False),
        ("/b,c/project", True),
    ],
)
def test_what_is_mounted_has_its_own_instrumentation(path: str, excluded: bool) -> None:
    assert is_excluded(path, mounted=["/chat", "/a+b", "/b,c"]) is excluded


def test_an_app_mounted_at_the_root_hides_nothing_of_the_outer_one() -> None:
    assert not is_excluded("/api", mounted=[""])


def test_the_first_choice_of_a_user_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _chosen_by_user() == []
    monkeypatch.setenv("OTEL_PYTHON_EXCLUDED_URLS", "health,ready")
    assert _chosen_by_user() == ["health,ready"]
    monkeypatch.setenv("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "live")
    assert _chosen_by_user() == ["live"]


@pytest.mark.parametrize(
    ("chosen", "names"), [("", "http"), ("database", "http"), ("database, http/dup", "http/dup")]
)
def test_ours_have_the_stable_names_and_others_keep_theirs(
    monkeypatch: pytest.MonkeyPatch, chosen: str, names: str
) -> None:
    def mode() -> str:
        shared = _semconv._OpenTelemetrySemanticConventionStability
        found = shared._get_opentelemetry_stability_opt_in_mode(
            _semconv._OpenTelemetryStabilitySignalType.HTTP
        )
        return str(found.value)

    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", chosen)
    with _stable_names():
        pass  # the first of all takes the choice from the environment
    before = mode()
    with _stable_names():
        assert mode() == names
    assert mode() == before
    assert os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] == chosen


# What becomes of a request


class Seen(SpanProcessor):
    """Keeps what any processor is shown: the attributes of a span at its start, and its end."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.started.append(dict(span.attributes or {}))

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)


class World:
    """An application, the instrumentation around it, and what came of requests to it."""

    def __init__(
        self, sampler: Sampler = ALWAYS_ON, exception_messages: bool = False, host: str = ""
    ) -> None:
        self.calls: list[str] = []
        self.failure = LookupError("CANARYerror")
        self.stopped = asyncio.CancelledError()
        self.seen = Seen()
        self.reader = InMemoryMetricReader()
        self.guard = Guard("http")
        self.app = self.application()
        if host:
            self.app.router.routes.insert(0, Host(host, self.application()))
        tracers = TracerProvider(sampler, shutdown_on_exit=False)
        tracers.add_span_processor(self.seen)
        self.middleware = http_trial.build_middleware(
            tracers, MeterProvider([self.reader], shutdown_on_exit=False)
        )
        self.instrumented = _Instrumented(
            self.app.build_middleware_stack(),
            self.middleware,
            self.guard,
            list(_excluded([], None)),
            _hidden_headers(),
            exception_messages,
            None,
            lambda: False,
        )

    def application(self) -> FastAPI:
        app, router = FastAPI(), APIRouter()

        @router.get("/user/{name}")
        async def user(name: str, request: Request) -> Any:
            self.calls.append(f"{name} {request.url.query} {request.headers.get('user-agent')}")
            return {"name": name}

        @router.get("/fail")
        async def fail() -> None:
            self.calls.append("fail")
            raise self.failure

        async def parts() -> AsyncIterator[str]:
            yield "a"
            yield "b"

        @router.get("/stream")
        async def stream() -> Any:
            self.calls.append("stream")
            return StreamingResponse(parts(), headers={"x-streamed": "yes"})

        @router.get("/cancelled")
        async def cancelled() -> None:
            self.calls.append("cancelled")
            raise self.stopped

        @router.get("/odd")
        async def odd() -> Any:
            return JSONResponse({}, status_code=418, headers={"location": "/?CANARYlocation"})

        @router.get("/background")
        async def background(tasks: BackgroundTasks) -> Any:
            tasks.add_task(self.calls.append, "background")
            return {}

        app.include_router(router)
        return app

    def ask(
        self, path: str, method: str = "GET", instrumented: bool = True, **changed: Any
    ) -> tuple[list[Any], BaseException | None]:
        """Send a request; return the messages of the answer, and what the application raised."""
        path, _, query = path.partition("?")
        headers = [(b"host", b"CANARYhost"), (b"user-agent", b"CANARYagent")]
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode("latin-1"),
            "headers": [*headers, (b"referer", b"http://x/?CANARYreferer")],
            "server": ("127.0.0.1", 8000),
            "client": ("192.0.2.7", 4711),
            "app": self.app,
            **changed,
        }
        answer: list[Any] = []

        request = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            return request.pop() if request else await asyncio.Future()

        async def send(message: Any) -> None:
            answer.append(message)

        async def call() -> BaseException | None:
            before = otel_context.get_current()
            stack = self.instrumented if instrumented else self.instrumented._stack
            try:
                await stack(scope, receive, send)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is compared
                return error
            finally:
                assert otel_context.get_current() == before
            return None

        return answer, asyncio.run(call())

    @property
    def reported(self) -> str:
        """All that was recorded of the requests."""
        data = self.reader.get_metrics_data()
        spans = [span.to_json() for span in self.seen.ended]
        return "\n".join([*spans, str(self.seen.started), data.to_json() if data else ""])

    def points(self, name: str) -> list[dict[str, Any]]:
        """The attributes of each series of a metric."""
        data = self.reader.get_metrics_data()
        return [
            dict(point.attributes or {})
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


PATHS = ["/user/a?prompt=b", "/fail", "/stream", "/cancelled", "/odd", "/absent", "/background"]


@pytest.mark.parametrize("method", ["GET", "OPTIONS", "PUT", "CANARY"])
@pytest.mark.parametrize("path", PATHS)
def test_a_request_is_answered_as_without_us(path: str, method: str) -> None:
    world = World()
    expected, raised = world.ask(path, method, instrumented=False)
    calls, world.calls = world.calls, []
    assert world.ask(path, method) == (expected, raised)
    assert world.calls == calls
    assert len(world.seen.ended) == 1


def test_of_a_request_nothing_is_recorded_that_a_browser_can_make_up() -> None:
    world = World()
    for path in ("/user/CANARYname?prompt=CANARYprompt&CANARYkey=1", "/CANARYabsent", "/fail"):
        for method in ("GET", "CANARYmethod"):
            world.ask(path, method)
    world.ask("/user/a", scheme="CANARY", query_string=b"\xffCANARY", http_version="1.1")
    assert "CANARY" not in world.reported
    assert "192.0.2.7" not in world.reported
    assert len(world.seen.ended) == 7
    first = world.seen.ended[0]
    assert first.name == "GET /user/{name}"
    assert first.attributes is not None
    assert dict(first.attributes) == {
        "url.scheme": "http",
        "server.address": "127.0.0.1:8000",
        "server.port": 8000,
        "network.protocol.version": "1.1",
        "url.path": "/user/{name}",
        "url.query": "prompt=REDACTED&REDACTED=REDACTED",
        "client.address": "REDACTED",
        "http.request.method": "GET",
        "http.route": "/user/{name}",
        "http.response.status_code": 200,
    }


def test_the_application_gets_what_the_server_gave() -> None:
    world = World()
    world.ask("/user/CANARYname?prompt=CANARYprompt")
    assert world.calls == ["CANARYname prompt=CANARYprompt CANARYagent"]


@pytest.mark.parametrize("conventions", ["", "http/dup"])
def test_a_hundred_paths_and_hosts_are_one_series(
    conventions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SEMCONV_STABILITY_OPT_IN", conventions)
    world = World(host="CANARYhost")
    for number in range(100):
        headers = [(b"host", f"host{number}".encode())]
        world.ask(f"/user/{number}", headers=headers)
        world.ask(f"/absent/{number}", f"METHOD{number}", headers=headers)
        world.ask(f"/user/{number}")  # by the host that has an application of its own
    assert len(world.points("http.server.request.duration")) == 3
    assert len(world.points("http.server.duration")) == (2 if conventions else 0)
    assert "CANARY" not in world.reported


def test_headers_are_recorded_if_a_variable_asks_for_them_but_for_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS_SERVER_"
    monkeypatch.setenv(f"{name}REQUEST", "user-agent,referer,cookie")
    monkeypatch.setenv(f"{name}RESPONSE", ".*")
    world = World()
    headers = [(b"user-agent", b"asked for"), (b"cookie", b"CANARY"), (b"referer", b"CANARY")]
    world.ask("/odd", headers=headers)
    (span,) = world.seen.ended
    assert span.attributes is not None
    assert span.attributes["http.request.header.user_agent"] == ("asked for",)
    assert span.attributes["http.request.header.cookie"] == ("[REDACTED]",)
    assert span.attributes["http.response.header.location"] == ("[REDACTED]",)
    assert "CANARY" not in world.reported


@pytest.mark.parametrize("message", [False, True])
def test_an_exception_is_recorded_once_by_its_class(message: bool) -> None:
    world = World(exception_messages=message)
    answer, raised = world.ask("/fail")
    assert raised is world.failure
    assert answer[0]["status"] == 500
    (span,) = world.seen.ended
    reported = "LookupError: CANARYerror" if message else "LookupError"
    assert (span.status.status_code.name, span.status.description) == ("ERROR", reported)
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "LookupError"
    assert ("CANARY" in world.reported) is message
    assert [p["http.response.status_code"] for p in world.points("http.server.request.duration")]


def test_what_the_app_sets_on_the_span_stays() -> None:
    world = World()

    @world.app.get("/own")
    async def own() -> None:
        get_current_span().record_exception(ValueError("of the app"))
        get_current_span().set_attribute("text", "of the app")

    world.ask("/own")
    (span,) = world.seen.ended
    assert span.attributes is not None
    assert span.attributes["text"] == "of the app"
    assert "of the app" in str(dict(span.events[0].attributes or {}))


def test_a_size_is_that_of_its_own_answer() -> None:
    world = World()
    world.ask("/user/a")
    world.ask("/stream")
    routes = {point["http.route"] for point in world.points("http.server.response.body.size")}
    assert routes == {"/user/{name}"}


def test_the_background_tasks_of_starlette_are_left_alone() -> None:
    before = dict(vars(BackgroundTask))
    World()
    assert dict(vars(BackgroundTask)) == before


# Faults of the instrumentation


def _raise(*_: Any, **__: Any) -> Any:
    raise ZeroDivisionError("of the instrumentation")


class Broken(Sampler):
    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        return _raise()  # type: ignore[no-any-return]

    def get_description(self) -> str:
        return ""


def broken_route(world: World, _: pytest.MonkeyPatch) -> None:
    world.instrumented.app.default_span_details = _raise


def broken_attributes(_: World, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(asgi, "collect_request_attributes", _raise)


def broken_start(world: World, _: pytest.MonkeyPatch) -> None:
    world.seen.on_start = _raise  # type: ignore[method-assign]


def broken_gauge(_: World, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(asgi, "_parse_active_request_count_attrs", _raise)


def broken_answer(_: World, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(asgi.OpenTelemetryMiddleware, "_set_server_span", _raise)


def broken_end(world: World, _: pytest.MonkeyPatch) -> None:
    world.seen.on_end = _raise  # type: ignore[method-assign]


def broken_metrics(_: World, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(asgi, "_parse_duration_attrs", _raise)


def broken_propagator(_: World, patch: pytest.MonkeyPatch) -> None:
    class Propagator:
        inject = _raise

    patch.setattr(asgi, "get_global_response_propagator", Propagator)


Break = Callable[[World, pytest.MonkeyPatch], None]
BROKEN: list[Break] = [
    broken_route,
    broken_attributes,
    broken_start,
    broken_gauge,
    broken_answer,
    broken_end,
    broken_metrics,
    broken_propagator,
]


# If the request is cancelled, there is no answer to record.
FAULTS = [
    (breaks, path)
    for breaks in BROKEN
    for path in PATHS
    if path != "/cancelled" or breaks not in (broken_answer, broken_propagator)
]


@pytest.mark.parametrize(("breaks", "path"), FAULTS)
@pytest.mark.usefixtures("expected_internal_errors")
def test_a_fault_of_the_instrumentation_is_not_the_answer(
    breaks: Break, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    expected, raised = world.ask(path, instrumented=False)
    calls, world.calls = world.calls, []
    breaks(world, monkeypatch)
    assert world.ask(path) == (expected, raised)
    assert world.calls == calls
    assert world.guard.errors > 0


@pytest.mark.usefixtures("expected_internal_errors")
def test_a_sampler_that_raises_is_not_the_answer() -> None:
    world = World(sampler=Broken())
    answer, raised = world.ask("/user/a")
    assert (answer[0]["status"], raised, len(world.calls)) == (200, None, 1)


@pytest.mark.parametrize("breaks", [broken_start, broken_end, None])
@pytest.mark.usefixtures("expected_internal_errors")
def test_a_request_is_measured_even_if_its_span_fails(
    breaks: Break | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(sampler=ALWAYS_ON if breaks else Broken())
    if breaks is not None:
        breaks(world, monkeypatch)
    world.ask("/user/a")
    assert world.guard.errors > 0
    (measured,) = world.points("http.server.request.duration")
    assert measured["http.route"] == "/user/{name}"
    assert measured["http.response.status_code"] == 200


@pytest.mark.usefixtures("expected_internal_errors")
def test_a_request_that_cannot_be_described_leaves_the_next_one_alone() -> None:
    world = World()
    world.ask("/user/a", server=(None, None, None), headers=[(b"host",)])
    world.ask("/user/b")
    assert [span.name for span in world.seen.ended] == ["GET /user/{name}"]


def test_what_has_been_removed_passes_everything_on() -> None:
    world = World()
    stack = world.instrumented._stack
    world.instrumented.remove()
    answer, _ = world.ask("/user/a")
    assert answer[0]["status"] == 200
    assert world.seen.ended == []
    assert stack.app is not world.instrumented._observer


# The trial


def test_the_installed_release_passes() -> None:
    http_trial.check()


def details_of(full: bool, partial: bool) -> Callable[[Any], tuple[str, dict[str, str]]]:
    """What earlier releases do: each of the two cases has, or has not, learnt of missing paths."""

    def details(scope: Any) -> tuple[str, dict[str, str]]:
        route = None
        for candidate in scope["app"].routes:
            match, _ = candidate.matches(scope)
            if match == Match.FULL:
                route = getattr(candidate, "path", scope["path"]) if full else candidate.path
                break
            if match == Match.PARTIAL:
                route = getattr(candidate, "path", scope["path"]) if partial else candidate.path
        return f"{scope['method']} {route}", {"http.route": route} if route else {}

    return details


@pytest.mark.parametrize(
    ("details", "fault"),
    [
        (details_of(full=False, partial=False), "GET /nested/{name} raises AttributeError"),
        (details_of(full=True, partial=False), "/nested/a is no route"),
        (lambda _: ("GET", {}), "None is no route"),
        (_raise, "GET /plain/{name} raises ZeroDivisionError"),
    ],
)
def test_a_release_that_does_not_know_nested_routers_is_not_trusted(
    details: Any, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instrumentation, "_get_default_span_details", details)
    with pytest.raises(Unavailable) as refused:
        http_trial.check()
    assert str(refused.value).startswith("opentelemetry-instrumentation-fastapi ")
    assert f"does not work with fastapi {__import__('fastapi').__version__} ({fault})" in str(
        refused.value
    )


def test_a_release_that_changes_an_answer_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(_: Any, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    monkeypatch.setattr(asgi.OpenTelemetryMiddleware, "__call__", answer)
    with pytest.raises(Unavailable, match=r"POST /plain/\{name\} is answered by 200, not 405"):
        http_trial.check()


def test_a_release_that_makes_no_middleware_is_not_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        instrumentation.FastAPIInstrumentor, "instrument_app", lambda *_, **__: None
    )
    with pytest.raises(Unavailable, match="makes no middleware"):
        http_trial.check()
