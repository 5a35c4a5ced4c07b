"""The smallest observed Chainlit app."""

import chainlit as cl

import chainlit_otel

chainlit_otel.enable()


@cl.on_message
async def answer(message: cl.Message) -> None:
    await cl.Message(f"You said: {message.content}").send()
