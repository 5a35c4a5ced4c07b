"""A chat with sign-in and history on PostgreSQL, by Chainlit's own data layer for it."""

import asyncio
import os
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import chainlit as cl
from chainlit.types import ThreadDict

import chainlit_otel

chainlit_otel.enable()

SCHEMA = Path(__file__).with_name("schema.sql")


async def create_tables(url: str) -> None:
    """Create what is missing."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(SCHEMA.read_text(encoding="utf-8"))
    finally:
        await connection.close()


# Without a database Chainlit would answer and store nothing, silently. In a thread, because it may
# read this file within its event loop.
try:
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, create_tables(os.environ["DATABASE_URL"])).result()
except KeyError:
    sys.exit("Set DATABASE_URL, such as postgresql://user:password@localhost:5432/chat")
except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
    sys.exit(f"The database of DATABASE_URL cannot be used: {error}")


@cl.password_auth_callback
async def sign_in(name: str, password: str) -> cl.User | None:
    expected = os.environ.get("CHAT_PASSWORD", "demo")
    return cl.User(name) if secrets.compare_digest(password, expected) else None


@cl.on_chat_start
async def greet() -> None:
    # Chainlit stores it when the user writes, and never if he does not.
    await cl.Message("Hello. What is it about?").send()


@cl.on_chat_resume
async def resume(thread: ThreadDict) -> None:
    """Chainlit shows what was said; there is nothing else to remember."""


@cl.step(type="llm")
async def think(question: str) -> str:
    await asyncio.sleep(0.05)  # where a model would be asked
    return f"You said: {question}"


@cl.on_message
async def on_message(message: cl.Message) -> None:
    answer = cl.Message("")
    for word in (await think(message.content)).split():
        await answer.stream_token(word + " ")
    await answer.send()
