"""What spans of model calls say, by the attributes that instrumentations really set."""

from __future__ import annotations

from typing import Any

import pytest

from chainlit_otel.core.usage import Usage
from chainlit_otel.probes.model_spans import call_of, litellm_call_of, source_of, tool_of

OPENAI_V2 = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
    "gen_ai.system": "openai",
    "gen_ai.usage.input_tokens": 132,
    "gen_ai.usage.output_tokens": 140,
}
OPENINFERENCE = {
    "openinference.span.kind": "LLM",
    "llm.model_name": "gpt-4o-mini-2024-07-18",
    "llm.provider": "openai",
    "llm.token_count.prompt": 132,
    "llm.token_count.completion": 140,
    "llm.token_count.total": 272,
    "llm.token_count.prompt_details.cache_read": 14,
    "llm.token_count.completion_details.reasoning": 3,
}
OLDER = {
    "llm.request.type": "chat",
    "gen_ai.request.model": "gpt-4o-mini",
    "gen_ai.usage.prompt_tokens": 132,
    "gen_ai.usage.completion_tokens": 140,
    "gen_ai.usage.cache_read_input_tokens": 14,
}


def test_the_conventions_say_the_same_in_different_words() -> None:
    read = [call_of(attributes, False) for attributes in (OPENAI_V2, OPENINFERENCE, OLDER)]
    assert [(call.tokens["input"], call.tokens["output"]) for call in read if call] == [
        (132, 140)
    ] * 3
    v2, openinference, older = read
    assert v2
    assert openinference
    assert older
    assert (v2.requested, v2.responded, v2.provider) == (
        "gpt-4o-mini",
        "gpt-4o-mini-2024-07-18",
        "openai",
    )
    assert openinference.model == "gpt-4o-mini-2024-07-18"
    asked = {"llm.invocation_parameters": '{"model": "gpt-4o-mini", "temperature": 0.5}'}
    assert (told := call_of({**OPENINFERENCE, **asked}, False)) is not None
    assert (told.requested, told.responded) == ("gpt-4o-mini", "gpt-4o-mini-2024-07-18")
    for cut in ('{"model": "gpt-4o-', "[]", '{"model": 4}', "[" * 100_000):
        told = call_of({**OPENINFERENCE, "llm.invocation_parameters": cut}, False)
        assert told is not None
        assert told.model == "gpt-4o-mini-2024-07-18"
    assert openinference.tokens == {
        "input": 132,
        "output": 140,
        "cache_read": 14,
        "reasoning": 3,
    }
    assert older.tokens["cache_read"] == 14


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"http.request.method": "POST"},
        {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "search"},
        {"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "m"},
        {"openinference.span.kind": "CHAIN", "llm.model_name": "m"},
        {"gen_ai.conversation.id": "thread"},
    ],
)
def test_other_spans_are_of_no_call(attributes: dict[str, Any]) -> None:
    assert call_of(attributes, False) is None


@pytest.mark.parametrize(
    ("name", "attributes", "tool"),
    [
        ("execute_tool x", {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "x"}, "x"),
        ("x", {"openinference.span.kind": "TOOL", "tool.name": "x"}, "x"),
        ("x.tool", {"traceloop.span.kind": "tool", "traceloop.entity.name": "x"}, "x"),
        ("x", {"openinference.span.kind": "TOOL"}, "x"),
        ("x", {"traceloop.span.kind": "task", "traceloop.entity.name": "x"}, ""),
        ("x", {"gen_ai.operation.name": "chat", "gen_ai.tool.name": "x"}, ""),
        ("x", {}, ""),
    ],
)
def test_the_conventions_name_tools(name: str, attributes: dict[str, Any], tool: str) -> None:
    assert tool_of(name, attributes) == tool


def test_a_call_without_counts_is_uncounted_and_one_that_was_refused_is_none() -> None:
    asked = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "m"}
    call = call_of(asked, False)
    assert call is not None
    assert not call.is_counted
    assert call_of(asked, True) is None
    begun = call_of({**asked, "gen_ai.response.id": "chatcmpl-1"}, True)
    assert begun is not None
    assert not begun.is_counted, "a stream that broke off has used what nobody knows"


