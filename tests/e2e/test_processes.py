"""Each process has a ledger of its own, and one that does not serve Chainlit says nothing."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support.http import fetch
from tests.support.otlp import Receiver
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer, free_port

pytestmark = pytest.mark.e2e

WORKERS = 2
VISITORS = 4
QUESTIONS = 2

APP = """
import os
import threading

import chainlit as cl


@cl.on_message
async def answer(message):
    await cl.Message(str(os.getpid())).send()
"""

MAIN = """
import chainlit_otel

chainlit_otel.enable()

from chainlit.utils import mount_chainlit
from fastapi import FastAPI
from opentelemetry import metrics, trace

app = FastAPI()
# Made before the fork, as what an instrumentation makes when the app is imported.
asked = metrics.get_meter("app").create_counter("asked")
asked.add(1000)
tracer = trace.get_tracer("app")


@app.get("/count")
def count():
    asked.add(1)
    with tracer.start_as_current_span("count"):
        return {"pid": os.getpid()}


import os

mount_chainlit(app=app, target="app.py", path="/chat")
"""


def gunicorn(*args: str, env: dict[str, str]) -> ChainlitServer:
    command = ["gunicorn", "main:app", "-k", "uvicorn_worker.UvicornWorker"]
    command += ["-b", "127.0.0.1:{port}", "-w", str(WORKERS), "--no-control-socket", *args]
    files = {"main.py": MAIN, "app.py": APP}
    # Each worker imports Chainlit by itself, all at once.
    return ChainlitServer(files, command=command, path="/chat", env=env)


def scrapes(server: ChainlitServer) -> list[Scrape]:
    """What is served on the ports that the processes of a server may have."""
    found = []
    for port in range(server.admin_port, server.admin_port + 5):
        with suppress(httpx.ConnectError):
            found.append(Scrape(fetch(f"http://127.0.0.1:{port}/metrics").text))
    return found


def exported(backend: Receiver) -> dict[str, dict[str, float]]:
    """The sums of the last export of each process, by its instance id and by metric."""
    sums: dict[str, dict[str, float]] = {}
    for export in backend.metric_exports:
        for resource in export.resource_metrics:
            attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
            sums[attributes["service.instance.id"]] = {
                metric.name: sum(
                    map(_number, getattr(metric, str(metric.WhichOneof("data"))).data_points)
                )
                for scope in resource.scope_metrics
                for metric in scope.metrics
            }
    return sums


def _number(point: Any) -> float:
    if hasattr(point, "count"):
        return float(point.count)
    return float(point.as_int if point.WhichOneof("value") == "as_int" else point.as_double)


def total(sums: dict[str, dict[str, float]], name: str) -> float:
    return sum(of_process.get(name, 0) for of_process in sums.values())


async def visits(server: ChainlitServer) -> set[str]:
    """Have visitors talk; return the processes that have answered."""
    visitors = [Visitor(server.url, transports=["websocket"]) for _ in range(VISITORS)]
    pids = set()
    for visitor in visitors:
        await visitor.connect()
        for _ in range(QUESTIONS):
            pids.update((await visitor.say("who are you?")).texts)
        await visitor.leave(clear=True)
    return pids


def served_by_all(scraped: list[Scrape], name: str) -> list[float]:
    return sorted(scrape.sum(name) for scrape in scraped)


@pytest.mark.parametrize("preload", [False, True], ids=["", "preload"])
async def test_the_sum_over_the_workers_of_gunicorn_is_the_truth(preload: bool) -> None:
    with Receiver() as backend:
        args = ["--preload"] if preload else []
        with gunicorn(*args, env=backend.env) as server:
            pids: set[str] = set()
            rounds = 0
            # Which worker takes a connection is up to the system.
            while len(pids) < WORKERS:
                pids |= await visits(server)
                rounds += 1
                assert rounds < 20
            sessions, turns = rounds * VISITORS, rounds * VISITORS * QUESTIONS
            origin = server.url.removesuffix("/chat")
            async with httpx.AsyncClient() as client:
                for _ in range(10):
                    assert (await client.get(f"{origin}/count")).status_code == 200

            def ended() -> bool:
                ends = sum(s.sum("chainlit_session_ends_total") for s in scrapes(server))
                return ends == sessions

            await asyncio.to_thread(wait_until, ended, 60, "the end of all sessions")
            scraped = scrapes(server)
            code = await asyncio.to_thread(server.stop)
            log = server.log
        sums = exported(backend)

    # The master of a server that preloads has enabled it, too, and has nothing to show.
    assert len(scraped) == len(sums) == WORKERS + preload
    starts = served_by_all(scraped, "chainlit_session_starts_total")
    assert sum(starts) == sessions
    assert starts.count(0) == preload
    assert sum(served_by_all(scraped, "chainlit_turn_duration_seconds_count")) == turns
    assert sum(served_by_all(scraped, "chainlit_otel_internal_errors_total")) == 0
    for of_process in (s for s in scraped if s.sum("chainlit_session_starts_total")):
        assert of_process.sum("chainlit_otel_probe_enabled") == scraped[0].sum(
            "chainlit_otel_probe_enabled"
        )
    # Which worker gets a request is the kernel's business.
    requests = "http_server_request_duration_seconds"
    by_process = [s.sum(f"{requests}_count") for s in scraped if requests in s.families]
    assert sum(by_process) >= 10

    assert total(sums, "chainlit.session.starts") == sessions
    assert total(sums, "chainlit.session.ends") == sessions
    assert total(sums, "chainlit.session.duration") == sessions
    assert total(sums, "chainlit.turn.duration") == turns
    assert total(sums, "chainlit.connection.active") == 0
    masters = 1000 if preload else 0
    assert total(sums, "asked") == 10 + (masters or WORKERS * 1000)
    roots = [span for span in backend.spans if span.name == "chainlit.turn"]
    assert len(roots) == turns
    assert {span.resource["service.instance.id"] for span in roots} <= set(sums)
    assert len([span for span in backend.spans if span.name == "count"]) == 10
    assert "Traceback" not in log
    assert code in (0, -signal.SIGTERM)


# Children that do not serve Chainlit

FORKING = """
import chainlit_otel

