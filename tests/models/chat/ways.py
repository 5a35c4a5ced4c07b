"""How apps ask models: each client and each framework, as its users write it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import chainlit as cl
from sources import CHOSEN

import chainlit_otel

MODEL = "gpt-4o-mini"
CLAUDE = "claude-sonnet-4-5"
EMBEDDER = "text-embedding-3-small"
COUNT = {"include_usage": True}

Way = Callable[..., Awaitable[Any]]
WAYS: dict[str, Way] = {}


def way(ask: Way) -> Way:
    WAYS[ask.__name__] = ask
    return ask


def said(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def note(usage: Any, model: str = MODEL) -> None:
    """Say it oneself, as an app does that reads what the client returns."""
    if "app" not in CHOSEN:
        return
    counts: dict[str, Any] = {}
    if usage is not None:
        counts = {
            "input_tokens": usage.prompt_tokens,
            "output_tokens": getattr(usage, "completion_tokens", None),
        }
    chainlit_otel.record_usage(model=model, **counts)


async def consume(stream: AsyncIterator[Any]) -> Any:
    """Return the last usage that a stream told, if any."""
    usage = None
    async for chunk in stream:
        usage = getattr(chunk, "usage", None) or usage
    return usage


async def leave(stream: AsyncIterator[Any]) -> None:
    """Read the first pieces of a stream, and no more."""
    pieces = 0
    async for _ in stream:
        pieces += 1
        if pieces == 2:
            break


# OpenAI's client


@way
async def openai(text: str, model: str = MODEL) -> None:
    from openai import AsyncOpenAI

    answer = await AsyncOpenAI().chat.completions.create(model=model, messages=said(text))
    note(answer.usage, model)


@way
async def openai_uncounted(text: str) -> None:
    await openai(text, "local-uncounted")


@way
async def openai_sync(text: str) -> None:
    from openai import OpenAI

    await cl.make_async(
        lambda: note(OpenAI().chat.completions.create(model=MODEL, messages=said(text)).usage)
    )()


@way
async def openai_stream(text: str, **options: Any) -> None:
    from openai import AsyncOpenAI

    chat: Any = AsyncOpenAI().chat.completions
    stream = await chat.create(model=MODEL, messages=said(text), stream=True, **options)
    note(await consume(stream))


@way
async def openai_stream_counted(text: str) -> None:
    await openai_stream(text, stream_options=COUNT)


@way
async def openai_stream_left(text: str) -> None:
    """Somebody has read enough."""
    from openai import AsyncOpenAI

    chat: Any = AsyncOpenAI().chat.completions
    await leave(
        await chat.create(model=MODEL, messages=said(text), stream=True, stream_options=COUNT)
    )
    note(None)


@way
async def openai_stream_closed(text: str) -> None:
    from openai import AsyncOpenAI

    chat: Any = AsyncOpenAI().chat.completions
    stream = await chat.create(model=MODEL, messages=said(text), stream=True, stream_options=COUNT)
    await leave(stream)
    await stream.close()
    note(None)


@way
async def openai_raw(text: str) -> None:
    from openai import AsyncOpenAI

    chat: Any = AsyncOpenAI().chat.completions.with_raw_response
    note((await chat.create(model=MODEL, messages=said(text))).parse().usage)


@way
async def openai_refused(text: str) -> None:
    from openai import APIConnectionError, AsyncOpenAI

    try:
        # Nobody listens at the port of discard.
        nobody = AsyncOpenAI(base_url="http://127.0.0.1:9/v1", max_retries=0)
        await nobody.chat.completions.create(model=MODEL, messages=said(text))
    except APIConnectionError:
        return
    raise AssertionError("somebody answered")


@way
async def openai_twins(text: str) -> None:
    """At once, with the same question."""
    await asyncio.gather(*(openai(text) for _ in range(4)), openai_stream_counted(text))


@way
async def openai_tools(text: str) -> None:
    """A loop of one's own, whose tools ask in tasks and threads."""
    from openai import AsyncOpenAI

    @cl.step(type="tool")
    async def in_task(text: str) -> str:
        await openai(text)
        return "found"

    @cl.step(type="tool")
    async def in_thread(text: str) -> str:
        await openai_sync(text)
        return "found"

    # Chainlit's own instrumentation breaks a call in a thread.
    tools = {"in_task": in_task, "in_thread": in_task if "chainlit" in CHOSEN else in_thread}
    offered: Any = [{"type": "function", "function": {"name": name}} for name in tools]
    chat = AsyncOpenAI().chat.completions
    answer = await chat.create(model="gpt-4o", messages=said(text), tools=offered)
    note(answer.usage, "gpt-4o")
    asked = answer.choices[0].message
    called = asked.tool_calls or []
    found = await asyncio.gather(*(tools[call.function.name](text) for call in called))  # type: ignore[union-attr]
    answers = [
        {"role": "tool", "tool_call_id": call.id, "content": one}
        for call, one in zip(called, found, strict=True)
    ]
    messages: Any = [*said(text), asked, *answers]
    answer = await chat.create(model="gpt-4o", messages=messages, tools=offered)
    note(answer.usage, "gpt-4o")


