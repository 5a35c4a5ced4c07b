"""Thousands of sessions in one process, with us and without; then a hundred thousand come and go.

Usage: python -m bench.soak [--levels N ...] [--seconds N] [--churn N] [--minutes N] [--markdown]

At each level so many sessions are connected by real websockets. For some time a hundred of them
talk, one message every two seconds each, and the others are idle. The app says how much memory the
process has and how late its event loop is; `/metrics` is fetched once a second, and has to know
exactly how many sessions there are. Afterwards sessions come, say something and leave, as many each
minute, to both servers at once; each has to be in the ledger, and chainlit-otel may have kept
nothing of any.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import aiohttp

from bench import report
from bench.options import positive
from bench.sockets import Session, connect, pages
from tests.support.http import fetch
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer

APP = """
import asyncio, gc, json, os, signal, sys, threading, time

import chainlit as cl

if os.environ["BENCH_VARIANT"] == "observed":
    import chainlit_otel

    chainlit_otel.enable()

late = []


async def measure_lag():
    while True:
        due = time.perf_counter() + 0.01
        await asyncio.sleep(0.01)
        late.append(time.perf_counter() - due)


def say():
    late.sort()
    lag = [late[int(share * (len(late) - 1))] for share in (0.5, 0.99, 1.0)] if late else None
    for _ in range(3):
        gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    known = {
        "resident": resident,
        "objects": len(gc.get_objects()),
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),
        "lag": lag,
    }
    # What these collections held up is nobody's doing.
    asyncio.get_running_loop().call_later(0.1, late.clear)
    with open("known", "a") as file:
        file.write(json.dumps(known) + chr(10))


@cl.on_app_startup
async def started():
    global task
    task = asyncio.create_task(measure_lag())
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, say)


@cl.on_message
async def answer(message):
    reply = cl.Message("")
    for _ in range(20):
        await reply.stream_token("token ")
    await reply.update()
