"""Tokens and cost of turns: to the unit, each on its own turn, whoever shows the calls.

The spans are made here as instrumentations make them. The libraries themselves are in tests/models.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from chainlit_otel.testing import Visitor
from tests.support.otlp import Receiver
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

CANARY = "canary-4711"

APP = """
import asyncio
import collections
import gc
import json
import threading

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.utils import utc_now
from literalai import ChatGeneration
from opentelemetry import context, trace

CLIENT = trace.get_tracer("opentelemetry.instrumentation.openai_v2")
OTHER = trace.get_tracer("openinference.instrumentation.openai")


def ask(model, sent, got, tracer=CLIENT, **more):
    with tracer.start_as_current_span(f"chat {model}") as span:
        span.set_attribute("gen_ai.operation.name", "chat")
        span.set_attribute("gen_ai.request.model", model)
        span.set_attribute("gen_ai.input.messages", "canary-4711")
        if sent is not None:
            span.set_attribute("gen_ai.usage.input_tokens", sent)
            span.set_attribute("gen_ai.usage.output_tokens", got)


def infer(model, sent, got):
    with OTHER.start_as_current_span("ChatCompletion") as span:
        span.set_attribute("openinference.span.kind", "LLM")
        span.set_attribute("llm.model_name", model + "-2026-01-01")
        span.set_attribute("llm.token_count.prompt", sent)
        span.set_attribute("llm.token_count.completion", got)


async def generate(model, sent, got):
    async with cl.Step(name=model, type="llm") as step:
        step.generation = ChatGeneration(
            provider="openai", model=model, input_token_count=sent, output_token_count=got,
            messages=[{"role": "user", "content": "canary-4711"}],
        )


async def elsewhere(ask, model, sent, got):
    # A pool that was made before, and carries no context but that of the trace.
    carried = context.get_current()

    def work():
        token = context.attach(carried)
        ask(model, sent, got)
        context.detach(token)

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)


@cl.on_chat_start
async def start():
    ask("outside", 1000, 1000)


@cl.on_message
async def answer(message):
    for kind, model, *counts in json.loads(message.content):
        if kind == "span":
            ask(model, *counts)
        elif kind == "task":
            await asyncio.create_task(asyncio.to_thread(ask, model, *counts))
        elif kind == "thread":
            await elsewhere(ask, model, *counts)
        elif kind == "step":
            async with cl.Step(name="tool", type="tool"):
                await asyncio.sleep(0.002)
                ask(model, *counts)
        elif kind == "generation":
            await generate(model, *counts)
        elif kind == "openinference":
            infer(model, *counts)
        elif kind == "agent":
            with CLIENT.start_as_current_span("invoke_agent") as span:
                ask(model, *counts)
                await asyncio.sleep(0.002)
                ask(model, *counts)
                span.set_attribute("gen_ai.operation.name", "invoke_agent")
                span.set_attribute("gen_ai.usage.input_tokens", 2 * counts[0])
                span.set_attribute("gen_ai.usage.output_tokens", 2 * counts[1])
        elif kind == "tool":
            # As an agent has it whose tool is a step, or shows itself as one beside the span.
            async def call():
                with CLIENT.start_as_current_span(f"execute_tool {model}") as span:
                    span.set_attribute("gen_ai.operation.name", "execute_tool")
                    span.set_attribute("gen_ai.tool.name", model)
                    beside = cl.Step(name=model, type="tool")
                    beside.start = utc_now()
                    if counts[0] == "beside":
                        await beside.send()
                    elif counts[0] == "inside":
                        async with cl.Step(name=model, type="tool"):
                            await asyncio.sleep(0.01)
                    await asyncio.sleep(0.01)
                    if counts[0] == "beside":
                        beside.end = utc_now()
                        await beside.update()
                    if counts[0] == "fails":
                        raise LookupError("canary-4711")
            await asyncio.gather(call(), call(), return_exceptions=True)
        elif kind == "app":
            chainlit_otel.record_usage(
                model=model, input_tokens=counts[0], output_tokens=counts[1]
            )
        elif kind == "wrong":
            chainlit_otel.record_usage(model=model, input_tokens="many")
        elif kind == "late":
            async def later(ask=ask, model=model, counts=counts):
                await asyncio.sleep(0.05)
                ask(model, *counts)
            cl.user_session.set("task", asyncio.create_task(later()))
        elif kind == "held":
            gc.collect()
            kinds = collections.Counter(type(thing).__name__ for thing in gc.get_objects())
            held = kinds["Turn"] - kinds["KeptTurn"]
            await cl.Message(str(held)).send()
        elif kind == "fail":
            raise ValueError("canary-4711")
    await cl.Message("done").send()
