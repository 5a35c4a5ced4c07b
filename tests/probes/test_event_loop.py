"""The watchdog of the event loop, on loops without Chainlit."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from threading import Thread, enumerate
from typing import Any

import pytest

from chainlit_otel import catalog
from chainlit_otel.core.sessions import NS
from chainlit_otel.core.stalls import INTERVAL, THRESHOLD, Heartbeat, Stall
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.probes.event_loop import LoopMonitor
from tests.core.clocks import Clock
from tests.support.scrape import wait_until

SOON = THRESHOLD + 1

session: ContextVar[object] = ContextVar("session")


class Session:
    pass


def no_step(task: asyncio.Task[Any] | None) -> None:
    """Know of no step, as in an app without any."""


def do_nothing(stall: Stall, task: asyncio.Task[Any] | None) -> None:
    """Take a stall, as the probe of messages does."""


@pytest.fixture
def monitor() -> Iterator[LoopMonitor]:
    guard = Guard("event_loop")
    monitor = LoopMonitor(guard, Telemetry([], guard), lambda code: None, no_step, do_nothing)
    monitor.patches = Patches(None)
    yield monitor
    monitor.stop()
    wait_until(lambda: watchdogs() == [], 60, "the end of the watchdog")
    assert guard.errors == 0


def watchdogs() -> list[Thread]:
    return [thread for thread in enumerate() if thread.name == "chainlit-otel-watchdog"]


async def start(monitor: LoopMonitor) -> None:
    monitor.start()
    await asyncio.sleep(2.5 * INTERVAL)


def test_the_worst_of_the_beats_that_are_recorded_as_one_counts() -> None:
    clock, guard, histograms = Clock(), Guard("event_loop"), Histograms()
    monitor = LoopMonitor(
        guard, Telemetry([], guard, histograms), lambda code: None, no_step, do_nothing
    )
    monitor.heartbeat = Heartbeat(clock=lambda: clock.now)
    monitor.beat()
    for late in (0.4, 0.0, 0.0, 0.3):
        clock.advance(int((INTERVAL + late) * NS))
        monitor.beat()
    ((metric, labels, series),) = histograms.read()
    assert (metric, labels) == (catalog.EVENT_LOOP_LAG, ())
    assert sum(series.counts) == 2
    assert series.sum == pytest.approx(0.4 + 0.3)


def test_there_is_one_watchdog_however_often_it_is_started(monitor: LoopMonitor) -> None:
    async def sessions() -> None:
        for _ in range(10):
            monitor.start()
        await asyncio.to_thread(monitor.start)
        assert len(watchdogs()) == 1

    asyncio.run(sessions())


def test_without_a_running_loop_or_patches_nothing_is_watched(monitor: LoopMonitor) -> None:
    monitor.start()
    monitor.patches = None
    asyncio.run(start(monitor))
    assert watchdogs() == []


def test_a_loop_that_is_gone_is_not_kept_and_the_next_one_is_watched(monitor: LoopMonitor) -> None:
    first = asyncio.new_event_loop()
    first.run_until_complete(start(monitor))
    gone = weakref.ref(first)
    first.close()
    del first
    gc.collect()
    assert gone() is None
    wait_until(lambda: not watchdogs(), SOON, "the watchdog to end")

    async def second() -> None:
        await start(monitor)
        assert len(watchdogs()) == 1

    asyncio.run(second())


def test_the_session_that_was_current_at_the_start_is_not_kept(monitor: LoopMonitor) -> None:
    async def connect() -> None:
        session.set(Session())
        monitor.start()

    async def serve() -> None:
        await asyncio.create_task(connect())
        await asyncio.sleep(2.5 * INTERVAL)
        gc.collect()
        assert watchdogs()
        assert not [thing for thing in gc.get_objects() if type(thing) is Session]

    asyncio.run(serve())


def test_a_loop_that_rests_is_not_blocked(monitor: LoopMonitor) -> None:
    loop = asyncio.new_event_loop()
    loop.run_until_complete(start(monitor))
    time.sleep(THRESHOLD + 2 * INTERVAL)  # the very thing under test: nobody runs the loop
    loop.run_until_complete(asyncio.sleep(2.5 * INTERVAL))
    assert monitor.heartbeat.stalls == 0
    loop.close()


def test_after_a_stop_the_loop_beats_no_more(monitor: LoopMonitor) -> None:
    async def serve() -> None:
        await start(monitor)
        monitor.stop()
        await asyncio.sleep(2.5 * INTERVAL)
        assert monitor.heartbeat.beat() is None, "no beat came since"

    asyncio.run(serve())


# In a process of its own: to say where a stall is, Chainlit is asked, and its import writes files.
REPORTED = """
import asyncio, json, threading, time
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.probes.event_loop import LoopMonitor
from chainlit_otel.pipeline.instruments import Telemetry

import chainlit.config

reported = []

def on_stall(stall, task):
    thread = threading.current_thread().name
    reported.append([stall.callback, *stall.source, *stall.step, task.get_name(), thread])

guard = Guard("event_loop")
monitor = LoopMonitor(
    guard, Telemetry([], guard), lambda code: "on_message" if code is turn.__code__ else None,
    lambda task: ("tool", task.get_name()), on_stall,
)
monitor.patches = Patches(None)

async def turn():
    time.sleep(1.8)

async def serve():
    monitor.start()
    await asyncio.sleep(0.1)
    await asyncio.create_task(turn(), name="the turn")

asyncio.run(serve())
print(json.dumps([reported, guard.errors]))
"""


def test_a_stall_is_reported_with_its_task(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(REPORTED)
    done = subprocess.run(
        [sys.executable, "app.py"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    line = REPORTED.splitlines().index("    time.sleep(1.8)") + 1
    step = ["tool", "the turn"]
    reported = ["on_message", "app.py", line, "turn", *step, "the turn", "chainlit-otel-watchdog"]
    assert json.loads(done.stdout.splitlines()[-1]) == [[reported], 0]
    assert "blocked for more than 1 s by on_message in tool the turn at app.py" in done.stderr
