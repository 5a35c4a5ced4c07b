"""A blocked event loop is seen while it is blocked, with the line that blocks it."""

from __future__ import annotations

import asyncio
import os
import random
import re
import signal
import time
from collections.abc import Iterator

import pytest

from chainlit_otel.core.stalls import INTERVAL, THRESHOLD
from chainlit_otel.probes.event_loop import SAMPLED
from chainlit_otel.testing import Visitor
from tests.support.http import fetch
from tests.support.otlp import Happening, Receiver
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

BLOCKED = 2.5

APP = """
import asyncio
import pathlib
import subprocess
import sys
import threading
import time
import weakref

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl

pathlib.Path("blocked").unlink(missing_ok=True)


class Thing:
    pass


things = []


def slow_call(seconds):
    thing = Thing()
    things.append(weakref.ref(thing))
    pathlib.Path("blocked").touch()
    time.sleep(seconds)  # in slow_call
    pathlib.Path("blocked").unlink()


def busy(seconds):
    end = time.monotonic() + seconds
    pathlib.Path("blocked").touch()
    while time.monotonic() < end:  # in busy
        pass
    pathlib.Path("blocked").unlink()


def hog(seconds):
    began = time.monotonic()
    sum(range(5_000_000))
    numbers = int(5_000_000 * seconds / (time.monotonic() - began))
    sum(range(numbers))  # in hog
    end = time.monotonic() + 0.2
    while time.monotonic() < end:  # Which of the threads that wait comes first is not certain.
        pass


@cl.step(type="tool")
def look_up(seconds):
    pathlib.Path("blocked").touch()
    subprocess.run([sys.executable, "-c", f"import time; time.sleep({seconds})"])  # in look_up
    pathlib.Path("blocked").unlink()


async def background(seconds):
    slow_call(seconds)


@cl.on_app_startup
def load():
    if pathlib.Path("slow_start").exists():
        slow_call(SECONDS)
        pathlib.Path("slow_start").unlink()


@cl.on_chat_start
async def greet():
    if pathlib.Path("slow_greeting").exists():
        slow_call(SECONDS)


@cl.on_chat_end
def part():
    if pathlib.Path("slow_parting").exists():
        slow_call(SECONDS)


@cl.on_message
async def answer(message):
    said = "done"
    if message.content == "in_a_task":
        await asyncio.create_task(background(SECONDS))
    elif message.content == "by itself":
        time.sleep(SECONDS)  # in answer
    elif message.content.startswith("for "):
        # Whenever it begins: what is certain must not depend on that.
        time.sleep(float(message.content.removeprefix("for ")))
    elif message.content == "threads":
        said = " ".join(thread.name for thread in threading.enumerate())
    elif message.content == "off and on":
        chainlit_otel.disable()
        said = " ".join(thread.name for thread in threading.enumerate())
        chainlit_otel.enable()
    elif message.content == "held":
        said = str(sum(thing() is not None for thing in things))
    elif message.content in ("slow_call", "busy", "hog", "look_up"):
        globals()[message.content](SECONDS)
    await cl.Message(said).send()
""".replace("SECONDS", str(BLOCKED))

MAIN = """
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

app = FastAPI()
mount_chainlit(app=app, target="app.py", path="/chat")
"""


def line_of(function: str) -> str:
    """Where the app blocks, as the log should say it."""
    number = next(n for n, line in enumerate(APP.splitlines(), 1) if f"# in {function}" in line)
    return f"app.py:{number} in {function}"


def mounted(*args: str) -> ChainlitServer:
    command = ["uvicorn", "main:app", "--port", "{port}", *args]
    return ChainlitServer({"app.py": APP, "main.py": MAIN}, command=command, path="/chat")


@pytest.fixture(scope="module", params=["run", "mount"])
def server(request: pytest.FixtureRequest) -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP}) if request.param == "run" else mounted() as server:
        yield server


class Watched:
    """What the server says of its loop, since this was made."""

    def __init__(self, server: ChainlitServer) -> None:
        self.server = server
        self._before = self._figures()
        self._lines = len(self._log())

    def _figures(self) -> tuple[float, float, float, float]:
        scrape = self.server.scrape()
        return (
            scrape.value("chainlit_event_loop_blocked_total"),
            scrape.sum("chainlit_event_loop_lag_seconds_sum"),
            scrape.sum("chainlit_event_loop_lag_seconds_count"),
            scrape.value("chainlit_event_loop_blocked_time_seconds_total"),
        )

    def _log(self) -> list[str]:
        return [line for line in self.server.log.splitlines() if "the event loop" in line]

    @property
    def stalls(self) -> float:
        return self._figures()[0] - self._before[0]

    @property
    def lag(self) -> float:
        return self._figures()[1] - self._before[1]

    @property
    def beats(self) -> float:
        return self._figures()[2] - self._before[2]

    @property
    def blocked(self) -> float:
        return self._figures()[3] - self._before[3]

    @property
    def lines(self) -> list[str]:
        return self._log()[self._lines :]

    def is_over(self) -> None:
        """Wait until a stall is in the histogram, too."""
        wait_until(lambda: self.lag > THRESHOLD, 60, "the beat after the stall")


