"""A FastAPI app with a Chainlit chat at /chat and an endpoint that uses Chainlit without one."""

import chainlit as cl
from chainlit.context import init_http_context
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

import chainlit_otel

chainlit_otel.enable()

app = FastAPI()


@app.post("/ask")
async def ask(question: str) -> dict[str, str]:
    """Answer without a browser: one HTTP session, for as long as the request takes."""
    init_http_context()
    message = await cl.Message(f"You asked: {question}").send()
    return {"answer": message.content}


mount_chainlit(app, target="chat.py", path="/chat")
