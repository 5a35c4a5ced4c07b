"""The chat that main.py mounts."""

import chainlit as cl


@cl.on_message
async def answer(message: cl.Message) -> None:
    await cl.Message(f"You said: {message.content}").send()