@way
async def openai_detached(text: str) -> None:
    """A task of its own asks, and the turn reads what it brings by a queue."""
    from openai import AsyncOpenAI

    brought: asyncio.Queue[Any] = asyncio.Queue()

    async def ask() -> None:
        chat: Any = AsyncOpenAI().chat.completions
        stream = await chat.create(
            model=MODEL, messages=said(text), stream=True, stream_options=COUNT
        )
        async for chunk in stream:
            await brought.put(chunk)
        await brought.put(None)

    task = asyncio.create_task(ask())
    usage = None
    while (chunk := await brought.get()) is not None:
        usage = chunk.usage or usage
    note(usage)
    await task


@way
async def responses(text: str) -> None:
    from openai import AsyncOpenAI

    await AsyncOpenAI().responses.create(model=MODEL, input=text)


@way
async def responses_stream(text: str) -> None:
    from openai import AsyncOpenAI

    await consume(await AsyncOpenAI().responses.create(model=MODEL, input=text, stream=True))


@way
async def embeddings(text: str) -> None:
    """What is looked up first, and then the answer."""
    from openai import AsyncOpenAI

    found = await AsyncOpenAI().embeddings.create(model=EMBEDDER, input=[text, text])
    note(found.usage, EMBEDDER)
    await openai(text)


@way
async def embeddings_uncounted_answer(text: str) -> None:
    await embeddings(text)
    await openai_stream(text)


def _azure() -> Any:
    from openai import AsyncAzureOpenAI

    return AsyncAzureOpenAI(
        azure_endpoint=os.environ["ANTHROPIC_BASE_URL"], api_version="2024-10-21"
    )


@way
async def azure(text: str) -> None:
    await _azure().chat.completions.create(model=MODEL, messages=said(text))


@way
async def azure_stream(text: str) -> None:
    chat = _azure().chat.completions
    await consume(
        await chat.create(model=MODEL, messages=said(text), stream=True, stream_options=COUNT)
    )


# Anthropic's client


@way
async def anthropic(text: str) -> None:
    from anthropic import AsyncAnthropic

    await AsyncAnthropic().messages.create(model=CLAUDE, max_tokens=99, messages=said(text))


@way
async def anthropic_raw(text: str) -> None:
    """As LangChain asks."""
    from anthropic import AsyncAnthropic

    raw = AsyncAnthropic().messages.with_raw_response
    (await raw.create(model=CLAUDE, max_tokens=99, messages=said(text))).parse()


@way
async def anthropic_stream(text: str) -> None:
    from anthropic import AsyncAnthropic

    messages = AsyncAnthropic().messages
    await consume(
        await messages.create(model=CLAUDE, max_tokens=99, messages=said(text), stream=True)
    )


@way
async def anthropic_stream_left(text: str) -> None:
    from anthropic import AsyncAnthropic

    messages = AsyncAnthropic().messages
    await leave(
        await messages.create(model=CLAUDE, max_tokens=99, messages=said(text), stream=True)
    )


@way
async def anthropic_manager_left(text: str) -> None:
    from anthropic import AsyncAnthropic

    messages = AsyncAnthropic().messages
    async with messages.stream(model=CLAUDE, max_tokens=99, messages=said(text)) as stream:
        await leave(stream.text_stream)


@way
async def anthropic_manager(text: str) -> None:
    from anthropic import AsyncAnthropic

    messages = AsyncAnthropic().messages
    async with messages.stream(model=CLAUDE, max_tokens=99, messages=said(text)) as stream:
        await consume(stream.text_stream)


# Mistral's client


def _mistral() -> Any:
    from mistralai import Mistral

    return Mistral(api_key="none", server_url=os.environ["MISTRAL_BASE_URL"]).chat


@way
async def mistral(text: str) -> None:
    await _mistral().complete_async(model="mistral-small", messages=said(text))


@way
async def mistral_stream(text: str) -> None:
    await consume(await _mistral().stream_async(model="mistral-small", messages=said(text)))


# LiteLLM


@way
async def litellm(text: str, model: str = f"openai/{MODEL}", **options: Any) -> None:
    from litellm import acompletion
    from litellm.litellm_core_utils.logging_worker import GLOBAL_LOGGING_WORKER

    answer = await acompletion(model=model, messages=said(text), **options)
    usage = await consume(answer) if options.get("stream") else answer.usage
    note(usage, model.rpartition("/")[2])
    # Its callbacks come when they may, and would be late for the record of the turn.
    await GLOBAL_LOGGING_WORKER.flush()


