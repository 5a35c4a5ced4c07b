"""Counts the instructions that a server executes for one turn, by what observes it.

Usage: python -m bench.instructions [--layouts N] [--turns N] [--variants NAME ...]
    [--cache] [--markdown]

CPU time depends on what else the machine does, and the same work takes some per cent more or less
by where it lies in memory; instructions depend on neither. So each server process, a real one with
a real visitor at a websocket, runs in valgrind's callgrind, which counts them. It is not counted
while it starts and warms up. Then the visitor has his turns, what they have recorded is flushed and
exported as by a scrape and an exporter, and the count is divided by the turns.

What comes by the clock is no part of a turn, and would come fifty times as often in one here as on
a bare processor. So the timers of the app run a thousand times later: the ticks of uvicorn, the
pings, the beats and polls of chainlit-otel. Spans and records go out once, after the last turn.
Garbage is collected then, too: a collection that is due once in thirty turns would fall into one
run and not into the next. What is old already is not looked through.

With `--cache` the processor has caches, too, and what misses the second level is counted: the clock
shows more than the instructions, most likely since a turn of Chainlit fills such a cache, and what
runs once a turn finds nothing of its own in it.

What is left is the order of things in hash tables: each variant is counted in several layouts,
with hash seeds and an environment of their own, and compared with Chainlit alone in the same one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from bench import report
from bench.options import positive
from bench.sink import Sink
from bench.turns import VARIANTS, BenchError, Subject

CALLGRIND = ["valgrind", "--tool=callgrind", "--instr-atstart=no", "--callgrind-out-file=counts"]

_CACHE_KIB = 1024
CACHE = ["--cache-sim=yes", f"--LL={_CACHE_KIB * 1024},8,64"]  # bytes, ways, bytes of a line
_MISSES = ("ILmr", "DLmr", "DLmw")

_ENVIRONMENT = {
    "BENCH_STEADY": "1",
    # Longer than this takes: what is exported is exported by `have`.
    "OTEL_BSP_SCHEDULE_DELAY": "3600000",
}
_PADDING = 97  # variables that the environment of a layout has more than that of the one before
_SIZES = 61  # how many lengths they have
_SETTLING = 2
_CONTROL_TIMEOUT = 120.0


@dataclass(frozen=True)
class Plan:
    """How much is counted.

    Attributes:
        variants: Names of what is compared with Chainlit alone.
        layouts: Processes of each variant.
        turns: Turns of each process, which export once.
        warmup: Turns before them that are not counted.
        jobs: Processes at once.
        cache: Whether the caches are simulated, which takes twice as long.
    """

    variants: list[str]
    layouts: int
    turns: int
    warmup: int
    jobs: int
    cache: bool


class Cost(NamedTuple):
    """What a turn takes.

    Attributes:
        instructions: Instructions.
        misses: Reads and writes that miss the second level of the caches; 0 without these.
    """

    instructions: float
    misses: float


Costs = dict[tuple[str, int], Cost]
"""By the name of the variant and the number of the layout."""


class Callgrind:
    """Counts the instructions of a process that was started by `CALLGRIND`.

    Args:
        pid: Of the process.
        directory: Where it was started.
    """

    def __init__(self, pid: int, directory: Path) -> None:
        self._pid = pid
        self._directory = directory
        self._taken = 0

    def start(self) -> None:
        """Count from now on."""
        self._control("instrumentation", "on")

    def stop(self) -> None:
        """Count no longer, which is faster."""
        self._control("instrumentation", "off")

    def restart(self) -> None:
        """Count from zero."""
        self._control("zero")

    def take(self) -> Mapping[str, int]:
        """Return how often each event has come since the last `take` or `restart`, by its name."""
        self._control("dump")
        self._taken += 1
        # Each dump is a file of its own, which begins at zero.
        profile = (self._directory / f"counts.{self._taken}").read_text(encoding="utf-8")
        names = profile.partition("\nevents: ")[2].partition("\n")[0].split()
        return dict(zip(names, map(int, profile.rpartition("\ntotals: ")[2].split()), strict=True))

    def _control(self, *command: str) -> None:
        subprocess.run(
            ["vgdb", f"--pid={self._pid}", *command],
            check=True,
            capture_output=True,
            timeout=_CONTROL_TIMEOUT,
        )


def measure(plan: Plan, sink: Sink, progress: Callable[[str, int, Cost], None]) -> Costs:
    """Run the whole plan.

    Args:
        plan: How much.
        sink: Takes the spans.
        progress: Called with the variant, the layout and the figures of each process that is over.

    Raises:
        BenchError: A variant was not observed as it says.
    """
    return asyncio.run(_measure(plan, sink, progress))


async def _measure(plan: Plan, sink: Sink, progress: Callable[[str, int, Cost], None]) -> Costs:
    costs: Costs = {}
    free = asyncio.Semaphore(plan.jobs)

    async def count(name: str, layout: int) -> None:
        async with free:
            costs[name, layout] = await _count(name, layout, plan, sink)
            progress(name, layout, costs[name, layout])

    names = ["bare", *plan.variants]
    tasks = [
        asyncio.create_task(count(name, layout))
        for layout in range(1, plan.layouts + 1)
        for name in names
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return costs


async def _count(name: str, layout: int, plan: Plan, sink: Sink) -> Cost:
    # They are among the first objects of the process, and move all that come later.
    padding = {f"BENCH_LAYOUT_{n}": "x" * (n % _SIZES) for n in range(_PADDING * layout)}
    env = {**_ENVIRONMENT, **padding}
    runner = [*CALLGRIND, *(CACHE if plan.cache else [])]
    subject = Subject(name, 1, sink, layout, env, runner)
    try:
        await asyncio.to_thread(subject.server.start)
        await subject.begin(plan.warmup)
        callgrind = Callgrind(subject.server.pid, subject.server.directory)
        await asyncio.to_thread(callgrind.start)
        await subject.have(_SETTLING)
        await asyncio.to_thread(callgrind.restart)
        await subject.have(plan.turns)
        counted = await asyncio.to_thread(callgrind.take)
        await asyncio.to_thread(callgrind.stop)
        await subject.end()
    finally:
        # Not in a thread: a task that is cancelled would not wait for it.
        subject.server.close()
    return Cost(counted["Ir"] / plan.turns, misses(counted) / plan.turns)


def misses(counted: Mapping[str, int]) -> int:
    """Return how many reads and writes have missed the second level; 0 without caches."""
    return sum(counted.get(event, 0) for event in _MISSES)


def table(costs: Costs, has_cache: bool) -> report.Table:
    """Return what a turn costs in each variant, and how much more than without observation."""
    layouts = sorted({layout for _, layout in costs})
    rows = []
    for name, variant in VARIANTS.items():
        if (name, layouts[0]) not in costs:
            continue
        runs = [costs[name, layout] for layout in layouts]
        more = [
            costs[name, each].instructions / costs["bare", each].instructions - 1
            for each in layouts
        ]
        spread = [f"{statistics.mean(more):+.2%}", f"{min(more):+.2%} to {max(more):+.2%}"]
        rows.append(
            [
                variant.title,
                f"{statistics.mean(run.instructions for run in runs) / 1e6:.3f} M",
                *(["", ""] if name == "bare" else spread),
                *([f"{statistics.mean(run.misses for run in runs):,.0f}"] if has_cache else []),
            ]
        )
    heads = ["a turn of 50 tokens", "instructions", "more", "by layout"]
    return [*heads, *(["misses"] if has_cache else [])], rows


def method(plan: Plan) -> str:
    """Say how it was measured."""
    return (
        f"Means of {plan.layouts} processes of {plan.turns} turns of one visitor, which export "
        "once; *more* is compared within each memory layout. What comes by the clock is "
        "not in it."
        + (f" A second-level cache of {_CACHE_KIB:,} KiB is simulated." if plan.cache else "")
    )


def main() -> int:
    """Count, print the table and return the exit code."""
    arguments = _parser().parse_args()
    if not sys.platform.startswith("linux"):
        _say("error: valgrind counts the instructions of a server on Linux only")
        return 1
    if shutil.which("valgrind") is None or shutil.which("vgdb") is None:
        _say("error: there is no valgrind: `tools/system-packages.sh valgrind` installs it")
        return 1
    plan = Plan(
        arguments.variants,
        arguments.layouts,
        arguments.turns,
        arguments.warmup,
        arguments.jobs,
        arguments.cache,
    )
    try:
        with Sink() as sink:
            costs = measure(plan, sink, _progress)
    except (BenchError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        _say(f"error: {error}")
        return 1
    show = report.markdown if arguments.markdown else report.text
    print(show(table(costs, plan.cache)), report.machine(), method(plan), sep="\n\n")
    return 0


def _progress(name: str, layout: int, cost: Cost) -> None:
    _say(f"layout {layout}, {name}: {cost.instructions / 1e6:.3f} M a turn")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=description)
    cores = os.cpu_count() or 1
    rows = (
        ("--layouts", 8, "processes of each variant, each with a memory layout of its own"),
        ("--turns", 50, "turns of each process, which are counted, and then exported"),
        ("--warmup", 30, "turns before them that are not counted"),
        ("--jobs", cores, "processes at once"),
    )
    for name, default, text in rows:
        parser.add_argument(name, type=positive, default=default, help=f"{text} ({default})")
    others = [name for name in VARIANTS if name != "bare"]
    chosen = [name for name in others if name != "fastapi"]
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=others,
        default=chosen,
        help=f"what is compared with Chainlit alone ({' '.join(chosen)})",
    )
    parser.add_argument("--cache", action="store_true", help="count what misses the caches, too")
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
