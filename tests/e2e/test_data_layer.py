"""The data layer against its own ledger: what ran, failed, was held back and discarded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from chainlit_otel.testing import Visitor
from tests.support.greeting import greeted
from tests.support.otlp import Receiver
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer, python_path

pytestmark = pytest.mark.e2e

SEED = 20261124
OPERATIONS = "chainlit_data_layer_operations_total"
SECONDS = "chainlit_data_layer_operation_duration_seconds"

# It inherits from nothing, and writes down each call that really reaches it.
LAYER = """
import asyncio
import json
from collections import deque

from chainlit.data import queue_until_user_message, utils


def note(file, **what):
    with open(file, "a") as out:
        out.write(json.dumps(what) + "\\n")


class Queue(deque):
    def append(self, entry):
        note("held", operation=entry[0].__name__)
        super().append(entry)

    def popleft(self):
        entry = super().popleft()
        note("replayed", operation=entry[0].__name__)
        return entry


utils.deque = Queue

FULL = " ".join(["disk", "full"])


class Notes:
    def __init__(self):
        self.task = None

    async def _run(self, operation, fails=False):
        await asyncio.sleep(0.01)
        note("calls", operation=operation, outcome="error" if fails else "ok")
        if fails:
            raise RuntimeError(FULL)

    @queue_until_user_message()
    async def create_step(self, step):
        await self._run("create_step", "fail" in (step.get("output") or ""))

    @queue_until_user_message()
    async def update_step(self, step):
        note("calls", operation="update_step", outcome="ok")
        await self._inner(step)

    async def _inner(self, step):
        await self.get_thread("nested")

    @queue_until_user_message()
    async def delete_step(self, step_id):
        await self._run("delete_step")

    async def update_thread(self, thread_id, name=None, user_id=None, metadata=None, tags=None):
        # It goes on when this is over, and what it asks for is nobody's part.
        self.task = asyncio.create_task(self._later())
        await self._run("update_thread")

    async def _later(self):
        await asyncio.sleep(0.05)
        await self.get_thread("later")

    async def get_thread(self, thread_id):
        await asyncio.sleep(0.01)
        if thread_id == "later":
            note("calls", operation="get_thread", outcome="ok")

    def build_debug_url(self):
        return ""
"""

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from notes import Notes


@cl.data_layer
def layer():
    return Notes()


@cl.on_chat_start
async def start():
    await cl.Message("hello").send()


@cl.on_message
async def on_message(message):
    async with cl.Step(name="lookup", type="tool") as step:
        step.output = message.content
    await cl.Message("done").send()

"""


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    files = {"app.py": APP, "notes.py": LAYER}
    timeout = {"project": {"session_timeout": 1}}
    env = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.endpoint}/v1/traces"}
    env["OTEL_BSP_SCHEDULE_DELAY"] = "50"
    with ChainlitServer(files, config=timeout, env=env) as server:
        yield server


def lines(server: ChainlitServer, file: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in server.read(file).splitlines()]


def ran(server: ChainlitServer) -> Counter[tuple[str, str]]:
    """The calls that reached the layer, by operation and outcome."""
    return Counter((str(c["operation"]), str(c["outcome"])) for c in lines(server, "calls"))


def total(server: ChainlitServer, file: str) -> Counter[str]:
    """What went into the queues of Chainlit or came out of them, by operation."""
    return Counter(str(line["operation"]) for line in lines(server, file))


def counted(scrape: Scrape, name: str) -> Counter[tuple[str, str]]:
    return Counter(
        {
            (operation, outcome): int(number)
            for outcome in ("ok", "error", "cancelled")
            for operation in ("create_step", "update_step", "update_thread", "get_thread")
            if (
                number := scrape.sum(
                    name,
                    chainlit_data_layer_operation=operation,
                    chainlit_data_layer_name="Notes",
                    chainlit_outcome=outcome,
                )
            )
        }
    )


def by_operation(scrape: Scrape, name: str) -> Counter[str]:
    operations = ("create_step", "update_step", "delete_step", "other")
    return +Counter(
        {o: int(scrape.value(name, chainlit_data_layer_operation=o)) for o in operations}
    )


async def visit(url: str, dice: random.Random) -> None:
    """One of those who write nothing, and leave; or of those who write, some of it in vain."""
    visitor = Visitor(url)
    await visitor.connect()
    await greeted(visitor)
    for _ in range(dice.choice([0, 0, 1, 2, 3])):
        await visitor.say(dice.choice(["please", "fail"]))
    await visitor.leave(clear=dice.random() < 0.5)


