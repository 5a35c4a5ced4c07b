"""Nothing recorded is lost when the process stops, and a dead backend does not hold it up."""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import math
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from packaging.version import Version

from chainlit_otel.testing import Visitor
from tests.support.otlp import Receiver
from tests.support.scrape import wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

TOLERANCE = 0.050  # seconds a session, between the script's clock and the server's
# Older releases of uvicorn leave the end to the interpreter, which takes everything apart first.
STOPS_WITHIN = 5.0 if Version("0.29") <= Version(importlib.metadata.version("uvicorn")) else 8.0
AN_HOUR = 3600

APP = """
import chainlit_otel

chainlit_otel.enable()

import asyncio

import chainlit as cl
from chainlit.config import config


@cl.on_message
async def answer(message):
    command, _, number = message.content.partition(" ")
    if command == "grace":
        config.project.session_timeout = float(number)
    if command == "wait":
        await cl.Message("waiting").send()
        await asyncio.Event().wait()
    await cl.Message("done").send()
"""

MAIN = """
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

app = FastAPI()
mount_chainlit(app=app, target="app.py", path="/chat")
"""

HOST_PROVIDER = """
from opentelemetry import metrics
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

reader = PeriodicExportingMetricReader(OTLPMetricExporter(ENDPOINT), 3_600_000)
metrics.set_meter_provider(MeterProvider([reader]))
"""

HOSTS = ("run", "mount")


def server_of(host: str, env: Mapping[str, str], app: str = APP) -> ChainlitServer:
    config = {"project": {"session_timeout": AN_HOUR}}
    # Only the end of the process exports anything.
    settings = {"OTEL_METRIC_EXPORT_INTERVAL": "3600000", **env}
    if host == "run":
        return ChainlitServer({"app.py": app}, config=config, env=settings)
    return ChainlitServer(
        {"app.py": app, "main.py": MAIN},
        config=config,
        env=settings,
        command=["uvicorn", "main:app", "--port", "{port}"],
        path="/chat",
    )


class Received:
    """The points of one export: by metric name, then by the attribute values asked for."""

    def __init__(self, export: ExportMetricsServiceRequest) -> None:
        self._metrics = {
            metric.name: metric
            for resource in export.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }
        self.resource = {
            attribute.key: attribute.value.string_value
            for resource in export.resource_metrics
            for attribute in resource.resource.attributes
        }

    def has(self, name: str) -> bool:
        """Whether there is such a metric."""
        return name in self._metrics

    def numbers(self, name: str, key: str) -> dict[str, float]:
        """The non-zero values of a counter or gauge, by the value of one attribute."""
        metric = self._metrics[name]
        totals: Counter[str] = Counter()
        for point in [*metric.sum.data_points, *metric.gauge.data_points]:
            labels = {a.key: a.value.string_value for a in point.attributes}
            # Whichever of the two the point is made of; the other one is zero.
            totals[labels[key]] += point.as_int + point.as_double
        return {label: total for label, total in totals.items() if total}

    def counts(self, name: str, key: str) -> dict[str, int]:
        """How many values a histogram has, by the value of one attribute."""
        counts: Counter[str] = Counter()
        for point in self._metrics[name].histogram.data_points:
            labels = {a.key: a.value.string_value for a in point.attributes}
            counts[labels[key]] += point.count
        return dict(counts)

    def total(self, name: str) -> float:
        """The sum of all values of a histogram."""
        return math.fsum(point.sum for point in self._metrics[name].histogram.data_points)


