"""What the figures of visitors are worth: the limit they find, their own lag, their clock.

Usage: python -m bench.visitors [--only …] [--trial N] [--visitors N] [--visits N] [--markdown]

- limit: `visit --find-limit` at apps whose capacity is known, since each turn holds one of so many
  slots for a fixed time; from below, from above, and from far above;
- crowd: many visitors at once at an app in another process, which is quick, or blocks its loop;
  and once the visitors get what three processes that never wait leave of a core;
- clock: each time that a visitor measures, beside what the app has measured, where nobody else is.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench import report
from bench.options import positive
from chainlit_otel import catalog
from chainlit_otel.testing import Visitor
from chainlit_otel.testing.results import percentile
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

SLOTS = """
import asyncio
import os

import chainlit as cl

slots = asyncio.Semaphore(int(os.environ["BENCH_SLOTS"]))


@cl.on_message
async def answer(message):
    async with slots:
        await asyncio.sleep(float(os.environ["BENCH_SECONDS"]))
    await cl.Message("done").send()
"""
ANSWER = """
import os
import time

import chainlit as cl
import chainlit_otel

chainlit_otel.enable()


@cl.on_message
async def answer(message):
    time.sleep(float(os.environ.get("BENCH_BLOCKED", 0)))
    await cl.Message("done").send()
"""
# What connecting takes by the app's clock: from the first request of the page to the last event of
# the greeting. The clock of Linux is the same in all processes; only differences are compared.
GREETED = """
import time

import chainlit as cl
import chainlit_otel
from chainlit.server import app, sio

chainlit_otel.enable()
asked = 0.0
emit = sio.emit


class Asked:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        global asked
        if scope.get("path") == "/set-session-cookie":
            asked = time.perf_counter()
        await self.app(scope, receive, send)


async def noted_emit(event, *args, **kwargs):
    if event == "clear_call_fn":
        with open("connects", "a") as file:
            print(time.perf_counter() - asked, file=file)
    await emit(event, *args, **kwargs)


app.add_middleware(Asked)
sio.emit = noted_emit


@cl.on_message
async def answer(message):
    reply = cl.Message("")
    for token in ("a ", "short ", "answer"):
        await reply.stream_token(token)
        await cl.sleep(0.02)
    await reply.send()
"""
COMMAND = str(Path(sys.executable).parent / "chainlit-otel")
THRESHOLD = "p95(turn) < 3s"
BUSY = 3
BLOCKED = 0.015  # seconds of each turn in which the loop of the app is blocked
PAUSE = (9, 11)  # seconds between two messages of one of many visitors
MESSAGES = 5
ARRIVALS = 25  # per second
_KEPT_WITHIN = 60.0
_PARTS = ("limit", "crowd", "clock")


class Slots(NamedTuple):
    """An app of a known capacity.

    Attributes:
        number: Turns that it works on at once.
        seconds: How long each takes.
        first: The rate that is tried first, by capacity.
    """

    number: int
    seconds: float
    first: float

    @property
    def capacity(self) -> float:
        """Turns per second."""
        return self.number / self.seconds


KNOWN = (Slots(5, 0.5, 0.3), Slots(4, 0.8, 1.5), Slots(10, 0.5, 4.0))


class Side(NamedTuple):
    """One time, as the visitor and the app have measured it."""

    visitor: float
    app: float


@contextmanager
def dialog(text: str) -> Iterator[Path]:
    """Write a dialog script to a file."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "dialog.yaml"
        file.write_text(text, encoding="utf-8")
        yield file


def limits(trial: float) -> report.Table:
    """Find the limit of apps whose capacity is known."""
    rows = []
    for slots in KNOWN:
        env = {"BENCH_SLOTS": str(slots.number), "BENCH_SECONDS": str(slots.seconds)}
        rate = slots.first * slots.capacity
        with (
            ChainlitServer({"app.py": SLOTS}, env=env) as server,
            dialog("timeout: 60s\ndialog: [{say: hello}]") as script,
        ):
            start = time.monotonic()
            said = _run(
                *("visit", server.url, "--script", str(script), "--find-limit", "--quiet"),
                *("--threshold", THRESHOLD, "--rate", str(rate), "--trial", f"{trial}s"),
            )
            took = time.monotonic() - start
        _say(said)
        *trials, last = said.splitlines()
        found = float(last.split()[1])
        rows.append(
            [
                f"{slots.number} slots of {slots.seconds:g} s",
                f"{slots.capacity:.2f}/s",
                f"{rate:.2f}/s",
                f"{found:.2f}/s",
                f"{found / slots.capacity - 1:+.1%}",
                str(len(trials)),
                f"{took:.0f} s",
            ]
        )
    heads = ("app", "capacity", "first tried", "found", "difference", "trials", "took")
    return heads, rows


