"""Tools, scores and feedback: figures, traces, log events and records against what was done."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support import LAYER
from tests.support.otlp import Receiver, Span, hashed
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer
from tests.support.sign_in import sign_in

pytestmark = pytest.mark.e2e

CANARY = "canary-4711"
EVENT = "gen_ai.evaluation.result"

APP = """
import asyncio
import pathlib

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.server import sio
from layer import Layer


@cl.data_layer
def data_layer():
    return Layer({"stored": "ada"})


@cl.password_auth_callback
def sign_in(name, password):
    return cl.User(identifier=name)


@cl.set_chat_profiles
async def profiles(user):
    return [cl.ChatProfile(name=name, markdown_description=name) for name in ("short", "long")]


@cl.on_chat_start
async def start():
    chainlit_otel.record_score("welcome", 1)
    await cl.Message("hello").send()


async def call(name, outcome):
    async with cl.Step(name=name, type="tool"):
        await asyncio.sleep(0.01)
        if outcome == "error":
            raise LookupError("canary-4711")


@cl.step(type="tool")
def plain():
    return "canary-4711"


@cl.on_message
async def answer(message):
    command, _, rest = message.content.partition(" ")
    chainlit_otel.record_usage(model="small", input_tokens=900, output_tokens=1)
    chainlit_otel.record_usage(model="big", input_tokens=9, output_tokens=20)
    if command == "score":
        chainlit_otel.record_score("relevance", float(rest), "canary-free")
    elif command == "wrong":
        for value in ("a lot", None, float("nan")):
            chainlit_otel.record_score("relevance", value)
        for name in ("", None):
            chainlit_otel.record_score(name, 1)
    elif command == "later":
        chainlit_otel.record_score("tone", 2, message_id=rest)
    elif command == "hold":
        await cl.Message("held").send()
        while not pathlib.Path("go").exists():
            await asyncio.sleep(0.02)
        return
    elif command == "lose":
        while sio.manager.is_connected(cl.context.session.socket_id, "/"):
            await asyncio.sleep(0.02)
        lost = cl.Message("lost")
        await lost.send()
        pathlib.Path("lost").write_text(lost.id)
        return
    elif command == "tools":
        calls = [call("search", "ok"), call("search", "error"), call("look up", "ok")]
        await asyncio.gather(*calls, return_exceptions=True)
        plain()
    elif command == "names":
        for n in range(int(rest)):
            async with cl.Step(name=f"tool {n}", type="tool"):
                pass
    await cl.Message("done").send()
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    with ChainlitServer(
        {"app.py": APP, "layer.py": LAYER},
        env={
            "CHAINLIT_AUTH_SECRET": "a-secret-of-this-test-and-nothing-else",
            "CHAINLIT_OTEL_RECORDS_DIR": "records",
            "CHAINLIT_OTEL_EXPORT_RECORDS": "true",
            "OTEL_RESOURCE_ATTRIBUTES": "service.version=1.0",
            **receiver.env,
        },
    ) as server:
        yield server


