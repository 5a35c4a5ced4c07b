"""The CPU time of the server process for one turn, by what observes it.

Each round starts one server of each variant. They take turns in short slices, in an order that is
drawn anew each time, so that whatever else the machine does falls on all of them alike. The first
turns of a slice do not count, since the caches hold what the server before has left in them. What a
slice costs is read from the CPU clock of the server process, which has all its threads in it, those
that have ended too; and what a slice recorded is flushed and exported before that.

A full garbage collection takes as long as a dozen turns and comes once in hundreds: where it falls
would decide the outcome. So these are taken out, and their share is taken from the collections of
the middle generation, of which there are enough: after each ten of them CPython makes a full one,
or waits, if little has become old since the last. And the same code can be some per cent faster or
slower from process to process, by where it lies in memory; so the processes of a round get the same
layout, and those of the next round get another one.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

import httpx

from bench.sink import Sink
from chainlit_otel import catalog
from chainlit_otel.testing import Visitor
from tests.support.http import fetch
from tests.support.scrape import Scrape
from tests.support.server import ChainlitServer

APP = Path(__file__).with_name("app.py").read_text(encoding="utf-8")
ANSWER = "token " * 50
SCRAPES = 10

_RECORDS_DIR = "CHAINLIT_OTEL_RECORDS_DIR"
_STARTUP_TIMEOUT = 600.0  # in a simulated processor, on a busy machine
_TURN_TIMEOUT = 300.0  # likewise
_MIDDLE_PER_FULL = 11  # one more than `gc.get_threshold()[2]`
_ADDR_NO_RANDOMIZE = 0x0040000  # sys/personality.h
_libc = ctypes.CDLL(None)


class BenchError(Exception):
    """What was measured is not what was meant to be."""


@dataclass(frozen=True)
class Variant:
    """What observes the app.

    Attributes:
        title: What the tables call it.
        observer: What `app.py` has observe it: ``chainlit_otel``, ``sdk``, ``prometheus``,
            ``fastapi`` or nothing.
        exports: Whether spans are exported.
        settings: Environment variables.
    """

    title: str
    observer: str = ""
    exports: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_ours(self) -> bool:
        """Whether chainlit-otel observes it."""
        return self.observer == "chainlit_otel"

    @property
    def serves_metrics(self) -> bool:
        """Whether there is something to scrape."""
        return self.is_ours or self.observer == "prometheus"


VARIANTS = {
    "bare": Variant("Chainlit alone"),
    "metrics": Variant("chainlit-otel, metrics", "chainlit_otel"),
    "no-page": Variant(
        "chainlit-otel, metrics, no live page",
        "chainlit_otel",
        settings={"CHAINLIT_OTEL_LIVE_PAGE": "false"},
    ),
    "records": Variant(
        "chainlit-otel, metrics and records in files",
        "chainlit_otel",
        settings={_RECORDS_DIR: "records"},
    ),
    "traces": Variant("chainlit-otel, metrics and traces", "chainlit_otel", exports=True),
    "notable": Variant(
        "chainlit-otel, metrics and traces of notable turns",
        "chainlit_otel",
        exports=True,
        settings={"CHAINLIT_OTEL_TRACE_KEEP": "notable"},
    ),
    "spans": Variant("the SDK alone, as many spans", "sdk", exports=True),
    "numbers": Variant("prometheus-client alone, as many numbers", "prometheus"),
    "fastapi": Variant("FastAPIInstrumentor with its defaults", "fastapi", exports=True),
}


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: Rounds, each with server processes of its own.
        visitors: Visitors who talk at once.
        turns: Turns of each variant in a round.
        warmup: Turns before them that do not count.
        slice: Turns of one variant before it is the next one's turn.
        lead: Turns at the beginning of each slice that do not count.
    """

    rounds: int
    visitors: int
    turns: int
    warmup: int
    slice: int
    lead: int


class Collections(NamedTuple):
    """The garbage collections of a process so far.

    Attributes:
        middle: Those of the middle generation.
        full: Those of the last one, which are the full ones.
        seconds: CPU seconds of the full ones.
    """

    middle: int
    full: int
    seconds: float


