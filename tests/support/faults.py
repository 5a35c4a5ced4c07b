"""What can go wrong beside an app, and must change nothing for those who use it.

Each fault says how to bring it about, and by what one sees afterwards that it was there.
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from threading import Event, Thread

from tests.support.broken import BrokenBackend
from tests.support.certificate import self_signed
from tests.support.http import fetch
from tests.support.local import Handler, LocalServer
from tests.support.otlp import Receiver
from tests.support.server import ChainlitServer, free_port

DROPPED = "chainlit_otel_export_dropped_total"

APP = """
import chainlit as cl


@cl.on_message
async def answer(message):
    kind, _, text = message.content.partition(" ")
    if kind == "fail":
        raise ValueError(text)
    if kind == "short":
        await cl.Message("You said: " + text).send()
        return
    async with cl.Step(name="look up", type="tool") as step:
        step.output = text
    reply = cl.Message("")
    for _ in range(20):
        await reply.stream_token(text + " ")
    await reply.update()
"""

ENABLE = """
import chainlit_otel

chainlit_otel.enable()
"""

Heard = tuple[tuple[str, ...], tuple[str, ...], bool]
"""The texts of an answer, the names of its steps, and whether the app showed a failure."""


def answer_to(said: str) -> Heard:
    """Return what the app has to answer."""
    kind, _, text = said.partition(" ")
    if kind == "fail":
        return (), ("on_message",), True
    if kind == "short":
        return (f"You said: {text}",), ("on_message",), False
    return (f"{text} " * 20,), ("on_message", "look up"), False


_QUICK = {
    "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    "OTEL_BSP_SCHEDULE_DELAY": "100",
    "OTEL_METRIC_EXPORT_INTERVAL": "300",
    "CHAINLIT_OTEL_SHUTDOWN_TIMEOUT": "1",
}

Settings = contextlib.AbstractContextManager[Mapping[str, str]]


def _loses(server: ChainlitServer) -> bool:
    return server.scrape().sum(DROPPED) > 0


@contextlib.contextmanager
def _alone() -> Iterator[Mapping[str, str]]:
    yield {}


@contextlib.contextmanager
def _no_more(_: ChainlitServer) -> Iterator[None]:
    yield


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        title: What reports call it.
        around: Gives the settings of the app that is observed, and what they name.
        shows: Whether the fault was there, asked of the app that is observed.
        ours: Code after `enable()`.
        app: Code in the app, observed or not.
        beside: What goes on while people talk to the app that is observed.
    """

    title: str
    around: Callable[[], Settings] = _alone
    shows: Callable[[ChainlitServer], bool] = field(default=lambda _: True)
    ours: str = ""
    app: str = ""
    beside: Callable[[ChainlitServer], contextlib.AbstractContextManager[None]] = _no_more


@contextlib.contextmanager
def _receiver() -> Iterator[Mapping[str, str]]:
    with Receiver() as receiver:
        yield receiver.env