class User:
    """Ada, with a tab, who judges."""

    def __init__(self, server: ChainlitServer, receiver: Receiver) -> None:
        self.server, self.receiver = server, receiver
        self.headers: dict[str, str] = {}

    async def come(self, profile: str = "long", thread: str | None = None) -> Visitor:
        self.headers = self.headers or await sign_in(self.server.url, "ada")
        visitor = Visitor(
            self.server.url, headers=self.headers, chat_profile=profile, transports=["websocket"]
        )
        visitor.thread_id = thread
        await visitor.connect()
        return visitor

    async def judge(self, message: str, value: int, visitor: Visitor) -> str:
        feedback = {"forId": message, "value": value, "comment": CANARY}
        async with httpx.AsyncClient(base_url=self.server.url, headers=self.headers) as http:
            body = {"feedback": feedback, "sessionId": visitor.session_id}
            judged = (await http.put("/feedback", json=body, timeout=60)).raise_for_status()
        return str(judged.json()["feedbackId"])

    async def take_back(self, feedback_id: str) -> None:
        async with httpx.AsyncClient(base_url=self.server.url, headers=self.headers) as http:
            body = {"feedbackId": feedback_id}
            await http.request("DELETE", "/feedback", json=body, timeout=60)

    async def scrape(self) -> Scrape:
        return await asyncio.to_thread(self.server.scrape)

    async def turn(self, visitor: Visitor, number: int = -1) -> Span:
        """Wait for the span of a turn of a session; by default the last that there is."""
        known = hashed(visitor.session_id)

        async def there() -> list[Span]:
            turns = self.receiver.named("chainlit.turn")
            return [turn for turn in turns if turn.attributes["session.id"] == known]

        return (await wait_until_async(there, 60, "the span of the turn"))[number]

    async def linked(self, turn: Span, count: int = 1) -> list[Span]:
        """Wait for the results of evaluations that came when a turn had ended."""

        async def there() -> list[Span]:
            spans = self.receiver.named("chainlit.evaluation")
            found = [span for span in spans if span.links == (turn.id,)]
            return found if len(found) >= count else []

        return await wait_until_async(there, 60, "the evaluations that are linked")

    async def rows(self, kind: str, count: int, **where: Any) -> list[dict[str, Any]]:
        async def written() -> list[dict[str, Any]]:
            rows = [
                json.loads(line)
                for file in sorted((self.server.directory / "records").glob("*.jsonl"))
                for line in file.read_text(encoding="utf-8").splitlines()
            ]
            of_kind = [row for row in rows if row["kind"] == kind]
            found = [row for row in of_kind if where.items() <= row.items()]
            return found if len(found) >= count else []

        return await wait_until_async(written, 60, f"{count} rows of {kind}")


@pytest.fixture
async def ada(server: ChainlitServer, receiver: Receiver) -> AsyncIterator[User]:
    ada = User(server, receiver)
    yield ada
    scrape = await ada.scrape()
    assert scrape.sum("chainlit_otel_internal_errors_total") == 0, server.log
    written = "".join(file.read_text() for file in (server.directory / "records").glob("*.jsonl"))
    everything = receiver.everything + written + scrape.text
    assert CANARY not in everything


def events(span: Span) -> list[dict[str, str]]:
    return [event.attributes for event in span.events if event.name == EVENT]


def message_of(visitor: Visitor, kind: str = "assistant_message") -> str:
    return next(
        str(event.data["id"])
        for event in reversed(visitor.events)
        if event.name == "new_message" and event.data["type"] == kind
    )


def feedback(value: str, score: str | None = None) -> dict[str, str]:
    result = {"gen_ai.evaluation.name": "user_feedback", "gen_ai.evaluation.score.label": value}
    return result if score is None else {**result, "gen_ai.evaluation.score.value": score}


async def test_a_score_is_an_event_of_its_turn_a_figure_and_a_record(ada: User) -> None:
    before = await ada.scrape()
    visitor = await ada.come("short")
    assert (await visitor.say("score 0.8")).texts == ["done"]
    await visitor.leave(clear=True)
    turn = await ada.turn(visitor)
    assert events(turn) == [
        {
            "gen_ai.evaluation.name": "relevance",
            "gen_ai.evaluation.score.value": "0.8",
            "gen_ai.evaluation.score.label": "canary-free",
        }
    ]
    (row,) = await ada.rows("score", 1, span_id=turn.id)
    assert row["trace_id"] == turn.trace
    assert row["gen_ai_evaluation_name"] == "relevance"
    assert row["gen_ai_evaluation_score_value"] == 0.8
    assert row["chainlit_chat_profile"] == "short"
    assert row["chainlit_turn_number"] == 1
    # That of `on_chat_start` is of the session, and of no turn.
    (row,) = await ada.rows(
        "score", 1, gen_ai_evaluation_name="welcome", session_id=hashed(visitor.session_id)
    )
    assert "span_id" not in row
    scrape = await ada.scrape()
    for name, sum_, count in (("relevance", 0.8, 1), ("welcome", 1, 1)):
        label = {"chainlit_score_name": name}
        found = scrape.sum("chainlit_score_count", **label)
        assert found - before.sum("chainlit_score_count", **label) == count
        found = scrape.sum("chainlit_score_sum", **label)
        assert found - before.sum("chainlit_score_sum", **label) == pytest.approx(sum_)


