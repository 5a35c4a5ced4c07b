"""Whatever a callback raises, the app, the process and its users fare as without chainlit-otel.

Chainlit catches exceptions. What is none of them, such as `SystemExit`, ends the task of the
callback and perhaps the process: that is the affair of the app, and stays so.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import pytest

from chainlit_otel.testing import Visitor
from chainlit_otel.testing.errors import VisitError
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import asyncio

import chainlit as cl


def deeper():
    return deeper() + 1


class Unusual(BaseException):
    pass


def raise_it():
    if KIND == "RecursionError":
        deeper()
    raise {
        "SystemExit": SystemExit(3),
        "KeyboardInterrupt": KeyboardInterrupt(),
        "GeneratorExit": GeneratorExit(),
        "CancelledError": asyncio.CancelledError(),
        "MemoryError": MemoryError(),
        "Unusual": Unusual("odd"),
    }[KIND]


@cl.on_chat_start
async def start():
    if cl.context.session.client_type == "copilot":
        raise_it()


@cl.on_message
async def answer(message):
    if message.content == "raise":
        raise_it()
    if message.content == "raise at the end":
        cl.user_session.set("raises", True)
    if message.content == "raise in a step":
        async with cl.Step(name="work"):
            raise_it()
    if message.content == "raise in a task":
        await asyncio.create_task(fail())
    if message.content == "buttons":
        await cl.Message("press", actions=[cl.Action(name="press", payload={})]).send()
        return
    await cl.Message("You said: " + message.content).send()


async def fail():
    raise_it()


@cl.action_callback("press")
async def press(action):
    raise_it()


@cl.on_settings_update
async def update(settings):
    raise_it()


@cl.on_stop
def stop():
    raise_it()


@cl.on_chat_end
def end():
    if cl.user_session.get("raises"):
        raise_it()
"""

ENABLE = "import chainlit_otel\n\nchainlit_otel.enable()\n"
KINDS = (
    "SystemExit",
    "KeyboardInterrupt",
    "GeneratorExit",
    "CancelledError",
    "MemoryError",
    "RecursionError",
    "Unusual",
)
# Longer than any answer takes that comes at all.
PATIENCE = 5


def said(answer: Any) -> tuple[Any, ...]:
    return answer.texts, [step.name for step in answer.steps], answer.error, answer.stopped


async def attempt(server: ChainlitServer, what: str) -> list[Any]:
    """What somebody gets who does something at which the app raises."""
    client = "copilot" if what == "begin" else "webapp"
    visitor = Visitor(server.url, client_type=client, transports=["websocket"], timeout=PATIENCE)
    got: list[Any] = []
    try:
        await visitor.connect()
        if what == "press":
            await visitor.say("buttons")
            got.append(said(await visitor.press("press")))
        elif what == "settings":
            await visitor.change_settings(tone="polite")
        elif what == "stop":
            await visitor.stop()
        elif what != "begin":
            got.append(said(await visitor.say(what)))
        got.append(said(await visitor.say("and now")))
    except VisitError as error:
        got.append(type(error).__name__)
    with contextlib.suppress(VisitError):
        await visitor.leave(clear=visitor.connected)
    return got


async def answers(server: ChainlitServer) -> bool:
    """Whether the app is there for somebody else."""
    try:
        async with Visitor(server.url, transports=["websocket"]) as visitor:
            return (await visitor.say("hello")).texts == ["You said: hello"]
    except VisitError:
        return False


WHAT = (
    "begin",
    "raise",
    "raise in a step",
    "raise in a task",
    "raise at the end",
    "press",
    "settings",
    "stop",
)


async def fate(server: ChainlitServer) -> list[Any]:
    """What comes of the app, one attempt after the other; an app that has ended is started anew."""
    fates = []
    for what in WHAT:
        got = await attempt(server, what)
        if not await answers(server):
            # How much came before the end is chance.
            got = [await asyncio.to_thread(server.ended, 60)]
            await asyncio.to_thread(server.start)
        fates.append((what, got))
    return fates


@pytest.mark.parametrize("kind", KINDS)
async def test_the_fate_of_the_app_is_its_own(kind: str) -> None:
    app = f"KIND = {kind!r}\n{APP}"
    with ChainlitServer({"app.py": app}) as bare, ChainlitServer({"app.py": ENABLE + app}) as ours:
        without, observed = await asyncio.gather(fate(bare), fate(ours))
        print(without)
        assert observed == without
        errors = (await asyncio.to_thread(ours.scrape)).sum("chainlit_otel_internal_errors_total")
        assert errors == 0
