"""A backend that is wrong costs what was sent to it, and the app nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import NamedTuple

import pytest

from chainlit_otel import catalog
from chainlit_otel.testing import Visitor
from tests.support.broken import BrokenBackend
from tests.support.otlp import Receiver
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.step(type="tool")
async def look_up(word):
    return word.upper()


@cl.on_message
async def answer(message):
    if message.content == "fail":
        raise ValueError("no")
    answer = cl.Message("")
    for token in ("You", " said ", await look_up(message.content)):
        await answer.stream_token(token)
    await answer.send()
"""

REASONS = {
    "blackhole": "timeout",
    "drip": "timeout",
    "endless": "other",
    "redirect": "redirect",
    "503": "rejected",
    "garbage": "unreachable",
    "reset": "unreachable",
}
DROPPED = "chainlit_otel_export_dropped_total"
# What depends on the time that something took.
TIMED = re.compile(
    r"_(bucket|sum|bytes|created)$|_seconds(_total)?$|^process_|^python_|^chainlit_event_loop_lag"
)

Figures = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


class Run(NamedTuple):
    """What a run of the script came to: answers, figures, spans."""

    answers: list[list[str]]
    figures: Figures
    spans: int


def server_of(spans: str, metrics: str) -> ChainlitServer:
    env = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{spans}/v1/traces",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{metrics}/v1/metrics",
        # Long enough for a fault to show on a busy machine; some are tried again till then.
        "OTEL_EXPORTER_OTLP_TIMEOUT": "3",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        # How often a server is asked until it answers is different in each run.
        "OTEL_PYTHON_EXCLUDED_URLS": ".*",
        "OTEL_METRIC_EXPORT_INTERVAL": "300",
        "CHAINLIT_OTEL_SHUTDOWN_TIMEOUT": "1",
        "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=the same in each run",
    }
    return ChainlitServer({"app.py": APP}, env=env)


async def visit(server: ChainlitServer) -> list[list[str]]:
    visitor = Visitor(server.url, transports=["websocket"])
    await visitor.connect()
    answers = [(await visitor.say(text)).texts for text in ("hello", "fail", "again")]
    await visitor.leave(clear=True)
    return answers


def figures(scrape: Scrape) -> Figures:
    return {
        (name, labels): 0.0 if TIMED.search(name) else scrape.value(name, **dict(labels))
        for name, labels in scrape.series
        if name != DROPPED
    }


async def over(server: ChainlitServer) -> Scrape:
    async def condition() -> Scrape | None:
        now = await asyncio.to_thread(server.scrape)
        gone = now.sum("chainlit_session_ends_total") == 1
        gone = gone and now.sum("chainlit_connection_active") == 0
        # What Chainlit leaves behind shows when it has let go of the session.
        gone = gone and now.sum("chainlit_retained") == 1
        return await asyncio.to_thread(server.scrape) if gone else None

    found = await wait_until_async(condition, 60, "the end of the visit")
    assert found is not None
    return found


async def with_a_backend() -> Run:
    with Receiver() as receiver, server_of(receiver.endpoint, receiver.endpoint) as server:
        answers = await visit(server)
        scrape = await over(server)
        assert await asyncio.to_thread(server.stop) == 0
        assert scrape.sum(DROPPED) == 0
        return Run(answers, figures(scrape), len(receiver.spans))


@pytest.fixture(scope="module")
def normal() -> Run:
    run = asyncio.run(with_a_backend())
    assert run.spans > 6
    return run


# Each of them is seen by one signal at least; by each of the exporters in their own tests.
@pytest.mark.parametrize(
    ("spans", "metrics"),
    [("blackhole", "drip"), ("endless", "redirect"), ("503", "garbage"), ("reset", "blackhole")],
)
async def test_wrong_backends_change_nothing_and_their_losses_are_figures(
    spans: str, metrics: str, normal: Run
) -> None:
    reasons = {"spans": REASONS[spans], "metrics": REASONS[metrics]}
    with (
        BrokenBackend(spans) as of_spans,
        BrokenBackend(metrics) as of_metrics,
        server_of(of_spans.endpoint, of_metrics.endpoint) as server,
    ):
        assert await visit(server) == normal.answers
        scrape = await over(server)
        different = {
            series: (normal.figures.get(series), figures(scrape).get(series))
            for series in {*normal.figures, *figures(scrape)}
            if normal.figures.get(series) != figures(scrape).get(series)
        }
        assert different == {}

        # The last of several tries has least time, and may time out on a busy machine.
        expected = {signal: {reason, "timeout"} for signal, reason in reasons.items()}

        def lost(scrape: Scrape, signal: str, of: set[str]) -> float:
            return sum(
                scrape.value(DROPPED, chainlit_otel_signal=signal, error_type=one) for one in of
            )

        async def all_lost() -> Scrape | None:
            now = await asyncio.to_thread(server.scrape)
            gone = {signal: lost(now, signal, of) for signal, of in expected.items()}
            return now if gone["spans"] >= normal.spans and gone["metrics"] else None

        lately = await wait_until_async(all_lost, 60, f"the loss of {normal.spans} spans")
        assert lately is not None
        assert lost(lately, "spans", expected["spans"]) == normal.spans
        for signal, of in expected.items():
            assert lost(lately, signal, {*catalog.LOSS.values} - of) == 0
        assert any(lost(lately, signal, {reason}) for signal, reason in reasons.items())
        assert await asyncio.to_thread(server.stop) == 0
        log = server.log
    assert log.count("telemetry is lost") == 1
    assert not re.search("(?i)failed to export|transient|exception while exporting|urllib3", log)
