"""A support desk: a chat for customers at /chat, and an API for the systems around it.

The API is for other servers: whoever has its key speaks for any customer.
"""

import os
import secrets
from typing import Annotated

import desk
from chainlit.utils import mount_chainlit
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

import chainlit_otel

chainlit_otel.enable()

KEY = os.environ.get("SUPPORT_DESK_KEY", "demo")


class Begin(BaseModel):
    customer: str
    opening: str


class Text(BaseModel):
    author: str
    text: str


def check_key(x_api_key: Annotated[str, Header()] = "") -> None:
    if not secrets.compare_digest(x_api_key.encode(), KEY.encode()):
        chainlit_otel.access_denied("header", "wrong API key")
        raise HTTPException(401)


api = APIRouter(prefix="/api", dependencies=[Depends(check_key)])


@api.post("/chats", status_code=201)
async def begin(chat: Begin) -> dict[str, str]:
    """Prepare a chat, which the customer finds in the browser."""
    thread_id = await desk.prepare(chat.customer, chat.opening)
    return {"thread": thread_id, "url": f"/chat/thread/{thread_id}"}


@api.get("/chats/{thread}")
async def read(thread: str, customer: str) -> list[dict[str, str]]:
    """Return what was said in a chat, by whomever and wherever."""
    try:
        said: list[dict[str, str]] = desk.spoken(await desk.of_customer(thread, customer))
        return said
    except desk.NotTheirs:
        raise HTTPException(404) from None


@api.post("/chats/{thread}/messages")
async def say(thread: str, message: Text) -> dict[str, str | None]:
    """Go on with a chat on behalf of its customer."""
    try:
        return {"answer": await desk.go_on(thread, message.author, message.text)}
    except desk.NotTheirs:
        raise HTTPException(404) from None


@api.put("/chats/{thread}/colleague", status_code=204)
async def hand_over(thread: str, name: str) -> None:
    """Hand a chat over to a colleague: the assistant falls silent."""
    await desk.hand_over(thread, name)


@api.delete("/chats/{thread}/colleague", status_code=204)
async def give_back(thread: str) -> None:
    """Give a chat back to the assistant."""
    await desk.hand_over(thread, None)


@api.post("/chats/{thread}/replies")
async def reply(thread: str, message: Text) -> dict[str, int]:
    """A colleague writes into a chat."""
    return {"tabs": await desk.write(thread, message.author, message.text)}


app = FastAPI()
app.include_router(api)
mount_chainlit(app, target="chat.py", path="/chat")
