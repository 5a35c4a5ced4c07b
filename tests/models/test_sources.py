"""The tokens of turns against the ledger of the API that was asked, source by source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import pytest

from chainlit_otel.testing import models
from chainlit_otel.testing.models import ModelAnswer
from tests.models.talk import Chat, Turn, chat, reported
from tests.support.scrape import wait_until

pytestmark = pytest.mark.e2e

OPENAI = (
    "openai",
    "openai_uncounted",
    "openai_stream",
    "openai_stream_counted",
    "openai_sync",
    "openai_raw",
    "openai_refused",
    "openai_twins",
    "openai_tools",
    "openai_detached",
)
# The others fail by Chainlit's own instrumentation, with or without us.
CHAINLIT = tuple(
    way for way in OPENAI if way not in ("openai_raw", "openai_sync", "openai_uncounted")
)
RESPONSES = ("responses", "responses_stream")
AZURE = ("azure", "azure_stream")
ANTHROPIC = ("anthropic", "anthropic_raw", "anthropic_stream", "anthropic_manager")
MISTRAL = ("mistral", "mistral_stream")
# Streamed without `stream_options` it reports tokens by a count of its own.
LITELLM = ("litellm", "litellm_stream_counted", "litellm_anthropic")
LANGCHAIN = (
    "langchain",
    "langchain_stream",
    "langchain_stream_uncounted",
    "langchain_anthropic",
    "langchain_agent",
    "langgraph",
)
LLAMA_INDEX = (
    "llama_index",
    "llama_index_stream",
    "llama_index_stream_counted",
    "llama_index_engine",
)
AGENTS = ("agents", "agents_stream")
PYDANTIC_AI = ("pydantic_ai", "pydantic_ai_responses", "pydantic_ai_stream")
# Chainlit's own shows no embeddings.
EMBEDDINGS = ("embeddings", "embeddings_uncounted_answer")
CLIENTS = (*OPENAI, *RESPONSES, *EMBEDDINGS, *AZURE, *ANTHROPIC)

# Each with the ways of asking that it shows.
SOURCES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("app",): OPENAI,
    ("chainlit",): CHAINLIT,
    ("chainlit-mistral",): ("mistral",),
    ("traceloop-mistral",): MISTRAL,
    ("openai-v2",): (*OPENAI, *EMBEDDINGS, *AZURE),
    ("genai",): CLIENTS,
    ("traceloop",): CLIENTS,
    ("openinference",): CLIENTS,
    ("logfire",): CLIENTS,
    ("litellm",): LITELLM,
    ("pydantic-ai",): PYDANTIC_AI,
    # Some leave the calls to who instruments the client: OpenTelemetry's of LlamaIndex and OpenAI
    # Agents, and Traceloop's of LlamaIndex. They are below, with one.
    ("genai-langchain",): LANGCHAIN,
    ("traceloop-langchain", "traceloop-agents"): (*LANGCHAIN, *AGENTS),
    (
        "openinference-langchain",
        "openinference-llama-index",
        "openinference-agents",
        "openinference-litellm",
    ): (*LANGCHAIN, *LLAMA_INDEX, *AGENTS, *LITELLM),
    ("logfire-agents", "logfire-litellm", "logfire-pydantic-ai"): (
        *AGENTS,
        *LITELLM,
        *PYDANTIC_AI,
    ),
}


NOTHING = reported(())
PARTS = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


# Chainlit's own reads no counts from a stream, and hands on one of which Traceloop reads none.
UNREAD_STREAMS = ({"chainlit"}, {"chainlit", "traceloop"})
# Logfire reads no counts of what Anthropic's client hands on unread, and has it be silent itself.
UNREAD: dict[tuple[str, ...], str] = {("logfire",): "anthropic_raw"}


def known(sources: tuple[str, ...], turn: Turn) -> list[ModelAnswer]:
    """What sources can know of the answers of a turn."""
    unread = UNREAD.get(sources) == turn.way
    silent = set(sources) in UNREAD_STREAMS
    return [
        replace(answer, counted=False) if unread or (silent and answer.streamed) else answer
        for answer in turn.answers
    ]


# Who may see one call of OpenAI's client twice. The two of OpenTelemetry exclude each other.
SEERS = ("app", "chainlit", "genai", "logfire", "openai-v2", "openinference", "traceloop")
ASKED = {release: name for name, release in models.RELEASES.items()}
# These say which model has answered OpenAI's responses, and not which was asked for.
DATED_AGENTS = {"openinference-agents", "traceloop-agents"}
FULL_NAMES = {"openinference-litellm", "logfire-litellm"}


def named(sources: tuple[str, ...], way: str, answer: ModelAnswer) -> str:
    """What sources call a model: as it was asked for, if one of them says that."""
    # Traceloop's of OpenAI does not see what OpenAI Agents streams.
    seers = set(sources) & set(SEERS) - ({"traceloop"} if answer.streamed else set())
    if set(sources) in ({"chainlit"}, {"litellm-raw"}):
        return answer.model
    if way in AGENTS and set(sources) & DATED_AGENTS and not seers:
        return answer.model
    asked = ASKED.get(answer.model, answer.model)
    if way in LITELLM and set(sources) & FULL_NAMES:
        return f"anthropic/{asked}" if asked.startswith("claude") else f"openai/{asked}"
    return asked


def by_model(sources: tuple[str, ...], turns: Iterable[Turn]) -> dict[str, dict[str, int]]:
    """What answers add up to, by the model as these sources call it."""
    grouped: dict[str, list[ModelAnswer]] = {}
    for turn in turns:
        for answer in known(sources, turn):
            grouped.setdefault(named(sources, turn.way, answer), []).append(answer)
    return {name: reported(group) for name, group in grouped.items()}


CALLED = {
    "langchain_agent": ["ask_scholar"],
    "agents": ["ask_scholar", "look_up"],
    "agents_stream": ["ask_scholar", "look_up"],
    "pydantic_ai": ["ask_scholar"],
    "pydantic_ai_responses": ["ask_scholar"],
    "pydantic_ai_stream": ["ask_scholar"],
}


def called(sources: tuple[str, ...], way: str) -> list[str]:
    """Which tools a turn has called, as far as anybody shows them."""
    if way == "openai_tools":
        return ["in_task", "in_task" if "chainlit" in sources else "in_thread"]
    # Logfire's of OpenAI Agents follows no convention there.
    silent = way in AGENTS and "logfire-agents" in sources
    return [] if silent else CALLED.get(way, [])


def check(watched: Chat, ways: Iterable[str]) -> None:
    """Hold each turn, and the counters, against what the API reported."""
    turns = watched.ask(ways)
    assert sum(len(turn.answers) for turn in turns) == len(watched.api.ledger)
    wrong = []
    for turn in turns:
        expected = by_model(watched.sources, [turn])
        expected["all"] = reported(known(watched.sources, turn))
        counted = {"all": turn.counted, **turn.models}
        for model in expected | counted:
            told, found = expected.get(model, NOTHING), counted.get(model, NOTHING)
            for name, count in found.items():
                # Not every source tells the parts of the input and the output, or not of all calls.
                if count != told[name] and not (name in PARTS and count < told[name]):
                    wrong.append(f"{turn.way}: {model} {name} {count}, and reported: {told[name]}")
        if turn.tools != called(watched.sources, turn.way):
            wrong.append(f"{turn.way}: the tools {turn.tools}")
    assert not wrong, "\n".join(wrong)
    assert [turn.way for turn in turns if not turn.answers] in ([], ["openai_refused"])

    scrape = watched.server.scrape()
    for model, told in by_model(watched.sources, turns).items():
        of_model = {"gen_ai_request_model": model}
        for kind in ("input", "output"):
            name = "chainlit_turn_tokens_total"
            assert scrape.sum(name, chainlit_token_type=kind, **of_model) == told[f"{kind}_tokens"]
        states = {
            state: scrape.sum(
                "chainlit_turn_inferences_total", chainlit_usage_state=state, **of_model
            )
            for state in ("counted", "unpriced", "uncounted")
        }
        assert sum(states.values()) == told["inferences"], model
        assert states["uncounted"] == told["uncounted"], model
    answers = len(watched.api.ledger)
    assert scrape.sum("chainlit_turn_inferences_total") == answers


@pytest.mark.parametrize("sources", SOURCES, ids=" ".join)
def test_each_source_counts_what_the_api_has_reported(sources: tuple[str, ...]) -> None:
    with chat(*sources) as watched:
        check(watched, SOURCES[sources])


PAIRS = [pair for pair in combinations(SEERS, 2) if pair != ("genai", "openai-v2")]


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_no_pair_of_sources_counts_a_call_twice(pair: tuple[str, str]) -> None:
    with chat(*pair) as watched:
        check(watched, CHAINLIT if "chainlit" in pair else (*OPENAI, *EMBEDDINGS))


LEFT = (
    "openai_stream_left",
    "openai_stream_closed",
    "anthropic_stream_left",
    "anthropic_manager_left",
)


@pytest.mark.parametrize("seer", ["genai", "openinference", "traceloop"])
def test_of_a_stream_that_the_app_leaves_nobody_knows_the_output(seer: str) -> None:
    with chat(seer) as watched:
        turns = watched.ask(LEFT)
        states = "chainlit_turn_inferences_total"
        # A stream that is not closed is shown when its garbage is collected.
        wait_until(lambda: watched.server.scrape().sum(states) == len(LEFT), 60, "the calls")
        scrape = watched.server.scrape()
        assert scrape.sum("chainlit_turn_tokens_total", chainlit_token_type="output") == 0
        assert scrape.sum(states, chainlit_usage_state="uncounted") == len(LEFT)
        sent = scrape.sum("chainlit_turn_tokens_total", chainlit_token_type="input")
        told = [answer.input_tokens for turn in turns for answer in turn.answers]
        assert sent == sum(told[2:]), "Anthropic says at the start what it was sent"


# LiteLLM asks as `openai_raw` does, so not with Chainlit's own; and beside Logfire it ends its
# spans at a provider that nobody else has.
LITELLM_SEERS = ["app", "genai", "openai-v2", "openinference", "openinference-litellm", "traceloop"]


@pytest.mark.parametrize("seer", LITELLM_SEERS)
def test_litellm_and_who_sees_the_client_below_it_count_a_call_once(seer: str) -> None:
    with chat("litellm", seer) as watched:
        check(watched, LITELLM)


def test_litellm_counts_without_a_span_of_each_call_what_is_not_streamed() -> None:
    with chat("litellm-raw") as watched:
        check(watched, ("litellm", "litellm_anthropic"))


# A framework, and who sees the client that it asks by.
LAYERS: dict[tuple[str, ...], tuple[str, ...]] = {
    ("genai", "genai-agents", "genai-langchain", "genai-llama-index"): (
        *LANGCHAIN,
        *LLAMA_INDEX,
        *AGENTS,
    ),
    ("traceloop", "traceloop-agents", "traceloop-langchain", "traceloop-llama-index"): (
        *LANGCHAIN,
        *LLAMA_INDEX,
        *AGENTS,
    ),
    ("openinference", "openinference-agents", "openinference-langchain"): (*LANGCHAIN, *AGENTS),
    ("logfire", "logfire-agents", "logfire-pydantic-ai"): (*AGENTS, *PYDANTIC_AI),
    ("handlers", "openinference", "openinference-llama-index"): (*LANGCHAIN, *LLAMA_INDEX),
    ("handlers", "traceloop"): (*LANGCHAIN, *LLAMA_INDEX),
}


@pytest.mark.parametrize("sources", LAYERS, ids=" ".join)
def test_a_framework_and_the_client_below_it_count_a_call_once(sources: tuple[str, ...]) -> None:
    with chat(*sources) as watched:
        check(watched, LAYERS[sources])