chainlit_otel.enable()

import asyncio
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import chainlit as cl
from opentelemetry import trace

forking = multiprocessing.get_context("fork")


def facts():
    with trace.get_tracer("app").start_as_current_span("in a child"):
        pass
    trace.get_tracer_provider().force_flush()
    inodes = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            inodes.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            pass
    threads = [thread.name for thread in threading.enumerate()]
    return {
        "pid": os.getpid(),
        "sockets": [i for i in inodes if i.startswith("socket:")],
        "threads": [name for name in threads if name.startswith(("chainlit", "OtelPeriodic"))],
    }


def put(name):
    with open(f"{name}.tmp", "w") as file:
        json.dump(facts(), file)
    os.rename(f"{name}.tmp", name)


def stay(name):
    # As a child of a server that has stopped: it is in nobody's way.
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    put(name)
    time.sleep(30)


pool = ProcessPoolExecutor(2, mp_context=forking)


@cl.step(type="tool")
async def by_fork():
    pid = os.fork()
    if pid == 0:
        put("forked")
        os._exit(7)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


@cl.on_message
async def answer(message):
    said = message.content
    loop = asyncio.get_running_loop()
    if said == "pool":
        said = json.dumps([await loop.run_in_executor(pool, facts) for _ in range(4)])
    elif said == "process":
        process = forking.Process(target=put, args=("process",))
        process.start()
        await loop.run_in_executor(None, process.join)
        said = str(process.exitcode)
    elif said == "fork":
        said = str(await by_fork())
    elif said == "stay":
        forking.Process(target=stay, args=("stays",), daemon=False).start()
    await cl.Message(said).send()