@way
async def litellm_stream_counted(text: str) -> None:
    await litellm(text, stream=True, stream_options=COUNT)


@way
async def litellm_anthropic(text: str) -> None:
    await litellm(text, f"anthropic/{CLAUDE}", api_base=os.environ["ANTHROPIC_BASE_URL"])


# LangChain and LangGraph


def _handled() -> Any:
    return {"callbacks": [cl.LangchainCallbackHandler()]} if "handlers" in CHOSEN else None


@way
async def langchain(text: str) -> None:
    from langchain_openai import ChatOpenAI

    await ChatOpenAI(model=MODEL).ainvoke(text, _handled())


@way
async def langchain_stream(text: str, counted: bool = True) -> None:
    from langchain_openai import ChatOpenAI

    await consume(ChatOpenAI(model=MODEL, stream_usage=counted).astream(text, _handled()))


@way
async def langchain_stream_uncounted(text: str) -> None:
    await langchain_stream(text, counted=False)


@way
async def langchain_anthropic(text: str) -> None:
    from langchain_anthropic import ChatAnthropic

    await ChatAnthropic(model_name=CLAUDE).ainvoke(text, _handled())


@way
async def langchain_agent(text: str) -> None:
    from langchain.agents import create_agent
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL)

    @tool
    async def ask_scholar(question: str) -> str:
        """Ask somebody who knows."""
        return str((await model.ainvoke(question)).content)

    agent = create_agent(ChatOpenAI(model="gpt-4o"), [ask_scholar])
    await agent.ainvoke({"messages": said(text)}, _handled())


@way
async def langgraph(text: str) -> None:
    from langchain_openai import ChatOpenAI
    from langgraph.graph import END, START, MessagesState, StateGraph

    model = ChatOpenAI(model=MODEL, stream_usage=True)

    async def answer(state: Any) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(said(text))]}

    graph = StateGraph(MessagesState)
    for name in ("one", "other"):
        graph.add_node(name, answer)
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    await consume(
        graph.compile().astream({"messages": said(text)}, _handled(), stream_mode="messages")
    )


# LlamaIndex


def _llama(**options: Any) -> Any:
    from llama_index.core.callbacks import CallbackManager
    from llama_index.llms.openai import OpenAI

    handlers: list[Any] = [cl.LlamaIndexCallbackHandler()] if "handlers" in CHOSEN else []
    base = os.environ["OPENAI_BASE_URL"]
    return OpenAI(model=MODEL, api_base=base, callback_manager=CallbackManager(handlers), **options)


def _llama_said(text: str) -> list[Any]:
    from llama_index.core.llms import ChatMessage

    return [ChatMessage(text)]


@way
async def llama_index(text: str) -> None:
    await _llama().achat(_llama_said(text))


@way
async def llama_index_stream(text: str, **options: Any) -> None:
    await consume(await _llama(**options).astream_chat(_llama_said(text)))


@way
async def llama_index_stream_counted(text: str) -> None:
    await llama_index_stream(text, additional_kwargs={"stream_options": COUNT})


@way
async def llama_index_engine(text: str) -> None:
    from llama_index.core.chat_engine import SimpleChatEngine

    await SimpleChatEngine.from_defaults(llm=_llama()).achat(text)


# OpenAI Agents


def _agent() -> Any:
    from agents import Agent, function_tool

    @function_tool
    async def look_up(question: str) -> str:
        """Look something up."""
        return "found"

    scholar = Agent(name="scholar", model=MODEL, tools=[look_up])
    return Agent(name="helper", model="gpt-4o", tools=[scholar.as_tool("ask_scholar", "Ask.")])


@way
async def agents(text: str) -> None:
    from agents import Runner

    await Runner.run(_agent(), text)


@way
async def agents_stream(text: str) -> None:
    from agents import Runner

    await consume(Runner.run_streamed(_agent(), text).stream_events())


# Pydantic AI


def _pydantic_agent(model: str) -> Any:
    from pydantic_ai import Agent

    scholar = Agent(f"openai-chat:{MODEL}", name="scholar")
    agent = Agent(model, name="helper")

    @agent.tool_plain
    async def ask_scholar(question: str) -> str:
        return str((await scholar.run(question)).output)

    return agent


@way
async def pydantic_ai(text: str) -> None:
    await _pydantic_agent("openai-chat:gpt-4o").run(text)


@way
async def pydantic_ai_responses(text: str) -> None:
    await _pydantic_agent("openai-responses:gpt-4o").run(text)


@way
async def pydantic_ai_stream(text: str) -> None:
    async with _pydantic_agent("openai-chat:gpt-4o").run_stream(text) as run:
        await consume(run.stream_text())