def says(line: str, text: str) -> bool:
    # On a busy machine the watchdog may look late even where the line is certain.
    line = line.replace(" at or just before ", " at ")
    return line.endswith(f"the event loop is blocked for more than 1 s {text}; all users wait")


async def visitor_of(server: ChainlitServer) -> Visitor:
    visitor = Visitor(server.url)
    await visitor.connect()
    await visitor.say("hello")
    return visitor


def requests_while_blocked(server: ChainlitServer) -> list[float]:
    """Ask the admin server again and again during a stall; return how long each took."""
    flag = server.directory / "blocked"
    wait_until(flag.exists, 60, "the app to block")
    durations = []
    while flag.exists():
        for url in (server.metrics_url, server.metrics_url.replace("/metrics", "/healthz")):
            began = time.monotonic()
            assert fetch(url).status_code == 200
            durations.append(time.monotonic() - began)
        time.sleep(0.1)
    return durations


@pytest.mark.parametrize("function", ["slow_call", "busy"])
async def test_a_stall_is_seen_while_it_lasts(server: ChainlitServer, function: str) -> None:
    visitor = await visitor_of(server)
    watched = Watched(server)
    await visitor.send(function)
    asking = asyncio.to_thread(requests_while_blocked, server)

    def seen() -> bool:
        return watched.stalls == 1 and (server.directory / "blocked").exists()

    durations, _ = await asyncio.gather(
        asking, asyncio.to_thread(wait_until, seen, BLOCKED, "the count during the stall")
    )
    print(f"{len(durations)} answers while blocked, the slowest {max(durations):.3f} s")
    assert len(durations) >= 4
    assert max(durations) < 1
    watched.is_over()
    assert BLOCKED - INTERVAL - 0.05 < watched.lag < BLOCKED + 1
    assert watched.stalls == 1
    (line,) = watched.lines
    assert says(line, f"by on_message at {line_of(function)}")
    assert str(server.directory) not in line
    await visitor.leave()


async def test_a_stall_says_how_long_in_which_step_and_inside_what(receiver: Receiver) -> None:
    with ChainlitServer({"app.py": APP}, env=receiver.env) as server:
        visitor = await visitor_of(server)
        watched = Watched(server)
        assert watched.blocked == 0
        await visitor.send("look_up")
        flag = server.directory / "blocked"
        await asyncio.to_thread(wait_until, lambda: watched.blocked > THRESHOLD, 60, "the seconds")
        await asyncio.to_thread(wait_until, lambda: not flag.exists(), 60, "the end of the stall")
        await asyncio.to_thread(watched.is_over)
        # Ended, it is as long as the lag of its beat; other beats may be late as well.
        assert BLOCKED - INTERVAL - 0.05 < watched.blocked <= watched.lag
        assert watched.stalls == 1
        (line,) = watched.lines
        where = line.replace(" at or just before ", " at ").partition("by on_message ")[2]
        inside = r"subprocess\.py:\d+ in \w+"
        assert re.fullmatch(
            rf"in tool look_up at {re.escape(line_of('look_up'))}, inside {inside}; all users wait",
            where,
        )

        def events() -> list[Happening]:
            turns = [span for span in receiver.spans if span.name == "chainlit.turn"]
            every = (event for turn in turns for event in turn.events)
            return [e for e in every if e.name == "chainlit.event_loop.blocked"]

        await asyncio.to_thread(receiver.wait_for, events, "the event", 60)
        (event,) = events()
        inner = event.attributes.pop("chainlit.code.innermost")
        assert re.fullmatch(inside, inner)
        file, _, rest = line_of("look_up").partition(":")
        number, _, function = rest.partition(" in ")
        assert event.attributes == {
            "chainlit.callback.name": "on_message",
            "chainlit.step.type": "tool",
            "chainlit.step.name": "look_up",
            "code.file.path": file,
            "code.line.number": number,
            "code.function.name": function,
        }
        await visitor.leave()


async def test_each_stall_has_its_line_and_nothing_of_the_app_is_held(
    server: ChainlitServer,
) -> None:
    visitor = await visitor_of(server)
    watched = Watched(server)
    await visitor.say("slow_call")
    await visitor.say("by itself")
    assert watched.stalls == len(watched.lines) == 2
    for line, function in zip(watched.lines, ("slow_call", "answer"), strict=True):
        assert says(line, f"by on_message at {line_of(function)}")
    assert (await visitor.say("held")).texts == ["0"]
    await visitor.leave()


