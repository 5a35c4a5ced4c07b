"""Session events in a host's log, exemplars that lead to traces, and the standard samplers."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from chainlit_otel.testing import Visitor
from tests.support.otlp import Happening, Receiver, hashed
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

EXEMPLARS = ("chainlit.turn.duration", "chainlit.turn.time_to_first_token")

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.on_message
async def on_message(message):
    await cl.Message("done").send()
"""

LOGGER = """
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

provider = LoggerProvider()
provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
set_logger_provider(provider)
"""


async def visit(server: ChainlitServer, turns: int = 1) -> Visitor:
    visitor = Visitor(server.url, transports=["websocket"])
    await visitor.connect()
    for _ in range(turns):
        assert (await visitor.say("hello")).texts == ["done"]
    await visitor.leave(clear=True)
    return visitor


def recording(app: str, receiver: Receiver) -> ChainlitServer:
    env = {**receiver.env, "CHAINLIT_OTEL_EXPORT_RECORDS": "true"}
    return ChainlitServer({"app.py": app}, env=env)


@pytest.mark.parametrize("app", [LOGGER + APP, APP + LOGGER], ids=["first", "last"])
async def test_session_events_arrive_whenever_the_host_sets_a_logger_provider(app: str) -> None:
    def events() -> list[Happening]:
        ours = [log for log in receiver.logs if log.attributes["scope"] == "chainlit_otel"]
        return [log for log in ours if log.name.startswith("session.")]

    with Receiver() as receiver, recording(app, receiver) as server:
        visitor = await visit(server)
        staying = Visitor(server.url, transports=["websocket"])
        await staying.connect()
        await asyncio.to_thread(receiver.wait_for, lambda: len(events()) >= 3, "three events")
        goodbye = staying.until(lambda: not staying.connected, "the server's goodbye")
        await asyncio.gather(asyncio.to_thread(server.stop), goodbye)
        await staying.drop()
        reported = [(log.name, log.attributes["session.id"]) for log in events()]
        reasons = [log.attributes.get("chainlit.session.end_reason") for log in events()]
    assert reported == [
        ("session.start", hashed(visitor.session_id)),
        ("session.end", hashed(visitor.session_id)),
        ("session.start", hashed(staying.session_id)),
        ("session.end", hashed(staying.session_id)),
    ]
    assert reasons == [None, "cleared", None, "shutdown"]


async def test_a_slow_bucket_leads_to_its_trace() -> None:
    def exemplars(name: str) -> set[str]:
        # An exemplar is exported once, so the last export may have none.
        return {
            exemplar.trace_id.hex()
            for export in receiver.metric_exports
            for resource in export.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.histogram.data_points
            for exemplar in point.exemplars
        }

    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    with Receiver() as receiver, ChainlitServer({"app.py": APP}, env=receiver.env) as server:
        await visit(server)
        await asyncio.to_thread(
            receiver.wait_for,
            lambda: receiver.named("chainlit.turn") and all(map(exemplars, EXEMPLARS)),
            "the exemplars",
        )
        (turn,) = receiver.named("chainlit.turn")
        async with httpx.AsyncClient() as client:
            exposition = (await client.get(server.metrics_url, headers=accept)).text
        for name in EXEMPLARS:
            assert exemplars(name) == {turn.trace}
    shown = {
        (family.name, sample.exemplar.labels["trace_id"], sample.exemplar.labels["span_id"])
        for family in text_string_to_metric_families(exposition)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar and family.name.startswith("chainlit_turn_")
    }
    names = [name.replace(".", "_") + "_seconds" for name in EXEMPLARS]
    assert shown == {(name, turn.trace, turn.id) for name in names}


@pytest.mark.parametrize(
    ("sampler", "argument", "sampled"),
    [
        ("always_off", "", False),
        ("parentbased_always_off", "", False),
        ("traceidratio", "0", False),
        ("traceidratio", "1", True),
    ],
)
async def test_the_standard_samplers_decide_on_spans_and_not_on_metrics(
    sampler: str, argument: str, sampled: bool
) -> None:
    turns = 3
    with Receiver() as receiver:
        env = {
            **receiver.env,
            "OTEL_TRACES_SAMPLER": sampler,
            "OTEL_TRACES_SAMPLER_ARG": argument,
        }
        with ChainlitServer({"app.py": APP}, env=env) as server:
            await visit(server, turns)
            metrics = server.scrape()
            assert await asyncio.to_thread(server.stop) == 0
            log = server.log
        spans = receiver.named("chainlit.turn")
        assert len(spans) == (turns if sampled else 0)
        assert bool(receiver.spans) is sampled
    ok = {"chainlit_outcome": "ok"}
    assert metrics.sum("chainlit_turn_duration_seconds_count", **ok) == turns
    assert metrics.sum("chainlit_turn_time_to_first_token_seconds_count") == turns
    assert metrics.sum("chainlit_step_duration_seconds_count", chainlit_step_type="run") == turns
    assert metrics.sum("chainlit_otel_internal_errors_total") == 0
    assert not re.search("detach|Traceback", log)
