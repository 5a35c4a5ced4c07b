"""Only notable turns keep their spans: what arrives, and what points to it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from chainlit_otel.testing import Visitor
from tests.support import LAYER
from tests.support.otlp import Receiver, Span
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import asyncio
from pathlib import Path

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from layer import Layer


@cl.data_layer
def data_layer():
    return Layer()


@cl.step(type="tool")
async def search(question):
    return question


@cl.on_message
async def on_message(message):
    await search(message.content)
    if message.content == "fail":
        raise ValueError("no such thing")
    if message.content == "slow":
        await asyncio.sleep(0.6)
    if message.content == "wait":
        await cl.Message("waiting").send()
        await asyncio.sleep(60)
    while message.content == "lose" and not Path("go").exists():
        await asyncio.sleep(0.01)
    # What is judged is named by its id.
    answer = cl.Message("")
    answer.content = answer.id
    await answer.send()
"""

SETTINGS = {
    "CHAINLIT_OTEL_TRACE_KEEP": "notable",
    "CHAINLIT_OTEL_TRACE_SHARE": "0",
    "CHAINLIT_OTEL_SLOW_TURN": "0.5",
    "CHAINLIT_OTEL_RECORDS_DIR": "records",
    # With these, the metrics are at `/metrics` alone, where histograms are ours.
    "OTEL_METRICS_EXPORTER": "none",
}
ACCEPT = {"Accept": "application/openmetrics-text; version=1.0.0"}


def server_with(receiver: Receiver, **more: str) -> ChainlitServer:
    return ChainlitServer(
        {"app.py": APP, "layer.py": LAYER}, env={**receiver.env, **SETTINGS, **more}
    )


def said(span: Span) -> str:
    return span.attributes["chainlit.turn.input"]


def turns(receiver: Receiver) -> dict[str, str]:
    """The turns that have arrived: their traces, by what was said."""
    return {said(span): span.trace for span in receiver.named("chainlit.turn")}


def active(server: ChainlitServer, what: str) -> float:
    return server.scrape().sum(f"chainlit_{what}_active")


async def exemplars(server: ChainlitServer) -> set[str]:
    async with httpx.AsyncClient() as client:
        text = (await client.get(server.metrics_url, headers=ACCEPT)).text
    return {
        sample.exemplar.labels["trace_id"]
        for family in text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar and sample.name.startswith("chainlit_turn_duration")
    }


def records(server: ChainlitServer) -> list[dict[str, Any]]:
    files = sorted((server.directory / "records").glob("*.jsonl"))
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    return [line for line in lines if line["kind"] == "turn"]


async def test_turns_that_are_notable_arrive_whole_and_no_others() -> None:
    with Receiver() as receiver:
        with server_with(receiver, CHAINLIT_OTEL_CAPTURE_MESSAGES="true") as server:
            visitor = Visitor(server.url, transports=["websocket"])
            await visitor.connect()
            answers = {
                text: await visitor.say(text)
                for text in ("one", "two", "fail", "three", "slow", "judged", "liked")
            }
            stopped = asyncio.create_task(visitor.say("wait"))
            await visitor.until(
                lambda: any(event.name == "new_message" for event in visitor.events[-1:]), "a word"
            )
            await visitor.stop()
            await stopped
            gone = Visitor(server.url, transports=["websocket"])
            await gone.connect()
            await gone.send("lose")
            await asyncio.to_thread(wait_until, lambda: active(server, "turn") == 1, 20, "a turn")
            await gone.drop()
            await asyncio.to_thread(
                wait_until, lambda: active(server, "connection") == 1, 20, "the end of the socket"
            )
            (server.directory / "go").touch()
            await visitor.give_feedback(answers["liked"].text, 1)
            await visitor.give_feedback(answers["judged"].text, 0)
            kept = {"fail", "slow", "judged", "wait", "lose"}
            await asyncio.to_thread(
                receiver.wait_for, lambda: set(turns(receiver)) == kept, "the turns", 20
            )
            traces = turns(receiver)
            led = await exemplars(server)
            assert led <= set(traces.values())
            assert led
            scrape = await asyncio.to_thread(server.scrape)
            assert scrape.sum("chainlit_turn_duration_seconds_count") == 9
            assert scrape.sum("chainlit_otel_internal_errors_total") == 0
            assert scrape.sum("chainlit_otel_export_dropped_total") == 0
            await visitor.leave()
            server.stop()
            of_records = {row["trace_id"] for row in records(server) if row.get("trace_id")}
            # What was judged later has a row that was written before.
            assert of_records == {traces[text] for text in kept - {"judged"}}
        # After the end nothing more comes, but what belongs to these and to no turn.
        assert turns(receiver) == traces
        for text, trace in traces.items():
            names = [span.name for span in receiver.spans if span.trace == trace]
            assert "chainlit.callback on_message" in names, text
            assert "chainlit.step tool search" in names, text
        steps = receiver.named("chainlit.step tool search")
        assert {span.trace for span in steps} == set(traces.values())
        assert receiver.named("chainlit.connect")


async def test_a_share_of_one_is_all_of_them() -> None:
    with Receiver() as receiver:
        with server_with(
            receiver, CHAINLIT_OTEL_TRACE_SHARE="1", CHAINLIT_OTEL_CAPTURE_MESSAGES="true"
        ) as server:
            visitor = Visitor(server.url, transports=["websocket"])
            await visitor.connect()
            for text in ("one", "two", "three"):
                await visitor.say(text)
            await visitor.leave()
        assert set(turns(receiver)) == {"one", "two", "three"}
