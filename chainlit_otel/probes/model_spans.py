"""What the span of another instrumentation says of a call of a model, or of a tool."""

from __future__ import annotations

import json
from ast import literal_eval
from collections.abc import Iterable, Mapping
from typing import Any

from chainlit_otel.catalog import gen_ai
from chainlit_otel.core.usage import ModelCall, counts


def source_of(scope: str, attributes: Mapping[str, Any]) -> str:
    """Return who shows a call by a span: the instrumentation, by its scope.

    Args:
        scope: The name of the scope.
        attributes: The attributes of the span.
    """
    if gen_ai.LOGFIRE_REQUEST in attributes and attributes.get(gen_ai.LOGFIRE_KIND) == "log":
        return f"{scope} log"
    return scope


def call_of(attributes: Mapping[str, Any], failed: bool) -> ModelCall | None:
    """Return the model call that a span is of, or whose tokens it has; None if it has neither.

    Args:
        attributes: The attributes of the span.
        failed: Whether the span has failed. Without any answer of a model it is then of no call,
            since one that is refused uses nothing.
    """
    if not any(key.startswith(gen_ai.PREFIXES) for key in attributes):
        return None
    tokens = counts(**{kind: _count(attributes, names) for kind, names in gen_ai.TOKENS.items()})
    operation = _text(attributes, gen_ai.OPERATION).lower()
    requested = _text(attributes, gen_ai.REQUESTED_MODEL)
    call = ModelCall(
        requested or _model_in(_text(attributes, gen_ai.REQUEST)),
        _text(attributes, (*gen_ai.RESPONDED_MODEL, *gen_ai.MODEL)),
        _text(attributes, gen_ai.PROVIDER),
        tokens,
        answer=_text(attributes, gen_ai.ANSWER),
        is_answer=operation not in gen_ai.SILENT,
    )
    if call.is_counted:
        return call
    if not (operation in gen_ai.INFERENCES or (not operation and call.model)):
        return None
    # Logfire names the model that answers before anything has.
    response = gen_ai.ANSWERED if gen_ai.LOGFIRE_REQUEST in attributes else gen_ai.RESPONSE
    answered = any(name in attributes for name in response)
    return None if failed and not answered else call


def tool_of(name: str, attributes: Mapping[str, Any]) -> str:
    """Return the name of the tool that a span is a call of; empty if it is of none.

    Args:
        name: The name of the span.
        attributes: Its attributes.
    """
    if not any(_text(attributes, (key,)).lower() in gen_ai.TOOLS for key in gen_ai.KIND):
        return ""
    return _text(attributes, gen_ai.TOOL_NAME) or name


def litellm_call_of(attributes: Mapping[str, Any]) -> ModelCall | None:
    """Return the model call that LiteLLM shows as its provider has answered.

    Without the id of the answer: for some providers LiteLLM gives another one elsewhere.

    Args:
        attributes: The attributes of a span with the name `LITELLM_SPAN`.
    """
    for key, model in attributes.items():
        if (found := gen_ai.LITELLM_MODEL.fullmatch(key)) is not None and isinstance(model, str):
            usage = attributes.get(f"llm.{found[1]}.usage")
            return ModelCall(responded=model, provider=found[1], tokens=_tokens_in(usage))
    return None


def _model_in(request: str) -> str:
    try:
        model = json.loads(request).get("model") if request else None
    except (ValueError, AttributeError, RecursionError):
        # It may be cut where attributes have a limit.
        model = None
    return model if isinstance(model, str) else ""


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
    tokens = counts(**{kind: _count(flat, names) for kind, names in gen_ai.LITELLM_TOKENS.items()})
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
