"""A text in every place that a browser, a URL, a header, a form or a provider can bring one to."""

from __future__ import annotations

import asyncio
import re
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from chainlit_otel.testing import Refused, Unreachable, Visitor
from tests.support.otlp import Receiver
from tests.support.provider import OAuthProvider
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

ENABLE = """
import chainlit_otel

chainlit_otel.enable()
"""

CHAT = """
import chainlit as cl


@cl.password_auth_callback
async def sign_in(name, password):
    if password == "down":
        raise ConnectionError(f"no directory for {name}")
    return cl.User(identifier=name)


@cl.header_auth_callback
def by_header(headers):
    return cl.User(identifier=headers["X-User"])


@cl.oauth_callback
def by_provider(provider, token, data, default):
    return default


@cl.on_message
async def answer(message):
    async with cl.Step(name="search", type="tool") as step:
        step.input = message.content
    await cl.Message(f"you said {message.content}").send()
"""

MAIN = """
from chainlit.utils import mount_chainlit
from fastapi import FastAPI, Form, Request

app = FastAPI()


@app.post("/form/{name}")
async def form(name: str, request: Request, text: str = Form()):
    raise ValueError(f"{name} {text} {request.url} {request.headers}")


mount_chainlit(app=app, target="chat.py", path="/chat")
"""

HEADERS = {
    "User-Agent": "CANARYagent",
    "Referer": "http://x/?CANARYreferer",
    "Accept-Language": "CANARYlanguage",
    "X-Forwarded-For": "CANARYforwarded",
    "X-Forwarded-Proto": "CANARYproto",
    "Authorization": "Bearer CANARYbearer",
    "Cookie": "CANARYcookie=CANARYcookie",
    "Origin": "http://CANARYorigin",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "tracestate": "canary=CANARYstate",
    "baggage": "canary=CANARYbaggage",
    "CANARYheader": "CANARYheader",
}
PATHS = [
    "/?prompt=CANARYprompt",
    "/project/translations?language=CANARYlang&CANARYname=1&CANARYalone",
    "/auth/oauth/generic?CANARYoauth=1",
    "/auth/oauth/CANARYprovider",
    "/auth/oauth/generic/callback?code=CANARYcode&state=CANARYstate",
    "/auth/oauth/generic/callback?error=CANARYerror&error_description=CANARYdescription",
    "/public/CANARYpublic.txt",
    "/assets/CANARYasset.js",
    "/project/thread/CANARYthread",
    "/project/file/CANARYfile?session_id=CANARYsession",
    "/CANARYtyped/CANARYpath?token=CANARYtoken",
    "/ws/socket.io/?EIO=4&transport=polling&sid=CANARYsid",
]


async def browse(origin: str) -> None:
    """Make requests that are full of canaries."""
    # A connection on which something went wrong is closed once it has answered.
    limits = httpx.Limits(max_keepalive_connections=0)
    async with httpx.AsyncClient(headers=HEADERS, timeout=60, limits=limits) as client:
        for path in PATHS:
            for base in (f"{origin}/chat", origin):
                await client.get(base + path, headers={"Host": "CANARYhost"})
        for method in ("PUT", "OPTIONS"):
            await client.request(method, f"{origin}/CANARYmethod?CANARYmethod=1")
        form = {"text": "CANARYform", "username": "CANARYuser", "password": "down"}
        failed = await client.post(f"{origin}/form/CANARYparameter?x=CANARYvalue", data=form)
        assert failed.status_code == 500
        await client.post(f"{origin}/chat/login", data=form)
        await client.post(f"{origin}/chat/auth/header", headers={"X-User": "CANARYheaderuser"})
        await client.post(f"{origin}/chat/auth/jwt", headers={"Authorization": "Bearer CANARY.a.b"})
        await client.put(f"{origin}/chat/feedback", json={"feedback": "CANARYfeedback"})
        await client.post(f"{origin}/chat/project/action", json={"sessionId": "CANARYsession"})


async def sign_in_by_the_provider(origin: str) -> None:
    async with httpx.AsyncClient(base_url=f"{origin}/chat", timeout=60) as client:
        away = await client.get("/auth/oauth/generic")
        [state] = parse_qs(urlsplit(away.headers["Location"]).query)["state"]
        for code in ("CANARYcode", "CANARYother"):
            await client.get("/auth/oauth/generic/callback", params={"state": state, "code": code})


async def chat(origin: str) -> None:
    """Have a session of which everything is made up that a browser makes up."""
    async with httpx.AsyncClient(timeout=60) as client:
        form = {"username": "CANARYuser", "password": "CANARYpassword"}
        signed_in = await client.post(f"{origin}/chat/login", data=form)
        cookie = "; ".join(f"{name}={value}" for name, value in signed_in.cookies.items())
    headers = {"Cookie": cookie, "User-Agent": "CANARYagent", "Referer": "http://CANARY"}
    visitor = Visitor(
        f"{origin}/chat", headers=headers, client_type="CANARYclient", chat_profile="CANARYprofile"
    )
    visitor.user_env = {"CANARYenv": "CANARYenv"}
    visitor.thread_id = "CANARYthread"
    await visitor.connect()
    await visitor.say("CANARYmessage")
    await visitor.emit("CANARYevent", {"CANARYdata": "CANARYdata"})
    await visitor.leave(clear=True)
    with pytest.raises((Refused, Unreachable)):
        await Visitor(f"{origin}/chat", headers={"Cookie": "access_token=CANARYtoken"}).connect()


async def test_nothing_that_anybody_brings_in_gets_out() -> None:
    with Receiver() as receiver, OAuthProvider() as provider:
        env = {
            **receiver.env,
            **provider.env,
            "CHAINLIT_AUTH_SECRET": "x" * 40,
            "CHAINLIT_OTEL_RECORDS_DIR": "records",
            "CHAINLIT_OTEL_EXPORT_RECORDS": "true",
            "CHAINLIT_OTEL_USER_HASH_KEY": "CANARYkey",
        }
        with ChainlitServer(
            {"main.py": ENABLE + MAIN, "chat.py": CHAT},
            env=env,
            command=["uvicorn", "main:app", "--port", "{port}"],
            path="/chat",
        ) as server:
            origin = server.url.removesuffix("/chat")
            await browse(origin)
            await sign_in_by_the_provider(origin)
            await chat(origin)
            async with httpx.AsyncClient() as client:
                admin = server.metrics_url.removesuffix("/metrics")
                exposed = [
                    (await client.get(f"{admin}{path}")).text
                    for path in ("/metrics", "/healthz", "/CANARYadmin?CANARYadmin=1")
                ]
            await asyncio.to_thread(
                receiver.wait_for,
                lambda: receiver.named("chainlit.disconnect") and receiver.metrics,
                "all signals",
            )
            await asyncio.to_thread(server.stop)
            records = re.split(r"(?m)^(?=\d{4}-\d\d-\d\d )", server.log)
            logged = [record for record in records if " - chainlit_otel" in record]
            kept = [file.read_text() for file in (server.directory / "records").glob("*.jsonl")]
            assert "session.end" in "".join(kept)
    said = "\n".join([receiver.everything, *exposed, *logged, *kept])
    found = sorted(set(re.findall(r"\S*CANARY\w*", said, re.IGNORECASE)))
    assert found == []
    assert {"chainlit.turn", "POST /form/{name}", "GET /{full_path:path}"} <= {
        span.name for span in receiver.spans
    }
    requests = [span for span in receiver.spans if "http.request.method" in span.attributes]
    assert len(requests) > len(PATHS)
