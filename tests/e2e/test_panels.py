"""Every query of every panel, answered by a real Prometheus, against what the visitors did.

Two replicas of one app with sign-in, a database, a cache, a pool and an MCP server are visited by
people who keep a ledger. One replica is restarted on the way. Then Grafana's part is played: each
query of each dashboard must return what the ledger says, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest

from chainlit_otel import catalog
from chainlit_otel.rules import Thresholds, render
from tests.support.grafana import DASHBOARDS, Grafana, Series, panels
from tests.support.monitor import Monitored
from tests.support.otlp import Receiver
from tests.support.postgres import Postgres
from tests.support.prometheus import Prometheus
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer
from tests.support.story import (
    BLOCKED,
    CACHE,
    COST,
    DIALOGS,
    FILE,
    GUESTS,
    INPUT,
    LAST_WEEK,
    LOOK_UP,
    OUTPUT,
    PACE,
    POOL,
    QUERIES,
    REGULARS,
    SCORE,
    SCRAPE,
    WATCHED,
    WINDOW,
    Ledger,
    Script,
    address,
    last_week,
    replica,
)

pytestmark = pytest.mark.e2e

# Who is told something that had to be looked up is told too late. Budgets cannot wait two minutes.
RULES = render(Thresholds(first_token_within=0.04)).replace("interval: 2m", "interval: 1s")

# What Grafana is given


@dataclass
class Shown:
    """All that the dashboards show.

    Attributes:
        done: the ledger.
        chosen: the values of the variables, by dashboard.
        panels: the series of each panel, by dashboard, title and type, each with its legend.
        starts: the annotations, by dashboard.
        exemplars: how many there are, by title.
        empty: the queries that returned nothing.
        instances: the replicas.
        series: how many each replica shows in the end.
        seconds: for how long was looked.
        end: when.
    """

    done: Ledger
    instances: tuple[str, str]
    series: list[int]
    seconds: float
    end: float
    chosen: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    panels: dict[tuple[str, str, str], list[tuple[str, Series]]] = field(default_factory=dict)
    starts: dict[str, set[tuple[str, float]]] = field(default_factory=dict)
    exemplars: dict[str, int] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)

    def look(self, grafana: Grafana) -> None:
        for name, dashboard in DASHBOARDS.items():
            self.chosen[name] = grafana.choose_all(dashboard)
            self.starts[name] = grafana.annotations(dashboard)
            for panel in panels(dashboard):
                key = name, panel["title"], panel["type"]
                self.panels[key] = grafana.panel(panel)
                for target in panel["targets"]:
                    if not list(grafana.target(target)):
                        self.empty.append(f"{panel['title']}: {target['expr']}")
                    if target["exemplar"]:
                        self.exemplars[panel["title"]] = len(grafana.exemplars(target))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shown]:
    began = time.time()
    with contextlib.ExitStack() as stack:
        receiver = stack.enter_context(Receiver())
        database = stack.enter_context(Postgres())
        replicas = [replica(database, receiver) for _ in range(2)]
        with ThreadPoolExecutor() as threads:
            first, second = threads.map(stack.enter_context, replicas)
        watched = stack.enter_context(ChainlitServer({"app.py": WATCHED}))
        scripts = tmp_path_factory.mktemp("scripts")
        monitored = Monitored.of(watched.url, scripts, DIALOGS, every="2s")
        stack.callback(monitored.end)
        prometheus = stack.enter_context(
            Prometheus(
                {"chat": [address(first), address(second)], "monitor": [monitored.address]},
                RULES,
                interval="500ms",
                history=last_week(began),
            )
        )
        script = Script(first, second, database, prometheus)
        script.done.target = watched.url
        yield asyncio.run(_shown(script, prometheus))


async def _shown(script: Script, prometheus: Prometheus) -> Shown:
    await asyncio.to_thread(
        wait_until, lambda: prometheus.query("sum(up) == 3"), 20, "all to be scraped"
    )
    start = math.floor(time.time())
    await script.play()
    # The last window of `rate()` has to be one in which nothing happens any more.
    await asyncio.sleep(WINDOW + 1)
    script.add_open_time()
    end = math.floor(time.time())
    series = [len((await asyncio.to_thread(server.scrape)).series) for server in script.replicas]
    shown = Shown(script.done, script.instances, series, end - start, end)
    with Grafana(prometheus.url, start, end, scrape=SCRAPE) as grafana:
        await asyncio.to_thread(shown.look, grafana)
    print(f"{end - start} s: {dict(script.done)}")
    return shown


# What it has to be


@dataclass(frozen=True)
class Expected:
    """What a series has to be.

    Attributes:
        what: says what is looked at.
        measure: looks at it.
        low: the least that it may be.
        high: the most.
    """

    what: str
    measure: Callable[[Series], float]
    low: float
    high: float

    def check(self, name: str, series: Series) -> None:
        found = self.measure(series)
        assert self.low <= found <= self.high, (
            f"{name}: {self.what} is {found:g}, not from {self.low:g} to {self.high:g}"
        )


Checks = tuple[Expected, ...]


def last(low: float, high: float | None = None) -> Checks:
    """The last value, exactly if only one is given."""
    return (Expected("the last", lambda s: s.last, low, low if high is None else high),)


def near(value: float, by: float = 0.03) -> Checks:
    """The last value, but for rounding and what differs between two replicas' scrapes."""
    return last(value * (1 - by), value * (1 + by))