async def test_the_ledger_equals_that_of_the_layer(server: ChainlitServer) -> None:
    dice = random.Random(SEED)
    for _ in range(6):
        await asyncio.gather(*(visit(server.url, random.Random(dice.random())) for _ in range(5)))

    def settled() -> bool:
        scrape = server.scrape()
        return (
            scrape.sum("chainlit_session_ends_total") == 30
            and scrape.value("chainlit_data_layer_queue_length") == 0
            and counted(scrape, OPERATIONS) == ran(server)
        )

    await asyncio.to_thread(wait_until, settled, 60, "the metrics to equal what was written down")
    scrape, calls = server.scrape(), ran(server)
    assert counted(scrape, f"{SECONDS}_count") == calls
    assert calls["create_step", "error"] > 5
    held, replayed = total(server, "held"), total(server, "replayed")
    assert by_operation(scrape, "chainlit_data_layer_queued_total") == held
    assert by_operation(scrape, "chainlit_data_layer_discarded_total") == held - replayed
    assert replayed.total() > 10
    assert (held - replayed).total() > 10
    assert scrape.value("chainlit_data_layer_queue_length") == 0
    assert scrape.sum("chainlit_otel_internal_errors_total") == 0


async def test_what_is_held_back_takes_its_time_when_it_runs(server: ChainlitServer) -> None:
    def seconds() -> float:
        scrape = server.scrape()
        # No operation has run before the first test that makes one.
        if f"{SECONDS}_sum" not in scrape.text:
            return 0.0
        return scrape.sum(f"{SECONDS}_sum", chainlit_data_layer_operation="create_step")

    def length() -> float:
        return server.scrape().value("chainlit_data_layer_queue_length")

    visitor = Visitor(server.url)
    await visitor.connect()
    await greeted(visitor)
    before, waiting, runs = seconds(), length(), len(lines(server, "calls"))
    await visitor.say("please")
    await asyncio.to_thread(wait_until, lambda: length() == 0, 60, "what was held back to run")
    await asyncio.to_thread(
        wait_until,
        lambda: len(lines(server, "calls")) >= runs + waiting,
        5,
        "the calls to be written down",
    )
    assert seconds() - before >= 0.02
    await visitor.leave(clear=True)


# Each name of a file at which something waits, for as long as the file is there.
SLOW = """
import asyncio
import os

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.emitter import ChainlitEmitter
from notes import Notes

task_start = ChainlitEmitter.task_start


async def gate(name):
    while os.path.exists(name):
        await asyncio.sleep(0.01)


async def slow_task_start(self):
    await gate("message")
    await task_start(self)


ChainlitEmitter.task_start = slow_task_start


class Slow(Notes):
    async def update_thread(self, thread_id, name=None, **rest):
        # The user's first words; at the end of the session there is no name.
        if name:
            await gate("thread")
        await super().update_thread(thread_id, name, **rest)

    async def _run(self, operation, fails=False):
        if operation == "create_step":
            await gate("step")
        await super()._run(operation, fails)


@cl.data_layer
def layer():
    return Slow()


@cl.on_chat_start
async def start():
    await cl.Message("hello").send()
    await gate("start")
    await cl.Message("how are you?").send()


@cl.on_message
async def on_message(message):
    await cl.Message("done").send()
"""


@pytest.fixture(scope="module")
def slow() -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": SLOW, "notes.py": LAYER}) as server:
        yield server


@contextlib.contextmanager
def closed(server: ChainlitServer, name: str) -> Iterator[None]:
    gate = server.directory / name
    gate.touch()
    try:
        yield
    finally:
        gate.unlink()


class Figures:
    """What the server tells of operations that were held back, from now on."""

    def __init__(self, server: ChainlitServer) -> None:
        self._server = server
        self._before = self._totals()

    def _totals(self) -> dict[str, int]:
        scrape = self._server.scrape()
        names = {
            "ends": "chainlit_session_ends_total",
            "queued": "chainlit_data_layer_queued_total",
            "discarded": "chainlit_data_layer_discarded_total",
            "waiting": "chainlit_data_layer_queue_length",
        }
        held, replayed = (total(self._server, file).total() for file in ("held", "replayed"))
        figures = {key: int(scrape.sum(name)) for key, name in names.items()}
        return {**figures, "held": held, "replayed": replayed}

    def now(self) -> dict[str, int]:
        return {key: number - self._before[key] for key, number in self._totals().items()}

    async def until(self, **expected: int) -> dict[str, int]:
        with contextlib.suppress(TimeoutError):
            await asyncio.to_thread(
                wait_until, lambda: expected.items() <= self.now().items(), 10, "the figures"
            )
        now = self.now()
        assert expected.items() <= now.items(), (expected, now)
        return now


