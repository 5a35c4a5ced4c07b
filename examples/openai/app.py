"""A chat that asks OpenAI's client, streamed and with a tool, and says what each answer used."""

import json
import os
from typing import Any

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from openai import AsyncOpenAI

MODEL = os.environ.get("OPENAI_MODEL", "gpt-4o-mini")
COUNTED, UNCOUNTED = "With counts", "Without counts"
HOURS = {
    "type": "function",
    "function": {
        "name": "opening_hours",
        "description": "When the shop is open.",
        "parameters": {
            "type": "object",
            "properties": {"day": {"type": "string"}},
            "required": ["day"],
        },
    },
}

client: Any = AsyncOpenAI()


@cl.set_chat_profiles
async def profiles(user: cl.User | None) -> list[cl.ChatProfile]:
    return [
        cl.ChatProfile(name=COUNTED, markdown_description="The API tells what it used."),
        cl.ChatProfile(name=UNCOUNTED, markdown_description="It does not."),
    ]


@cl.step(type="tool")
async def opening_hours(day: str) -> str:
    return f"On {day} from nine to five."


@cl.on_message
async def answer(message: cl.Message) -> None:
    reply = cl.Message("")
    messages: list[Any] = cl.chat_context.to_openai()
    while calls := await ask(messages, reply):
        messages.append({"role": "assistant", "tool_calls": calls})
        for call in calls:
            found = await opening_hours(**json.loads(call["function"]["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": found})
    await reply.send()


async def ask(messages: list[Any], reply: cl.Message) -> list[dict[str, Any]]:
    """Stream an answer into the reply, and return the calls of tools that it asks for."""
    options: dict[str, Any] = {}
    if cl.user_session.get("chat_profile") != UNCOUNTED:
        # Without this, a streamed answer has no counts.
        options["stream_options"] = {"include_usage": True}
    calls: list[dict[str, Any]] = []
    usage = None
    stream = await client.chat.completions.create(
        model=MODEL, messages=messages, tools=[HOURS], stream=True, **options
    )
    async for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            await reply.stream_token(choice.delta.content or "")
            for part in choice.delta.tool_calls or []:
                if part.id:
                    function = {"name": part.function.name, "arguments": ""}
                    calls.append({"id": part.id, "type": "function", "function": function})
                calls[part.index]["function"]["arguments"] += part.function.arguments or ""
    if usage:
        chainlit_otel.record_usage(
            model=MODEL, input_tokens=usage.prompt_tokens, output_tokens=usage.completion_tokens
        )
    else:
        chainlit_otel.record_usage(model=MODEL)
    return calls
