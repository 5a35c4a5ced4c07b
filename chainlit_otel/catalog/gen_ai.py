"""What spans of model calls say, by the conventions that instrumentations follow. Data only.

Each tuple has the names of one thing, the newest first: of OpenTelemetry's GenAI conventions, their
older releases, Traceloop's and OpenInference's.
"""

from __future__ import annotations

import re

PREFIXES = ("gen_ai.", "llm.", "embedding.")
"""With which the name of at least one attribute of such a span begins."""

REQUESTED_MODEL = ("gen_ai.request.model", "llm.request.model", "llm.request.model_name")
REQUEST = ("llm.invocation_parameters", "embedding.invocation_parameters")
"""Where the request is as JSON, without its messages: `model` is what was asked for."""

MODEL = ("llm.model_name", "embedding.model_name")
"""A model without a word on whether it was asked for or has answered: most often the latter."""

RESPONDED_MODEL = ("gen_ai.response.model", "llm.response.model", "llm.response.model_name")
PROVIDER = ("gen_ai.provider.name", "gen_ai.system", "llm.provider", "llm.system")
ANSWER = ("gen_ai.response.id",)
ANSWERED = (*ANSWER, "gen_ai.response.finish_reasons")
RESPONSE = (*ANSWERED, *RESPONDED_MODEL)
"""Which of them there are only when the model has begun to answer."""

TOKENS = {
    "input": (
        "gen_ai.usage.input_tokens",
        "gen_ai.usage.prompt_tokens",
        "llm.usage.prompt_tokens",
        "llm.token_count.prompt",
    ),
    "output": (
        "gen_ai.usage.output_tokens",
        "gen_ai.usage.completion_tokens",
        "llm.usage.completion_tokens",
        "llm.token_count.completion",
    ),
    "cache_read": (
        "gen_ai.usage.cache_read.input_tokens",
        "gen_ai.usage.cache_read_input_tokens",
        "gen_ai.usage.details.cache_read_tokens",
        "llm.token_count.prompt_details.cache_read",
    ),
    "cache_write": (
        "gen_ai.usage.cache_write.input_tokens",
        "gen_ai.usage.cache_creation.input_tokens",
        "gen_ai.usage.cache_creation_input_tokens",
        "gen_ai.usage.details.cache_write_tokens",
        "llm.token_count.prompt_details.cache_write",
    ),
    "reasoning": (
        "gen_ai.usage.reasoning.output_tokens",
        "gen_ai.usage.reasoning_tokens",
        "gen_ai.usage.details.reasoning_tokens",
        "llm.token_count.completion_details.reasoning",
    ),
}
"""Tokens, by type. Those of caches are part of the input, and the reasoning is of the output."""

LITELLM_SPAN = "raw_gen_ai_request"
"""The span in which LiteLLM has the answer of a provider, by the provider's own names. It is all
there is of a call whose tokens it writes onto the span that is current, where the next call
overwrites them."""

LITELLM_MODEL = re.compile(r"llm\.([^.]+)\.model")
"""Key of the model there, with the provider in it."""

LITELLM_TOKENS = {
    "input": ("prompt_tokens", "input_tokens"),
    "output": ("completion_tokens", "output_tokens"),
    "cache_read": ("cached_tokens", "cache_read_input_tokens"),
    "cache_write": ("cache_creation_input_tokens",),
    "reasoning": ("reasoning_tokens",),
}
"""The names in the `usage` of providers. Anthropic's input does not have those of caches in it."""

ANTHROPIC_CACHES = ("cache_read_input_tokens", "cache_creation_input_tokens")

LOGFIRE_REQUEST = "request_data"
LOGFIRE_KIND = "logfire.span_type"
"""What logfire sets. It ends a span when a stream begins, as if nothing had been answered, and
shows the answer by another one, a `log`, when the stream ends: as a source of its own."""

OPERATION = ("gen_ai.operation.name", "openinference.span.kind", "llm.request.type")

KIND = (*OPERATION, "traceloop.span.kind")
TOOLS = frozenset({"execute_tool", "tool"})
"""The kinds, in small letters, that are one call of a tool."""

TOOL_NAME = ("gen_ai.tool.name", "tool.name", "traceloop.entity.name")

SILENT = frozenset({"embeddings", "embedding", "rerank"})
INFERENCES = SILENT | {"chat", "text_completion", "completion", "generate_content", "llm"}
"""The operations, in small letters, that are one call of a model; of `SILENT` ones, no answer
comes that anybody reads."""
