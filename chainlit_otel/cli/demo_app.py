"""The app that `chainlit-otel demo` runs: a chat about its own figures, without key or network."""

from __future__ import annotations

import asyncio
import random
import time

import chainlit as cl

import chainlit_otel

chainlit_otel.enable()

PAUSE = 0.03  # seconds between two tokens: the pace of a model that is not in a hurry

ANSWERS = {
    "session": (
        "A **session** starts when your browser connects and ends when you press *New Chat*, or"
        " when you have been gone for longer than `session_timeout`. Losing the connection for a"
        " moment does not end it: you come back into the same one."
    ),
    "duration": (
        "The **duration** of a session runs from its start to the moment its visitor was last seen."
        " Its mean is `chainlit_session_time_seconds_total` divided by"
        " `chainlit_session_ends_total`: sessions that are still open count, too, or the mean would"
        " come out too low."
    ),
    "peak": (
        "The **peak** is the most sessions that were connected at one time. Prometheus looks every"
        " 15 seconds or so and misses what happens in between, so the app itself keeps"
        " `chainlit_session_peak`."
    ),
    "rate": (
        "New sessions per minute are `rate(chainlit_session_starts_total[5m]) * 60` in Prometheus."
    ),
    "fail": "Send `/fail` and I will. Errors in callbacks are counted, and traced.",
    "weather": "It is always mild in here, with a light breeze from the fan.",
    "example": "Send `/slow` and watch how long the answer takes, or `/block` and watch everybody.",
}

OTHERWISE = (
    "I only talk about what is measured here. Ask me about a **session**, its **duration**, the"
    " **peak** or the **rate**; or send `/slow`, `/fail` or `/block` to see what trouble looks"
    " like."
)


@cl.set_starters
async def starters(_: cl.User | None) -> list[cl.Starter]:
    """Offer what one might ask first."""
    return [
        cl.Starter(label="What is a session?", message="What is a session?"),
        cl.Starter(label="How is the mean duration measured?", message="What is the duration?"),
        cl.Starter(label="What is the peak?", message="What is the peak?"),
        cl.Starter(label="Answer slowly", message="/slow"),
    ]


@cl.on_message
async def on_message(message: cl.Message) -> None:
    """Answer, or show the kind of trouble that was asked for."""
    text = message.content.strip().lower()
    if text == "/fail":
        raise RuntimeError("You asked for it.")
    if text == "/block":
        # What a synchronous call to a model does to all the other visitors.
        time.sleep(2)  # noqa: ASYNC251
        await stream("For two seconds, nobody here got an answer.")
        return
    if text == "/slow":
        await asyncio.sleep(3)
    await stream(await look_up(text))


async def look_up(text: str) -> str:
    """Find the answer, in a step of its own as a search or a query would be."""
    async with cl.Step(type="tool", name="look up") as step:
        await asyncio.sleep(random.uniform(0.05, 0.2))
        found = next((answer for word, answer in ANSWERS.items() if word in text), OTHERWISE)
        step.output = found
    return found


async def stream(text: str) -> None:
    """Send the answer token by token, as it comes from a model."""
    answer = cl.Message(content="")
    for token in text.split(" "):
        await answer.stream_token(token + " ")
        await asyncio.sleep(PAUSE)
    await answer.send()