class Script:
    """Sessions in every state in which the end of the process can meet them."""

    def __init__(self, server: ChainlitServer) -> None:
        self._server = server
        self._began: dict[str, float] = {}
        self._connected: list[Visitor] = []
        self.durations: list[float] = []

    async def prepare(self) -> None:
        for _ in range(2):
            cleared = await self._visitor()
            assert (await cleared.say("hello")).texts == ["done"]
            self._leave(cleared)
            await cleared.leave(clear=True)

        late = await self._visitor()
        assert (await late.say("grace 0.1")).texts == ["done"]
        self._leave(late)
        await late.drop()
        await self._until("chainlit_session_ends_total", 1, chainlit_session_end_reason="timeout")

        self._connected = [await self._visitor() for _ in range(3)]
        assert (await self._connected[0].say(f"grace {AN_HOUR}")).texts == ["done"]
        back = self._connected[1]
        await back.drop()
        await self._until("chainlit_session_active", 1, chainlit_session_state="disconnected")
        await back.reconnect()
        # Four messages have been answered, and the answer to this one is under way at the end.
        await back.send("wait")
        await self._until("chainlit_turn_active", 1)

        for leave in (Visitor.drop, Visitor.leave):
            waiting = await self._visitor()
            self._leave(waiting)
            await leave(waiting)
        await self._until("chainlit_session_active", 2, chainlit_session_state="disconnected")

        # By then the grace time would show in the sum, if it were taken for time in the session.
        async def been_a_while() -> bool:
            scrape = await asyncio.to_thread(self._server.scrape)
            return scrape.sum("chainlit_session_oldest_age_seconds") > 1.5

        await wait_until_async(been_a_while, 60, "a while in the grace")

    async def watch_the_end(self) -> None:
        """Stay until the server closes the connections."""
        await asyncio.gather(*map(self._watch_the_end, self._connected))

    async def _watch_the_end(self, visitor: Visitor) -> None:
        await visitor.until(lambda: not visitor.connected, "the server's goodbye")
        self._leave(visitor)
        await visitor.drop()

    async def _visitor(self) -> Visitor:
        visitor = Visitor(self._server.url, transports=["websocket"])
        before = time.monotonic()
        await visitor.connect()
        # The session starts on the server somewhere in between.
        self._began[visitor.session_id] = (before + time.monotonic()) / 2
        return visitor

    def _leave(self, visitor: Visitor) -> None:
        self.durations.append(time.monotonic() - self._began[visitor.session_id])

    async def _until(self, name: str, value: float, **labels: str) -> None:
        async def holds() -> bool:
            scrape = await asyncio.to_thread(self._server.scrape)
            return scrape.sum(name, **labels) == value

        await wait_until_async(holds, 60, f"{value} {name} {labels}")


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=lambda sig: sig.name)
@pytest.mark.parametrize("host", HOSTS)
async def test_last_export_has_everything(
    receiver: Receiver, host: str, sig: signal.Signals
) -> None:
    with server_of(host, {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint}) as server:
        script = Script(server)
        await script.prepare()
        assert not receiver.metric_exports, "the interval is too long for an export by the clock"

        await asyncio.gather(asyncio.to_thread(server.stop, sig), script.watch_the_end())

        assert len(receiver.metric_exports) == 1, server.tail()
        last = Received(receiver.metric_exports[-1])
        ends = {"cleared": 2, "timeout": 1, "shutdown": 5}
        by_reason = "chainlit.session.end_reason"
        assert last.numbers("chainlit.session.starts", "chainlit.session.origin") == {"new": 8}
        assert last.numbers("chainlit.session.reconnects", "chainlit.client.type") == {"webapp": 1}
        assert last.numbers("chainlit.session.ends", by_reason) == ends
        assert last.counts("chainlit.session.duration", by_reason) == ends
        assert last.numbers("chainlit.session.active", "chainlit.session.state") == {}
        assert last.numbers("chainlit.session.peak", "chainlit.peak.window")["process"] == 4

        total = last.total("chainlit.session.duration")
        assert len(script.durations) == sum(ends.values())
        assert total == pytest.approx(
            math.fsum(script.durations), abs=TOLERANCE * sum(ends.values())
        )
        time_in_sessions = last.numbers("chainlit.session.time", "chainlit.session.type")
        assert time_in_sessions == {"websocket": pytest.approx(total, abs=1e-6)}

        turns = {"ok": 4, "cancelled": 1}
        assert last.counts("chainlit.turn.duration", "chainlit.outcome") == turns
        assert last.numbers("chainlit.messages", "chainlit.message.direction") == {
            "inbound": 5,
            "outbound": 5,
        }

        closes = {"client_disconnect": 2, "transport_close": 4, "shutdown": 3}
        by_close = "chainlit.connection.close_reason"
        assert last.counts("chainlit.connection.duration", by_close) == closes
        assert last.numbers("chainlit.connection.active", "chainlit.connection.transport") == {}
        errors = last.numbers("chainlit_otel.internal_errors", "chainlit_otel.probe")
        assert errors == {}, server.tail()
        assert last.resource["service.name"] == "chainlit"


