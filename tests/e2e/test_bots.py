"""Slack, Teams and Discord: a message is a turn, as it is on the page."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support import LAYER
from tests.support.bots import ENV, Services, redirect
from tests.support.otlp import Receiver, Span
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.on_chat_start
async def start():
    pass


@cl.step(type="tool")
async def search(question):
    return question


@cl.on_message
async def on_message(message):
    kind = message.content.split()[0]
    if kind == "answer":
        await search(kind)
        await cl.Message("hello").send()
    elif kind == "fill":
        answer = cl.Message("")
        await answer.send()
        for token in ("he", "llo"):
            await answer.stream_token(token)
        await answer.update()
    elif kind == "show":
        element = cl.Text(name="seen.txt", content="text", display="inline")
        await cl.Message("", elements=[element]).send()
    elif kind == "raise":
        raise ValueError("no such thing")
    elif kind == "refuse":
        await cl.Message("refused").send()
"""


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    with Services() as services:
        yield services


@pytest.fixture(scope="module")
def server(services: Services, receiver: Receiver) -> Iterator[ChainlitServer]:
    env = {**receiver.env, **ENV, "CHAINLIT_OTEL_CAPTURE_MESSAGES": "true"}
    with ChainlitServer({"app.py": redirect(services) + APP}, env=env) as server:
        wait_until(lambda: services.discord_is_connected, 60, "the Discord bot to connect")
        yield server


Say = Callable[[Services, ChainlitServer, str], None]
"""Says something to a bot."""

WAYS: dict[str, Say] = {
    "slack": lambda services, server, text: services.say_in_slack(server.url, text),
    "teams": lambda services, server, text: services.say_in_teams(server.url, text),
    "discord": lambda services, server, text: services.say_in_discord(text),
}

# What is said, to what must come of it beside a turn and a message of the user.
SCRIPT: dict[str, dict[str, int]] = {
    "answer": {"ok": 1, "outbound": 1, "first": 1, "posted": 1, "tool": 1},
    "fill": {"ok": 1, "outbound": 1, "first": 1, "posted": 1},
    "show": {"ok": 1, "first": 1, "posted": 1},
    "raise": {"error": 1},
    "nothing": {"ok": 1},
}


def figures(scrape: Scrape, way: str) -> Counter[str]:
    turns, steps = "chainlit_turn_duration_seconds_count", "chainlit_step_duration_seconds_count"
    first, messages = "chainlit_turn_time_to_first_token_seconds_count", "chainlit_messages_total"
    found = {
        outcome: scrape.value(turns, chainlit_outcome=outcome)
        for outcome in ("ok", "error", "cancelled")
    }
    for direction in ("inbound", "outbound"):
        found[direction] = scrape.value(messages, chainlit_message_direction=direction)
    tool = {"chainlit_step_type": "tool", "chainlit_outcome": "ok"}
    starts = {"chainlit_session_type": "http", "chainlit_client_type": way}
    return Counter(
        {
            **{name: int(count) for name, count in found.items()},
            "first": int(scrape.value(first)),
            "tool": int(scrape.sum(steps, **tool)),
            "sessions": int(scrape.sum("chainlit_session_starts_total", **starts)),
        }
    )


def all_turns(scrape: Scrape) -> int:
    return int(scrape.sum("chainlit_turn_duration_seconds_count"))


def over(server: ChainlitServer, turns: int) -> Scrape:
    """Wait until that many turns are over."""

    def check() -> Scrape | None:
        scrape = server.scrape()
        done = scrape.sum("chainlit_turn_duration_seconds_count")
        over = done == turns and scrape.value("chainlit_turn_active") == 0
        return server.scrape() if over else None

    found = wait_until(check, 60, f"{turns} turns")
    assert found is not None
    return found


@pytest.mark.parametrize("way", WAYS)
def test_turns_and_messages_equal_the_ledger_of_the_script(
    server: ChainlitServer, services: Services, way: str
) -> None:
    scrape = server.scrape()
    turns, before = all_turns(scrape), figures(scrape, way)
    ledger: Counter[str] = Counter()
    for said, becomes in SCRIPT.items():
        WAYS[way](services, server, said)
        turns += 1
        over(server, turns)
        ledger.update(becomes, inbound=1, sessions=1)
    after = over(server, turns)
    posted = services.posted[way]
    assert len(posted) == ledger.pop("posted"), posted
    assert +(figures(after, way) - before) == ledger
    assert after.sum("chainlit_otel_internal_errors_total") == 0


JUDGE: dict[str, Callable[[Services, ChainlitServer, bool], None]] = {
    "slack": lambda services, server, is_up: services.judge_in_slack(server.url, is_up),
    "teams": lambda services, server, is_up: services.judge_in_teams(server.url, is_up),
    "discord": lambda services, server, is_up: services.judge_in_discord(is_up),
}

