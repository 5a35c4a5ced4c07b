"""`opentelemetry-instrument chainlit run app.py`, with an app that does not know of us."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from chainlit_otel.testing import Visitor
from tests.support.otlp import Receiver
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import chainlit as cl


@cl.on_message
async def on_message(message):
    answer = cl.Message("")
    for token in "done":
        await answer.stream_token(token)
    await answer.send()
"""


# What the console script `opentelemetry-instrument` consists of.
SCRIPT = """
from opentelemetry.instrumentation.auto_instrumentation import run

run()
"""


@pytest.mark.parametrize("path", ["", "/cl"])
async def test_metrics_and_traces_are_there(path: str) -> None:
    with Receiver() as receiver:
        files = {"app.py": APP, "instrument.py": SCRIPT}
        env = {
            **receiver.env,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "none",
            # Else the distribution has a span for each frame of each websocket.
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "fastapi",
            "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS": "true",
        }
        command = [
            "instrument",
            *("chainlit", "run", "app.py", "--headless", "--port", "{port}"),
            *(("--root-path", path) if path else ()),
        ]
        with ChainlitServer(files, command=command, env=env, path=path) as server:
            visitor = Visitor(server.url)
            await visitor.connect()
            assert (await visitor.say("hello")).texts == ["done"]
            session = visitor.session_id
            await visitor.leave(clear=True)
            scrape = server.scrape()
            assert server.log.count(f"metrics at {server.metrics_url}") == 1
            assert server.log.count("sent: metrics to ") == 1
            assert "spans to the TracerProvider of the app" in server.log
            assert scrape.sum("chainlit_session_starts_total") == 1
            assert scrape.sum("chainlit_turn_duration_seconds_count", chainlit_outcome="ok") == 1
            assert scrape.sum("chainlit_otel_internal_errors_total") == 0
            roots = ["chainlit.connect", "chainlit.turn", "chainlit.disconnect"]
            await asyncio.to_thread(
                wait_until,
                lambda: {r.name for r in receiver.roots(session)} >= set(roots),
                10,
                "the spans",
            )
            names = Counter(span.name for span in receiver.spans)
            assert [names[root] for root in roots] == [1, 1, 1]
            # Neither frames of the socket nor the socket itself.
            assert not [name for name in names if "socket.io" in name or "websocket" in name]
            served = [s for s in receiver.spans if s.attributes.get("http.route")]
            assert len({s.id for s in served}) == len({s.trace for s in served})
