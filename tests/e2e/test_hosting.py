"""Every way to run Chainlit, and every way to be asked for the metrics."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import chainlit_otel
from chainlit_otel.runtime import OPTIONAL_PROBES
from chainlit_otel.testing import Visitor
from tests.support.http import fetch
from tests.support.otlp import Receiver
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

ENABLE = """
import chainlit_otel

chainlit_otel.enable()
"""

CALLBACKS = """
import chainlit as cl


@cl.on_message
async def answer(message):
    await cl.Message("You said: " + message.content).send()
"""

MOUNT = """
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

app = FastAPI()
mount_chainlit(app=app, target="app.py", path="/chat")
"""

BEFORE_CHAINLIT = """
import sys

assert "chainlit" not in sys.modules
"""


@dataclass(frozen=True)
class Hosting:
    """One way to run an app."""

    files: dict[str, str]
    args: list[str] = field(default_factory=list)
    command: list[str] | None = None
    path: str = ""


UVICORN = ["uvicorn", "main:app", "--port", "{port}"]

HOSTINGS = {
    "above the callbacks": Hosting({"app.py": ENABLE + CALLBACKS}),
    "below the callbacks": Hosting({"app.py": CALLBACKS + ENABLE}),
    "twice": Hosting({"app.py": ENABLE + CALLBACKS + ENABLE}),
    "root path": Hosting({"app.py": ENABLE + CALLBACKS}, ["--root-path", "/cl"], path="/cl"),
    "mounted, in main.py": Hosting(
        {"main.py": ENABLE + BEFORE_CHAINLIT + MOUNT, "app.py": CALLBACKS},
        command=UVICORN,
        path="/chat",
    ),
    "mounted, in the target": Hosting(
        {"main.py": MOUNT, "app.py": ENABLE + CALLBACKS}, command=UVICORN, path="/chat"
    ),
}


@pytest.fixture(scope="module", params=list(HOSTINGS))
def hosted(request: pytest.FixtureRequest) -> Iterator[ChainlitServer]:
    hosting = HOSTINGS[request.param]
    with ChainlitServer(
        hosting.files,
        args=hosting.args,
        command=hosting.command,
        path=hosting.path,
        env={"CHAINLIT_OTEL_METRICS_PATH": "/metrics"},
    ) as server:
        yield server


async def scrape_after_the_end(server: ChainlitServer, closed: int) -> Scrape:
    """Scrape once the server has seen the end of so many connections and of every session."""

    async def condition() -> Scrape | None:
        scrape = await asyncio.to_thread(server.scrape)
        over = scrape.sum("chainlit_connection_duration_seconds_count") == closed
        over = over and scrape.sum("chainlit_session_active") == 0
        return await asyncio.to_thread(server.scrape) if over else None

    found = await wait_until_async(condition, 60, f"the end of {closed} connections")
    assert found is not None
    return found


async def test_a_visit_is_counted_once(hosted: ChainlitServer) -> None:
    visitor = Visitor(hosted.url)
    await visitor.connect()
    assert (await visitor.say("hello")).texts == ["You said: hello"]
    open_now = hosted.scrape()
    await visitor.leave(clear=True)
    after = await scrape_after_the_end(hosted, 1)

    assert open_now.sum("chainlit_session_starts_total") == 1
    assert open_now.sum("chainlit_session_active", chainlit_session_state="connected") == 1
    assert open_now.sum("chainlit_connection_active") == 1
    assert after.sum("chainlit_session_ends_total", chainlit_session_end_reason="cleared") == 1
    assert after.sum("chainlit_session_duration_seconds_count") == 1
    assert after.sum("chainlit_session_lookup_misses_total") == 0
    assert after.sum("chainlit_otel_internal_errors_total") == 0


def test_metrics_inside_the_app(hosted: ChainlitServer) -> None:
    inside = fetch(f"{hosted.url}/metrics")
    assert inside.status_code == 200
    assert inside.headers["content-type"].startswith("text/plain")
    assert "<html" not in inside.text
    assert Scrape(inside.text).series == hosted.scrape().series
    page = fetch(f"{hosted.url}/anything-else")
    assert "<html" in page.text, "Chainlit's own catch-all route is in place"
    assert hosted.log.count("are for whoever reaches the app; CHAINLIT_OTEL_METRICS_TOKEN=") == 1


def test_the_start_logs_once_where_the_metrics_are_and_where_telemetry_goes(
    hosted: ChainlitServer,
) -> None:
    path = hosted.url.removeprefix(f"http://127.0.0.1:{hosted.port}")
    assert hosted.log.count(f"metrics at {hosted.metrics_url} and {path}/metrics of the app") == 1
    assert hosted.log.count("metrics at http") == 1
    assert hosted.log.count("nothing is sent anywhere (OTEL_EXPORTER_OTLP_ENDPOINT") == 1


def test_openmetrics_for_those_who_ask(hosted: ChainlitServer) -> None:
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    for url in (hosted.metrics_url, f"{hosted.url}/metrics"):
        answer = fetch(url, headers=accept)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")
        families = text_string_to_metric_families(answer.text)  # type: ignore[no-untyped-call]
        assert "chainlit_session_starts" in {family.name for family in families}


def test_healthy(hosted: ChainlitServer) -> None:
    answer = fetch(hosted.metrics_url.replace("/metrics", "/healthz"))
    state = answer.json()
    assert answer.status_code == 200
    assert state["status"] == "ok"
    assert state["probes"], "there are probes"
    off = {name for name, probe in state["probes"].items() if probe != "on"}
    assert off <= {*OPTIONAL_PROBES}
    assert {*state["off"]} == {"traces", *off}
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in state["off"]["traces"]
    assert not any(state["internal_errors"].values())


# Another copy of the app, or of this package, in the same process


async def reload(server: ChainlitServer, witness: Visitor, app: str) -> None:
    """Change app.py and wait until Chainlit has sent the reload of it."""
    seen = len(witness.events)
    (server.directory / "app.py").write_text(app, encoding="utf-8")
    await witness.until(
        lambda: any(event.name == "reload" for event in witness.events[seen:]), "the reload"
    )


async def visit_across_a_reload(server: ChainlitServer) -> None:
    """One visitor stays over a reload, one comes after it; the ledger must have both, once."""
    first, second = Visitor(server.url), Visitor(server.url)
    await first.connect()
    assert (await first.say("hello")).texts == ["one"]
    await reload(server, first, server.files["app.py"].replace('"one"', '"two"'))
    assert (await first.say("hello")).texts == ["two"], "the app was reloaded"
    calls = server.scrape().sum(
        "chainlit_callback_duration_seconds_count", chainlit_callback_name="on_message"
    )
    assert calls == 2, "the new callback counts from its first call"
    await second.connect()
    assert (await second.say("hello")).texts == ["two"]

    open_now = server.scrape()
    assert open_now.sum("chainlit_session_starts_total") == 2
    assert open_now.sum("chainlit_session_active", chainlit_session_state="connected") == 2
    assert open_now.value("chainlit_session_peak", chainlit_peak_window="process") == 2
    assert open_now.sum("chainlit_connection_active") == 2

    await first.leave(clear=True)
    await second.leave(clear=True)
    after = await scrape_after_the_end(server, 2)
    assert after.sum("chainlit_session_duration_seconds_count") == 2
    assert after.sum("chainlit_otel_internal_errors_total") == 0
    assert server.log.count("metrics at ") == 1, "no second admin server"


async def test_reload_by_watch() -> None:
    app = ENABLE + CALLBACKS.replace('"You said: " + message.content', '"one"')
    with ChainlitServer({"app.py": app}, args=["-w"]) as server:
        await visit_across_a_reload(server)


async def test_reload_of_a_copy_beside_the_app() -> None:
    """Chainlit's reload imports everything below the app's directory anew, this package, too."""
    package = Path(chainlit_otel.__file__).parent
    copy = {
        str(Path("chainlit_otel") / file.relative_to(package)): file.read_text(encoding="utf-8")
        for file in package.rglob("*")
        if file.suffix in (".py", ".html", ".css", ".js", ".svg", ".txt")
    }
    note = """
