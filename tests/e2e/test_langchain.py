"""Chains of LangChain, reported by Chainlit's own handler: their steps nest as the chain does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from chainlit_otel.testing import Visitor
from chainlit_otel.testing.page import Event
from tests.support.otlp import Receiver, Span
from tests.support.scrape import wait_until, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import asyncio
import gc

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool

from chainlit_otel.pipeline.spans import SpanScope


@tool
async def look_up(question: str) -> str:
    "Look something up."
    async with cl.Step(name="shelf", type="retrieval"):
        return question


@tool
async def break_down(question: str) -> str:
    "Fail."
    raise LookupError(question)


class Slow(FakeListChatModel):
    async def _agenerate(self, *args, **kwargs):
        await cl.Message("waiting").send()
        await asyncio.Event().wait()


def model(kind=FakeListChatModel):
    return kind(responses=["in a word"]).with_config(run_name="model")


def named(name, *parts):
    async def run(value, config):
        for part in parts:
            value = await part.ainvoke(value, config)
        return value

    return RunnableLambda(run).with_config(run_name=name)


PROMPT = ChatPromptTemplate.from_messages([("user", "{question}")]).with_config(run_name="prompt")
ASK = {"question": "why"}
CHAINS = {
    "nested": lambda: named("chain", named("inner", look_up, PROMPT, model())),
    "ignored": lambda: PROMPT | model(),
    "failing": lambda: named("chain", named("inner", break_down)),
    "stopped": lambda: named("chain", PROMPT, model(Slow)),
}


@cl.on_message
async def on_message(message):
    if message.content == "census":
        gc.collect()
        scopes = [o for o in gc.get_objects() if type(o) is SpanScope]
        await cl.Message(str(len(scopes))).send()
        return
    try:
        config = {"callbacks": [cl.LangchainCallbackHandler()]}
        await CHAINS[message.content]().ainvoke(ASK, config)
    except LookupError:
        pass
    await cl.Message("done").send()
"""


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP}, env=receiver.env) as server:
        yield server


async def trace_of(receiver: Receiver, visitor: Visitor, turns: int = 1) -> list[Span]:
    """The spans of the last turn of a visitor, once the turn is over."""

    def roots() -> list[Span]:
        found = receiver.roots(visitor.session_id)
        return [span for span in found if span.name == "chainlit.turn"]

    await asyncio.to_thread(wait_until, lambda: len(roots()) == turns, 60, "the turns")
    return receiver.trace(roots()[-1])


def nested(spans: list[Span]) -> dict[str, str]:
    """The parent of every step, by their names."""
    called = {span.id: span.attributes.get("chainlit.step.name", span.name) for span in spans}
    steps = [span for span in spans if span.name.startswith("chainlit.step")]
    return {called[span.id]: called[span.parent] for span in steps}


CALLBACK = "chainlit.callback on_message"
PARENTS = {
    "nested": {
        "on_message": CALLBACK,
        "chain": "on_message",
        "inner": "chain",
        "look_up": "inner",
        # A step that the app enters has no other parent in Chainlit.
        "shelf": "on_message",
        "prompt": "inner",
        "model": "inner",
    },
    # Chainlit shows nothing of a sequence itself.
    "ignored": {"on_message": CALLBACK, "model": "on_message"},
    "failing": {
        "on_message": CALLBACK,
        "chain": "on_message",
        "inner": "chain",
        "break_down": "inner",
    },
}


@pytest.mark.parametrize("chain", PARENTS)
async def test_steps_nest_as_the_chain_does(
    server: ChainlitServer, receiver: Receiver, chain: str
) -> None:
    visitor = Visitor(server.url)
    await visitor.connect()
    assert (await visitor.say(chain)).texts == ["done"]
    spans = await trace_of(receiver, visitor)
    await visitor.leave(clear=True)
    assert nested(spans) == PARENTS[chain]
    assert len({span.trace for span in spans}) == 1
    failed = {
        span.attributes["chainlit.step.name"]
        for span in spans
        if span.attributes.get("chainlit.outcome") == "error"
    }
    assert failed == ({"chain", "inner", "break_down"} if chain == "failing" else set())
    by_name = {span.attributes.get("chainlit.step.name"): span for span in spans}
    for name, parent in PARENTS[chain].items():
        if parent in by_name and name != "shelf":
            assert by_name[parent].start <= by_name[name].start
            assert by_name[name].end <= by_name[parent].end


async def stop_a_model(visitor: Visitor) -> None:
    seen = len(visitor.events)
    turn = asyncio.create_task(visitor.say("stopped"))
    await visitor.until(
        lambda: any(said(event, "waiting") for event in visitor.events[seen:]), "the model to wait"
    )
    await visitor.emit("stop")
    await turn


async def test_a_step_that_never_ends_is_not_exported_and_nothing_stays_of_it(
    server: ChainlitServer, receiver: Receiver
) -> None:
    """LangChain does not tell its handlers of a model whose call is cancelled."""
    visitor = Visitor(server.url)
    await visitor.connect()

    async def held() -> int:
        (answer,) = (await visitor.say("census")).texts
        return int(answer)

    await stop_a_model(visitor)
    spans = await trace_of(receiver, visitor)
    assert nested(spans) == {
        "on_message": CALLBACK,
        "chain": "on_message",
        "prompt": "chain",
    }
    before = await held()
    for _ in range(10):
        await stop_a_model(visitor)

    async def let_go() -> bool:
        return await held() < before + 10

    await wait_until_async(let_go, 60, "less than one a turn to be held")
    assert (await visitor.say("ignored")).texts == ["done"]
    clean = await trace_of(receiver, visitor, 14)
    await visitor.leave(clear=True)
    assert nested(clean) == PARENTS["ignored"]


def said(event: Event, text: str) -> bool:
    return event.name == "new_message" and event.data["output"] == text
