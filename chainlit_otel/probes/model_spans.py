"""What the span of another instrumentation says of a call of a model."""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Iterable, Mapping
from typing import Any

from chainlit_otel.catalog import gen_ai
from chainlit_otel.core.usage import ModelCall


def call_of(attributes: Mapping[str, Any], failed: bool) -> ModelCall | None:
    """Return the model call that a span is of, or whose tokens it has; None if it has neither.

    Args:
        attributes: The attributes of the span.
        failed: Whether the span has failed. Without any answer of a model it is then of no call,
            since one that is refused uses nothing.
    """
    if not any(key.startswith(gen_ai.PREFIXES) for key in attributes):
        return None
    tokens = {
        kind: count
        for kind, names in gen_ai.TOKENS.items()
        if (count := _count(attributes, names)) is not None
    }
    call = ModelCall(
        _text(attributes, gen_ai.REQUESTED_MODEL),
        _text(attributes, gen_ai.RESPONDED_MODEL),
        _text(attributes, gen_ai.PROVIDER),
        tokens,
        answer=_text(attributes, gen_ai.ANSWER),
    )
    if call.is_counted:
        return call
    operation = _text(attributes, gen_ai.OPERATION).lower()
    if not (operation in gen_ai.INFERENCES or (not operation and call.model)):
        return None
    if gen_ai.LOGFIRE_REQUEST in attributes:
        # It names the model that answers before anything has.
        return call if any(name in attributes for name in gen_ai.ANSWERED) else None
    answered = any(name in attributes for name in gen_ai.RESPONSE)
    return None if failed and not answered else call


def litellm_call_of(attributes: Mapping[str, Any]) -> ModelCall | None:
    """Return the model call that LiteLLM shows as its provider has answered.

    Without the id of the answer: for some providers LiteLLM gives another one elsewhere.

    Args:
        attributes: The attributes of a span with the name `LITELLM_SPAN`.
    """
    for key, model in attributes.items():
        if (found := gen_ai.LITELLM_MODEL.fullmatch(key)) is not None and isinstance(model, str):
            usage = attributes.get(f"llm.{found[1]}.usage")
            return ModelCall(model, provider=found[1], tokens=_tokens_in(usage))
    return None


def _tokens_in(text: object) -> dict[str, int]:
    try:
        usage = literal_eval(text) if isinstance(text, str) else None
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        # It may be cut where attributes have a limit.
        usage = None
    if not isinstance(usage, dict):
        return {}
    flat = {**usage}
    for details in usage.values():
        if isinstance(details, dict):
            flat |= details
    tokens = {
        kind: count
        for kind, names in gen_ai.LITELLM_TOKENS.items()
        if (count := _count(flat, names)) is not None
    }
    if "input" in tokens:
        tokens["input"] += sum(_count(flat, (name,)) or 0 for name in gen_ai.ANTHROPIC_CACHES)
    return tokens


def _text(attributes: Mapping[str, Any], names: Iterable[str]) -> str:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, str) and value:
            return value
    return ""


def _count(attributes: Mapping[str, Any], names: Iterable[str]) -> int | None:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0:
            return int(value)
    return None
