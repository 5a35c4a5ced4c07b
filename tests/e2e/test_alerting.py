"""A rush of visitors, from the app by Prometheus and Alertmanager to the person on call."""

from __future__ import annotations

import asyncio
import time

import pytest

from chainlit_otel.rules import Windows, render
from chainlit_otel.testing import Visitor
from tests.support.prometheus import Alertmanager, Prometheus, Webhook
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

# Five minutes are six seconds, an hour is 72.
SCALE = 0.02
MINUTE = 60 * SCALE
SPIKE = "ChainlitSessionSpike"

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.on_message
async def on_message(message):
    await cl.Message("done").send()
"""


async def come(server: ChainlitServer, number: int) -> list[Visitor]:
    visitors = [Visitor(server.url, transports=["websocket"]) for _ in range(number)]
    await asyncio.gather(*(visitor.connect() for visitor in visitors))
    return visitors


async def leave(visitors: list[Visitor]) -> None:
    await asyncio.gather(*(visitor.leave(clear=True) for visitor in visitors))


async def test_a_spike_is_sent_and_resolves_and_a_restart_is_none() -> None:
    with Webhook() as webhook, Alertmanager(webhook.url) as alertmanager:
        server = ChainlitServer({"app.py": APP})
        rules = render(window=Windows(SCALE))
        target = f"127.0.0.1:{server.admin_port}"
        with (
            server,
            Prometheus(
                [target], rules, interval="500ms", alertmanager=alertmanager.address
            ) as prometheus,
        ):
            await _spike(server, prometheus, webhook)
            await _restart(server, prometheus, webhook)


async def _spike(server: ChainlitServer, prometheus: Prometheus, webhook: Webhook) -> None:
    # The hour before: somebody comes now and then, until the process is no longer young.
    def grown_up() -> bool:
        age = prometheus.query("job:process_age_seconds:min")
        usual = f"avg_over_time(job:chainlit_session_starts:rate5m[72s] offset {10 * MINUTE:g}s)"
        return bool(age and age[0][1] > 15 * MINUTE and prometheus.query(usual))

    deadline = time.monotonic() + 60
    while not await asyncio.to_thread(grown_up):
        assert time.monotonic() < deadline
        await leave(await come(server, 1))
        await asyncio.sleep(MINUTE)
    assert webhook.of(SPIKE, "firing") == []
    crowd = await come(server, 60)
    await asyncio.to_thread(wait_until, lambda: webhook.of(SPIKE, "firing"), 120, "the alert")
    (alert,) = webhook.of(SPIKE, "firing")
    assert alert["labels"] == {
        "alertname": SPIKE,
        "cause": "new_visitors",
        "job": "chat",
        "severity": "warning",
    }
    assert alert["annotations"]["summary"] == "New visitors come in a rush on chat."
    await leave(crowd)
    await asyncio.to_thread(wait_until, lambda: webhook.of(SPIKE, "resolved"), 60, "its end")


async def _restart(server: ChainlitServer, prometheus: Prometheus, webhook: Webhook) -> None:
    tabs = await come(server, 20)
    for tab in tabs:
        await tab.say("hello")
    more = await come(server, 20)
    tabs += more
    connected = "job:chainlit_session_active:sum"

    def all_seen() -> bool:
        found = prometheus.query(f"min_over_time({connected}[{5 * MINUTE:g}s])")
        return bool(found and found[0][1] == len(tabs))

    await asyncio.to_thread(wait_until, all_seen, 60, "the tabs to be seen for a while")
    # That they came was a rush of its own, which is over.
    await asyncio.to_thread(
        wait_until,
        lambda: not prometheus.query(f'ALERTS{{alertname="{SPIKE}"}}'),
        60,
        "quiet before the restart",
    )
    before = len(webhook.of(SPIKE, "firing"))
    await asyncio.to_thread(server.stop)
    server.start()
    await asyncio.gather(*(tab.reconnect() for tab in tabs))

    def back() -> bool:
        found = prometheus.query(connected)
        starts = prometheus.query("job:chainlit_session_starts:rate5m")
        return bool(found and found[0][1] == len(tabs) and starts)

    await asyncio.to_thread(wait_until, back, 60, "the tabs to be back")
    # Until no window of the alert has the restart in it.
    quiet = f'max_over_time(ALERTS{{alertname="{SPIKE}"}}[{5 * MINUTE:g}s])'
    await asyncio.to_thread(
        wait_until,
        lambda: (prometheus.query("job:process_age_seconds:min") or [({}, 0)])[0][1] > 10 * MINUTE,
        60,
        "ten minutes to pass",
    )
    assert prometheus.query(quiet) == []
    assert len(webhook.of(SPIKE, "firing")) == before
    await leave(tabs)
