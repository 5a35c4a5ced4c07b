"""A graph of LangGraph with a tool, whose model calls are read off the spans of OpenInference."""

import os

from openinference.instrumentation.langchain import LangChainInstrumentor
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

import chainlit_otel

LangChainInstrumentor().instrument()
if not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
    # Calls are counted by their spans, which nobody would make for nobody.
    trace.set_tracer_provider(TracerProvider())
chainlit_otel.enable()

import chainlit as cl
from langchain_core.messages import AIMessageChunk
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


@cl.step(type="tool")
async def look_up(day: str) -> str:
    return f"On {day} from nine to five."


async def opening_hours(day: str) -> str:
    """When the shop is open."""
    return str(await look_up(day))


model = ChatOpenAI(model=os.environ.get("OPENAI_MODEL", "gpt-4o-mini"), stream_usage=True)


async def assistant(state: MessagesState) -> dict[str, list[object]]:
    return {"messages": [await model.bind_tools([opening_hours]).ainvoke(state["messages"])]}


builder = StateGraph(MessagesState)
builder.add_node("assistant", assistant)
builder.add_node("tools", ToolNode([opening_hours]))
builder.add_edge(START, "assistant")
builder.add_conditional_edges("assistant", tools_condition)
builder.add_edge("tools", "assistant")
graph = builder.compile()


@cl.on_message
async def answer(message: cl.Message) -> None:
    reply = cl.Message("")
    asked = {"messages": cl.chat_context.to_openai()}
    async for chunk, _ in graph.astream(asked, stream_mode="messages"):
        if isinstance(chunk, AIMessageChunk) and isinstance(chunk.content, str):
            await reply.stream_token(chunk.content)
    await reply.send()