def crowds(visitors: int) -> report.Table:
    """Send many visitors at once, and see how late they are themselves."""
    text = f"""
timeout: 60s
dialog:
  - repeat: {MESSAGES}
    do: [{{say: hello}}, {{wait: [{PAUSE[0]}s, {PAUSE[1]}s]}}]
"""
    rows = []
    for name, blocked, busy in (
        ("a quick app", 0.0, 0),
        (f"an app that blocks its loop for {BLOCKED * 1e3:g} ms a turn", BLOCKED, 0),
        (f"a quick app, {BUSY} busy processes before them on their core", 0.0, BUSY),
    ):
        with (
            ChainlitServer({"app.py": ANSWER}, env={"BENCH_BLOCKED": str(blocked)}) as server,
            dialog(text) as script,
            _busy(busy),
        ):
            results = script.with_name("results.json")
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            said = _run(
                *("visit", server.url, "--script", str(script), "--quiet"),
                *("--visitors", str(visitors), "--rate", str(ARRIVALS)),
                *("--metrics", server.metrics_url, "--json", str(results)),
                alone=not busy,
            )
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            written = json.loads(results.read_text(encoding="utf-8"))
        _say(said)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        lag, turn = written["visitor_lag"], written["timings"]["turn"]
        differences = {row["figure"]: row["difference"] for row in written["ledgers"]}
        rows.append(
            [
                name,
                str(written["counts"]["peak"]),
                str(written["counts"]["failed"]),
                f"{turn['p50'] * 1e3:.0f} ms",
                f"{-differences['mean turn'] * 1e3:+.1f} ms",
                f"{lag['p50'] * 1e3:.1f} ms",
                f"{lag['p99'] * 1e3:.1f} ms",
                f"{cpu / written['seconds']:.0%}",
                "yes" if "visitors themselves were late" in said else "no",
            ]
        )
    heads = (
        *("visitors at", "at once", "failed", "median turn", "mean turn beside the app's"),
        *("lag, median", "lag, p99", "CPU of a core", "warned"),
    )
    return heads, rows


async def clocks(visits: int) -> dict[str, list[Side]]:
    """Return each time by both clocks, of visitors who come one after another."""
    env = {"CHAINLIT_OTEL_RECORDS_DIR": "records"}
    mine: dict[str, list[float]] = {"connect": [], "first token": [], "turn": []}
    with ChainlitServer({"app.py": GREETED}, env=env) as server:
        for _ in range(visits):
            visitor = Visitor(server.url)
            start = time.perf_counter()
            await visitor.connect()
            mine["connect"].append(time.perf_counter() - start)
            answer = await visitor.say("hello")
            assert answer.time_to_first_token is not None
            assert answer.duration is not None
            mine["first token"].append(answer.time_to_first_token)
            mine["turn"].append(answer.duration)
            await visitor.leave(clear=True)

        def turns() -> list[dict[str, Any]]:
            files = sorted((server.directory / "records").glob("*.jsonl"))
            rows = [json.loads(line) for file in files for line in file.open(encoding="utf-8")]
            return [row for row in rows if row["kind"] == catalog.TURN_RECORD.name]

        wait_until(lambda: len(turns()) == visits, _KEPT_WITHIN, "the records of all turns")
        kept = turns()
        connects = [float(line) for line in server.read("connects").split()]
    app = {
        "connect": connects,
        "first token": [row[_field(catalog.FIRST_TOKEN_SECONDS)] for row in kept],
        "turn": [row[_field(catalog.TURN_SECONDS)] for row in kept],
    }
    return {
        phase: [Side(*both) for both in zip(times, app[phase], strict=True)]
        for phase, times in mine.items()
    }


def clocks_table(sides: dict[str, list[Side]]) -> report.Table:
    """Return by how much the visitors' times differ from the app's."""
    rows = []
    for phase, both in sides.items():
        more = sorted(side.visitor - side.app for side in both)
        figures = (
            statistics.median(side.app for side in both),
            statistics.median(more),
            percentile(more, 0.99) or 0.0,
            more[-1],
        )
        within = sum(abs(each) <= 0.005 for each in more) / len(more)
        rows.append([phase, *(f"{each * 1e3:.2f} ms" for each in figures), f"{within:.1%}"])
    heads = ("time", "by the app", "longer by visitors", "p99", "most", "within 5 ms")
    return heads, rows


def _field(key: str) -> str:
    return key.replace(".", "_")


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """Have processes on the first core that never wait."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command, preexec_fn=_take_first_core) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGKILL)
            process.wait()


def _take_first_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _stand_back_on_first_core() -> None:
    _take_first_core()
    # A thirtieth of the core beside three others. Of equals, Linux would let visitors go first,
    # who sleep most of the time.
    os.nice(10)


def _run(*arguments: str, alone: bool = True) -> str:
    place: Callable[[], None] | None = None if alone else _stand_back_on_first_core
    done = subprocess.run(
        [COMMAND, *arguments], stdout=subprocess.PIPE, text=True, check=False, preexec_fn=place
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}")
    return done.stdout.rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables and return the exit code."""
    options = _parser().parse_args(arguments)
    load = os.getloadavg()[0]
    _say(f"load {load:.1f} on {os.cpu_count()} cores: what else runs blurs the figures")
    measured: list[report.Table] = []
    try:
        if "clock" in options.only:
            measured.append(clocks_table(asyncio.run(clocks(options.visits))))
        if "crowd" in options.only:
            measured.append(crowds(options.visitors))
        if "limit" in options.only:
            measured.append(limits(options.trial))
    except (OSError, RuntimeError, TimeoutError) as error:
        _say(f"error: {error}")
        return 1
    show = report.markdown if options.markdown else report.text
    print(*map(show, measured), report.machine(), sep="\n\n")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.visitors", description=description)
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=_PARTS, help="what (all)")
    parser.add_argument("--trial", type=positive, default=30, help="seconds of a trial (30)")
    parser.add_argument("--visitors", type=positive, default=500, help="how many at once (500)")
    parser.add_argument("--visits", type=positive, default=200, help="by both clocks (200)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