"""


async def test_a_child_that_does_not_serve_chainlit_logs_nothing() -> None:
    with Receiver() as backend:
        with ChainlitServer({"app.py": FORKING}, env=backend.env) as server:
            visitor = Visitor(server.url)
            await visitor.connect()
            # So that its connection is open when the children are forked.
            scraper = httpx.AsyncClient()
            await scraper.get(server.metrics_url)
            admin = sockets_of_the_admin_server(server)
            [pooled] = (await visitor.say("pool")).texts
            assert (await visitor.say("process")).texts == ["0"]
            assert (await visitor.say("fork")).texts == ["7"]
            await visitor.say("stay")
            await asyncio.to_thread(wait_until, lambda: server.read("stays"), 60, "the child")
            await scraper.aclose()
            reported = [json.loads(server.read(name)) for name in ("process", "forked", "stays")]
            children = [*json.loads(pooled), *reported]
            before = server.scrape()
            exports = len(backend.metric_exports)
            await visitor.leave(clear=True)
            await asyncio.to_thread(server.stop)
            try:
                os.kill(reported[-1]["pid"], 0)  # it is still there
                with socket.socket() as again:
                    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    again.bind(("127.0.0.1", server.admin_port))
                    again.listen()
                last = len(backend.metric_exports)
                await asyncio.sleep(1)  # five intervals
                assert len(backend.metric_exports) == last > exports
            finally:
                os.kill(reported[-1]["pid"], signal.SIGKILL)
            log = server.log
        sums = exported(backend)

    assert len({child["pid"] for child in children}) >= 4
    for child in children:
        assert child["threads"] == []
        assert not admin & set(child["sockets"])
    assert before.sum("chainlit_session_starts_total") == 1
    assert before.sum("chainlit_otel_internal_errors_total") == 0
    assert len(sums) == 1, "no replica but the one that serves"
    assert total(sums, "chainlit.session.ends") == total(sums, "chainlit.session.starts") == 1
    assert total(sums, "chainlit.turn.duration") == 4
    assert backend.named("in a child") == []
    assert len(backend.named("chainlit.turn")) == 4
    assert log.count("metrics at ") == 1
    assert "Traceback" not in log


def sockets_of_the_admin_server(server: ChainlitServer) -> set[str]:
    """The sockets of a server at the port of its admin server: the one that listens and others."""
    found = set()
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = row.split()
        if int(fields[1].partition(":")[2], 16) == server.admin_port and fields[9] != "0":
            found.add(f"socket:[{fields[9]}]")
    assert len(found) == 2
    return found


# A child of a server in use that serves Chainlit itself

SERVING = """
import chainlit_otel

chainlit_otel.enable()

import multiprocessing
import os

import chainlit as cl


def serve(port):
    import uvicorn
    from chainlit.server import app

    uvicorn.run(app, port=port, log_level="warning")


@cl.on_message
async def answer(message):
    if message.content != "hello":
        port = int(message.content)
        multiprocessing.get_context("fork").Process(target=serve, args=(port,)).start()
    await cl.Message(str(os.getpid())).send()
"""


async def test_a_child_of_a_server_in_use_begins_with_nothing() -> None:
    with ChainlitServer({"app.py": SERVING}) as server:
        first = Visitor(server.url)
        await first.connect()
        port = free_port()
        [parents_pid] = (await first.say(str(port))).texts
        childs_url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            with suppress(httpx.TransportError):
                return fetch(childs_url).status_code == 200
            return False

        await asyncio.to_thread(wait_until, answers, 30, "the child to serve")
        second = Visitor(childs_url)
        await second.connect()
        [childs_pid] = (await second.say("hello")).texts
        # Its application has built its middleware in the parent.
        for path in ("/logo", "/favicon"):
            answer = await asyncio.to_thread(fetch, f"{childs_url}{path}")
            answer.raise_for_status()
        parent, child = scrapes(server)
        for visitor in (first, second):
            await visitor.leave(clear=True)
        os.kill(int(childs_pid), signal.SIGTERM)
        log = server.log

    assert parents_pid != childs_pid
    requests = "http_server_request_duration_seconds_count"
    assert [child.sum(requests, http_route=path) for path in ("/logo", "/favicon")] == [1, 1]
    assert parent.sum(requests, http_route="/logo") == 0
    for scrape in (parent, child):
        assert scrape.sum("chainlit_session_starts_total") == 1
        assert scrape.sum("chainlit_session_active", chainlit_session_state="connected") == 1
        assert scrape.value("chainlit_session_peak", chainlit_peak_window="process") == 1
        assert scrape.sum("chainlit_connection_active") == 1
        assert scrape.sum("chainlit_turn_duration_seconds_count") == 1
        assert scrape.sum("chainlit_otel_internal_errors_total") == 0
    assert "Traceback" not in log