"""

PRICES = {"priced-*": {"input_mtok": 1, "output_mtok": 3}}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    with ChainlitServer(
        {"app.py": APP, "prices.json": json.dumps(PRICES)},
        env={
            "CHAINLIT_OTEL_RECORDS_DIR": "records",
            "CHAINLIT_OTEL_PRICES_FILE": "prices.json",
            **receiver.env,
        },
    ) as server:
        yield server


Calls = list[tuple[Any, ...]]


async def turns(server: ChainlitServer, *scripts: Calls) -> list[str]:
    """Have each script run by a visitor of its own, all at once; return their sessions."""

    async def visit(script: Calls) -> str:
        visitor = Visitor(server.url, transports=["websocket"])
        await visitor.connect()
        await visitor.say(json.dumps(script))
        await visitor.leave(clear=True)
        return visitor.session_id

    return list(await asyncio.gather(*map(visit, scripts)))


def run(server: ChainlitServer, *scripts: Calls) -> tuple[Scrape, Scrape]:
    before = server.scrape()
    asyncio.run(turns(server, *scripts))
    wanted = before.sum("chainlit_turn_duration_seconds_count") + len(scripts)
    wait_until(
        lambda: server.scrape().sum("chainlit_turn_duration_seconds_count") == wanted,
        60,
        "the turns to be over",
    )
    return before, server.scrape()


def grown(scrapes: tuple[Scrape, Scrape], name: str) -> dict[tuple[str, ...], float]:
    """Return by how much the series of a counter have grown, by their labels."""
    before, after = scrapes

    def values(scrape: Scrape) -> dict[tuple[str, ...], float]:
        return {
            tuple(value for key, value in sorted(labels)): scrape.value(name, **dict(labels))
            for metric, labels in scrape.series
            if metric == name
        }

    old = values(before)
    return {
        labels: value - old.get(labels, 0)
        for labels, value in values(after).items()
        if value != old.get(labels, 0)
    }


def tokens(scrapes: tuple[Scrape, Scrape]) -> dict[tuple[str, ...], float]:
    return grown(scrapes, "chainlit_turn_tokens_total")


@pytest.mark.parametrize("kind", ["span", "task", "thread", "step", "generation", "app"])
def test_a_call_counts_by_its_tokens_wherever_it_is_made(server: ChainlitServer, kind: str) -> None:
    scrapes = run(server, [(kind, f"one-{kind}", 132, 140)])
    assert tokens(scrapes) == {("input", f"one-{kind}"): 132, ("output", f"one-{kind}"): 140}
    assert grown(scrapes, "chainlit_turn_inferences_total") == {("unpriced", f"one-{kind}"): 1}


@pytest.mark.parametrize(
    "pair",
    [
        ("span", "openinference"),
        ("span", "generation"),
        ("span", "app"),
        ("openinference", "generation"),
        ("openinference", "app"),
        ("generation", "app"),
        ("thread", "app"),
        ("step", "openinference"),
    ],
    ids="-".join,
)
def test_no_pair_counts_a_call_twice(server: ChainlitServer, pair: tuple[str, str]) -> None:
    model = "-".join(pair)
    for first, second in (pair, pair[::-1]):
        scrapes = run(server, [(first, model, 7, 9), (second, model, 7, 9)])
        assert sum(n for (kind, _), n in tokens(scrapes).items() if kind == "input") == 7
        assert sum(n for (kind, _), n in tokens(scrapes).items() if kind == "output") == 9
        assert sum(grown(scrapes, "chainlit_turn_inferences_total").values()) == 1


def test_an_agent_around_its_calls_adds_nothing(server: ChainlitServer) -> None:
    scrapes = run(server, [("agent", "of-agent", 10, 4)])
    assert tokens(scrapes) == {("input", "of-agent"): 20, ("output", "of-agent"): 8}


def test_a_call_without_counts_is_uncounted(server: ChainlitServer) -> None:
    scrapes = run(server, [("span", "silent", None, None), ("generation", "silent", None, None)])
    assert tokens(scrapes) == {}
    assert grown(scrapes, "chainlit_turn_inferences_total") == {("uncounted", "silent"): 1}


def test_cost_and_what_was_wasted(server: ChainlitServer) -> None:
    call = ("priced-a", 1_000_000, 1_000_000)
    scrapes = run(server, [("span", *call)], [("span", *call), ("fail", "")])
    assert grown(scrapes, "chainlit_turn_cost_total") == {
        ("ok", "priced-a"): 4,
        ("error", "priced-a"): 4,
    }
    assert grown(scrapes, "chainlit_turn_wasted_cost_total") == {("error",): 4}
    assert grown(scrapes, "chainlit_turn_inferences_total") == {("counted", "priced-a"): 2}


def test_each_token_is_on_its_own_turn(server: ChainlitServer) -> None:
    kinds = ["span", "task", "thread", "step", "generation"]
    scripts: list[Calls] = [
        [(kinds[(n + k) % len(kinds)], f"at-once-{n % 3}", 100 * n + k, 50) for k in range(6)]
        for n in range(1, 13)
    ]
    scrapes = run(server, *scripts)
    by_model: Counter[str] = Counter()
    for script in scripts:
        for _, model, sent, _ in script:
            by_model[model] += sent
    assert {m: n for (kind, m), n in tokens(scrapes).items() if kind == "input"} == by_model
    wanted = Counter(sum(call[2] for call in script) for script in scripts)

    def written() -> list[dict[str, Any]]:
        rows = [
            json.loads(line)
            for file in (server.directory / "records").glob("*.jsonl")
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        names = {f"at-once-{n}" for n in range(3)}
        return [
            row
            for row in rows
            if row["kind"] == "turn"
            and names & {one["name"] for one in row.get("chainlit_turn_models", [])}
        ]

    wait_until(lambda: len(written()) == len(scripts), 60, "their records")
    rows = written()
    assert Counter(row["chainlit_turn_input_tokens"] for row in rows) == wanted
    assert {row["chainlit_turn_output_tokens"] for row in rows} == {300}
    assert {row["chainlit_turn_inferences"] for row in rows} == {6}
    assert all("chainlit_turn_cost" not in row for row in rows), "nothing of it has a price"


def test_a_session_has_what_its_turns_used(server: ChainlitServer) -> None:
    async def visit() -> None:
        visitor = Visitor(server.url, transports=["websocket"])
        await visitor.connect()
        for _ in range(2):
            await visitor.say(json.dumps([("span", "priced-session", 1_000_000, 0)]))
        await visitor.leave(clear=True)

    asyncio.run(visit())

    def ended() -> list[dict[str, Any]]:
        return [
            row
            for file in (server.directory / "records").glob("*.jsonl")
            for line in file.read_text(encoding="utf-8").splitlines()
            if (row := json.loads(line))["kind"] == "session.end"
            and row.get("chainlit_session_input_tokens") == 2_000_000
        ]

    wait_until(ended, 60, "the record of the session")
    (row,) = ended()
    assert row["chainlit_session_cost"] == 2
    assert row["chainlit_session_inferences"] == 2
    assert row["chainlit_session_unpriced"] == row["chainlit_session_uncounted"] == 0


def test_what_comes_late_counts_and_what_is_outside_is_counted_apart(
    server: ChainlitServer,
) -> None:
    run(server, [("span", "first", 1, 1)])
    before, after = run(server, [("late", "later", 5, 6)])
    assert after.value("chainlit_usage_unlinked_total") == (
        before.value("chainlit_usage_unlinked_total") + 1
    )
    wait_until(
        lambda: (
            server.scrape().sum("chainlit_turn_tokens_total", gen_ai_request_model="later") == 11
        ),
        60,
        "the late call",
    )
    outside = [labels for _, labels in server.scrape().series if ("outside" in str(labels))]
    assert outside == []


def test_turns_that_are_over_are_held_by_the_live_page_alone(server: ChainlitServer) -> None:
    async def visit() -> list[int]:
        visitor = Visitor(server.url, transports=["websocket"])
        await visitor.connect()
        held = []
        for _ in range(2):
            held.append(int(((await visitor.say(json.dumps([("held", "")]))).texts)[0]))
            for _ in range(10):
                await visitor.say(json.dumps([("span", "held", 1, 1)]))
        await visitor.leave(clear=True)
        return held

    first, then = asyncio.run(visit())
    assert 1 <= then <= first


@pytest.mark.parametrize("how", ["alone", "inside", "beside", "fails"])
def test_a_tool_is_one_whether_a_span_or_a_step_or_both_show_it(
    server: ChainlitServer, how: str
) -> None:
    scrapes = run(server, [("tool", f"search {how}", how)])
    outcome = "error" if how == "fails" else "ok"
    assert grown(scrapes, "chainlit_tool_calls_total") == {(outcome, f"search {how}"): 2}
    (seconds,) = grown(scrapes, "chainlit_tool_time_seconds_total").values()
    assert 0.02 <= seconds < 60


def test_names_of_tools_from_outside_add_no_series_without_bound(server: ChainlitServer) -> None:
    scrapes = run(server, [("tool", f"made up {n}", "alone") for n in range(100)])
    counted = grown(scrapes, "chainlit_tool_calls_total")
    assert sum(counted.values()) == 200
    assert counted["ok", "other"] > 0
    names = {
        dict(labels)["chainlit_tool_name"]
        for name, labels in scrapes[1].series
        if name == "chainlit_tool_calls_total"
    }
    assert len(names) == 65


def test_what_the_app_says_wrongly_is_one_line(server: ChainlitServer) -> None:
    scrapes = run(server, [("wrong", "m")])
    assert tokens(scrapes) == {}
    assert "record_usage(model='m') counts nothing: input_tokens must be a number" in server.log


def test_the_span_of_a_turn_says_what_it_used(server: ChainlitServer, receiver: Receiver) -> None:
    run(server, [("span", "priced-span", 11, 13), ("span", "spanned", 1, 1)])
    span = receiver.wait_for(
        lambda: next(
            (
                span
                for span in receiver.named("chainlit.turn")
                if "priced-span" in span.attributes.get("chainlit.turn.models", "")
            ),
            None,
        ),
        message="the span of the turn",
    )
    assert span.attributes["chainlit.turn.input_tokens"] == "12"
    assert span.attributes["chainlit.turn.output_tokens"] == "14"
    assert float(span.attributes["chainlit.turn.cost"]) == pytest.approx(5e-05)
    assert span.attributes["chainlit.turn.unpriced"] == "1"


def test_models_from_outside_add_no_series_without_bound(server: ChainlitServer) -> None:
    run(server, [("app", f"made-up-{n}", 1, 1) for n in range(2000)])
    after = server.scrape()
    models = {
        dict(labels)["gen_ai_request_model"]
        for name, labels in after.series
        if name == "chainlit_turn_tokens_total"
    }
    assert len(models) == 33
    assert "other" in models
    overflowed = after.value(
        "chainlit_otel_label_overflow_total", chainlit_otel_attribute="gen_ai.request.model"
    )
    assert overflowed > 1900


def test_nothing_that_people_wrote_is_in_figures_or_records(server: ChainlitServer) -> None:
    assert CANARY not in server.scrape().text
    for file in (server.directory / "records").glob("*.jsonl"):
        assert CANARY not in file.read_text(encoding="utf-8")
