"""What is the current span: over abandoned generators, tasks, cancellation and the end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator

import pytest

from chainlit_otel.testing import Visitor
from tests.support.otlp import Receiver, Span
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import asyncio
import contextlib

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from opentelemetry import trace

tracer = trace.get_tracer("app")
background = set()
kept = []
go_on = asyncio.Event()


async def step(name, inner=None):
    async with cl.Step(name=name, type="tool"):
        if inner is not None:
            await inner


def mark(name):
    tracer.start_span(name).end()


async def letters(steps, name):
    async with cl.Step(name=name, type="tool") as step:
        steps.append(step)
        for letter in "abc":
            yield letter


async def abandon():
    steps = []
    async for _ in letters(steps, "abandoned"):
        break
    # Nobody holds the generator: it is closed here or in a task of its own, and that begins now.
    while steps[0].end is None:
        await asyncio.sleep(0.001)


async def abandoned():
    await abandon()
    await step("next")
    mark("of the app")


async def abandoned_deep():
    async with cl.Step(name="outer", type="tool"):
        await abandon()
        await abandon()
        await step("inside")
    mark("of the app")
    await step("next")


async def kept_open():
    generator = letters([], "kept")
    kept.append(generator)
    await generator.__anext__()


async def closed_later():
    await step("before")
    await kept.pop().aclose()
    mark("of the app")
    await step("next")


async def crossed():
    first, second = cl.Step(name="first", type="tool"), cl.Step(name="second", type="tool")
    await first.__aenter__()
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    await second.__aexit__(None, None, None)
    mark("of the app")
    await step("next")


async def task():
    async with cl.Step(name="outer", type="tool"):
        await asyncio.create_task(step("inner", step("innermost")))
    await step("next")


async def gathered():
    left, right = asyncio.Event(), asyncio.Event()

    async def meet(mine, other):
        mine.set()
        await other.wait()

    await asyncio.gather(step("left", meet(left, right)), step("right", meet(right, left)))
    await step("next")


async def host_spans():
    with tracer.start_as_current_span("of the app"):
        await step("inner")
    await step("next")


async def outliving():
    begun = asyncio.Event()

    async def work():
        async with cl.Step(name="long", type="tool"):
            begun.set()
            await go_on.wait()
        await step("late")
        await step("later")

    background.add(asyncio.create_task(work()))
    await begun.wait()


async def after():
    go_on.set()
    await asyncio.gather(*background)
    background.clear()
    go_on.clear()
    await step("next")


async def slow():
    async with cl.Step(name="outer", type="tool"):
        async for _ in letters([], "abandoned"):
            await cl.Message("waiting").send()
            await asyncio.sleep(60)


async def cancelled_inside():
    begun = asyncio.Event()

    async def wait():
        begun.set()
        await asyncio.sleep(60)

    work = asyncio.create_task(step("cancelled", wait()))
    await begun.wait()
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work
    await step("next")


@cl.on_message
async def on_message(message):
    await globals()[message.content]()
    await cl.Message("done").send()
"""

MAIN = """
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

app = FastAPI()
mount_chainlit(app=app, target="app.py", path="/chat")
"""

RUN = "on_message"

# What is said turn by turn, and the parent of each step and each span of the app in these turns.
SCRIPTS: dict[str, list[dict[str, str]]] = {
    "abandoned": [{"abandoned": RUN, "next": RUN, "of the app": RUN}],
    "abandoned_deep": [
        {
            "outer": RUN,
            "abandoned": "outer",
            "inside": "outer",
            "next": RUN,
            "of the app": RUN,
        }
    ],
    "kept_open closed_later": [
        {"kept": RUN},
        {"before": RUN, "next": RUN, "of the app": RUN},
    ],
    "crossed": [{"first": RUN, "second": "first", "next": RUN, "of the app": RUN}],
    "task": [{"outer": RUN, "inner": "outer", "innermost": "inner", "next": RUN}],
    "gathered": [{"left": RUN, "right": RUN, "next": RUN}],
    "host_spans": [{"of the app": RUN, "inner": "of the app", "next": RUN}],
    "outliving after": [{"long": RUN, "late": RUN, "later": RUN}, {"next": RUN}],
    "cancelled_inside": [{"cancelled": RUN, "next": RUN}],
}


def server_of(host: str, receiver: Receiver) -> ChainlitServer:
    if host == "run":
        return ChainlitServer({"app.py": APP}, env=receiver.env)
    return ChainlitServer(
        {"app.py": APP, "main.py": MAIN},
        env=receiver.env,
        command=["uvicorn", "main:app", "--port", "{port}"],
        path="/chat",
    )


