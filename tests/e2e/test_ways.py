"""Whatever way a message comes, and its answer goes: the same figures, to the last one."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Iterator
from functools import partial

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support.http import fetch
from tests.support.otlp import Receiver, Span
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

FRAMES = 40
WAIT = 0.2  # seconds that the app takes its time
# 2026-01-01 in UTC, whatever the time zone of the machine is.
STAMPED = 1_767_225_600 * 10**9

APP = """
import asyncio
import os

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.callbacks import action_callback

WAIT = 0.2


@cl.set_chat_profiles
async def profiles(user):
    return [cl.ChatProfile(name="quick", markdown_description="quick")]


@cl.on_chat_start
async def start():
    @cl.action_callback("made in a chat")
    async def made(action):
        return "done"


# An answer by every way


async def update(message):
    answer = cl.Message("")
    await answer.send()
    answer.content = "hello"
    await answer.update()


async def elements(message):
    await cl.Message("", elements=[cl.Text(name="t", content="x", display="inline")]).send()


async def empty(message):
    await cl.Message("").send()


async def call(message):
    await cl.CopilotFunction(name="look", args={}).acall()


async def nothing(message):
    await asyncio.sleep(WAIT)


async def later(message):
    answer = cl.Message("")
    await answer.send()
    for token in "slow":
        await asyncio.sleep(WAIT)
        await answer.stream_token(token)
    await answer.update()


async def lose(message):
    while not os.path.exists("gone"):
        await asyncio.sleep(0.01)
    text = cl.Message("text")
    await text.send()
    await text.update()
    async with cl.Step(name="search", type="tool"):
        pass
    stream = cl.Message("")
    for token in "four":
        await stream.stream_token(token)
    await stream.send()
    await cl.Text(name="t", content="x", display="inline").send(for_id=text.id)
    await cl.AskUserMessage("who is there?", timeout=1).send()
    await cl.context.emitter.send_call_fn("look", {}, timeout=1)
    await speak(2)


# What ends a turn


async def fail():
    await asyncio.sleep(0.01)
    raise KeyError("x")


async def group(message):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail())
        tasks.create_task(asyncio.sleep(10))


async def group_caught(message):
    try:
        await group(message)
    except Exception:
        await cl.Message("never mind").send()


async def timeout(message):
    await asyncio.wait_for(asyncio.sleep(10), 0.01)


async def timeout_caught(message):
    try:
        await timeout(message)
    except asyncio.TimeoutError:
        await cl.Message("never mind").send()


async def cancel_soon():
    asyncio.get_running_loop().call_later(0.01, asyncio.current_task().cancel)
    await asyncio.sleep(10)


async def watchdog(message):
    await cancel_soon()


async def watchdog_caught(message):
    try:
        await cancel_soon()
    except asyncio.CancelledError:
        await cl.Message("never mind").send()


async def watchdog_raises(message):
    try:
        await cancel_soon()
    except asyncio.CancelledError:
        raise RuntimeError("the model took too long")


async def step_timeout(message):
    begun = asyncio.Event()

    async def search():
        async with cl.Step(name="search", type="retrieval"):
            begun.set()
            await asyncio.sleep(10)

    searching = asyncio.create_task(search())
    await begun.wait()
    try:
        await asyncio.wait_for(searching, 0.01)
    except asyncio.TimeoutError:
        pass


async def stop(message):
    async with cl.Step(name="search", type="embedding"):
        await cl.Message("waiting").send()
        await asyncio.sleep(60)


async def stop_caught(message):
    try:
        await stop(message)
    except asyncio.CancelledError:
        await cl.Message("as you like").send()


async def stop_raises(message):
    try:
        await stop(message)
    except asyncio.CancelledError:
        raise RuntimeError("stopped")


# Steps, questions and callbacks


async def rename(message):
    async with cl.Step(name="first", type="tool") as step:
        step.type = "rerank"
        cl.context.current_step.name = "true name"


