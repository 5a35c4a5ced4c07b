"""What people write and who they are stays in the process, unless a setting says otherwise."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import httpx
import pytest

from chainlit_otel.testing import Refused, Visitor
from tests.support.otlp import Receiver
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from opentelemetry._logs import set_logger_provider
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor

provider = LoggerProvider()
provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
set_logger_provider(provider)


def canary(name):
    # Put together here, because a traceback quotes the lines of the source.
    return "CANARY" + name


@cl.password_auth_callback
async def sign_in(name, password):
    if password == canary("password"):
        return cl.User(
            identifier=name, display_name=canary("display"), metadata={"role": canary("role")}
        )
    raise PermissionError(canary("signin"))


@cl.set_chat_profiles
async def profiles(user):
    return [cl.ChatProfile(name="quick", markdown_description=canary("description"))]


@cl.on_chat_start
async def start():
    cl.user_session.set("note", canary("note"))
    await cl.Message("hello").send()


@cl.step(type="tool")
async def search(question):
    return canary("stepoutput")


@cl.step(type="tool")
async def broken(question):
    raise LookupError(canary("steperror"))


@cl.on_message
async def on_message(message):
    if message.content.startswith("ask"):
        await cl.AskUserMessage(canary("question"), timeout=30).send()
    elif message.content.startswith("fail"):
        raise ValueError(canary("error"))
    elif message.content.startswith("break"):
        await broken(canary("brokeninput"))
    else:
        await search(canary("stepinput"))
        await cl.Message(canary("answer")).send()
        answer = cl.Message("")
        for token in (canary(""), "streamed"):
            await answer.stream_token(token)
        await answer.send()


@cl.on_settings_update
async def settings(settings):
    raise RuntimeError(canary("settingserror"))


@cl.action_callback("press")
async def press(action):
    raise RuntimeError(canary("actionerror"))


@cl.on_feedback
async def feedback(feedback):
    raise RuntimeError(canary("feedbackerror"))
"""

MAIN = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.context import init_http_context
from chainlit.utils import mount_chainlit
from fastapi import FastAPI

app = FastAPI()


def canary(name):
    return "CANARY" + name


@app.get("/fail")
async def fail():
    context = init_http_context(user=cl.User(identifier=canary("user")))
    open("http_session.txt", "w").write(context.session.id)
    async with cl.Step(name="search", type="tool") as step:
        step.input = canary("stepinput")
        raise ValueError(canary("error"))


