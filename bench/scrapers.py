"""What visitors notice of those who ask for the metrics, too often or in bad faith.

A server of the app that is measured by `bench`, and visitors who talk to it all the time. In turns
of some seconds, a process of its own does nothing, or one of these:

- crowd: 200 scrapers at once, again and again;
- half: 500 connections with half a request each, opened anew when they are closed;
- deaf: 100 connections that ask for the metrics and never read;
- inside: 30 scrapes a second of the path inside the app;
- pages: 20 live pages are open, each of which reads what it is sent.

Usage: python -m bench.scrapers [--rounds N] [--seconds N] [--visitors N] [--pause N] [--kinds …]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import sys
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from chainlit_otel.testing import Visitor
from tests.support.server import ChainlitServer

APP = Path(__file__).with_name("app.py").read_text(encoding="utf-8")
PATH = "/metrics"
KINDS = ("crowd", "half", "deaf", "inside", "pages")
CROWD, HALF, DEAF, A_SECOND, PAGES = 200, 500, 100, 30, 20
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
STREAM = b"GET /live/data/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"

Answers = Counter[str]


async def scrape(port: int, answers: Answers) -> None:
    """Scrape once and count the answer."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST)
        answer = await asyncio.wait_for(reader.read(), 30)
        whole = answer.startswith(b"HTTP/1.1 200") and b"chainlit_session_starts_total" in answer
        answers["200" if whole else answer[9:12].decode() or "closed"] += 1
        writer.close()
    except (OSError, asyncio.TimeoutError) as error:
        answers[type(error).__name__] += 1


async def hold(port: int, sent: bytes, answers: Answers) -> None:
    """Send something, read nothing, and begin again when the connection is closed."""
    while True:
        with suppress(OSError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(sent)
            answers["connections"] += 1
            # What is never read is only noticed by asking the system.
            for _ in range(300):
                await asyncio.sleep(0.1)
                writer.write(b"x" if not sent.endswith(b"\n") else b"")
                if writer.transport.is_closing():
                    break
            writer.transport.abort()
        await asyncio.sleep(0.05)


async def watch(port: int, answers: Answers) -> None:
    """Have a live page open, and read what it is sent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(STREAM)
    try:
        while line := await reader.readline():
            answers["ticks"] += line.startswith(b"event: tick")
    finally:
        writer.close()


async def attack(kind: str, admin_port: int, app_port: int, seconds: float) -> Answers:
    """Do as the kind says, for so long; return what came back."""
    answers: Answers = Counter()
    end = time.monotonic() + seconds
    tasks: list[asyncio.Task[None]] = []
    if kind == "half":
        tasks = [
            asyncio.ensure_future(hold(admin_port, REQUEST[:30], answers)) for _ in range(HALF)
        ]
    if kind == "deaf":
        tasks = [asyncio.ensure_future(hold(admin_port, REQUEST, answers)) for _ in range(DEAF)]
    if kind == "pages":
        tasks = [asyncio.ensure_future(watch(admin_port, answers)) for _ in range(PAGES)]
    while (now := time.monotonic()) < end:
        if kind == "crowd":
            await asyncio.gather(*(scrape(admin_port, answers) for _ in range(CROWD)))
        elif kind == "inside":
            tasks.append(asyncio.ensure_future(scrape(app_port, answers)))
            await asyncio.sleep(max(0.0, 1 / A_SECOND - (time.monotonic() - now)))
        else:
            await asyncio.sleep(0.1)
    if kind == "inside":
        await asyncio.gather(*tasks)
    for task in tasks:
        task.cancel()
    return answers


def _attack(kind: str, ports: tuple[int, int], seconds: float, done: Connection) -> None:
    done.send(asyncio.run(attack(kind, *ports, seconds)))


async def talk(visitor: Visitor, end: float, pause: float) -> list[float]:
    """Talk until then, with pauses; return how long each turn took."""
    durations = []
    while (began := time.monotonic()) < end:
        await visitor.say("hello")
        durations.append(time.monotonic() - began)
        await asyncio.sleep(pause)
    return durations


async def measure(
    kind: str, server: ChainlitServer, visitors: int, seconds: float, pause: float
) -> tuple[list[float], int, Answers]:
    """Return the turns, how many visitors got in during all of it, and what attackers got."""
    spawning = multiprocessing.get_context("spawn")
    mine, others = spawning.Pipe()
    ports = server.admin_port, server.port
    process = spawning.Process(target=_attack, args=(kind, ports, seconds + 2, others))
    if kind != "quiet":
        process.start()
        await asyncio.sleep(2)  # until it has begun
    crowd = [Visitor(server.url, transports=["websocket"]) for _ in range(visitors)]
    entered = 0
    for visitor in crowd:
        await visitor.connect()
        entered += 1
    end = time.monotonic() + seconds - 2
    turns = await asyncio.gather(*(talk(visitor, end, pause) for visitor in crowd))
    await asyncio.gather(*(visitor.leave() for visitor in crowd))
    answers: Answers = Counter()
    if kind != "quiet":
        answers = await asyncio.to_thread(mine.recv)
        process.join()
    return [duration for of_one in turns for duration in of_one], entered, answers


def main() -> int:
    """Measure, print a table and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.scrapers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--visitors", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0, help="seconds after each turn")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    arguments = parser.parse_args()
    cores = os.cpu_count()
    print(f"load {os.getloadavg()[0]:.1f} on {cores} cores blurs the figures", file=sys.stderr)
    found: dict[str, list[float]] = {}
    got: dict[str, Answers] = {}
    env = {"BENCH_OBSERVER": "chainlit_otel", "CHAINLIT_OTEL_METRICS_PATH": PATH}
    with ChainlitServer({"app.py": APP}, env=env) as server:
        for _ in range(arguments.rounds):
            for kind in [kind for other in arguments.kinds for kind in ("quiet", other)]:
                turns, entered, answers = asyncio.run(
                    measure(kind, server, arguments.visitors, arguments.seconds, arguments.pause)
                )
                if entered < arguments.visitors:
                    print(f"error: of {arguments.visitors} visitors {entered} got in ({kind})")
                    return 1
                found.setdefault(kind, []).extend(turns)
                got.setdefault(kind, Counter()).update(answers)
                print(f"{kind}: {_figures(turns)} {dict(answers)}", file=sys.stderr, flush=True)
    quiet = _p99(found["quiet"])
    print("| | turns | median | p99 | p99 by quiet | answers |\n|---|---|---|---|---|---|")
    for kind, turns in found.items():
        shown = ", ".join(f"{n} {what}" for what, n in got[kind].most_common())
        print(f"| {kind} | {_figures(turns)} | {_p99(turns) / quiet:.2f} | {shown} |")
    return 0


def _figures(turns: list[float]) -> str:
    return f"{len(turns)} | {statistics.median(turns) * 1e3:.1f} ms | {_p99(turns) * 1e3:.1f} ms"


def _p99(turns: list[float]) -> float:
    return statistics.quantiles(turns, n=100)[98]


if __name__ == "__main__":
    sys.exit(main())