async def test_a_score_of_a_turn_that_has_ended_is_linked_to_it(ada: User) -> None:
    visitor = await ada.come()
    seen = len(visitor.events)
    question = await visitor.send("anything")
    await visitor.until(lambda: any(_says(e, "done") for e in visitor.events[seen:]), "an answer")
    judged = await ada.turn(visitor)
    for message in (message_of(visitor), question, "nobody's"):
        assert (await visitor.say(f"later {message}")).texts == ["done"]
    await visitor.leave(clear=True)
    tone = {"gen_ai.evaluation.name": "tone", "gen_ai.evaluation.score.value": "2.0"}
    first, second = await ada.linked(judged, 2)
    for span in (first, second):
        assert events(span) == [tone]
        assert (span.parent, span.trace == judged.trace) == ("", False)
        assert span.attributes["session.id"] == hashed(visitor.session_id)
    rows = await ada.rows("score", 3, gen_ai_evaluation_name="tone")
    assert [row.get("chainlit_turn_number") for row in rows] == [1, 1, None]
    assert [row.get("span_id") for row in rows] == [judged.id, judged.id, None]
    # The turns that gave the score are not those that it is of.
    assert not any(map(events, ada.receiver.trace(judged)))
    assert len(ada.receiver.named("chainlit.evaluation")) >= 2


async def test_what_is_no_score_is_one_line_each_and_the_app_goes_on(ada: User) -> None:
    before = await ada.scrape()
    visitor = await ada.come()
    assert [(await visitor.say("wrong")).texts for _ in range(2)] == [["done"], ["done"]]
    await visitor.leave(clear=True)
    for line in (
        "record_score() keeps nothing: its name must be a text that is not empty",
        "record_score('relevance') keeps nothing: its value must be a finite number",
    ):
        assert ada.server.log.count(line) == 1
    after = await ada.scrape()
    relevance = {"chainlit_score_name": "relevance"}
    counted = [s.sum("chainlit_score_count", **relevance) for s in (before, after)]
    assert counted[0] == counted[1]


async def test_feedback_while_the_turn_runs_is_an_event_of_its_span(ada: User) -> None:
    visitor = await ada.come()
    turn = asyncio.create_task(visitor.say("hold"))
    await visitor.until(lambda: any(_says(e, "held") for e in visitor.events), "the app to hold")
    given = await ada.judge(message_of(visitor), 1, visitor)
    await ada.judge(message_of(visitor), 0, visitor)
    await ada.take_back(given)
    (ada.server.directory / "go").touch()
    await turn
    await visitor.leave(clear=True)
    span = await ada.turn(visitor)
    assert events(span) == [
        feedback("positive", "1.0"),
        feedback("negative", "0.0"),
        feedback("deleted"),
    ]
    rows = await ada.rows("feedback", 3, span_id=span.id)
    assert [row["chainlit_feedback_value"] for row in rows] == ["positive", "negative", "deleted"]

    def exported() -> list[str]:
        return [
            log.attributes["gen_ai.evaluation.score.label"]
            for log in ada.receiver.logs
            if log.name == EVENT and log.attributes["trace_id"] == span.trace
        ]

    await asyncio.to_thread(ada.receiver.wait_for, lambda: len(exported()) >= 3, "log events", 60)
    assert exported() == ["positive", "negative", "deleted"]


async def test_late_feedback_finds_its_turn_from_another_session(ada: User) -> None:
    before = await ada.scrape()
    first = await ada.come("short")
    await first.say("anything")
    turn = await ada.turn(first)
    answer, run = message_of(first), message_of(first, "run")
    await first.leave(clear=True)
    # The page was loaded again; then the thread was opened from the history, with another profile.
    for thread, message, value in ((None, answer, 1), ("stored", run, 0)):
        second = await ada.come("long", thread)
        await ada.judge(message, value, second)
        await second.leave(clear=True)
    spans = await ada.linked(turn, 2)
    found = [one for span in spans for one in events(span)]
    assert found == [feedback("positive", "1.0"), feedback("negative", "0.0")]
    rows = await ada.rows("feedback", 2, span_id=turn.id)
    for row in rows:
        assert row["session_id"] == hashed(first.session_id)
        assert row["chainlit_chat_profile"] == "short"
        assert row["gen_ai_request_model"] == "big"
        assert (row["service_version"], row["chainlit_feedback_has_comment"]) == ("1.0", True)
    after = await ada.scrape()
    given = [s.sum("chainlit_feedback_total") for s in (before, after)]
    unlinked = [s.value("chainlit_feedback_unlinked_total") for s in (before, after)]
    assert (given[1] - given[0], unlinked[1] - unlinked[0]) == (2, 0)