with open("copies.txt", "a") as file:
    print(chainlit_otel.__file__, id(chainlit_otel.enable), file=file)
"""
    app = ENABLE + note + CALLBACKS.replace('"You said: " + message.content', '"one"')
    with ChainlitServer({**copy, "app.py": app}, args=["-w"]) as server:
        await visit_across_a_reload(server)
        before, after = server.read("copies.txt").splitlines()
        assert before != after, "the package was imported anew"
        for line in (before, after):
            assert line.startswith(str(server.directory))


# Settings

PLAIN = {"app.py": ENABLE + CALLBACKS}


@pytest.mark.parametrize(
    "variable", ["OTEL_PYTHON_EXCLUDED_URLS", "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS"]
)
async def test_urls_that_the_environment_excludes_are_not_measured(variable: str) -> None:
    env = {variable: "/project/translations,/favicon"}
    measured = "http_server_request_duration_seconds_count"
    with Receiver() as backend:
        # Chainlit 2.6 has no logo of its own.
        files = PLAIN | {"public/logo_light.svg": "<svg xmlns='http://www.w3.org/2000/svg'/>"}
        with ChainlitServer(files, env=env | backend.env) as server:
            for path in ("/project/translations", "/favicon", "/logo"):
                (await asyncio.to_thread(fetch, f"{server.url}{path}")).raise_for_status()

            async def is_measured() -> Scrape | None:
                # An answer is there before the request is over.
                now = await asyncio.to_thread(server.scrape)
                return now if now.sum(measured, http_route="/logo") else None

            scrape = await wait_until_async(is_measured, 60, "the end of the last request")
        routes = {span.attributes.get("http.route") for span in backend.spans}

    assert scrape is not None
    assert scrape.sum(measured, http_route="/logo") == 1
    assert scrape.sum(measured, http_route="/project/translations") == 0
    assert scrape.sum(measured, http_route="/favicon") == 0
    assert "/logo" in routes
    assert not {"/project/translations", "/favicon"} & routes


def test_token() -> None:
    env = {"CHAINLIT_OTEL_METRICS_TOKEN": "s3cret", "CHAINLIT_OTEL_METRICS_PATH": "/metrics"}
    with ChainlitServer(PLAIN, env=env) as server:
        for url in (server.metrics_url, f"{server.url}/metrics"):
            for sent in (None, "Bearer wrong", "Bearer s3cret2", "Basic s3cret", "s3cret", ""):
                headers = {} if sent is None else {"Authorization": sent}
                answer = fetch(url, headers=headers)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert "chainlit_session" not in answer.text
            admitted = fetch(url, headers={"Authorization": "Bearer s3cret"})
            assert admitted.status_code == 200
            assert "chainlit_session_starts_total" in admitted.text
        assert fetch(server.metrics_url.replace("/metrics", "/healthz")).status_code == 200
        assert "s3cret" not in server.log
        assert "for whoever reaches the app" not in server.log


def announced(server: ChainlitServer) -> list[tuple[str, str]]:
    """Where the log says that the metrics are, each with the rest of its line."""
    return re.findall(r"metrics at (http://127\.0\.0\.1:\d+/metrics)(.*)", server.log)


def test_port_taken() -> None:
    with closing(socket.socket()) as first, closing(socket.socket()) as second:
        server = ChainlitServer(PLAIN)
        for offset, taken in enumerate((first, second)):
            # If somebody else has it, it is taken all the same.
            with suppress(OSError):
                taken.bind(("127.0.0.1", server.admin_port + offset))
                taken.listen()
        with server:
            [(url, why)] = announced(server)
            assert why == f", because port {server.admin_port} is taken"
            assert httpx.URL(url).port in range(server.admin_port + 2, server.admin_port + 16)
            assert "chainlit_session_starts_total" in fetch(url).text


def test_any_port() -> None:
    with ChainlitServer(PLAIN, env={"OTEL_EXPORTER_PROMETHEUS_PORT": "0"}) as server:
        [(url, why)] = announced(server)
        assert why == ""
        assert "chainlit_session_starts_total" in fetch(url).text


def test_a_keyword_that_cannot_be_stops_the_app_in_one_line() -> None:
    app = ENABLE.replace("enable()", "enable(chainlit_otel.Settings(port=70000))") + CALLBACKS
    with pytest.raises(RuntimeError) as ended:
        ChainlitServer({"app.py": app}).start()
    log = str(ended.value)
    assert log.splitlines()[-1] == (
        "ValueError: setting port (OTEL_EXPORTER_PROMETHEUS_PORT) is 70000: must be from 0 to 65535"
    )
    assert log.count("Traceback") == 1, "one error, not a chain of them"


async def test_no_variable_stops_the_app_and_each_is_logged_once() -> None:
    env = {
        "CHAINLIT_OTEL_METRIC_PATH": "/metrics",
        "CHAINLIT_OTEL_SHUTDOWN_TIMEOUT": "soon",
        # What Kubernetes sets for a Service of our name.
        "CHAINLIT_OTEL_PORT": "tcp://10.0.0.7:9464",
        "CHAINLIT_OTEL_SERVICE_HOST": "10.0.0.7",
        "OTEL_SDK_DISABLED": "off",
        "OTEL_TRACES_EXPORTER": "jaeger",
        "OTEL_BSP_MAX_QUEUE_SIZE": "-1",
    }
    lines = [
        "CHAINLIT_OTEL_METRIC_PATH is no setting and is ignored: did you mean",
        "CHAINLIT_OTEL_SHUTDOWN_TIMEOUT='soon' is ignored, 3.0 holds: it must be a number",
        "ignored, being no settings: CHAINLIT_OTEL_PORT, CHAINLIT_OTEL_SERVICE_HOST. Kubernetes",
        "OTEL_SDK_DISABLED='off' is ignored, false holds: it must be true or false",
        "OTEL_TRACES_EXPORTER: there is no exporter 'jaeger', it is left out",
    ]
    with ChainlitServer(PLAIN, env=env) as server:
        visitor = Visitor(server.url)
        await visitor.connect()
        assert (await visitor.say("hello")).texts == ["You said: hello"]
        await visitor.leave(clear=True)
        assert server.scrape().sum("chainlit_session_starts_total") == 1
        assert [server.log.count(line) for line in lines] == [1] * len(lines)
        assert "Traceback" not in server.log


SEAMS = """
import json

