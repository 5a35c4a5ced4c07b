"""The desk: chats that are prepared, gone on with, and handed over to a colleague."""

import json
from typing import Any

import chainlit as cl
from assistant import answer
from chainlit.context import init_http_context, init_ws_context
from chainlit.data import get_data_layer
from chainlit.server import sio
from chainlit.session import WebsocketSession, ws_sessions_id
from chainlit.types import ThreadDict
from chainlit.user import PersistedUser

import chainlit_otel

SPOKEN = ("user_message", "assistant_message")


class NotTheirs(Exception):
    """The chat is that of another customer, or there is none."""


def layer() -> Any:
    found = get_data_layer()
    assert found is not None
    return found


async def customer(name: str) -> PersistedUser:
    """Return a customer, who is known from now on."""
    user: PersistedUser = await layer().get_user(name) or await layer().create_user(cl.User(name))
    return user


async def prepare(name: str, opening: str) -> str:
    """Begin a chat for a customer, and return its thread."""
    user = await customer(name)
    thread_id = init_http_context(user=user).session.thread_id
    await layer().update_thread(thread_id, name=opening, user_id=user.id, metadata={})
    await cl.Message(opening, author="Assistant").send()
    return thread_id


async def of_customer(thread_id: str, name: str) -> ThreadDict:
    """Return a chat, if it is the customer's.

    Raises:
        NotTheirs: it is not.
    """
    thread: ThreadDict | None = await layer().get_thread(thread_id)
    if thread is None or thread["userIdentifier"] != name:
        chainlit_otel.access_denied("thread", "another customer's chat")
        raise NotTheirs(thread_id)
    return thread


def colleague(thread: ThreadDict | None) -> str | None:
    """Return who has a chat, if it is not the assistant."""
    metadata: Any = (thread["metadata"] if thread else None) or {}
    known = json.loads(metadata) if isinstance(metadata, str) else metadata
    name: str | None = known.get("colleague")
    return name


def spoken(thread: ThreadDict) -> list[dict[str, str]]:
    """Return what was said in a chat so far."""
    return [
        {"author": step["name"], "text": step["output"]}
        for step in thread["steps"]
        if step["type"] in SPOKEN
    ]


async def go_on(thread_id: str, name: str, text: str) -> str | None:
    """A customer writes, without a browser. Return the answer; None if a colleague will answer."""
    thread = await of_customer(thread_id, name)
    init_http_context(thread_id=thread_id, user=await customer(name))
    await cl.Message(text, author=name, type="user_message").send()
    return None if colleague(thread) else await answer(text)


async def hand_over(thread_id: str, name: str | None) -> None:
    """Give a chat to a colleague, or back to the assistant."""
    await layer().update_thread(thread_id, metadata={"colleague": name})


async def write(thread_id: str, name: str, text: str) -> int:
    """A colleague writes. Return how many browsers show it at once."""
    tabs = [tab for tab in list(ws_sessions_id.values()) if _shows(tab, thread_id)]
    if tabs:
        init_ws_context(tabs[0])
    else:
        init_http_context(thread_id=thread_id)
    message = await cl.Message(text, author=name).send()
    for tab in tabs[1:]:
        # It is stored already, so the other tabs are only shown it.
        await init_ws_context(tab).emitter.send_step(message.to_dict())
    return len(tabs)


def _shows(tab: WebsocketSession, thread_id: str) -> bool:
    # Chainlit keeps the session of a tab that is closed, in case it comes back, and loses what it
    # is sent meanwhile.
    return bool(tab.thread_id == thread_id and sio.manager.is_connected(tab.socket_id, "/"))