async def test_an_answer_that_was_lost_and_is_read_later_has_its_turn(ada: User) -> None:
    visitor = await ada.come()
    seen = len(visitor.events)
    await visitor.send("lose")
    await visitor.until(
        lambda: any(event.name == "new_message" for event in visitor.events[seen:]), "the start"
    )
    await visitor.drop()

    async def said() -> str:
        return ada.server.read("lost")

    lost = await wait_until_async(said, 60, "the app to have said it to nobody")
    turn = await ada.turn(visitor)
    await visitor.reconnect()
    await ada.judge(lost, 0, visitor)
    await visitor.leave(clear=True)
    (span,) = await ada.linked(turn)
    assert events(span) == [feedback("negative", "0.0")]


async def test_feedback_whose_turn_is_not_known_is_unlinked(ada: User) -> None:
    before = await ada.scrape()
    visitor = await ada.come()
    await visitor.until(lambda: any(_says(e, "hello") for e in visitor.events), "the greeting")
    given = await ada.judge(message_of(visitor), 1, visitor)
    await ada.take_back(given)
    await ada.judge("of another process", 0, visitor)
    await visitor.leave(clear=True)
    after = await ada.scrape()
    unlinked = [s.value("chainlit_feedback_unlinked_total") for s in (before, after)]
    assert unlinked[1] - unlinked[0] == 3
    rows = await ada.rows("feedback", 1, chainlit_feedback_value="deleted")
    assert not any("span_id" in row for row in rows if "session_id" not in row)


async def test_calls_of_tools_are_counted_by_name_and_outcome(ada: User) -> None:
    visitor = await ada.come()
    for _ in range(2):
        assert (await visitor.say("tools")).texts == ["done"]
    scrape = await ada.scrape()
    calls = {
        (name, outcome): scrape.value(
            "chainlit_tool_calls_total", chainlit_tool_name=name, chainlit_outcome=outcome
        )
        for name in ("search", "look up", "plain")
        for outcome in ("ok", "error")
    }
    assert calls == {
        ("search", "ok"): 2,
        ("search", "error"): 2,
        ("look up", "ok"): 2,
        ("look up", "error"): 0,
        ("plain", "ok"): 2,
        ("plain", "error"): 0,
    }
    search = {"chainlit_tool_name": "search"}
    assert scrape.sum("chainlit_tool_time_seconds_total", **search) >= 4 * 0.01
    steps = {"chainlit_step_type": "tool"}
    durations = scrape.sum("chainlit_step_duration_seconds_sum", **steps)
    assert scrape.sum("chainlit_tool_time_seconds_total") == pytest.approx(durations)
    assert scrape.sum("chainlit_tool_calls_total") == scrape.sum(
        "chainlit_step_duration_seconds_count", **steps
    )
    # Those that come after the first 64 are one.
    assert (await visitor.say("names 200")).texts == ["done"]
    await visitor.leave(clear=True)
    scrape = await ada.scrape()
    names = {
        dict(labels)["chainlit_tool_name"]
        for name, labels in scrape.series
        if name == "chainlit_tool_calls_total"
    }
    assert len(names) == 65
    assert scrape.sum("chainlit_tool_calls_total") == 8 + 200
    assert scrape.sum("chainlit_tool_calls_total", chainlit_tool_name="other") == 200 - 61
    overflow = {"chainlit_otel_attribute": "chainlit.tool.name"}
    assert scrape.value("chainlit_otel_label_overflow_total", **overflow) == 200 - 61


def _says(event: Any, text: str) -> bool:
    return bool(event.name == "new_message" and event.data["output"] == text)