@pytest.mark.parametrize("count", [-1, "12", True, None])
def test_what_is_no_count_is_not_known(count: Any) -> None:
    call = call_of({**OPENAI_V2, "gen_ai.usage.input_tokens": count}, False)
    assert call is not None
    assert call.tokens == {"output": 140}


@pytest.mark.parametrize(
    "attributes",
    [
        {
            "gen_ai.operation.name": "embeddings",
            "gen_ai.request.model": "embedder",
            "gen_ai.usage.input_tokens": 7,
        },
        {
            "openinference.span.kind": "EMBEDDING",
            "embedding.model_name": "embedder",
            "llm.token_count.prompt": 7,
        },
        {"openinference.span.kind": "EMBEDDING", "embedding.model_name": "embedder"},
        {"llm.request.type": "rerank", "gen_ai.request.model": "embedder"},
    ],
)
def test_what_embeds_or_ranks_is_a_call_and_no_answer(attributes: dict[str, Any]) -> None:
    call = call_of(attributes, False)
    assert call is not None
    assert (call.model, call.is_answer) == ("embedder", False)
    assert call.tokens in ({}, {"input": 7})


def test_tokens_that_are_all_zero_are_not_known() -> None:
    # As Traceloop's of Anthropic has it where the answer is handed on unread.
    unread = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "claude-sonnet-4-5",
        "gen_ai.usage.input_tokens": 0,
        "gen_ai.usage.output_tokens": 0,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }
    call = call_of(unread, False)
    assert call is not None
    assert call.tokens == {}
    silent = call_of({**unread, "gen_ai.usage.input_tokens": 7}, False)
    assert silent is not None
    assert silent.tokens == {"input": 7, "output": 0, "cache_read": 0}


def test_an_agent_that_says_what_its_calls_used_is_as_good_as_one() -> None:
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 5}
    call = call_of(agent, False)
    assert call is not None
    assert call.tokens == {"input": 5}


def test_logfire_shows_a_streamed_call_where_it_begins_and_where_it_ends() -> None:
    asked = {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini",
        "request_data": '{"model":"gpt-4o-mini"}',
        "logfire.span_type": "span",
    }
    told = {**asked, "gen_ai.response.id": "chatcmpl-1", "logfire.span_type": "log"}
    assert call_of(asked, True) is None
    begun, ended = call_of(asked, False), call_of(told, False)
    assert begun is not None
    assert ended is not None
    assert not begun.is_counted
    assert (ended.answer, ended.is_counted) == ("chatcmpl-1", False)
    usage = Usage()
    for attributes, call in ((asked, begun), (told, ended)):
        usage.add(source_of("logfire.openai", attributes), call)
    assert [call.answer for call in usage.calls] == ["chatcmpl-1"]


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        (
            "{'completion_tokens': 140, 'prompt_tokens': 132, 'total_tokens': 272, "
            "'completion_tokens_details': {'reasoning_tokens': 3}, "
            "'prompt_tokens_details': {'audio_tokens': None, 'cached_tokens': 14}}",
            {"input": 132, "output": 140, "cache_read": 14, "reasoning": 3},
        ),
        (
            "{'input_tokens': 107, 'cache_creation_input_tokens': 38, "
            "'cache_read_input_tokens': 10, 'output_tokens': 642}",
            {"input": 155, "output": 642, "cache_read": 10, "cache_write": 38},
        ),
        ("{'completion_tokens': 140, 'prompt_to", {}),
        ("[" * 100_000, {}),
        ("'many'", {}),
        (None, {}),
    ],
)
def test_litellm_shows_a_call_as_the_provider_has_answered(
    usage: str | None, tokens: dict[str, int]
) -> None:
    raw = {"llm.openai.model": "gpt-4o", "llm.openai.id": "chatcmpl-1", "llm.openai.usage": usage}
    call = litellm_call_of(raw)
    assert call is not None
    assert (call.model, call.provider, call.tokens) == ("gpt-4o", "openai", tokens)
    assert litellm_call_of({"llm.openai.created": 1}) is None
