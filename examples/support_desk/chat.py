"""The chat of the customers, which main.py mounts."""

import os
import secrets

import chainlit as cl
import desk
import store
from assistant import answer
from chainlit.types import ThreadDict


@cl.data_layer
def data_layer() -> store.SQLAlchemyDataLayer:
    return store.data_layer()


@cl.password_auth_callback
async def sign_in(name: str, password: str) -> cl.User | None:
    expected = os.environ.get("SUPPORT_DESK_PASSWORD", "demo")
    return cl.User(name) if secrets.compare_digest(password, expected) else None


@cl.on_chat_resume
async def resume(thread: ThreadDict) -> None:
    """Chainlit shows what was said; there is nothing else to remember."""


@cl.on_message
async def on_message(message: cl.Message) -> None:
    thread = await desk.layer().get_thread(message.thread_id)
    if desk.colleague(thread) is None:
        await answer(message.content)
