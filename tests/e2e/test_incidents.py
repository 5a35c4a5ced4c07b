"""Incidents made again on a real app: which alert comes, when, what it says, and what does not.

Each deployment is a job of the same Prometheus, with the shipped rules, 50 times as fast.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest

from chainlit_otel.rules import Thresholds, Windows, render
from tests.support import incidents
from tests.support.incidents import APP, LATE, Incident
from tests.support.prometheus import Alertmanager, Prometheus, Webhook
from tests.support.scrape import wait_until_async
from tests.support.server import ChainlitServer

# To start a dozen servers takes its time on a busy machine.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

# Five minutes are six seconds, an hour is 72.
SCALE = 0.02
MINUTE = 60 * SCALE
HOUR = 60 * MINUTE
WEEK = 7 * 24 * HOUR
AT_ONCE = 4  # servers that are starting
# A stall or a wait takes as many seconds as ever, of minutes that are shorter: what a busy machine
# makes an app wait must not count.
LIMITS = Thresholds(first_token_seconds=LATE / 2, stalls=10, stalled=0.3)


@contextmanager
def watched(
    worlds: Collection[Incident], history: str = ""
) -> Iterator[tuple[Prometheus, Webhook]]:
    """Start the apps, and what looks at them."""
    servers: list[ChainlitServer] = [server for world in worlds for server in world.servers]
    with ExitStack() as stack:
        for world in worlds:
            stack.callback(world.close)
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(ChainlitServer.start, servers))
        webhook = stack.enter_context(Webhook())
        alertmanager = stack.enter_context(
            Alertmanager(webhook.url, wait="1s", inhibitions=render(format="alertmanager"))
        )
        prometheus = stack.enter_context(
            Prometheus(
                {world.job: world.targets for world in worlds},
                render(LIMITS, Windows(SCALE, scrape=1)),
                interval="1s",
                alertmanager=alertmanager.address,
                history=history,
            )
        )
        yield prometheus, webhook


async def grown_up(worlds: Collection[Incident], prometheus: Prometheus) -> None:
    """Wait until no process is young, and the rules have seen a quarter of an hour."""

    async def grown() -> bool:
        ages = await asyncio.to_thread(prometheus.query, "job:process_age_seconds:min")
        seen = await asyncio.to_thread(
            prometheus.query,
            f"count_over_time(job:chainlit_session_starts:rate5m[{15 * MINUTE:g}s]) > 15",
        )
        old = {labels["job"] for labels, age in ages if age > 15 * MINUTE}
        return {world.job for world in worlds} <= old & {labels["job"] for labels, _ in seen}

    await wait_until_async(grown, 120, "the deployments to be grown up")


@dataclass(frozen=True)
class Expected:
    """What a person on call is told of an incident.

    Attributes:
        incident: what happens.
        first: the alert that comes first, as a regular expression.
        within: minutes until then, as if the rules were not faster.
        says: what its text names.
        later: alerts that are told after it, each with what its text names.
        echoes: alerts that fire, and nobody is told of.
        also: alerts that are told if turns are many enough, and rightly.
    """

    incident: type[Incident]
    first: str
    within: float
    says: tuple[str, ...]
    later: dict[str, tuple[str, ...]] = field(default_factory=dict)
    echoes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


EXPECTED = (
    Expected(
        incidents.BlockedLoop,
        "EventLoopBlocked",
        within=20,
        says=("The log names the callback and the line", "Share of the time"),
    ),
    Expected(
        incidents.PeriodicCut,
        "ReconnectStorm",
        within=8,
        says=("transport_close (8)",),
    ),
    Expected(
        incidents.OneTable,
        "DataLayerErrors",
        within=20,
        says=("create_step", "update_step"),
        echoes=("DataLayerSlow",),
    ),
    Expected(
        incidents.GoneModel,
        r"TurnErrorBudgetBurn \(fast\)",
        within=20,
        says=("deep (100%)", "llm"),
        echoes=("TurnErrorBudgetBurn (slow)",),
    ),
    Expected(
        incidents.LongMetadata,
        "DataLayerErrors",
        within=20,
        says=("update_thread",),
    ),
    Expected(
        incidents.LostStickiness,
        "StickinessLost",
        within=20,
        says=("file_upload",),
    ),
    Expected(
        incidents.GuessedPasswords,
        r"SignInFailures \(backend\)",
        within=20,
        says=("password",),
        later={"SignInFailures (denied)": ("guesses",)},
    ),
    Expected(
        incidents.CutAtFirstWord,
        # Both are right; which one comes first is a matter of a second.
        "ReconnectStorm|AnswersLost",
        within=20,
        says=("transport_close",),
        later={"FirstTokenSlow": ("llm",)},
        also=("DeliveryBudgetBurn (fast)",),
    ),
)


@dataclass
class Found:
    """What came of an incident.

    Attributes:
        since: when it happened, in seconds since the epoch.
        told: the alerts that a person got, in this order.
        fired: the names of all that fired in Prometheus.
        log: of the first replica.
    """

    since: float
    told: list[dict[str, Any]]
    fired: set[str]
    log: str

    def is_complete(self, expected: Expected) -> bool:
        """Whether all that has to come has come."""
        told = {name(alert["labels"]) for alert in self.told}
        return {*expected.later} < told and {*expected.echoes} <= self.fired


@pytest.fixture(scope="module")
def found() -> dict[type[Incident], Found]:
    """All eight incidents, at once."""
    return asyncio.run(_play())


async def _play() -> dict[type[Incident], Found]:
    worlds = {expected.incident: expected.incident() for expected in EXPECTED}
    with watched(worlds.values()) as (
        prometheus,
        webhook,
    ):
        async with AsyncExitStack() as stack:
            for world in worlds.values():
                await stack.enter_async_context(world.open())
            await grown_up(worlds.values(), prometheus)
            assert not told(webhook, *worlds)
            await asyncio.gather(*(world.strike() for world in worlds.values()))

            def found() -> dict[type[Incident], Found]:
                fired = fired_so_far(prometheus)
                return {
                    kind: Found(
                        world.since, told(webhook, kind), fired[kind.job], world.servers[0].log
                    )
                    for kind, world in worlds.items()
                }

            async def complete() -> bool:
                so_far = await asyncio.to_thread(found)
                if so_far[incidents.CutAtFirstWord].told:
                    await worlds[incidents.CutAtFirstWord].break_app("writer")
                return all(so_far[one.incident].is_complete(one) for one in EXPECTED)

            # What is missing then is said by the tests.
            with contextlib.suppress(TimeoutError):
                await wait_until_async(complete, 90, "all alerts")
            return await asyncio.to_thread(found)


def fired_so_far(prometheus: Prometheus) -> dict[str, set[str]]:
    """The names of all alerts that have fired, by job."""
    fired: dict[str, set[str]] = defaultdict(set)
    for labels, _ in prometheus.query(
        f'count_over_time(ALERTS{{alertstate="firing"}}[{6 * HOUR:g}s])'
    ):
        fired[labels["job"]].add(name(labels))
    return fired


def told(webhook: Webhook, *kinds: type[Incident]) -> list[dict[str, Any]]:
    """What a person got of some incidents.

    Without the replicas that do not answer: a busy machine is late with a scrape, which looks like
    that when a second is a minute.
    """
    alerts = (alert for kind in kinds for alert in webhook.about(kind.job))
    return [alert for alert in alerts if name(alert["labels"]) != "InstanceDown"]


def name(labels: dict[str, str]) -> str:
    """An alert as the documents name it."""
    (variant,) = {labels[key] for key in ("cause", "burn", "kind") if key in labels} or {""}
    return labels["alertname"].removeprefix("Chainlit") + (f" ({variant})" if variant else "")


def text(alert: dict[str, Any]) -> str:
    """What a person reads of an alert."""
    return " ".join(alert["annotations"][part] for part in ("summary", "description"))


each_incident = pytest.mark.parametrize(
    "expected", EXPECTED, ids=[expected.incident.job for expected in EXPECTED]
)


@each_incident
def test_the_right_alert_comes_first_in_time_and_names_the_cause(
    expected: Expected, found: dict[type[Incident], Found]
) -> None:
    (first, *_), since = found[expected.incident].told, found[expected.incident].since
    assert re.fullmatch(expected.first, name(first["labels"]))
    for named in expected.says:
        assert named in text(first)
    assert (fired_at(first) - since) / MINUTE <= expected.within


@each_incident
def test_nothing_is_told_that_is_only_an_echo(
    expected: Expected, found: dict[type[Incident], Found]
) -> None:
    alerts, fired = found[expected.incident].told, found[expected.incident].fired
    others = {
        name(a["labels"]) for a in alerts if not re.fullmatch(expected.first, name(a["labels"]))
    }
    assert {*expected.later} <= others <= {*expected.later, *expected.also}
    assert fired >= {*expected.echoes}
    for alert in alerts:
        for named in expected.later.get(name(alert["labels"]), ()):
            assert named in text(alert)


def test_what_cuts_again_and_again_is_one_alert(found: dict[type[Incident], Found]) -> None:
    assert [alert["status"] for alert in found[incidents.PeriodicCut].told] == ["firing"]


def fired_at(alert: dict[str, Any]) -> float:
    """When it began to fire, in seconds since the epoch."""
    # To the microsecond, which is what older versions of Python can read.
    return datetime.fromisoformat(f"{alert['startsAt'][:26].rstrip('Z')}+00:00").timestamp()


def test_the_log_names_the_line_that_blocks(found: dict[type[Incident], Found]) -> None:
    lines = APP.splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "the line that blocks" in text)
    (blocked, *_) = (
        line for line in found[incidents.BlockedLoop].log.splitlines() if "event loop" in line
    )
    assert f"app.py:{line}" in blocked
    assert "search_catalog" in blocked


def weeks(usual: Mapping[str, float], now: float) -> str:
    """What the rules would have recorded at this time of the last three weeks.

    Args:
        usual: sessions that started each second, by job.
        now: in seconds since the epoch.
    """
    lines = ["# TYPE job:chainlit_session_starts:rate5m gauge"]
    for job, rate in usual.items():
        for week in (3, 2, 1):
            for second in range(int(-1.5 * HOUR), int(5 * HOUR)):
                at = f"{now - week * WEEK + second:.3f}"
                lines.append(f'job:chainlit_session_starts:rate5m{{job="{job}"}} {rate} {at}')
    return "\n".join([*lines, "# EOF", ""])


async def test_an_outage_and_a_launch_are_told_and_a_deploy_is_not() -> None:
    outage, launch, deploy = incidents.Outage(), incidents.Launch(), incidents.Deploy()
    worlds = outage, launch, deploy
    history = weeks({world.job: world.usual for world in worlds}, time.time())
    with watched(worlds, history=history) as (prometheus, webhook):
        deploy.prometheus = prometheus
        async with AsyncExitStack() as stack:
            for world in worlds:
                await stack.enter_async_context(world.open())
            await grown_up(worlds, prometheus)
            assert not told(webhook, *map(type, worlds))
            await asyncio.gather(*(world.strike() for world in worlds))

            async def both_are_told() -> bool:
                names = {name(alert["labels"]) for alert in told(webhook, *map(type, worlds))}
                return {"SessionDrop", "SessionSpike (new_visitors)"} <= names

            await wait_until_async(both_are_told, 90, "the drop and the spike")
            # Until no window of a rule has the deploy in it.
            await grown_up([deploy], prometheus)
        # The one of all replicas that are down comes long before.
        down, drop = webhook.about(outage.job)
        assert name(down["labels"]) == "InstanceDown"
        assert name(drop["labels"]) == "SessionDrop"
        assert text(drop) == (
            "Hardly anybody comes to outage. "
            "Sessions start at 0% of the rate at the same time of the last two weeks."
        )
        launched = told(webhook, incidents.Launch)
        assert name(launched[0]["labels"]) == "SessionSpike (new_visitors)"
        # When the spike is an hour old, it is a rise, for who wants to know.
        assert {name(alert["labels"]) for alert in launched[1:]} <= {
            "SessionSpike (new_visitors)",
            "SessionRise",
        }
        assert told(webhook, incidents.Deploy) == []
        assert len(deploy.servers) == 2 * deploy.replicas
