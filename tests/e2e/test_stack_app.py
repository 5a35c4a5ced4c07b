"""The app of the container stack, with the command and the variables of its compose file."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from chainlit_otel.testing import Visitor
from tests.support.otlp import Happening, Receiver, hashed
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
STACK = ROOT / "examples" / "stack"
CHAT = yaml.safe_load((STACK / "compose.yaml").read_text())["services"]["chat"]
SOURCES = yaml.safe_load((STACK / "grafana" / "datasources.yaml").read_text())["datasources"]
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}

# What the console script `opentelemetry-instrument` consists of.
SCRIPT = """
from opentelemetry.instrumentation.auto_instrumentation import run

run()
"""


def chat(receiver: Receiver) -> ChainlitServer:
    """The service `chat`, but on loopback and with `receiver` in place of the collector."""
    assert CHAT["command"][0] == "opentelemetry-instrument"
    command = ["instrument", *CHAT["command"][1:]]
    places = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=8000": "--port={port}"}
    assert set(places) <= set(command)
    env = {name: value for name, value in CHAT["environment"].items() if "PROMETHEUS" not in name}
    assert env.pop("OTEL_EXPORTER_OTLP_ENDPOINT") == "http://otel-collector:4318"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    app = ROOT / "chainlit_otel" / "cli" / "demo_app.py"
    return ChainlitServer(
        {"app.py": app.read_text(encoding="utf-8"), "instrument.py": SCRIPT},
        command=[places.get(word, word) for word in command],
        env={**receiver.env, **env, "PATH": path},
    )


def exemplars(exposition: str, label: str) -> set[str]:
    return {
        sample.exemplar.labels[label]
        for family in text_string_to_metric_families(exposition)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar
    }


async def test_each_signal_takes_its_way_and_leads_to_the_others() -> None:
    def events() -> list[Happening]:
        return [log for log in receiver.logs if log.name.startswith("session.")]

    def failures() -> set[str]:
        return {
            log.attributes["trace_id"] for log in receiver.logs if "You asked for it" in log.name
        }

    with Receiver() as receiver, chat(receiver) as server:
        visitor = Visitor(server.url)
        await visitor.connect()
        await visitor.say("What is the peak?")
        await visitor.say("/fail")
        await visitor.leave(clear=True)
        await asyncio.to_thread(receiver.wait_for, lambda: len(events()) == 2, "the events")
        await asyncio.to_thread(receiver.wait_for, failures, "the log of the failure")
        await asyncio.to_thread(
            receiver.wait_for, lambda: len(receiver.named("chainlit.turn")) == 2, "the turns"
        )
        async with httpx.AsyncClient() as client:
            exposition = (await client.get(server.metrics_url, headers=OPENMETRICS)).text
            health = await client.get(f"{server.url}/health")
        assert server.scrape().sum("chainlit_session_starts_total") == 1
        assert await asyncio.to_thread(server.stop) == 0
    assert health.status_code == 200  # what the probes of containers ask
    assert [(log.name, log.attributes["session.id"]) for log in events()] == [
        ("session.start", hashed(visitor.session_id)),
        ("session.end", hashed(visitor.session_id)),
    ]
    turns = receiver.named("chainlit.turn")
    assert {turn.resource["service.name"] for turn in turns} == {"chat"}
    # A trace leads to its logs, and a bucket to its trace, as the data sources are configured.
    assert failures() == {turns[1].trace}
    (prometheus,) = (source for source in SOURCES if source["type"] == "prometheus")
    (link,) = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    leads = exemplars(exposition, link["name"])
    assert turns[1].trace in leads
    assert leads <= {span.trace for span in receiver.spans}
    # Prometheus scrapes them.
    assert receiver.metric_exports == []