async def test_a_call_that_lets_no_thread_run_is_named_when_it_returns(
    server: ChainlitServer,
) -> None:
    visitor = await visitor_of(server)
    watched = Watched(server)
    await visitor.say("hog")
    watched.is_over()
    assert watched.stalls == len(watched.lines) == 1
    print(watched.lines)
    assert re.search(
        r"blocked for more than 1 s by on_message at or just before app\.py:\d+ in hog;",
        watched.lines[0],
    )
    await visitor.leave()


async def test_a_stall_is_told_from_what_is_just_too_short_for_one(server: ChainlitServer) -> None:
    visitor = await visitor_of(server)
    watched = Watched(server)
    for seconds in (0.95, 1.12) * 4:
        await asyncio.sleep(random.uniform(0, 2 * INTERVAL))
        before = watched.stalls
        await visitor.say(f"for {seconds}")
        assert watched.stalls - before == (seconds > THRESHOLD)
    await visitor.leave()


async def test_a_task_of_the_app_has_a_line_and_no_callback(server: ChainlitServer) -> None:
    visitor = await visitor_of(server)
    watched = Watched(server)
    await visitor.say("in_a_task")
    assert [says(line, f"at {line_of('slow_call')}") for line in watched.lines] == [True]
    await visitor.leave()


async def test_callbacks_that_block_before_and_after_the_messages(server: ChainlitServer) -> None:
    watched = Watched(server)
    (server.directory / "slow_greeting").touch()
    visitor = await visitor_of(server)
    (server.directory / "slow_greeting").unlink()
    assert [says(s, f"by on_chat_start at {line_of('slow_call')}") for s in watched.lines] == [True]

    (server.directory / "slow_parting").touch()
    watched = Watched(server)
    await visitor.leave()
    await asyncio.to_thread(wait_until, lambda: watched.stalls == 1, 60, "the stall to be counted")
    watched.is_over()
    (server.directory / "slow_parting").unlink()
    assert [says(s, f"by on_chat_end at {line_of('slow_call')}") for s in watched.lines] == [True]


async def test_a_loop_that_runs_is_never_reported_as_blocked(server: ChainlitServer) -> None:
    watched = Watched(server)
    began = time.monotonic()
    visitors = await asyncio.gather(*(visitor_of(server) for _ in range(5)))
    while time.monotonic() - began < 2.5:
        await asyncio.gather(*(visitor.say("hello") for visitor in visitors))
    await asyncio.gather(*(visitor.leave() for visitor in visitors))
    expected = (time.monotonic() - began) / (INTERVAL * SAMPLED)
    assert expected * 0.5 <= watched.beats <= expected + 2
    assert (watched.stalls, watched.lines) == (0, [])
    assert watched.lag < THRESHOLD


async def test_off_there_is_no_watchdog_and_on_again_one(server: ChainlitServer) -> None:
    visitor = await visitor_of(server)
    watched = Watched(server)
    for _ in range(2):
        (names,) = (await visitor.say("off and on")).texts
        # The thread that has rendered a page for `watched` may be in its pause still.
        ours = {name for name in names.split() if name.startswith("chainlit-otel")}
        assert ours <= {"chainlit-otel-pages"}
        (names,) = (await visitor.say("threads")).texts
        assert names.count("chainlit-otel-watchdog") == 1
    began, before = time.monotonic(), watched.beats
    await asyncio.sleep(2)
    beats, seconds = watched.beats - before, time.monotonic() - began
    # Of two watchdogs there would be twice as many.
    assert 2 <= beats <= seconds / (INTERVAL * SAMPLED) + 2
    await visitor.say("slow_call")
    assert watched.stalls == len(watched.lines) == 1
    await visitor.leave()


async def test_a_process_that_was_stopped_has_one_stall(server: ChainlitServer) -> None:
    watched = Watched(server)
    os.kill(server.pid, signal.SIGSTOP)
    await asyncio.sleep(BLOCKED)
    os.kill(server.pid, signal.SIGCONT)
    await asyncio.to_thread(wait_until, lambda: watched.stalls == 1, 60, "the stall to be counted")
    watched.is_over()
    assert len(watched.lines) == 1
    print(watched.lines)


def test_what_blocks_before_anybody_is_served_is_no_stall() -> None:
    with ChainlitServer({"app.py": APP, "slow_start": ""}) as server:
        assert not (server.directory / "slow_start").exists()
        lags = "chainlit_event_loop_lag_seconds_count"
        wait_until(lambda: server.scrape().sum(lags) > 0, 60, "the first beats")
        assert server.scrape().value("chainlit_event_loop_blocked_total") == 0
        assert "the event loop" not in server.log


async def test_a_host_without_lifespan_is_watched_from_the_first_session_on() -> None:
    with mounted("--lifespan", "off") as server:
        visitor = await visitor_of(server)
        watched = Watched(server)
        await visitor.say("slow_call")
        assert watched.stalls == len(watched.lines) == 1
        assert says(watched.lines[0], f"by on_message at {line_of('slow_call')}")
        await visitor.leave()
