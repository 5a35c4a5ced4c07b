"""What shows model calls: each by what its users write."""

from __future__ import annotations

import os
from collections.abc import Callable

CHOSEN = frozenset(os.environ.get("SOURCES", "").split())


def _chainlit() -> None:
    import chainlit as cl

    cl.instrument_openai()


def _chainlit_mistral() -> None:
    import chainlit as cl

    cl.instrument_mistralai()


def _genai() -> None:
    from opentelemetry.instrumentation.genai.anthropic import AnthropicInstrumentor
    from opentelemetry.instrumentation.genai.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument()
    AnthropicInstrumentor().instrument()


def _genai_langchain() -> None:
    from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor

    LangChainInstrumentor().instrument()


def _genai_llama_index() -> None:
    from opentelemetry.instrumentation.genai.llama_index import LlamaIndexInstrumentor

    LlamaIndexInstrumentor().instrument()


def _genai_agents() -> None:
    from opentelemetry.instrumentation.genai.openai_agents import OpenAIAgentsInstrumentor

    OpenAIAgentsInstrumentor().instrument()


def _litellm() -> None:
    import litellm

    litellm.callbacks = ["otel"]


def _litellm_raw() -> None:
    """As it is by default: no span of its own for each call, but one for what has been answered."""
    del os.environ["USE_OTEL_LITELLM_REQUEST_SPAN"]
    _litellm()


def _logfire(*names: str) -> Callable[[], None]:
    def instrument() -> None:
        import logfire

        logfire.configure(send_to_logfire=False, console=False)
        for name in names:
            getattr(logfire, f"instrument_{name}")()

    return instrument


def _openai_v2() -> None:
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

    OpenAIInstrumentor().instrument()


def _openinference() -> None:
    from openinference.instrumentation.anthropic import AnthropicInstrumentor
    from openinference.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument()
    AnthropicInstrumentor().instrument()


def _openinference_langchain() -> None:
    from openinference.instrumentation.langchain import LangChainInstrumentor

    LangChainInstrumentor().instrument()


def _openinference_llama_index() -> None:
    from openinference.instrumentation.llama_index import LlamaIndexInstrumentor

    LlamaIndexInstrumentor().instrument()


def _openinference_agents() -> None:
    from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor

    OpenAIAgentsInstrumentor().instrument()


def _openinference_litellm() -> None:
    from openinference.instrumentation.litellm import LiteLLMInstrumentor

    LiteLLMInstrumentor().instrument()


def _pydantic_ai() -> None:
    from pydantic_ai import Agent

    Agent.instrument_all()


def _traceloop() -> None:
    from opentelemetry.instrumentation.anthropic import AnthropicInstrumentor
    from opentelemetry.instrumentation.openai import OpenAIInstrumentor

    OpenAIInstrumentor().instrument()
    AnthropicInstrumentor().instrument()


def _traceloop_langchain() -> None:
    from opentelemetry.instrumentation.langchain import LangchainInstrumentor

    LangchainInstrumentor().instrument()


def _traceloop_llama_index() -> None:
    from opentelemetry.instrumentation.llamaindex import LlamaIndexInstrumentor

    LlamaIndexInstrumentor().instrument()  # type: ignore[no-untyped-call]


def _traceloop_mistral() -> None:
    from opentelemetry.instrumentation.mistralai import MistralAiInstrumentor

    MistralAiInstrumentor().instrument()  # type: ignore[no-untyped-call]


def _traceloop_agents() -> None:
    from opentelemetry.instrumentation.openai_agents import OpenAIAgentsInstrumentor

    OpenAIAgentsInstrumentor().instrument()


SOURCES: dict[str, Callable[[], None]] = {
    # The app's own word, and Chainlit's handlers, are in the ways themselves.
    "app": lambda: None,
    "handlers": lambda: None,
    "chainlit": _chainlit,
    "chainlit-mistral": _chainlit_mistral,
    "genai": _genai,
    "genai-agents": _genai_agents,
    "genai-langchain": _genai_langchain,
    "genai-llama-index": _genai_llama_index,
    "litellm": _litellm,
    "litellm-raw": _litellm_raw,
    "logfire": _logfire("openai", "anthropic"),
    "logfire-agents": _logfire("openai_agents"),
    "logfire-litellm": _logfire("litellm"),
    "logfire-pydantic-ai": _logfire("pydantic_ai"),
    "openai-v2": _openai_v2,
    "openinference": _openinference,
    "openinference-agents": _openinference_agents,
    "openinference-langchain": _openinference_langchain,
    "openinference-litellm": _openinference_litellm,
    "openinference-llama-index": _openinference_llama_index,
    "pydantic-ai": _pydantic_ai,
    "traceloop": _traceloop,
    "traceloop-agents": _traceloop_agents,
    "traceloop-langchain": _traceloop_langchain,
    "traceloop-llama-index": _traceloop_llama_index,
    "traceloop-mistral": _traceloop_mistral,
}


def instrument() -> None:
    for name in sorted(CHOSEN):
        SOURCES[name]()
