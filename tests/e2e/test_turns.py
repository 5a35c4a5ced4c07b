"""Turns of every kind against a script that knows what it asked for."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import pytest

from chainlit_otel.testing import Visitor
from chainlit_otel.testing.page import Event
from tests.support import STARTS_AGAIN
from tests.support.scrape import Scrape, wait_until, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

SEED = 20260714
TURNS = 120
TOKENS = 20

APP = """
import asyncio
import json
import time
from datetime import datetime

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.set_chat_profiles
async def profiles(user):
    return [cl.ChatProfile(name="quick", markdown_description="quick")]


@cl.step(type="tool")
async def outer(question):
    return await inner(question)


@cl.step(type="llm")
async def inner(question):
    return question


@cl.step(type="retrieval")
def blocking(question):
    return question


async def stream(text):
    answer = cl.Message("")
    for token in text:
        await answer.stream_token(token)
    await answer.send()


@cl.on_message
async def on_message(message):
    # The first that the app can know of the message, which is after Chainlit has it.
    arrived = datetime.fromisoformat(message.created_at.removesuffix("Z") + "+00:00")
    kind = message.content.split()[0]
    if kind == "stream":
        await asyncio.sleep(0.02)
        begun = time.time()
        await stream("t")
        first = time.time()
        with open("first.jsonl", "a") as file:
            file.write(json.dumps([arrived.timestamp(), begun, first]) + "\\n")
        await stream("u" * 19)
    elif kind == "raise":
        raise ValueError("no " + message.content)
    elif kind == "wait":
        await cl.Message("waiting").send()
        await asyncio.sleep(60)
    elif kind == "ask":
        await cl.AskUserMessage("your name?", timeout=30).send()
    elif kind == "unanswered":
        await cl.AskUserMessage("your name?", timeout=1).send()
    elif kind == "tools":
        await outer("a")
        blocking("b")
        await cl.Message("done").send()
    elif kind == "thread":
        # Chainlit cannot do that: the step has no event loop there, and raises.
        await cl.make_async(blocking)("b")
    elif kind == "block":
        time.sleep(0.05)
        await cl.Message("done").send()
    elif kind == "late":
        await asyncio.sleep(1)
        await cl.Message("nobody reads this").send()


@cl.on_chat_start
async def start():
    pass
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP}, config={"project": {"session_timeout": 60}}) as server:
        yield server


class Script:
    """Sends messages and keeps a ledger of what should come of them."""

    def __init__(self, server: ChainlitServer) -> None:
        self.server = server
        self.done: Counter[str] = Counter()

    async def visit(self, kinds: list[str]) -> None:
        visitor = Visitor(self.server.url)
        await visitor.connect()
        for kind in kinds:
            action: Callable[[Visitor], Awaitable[None]] = getattr(self, kind)
            await action(visitor)
        self.done["sessions"] += 1
        self.done["turns"] += len(kinds)
        await visitor.leave(clear=True)

    async def stream(self, visitor: Visitor) -> None:
        assert (await visitor.say("stream")).texts == ["t", "u" * (TOKENS - 1)]
        self.done["ok"] += 1
        self.done["run ok"] += 1
        self.done["chunks"] += TOKENS
        self.done["inbound"] += 1
        self.done["outbound"] += 2
        self.done["first"] += 1
        self.done["streamed"] += 1

    async def fail(self, visitor: Visitor) -> None:
        await visitor.say("raise an error")
        self.done["error"] += 1
        self.done["run error"] += 1
        self.done["inbound"] += 1

    async def stop(self, visitor: Visitor) -> None:
        seen = len(visitor.events)
        turn = asyncio.create_task(visitor.say("wait"))
        await visitor.until(
            lambda: any(_is_message(e, "waiting") for e in visitor.events[seen:]), "the app to wait"
        )
        await visitor.emit("stop")
        await turn
        self.done["cancelled"] += 1
        self.done["run cancelled"] += 1
        self.done["inbound"] += 1
        self.done["outbound"] += 2  # `waiting` and `Task manually stopped.`
        self.done["first"] += 1

    async def answer(self, visitor: Visitor) -> None:
        await visitor.say("ask")
        await visitor.say("Ada")
        self.done["ok"] += 1
        self.done["run ok"] += 1
        self.done["answered"] += 1
        self.done["inbound"] += 2
        self.done["outbound"] += 1
        self.done["first"] += 1

    async def ignore(self, visitor: Visitor) -> None:
        await visitor.say("unanswered")
        await visitor.until(
            lambda: any(event.name == "ask_timeout" for event in visitor.events), "the time-out"
        )
        visitor.events.clear()
        await wait_until_async(self._idle, 60, "the turn to end")
        self.done["ok"] += 1
        self.done["run ok"] += 1
        self.done["timeout"] += 1
        self.done["inbound"] += 1
        self.done["outbound"] += 1
        self.done["first"] += 1

    async def tools(self, visitor: Visitor) -> None:
        assert (await visitor.say("tools")).texts == ["done"]
        self.done["ok"] += 1
        for kind in ("run", "tool", "llm", "retrieval"):
            self.done[f"{kind} ok"] += 1
        self.done["inbound"] += 1
        self.done["outbound"] += 1
        self.done["first"] += 1

    async def thread(self, visitor: Visitor) -> None:
        await visitor.say("thread")
        self.done["error"] += 1
        self.done["run error"] += 1
        self.done["inbound"] += 1

    async def block(self, visitor: Visitor) -> None:
        assert (await visitor.say("block")).texts == ["done"]
        self.done["ok"] += 1
        self.done["run ok"] += 1
        self.done["inbound"] += 1
        self.done["outbound"] += 1
        self.done["first"] += 1

    async def lose(self, visitor: Visitor) -> None:
        before = self.done["dropped"]
        seen = len(visitor.events)
        await visitor.send("late")
        await visitor.until(
            lambda: any(_is_run(event) for event in visitor.events[seen:]), "the app to start"
        )
        await visitor.drop()
        await wait_until_async(self._dropped(before + 1), 60, "the answer to be lost")
        await visitor.reconnect()
        self.done["ok"] += 1
        self.done["run ok"] += 1
        self.done["dropped"] += 1
        self.done["inbound"] += 1

    async def _idle(self) -> bool:
        return (await self._scrape()).value("chainlit_turn_active") == 0

    def _dropped(self, count: int) -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            lost = (await self._scrape()).value(
                "chainlit_emit_dropped_total", chainlit_emit_event="new_message"
            )
            return lost >= count

        return check

    async def _scrape(self) -> Scrape:
        return await asyncio.to_thread(self.server.scrape)


