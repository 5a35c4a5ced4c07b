"""The APIs of models: what they report is in the ledger, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from chainlit_otel.testing.models import ModelApi

TOOL = {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]}
ASKED = [{"role": "user", "content": "when? #mark"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "messages": ASKED,
        "tools": [{"type": "function", "function": {"name": "hours", "parameters": TOOL}}],
    },
    "/v1/responses": {
        "input": ASKED,
        "tools": [{"type": "function", "name": "hours", "parameters": TOOL}],
    },
    "/v1/messages": {"messages": ASKED, "tools": [{"name": "hours", "input_schema": TOOL}]},
}
every_api = pytest.mark.parametrize("path", REQUESTS)


@pytest.fixture
def api() -> Iterator[ModelApi]:
    with ModelApi() as api:
        yield api


def ask(api: ModelApi, path: str, **options: Any) -> httpx.Response:
    body = {"model": "gpt-4o", **REQUESTS[path], **options}
    return httpx.post(f"{api.origin}{path}", json=body).raise_for_status()


def pieces(response: httpx.Response) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n") if "data: " in line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


def reported(usage: dict[str, Any]) -> tuple[int, int]:
    """All of the input, and all of the output, whatever an API calls them."""
    cached = usage.get("cache_creation_input_tokens", 0) + usage.get("cache_read_input_tokens", 0)
    return (
        usage.get("prompt_tokens", usage.get("input_tokens", 0)) + cached,
        usage.get("completion_tokens", usage.get("output_tokens", 0)),
    )


@every_api
def test_what_is_reported_is_in_the_ledger(api: ModelApi, path: str) -> None:
    usage = ask(api, path).json()["usage"]
    (answer,) = api.of("mark")
    assert reported(usage) == (answer.input_tokens, answer.output_tokens)
    assert (answer.model, answer.streamed, answer.counted) == ("gpt-4o-2024-08-06", False, True)
    assert httpx.get(api.origin).json() == [vars(answer)]


@every_api
def test_each_tool_is_called_with_the_mark(api: ModelApi, path: str) -> None:
    assert "about #mark" in ask(api, path).text
    assert "about #mark" in ask(api, path, stream=True).text.replace('\\"', '"')
    assert "yes." in ask(api, path, tools=[]).text


def test_a_streamed_chat_tells_tokens_to_who_asks(api: ModelApi) -> None:
    path = "/v1/chat/completions"
    silent = pieces(ask(api, path, stream=True))
    told = pieces(ask(api, path, stream=True, stream_options={"include_usage": True}))
    assert not any(piece.get("usage") for piece in silent)
    first, second = api.ledger
    assert (first.counted, second.counted) == (False, True)
    assert reported(told[-1]["usage"]) == (second.input_tokens, second.output_tokens)


def test_streams_of_the_other_apis_tell_tokens_at_their_end(api: ModelApi) -> None:
    response = pieces(ask(api, "/v1/responses", stream=True))[-1]["response"]
    events = pieces(ask(api, "/v1/messages", stream=True))
    first, second = api.ledger
    assert reported(response["usage"]) == (first.input_tokens, first.output_tokens)
    assert reported(events[0]["message"]["usage"])[0] == second.input_tokens
    assert events[-2]["usage"]["output_tokens"] == second.output_tokens


def test_a_model_may_report_nothing(api: ModelApi) -> None:
    assert "usage" not in ask(api, "/v1/chat/completions", model="m-uncounted").json()
    assert ask(api, "/v1/responses", model="m-uncounted").json()["usage"] is None
    assert [answer.counted for answer in api.ledger] == [False, False]


@pytest.mark.parametrize("texts", ["one #mark", ["one", "other #mark"]])
def test_what_is_embedded_has_no_output(api: ModelApi, texts: str | list[str]) -> None:
    body = {"model": "text-embedding-3-small", "input": texts}
    told = httpx.post(f"{api.origin}/v1/embeddings", json=body).raise_for_status().json()
    (answer,) = api.of("mark")
    assert len(told["data"]) == (1 if isinstance(texts, str) else 2)
    assert told["usage"] == dict.fromkeys(("prompt_tokens", "total_tokens"), answer.input_tokens)
    assert (answer.api, answer.output_tokens, answer.reasoning_tokens) == ("embeddings", 0, 0)


def test_what_is_no_api_is_not_found(api: ModelApi) -> None:
    response = httpx.post(f"{api.origin}/v1/images", json={})
    assert (response.status_code, response.json()["error"]["message"]) == (
        404,
        "no such API: /v1/images",
    )
    assert api.ledger == []
