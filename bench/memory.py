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
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import aiohttp

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

_AT_ONCE = 20
_READY_TIMEOUT = 300.0


class MemoryUse(NamedTuple):
    """What a server holds.

    Attributes:
        resident: Bytes of memory.
        by_file: Bytes and blocks by the line that allocated them, if that is traced.
    """

    resident: int
    by_file: dict[str, tuple[int, int]]


class Sockets:
    """Sessions that are connected, each by a bare websocket that answers to pings.

    Args:
        server: What they are connected to.
        turns: Each says something, once.
    """

    def __init__(self, server: ChainlitServer, turns: bool) -> None:
        self._url = server.url
        self._turns = turns
        self._tasks: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def connected(self, number: int) -> AsyncIterator[None]:
        """Have so many sessions connected."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as client:
            for begin in range(0, number, _AT_ONCE):
                batch = range(begin, min(begin + _AT_ONCE, number))
                await asyncio.gather(*(self._connect(client) for _ in batch))
            yield
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks.clear()

    async def _connect(self, client: aiohttp.ClientSession) -> None:
        url = f"{self._url}/ws/socket.io/?EIO=4&transport=websocket"
        socket = await client.ws_connect(url, max_msg_size=0)
        ready = asyncio.Event()
        self._tasks.append(asyncio.create_task(self._live(socket, ready)))
        await asyncio.wait_for(ready.wait(), _READY_TIMEOUT)

    async def _live(self, socket: aiohttp.ClientWebSocketResponse, ready: asyncio.Event) -> None:
        session = {"sessionId": str(uuid.uuid4()), "clientType": "webapp", "userEnv": "{}"}
        said = {"id": str(uuid.uuid4()), "name": "user", "type": "user_message", "output": "hello"}
        said["createdAt"] = "2026-01-01T00:00:00Z"
        tasks = 0
        async for message in socket:
            text = str(message.data)
            if text.startswith("0"):
                await socket.send_str(f"40{json.dumps(session)}")
            elif text.startswith("40"):
                await socket.send_str('42["connection_successful"]')
            elif text == "2":
                await socket.send_str("3")
            elif text.startswith('42["task_end"'):
                tasks += 1
                if tasks == 1 and self._turns:
                    sent = ["client_message", {"message": said, "fileReferences": []}]
                    await socket.send_str(f"42{json.dumps(sent)}")
                else:
                    ready.set()


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
        sockets = Sockets(server, turns)
        # What is made once is not what each of them takes.
        async with sockets.connected(200):
            before = await asyncio.to_thread(_memory_use, server)
            async with Sockets(server, turns).connected(sessions):
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