@pytest.mark.parametrize("late", ["message", "thread", "step"])
async def test_who_leaves_before_it_is_run_has_discarded_nothing(
    slow: ChainlitServer, late: str
) -> None:
    figures, visitor = Figures(slow), Visitor(slow.url)
    await visitor.connect()
    await greeted(visitor)
    with closed(slow, late):
        await visitor.send("please")
        await visitor.leave(clear=True)
        meanwhile = await figures.until(ends=1)
        assert meanwhile["waiting"] > 0
    # Two messages, and the step around them when it begins and ends.
    after = await figures.until(waiting=0, held=4, replayed=4)
    assert (after["queued"], after["discarded"]) == (4, 0)


async def test_what_is_held_back_for_somebody_gone_is_discarded(slow: ChainlitServer) -> None:
    figures, visitor = Figures(slow), Visitor(slow.url)
    with closed(slow, "start"):
        await visitor.connect()
        await visitor.until(lambda: any(e.name == "new_message" for e in visitor.events), "hello")
        await visitor.leave(clear=True)
        await figures.until(ends=1, held=2)
    # The start of the chat goes on without its user.
    after = await figures.until(waiting=0, discarded=4)
    assert (after["queued"], after["held"], after["replayed"]) == (4, 4, 0)
    assert slow.scrape().sum("chainlit_otel_internal_errors_total") == 0


async def test_the_spans_of_a_turn(server: ChainlitServer, receiver: Receiver) -> None:
    visitor = Visitor(server.url)
    await visitor.connect()
    await greeted(visitor)
    await visitor.say("fail")
    await visitor.until(lambda: visitor.thread_id is not None, "the name of the thread")
    thread = visitor.thread_id

    def spans() -> list[str]:
        return [
            f"{span.name} {span.status} {span.attributes.get('error.type', '')}".strip()
            for root in receiver.named("chainlit.turn")
            if root.attributes["gen_ai.conversation.id"] == thread
            for span in receiver.trace(root)
            if span.name.startswith("chainlit.data_layer")
        ]

    # The greeting and its step, held back; the message, the tool's step and the answer.
    def all_there() -> bool:
        names = Counter(s.split()[1] for s in spans())
        # A look at the thread for each update of a step, and one for that of the thread.
        return names["update_step"] == 3 and names["get_thread"] == 4

    await asyncio.to_thread(wait_until, all_there, 60, "the spans")
    assert "chainlit.data_layer update_thread unset" in spans()
    assert "chainlit.data_layer create_step error RuntimeError" in spans()
    roots = [
        r
        for r in receiver.named("chainlit.turn")
        if r.attributes["gen_ai.conversation.id"] == thread
    ]
    trace = receiver.trace(roots[0])
    names = {span.id: span.name.split()[-1] for span in trace}
    nested = [span for span in trace if span.name == "chainlit.data_layer get_thread"]
    # What `update_thread` leaves behind is below the turn, if that still goes on, else below it.
    assert {names[span.parent] for span in nested} - {"chainlit.turn"} <= {
        "update_step",
        "update_thread",
    }
    assert sum(names[span.parent] == "update_step" for span in nested) == 3
    assert "disk full" not in receiver.everything
    await visitor.leave(clear=True)


SWALLOWING = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.data.sql_alchemy import SQLAlchemyDataLayer


@cl.data_layer
def layer():
    return SQLAlchemyDataLayer("sqlite+aiosqlite:///empty.db")


@cl.on_message
async def on_message(message):
    await cl.Message("done").send()
"""


async def test_what_a_layer_swallows_is_an_error_all_the_same() -> None:
    with ChainlitServer({"app.py": SWALLOWING}) as server:
        visitor = Visitor(server.url)
        await visitor.connect()
        assert (await visitor.say("anything")).texts == ["done"]

        def swallowed() -> float:
            return server.scrape().sum(
                OPERATIONS,
                chainlit_data_layer_name="SQLAlchemyDataLayer",
                chainlit_outcome="error",
            )

        # The tables are missing, so nothing can be stored: the thread, the message, the answer.
        await asyncio.to_thread(wait_until, lambda: swallowed() >= 3, 60, "the errors")
        await visitor.leave(clear=True)
        scrape = server.scrape()
        assert server.log.count("no such table") >= 3
        assert scrape.sum(OPERATIONS, chainlit_outcome="ok") == 0
        assert scrape.sum("chainlit_turn_duration_seconds_count", chainlit_outcome="ok") == 1
        assert scrape.sum("chainlit_otel_internal_errors_total") == 0


IDENTITY = """
import asyncio
import sys