from chainlit import server, session
from starlette.routing import Router
from uvicorn import Server


def seams():
    return [
        *vars(session.WebsocketSession).values(),
        *vars(session.HTTPSession).values(),
        *server.sio.handlers["/"].values(),
        *server.sio.eio.handlers.values(),
        *server.app.router.routes,
        vars(Router)["lifespan"],
        vars(Server)["shutdown"],
    ]


before = seams()
"""

COMPARE = """
@cl.on_message
async def answer(message):
    now = seams()
    untouched = len(now) == len(before) and all(a is b for a, b in zip(now, before))
    await cl.Message(json.dumps(untouched)).send()
"""


async def test_disabled_by_the_standard_variable() -> None:
    # The callbacks come first: Chainlit's server registers its handlers when it is imported.
    app = "import chainlit as cl\n" + SEAMS + ENABLE + COMPARE
    env = {"OTEL_SDK_DISABLED": "true", "CHAINLIT_OTEL_METRICS_PATH": "/metrics"}
    with ChainlitServer({"app.py": app}, env=env) as server:
        visitor = Visitor(server.url)
        await visitor.connect()
        [answer] = (await visitor.say("compare")).texts
        await visitor.leave()
        assert json.loads(answer) is True
        with pytest.raises(httpx.ConnectError):
            server.scrape()
        page = await asyncio.to_thread(fetch, f"{server.url}/metrics")
        assert "<html" in page.text


# The application's own MeterProvider

OWN_PROVIDER = """
import json

