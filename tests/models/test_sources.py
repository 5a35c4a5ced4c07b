"""The tokens of turns against the ledger of the API that was asked, source by source."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import pytest

from chainlit_otel.testing.models import ModelAnswer
from tests.models.talk import Chat, chat, reported

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
ANTHROPIC = ("anthropic", "anthropic_stream", "anthropic_manager")
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
CLIENTS = (*OPENAI, *RESPONSES, *AZURE, *ANTHROPIC)

# Each with the ways of asking that it shows.
SOURCES: dict[tuple[str, ...], tuple[str, ...]] = {
    ("app",): OPENAI,
    ("chainlit",): CHAINLIT,
    ("chainlit-mistral",): ("mistral",),
    ("traceloop-mistral",): MISTRAL,
    ("openai-v2",): (*OPENAI, *AZURE),
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


PARTS = ("cache_read_tokens", "cache_write_tokens", "reasoning_tokens")


# Chainlit's own reads no counts from a stream, and hands on one of which Traceloop reads none.
UNREAD_STREAMS = ({"chainlit"}, {"chainlit", "traceloop"})


def known(sources: Iterable[str], answer: ModelAnswer) -> ModelAnswer:
    """What sources can know of an answer."""
    if answer.streamed and set(sources) in UNREAD_STREAMS:
        return replace(answer, counted=False)
    return answer


def check(watched: Chat, ways: Iterable[str]) -> None:
    """Hold each turn, and the counters, against what the API reported."""
    turns = watched.ask(ways)
    wrong = []
    for turn in turns:
        expected = reported(known(watched.sources, answer) for answer in turn.answers)
        for name, count in turn.counted.items():
            # Not every source tells the parts of the input and the output, or not of all calls.
            if count != expected[name] and not (name in PARTS and count < expected[name]):
                wrong.append(f"{turn.way}: {name} {count}, and the API reported {expected[name]}")
    assert not wrong, "\n".join(wrong)
    assert [turn.way for turn in turns if not turn.answers] in ([], ["openai_refused"])

    expected = reported(known(watched.sources, answer) for answer in watched.api.ledger)
    scrape = watched.server.scrape()
    for kind in ("input", "output"):
        counted = scrape.sum("chainlit_turn_tokens_total", chainlit_token_type=kind)
        assert counted == expected[f"{kind}_tokens"], kind
    states = {
        state: scrape.sum("chainlit_turn_inferences_total", chainlit_usage_state=state)
        for state in ("counted", "unpriced", "uncounted")
    }
    assert sum(states.values()) == expected["inferences"]
    assert states["uncounted"] == expected["uncounted"]


@pytest.mark.parametrize("sources", SOURCES, ids=" ".join)
def test_each_source_counts_what_the_api_has_reported(sources: tuple[str, ...]) -> None:
    with chat(*sources) as watched:
        check(watched, SOURCES[sources])


# Who may see one call of OpenAI's client twice. The two of OpenTelemetry exclude each other.
SEERS = ("app", "chainlit", "genai", "logfire", "openai-v2", "openinference", "traceloop")
PAIRS = [pair for pair in combinations(SEERS, 2) if pair != ("genai", "openai-v2")]


@pytest.mark.parametrize("pair", PAIRS, ids=" ".join)
def test_no_pair_of_sources_counts_a_call_twice(pair: tuple[str, str]) -> None:
    with chat(*pair) as watched:
        check(watched, CHAINLIT if "chainlit" in pair else OPENAI)


# LiteLLM asks as `openai_raw` does, so not with Chainlit's own; and beside Logfire it ends its
# spans at a provider that nobody else has.
LITELLM_SEERS = ["app", "genai", "openai-v2", "openinference", "openinference-litellm", "traceloop"]


@pytest.mark.parametrize("seer", LITELLM_SEERS)
def test_litellm_and_who_sees_the_client_below_it_count_a_call_once(seer: str) -> None:
    with chat("litellm", seer) as watched:
        check(watched, LITELLM)


def test_litellm_counts_without_a_span_of_each_call_what_is_not_streamed() -> None:
    with chat("litellm", env={"USE_OTEL_LITELLM_REQUEST_SPAN": "false"}) as watched:
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
    ("handlers", "traceloop"): LLAMA_INDEX,
}


@pytest.mark.parametrize("sources", LAYERS, ids=" ".join)
def test_a_framework_and_the_client_below_it_count_a_call_once(sources: tuple[str, ...]) -> None:
    with chat(*sources) as watched:
        check(watched, LAYERS[sources])