"""

_TALKING = 100
_AT_ONCE = 20
_MARKS = 20
_WARM = 200
_PAUSE = 2.0  # seconds between two messages of one who talks
_TIMEOUT = 300.0
_FEW_OBJECTS = 5000  # that one server may hold and the other not at the moment of a mark


class Known(NamedTuple):
    """What the process says of itself.

    Attributes:
        resident: Bytes of memory.
        objects: That the garbage collector knows.
        threads: How many.
        files: Open file descriptors.
        lag: Seconds that a timer of 10 ms was late: the median, the 99th percentile and the most
            since the last time; None if none ran out.
    """

    resident: int
    objects: int
    threads: int
    files: int
    lag: tuple[float, float, float] | None


@dataclass(frozen=True)
class Level:
    """What was measured with so many sessions.

    Attributes:
        sessions: How many were there.
        known: What the process said.
        scrapes: Seconds that each fetch of it took.
        size: Bytes of the page.
    """

    sessions: int
    known: Known
    scrapes: Sequence[float]
    size: int


class Mark(NamedTuple):
    """What there is when so many sessions have come and gone.

    Attributes:
        gone: How many.
        known: What the process said.
        series: Of `/metrics`; None where nothing is served.
    """

    gone: int
    known: Known
    series: int | None


class Soak(NamedTuple):
    """All that was measured of one server.

    Attributes:
        empty: What the process said before.
        levels: With so many sessions at once.
        marks: While they came and went.
    """

    empty: Known
    levels: list[Level]
    marks: list[Mark]


class Subject:
    """A server that is soaked.

    Args:
        variant: ``bare`` or ``observed``.
    """

    def __init__(self, variant: str) -> None:
        env = {"BENCH_VARIANT": variant, "PYTHONHASHSEED": "0"}
        self.server = ChainlitServer({"app.py": APP}, env=env)
        self.variant = variant
        self._is_observed = variant == "observed"

    async def ask(self) -> Known:
        """Have the process say what it holds."""
        before = self.server.read("known").count("\n")
        os.kill(self.server.pid, signal.SIGUSR1)
        deadline = time.monotonic() + _TIMEOUT
        while self.server.read("known").count("\n") == before:
            if time.monotonic() > deadline:
                raise SystemExit(f"no answer\n{self.server.tail()}")
            await asyncio.sleep(0.05)
        known = json.loads(self.server.read("known").splitlines()[-1])
        return Known(**{**known, "lag": known["lag"] and tuple(known["lag"])})

    async def soak(
        self, client: aiohttp.ClientSession, levels: Sequence[int], seconds: int
    ) -> list[Level]:
        """Have more and more sessions there, and measure at each level."""
        sessions: list[Session] = []
        found = []
        for level in levels:
            sessions += await connect(client, self.server.url, level - len(sessions))
            await self.ask()
            over = time.monotonic() + seconds
            talking = [asyncio.create_task(_talk(each, over)) for each in sessions[:_TALKING]]
            scrapes, size = [], 0
            while time.monotonic() < over:
                await asyncio.sleep(1)
                if self._is_observed:
                    began = time.perf_counter()
                    page = await asyncio.to_thread(fetch, self.server.metrics_url)
                    scrapes.append(time.perf_counter() - began)
                    size = len(page.content)
            await asyncio.gather(*talking)
            known = await self.ask()
            scrape = await asyncio.to_thread(self._scrape)
            if scrape and scrape.sum("chainlit_session_active") != level:
                raise SystemExit(f"{level:,} sessions, and {scrape.sum('chainlit_session_active')}")
            found.append(Level(level, known, scrapes, size))
            _say(f"{found[-1]}")
        for session in sessions:
            await session.leave()
        return found

    async def churn(
        self, client: aiohttp.ClientSession, number: int, seconds: float = 0
    ) -> list[Mark]:
        """Have so many sessions come, say something and leave; measure now and then.

        Args:
            client: Opens the websockets.
            number: How many.
            seconds: In what time they come, one after the other at even distances; as fast as some
                at once can where it is 0.
        """
        found: list[Mark] = []
        places = asyncio.Semaphore(_AT_ONCE)
        began = time.monotonic()

        async def come_and_go() -> None:
            try:
                session = Session(client, self.server.url)
                await session.connect()
                await session.say("hello")
                await session.leave()
            finally:
                places.release()

        gone = 0
        for end in (number * part // _MARKS for part in range(1, _MARKS + 1)):
            visits = []
            for visit in range(gone, end):
                await asyncio.sleep(began + seconds * visit / number - time.monotonic())
                await places.acquire()
                visits.append(asyncio.create_task(come_and_go()))
            await asyncio.gather(*visits)
            gone = end
            scrape = await asyncio.to_thread(self._scrape)
            found.append(Mark(gone, await self.ask(), len(scrape.series) if scrape else None))
            _say(f"{self.variant}: {found[-1]}")
        return found

    async def check_ledger(self, sessions: int) -> None:
        """Make sure that each session is in the ledger, and over.

        Raises:
            SystemExit: One is not.
        """
        if not self._is_observed:
            return

        def over() -> bool:
            scrape = self.server.scrape()
            starts, ends, active = (
                scrape.sum(f"chainlit_session_{name}")
                for name in ("starts_total", "ends_total", "active")
            )
            return (starts, ends, active) == (sessions, sessions, 0)

        try:
            await asyncio.to_thread(wait_until, over, 60, f"{sessions:,} sessions to be over")
        except TimeoutError as error:
            raise SystemExit(str(error)) from None

    def _scrape(self) -> Scrape | None:
        return self.server.scrape() if self._is_observed else None


async def _talk(session: Session, over: float) -> None:
    while time.monotonic() < over:
        await session.say("hello")
        await asyncio.sleep(_PAUSE)


async def _soak(levels: Sequence[int], seconds: int, churn: int, minutes: int) -> tuple[Soak, Soak]:
    """Soak a server without chainlit-otel and one with it, and return what was measured of both."""
    subjects = [Subject(each) for each in ("bare", "observed")]
    empty, found = [], []
    try:
        async with pages() as client:
            for each in subjects:
                await asyncio.to_thread(each.server.start)
                # What is made once is not what each of them takes.
                await each.churn(client, _WARM)
                empty.append(await each.ask())
                found.append(await each.soak(client, levels, seconds))
                await each.check_ledger(_WARM + levels[-1])
            marks = await asyncio.gather(
                *(each.churn(client, churn, minutes * 60) for each in subjects)
            )
            for each in subjects:
                await each.check_ledger(_WARM + levels[-1] + churn)
        bare, observed = map(Soak, empty, found, marks)
        return bare, observed
    finally:
        for each in subjects:
            await asyncio.to_thread(each.server.close)


def growth(bare: Sequence[Mark], observed: Sequence[Mark]) -> list[str]:
    """Return what the server with chainlit-otel has more of at the end than when it was warm.

    What the other one has more, too, is not ours: Chainlit keeps a few objects of each session.
    """
    # Caches and what is kept for the live page have filled by the second mark.
    first, last = observed[1], observed[-1]
    alone = bare[-1].known.objects - bare[1].known.objects
    grown = {
        "objects": (last.known.objects - first.known.objects - alone, _FEW_OBJECTS),
        "threads": (last.known.threads - first.known.threads, 0),
        # One may be on its way at that moment.
        "files": (last.known.files - first.known.files, 1),
        "series": ((last.series or 0) - (first.series or 0), 0),
    }
    return [f"{more:,} more {name}" for name, (more, few) in grown.items() if more > few]


def levels_table(bare: Soak, observed: Soak) -> report.Table:
    """Return what so many sessions take."""
    heads = (
        "sessions at once",
        "memory of ours, each",
        "scrape",
        "page",
        "loop late, median",
        "99 %",
        "most",
    )
    rows = []
    for without, ours in zip(bare.levels, observed.levels, strict=True):
        taken = ours.known.resident - observed.empty.resident
        alone = without.known.resident - bare.empty.resident
        late = [
            f"{before * 1e3:.1f} and {now * 1e3:.1f} ms"
            for before, now in zip(without.known.lag or (), ours.known.lag or (), strict=True)
        ]
        rows.append(
            (
                f"{ours.sessions:,}",
                f"{(taken - alone) / ours.sessions / 1024:.2f} KiB",
                f"{statistics.median(ours.scrapes) * 1e3:.0f} ms",
                f"{ours.size / 1024:.0f} KiB",
                *late,
            )
        )
    return heads, rows


def marks_table(bare: Soak, observed: Soak) -> report.Table:
    """Return what is left of sessions that have come and gone."""
    heads = ("sessions gone", "memory", "objects", "threads", "files", "series")
    rows = []
    for without, ours in zip(bare.marks, observed.marks, strict=True):
        pairs = [
            (f"{without.known.resident / 2**20:.0f}", f"{ours.known.resident / 2**20:.0f} MiB"),
            (f"{without.known.objects:,}", f"{ours.known.objects:,}"),
            (f"{without.known.threads}", f"{ours.known.threads}"),
            (f"{without.known.files}", f"{ours.known.files}"),
        ]
        both = [f"{alone} and {with_us}" for alone, with_us in pairs]
        rows.append((f"{ours.gone:,}", *both, f"{ours.series:,}"))
    return heads, rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--levels", type=positive, nargs="+", default=[1000, 2000, 3500, 5000])
    parser.add_argument("--seconds", type=positive, default=20, help="at each level (20)")
    parser.add_argument("--churn", type=positive, default=100_000, help="come and go (100000)")
    parser.add_argument("--minutes", type=positive, default=60, help="in this time (60)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    arguments = parser.parse_args()
    # A socket has a file at either end.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    bare, observed = asyncio.run(
        _soak(sorted(arguments.levels), arguments.seconds, arguments.churn, arguments.minutes)
    )
    show = report.markdown if arguments.markdown else report.text
    tables = levels_table(bare, observed), marks_table(bare, observed)
    print(*map(show, tables), report.machine(), sep="\n\n")
    if grown := growth(bare.marks, observed.marks):
        raise SystemExit(f"chainlit-otel has grown: {', '.join(grown)}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