async def stamp(message):
    step = cl.Step(name="chain", type="llm")
    step.start = "2026-01-01T00:00:00Z"
    await step.send()
    step.name, step.end = "model", "2026-01-01T00:00:02Z"
    await step.update()


async def impatient(message):
    question = cl.AskUserMessage("your name?", timeout=30)
    try:
        await asyncio.wait_for(question.send(), 1)
    except asyncio.TimeoutError:
        pass


async def register(message):
    @action_callback("made in a turn")
    def made(action):
        raise RuntimeError("jammed")


async def speak(frames):
    for _ in range(frames):
        chunk = cl.OutputAudioChunk(mimeType="pcm16", data=b"0", track="1")
        await cl.context.emitter.send_audio_chunk(chunk)


@cl.on_message
async def on_message(message):
    await globals()[message.content](message)


@cl.on_audio_start
async def audio_start():
    return True


@cl.on_audio_chunk
async def audio_chunk(chunk):
    if chunk.mimeType == "broken":
        raise ValueError("no such voice")


@cl.on_audio_end
async def audio_end():
    if cl.user_session.get("chat_profile") == "quick":
        raise ValueError("nothing was said")
    await speak(3)
    await cl.Message("hello").send()
"""


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    config = {
        "project": {"session_timeout": 60},
        "features.audio": {"enabled": True, "sample_rate": 24000},
    }
    env = {**receiver.env, "TZ": "Asia/Kolkata"}
    with ChainlitServer({"app.py": APP}, config=config, env=env) as server:
        # As every page does; Chainlit before 2.7.2 asks the app for its profiles here alone.
        fetch(f"{server.url}/project/settings").raise_for_status()
        yield server


TURNS = "chainlit_turn_duration_seconds_count"
FIRST = "chainlit_turn_time_to_first_token_seconds"
PACE = "chainlit_turn_time_per_output_chunk_seconds"


def figures(scrape: Scrape) -> Counter[str]:
    found: dict[str, float] = {
        outcome: scrape.sum(TURNS, chainlit_outcome=outcome)
        for outcome in ("ok", "error", "cancelled")
    }
    for direction in ("inbound", "outbound"):
        sent = {"chainlit_message_direction": direction}
        found[direction] = scrape.value("chainlit_messages_total", **sent)
    found["first"] = scrape.sum(f"{FIRST}_count")
    found["chunks"] = scrape.value("chainlit_turn_output_chunks_total")
    return Counter({name: int(count) for name, count in found.items()})


async def scraped(server: ChainlitServer) -> Scrape:
    return await asyncio.to_thread(server.scrape)


class Script:
    """One visitor, and what has changed in the figures since they came."""

    def __init__(self, server: ChainlitServer, profile: str = "") -> None:
        self.server = server
        functions = {"look": lambda args: None}
        self.visitor = Visitor(server.url, chat_profile=profile, functions=functions)
        self.turns = 0.0
        self.before = Scrape("")

    async def __aenter__(self) -> Script:
        await self.visitor.connect()
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.visitor.connected:
            await self.visitor.leave(clear=True)

    async def begin(self) -> None:
        """Forget what was before."""
        self.before = await scraped(self.server)
        self.turns = self.before.sum(TURNS)
        self.visitor.events.clear()

    async def over(self, turns: int = 1) -> Scrape:
        """Wait for the end of so many turns."""

        async def check() -> Scrape | None:
            scrape = await scraped(self.server)
            done = scrape.sum(TURNS) == self.turns + turns
            done = done and scrape.value("chainlit_turn_active") == 0
            return await scraped(self.server) if done else None

        found = await wait_until_async(check, 60, "the end of the turn")
        assert found is not None
        assert found.sum("chainlit_otel_internal_errors_total") == 0
        return found

    async def say(self, text: str) -> Scrape:
        await self.visitor.send(text)
        return await self.over()

    def grown(self, after: Scrape) -> Counter[str]:
        return +(figures(after) - figures(self.before))

    def count(self, after: Scrape, name: str, **labels: str) -> float:
        return after.sum(name, **labels) - self.before.sum(name, **labels)


async def stopped(script: Script, text: str) -> Scrape:
    visitor = script.visitor
    await visitor.send(text)
    await visitor.until(
        lambda: any(
            e.name == "new_message" and e.data["output"] == "waiting" for e in visitor.events
        ),
        "the app to wait",
    )
    await visitor.emit("stop")
    return await script.over()


# What the app does, to what must come of it beside one message of the user.
ANSWERS: dict[str, dict[str, int]] = {
    "update": {"ok": 1, "outbound": 1, "first": 1},
    "elements": {"ok": 1, "outbound": 1, "first": 1},
    "empty": {"ok": 1, "outbound": 1},
    "call": {"ok": 1},
    "nothing": {"ok": 1},
    "group": {"error": 1},
    "group_caught": {"ok": 1, "outbound": 1, "first": 1},
    "timeout": {"error": 1},
    "timeout_caught": {"ok": 1, "outbound": 1, "first": 1},
    "watchdog": {"error": 1},
    "watchdog_caught": {"ok": 1, "outbound": 1, "first": 1},
    "watchdog_raises": {"error": 1},
}
# `waiting` and Chainlit's own word are two messages.
STOPS: dict[str, dict[str, int]] = {
    "stop": {"cancelled": 1, "outbound": 2, "first": 1},
    "stop_caught": {"cancelled": 1, "outbound": 3, "first": 1},
    "stop_raises": {"error": 1, "outbound": 2, "first": 1},
}


async def test_answers_of_every_kind_and_whatever_ends_them(server: ChainlitServer) -> None:
    found, callbacks = {}, {}
    async with Script(server) as script:
        for text in (*ANSWERS, *STOPS):
            await script.begin()
            after = await (stopped(script, text) if text in STOPS else script.say(text))
            found[text] = script.grown(after)
            callbacks[text] = [
                outcome
                for outcome in ("ok", "error", "cancelled")
                if script.count(
                    after,
                    "chainlit_callback_duration_seconds_count",
                    chainlit_callback_name="on_message",
                    chainlit_outcome=outcome,
                )
            ]
    expected = {text: {"inbound": 1, **of} for text, of in {**ANSWERS, **STOPS}.items()}
    assert found == expected
    # What the app has caught ends its turn, by the user's will, and not its callback.
    assert callbacks.pop("stop_caught") == ["ok"]
    for text, outcomes in callbacks.items():
        assert set(outcomes) <= set(expected[text]), text


async def test_a_step_is_cancelled_by_its_user_alone(server: ChainlitServer) -> None:
    steps = "chainlit_step_duration_seconds_count"
    async with Script(server) as script:
        after = await script.say("step_timeout")
        failed = {"chainlit_step_type": "retrieval", "chainlit_outcome": "error"}
        assert script.count(after, steps, **failed) == 1
    async with Script(server) as script:
        after = await stopped(script, "stop")
        ended = {"chainlit_step_type": "embedding", "chainlit_outcome": "cancelled"}
        assert script.count(after, steps, **ended) == 1


async def test_first_token_and_pace_are_those_of_the_tokens(server: ChainlitServer) -> None:
    async with Script(server, "quick") as script:
        after = await script.say("later")
    labels = {"chainlit_chat_profile": "quick"}
    assert script.grown(after) == {"ok": 1, "inbound": 1, "outbound": 1, "first": 1, "chunks": 4}
    assert script.count(after, TURNS, chainlit_outcome="ok", **labels) == 1
    assert after.value(f"{FIRST}_count", **labels) == 1
    # The empty message at the start is nothing to be seen.
    first = after.value(f"{FIRST}_sum", **labels)
    assert first >= WAIT
    assert script.count(after, f"{PACE}_count") == 1
    assert script.count(after, f"{PACE}_sum") >= WAIT
    whole = script.count(after, "chainlit_turn_duration_seconds_sum", **labels)
    assert first + 3 * script.count(after, f"{PACE}_sum") <= whole


async def test_an_edited_message_is_a_message_and_a_turn(server: ChainlitServer) -> None:
    async with Script(server) as script:
        message = await script.visitor.send("empty")
        await script.over()
        edited = {"id": message, "output": "update", "type": "user_message", "name": "User"}
        await script.visitor.emit("edit_message", {"message": edited})
        after = await script.over(2)
        assert script.grown(after) == {"ok": 2, "inbound": 2, "outbound": 2, "first": 1}


async def test_a_file_of_the_user_is_no_answer(server: ChainlitServer) -> None:
    async with Script(server) as script:
        visitor = script.visitor
        async with httpx.AsyncClient() as http:
            uploaded = await http.post(
                f"{server.url}/project/file",
                params={"session_id": visitor.session_id},
                files={"file": ("seen.txt", b"text", "text/plain")},
            )
        message = {
            "id": str(uuid.uuid4()),
            "name": "User",
            "type": "user_message",
            "output": "nothing",
            "createdAt": "2026-01-01T00:00:00Z",
        }
        files = [{"id": uploaded.json()["id"]}]
        await visitor.emit("client_message", {"message": message, "fileReferences": files})
        after = await script.over()
        await visitor.until(lambda: any(e.name == "element" for e in visitor.events), "the file")
        assert script.grown(after) == {"ok": 1, "inbound": 1}


def frame(kind: str = "pcm16") -> dict[str, object]:
    return {"isStart": False, "mimeType": kind, "elapsedTime": 1, "data": b"\0" * 200}


async def test_a_voice_is_a_turn_and_its_frames_are_nothing(
    server: ChainlitServer, receiver: Receiver
) -> None:
    calls = "chainlit_callback_duration_seconds_count"
    async with Script(server) as script:
        visitor = script.visitor
        await visitor.emit("audio_start")
        for _ in range(FRAMES):
            await visitor.emit("audio_chunk", frame())
        await visitor.emit("audio_end")
        after = await script.over()
        assert script.grown(after) == {"ok": 1, "inbound": 1, "outbound": 1, "first": 1}
        assert script.count(after, calls, chainlit_callback_name="on_audio_end") == 1
        assert script.count(after, calls, chainlit_callback_name="on_audio_chunk") == 0
        session = visitor.session_id

    def turns() -> list[Span]:
        return [span for span in receiver.roots(session) if span.name == "chainlit.turn"]

    await asyncio.to_thread(receiver.wait_for, turns)
    (turn,) = turns()
    assert turn.parent == ""
    assert sorted(span.name for span in receiver.trace(turn)) == [
        "chainlit.callback on_audio_end",
        "chainlit.step run on_audio_end",
        "chainlit.turn",
    ]
    assert receiver.named("chainlit.callback on_audio_chunk") == []


async def test_a_voice_that_fails_is_an_error_and_so_is_each_frame_that_does(
    server: ChainlitServer, receiver: Receiver
) -> None:
    calls, failed = "chainlit_callback_duration_seconds_count", {"chainlit_outcome": "error"}
    async with Script(server, "quick") as script:
        for _ in range(3):
            await script.visitor.emit("audio_chunk", frame("broken"))
        await script.visitor.emit("audio_end")
        after = await script.over()
        # Chainlit tells the user what failed, in a message.
        assert script.grown(after) == {"error": 1, "inbound": 1, "outbound": 1, "first": 1}
        broken = {"chainlit_callback_name": "on_audio_chunk", **failed}
        assert script.count(after, calls, **broken) == 3
    assert receiver.named("chainlit.callback on_audio_chunk") == []


async def test_every_kind_of_content_that_is_lost_is_counted_and_was_not_sent(
    server: ChainlitServer,
) -> None:
    async with Script(server) as script:
        visitor = script.visitor
        seen = len(visitor.events)
        await visitor.send("lose")
        await visitor.until(
            lambda: any(
                e.name == "new_message" and e.data["type"] == "run" for e in visitor.events[seen:]
            ),
            "the app to begin",
        )
        await visitor.drop()

        async def gone() -> bool:
            return (await scraped(server)).sum("chainlit_connection_active") == 0

        await wait_until_async(gone, 60, "the socket to be gone")
        (server.directory / "gone").touch()
        after = await script.over()
    lost = {
        sample.labels["chainlit_emit_event"]: script.count(
            after, "chainlit_emit_dropped_total", **sample.labels
        )
        for sample in after.families["chainlit_emit_dropped"].samples
    }
    assert lost == {
        "new_message": 2,
        "update_message": 1,
        "step": 3,  # two of the tool, and the end of the run
        "stream_start": 1,
        "stream_token": 3,
        "element": 1,
        "ask": 1,
        "call_fn": 1,
        "audio": 2,
    }
    assert script.grown(after) == {"ok": 1, "inbound": 1}
    asked = {"chainlit_outcome": "timeout", "chainlit_ask_type": "text"}
    assert script.count(after, "chainlit_ask_duration_seconds_count", **asked) == 1


async def test_a_step_has_the_name_and_the_type_that_it_has_when_it_ends(
    server: ChainlitServer, receiver: Receiver
) -> None:
    async with Script(server) as script:
        after = await script.say("rename")
        ended = {"chainlit_step_type": "rerank", "chainlit_outcome": "ok"}
        assert script.count(after, "chainlit_step_duration_seconds_count", **ended) == 1
        await script.visitor.send("stamp")
        await script.over(2)
    for name in ("chainlit.step rerank true name", "chainlit.step llm model"):
        await asyncio.to_thread(receiver.wait_for, partial(receiver.named, name))
        (step,) = receiver.named(name)
        assert name == " ".join(
            (
                "chainlit.step",
                *(step.attributes[f"chainlit.step.{key}"] for key in ("type", "name")),
            )
        )
    (stamped,) = receiver.named("chainlit.step llm model")
    assert (stamped.start, stamped.end) == (STAMPED, STAMPED + 2 * 10**9)


async def test_a_question_that_the_app_gives_up_is_one_that_nobody_answered_in_time(
    server: ChainlitServer, receiver: Receiver
) -> None:
    async with Script(server) as script:
        after = await script.say("impatient")
        asked = {"chainlit_outcome": "timeout", "chainlit_ask_type": "text"}
        assert script.count(after, "chainlit_ask_duration_seconds_count", **asked) == 1
    await asyncio.to_thread(receiver.wait_for, lambda: receiver.named("chainlit.ask text"))
    ask = receiver.named("chainlit.ask text")[-1]
    assert ask.attributes == {"chainlit.ask.type": "text", "chainlit.outcome": "timeout"}


async def test_callbacks_that_are_registered_while_the_app_runs_count_from_the_first_call(
    server: ChainlitServer, receiver: Receiver
) -> None:
    async with Script(server) as script:
        await script.say("register")
        async with httpx.AsyncClient() as http:
            for name in ("made in a chat", "made in a turn"):
                action: dict[str, object] = {
                    "name": name,
                    "payload": {},
                    "label": "",
                    "id": str(uuid.uuid4()),
                }
                done = await http.post(
                    f"{server.url}/project/action",
                    json={"sessionId": script.visitor.session_id, "action": action},
                )
                assert done.status_code == 200
        after = await scraped(server)
        for outcome in ("ok", "error"):
            called = {"chainlit_callback_name": "action_callbacks", "chainlit_outcome": outcome}
            assert script.count(after, "chainlit_callback_duration_seconds_count", **called) == 1

    def actions() -> dict[str, str]:
        spans = receiver.named("chainlit.callback action_callbacks")
        return {
            span.attributes["chainlit.action.name"]: span.attributes["chainlit.outcome"]
            for span in spans
        }

    await asyncio.to_thread(receiver.wait_for, lambda: len(actions()) == 2)
    assert actions() == {"made in a chat": "ok", "made in a turn": "error"}