def _is_message(event: Event, text: str) -> bool:
    return bool(event.name == "new_message" and event.data["output"] == text)


def _is_run(event: Event) -> bool:
    return bool(event.name == "new_message" and event.data["type"] == "run")


def test_the_metrics_equal_the_ledger_of_the_script(server: ChainlitServer) -> None:
    dice = random.Random(SEED)
    kinds = ["stream", "fail", "stop", "answer", "ignore", "tools", "thread", "block", "lose"]
    weights = [8, 4, 3, 3, 1, 4, 1, 2, 1]
    actions = [*kinds, *dice.choices(kinds, weights, k=TURNS - len(kinds))]
    dice.shuffle(actions)
    script = Script(server)

    async def run() -> None:
        # One after the other: what is asserted of each turn would blur in a crowd.
        for start in range(0, TURNS, 20):
            await script.visit(actions[start : start + 20])

    asyncio.run(run())
    done = script.done
    wait_until(
        lambda: server.scrape().sum("chainlit_session_ends_total") == done["sessions"],
        60,
        "everybody to be gone",
    )
    recorded = server.scrape()
    print(dict(done))
    done["run ok"] += done["sessions"]  # `on_chat_start` is a run, too
    if STARTS_AGAIN:
        done["run ok"] += done["dropped"]

    for outcome in ("ok", "error", "cancelled"):
        label = {"chainlit_outcome": outcome}
        assert recorded.value("chainlit_turn_duration_seconds_count", **label) == done[outcome]
        for kind in ("run", "tool", "llm", "retrieval"):
            steps = "chainlit_step_duration_seconds_count"
            if done[f"{kind} {outcome}"]:
                counted = recorded.value(steps, **label, chainlit_step_type=kind)
                assert counted == done[f"{kind} {outcome}"], (kind, outcome)
        called = {"chainlit_callback_name": "on_message", **label}
        assert recorded.value("chainlit_callback_duration_seconds_count", **called) == done[outcome]
    for outcome in ("answered", "timeout", "cancelled"):
        asked = {"chainlit_ask_type": "text", "chainlit_outcome": outcome}
        counted = recorded.value("chainlit_ask_duration_seconds_count", **asked)
        assert counted == (done[outcome] if outcome != "cancelled" else 0)
    for direction in ("inbound", "outbound"):
        counted = recorded.value("chainlit_messages_total", chainlit_message_direction=direction)
        assert counted == done[direction], direction
    assert recorded.value("chainlit_turn_output_chunks_total") == done["chunks"]
    assert recorded.value("chainlit_turn_time_per_output_chunk_seconds_count") == done["streamed"]
    assert recorded.value("chainlit_turn_time_to_first_token_seconds_count") == done["first"]
    lost = recorded.value("chainlit_emit_dropped_total", chainlit_emit_event="new_message")
    assert lost == done["dropped"]
    assert recorded.value("chainlit_turn_undelivered_total") == done["dropped"]
    assert recorded.value("chainlit_turn_oldest_waiting_seconds") == 0
    cleared = {"chainlit_session_end_reason": "cleared"}
    assert recorded.value("chainlit_session_turns_count", **cleared) == done["sessions"]
    assert recorded.value("chainlit_session_turns_sum", **cleared) == done["turns"] == TURNS
    assert recorded.value("chainlit_turn_active") == 0
    assert recorded.value("chainlit_turn_peak", chainlit_peak_window="process") == 1
    assert recorded.sum("chainlit_otel_internal_errors_total") == 0


def test_time_to_first_token_is_what_the_clock_of_the_app_says(server: ChainlitServer) -> None:
    sent: list[float] = []

    async def stream() -> None:
        visitor = Visitor(server.url)
        await visitor.connect()
        for _ in range(20):
            sent.append(time.time())
            await visitor.say("stream")
        await visitor.leave(clear=True)

    def said() -> list[list[float]]:
        return [json.loads(line) for line in server.read("first.jsonl").splitlines()]

    def recorded_times() -> tuple[float, float]:
        recorded, name = server.scrape(), "chainlit_turn_time_to_first_token_seconds"
        return recorded.value(f"{name}_count"), recorded.value(f"{name}_sum")

    before, (count, seconds) = said(), recorded_times()
    asyncio.run(stream())
    after, (new_count, new_seconds) = said(), recorded_times()
    # However long a busy machine lets any of them wait: from what the app saw to what it did last
    # before the token, and from what the visitor did to what the app saw of the token.
    turns = list(zip(sent, after[len(before) :], strict=True))
    least = sum(begun - arrived for _, (arrived, begun, _) in turns)
    most = sum(first - asked for asked, (_, _, first) in turns)
    print(f"20 turns: {new_seconds - seconds:.4f} s in the ledger, {least:.4f} to {most:.4f} s")
    assert new_count - count == 20
    assert least <= new_seconds - seconds <= most
