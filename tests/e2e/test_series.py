"""How many series an app costs, and which of them are there before anything has happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainlit_otel import catalog
from tests.support.scrape import Scrape
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart" / "app.py"

SIGN_IN = """
import chainlit as cl
import chainlit_otel

chainlit_otel.enable()


@cl.password_auth_callback
def sign_in(name, password):
    return None


@cl.on_chat_start
async def start():
    pass


@cl.on_chat_resume
async def resume(thread):
    pass
"""


def values(
    scrape: Scrape, metric: catalog.Metric, part: str, attribute: catalog.Attribute
) -> set[str]:
    """The values of one label of a metric that are there, all of them at zero."""
    name = metric.prometheus_name + part
    labels = [dict(labels) for found, labels in scrape.series if found == name]
    assert all(scrape.value(name, **known) == 0 for known in labels)
    return {known[attribute.prometheus_label] for known in labels}


def test_an_app_that_nobody_has_used_has_few_series() -> None:
    with ChainlitServer({"app.py": QUICKSTART.read_text(encoding="utf-8")}) as server:
        scrape = server.scrape()
    assert len(scrape.series) <= 500
    names = {name for name, _ in scrape.series}
    assert names >= {"http_server_request_duration_seconds_count", "process_open_fds"}
    assert not [name for name in names if "body_size" in name]
    callbacks = values(scrape, catalog.CALLBACK_DURATION, "_count", catalog.CALLBACK_NAME)
    assert callbacks == {"on_message"}
    methods = values(scrape, catalog.ACCESS_ATTEMPTS, "", catalog.ACCESS_METHOD)
    assert methods == {"websocket", "thread", "rate_limit"}


def test_what_an_app_has_is_at_zero_before_it_first_happens() -> None:
    env = {"CHAINLIT_AUTH_SECRET": "x" * 40}
    with ChainlitServer({"app.py": SIGN_IN}, env=env) as server:
        scrape = server.scrape()
    callbacks = values(scrape, catalog.CALLBACK_DURATION, "_count", catalog.CALLBACK_NAME)
    assert callbacks == {"password_auth_callback", "on_chat_start", "on_chat_resume"}
    outcomes = values(scrape, catalog.CALLBACK_DURATION, "_count", catalog.OUTCOME)
    assert outcomes == {"ok", "error"}
    methods = values(scrape, catalog.ACCESS_ATTEMPTS, "", catalog.ACCESS_METHOD)
    assert methods == {"websocket", "thread", "rate_limit", "password", "jwt"}