# `chainlit run` patches the event loop so that it can be entered twice; uvicorn does not.
@pytest.fixture(scope="module", params=["run", "mount"])
def server(request: pytest.FixtureRequest, receiver: Receiver) -> Iterator[ChainlitServer]:
    with server_of(request.param, receiver) as server:
        yield server


def turns_of(receiver: Receiver, visitor: Visitor) -> list[Span]:
    roots = receiver.roots(visitor.session_id)
    return [span for span in roots if span.name == "chainlit.turn"]


async def turns(receiver: Receiver, visitor: Visitor, count: int) -> list[Span]:
    await asyncio.to_thread(
        receiver.wait_for, lambda: len(turns_of(receiver, visitor)) >= count, f"{count} turns"
    )
    found = turns_of(receiver, visitor)
    assert len(found) == count
    assert all(turn.parent == "" for turn in found)
    assert len({turn.trace for turn in found}) == count
    return found


def parents(receiver: Receiver, turn: Span) -> dict[str, str]:
    """The parent of every step and span of the app in a turn, by their names."""
    spans = receiver.trace(turn)
    called = {span.id: span.attributes.get("chainlit.step.name", span.name) for span in spans}
    return {
        called[span.id]: called[span.parent]
        for span in spans
        if not span.name.startswith(("chainlit.turn", "chainlit.callback", "chainlit.step run"))
    }


def kinds(receiver: Receiver, turn: Span) -> list[str]:
    """What every turn of this app has, besides its steps and spans of the app."""
    names = [span.name for span in receiver.trace(turn)]
    return sorted(name for name in names if name.startswith("chainlit.") and "tool" not in name)


@pytest.mark.parametrize("script", SCRIPTS)
async def test_parents(server: ChainlitServer, receiver: Receiver, script: str) -> None:
    visitor = Visitor(server.url)
    await visitor.connect()
    texts = script.split()
    for text in [*texts, "task"]:
        assert (await visitor.say(text)).texts == ["done"]
    *found, clean = await turns(receiver, visitor, len(texts) + 1)
    await visitor.leave(clear=True)
    assert [parents(receiver, turn) for turn in found] == SCRIPTS[script]
    # Whatever it was, the turn after it is as if it had not been.
    assert parents(receiver, clean) == SCRIPTS["task"][0]
    for turn in [*found, clean]:
        assert turn.attributes["chainlit.outcome"] == "ok"
        # A step that the app itself has cancelled has failed, as its page says, too.
        failed = [
            s.attributes["chainlit.step.name"] for s in receiver.trace(turn) if s.status == "error"
        ]
        assert failed == (["cancelled"] if script == "cancelled_inside" and turn in found else [])
        assert kinds(receiver, turn) == [
            "chainlit.callback on_message",
            "chainlit.step run on_message",
            "chainlit.turn",
        ]
    assert "detach" not in server.log


async def test_a_turn_that_is_stopped_leaves_nothing_behind(
    server: ChainlitServer, receiver: Receiver
) -> None:
    visitor = Visitor(server.url)
    await visitor.connect()
    turn = asyncio.create_task(visitor.say("slow"))
    await visitor.until(lambda: waiting(visitor), "the app to wait")
    await visitor.emit("stop")
    await turn
    assert (await visitor.say("task")).texts == ["done"]
    stopped, clean = await turns(receiver, visitor, 2)
    await visitor.leave(clear=True)
    assert stopped.attributes["chainlit.outcome"] == "cancelled"
    assert {span.status for span in receiver.trace(stopped)} == {"unset"}
    assert parents(receiver, stopped)["outer"] == RUN
    assert parents(receiver, clean) == SCRIPTS["task"][0]
    assert "detach" not in server.log


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT], ids=lambda sig: sig.name)
@pytest.mark.parametrize("host", ["run", "mount"])
async def test_a_turn_is_ended_and_exported_when_the_process_stops(
    receiver: Receiver, host: str, sig: signal.Signals
) -> None:
    with server_of(host, receiver) as server:
        visitor = Visitor(server.url, transports=["websocket"])
        await visitor.connect()
        await visitor.send("slow")
        await visitor.until(lambda: waiting(visitor), "the app to wait")
        goodbye = visitor.until(lambda: not visitor.connected, "the server's goodbye")
        await asyncio.gather(asyncio.to_thread(server.stop, sig), goodbye)
        await visitor.drop()
        # Without waiting: all of it had to be exported before the process ended.
        (turn,) = turns_of(receiver, visitor)
        assert turn.attributes["chainlit.outcome"] == "cancelled"
        assert turn.status == "unset"
        assert "detach" not in server.log


def waiting(visitor: Visitor) -> bool:
    return any(e.name == "new_message" and e.data["output"] == "waiting" for e in visitor.events)
