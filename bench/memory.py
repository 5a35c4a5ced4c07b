"""What a live session takes of the server's memory: real sockets, with us and without.

Usage: python -m bench.memory [--sessions 3000] [--rounds 3] [--turns] [--trace]

Two servers of one app, one of them observed, are visited by as many sessions; each says on SIGUSR1
how much it holds. What a session takes is the growth divided by the sessions, and what it takes of
ours is the difference of the two.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import statistics
import sys
import time
from typing import NamedTuple

import aiohttp

from bench.sockets import Session, connect, pages
from tests.support.server import ChainlitServer

APP = """
import gc, json, os, signal, sys, tracemalloc

import chainlit as cl

if os.environ["BENCH_VARIANT"] == "observed":
    import chainlit_otel

    chainlit_otel.enable()
TRACED = "BENCH_TRACE" in os.environ


def measure(*_):
    for _ in range(3):
        gc.collect()
    with open("/proc/self/statm") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    by_file = {}
    if TRACED:
        for found in tracemalloc.take_snapshot().statistics("lineno"):
            frame = found.traceback[0]
            by_file[f"{frame.filename}:{frame.lineno}"] = [found.size, found.count]
    with open("usage", "a") as file:
        file.write(json.dumps({"resident": resident, "by_file": by_file}) + chr(10))


signal.signal(signal.SIGUSR1, measure)


@cl.on_chat_start
async def start():
    if TRACED and not tracemalloc.is_tracing():
        tracemalloc.start()


@cl.on_message
async def answer(message):
    await cl.Message("ok").send()
"""

_READY_TIMEOUT = 300.0


class MemoryUse(NamedTuple):
    """What a server holds.

    Attributes:
        resident: Bytes of memory.
        by_file: Bytes and blocks by the line that allocated them, if that is traced.
    """

    resident: int
    by_file: dict[str, tuple[int, int]]


async def _connected(
    client: aiohttp.ClientSession, url: str, number: int, turns: bool
) -> list[Session]:
    sessions = await connect(client, url, number)
    if turns:
        for session in sessions:
            await session.say("hello")
    return sessions


def _memory_use(server: ChainlitServer) -> MemoryUse:
    before = server.read("usage").count("\n")
    os.kill(server.pid, signal.SIGUSR1)
    deadline = time.monotonic() + _READY_TIMEOUT
    while server.read("usage").count("\n") == before:
        if time.monotonic() > deadline:
            raise SystemExit(f"no answer\n{server.tail()}")
        time.sleep(0.05)
    usage = json.loads(server.read("usage").splitlines()[-1])
    return MemoryUse(usage["resident"], {line: tuple(n) for line, n in usage["by_file"].items()})


async def _grown(
    variant: str, sessions: int, turns: bool, trace: bool
) -> tuple[float, MemoryUse, MemoryUse]:
    """Return what each session takes, and what the server held before and with them."""
    env = {
        "BENCH_VARIANT": variant,
        "PYTHONHASHSEED": "0",
        **({"BENCH_TRACE": "1"} if trace else {}),
    }
    with ChainlitServer({"app.py": APP}, env=env) as server:
        async with pages() as client:
            # What is made once is not what each of them takes.
            held = await _connected(client, server.url, 200, turns)
            before = await asyncio.to_thread(_memory_use, server)
            held += await _connected(client, server.url, sessions, turns)
            after = await asyncio.to_thread(_memory_use, server)
    return (after.resident - before.resident) / sessions, before, after


def _report(before: MemoryUse, after: MemoryUse, sessions: int) -> None:
    grown = {
        line: (
            size - before.by_file.get(line, (0, 0))[0],
            count - before.by_file.get(line, (0, 0))[1],
        )
        for line, (size, count) in after.by_file.items()
    }
    for line, (size, count) in sorted(grown.items(), key=lambda item: -item[1][0])[:40]:
        print(f"{size / sessions:9.1f} B {count / sessions:7.2f}  {line}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sessions", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--turns", action="store_true", help="each session has had a turn")
    parser.add_argument("--trace", action="store_true", help="show what allocates it, too")
    options = parser.parse_args()
    more = []
    for number in range(options.rounds):
        taken = {}
        for variant in ("bare", "observed"):
            grown, before, after = asyncio.run(
                _grown(variant, options.sessions, options.turns, options.trace)
            )
            taken[variant] = grown / 1024
            if options.trace:
                print(variant)
                _report(before, after, options.sessions)
        more.append(taken["observed"] - taken["bare"])
        print(
            f"round {number + 1}: {taken['bare']:.2f} KiB a session alone, "
            f"{taken['observed']:.2f} KiB observed: {more[-1]:.2f} KiB more",
            flush=True,
        )
    print(
        f"{options.sessions} sessions: {statistics.median(more):.2f} KiB more each", file=sys.stdout
    )


if __name__ == "__main__":
    main()