@contextlib.contextmanager
def _down() -> Iterator[Mapping[str, str]]:
    yield {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", **_QUICK}


def _backend(mode: str | bytes) -> Callable[[], Settings]:
    @contextlib.contextmanager
    def around() -> Iterator[Mapping[str, str]]:
        with BrokenBackend(mode) as backend:
            yield {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint, **_QUICK}

    return around


@contextlib.contextmanager
def _untrusted() -> Iterator[Mapping[str, str]]:
    class Accepting(Handler):
        def do_POST(self) -> None:
            self.body()
            self.answer()

    with (
        tempfile.TemporaryDirectory(prefix="chainlit-otel-certificate-") as directory,
        LocalServer(Accepting, tls=self_signed(Path(directory))) as server,
    ):
        yield {"OTEL_EXPORTER_OTLP_ENDPOINT": server.origin, **_QUICK}


@contextlib.contextmanager
def _ports_taken() -> Iterator[Mapping[str, str]]:
    first = free_port()
    with contextlib.ExitStack() as taken:
        for port in range(first, first + 16):
            with contextlib.suppress(OSError):  # by somebody else, then
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
        yield {"OTEL_EXPORTER_PROMETHEUS_PORT": str(first)}


@contextlib.contextmanager
def _disk_full() -> Iterator[Mapping[str, str]]:
    with tempfile.TemporaryDirectory(prefix="chainlit-otel-full-") as directory:
        today = datetime.now(timezone.utc).date()
        for day in (today, today + timedelta(days=1)):
            Path(directory, f"chainlit-{day}-full.jsonl").symlink_to("/dev/full")
        yield {
            "CHAINLIT_OTEL_RECORDS_DIR": directory,
            "OTEL_RESOURCE_ATTRIBUTES": "service.instance.id=full",
        }


def _records_lost(server: ChainlitServer) -> bool:
    return server.scrape().sum("chainlit_otel_records_dropped_total") > 0


_SHUT_DOWN = """
@cl.on_chat_start
def shut_down():
    from opentelemetry import metrics, trace

    trace.get_tracer_provider().shutdown()
    metrics.get_meter_provider().shutdown()
    open("shut", "w").close()
"""

_ON_AND_OFF = """
import asyncio


async def on_and_off():
    times = 0
    while True:
        await asyncio.sleep(0.05)
        chainlit_otel.disable()
        await asyncio.sleep(0.05)
        chainlit_otel.enable()
        times += 1
        with open("times", "w") as file:
            file.write(str(times))


@cl.on_app_startup
async def begin():
    global task
    task = asyncio.create_task(on_and_off())
"""

_HANGING_LAYER = """
import asyncio

from layer import Layer


class Hanging(Layer):
    async def create_step(self, step):
        with open("hangs", "a") as file:
            file.write("x")
        await asyncio.sleep(3600)

    update_step = create_step


@cl.data_layer
def data_layer():
    return Hanging()
"""

# The wall clock alone: no clock that is set in its place moves the monotonic one.
_CLOCK = """
import asyncio
import itertools
import time

import time_machine

wrong_clock = time_machine.travel(time.time(), tick=True).start()


async def step_the_clock():
    for step in itertools.cycle((3600, -90000, 86400)):
        wrong_clock.shift(step)
        await asyncio.sleep(0.1)


@cl.on_app_startup
async def begin():
    global task
    task = asyncio.create_task(step_the_clock())
"""


def _clock_is_wrong(server: ChainlitServer) -> bool:
    said = parsedate_to_datetime(fetch(server.url).headers["date"])
    return abs((said - datetime.now(timezone.utc)).total_seconds()) > 1800


_FORKS = """
import os


@cl.on_chat_start
def fork():
    for _ in range(5):
        if os.fork() == 0:
            os._exit(0)
        os.wait()
        with open("forks", "a") as file:
            file.write("x")
"""


@contextlib.contextmanager
def _bad_scrapers(server: ChainlitServer) -> Iterator[None]:
    """Scrapers of `/metrics` that leave in the middle, that never read, and that read all."""
    over = Event()
    held: list[socket.socket] = []

    def ask() -> None:
        number = 0
        while not over.wait(0.02):
            number += 1
            if number % 20 == 0:
                fetch(server.metrics_url)
                continue
            scraper = socket.create_connection(("127.0.0.1", server.admin_port), timeout=10)
            scraper.sendall(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            if number % 2 and len(held) < 100:
                held.append(scraper)
            else:
                scraper.recv(100)
                scraper.close()

    thread = Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        assert held
        for scraper in held:
            scraper.close()
        # Whoever reads gets all of it, though others have not.
        deadline = time.monotonic() + 60
        while fetch(server.metrics_url).status_code != 200:
            assert time.monotonic() < deadline


FAULTS = {
    "none": Fault("no fault", _receiver),
    "down": Fault("the collector is down", _down, _loses),
    "slow": Fault("the collector answers a byte every tenth of a second", _backend("drip"), _loses),
    "mute": Fault("the collector says nothing", _backend("blackhole"), _loses),
    "endless": Fault("the collector never stops answering", _backend("endless"), _loses),
    "garbage": Fault("the collector speaks no HTTP", _backend("garbage"), _loses),
    "503": Fault("the collector refuses everything", _backend("503"), _loses),
    "certificate": Fault("the certificate of the collector is not trusted", _untrusted, _loses),
    "ports": Fault(
        "all ports for the metrics are taken",
        _ports_taken,
        lambda server: "are taken" in server.log,
    ),
    "disk": Fault("the disk for the records is full", _disk_full, _records_lost),
    "clock": Fault(
        "the clock jumps back and forth by hours",
        _receiver,
        _clock_is_wrong,
        app=_CLOCK,
    ),
    "providers": Fault(
        "the app shuts the providers of OpenTelemetry down",
        _receiver,
        lambda server: (server.directory / "shut").exists(),
        ours=_SHUT_DOWN,
    ),
    "on and off": Fault(
        "`disable()` and `enable()` in a loop",
        _receiver,
        lambda server: int(server.read("times") or 0) > 3,
        ours=_ON_AND_OFF,
    ),
    "scrapers": Fault(
        "scrapers leave in the middle, or never read", _receiver, beside=_bad_scrapers
    ),
    "layer": Fault(
        "the data layer hangs",
        _receiver,
        lambda server: bool(server.read("hangs")),
        app=_HANGING_LAYER,
    ),
    "fork": Fault(
        "the app forks", _receiver, lambda server: bool(server.read("forks")), app=_FORKS
    ),
}
