"""A chat that asks a model in the way that a message names, and says nothing of the answer."""

from __future__ import annotations

import sources

import chainlit_otel

sources.instrument()
chainlit_otel.enable()

import chainlit as cl
import ways


@cl.on_message
async def on_message(message: cl.Message) -> None:
    way = message.content.partition(" ")[0]
    await ways.WAYS[way](message.content)
    await cl.Message("done").send()
