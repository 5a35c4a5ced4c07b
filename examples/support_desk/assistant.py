"""The assistant: it looks a question up in the manual and streams what it finds."""

import chainlit as cl

MANUAL = {
    "password": "Choose *Forgot password* on the sign-in page; the link is valid for an hour.",
    "invoice": "Invoices are under *Account*, *Billing*. They are made on the first of a month.",
    "refund": "A refund takes five working days. I can hand you over to a colleague for that.",
}


@cl.step(type="retrieval")
async def look_up(question: str) -> str:
    for word, entry in MANUAL.items():
        if word in question.lower():
            return entry
    return "I do not know that. Shall I hand you over to a colleague?"


@cl.step(type="run")
async def answer(question: str) -> str:
    """Answer a question, in a browser's session or in that of an HTTP request alike."""
    found = await look_up(question)
    message = cl.Message("", author="Assistant")
    for word in found.split():
        await message.stream_token(word + " ")
    await message.send()
    return message.content