import chainlit_otel
import chainlit.data
from chainlit.config import config
from chainlit.data.base import BaseDataLayer

import chainlit.socket


class Layer(BaseDataLayer):
    async def get_user(self, identifier):
        raise KeyError(identifier)


Layer.__abstractmethods__ = frozenset()
holders = {
    name: vars(module)["get_data_layer"]
    for name, module in sys.modules.items()
    if name.startswith("chainlit.") and "get_data_layer" in vars(module)
}
assert len(holders) >= 8, holders
config.code.data_layer = Layer

for round in range(2):
    chainlit_otel.enable()
    assert not [n for n, f in holders.items() if vars(sys.modules[n])["get_data_layer"] is f]
    layer = chainlit.data.get_data_layer()
    assert "get_user" in vars(layer)
    assert asyncio.iscoroutinefunction(layer.get_user)
    assert layer.get_user.__name__ == "get_user"
    assert chainlit.data.get_data_layer() is layer
    try:
        asyncio.run(layer.get_user("x"))
    except KeyError as error:
        assert error.args == ("x",)
    else:
        raise AssertionError("the error is gone")
    surviving = layer.get_user
    chainlit_otel.disable()
    assert vars(layer) == {}, vars(layer)
    assert not [n for n, f in holders.items() if vars(sys.modules[n])["get_data_layer"] is not f]
print("same")
"""


def run_alone(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=directory,
        env={**os.environ, **python_path(), "OTEL_EXPORTER_PROMETHEUS_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_all_is_as_it_was_after_disable(tmp_path: Path) -> None:
    done = run_alone(IDENTITY, tmp_path)
    assert done.stdout.splitlines()[-1:] == ["same"], done.stderr


LAYERS = """
import asyncio
import dataclasses
import gc
import importlib.util
import sys
import types
import weakref

import chainlit.server
from chainlit import data
from chainlit.config import config

# A module of the app, which has the name from before it is enabled.
desk = sys.modules["desk"] = types.ModuleType("desk")
desk.get_data_layer = data.get_data_layer

import chainlit_otel

chainlit_otel.enable()


@dataclasses.dataclass(frozen=True)
class Frozen:
    rows: list

    async def get_user(self, identifier):
        return identifier

    async def get_thread(self, thread_id):
        return None


class Around:
    def __init__(self, inner):
        vars(self)["inner"] = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __setattr__(self, name, value):
        setattr(self.inner, name, value)


class Slim:
    __slots__ = ()

    async def get_user(self, identifier):
        return identifier


gone = []
for layer in (Frozen([]), Around(Frozen([])), Slim()):
    config.code.data_layer = lambda: layer
    data._data_layer, data._data_layer_initialized = None, False
    for _ in range(2):
        assert asyncio.run(desk.get_data_layer().get_user("x")) == "x"
    if not isinstance(layer, Slim):
        assert "get_user" in vars(layer)
        gone.append(weakref.ref(layer))
gc.collect()
assert [reference() for reference in gone] == [None, None]

# This one would load when it is asked for anything, and cannot.
def load(module):
    raise ImportError("an optional package is missing")


loader = types.SimpleNamespace(create_module=lambda spec: None, exec_module=load)
lazy = importlib.util.LazyLoader(loader)
spec = importlib.machinery.ModuleSpec("lazy", lazy)
sys.modules["lazy"] = importlib.util.module_from_spec(spec)
lazy.exec_module(sys.modules["lazy"])

# Another one has got the name only since, and is observed again after a pause, too.
late = sys.modules["late"] = types.ModuleType("late")
late.get_data_layer = data.get_data_layer
chainlit_otel.disable()
assert late.get_data_layer is data.get_data_layer
chainlit_otel.enable()
assert late.get_data_layer is data.get_data_layer
chainlit_otel.disable()
print(desk.get_data_layer is data.get_data_layer, not hasattr(data.get_data_layer, "__wrapped__"))
"""


def test_layers_of_every_kind_and_those_that_are_replaced(tmp_path: Path) -> None:
    done = run_alone(LAYERS, tmp_path)
    assert done.stdout.splitlines()[-1:] == ["True True"], done.stderr
    # Some releases of Chainlit have the log on one, some on the other.
    log = done.stdout + done.stderr
    assert "probe failed" not in log
    assert log.count("Slim is not observed: it has __slots__") == 1