STORE = """
from layer import Layer


@cl.data_layer
def data_layer():
    return Layer()
"""


def test_a_thumb_finds_its_turn(receiver: Receiver) -> None:
    env = {**receiver.env, **ENV, "CHAINLIT_OTEL_RECORDS_DIR": "records"}
    with (
        Services() as services,
        ChainlitServer(
            {"app.py": redirect(services) + APP + STORE, "layer.py": LAYER}, env=env
        ) as server,
    ):
        wait_until(lambda: services.discord_is_connected, 60, "the Discord bot to connect")
        for turns, (way, judge) in enumerate(JUDGE.items(), 1):
            WAYS[way](services, server, "answer")
            over(server, turns)
            wait_until(functools.partial(services.thumbs.get, way), 60, f"thumbs in {way}")
            judge(services, server, way != "teams")
        wait_until(lambda: given(server) == {"positive": 2, "negative": 1}, 60, "the feedback")
        scrape = server.scrape()
        assert scrape.value("chainlit_feedback_unlinked_total") == 0
        assert scrape.sum("chainlit_otel_internal_errors_total") == 0

        def rows(kind: str) -> list[dict[str, Any]]:
            lines = [
                json.loads(line)
                for file in (server.directory / "records").glob("*.jsonl")
                for line in file.read_text(encoding="utf-8").splitlines()
            ]
            return [line for line in lines if line["kind"] == kind]

        wait_until(lambda: len(rows("feedback")) == 3, 60, "the records of the feedback")
        sessions = {row["session_id"]: row["chainlit_client_type"] for row in rows("session.start")}
        judged = {
            (sessions[row["session_id"]], row["gen_ai_evaluation_score_label"])
            for row in rows("feedback")
        }
        assert judged == {("slack", "positive"), ("teams", "negative"), ("discord", "positive")}


def given(server: ChainlitServer) -> dict[str, float]:
    scrape = server.scrape()
    return {
        value: scrape.value("chainlit_feedback_total", chainlit_feedback_value=value)
        for value in ("positive", "negative")
    }


@pytest.mark.parametrize("way", WAYS)
def test_a_turn_is_a_trace_as_on_the_page(
    server: ChainlitServer, services: Services, receiver: Receiver, way: str
) -> None:
    def turns() -> list[Span]:
        return [
            span
            for span in receiver.named("chainlit.turn")
            if span.attributes["chainlit.client.type"] == way
            and span.attributes.get("chainlit.turn.input") == "answer me"
        ]

    WAYS[way](services, server, "answer me")
    receiver.wait_for(turns)
    (turn,) = turns()
    assert (turn.parent, turn.attributes["chainlit.outcome"]) == ("", "ok")
    assert turn.attributes["chainlit.turn.output"] == "hello"
    assert len(turn.attributes["session.id"]) == 16
    spans = receiver.trace(turn)
    assert sorted(span.name for span in spans if span.scope == "chainlit_otel") == [
        "chainlit.callback on_chat_start",
        "chainlit.callback on_message",
        "chainlit.step run on_chat_start",
        "chainlit.step run on_message",
        "chainlit.step tool search",
        "chainlit.turn",
    ]


def test_what_slack_does_not_take_is_not_sent_and_fails_the_turn(
    server: ChainlitServer, services: Services
) -> None:
    scrape = server.scrape()
    turns, before = (
        all_turns(scrape),
        figures(scrape, "slack"),
    )
    services.say_in_slack(server.url, "refuse")
    after = over(server, turns + 1)
    assert +(figures(after, "slack") - before) == {"error": 1, "inbound": 1, "sessions": 1}


def test_a_message_that_fails_before_it_has_a_session_is_a_turn_and_one_of_nobody_is_none(
    server: ChainlitServer, services: Services
) -> None:
    scrape = server.scrape()
    turns, before = (
        all_turns(scrape),
        figures(scrape, "slack"),
    )
    services.say_in_slack(server.url, "answer nobody", user=None)
    services.say_in_slack(server.url, "answer me", user="unknown")
    after = over(server, turns + 1)
    assert +(figures(after, "slack") - before) == {"error": 1, "inbound": 1}


def test_a_file_of_the_user_that_is_shown_to_them_is_no_answer(
    server: ChainlitServer, services: Services
) -> None:
    scrape = server.scrape()
    turns = all_turns(scrape)
    before, posted = figures(scrape, "discord"), len(services.posted["discord"])
    services.say_in_discord("nothing", files=1)
    after = over(server, turns + 1)
    assert services.posted["discord"][posted:] == ["a file"]
    assert +(figures(after, "discord") - before) == {"ok": 1, "inbound": 1, "sessions": 1}
