"""What the span of another instrumentation says of a call of a model."""

from __future__ import annotations

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