@dataclass
class Run:
    """What was measured of one variant in one round.

    Attributes:
        slices: CPU seconds of a turn in each slice, without the full garbage collections.
        counted: Turns of all slices that count.
        turns: All turns of all slices.
        collections: Garbage collections of the middle generation in all slices.
        full: CPU seconds of a full garbage collection.
        spans: Spans that arrived, by name.
        scrape: CPU seconds of a scrape; 0 if nothing is served.
    """

    slices: list[float] = field(default_factory=list)
    counted: int = 0
    turns: int = 0
    collections: int = 0
    full: float = 0.0
    spans: Counter[str] = field(default_factory=Counter)
    scrape: float = 0.0

    @property
    def seconds(self) -> float:
        """CPU seconds of a turn."""
        return statistics.median(self.slices)

    @property
    def full_share(self) -> float:
        """CPU seconds that the full garbage collections add to a turn, at most."""
        return self.collections / (_MIDDLE_PER_FULL * self.counted) * self.full

    def more_than(self, other: Run) -> float:
        """Return the extra cost of a turn, as a part of what it costs in another run."""
        return self.seconds / other.seconds - 1


Round = dict[str, Run]


class Subject:
    """A server of one variant, and the visitors who talk to it.

    Args:
        name: Of the variant.
        visitors: How many.
        sink: Takes the spans.
        seed: Of the hashes of the server's strings.
        env: Added to the environment of the server.
        runner: What the server's interpreter is run by.
    """

    def __init__(
        self,
        name: str,
        visitors: int,
        sink: Sink,
        seed: int,
        env: Mapping[str, str] | None = None,
        runner: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.run = Run()
        self._variant = VARIANTS[name]
        self._sender = f"{name}-{seed}"
        settings = {
            "BENCH_OBSERVER": self._variant.observer,
            "PYTHONHASHSEED": str(seed),
            **self._variant.settings,
            **(env or {}),
        }
        if self._variant.exports:
            settings["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] = sink.endpoint(self._sender)
        self.server = ChainlitServer(
            {"app.py": APP}, env=settings, runner=runner, startup_timeout=_STARTUP_TIMEOUT
        )
        self._sink = sink
        self._visitors = [
            Visitor(self.server.url, transports=["websocket"], timeout=_TURN_TIMEOUT)
            for _ in range(visitors)
        ]
        self._talks = 0
        self._flushes = 0

    async def begin(self, warmup: int) -> None:
        """Warm the server up, once it has started."""
        for visitor in self._visitors:
            await visitor.connect()
        await self._talk(warmup)
        await self._flush()
        self._sink.take(self._sender)

    async def measure(self, turns: int, lead: int) -> None:
        """Take one slice, after so many turns that do not count."""
        await self.have(lead)
        before, gc_before = cpu_time(self.server.pid), self._collections()
        await self.have(turns)
        spent, gc = cpu_time(self.server.pid) - before, self._collections()
        self.run.slices.append((spent - (gc.seconds - gc_before.seconds)) / turns)
        self.run.counted += turns
        self.run.collections += gc.middle - gc_before.middle
        self.run.full = gc.seconds / max(1, gc.full)

    async def have(self, turns: int) -> None:
        """Have so many turns, and have exported what they recorded."""
        await self._talk(turns)
        await self._flush()
        self.run.turns += turns

    def time_scrapes(self) -> None:
        """Measure what a scrape takes, if anything is served."""
        if not self._variant.is_ours:
            return
        before = cpu_time(self.server.pid)
        for _ in range(SCRAPES):
            fetch(self.server.metrics_url).raise_for_status()
        self.run.scrape = (cpu_time(self.server.pid) - before) / SCRAPES

    async def end(self) -> None:
        """Make sure that the server was observed as its variant says, and by nothing else.

        Raises:
            BenchError: It was not.
        """
        self.run.spans = self._sink.take(self._sender)
        await asyncio.to_thread(self._check_spans)
        await asyncio.to_thread(self._check_metrics)
        for visitor in self._visitors:
            await visitor.leave(clear=True)

    async def _talk(self, turns: int) -> None:
        left = iter(range(turns))
        await asyncio.gather(*(self._chat(visitor, left) for visitor in self._visitors))
        self._talks += turns

    async def _chat(self, visitor: Visitor, left: Iterator[int]) -> None:
        for _ in left:
            said = (await visitor.say("What is it?")).texts
            if said != [ANSWER]:
                raise BenchError(f"{self.name}: the app said {said}")

    async def _flush(self) -> None:
        self._flushes += 1
        os.kill(self.server.pid, signal.SIGUSR1)
        deadline = time.monotonic() + _TURN_TIMEOUT
        while self.server.read("flushed").count("\n") < self._flushes:
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name}: no export\n{self.server.tail()}")
            await asyncio.sleep(0.002)

    def _collections(self) -> Collections:
        middle, full, seconds = self.server.read("flushed").splitlines()[-1].split()
        return Collections(int(middle), int(full), float(seconds))

    def _check_spans(self) -> None:
        names, turns, variant = self.run.spans, self.run.turns, self._variant
        if self.name == "notable":
            # One of twenty; the others are neither slow nor wrong. Of a few turns it may be none.
            if names["chainlit.turn"] > 5 + turns // 5:
                raise BenchError(f"{turns} turns, and of spans {dict(names)}")
            return
        if (names.total() > 0) != variant.exports:
            raise BenchError(f"{self.name}: {names.total()} spans arrived")
        if variant.is_ours and variant.exports and names["chainlit.turn"] != turns:
            raise BenchError(f"{turns} turns, and of spans {dict(names)}")
        if variant.observer == "sdk" and set(names.values()) != {turns}:
            raise BenchError(f"{turns} turns, and of spans {dict(names)}")
        # One span a frame is the point of this variant: without, it is not the default.
        if variant.observer == "fastapi" and names.total() < 50 * turns:
            raise BenchError(f"{turns} turns of 50 tokens, and of spans {dict(names)}")

    def _check_metrics(self) -> None:
        try:
            scrape = self.server.scrape()
        except httpx.ConnectError:
            if self._variant.serves_metrics:
                raise BenchError(f"{self.name}: no metrics\n{self.server.tail()}") from None
            return
        if not self._variant.serves_metrics:
            raise BenchError(f"{self.name}: there are metrics")
        self._check_scrape(scrape)

    def _check_scrape(self, scrape: Scrape) -> None:
        turns = scrape.sum("chainlit_turn_duration_seconds_count", chainlit_outcome="ok")
        chunks = scrape.value("chainlit_turn_output_chunks_total")
        if (turns, chunks) != (self._talks, 50 * self._talks):
            raise BenchError(f"{self._talks} turns, of which counted: {turns} and {chunks} chunks")
        if errors := scrape.sum("chainlit_otel_internal_errors_total"):
            raise BenchError(f"{self.name}: {errors:g} errors of ours\n{self.server.tail()}")
        written = scrape.sum(
            catalog.RECORDS_WRITTEN.prometheus_name, chainlit_otel_record_kind="turn"
        )
        if written != (self._talks if _RECORDS_DIR in self._variant.settings else 0):
            raise BenchError(f"{self._talks} turns, and {written:g} records of turns")


def cpu_time(pid: int) -> float:
    """Return the CPU seconds of a process, all its threads included.

    `/proc` knows the nanoseconds of the threads that are there, and of a whole process only ticks.

    Raises:
        OSError: There is no such process, or the system has no such clock.
    """
    clock = ctypes.c_int()
    if number := _libc.clock_getcpuclockid(pid, ctypes.byref(clock)):
        raise OSError(number, f"no CPU clock of process {pid}: {os.strerror(number)}")
    return time.clock_gettime(clock.value)


def measure(plan: Plan, sink: Sink, progress: Callable[[int, Round], None]) -> list[Round]:
    """Run the whole plan.

    Args:
        plan: How much.
        sink: Takes the spans.
        progress: Called with the number and the figures of each round that is over.

    Raises:
        BenchError: A variant was not observed as it says.
    """
    # What this process asks for holds for those that it starts. Some containers forbid it.
    _libc.personality(_ADDR_NO_RANDOMIZE)
    rounds: list[Round] = []
    for number in range(1, plan.rounds + 1):
        rounds.append(asyncio.run(_round(plan, sink, number)))
        progress(number, rounds[-1])
    return rounds


async def _round(plan: Plan, sink: Sink, number: int) -> Round:
    subjects = [Subject(name, plan.visitors, sink, seed=number) for name in VARIANTS]
    order = Random(number)
    try:
        await asyncio.gather(*(asyncio.to_thread(s.server.start) for s in subjects))
        for subject in subjects:
            await subject.begin(plan.warmup)
        left = plan.turns
        while left > 0:
            order.shuffle(subjects)
            for subject in subjects:
                await subject.measure(min(left, plan.slice), plan.lead)
            left -= plan.slice
        for subject in subjects:
            await subject.end()
            await asyncio.to_thread(subject.time_scrapes)
    finally:
        await asyncio.gather(*(asyncio.to_thread(s.server.close) for s in subjects))
    return {subject.name: subject.run for subject in subjects}