from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

reader = InMemoryMetricReader()
metrics.set_meter_provider(MeterProvider([reader]))
"""

DUMP = """
import chainlit as cl


@cl.on_message
async def answer(message):
    sums = {
        metric.name: sum(getattr(p, "value", None) or getattr(p, "count", 0) for p in points)
        for resource in reader.get_metrics_data().resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        for points in [metric.data.data_points]
    }
    await cl.Message(json.dumps(sums)).send()
"""


@pytest.mark.parametrize("both", [False, True], ids=["there only", "there and here"])
async def test_metrics_go_to_the_applications_own_provider(both: bool) -> None:
    env = {"CHAINLIT_OTEL_ALWAYS_SERVE_METRICS": "true"} if both else {}
    with ChainlitServer({"app.py": OWN_PROVIDER + ENABLE + DUMP}, env=env) as server:
        visitor = Visitor(server.url)
        await visitor.connect()
        await visitor.new_chat()

        async def dump() -> dict[str, float] | None:
            [answer] = (await visitor.say("dump")).texts
            sums: dict[str, float] = json.loads(answer)
            return sums if sums["chainlit.session.duration"] else None

        there = await wait_until_async(dump, 60, "the end of the first session")
        assert there is not None
        here = server.scrape()
        await visitor.leave()

    assert there["chainlit.session.starts"] == 2
    assert there["chainlit.session.duration"] == 1
    assert there["chainlit.connection.active"] == 1
    assert there["chainlit_otel.internal_errors"] == 0
    assert here.sum("process_cpu_seconds_total") > 0
    comments = [line for line in here.text.splitlines() if line.startswith("# chainlit-otel")]
    if both:
        assert comments == []
        assert here.sum("chainlit_session_starts_total") == 2
        assert here.sum("chainlit_session_duration_seconds_count") == 1
    else:
        [comment] = comments
        assert "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS" in comment
        assert not any(name.startswith("chainlit") for name in here.families)