async def test_the_applications_own_provider_is_flushed(receiver: Receiver) -> None:
    url = f"{receiver.endpoint}/v1/metrics"
    app = HOST_PROVIDER.replace("ENDPOINT", repr(url)) + APP
    with server_of("run", {}, app) as server:
        visitor = Visitor(server.url, transports=["websocket"])
        await visitor.connect()
        goodbye = visitor.until(lambda: not visitor.connected, "the server's goodbye")
        await asyncio.gather(asyncio.to_thread(server.stop), goodbye)
        await visitor.drop()

        assert len(receiver.metric_exports) == 1, server.tail()
        ends = Received(receiver.metric_exports[-1]).numbers(
            "chainlit.session.ends", "chainlit.session.end_reason"
        )
        assert ends == {"shutdown": 1}
        assert Received(receiver.metric_exports[-1]).total("chainlit.session.duration") > 0


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("backend", ["down", "mute"])
async def test_a_dead_backend_does_not_hold_up_the_end(host: str, backend: str) -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        if backend == "mute":
            # Connections are accepted by the system, and nobody ever reads from them.
            taken.listen()
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{taken.getsockname()[1]}"}
        with server_of(host, env) as server:
            visitor = Visitor(server.url, transports=["websocket"])
            await visitor.connect()
            goodbye = visitor.until(lambda: not visitor.connected, "the server's goodbye")
            before = time.monotonic()
            await asyncio.gather(asyncio.to_thread(server.stop), goodbye)
            took = time.monotonic() - before
            await visitor.drop()

            assert took < STOPS_WITHIN, server.tail()
            # Older exporters give up at once where nobody listens.
            gave_up = backend == "down" and "telemetry is lost: " in server.log
            assert gave_up or "CHAINLIT_OTEL_SHUTDOWN_TIMEOUT" in server.log


async def test_a_killed_process_loses_what_came_after_the_last_export_and_no_more(
    receiver: Receiver,
) -> None:
    """`kill -9` gives nobody a chance; what had been sent or written before is there, and whole."""
    env = {**receiver.env, "CHAINLIT_OTEL_RECORDS_DIR": "records"}

    def arrived() -> list[int]:
        """How many turns there are: of metrics, of spans, of records."""
        exports = [Received(export) for export in receiver.metric_exports]
        counted = [
            sum(export.counts("chainlit.turn.duration", "chainlit.outcome").values())
            for export in exports
            if export.has("chainlit.turn.duration")
        ]
        files = (server.directory / "records").glob("*.jsonl")
        rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
        written = [row for row in rows if row["kind"] == "turn"]
        return [max(counted, default=0), len(receiver.named("chainlit.turn")), len(written)]

    with ChainlitServer({"app.py": APP}, env=env) as server:
        visitor = Visitor(server.url, transports=["websocket"])
        await visitor.connect()
        for _ in range(5):
            await visitor.say("hello")

        async def exported() -> bool:
            return arrived() == [5, 5, 5]

        await wait_until_async(exported, 60, "the turns to be exported")
        for _ in range(3):
            await visitor.say("hello")
        assert await asyncio.to_thread(server.stop, signal.SIGKILL) == -signal.SIGKILL
        assert all(5 <= turns <= 8 for turns in arrived()), arrived()
        await visitor.leave()