def grown(count: float) -> Checks:
    """The last value of an `increase()`, which reaches half an interval beyond its samples."""
    return last(count * 0.99, count * 1.08)


def most(low: float, high: float | None = None) -> Checks:
    """The highest value."""
    found = Expected("the most", lambda s: max(s.values), low, low if high is None else high)
    return (found,)


def least(low: float, high: float | None = None) -> Checks:
    """The lowest value."""
    found = Expected("the least", lambda s: min(s.values), low, low if high is None else high)
    return (found,)


def within(low: float, high: float) -> Checks:
    """All values."""
    return (
        Expected("the least", lambda s: min(s.values), low, high),
        Expected("the most", lambda s: max(s.values), low, high),
    )


def total(low: float, high: float | None = None) -> Checks:
    """What a rate adds up to; where scrapes are not quite regular, `rate()` is not quite exact."""
    low, high = (low * 0.6, low * 1.4) if high is None else (low, high)
    return (Expected("the total", lambda s: s.area / PER.get(s.unit, 1), low, high),)


NOTHING = within(0, 0)
RISING = within(0, math.inf)  # buckets are looked at together, below
QUICK = within(0, 5.12)  # the bucket in which the longest turns and callbacks are

# Seconds of what a unit counts by.
PER = {"suffix:/min": 60, "suffix:/s": 1, "Bps": 1}
ANY = "any other"

Panels = dict[tuple[str, str], dict[str, Checks]]


