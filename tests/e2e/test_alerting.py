"""A rush of visitors, from the app by Prometheus and Alertmanager to the person on call."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest

from chainlit_otel.rules import Thresholds, Windows, render
from chainlit_otel.testing import Visitor
from tests.support.nginx import nginx
from tests.support.otlp import Receiver
from tests.support.prometheus import Alertmanager, Prometheus, Webhook
from tests.support.scrape import wait_until, wait_until_async
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


async def come(url: str, number: int) -> list[Visitor]:
    visitors = [Visitor(url, transports=["websocket"]) for _ in range(number)]
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


async def _an_hour_passes(prometheus: Prometheus, url: str) -> int:
    """Let somebody come now and then, until no process is young; return how many came."""

    def grown_up() -> bool:
        age = prometheus.query("job:process_age_seconds:min")
        usual = f"avg_over_time(job:chainlit_session_starts:rate5m[72s] offset {10 * MINUTE:g}s)"
        return bool(age and age[0][1] > 15 * MINUTE and prometheus.query(usual))

    deadline, visitors = time.monotonic() + 60, 0
    while not await asyncio.to_thread(grown_up):
        assert time.monotonic() < deadline
        await leave(await come(url, 1))
        visitors += 1
        await asyncio.sleep(MINUTE)
    return visitors


async def _spike(server: ChainlitServer, prometheus: Prometheus, webhook: Webhook) -> None:
    await _an_hour_passes(prometheus, server.url)
    assert webhook.of(SPIKE, "firing") == []
    crowd = await come(server.url, 60)
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
    tabs = await come(server.url, 20)
    for tab in tabs:
        await tab.say("hello")
    more = await come(server.url, 20)
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


def total(receiver: Receiver, name: str) -> int:
    """The sum of a counter, or the count of a histogram, over exports of what is new in each."""
    return sum(
        point.count if metric.HasField("histogram") else point.as_int + int(point.as_double)
        for export in receiver.metric_exports
        for resource in export.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in (metric.sum.data_points or metric.histogram.data_points)
    )


class People:
    """Those who come to a fleet, and how many sessions and turns that has to be.

    Args:
        url: where they come.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.tabs: list[Visitor] = []
        self.starts = 0
        self.turns = 0

    async def open_tabs(self, number: int) -> None:
        """Come to stay."""
        self.tabs += await come(self.url, number)
        self.starts += number

    async def visit(self, number: int) -> None:
        """Come, ask something, and leave."""
        visitors = await come(self.url, number)
        for answer in await asyncio.gather(*(visitor.say("hello") for visitor in visitors)):
            assert answer.texts == ["done"]
        await leave(visitors)
        self.starts += number
        self.turns += number

    def lost(self) -> list[Visitor]:
        """Whose connection has ended."""
        return [tab for tab in self.tabs if not tab.connected]

    async def come_back(self) -> None:
        """Have every tab whose connection has ended open another, with a session of its own."""
        lost = self.lost()
        await asyncio.gather(*(tab.reconnect() for tab in lost))
        self.starts += len(lost)


async def _replace(
    fleet: list[ChainlitServer], unavailable: list[ChainlitServer], people: People
) -> None:
    """Restart some replicas at once, while the others serve those who come."""

    def tabs(replicas: list[ChainlitServer]) -> float:
        return sum(replica.scrape().sum("chainlit_session_active") for replica in replicas)

    def only_tabs() -> bool:
        return tabs(fleet) == len(people.tabs)

    await asyncio.to_thread(wait_until, only_tabs, 60, "the visitors to be gone")
    theirs = await asyncio.to_thread(tabs, unavailable)
    await asyncio.gather(*(asyncio.to_thread(replica.stop) for replica in unavailable))

    async def cut_off() -> bool:
        return len(people.lost()) == theirs

    await wait_until_async(cut_off, 60, "their tabs to be cut off")
    await people.come_back()
    await people.visit(3)
    await asyncio.gather(*(asyncio.to_thread(replica.start) for replica in unavailable))
    await people.visit(3)


async def test_a_rollout_over_a_fleet_is_no_spike_and_its_figures_stay_right() -> None:
    """Five replicas behind a sticky proxy are replaced while people are there, come and go."""
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        env = {**receiver.env, "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"}
        fleet = [stack.enter_context(ChainlitServer({"app.py": APP}, env=env)) for _ in range(5)]
        prometheus = stack.enter_context(
            Prometheus(
                [f"127.0.0.1:{replica.admin_port}" for replica in fleet],
                render(window=Windows(SCALE)),
                interval="500ms",
            )
        )
        people = People(stack.enter_context(nginx([replica.port for replica in fleet])))
        await people.open_tabs(40)
        people.starts += await _an_hour_passes(prometheus, people.url)

        for unavailable in (fleet[:2], fleet[2:4], fleet[4:]):
            await _replace(fleet, unavailable, people)
        assert len(people.lost()) == 0
        connected = "job:chainlit_session_active:sum"
        await asyncio.to_thread(
            wait_until,
            lambda: [value for _, value in prometheus.query(connected)] == [len(people.tabs)],
            60,
            "Prometheus to have every tab once",
        )
        # Of new visitors alone, the rule would have been about them.
        returned = f"max_over_time(job:chainlit_session_starts:rate5m[1m]) * {5 * MINUTE:g}"
        ((_, most),) = prometheus.query(returned)
        assert most > Thresholds().spike_sessions
        firing = f'alertname="{SPIKE}", alertstate="firing"'
        assert prometheus.query(f"max_over_time(ALERTS{{{firing}}}[5m])") == []

        await leave(people.tabs)
        for replica in fleet:
            await asyncio.to_thread(replica.stop)
        assert total(receiver, "chainlit.session.starts") == people.starts
        assert total(receiver, "chainlit.session.ends") == people.starts
        assert total(receiver, "chainlit.turn.duration") == people.turns