mount_chainlit(app=app, target="app.py", path="/chat")
"""

# Setting, to the canaries that it lets out. None lets out any other.
CAPTURED: dict[str, list[str]] = {
    "": [],
    "CAPTURE_MESSAGES": [
        "CANARYmessage",
        "CANARYstreamed",
        "CANARYfailing",
        "CANARYbreaking",
        "CANARYasking",
        "CANARYquestion",
    ],
    "CAPTURE_STEPS": ["CANARYstepinput", "CANARYstepoutput", "CANARYbrokeninput"],
    "CAPTURE_USER": ["CANARYuser"],
    "CAPTURE_EXCEPTION_MESSAGES": [
        "CANARYerror",
        "CANARYsteperror",
        "CANARYsettingserror",
        "CANARYactionerror",
        "CANARYsignin",
    ],
}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def our_log(server: ChainlitServer) -> str:
    """The log lines of this package, with the tracebacks that belong to them."""
    records = re.split(r"(?m)^(?=\d{4}-\d\d-\d\d )", server.log)
    return "".join(record for record in records if re.match(r".* - chainlit_otel\b", record))


async def sign_in(server: ChainlitServer, client: httpx.AsyncClient) -> str:
    form = {"username": "CANARYuser", "password": "CANARYpassword"}
    answer = await client.post(f"{server.url}/login", data=form)
    assert answer.status_code == 200
    wrong = {"username": "CANARYuser", "password": "wrong"}
    assert (await client.post(f"{server.url}/login", data=wrong)).status_code == 401
    return "; ".join(f"{name}={value}" for name, value in answer.cookies.items())


async def visit(server: ChainlitServer) -> list[str]:
    """Say everything that must not get out; return the session ids."""
    async with httpx.AsyncClient(timeout=60) as client:
        cookie = await sign_in(server, client)
        headers = {"Cookie": f"{cookie}; other=CANARYcookie"}
        visitor = Visitor(server.url, headers=headers, chat_profile="CANARYprofile")
        with pytest.raises(Refused):
            await Visitor(server.url).connect()
        await visitor.connect()
        await visitor.say("tell me CANARYmessage")
        await visitor.say("fail CANARYfailing")
        await visitor.say("break CANARYbreaking")
        await visitor.say("ask CANARYasking")
        await visitor.say("CANARYasked")
        await visitor.emit("chat_settings_change", {"CANARYsetting": "CANARYsetting"})
        session = {"session_id": visitor.session_id}
        uploaded = await client.post(
            f"{server.url}/project/file",
            params=session,
            files={"file": ("CANARYfile.txt", b"CANARYfile", "text/plain")},
        )
        await client.get(
            f"{server.url}/project/file/{uploaded.json().get('id', 'none')}", params=session
        )
        for name in ("press", "CANARYaction"):
            await client.post(
                f"{server.url}/project/action",
                json={
                    "sessionId": visitor.session_id,
                    "action": {"name": name, "payload": {"is": "CANARYpayload"}, "label": ""},
                },
            )
        await visitor.until(
            lambda: any("CANARYsettingserror" in str(e.data) for e in visitor.events), "the error"
        )
        await visitor.leave(clear=True)
        return [visitor.session_id]


@pytest.mark.parametrize("setting", CAPTURED, ids=lambda setting: setting or "default")
async def test_nothing_gets_out_but_what_a_setting_lets_out(
    receiver: Receiver, setting: str
) -> None:
    env = {
        **receiver.env,
        "CHAINLIT_AUTH_SECRET": "x" * 32,
        "CHAINLIT_OTEL_RECORDS_DIR": "records",
        "CHAINLIT_OTEL_EXPORT_RECORDS": "true",
        "CHAINLIT_OTEL_USER_HASH_KEY": "CANARYkey",
    }
    if setting:
        env[f"CHAINLIT_OTEL_{setting}"] = "true"
    with ChainlitServer({"app.py": APP}, env=env) as server:
        ids = await visit(server)
        exposed = [server.scrape().text, await openmetrics(server)]
        await asyncio.to_thread(
            receiver.wait_for,
            lambda: receiver.named("chainlit.disconnect") and receiver.logs and receiver.metrics,
            "all signals",
        )
        assert await asyncio.to_thread(server.stop) == 0
        kept = [file.read_text() for file in (server.directory / "records").glob("*.jsonl")]
        assert "session.end" in "".join(kept)
        said = "\n".join([receiver.everything, *exposed, *kept, our_log(server)])
        printed = server.log
    assert "chainlit.turn" in said
    assert "session.end" in said
    assert "metrics at" in said
    assert "CANARYerror" in printed, "else it was never there to be let out"
    assert sorted(set(re.findall(r"CANARY\w*", said))) == sorted(CAPTURED[setting])
    for session_id in ids:
        assert session_id not in said
        assert session_id.replace("-", "") not in said


async def openmetrics(server: ChainlitServer) -> str:
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    async with httpx.AsyncClient() as client:
        answer = await client.get(server.metrics_url, headers=accept)
    assert "openmetrics" in answer.headers["Content-Type"]
    return answer.text


@pytest.mark.parametrize("conventions", ["", "http/dup", "gen_ai_latest_experimental"])
async def test_a_request_tells_no_secret(receiver: Receiver, conventions: str) -> None:
    env = {
        **receiver.env,
        "CHAINLIT_AUTH_SECRET": "x" * 32,
        "OTEL_SEMCONV_STABILITY_OPT_IN": conventions,
    }
    with ChainlitServer(
        {"app.py": APP, "main.py": MAIN},
        env=env,
        command=["uvicorn", "main:app", "--port", "{port}"],
        path="/chat",
    ) as server:
        origin = server.url.removesuffix("/chat")
        async with httpx.AsyncClient() as client:
            asked = {"a": "1", "session_id": "CANARYsession", "z": "2"}
            assert (await client.get(f"{origin}/fail", params=asked)).status_code == 500
        await asyncio.to_thread(receiver.wait_for, lambda: receiver.named("GET /fail"))
        session_id = server.read("http_session.txt")
        assert await asyncio.to_thread(server.stop)
        said = "\n".join([receiver.everything, our_log(server)])
    (request,) = receiver.named("GET /fail")
    (step,) = receiver.named("chainlit.step tool search")
    assert step.parent == request.id
    assert (request.status, request.description) == ("error", "ValueError")
    assert [event.attributes["exception.type"] for event in request.events] == ["ValueError"]
    assert request.attributes["url.query"] == "a=REDACTED&session_id=REDACTED&z=REDACTED"
    assert request.attributes["client.address"] == "REDACTED"
    assert "http.server.request.duration" in receiver.metrics
    assert session_id
    assert session_id not in said
    assert re.findall(r"CANARY\w*", said) == []