def sessions(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    starts = done["new"] + done["resumed"]
    ends = done["cleared"] + done["timeout"]
    peak, reconnects = done["peak"], done["reconnects"]
    here = done["connected"]
    mean = near(done.seconds / ends, 0.1)
    ended = done.seconds_of_ended / ends
    return {
        ("Sessions started", "stat"): {"": grown(starts / 5)},
        ("Mean duration", "stat"): {"": mean},
        ("Connected now", "stat"): {"": last(here)},
        ("Peak of the last hour", "stat"): {"at least": last(peak), "at most": last(peak)},
        # By the most of each replica and client, which need not have been there at one moment.
        ("Reconnects", "stat"): {"": last(reconnects / peak / 2, reconnects / here * 1.08)},
        ("Refused", "stat"): {"": near(done["refused"] / (done["refused"] + starts + reconnects))},
        ("Creation rate", "timeseries"): {
            "new": total(done["new"]),
            "thread_resume": total(done["resumed"]),
            "a week ago": within(LAST_WEEK * 0.99, LAST_WEEK * 1.01),
        },
        ("Concurrent sessions", "timeseries"): {
            "connected": last(here) + most(peak),
            "disconnected": last(0) + most(1, done["timeout"] + 1),
            "peak": most(peak),
        },
        ("Peak of all replicas", "timeseries"): {
            "at least": last(peak) + most(peak),
            "at most": last(peak) + most(peak),
            "records": last(peak),
        },
        ("Mean duration", "timeseries"): {
            "all sessions": mean,
            # The browser's side is a little longer. But `rate()` reaches beyond its samples, though
            # no further than where they would be zero: not the same for a sum and its count.
            "ended sessions": last(ended * 0.6, ended * 1.02),
        },
        ("Duration of ended sessions", "timeseries"): {
            "p50": within(0, 30),
            "p90": within(0, 30),
            "p99": within(0, 30),
        },
        ("Duration of ended sessions, spread", "heatmap"): {"+Inf": total(ends), ANY: RISING},
        ("Ends by reason", "timeseries"): {
            "cleared": total(done["cleared"]),
            "timeout": total(done["timeout"]),
        },
        ("Turns of a session", "timeseries"): {"p50": within(0, 1), "p90": within(0, 2)},
        ("Bounces", "timeseries"): {"without a turn": near(done["bounced"] / ends)},
        ("Oldest session", "timeseries"): {
            first: last(seconds / 2, seconds),
            second: last(1, seconds),
        },
        ("Reconnects", "timeseries"): {"webapp": total(reconnects)},
        ("Sockets lost at once", "timeseries"): {"chat": within(0, 1)},
        ("Refused connections", "timeseries"): {"authentication_failed": total(done["refused"])},
        ("Closed connections", "timeseries"): {
            "client_disconnect": total(done["cleared"]),
            "transport_close": total(done["timeout"] + done["lost"]),
        },
        ("Duration of connections", "heatmap"): {"+Inf": total(ends + done["lost"]), ANY: RISING},
        ("Client types", "timeseries"): {
            "webapp": last(here) + most(peak),
            "copilot": most(1),
            "other": most(1),
        },
        ("Dialogs", "state-timeline"): {
            f"{done.target} greeting": within(1, 1),
            f"{done.target} wish": within(0, 0),
        },
        ("Phases of dialogs", "timeseries"): {
            **{f"greeting {phase}": within(1e-6, 30) for phase in catalog.PHASE.values},
            **{f"wish {phase}": within(1e-6, 30) for phase in catalog.PHASE.values[:3]},
        },
        # One of the two, each two seconds.
        ("Failures of dialogs", "timeseries"): {
            "CheckFailed": total(seconds / 4, seconds / 2 + 2),
            ANY: NOTHING,
        },
        ("Synthetic sessions", "timeseries"): {"error": total(done["synthetic"]), ANY: NOTHING},
        ("Synthetic turns", "timeseries"): {"error": total(done["synthetic"]), ANY: NOTHING},
        ("Transports", "timeseries"): {
            "websocket": last(here) + most(peak),
            "polling": last(0) + most(1),
        },
        ("HTTP sessions", "timeseries"): {"slack": total(done["bots"])},
    }


def conversations(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    outcomes = {name: done[f"turn {name}"] for name in ("ok", "error", "cancelled")}
    turns = sum(outcomes.values())
    # Those who wait at the end have heard something, those whose answer was lost have not.
    answered = turns - outcomes["error"] - done["lost"] + done["under way"] - QUERIES
    quantiles = {"p50": QUICK, "p90": QUICK, "p99": QUICK + most(BLOCKED * 0.8, 5.12)}
    return {
        ("Turns", "stat"): {"": grown(turns / 5)},
        ("Failed turns", "stat"): {"": near(outcomes["error"] / turns)},
        ("First token, p90", "stat"): {"": last(LOOK_UP, BLOCKED)},
        ("Turns under way", "stat"): {"": last(done["under way"])},
        ("Lost answers", "stat"): {"": near(done["lost"] / (done["lost"] + done["outbound"]))},
        ("Positive feedback", "stat"): {
            "": near(done["positive"] / (done["positive"] + done["negative"]))
        },
        ("Turns by outcome", "timeseries"): {name: total(n) for name, n in outcomes.items()},
        ("Failed turns by chat profile", "timeseries"): {"none": near(outcomes["error"] / turns)},
        # They began a window and a second before the end, which is cut to a whole second; its last
        # scrape is older by half a second, and as long as that takes.
        ("Oldest turn without a word", "timeseries"): {"oldest": last(WINDOW - SCRAPE, seconds)},
        ("Concurrent turns", "timeseries"): {
            "under way": last(done["under way"]),
            "peak": most(done["under way"], REGULARS + GUESTS),
        },
        ("Duration of turns", "timeseries"): quantiles,
        ("Duration of turns, spread", "heatmap"): {"+Inf": total(turns), ANY: RISING},
        ("Time to first token", "timeseries"): quantiles,
        ("Time to first token, spread", "heatmap"): {"+Inf": total(answered), ANY: RISING},
        ("Turns by version", "timeseries"): {
            "1.0": total(0.5 * turns, 1.3 * turns),
            "2.0": within(0, 60 * GUESTS),
        },
        ("Failed turns by version", "timeseries"): {
            "1.0": most(outcomes["error"] / turns, 1),
            ANY: NOTHING,
        },
        ("First token by version, p90", "timeseries"): {"1.0": QUICK, ANY: QUICK},
        ("Gap between chunks", "timeseries"): {
            "p50": within(PACE / 2, 0.5),
            "p90": within(PACE, 0.5),
            "p99": within(PACE, 0.5),
        },
        ("Chunks streamed", "timeseries"): {"chunks": total(done["chunks"])},
        ("Callbacks, p90", "timeseries"): {
            "on_message": QUICK + most(BLOCKED * 0.6, 5),
            "on_chat_start": QUICK,
            "on_chat_resume": QUICK,
            "password_auth_callback": QUICK,
            "on_mcp_connect": QUICK,
        },
        ("Errors in callbacks", "timeseries"): {
            "on_message": total(outcomes["error"]),
            "password_auth_callback": total(done["unknown"]),
        },
        ("Steps, p90", "timeseries"): {
            "run": QUICK + most(BLOCKED * 0.6, 5.12),
            "tool": QUICK + most(LOOK_UP, 5.12),
        },
        ("Event loop blocked", "timeseries"): {first: total(BLOCKED * done["blocked"])},
        ("Errors in steps", "timeseries"): {
            "run": total(outcomes["error"]),
            "tool": total(done["tool error"]),
        },
        ("Questions to users", "timeseries"): {
            "answered": total(done["answered"]),
            "timeout": total(done["timed out"]),
        },
        ("MCP connections", "timeseries"): {"open": last(done["mcp"])},
        ("Messages", "timeseries"): {
            "inbound": total(done["inbound"]),
            "outbound": total(done["outbound"]),
        },
        # The message, and that its step is over.
        ("Lost on the way", "timeseries"): {
            "new_message": total(done["lost"]),
            "step": total(done["lost"]),
        },
        ("Turns not delivered", "timeseries"): {"not delivered": total(done["lost"])},
        ("Feedback", "timeseries"): {
            name: grown(done[name]) for name in ("positive", "negative", "deleted")
        },
        ("Files", "timeseries"): {
            "upload": total(FILE * done["uploaded"]),
            "element": total(FILE * done["elements"]),
        },
    }


def data_layer(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    turns = sum(done[f"turn {name}"] for name in ("ok", "error", "cancelled"))
    feedback = done["positive"] + done["negative"]
    failed = done["stuck"] + done["failed feedback"]
    # A turn is stored as a message and a run, mostly with an answer and a tool, each once updated.
    fewest, highest = 2 * turns, 12 * turns
    sign_ins = {"granted": done["signed in"], "denied": done["denied"], "error": done["unknown"]}
    refused = sign_ins["denied"] + sign_ins["error"]
    connects = done["new"] + done["resumed"] + done["reconnects"]
    stored = {
        "create_user": total(done["signed in"]),
        "get_user": total(done["signed in"], 20 * done["signed in"]),
        "create_step": total(fewest / 2, highest),
        "update_step": total(turns / 2, highest),
        "update_thread": total(done["bounced"] / 2, highest),
        "get_thread": total(1, 5 * done["resumed"]),
        "upsert_feedback": total(feedback + done["failed feedback"]),
        "delete_feedback": total(done["deleted"]),
        "create_element": total(done["elements"]),
    }
    return {
        ("Operations", "stat"): {"": last(fewest / 300, highest / 300)},
        ("Failed operations", "stat"): {"": last(failed / highest, failed / fewest)},
        ("Operations, p95", "stat"): {"": last(0.0005, 5)},
        ("Fullest pool", "stat"): {"": last(QUERIES / POOL)},
        ("Cache hits", "stat"): {"": last(1 / done["lookups"], 1)},
        ("Failed sign-ins", "stat"): {"": near(refused / sum(sign_ins.values()))},
        ("Operations", "timeseries"): stored,
        ("Errors", "timeseries"): {
            "update_thread": total(done["stuck"]),
            "upsert_feedback": total(done["failed feedback"]),
        },
        ("Duration of operations, p95", "timeseries"): {ANY: within(0.0001, 5)},
        ("Duration of operations, spread", "heatmap"): {
            "+Inf": total(fewest, highest),
            ANY: RISING,
        },
        ("Queued now", "timeseries"): {"queued": last(0) + most(1, 5 * done["new"])},
        ("Queued and discarded", "timeseries"): {
            "queued": total(done["new"], 5 * done["new"]),
            "discarded": total(done["bounced"], 5 * done["bounced"]),
        },
        ("Connections", "timeseries"): {
            "Layer.pool used": last(QUERIES) + most(QUERIES, 2 * POOL),
            "Layer.pool idle": most(1, 2 * POOL),
            "Layer.pool most": last(2 * POOL),
        },
        ("Pools in use", "bargauge"): {
            f"{first} Layer.pool": last(QUERIES / POOL),
            f"{second} Layer.pool": last(0),
        },
        ("Cache hits", "timeseries"): {"topics": within(0, 1) + most(0.01, 1)},
        ("Cache entries", "timeseries"): {
            "topics": last(CACHE),
            "topics dropped": total(0.5, done["lookups"]),
        },
        ("Access checks", "timeseries"): {
            **{f"password {result}": total(n) for result, n in sign_ins.items()},
            "websocket granted": total(connects),
            "websocket denied": total(done["refused"]),
            "thread granted": total(done["resumed"] + done["reconnects"]),
            "rate_limit denied": total(done["limited"]),
            "jwt granted": total(connects, 10 * connects),
        },
        ("Sign-ins", "timeseries"): {result: total(n) for result, n in sign_ins.items()},
        ("Errors at sign-in", "timeseries"): {"password": total(done["unknown"])},
        # The reason is not known before it is given for the first time.
        ("Denied by the app", "timeseries"): {
            "rate_limit messages": total(0.5, done["limited"] * 1.3),
        },
        ("Users", "timeseries"): {first: last(REGULARS), second: last(GUESTS)},
    }


def runtime(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    megabytes = within(50e6, 1e9)
    lag = within(0, BLOCKED + 1)
    return {
        ("Replicas", "stat"): {"": last(2)},
        ("Stalls", "stat"): {"": grown(done["blocked"])},
        ("Lag, p99", "stat"): {"": last(0.01, BLOCKED + 1)},
        ("Memory", "stat"): {"": last(2 * 50e6, 2e9)},
        ("Retained sessions", "stat"): {"": last(done["stuck"])},
        ("Our own errors", "stat"): {"": NOTHING},
        ("Event loop lag, p99", "timeseries"): {first: lag + most(1, BLOCKED + 1), second: lag},
        ("Event loop lag, spread", "heatmap"): {
            "+Inf": total(2 * seconds, 11 * seconds),
            ANY: RISING,
        },
        ("Stalls", "timeseries"): {first: grown(done["blocked"])},
        ("HTTP requests, p95", "timeseries"): {
            "/bot": QUICK,
            "/login": QUICK,
            "/set-session-cookie": QUICK,
            ANY: QUICK,
        },
        ("Memory", "timeseries"): {first: megabytes, second: megabytes},
        ("Processor", "timeseries"): {first: most(0.01, 2), second: most(0.01, 2)},
        ("Retained objects", "timeseries"): {
            "sessions": last(done["stuck"]),
            "chat_contexts": last(1, done["new"] + done["bots"]),
            "user_sessions": last(0, done["bots"]),
            "files": last(0, done["bots"]),
        },
        ("File descriptors", "timeseries"): {first: most(1e-6, 0.5), second: most(1e-6, 0.5)},
        ("Replicas", "table"): {
            f"A {first}": last(REGULARS),
            f"A {second}": last(GUESTS),
            f"B {first}": last(done["under way"]),
            f"C {first}": last(REGULARS),
            f"C {second}": last(GUESTS),
            f"D {first}": megabytes,
            f"D {second}": megabytes,
            f"E {first}": last(seconds, seconds + 60),
            f"E {second}": last(1, seconds),
        },
        ("Sessions of each replica", "bargauge"): {first: last(REGULARS), second: last(GUESTS)},
        ("Up", "state-timeline"): {
            first: last(1) + within(0, 1),
            second: last(1) + least(0),
        },
        ("Sessions asked for where they are not", "timeseries"): {
            "file_upload": total(done["missed"])
        },
        ("Share of sessions not found", "timeseries"): {
            "file_upload": near(done["missed"] / (done["missed"] + done["uploaded"]), 0.1)
        },
        ("Age of the processes", "timeseries"): {
            first: last(seconds, seconds + 60),
            second: last(1, seconds),
        },
        ("Our own errors", "timeseries"): {},
        ("Probes", "state-timeline"): {ANY: within(1, 1)},
        ("Values recorded as other", "timeseries"): {"chainlit.client.type": grown(done["odd"])},
        ("Telemetry lost", "timeseries"): {},
        ("Records", "timeseries"): {
            "session.start": grown(done["new"] + done["resumed"] + done["bots"]),
            # Of a bot it is written when Python has collected it.
            "session.end": last(
                0.99 * (done["cleared"] + done["timeout"]),
                1.08 * (done["cleared"] + done["timeout"] + done["bots"]),
            ),
            "turn": grown(sum(n for name, n in done.items() if name.startswith("turn "))),
            "feedback": grown(done["positive"] + done["negative"] + done["deleted"]),
            "score": grown(done["tool ok"]),
        },
    }


def usage(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    turns = sum(done[f"turn {name}"] for name in ("ok", "error", "cancelled"))
    found, failed, searched = done["tool ok"], done["turn error"], done["tool error"]
    calls, judged = found + searched, done["positive"] + done["negative"]
    starts = done["new"] + done["resumed"] + done["bots"]
    # Some of them sleep while the event loop is blocked.
    one = within(LOOK_UP * 0.9, BLOCKED + 1)
    paid, unknown = found + failed, searched
    # There are four of these, and of each replica the first is not seen.
    few = 0.15

    # Their series begin with the first of them, which `increase()` does not see.
    def but_one(count: float, low: int = 2) -> Checks:
        return last((count - low) * COST * 0.9, count * COST * 1.08)

    return {
        ("Cost of a day", "stat"): {"": but_one(paid, 6)},
        ("Cost of a turn", "stat"): {
            "": last((paid - 6) * COST / turns * 0.9, paid * COST / turns * 1.3)
        },
        ("Wasted", "stat"): {"": last(0.1 * failed / paid, 1.5 * failed / paid)},
        ("Cost not known", "stat"): {
            "": last(few * unknown / (paid + unknown), 1.4 * unknown / (paid + unknown))
        },
        ("Failed tool calls", "stat"): {"": last(few * searched / calls, 1.2 * searched / calls)},
        ("Unlinked feedback", "stat"): {"": near(done["unlinked"] / (judged + done["deleted"]))},
        ("Cost by model", "timeseries"): {"big": but_one(paid, 6)},
        ("Cost by outcome", "timeseries"): {"ok": but_one(found, 5), "error": but_one(failed, 2)},
        ("Cost of a turn and of a session, mean", "timeseries"): {
            "turn": last((paid - 6) * COST / turns * 0.9, paid * COST / turns * 1.3),
            "session": last((paid - 6) * COST / starts * 0.9, paid * COST / starts * 1.3),
        },
        ("Wasted cost", "timeseries"): {"error": but_one(failed, 2), ANY: NOTHING},
        ("Tokens by type", "timeseries"): {
            "input": total(0.6 * INPUT * found, 1.3 * INPUT * found),
            "output": total(0.6 * OUTPUT * found, 1.3 * (OUTPUT * found + failed)),
        },
        ("Tokens by model", "timeseries"): {
            "big": total(0.6 * (INPUT + OUTPUT) * found, 1.3 * ((INPUT + OUTPUT) * found + failed)),
            ANY: NOTHING,
        },
        ("Model calls, what is known of them", "timeseries"): {
            "counted": total(0.6 * paid, 1.3 * paid),
            "uncounted": total(few * unknown, 1.3 * unknown),
            "outside of turns": total(0.5 * done["new"], 1.3 * done["new"]),
            ANY: NOTHING,
        },
        ("Calls of tools", "timeseries"): {
            "look_up": total(0.6 * found, 1.3 * found),
            "search": total(few * searched, 1.3 * searched),
        },
        ("Failed calls of tools", "timeseries"): {"look_up": NOTHING, "search": most(1)},
        ("Time of a call, mean", "timeseries"): {"look_up": one, "search": within(0, 1)},
        ("Tools at work", "timeseries"): {
            "look_up": most(LOOK_UP / 10, REGULARS + GUESTS),
            "search": within(0, 1),
        },
        ("Scores, mean", "timeseries"): {"relevance": near(SCORE)},
        ("Scores, lowest tenth", "timeseries"): {"relevance": within(0.7, 0.8)},
        ("Scores given", "timeseries"): {"relevance": total(0.6 * found, 1.3 * found)},
    }


def objectives(done: Ledger, first: str, second: str, seconds: float) -> Panels:
    turns = sum(done[f"turn {name}"] for name in ("ok", "error", "cancelled"))
    answered = turns - done["turn error"] - done["lost"] + done["under way"] - QUERIES
    counted = {"answered": turns, "first token": answered, "delivered": turns}
    # The rules are evaluated beside the scrapes: what is recorded is a scrape old at times.
    events = {name: last(number / 5 * 0.8, number / 5 * 1.1) for name, number in counted.items()}
    # Far more went wrong than objectives allow; how much does not add up exactly, since what came
    # early is in more of the windows that are summed up.
    burns = {"answered": last(5, 100), "first token": last(2, 20), "delivered": last(1, 50)}
    overdrawn = {"answered": last(-99, -4), "first token": last(-19, -1), "delivered": last(-49, 0)}
    return {
        **{(f"Budget left, {name}", "stat"): {"": found} for name, found in overdrawn.items()},
        **{(f"Runs out, {name}", "stat"): {"": last(0)} for name in overdrawn},
        ("Budget left", "timeseries"): overdrawn,
        ("Burn rate, an hour", "timeseries"): burns,
        ("Burn rate, six hours", "timeseries"): burns,
        ("Good events", "timeseries"): dict.fromkeys(events, within(0, 1)),
        ("Events", "timeseries"): events,
    }


EXPECTED: dict[str, Callable[[Ledger, str, str, float], Panels]] = {
    catalog.DASHBOARD_SESSIONS: sessions,
    catalog.DASHBOARD_CONVERSATIONS: conversations,
    catalog.DASHBOARD_DATA_LAYER: data_layer,
    catalog.DASHBOARD_USAGE: usage,
    catalog.DASHBOARD_RUNTIME: runtime,
    catalog.DASHBOARD_OBJECTIVES: objectives,
}


@pytest.mark.parametrize(
    ("name", "panel"),
    [
        pytest.param(name, panel, id=f"{name}-{panel['title']}-{panel['type']}")
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
    ],
)
def test_a_panel_shows_what_happened(shown: Shown, name: str, panel: dict[str, Any]) -> None:
    title, kind = panel["title"], panel["type"]
    expected = EXPECTED[name](shown.done, *shown.instances, shown.seconds)[title, kind]
    drawn = shown.panels[name, title, kind]
    legends = [legend for legend, _ in drawn]
    assert len(set(legends)) == len(legends), "two series have one name"
    assert set(expected) - {ANY} <= set(legends), "a series is missing"
    assert drawn
    for legend, series in drawn:
        lowest = -math.inf if title.startswith("Budget left") else 0
        assert all(math.isfinite(value) and value >= lowest for value in series.values)
        if series.unit == "percentunit" and title != "Processor":
            assert max(series.values) <= 1
        for check in expected.get(legend, expected.get(ANY, NOTHING)):
            check.check(f"{title} / {legend}", series)


def test_every_query_returns_something(shown: Shown) -> None:
    assert shown.empty == []


def test_a_replica_with_everything_in_use_has_few_series(shown: Shown) -> None:
    assert max(shown.series) <= 1500, shown.series


def test_buckets_are_cumulative_and_those_of_the_catalogue(shown: Shown) -> None:
    heatmaps = [drawn for (_, _, kind), drawn in shown.panels.items() if kind == "heatmap"]
    assert heatmaps
    known = [[*metric.bounds, math.inf] for metric in catalog.METRICS if metric.kind == "histogram"]
    for drawn in heatmaps:
        ordered = sorted((float(legend), series.area) for legend, series in drawn)
        assert [bound for bound, _ in ordered] in known
        # Not at each moment: of a restart, `rate()` makes something else for each bucket.
        assert all(lower <= upper * 1.1 for (_, lower), (_, upper) in itertools.pairwise(ordered))


def test_everything_is_selected_by_the_variables(shown: Shown) -> None:
    of_all = {"job": ["chat"], "instance": sorted(shown.instances)}
    for name, chosen in shown.chosen.items():
        if name == catalog.DASHBOARD_SESSIONS:
            assert chosen == {**of_all, "target": [shown.done.target]}
        else:
            assert chosen == of_all


def test_each_start_of_a_process_is_marked_once(shown: Shown) -> None:
    first, second = shown.instances
    for starts in shown.starts.values():
        titles = sorted(title for title, _ in starts if title.endswith(" started"))
        assert titles == sorted([f"{first} started"] + 2 * [f"{second} started"])
        assert all(shown.end - 120 < at < shown.end for _, at in starts)


def test_a_deploy_is_marked_where_its_first_replica_started(shown: Shown) -> None:
    _, second = shown.instances
    for starts in shown.starts.values():
        deploys = {title: at for title, at in starts if title.endswith(" deployed")}
        assert set(deploys) == {"1.0 deployed", "2.0 deployed"}
        assert deploys["2.0 deployed"] == max(at for title, at in starts if second in title)


def test_slow_turns_and_operations_lead_to_their_traces(shown: Shown) -> None:
    assert set(shown.exemplars) == {
        "Duration of turns",
        "Duration of turns, spread",
        "Time to first token",
        "Time to first token, spread",
        "Duration of operations, p95",
        "Duration of operations, spread",
    }
    assert all(shown.exemplars.values())
