"""The trace of every kind of turn, and of what happens beside turns."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest

from chainlit_otel.testing import Refused, Visitor
from tests.conftest import CompareGolden
from tests.support.otlp import Receiver, Span, hashed, tree
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

TOKENS = 50
THREAD = "0a1b2c3d-0000-4000-8000-000000000000"

APP = """
import asyncio
from datetime import datetime, timedelta, timezone

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.step(type="tool")
async def search(question):
    return await look_up(question) if question == "deep" else question


@cl.step(type="retrieval")
async def look_up(question):
    return blocking(question)


@cl.step(type="llm")
def blocking(question):
    return question


@cl.step(type="tool")
async def broken():
    raise LookupError("the tool is broken")


def stamp(seconds):
    moment = datetime(2026, 1, 1, tzinfo=timezone.utc) + timedelta(seconds=seconds)
    return moment.replace(tzinfo=None).isoformat() + "Z"


async def plain(message):
    await cl.Message("hello").send()


async def stream(message):
    await search("quick")
    answer = cl.Message("")
    for _ in range(50):
        await answer.stream_token("t")
    await answer.send()


async def fail(message):
    raise ValueError("no such thing")


async def fail_in_a_step(message):
    try:
        await broken()
    except LookupError:
        await cl.Message("never mind").send()


async def wait(message):
    await cl.Message("waiting").send()
    async with cl.Step(name="slow", type="tool"):
        await asyncio.sleep(60)


async def ask(message):
    answer = await cl.AskUserMessage("your name?", timeout=30).send()
    await cl.Message(answer["output"]).send()


async def ask_in_vain(message):
    await cl.AskUserMessage("your name?", timeout=1).send()
    await cl.Message("nobody there").send()


async def nested(message):
    await search("deep")
    await cl.Message("done").send()


async def handler(message):
    # As the handlers for LangChain and LlamaIndex do: stamps, `send` and `update`, no `with`.
    chain = cl.Step(name="chain", type="run")
    chain.start = stamp(0)
    await chain.send()
    model = cl.Step(name="model", type="llm", parent_id=chain.id)
    model.start = stamp(1)
    await model.send()
    model.end = stamp(3)
    await model.update()
    failed = cl.Step(name="failed", type="tool", parent_id=chain.id)
    failed.start, failed.end, failed.is_error = stamp(3), stamp(3.5), True
    await failed.send()
    chain.end = stamp(4)
    await chain.update()
    await chain.update()
    await cl.Message("done").send()


KINDS = [plain, stream, fail, fail_in_a_step, wait, ask, ask_in_vain, nested, handler]


@cl.on_message
async def on_message(message):
    kinds = {kind.__name__: kind for kind in KINDS}
    await kinds[message.content](message)


@cl.set_chat_profiles
async def profiles(user):
    return [cl.ChatProfile(name="quick", markdown_description="quick")]


@cl.on_chat_start
async def start():
    await cl.Message("welcome").send()


@cl.on_chat_end
def end():
    pass


@cl.on_stop
def stopped():
    pass


@cl.on_settings_update
async def settings(settings):
    await search("settings")


@cl.action_callback("press")
async def press(action):
    await search("action")
    return "pressed"


@cl.action_callback("jam")
async def jam(action):
    raise RuntimeError("jammed")
"""

SIGNED_IN = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.data.base import BaseDataLayer
from chainlit.types import PageInfo, PaginatedResponse
from chainlit.user import PersistedUser


class Layer(BaseDataLayer):
    async def get_user(self, identifier):
        return PersistedUser(id="1", createdAt="2026-01-01", identifier=identifier)

    async def get_thread(self, thread_id):
        return {"id": thread_id, "userIdentifier": "ada", "steps": [], "metadata": {}}

    async def list_threads(self, pagination, filters):
        page = PageInfo(hasNextPage=False, startCursor=None, endCursor=None)
        return PaginatedResponse(data=[], pageInfo=page)

    async def get_thread_author(self, thread_id):
        return "ada"

    async def nothing(self, *args, **kwargs):
        return None

    create_user = get_user
    delete_feedback = upsert_feedback = create_element = get_element = delete_element = nothing
    create_step = update_step = delete_step = delete_thread = update_thread = nothing
    build_debug_url = close = nothing

    async def get_favorite_steps(self, user_id):
        return []


@cl.data_layer
def layer():
    return Layer()


@cl.password_auth_callback
async def sign_in(name, password):
    return cl.User(identifier=name)


@cl.on_chat_resume
async def resume(thread):
    pass


@cl.on_message
async def on_message(message):
    await cl.Message("hello").send()
"""

MAIN = """
import asyncio
import contextlib

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.context import init_http_context, init_ws_context
from chainlit.session import WebsocketSession
from chainlit.utils import mount_chainlit
from fastapi import FastAPI


@cl.step(type="tool")
async def search(question):
    return question


async def handler():
    # As the handlers for LangChain and LlamaIndex do.
    chain = cl.Step(name="chain", type="run")
    chain.start = "2026-01-01T00:00:00Z"
    await chain.send()
    model = cl.Step(name="model", type="llm", parent_id=chain.id)
    model.start, model.end = "2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z"
    await model.send()
    chain.end = "2026-01-01T00:00:03Z"
    await chain.update()


async def work(jobs):
    while True:
        client = await jobs.get()
        # As the apps for Slack, Teams and Discord do, with each message.
        init_http_context(client_type=client)
        await search("beside")
        await handler()
        await cl.Message("nobody sees this").send()


@contextlib.asynccontextmanager
async def lifespan(app):
    app.jobs = asyncio.Queue()
    worker = asyncio.create_task(work(app.jobs))
    yield
    worker.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/ask")
async def ask(question: str):
    init_http_context()
    await search(question)
    await cl.Message("done").send()
    return {}


@app.post("/beside")
async def beside(client: str):
    app.jobs.put_nowait(client)
    return {}


@app.post("/push")
async def push(session_id: str):
    init_ws_context(WebsocketSession.get_by_id(session_id))
    await search("pushed")
    await handler()
    return {}


mount_chainlit(app=app, target="chat.py", path="/chat")
"""

CHAT = """
import chainlit as cl


@cl.on_message
async def on_message(message):
    await cl.Message("hello").send()
"""


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP}, env=receiver.env) as server:
        yield server


class Stage:
    """One visitor, and the traces that came of what they did."""

    def __init__(self, server: ChainlitServer, receiver: Receiver, visitor: Visitor) -> None:
        self.server = server
        self.receiver = receiver
        self.visitor = visitor

    def roots(self, name: str) -> list[Span]:
        found = self.receiver.roots(self.visitor.session_id)
        return [span for span in found if span.name == name]

    async def root(self, name: str, count: int = 1) -> Span:
        """Wait for the `count`th root span of that name; there must be no more of them."""
        await asyncio.to_thread(
            self.receiver.wait_for, lambda: len(self.roots(name)) >= count, f"{count} {name}"
        )
        assert len(self.roots(name)) == count
        return self.roots(name)[-1]

    async def show(self, root: Span) -> str:
        connect = await self.root("chainlit.connect")
        names = {
            connect.id: "chainlit.connect",
            hashed(self.visitor.session_id): "<session>",
            root.attributes["gen_ai.conversation.id"]: "<thread>",
            **{span.id: f"HTTP {span.name}" for span in self.receiver.spans if is_http(span)},
        }
        return tree(self.receiver.trace(root), names)


def is_http(span: Span) -> bool:
    return span.scope == "opentelemetry.instrumentation.fastapi"


async def talk(stage: Stage, text: str) -> None:
    await stage.visitor.say(text)


async def stop(stage: Stage, text: str) -> None:
    visitor = stage.visitor
    turn = asyncio.create_task(visitor.say(text))
    await visitor.until(
        lambda: any(e.name == "new_message" and e.data["name"] == "slow" for e in visitor.events),
        "the slow step",
    )
    await visitor.emit("stop")
    await turn


async def answer(stage: Stage, text: str) -> None:
    await stage.visitor.say(text)
    await stage.visitor.say("Ada")


async def ignore(stage: Stage, text: str) -> None:
    visitor = stage.visitor
    await visitor.say(text)
    await visitor.until(
        lambda: any(
            e.name == "new_message" and e.data["output"] == "nobody there" for e in visitor.events
        ),
        "the time-out",
    )


Action = Callable[[Stage, str], Awaitable[None]]

TURNS: list[tuple[str, Action]] = [
    ("plain", talk),
    ("stream", talk),
    ("fail", talk),
    ("fail_in_a_step", talk),
    ("wait", stop),
    ("ask", answer),
    ("ask_in_vain", ignore),
    ("nested", talk),
    ("handler", talk),
]


@pytest.mark.parametrize(("kind", "action"), TURNS, ids=[kind for kind, _ in TURNS])
async def test_turn(
    server: ChainlitServer, receiver: Receiver, golden: CompareGolden, kind: str, action: Action
) -> None:
    stage = Stage(server, receiver, Visitor(server.url))
    await stage.visitor.connect()
    await action(stage, kind)
    turn = await stage.root("chainlit.turn")
    connect = await stage.root("chainlit.connect")
    assert turn.parent == ""
    assert turn.links == (connect.id,)
    assert turn.trace != connect.trace
    spans = receiver.trace(turn)
    assert {span.scope for span in spans} == {"chainlit_otel"}
    assert all(span.start <= span.end for span in spans)
    golden(f"traces/turn_{kind}.txt", await stage.show(turn))
    await stage.visitor.leave(clear=True)


async def test_a_streamed_turn_of_fifty_tokens_and_a_tool_is_four_spans(
    server: ChainlitServer, receiver: Receiver
) -> None:
    stage = Stage(server, receiver, Visitor(server.url))
    await stage.visitor.connect()
    assert (await stage.visitor.say("stream")).texts == ["t" * TOKENS]
    turn = await stage.root("chainlit.turn")
    names = sorted(span.name for span in receiver.trace(turn))
    assert names == [
        "chainlit.callback on_message",
        "chainlit.step run on_message",
        "chainlit.step tool search",
        "chainlit.turn",
    ]
    await stage.visitor.leave(clear=True)


async def test_steps_that_are_only_sent_have_the_times_of_their_stamps(
    server: ChainlitServer, receiver: Receiver
) -> None:
    stage = Stage(server, receiver, Visitor(server.url))
    await stage.visitor.connect()
    await stage.visitor.say("handler")
    spans = receiver.trace(await stage.root("chainlit.turn"))
    took = {
        span.attributes["chainlit.step.name"]: (span.end - span.start) / 1e9
        for span in spans
        if span.attributes.get("chainlit.step.name") in ("chain", "model", "failed")
    }
    assert took == {"chain": 4.0, "model": 2.0, "failed": 0.5}
    await stage.visitor.leave(clear=True)


async def test_every_turn_is_a_trace_of_its_own(server: ChainlitServer, receiver: Receiver) -> None:
    stage = Stage(server, receiver, Visitor(server.url))
    await stage.visitor.connect()
    for kind in ("plain", "fail", "nested", "plain"):
        await stage.visitor.say(kind)
    await stage.root("chainlit.turn", 4)
    await stage.visitor.leave(clear=True)
    await stage.root("chainlit.disconnect")
    turns = stage.roots("chainlit.turn")
    assert len({turn.trace for turn in turns}) == 4
    assert all(turn.parent == "" for turn in turns)


@pytest.mark.parametrize(("profile", "reported"), [("quick", "quick"), ("made up", "other")])
async def test_a_turn_has_its_chat_profile(
    server: ChainlitServer, receiver: Receiver, profile: str, reported: str
) -> None:
    stage = Stage(server, receiver, Visitor(server.url, chat_profile=profile))
    await stage.visitor.connect()
    await stage.visitor.say("plain")
    turn = await stage.root("chainlit.turn")
    assert turn.attributes["chainlit.chat_profile"] == reported
    await stage.visitor.leave(clear=True)


async def test_an_edited_message_is_a_turn(
    server: ChainlitServer, receiver: Receiver, golden: CompareGolden
) -> None:
    stage = Stage(server, receiver, Visitor(server.url))
    visitor = stage.visitor
    await visitor.connect()
    message = await visitor.send("plain")
    await stage.root("chainlit.turn")
    edited = {"id": message, "output": "nested", "type": "user_message", "name": "User"}
    await visitor.emit("edit_message", {"message": edited})
    golden("traces/edit_message.txt", await stage.show(await stage.root("chainlit.turn", 2)))
    await visitor.leave(clear=True)


async def test_chat_start_and_end_connect_and_disconnect(
    server: ChainlitServer, receiver: Receiver, golden: CompareGolden
) -> None:
    stage = Stage(server, receiver, Visitor(server.url))
    await stage.visitor.connect()
    start = await stage.root("chainlit.callback on_chat_start")
    connect = await stage.root("chainlit.connect")
    await stage.visitor.leave(clear=True)
    disconnect = await stage.root("chainlit.disconnect")
    assert len({span.trace for span in (start, connect, disconnect)}) == 3
    shown = [await stage.show(span) for span in (connect, start, disconnect)]
    golden("traces/session.txt", "\n".join(shown))


async def test_a_session_that_comes_back_is_linked_to_its_new_connection(
    server: ChainlitServer, receiver: Receiver
) -> None:
    stage = Stage(server, receiver, Visitor(server.url))
    visitor = stage.visitor
    await visitor.connect()
    first = await stage.root("chainlit.connect")
    await visitor.drop()
    gone = await stage.root("chainlit.disconnect")
    await visitor.reconnect()
    second = await stage.root("chainlit.connect", 2)
    await visitor.say("plain")
    turn = await stage.root("chainlit.turn")
    assert (gone.links, turn.links) == ((first.id,), (second.id,))
    await visitor.leave(clear=True)


async def test_settings_are_a_trace_of_their_own(
    server: ChainlitServer, receiver: Receiver, golden: CompareGolden
) -> None:
    stage = Stage(server, receiver, Visitor(server.url))
    await stage.visitor.connect()
    await stage.visitor.emit("chat_settings_change", {"tone": "polite"})
    root = await stage.root("chainlit.callback on_settings_update")
    golden("traces/on_settings_update.txt", await stage.show(root))
    await stage.visitor.leave(clear=True)


@pytest.mark.parametrize("name", ["press", "jam"])
async def test_an_action_is_a_trace_of_its_own_linked_to_its_request(
    server: ChainlitServer, receiver: Receiver, golden: CompareGolden, name: str
) -> None:
    stage = Stage(server, receiver, Visitor(server.url))
    await stage.visitor.connect()
    async with httpx.AsyncClient() as client:
        answered = await client.post(
            f"{server.url}/project/action",
            json={
                "sessionId": stage.visitor.session_id,
                "action": {"name": name, "payload": {}, "label": "", "tooltip": ""},
            },
        )
    assert answered.status_code == 200
    root = await stage.root("chainlit.callback action_callbacks")
    await asyncio.to_thread(
        receiver.wait_for, lambda: any(s.id == root.links[0] for s in receiver.spans), "the request"
    )
    golden(f"traces/action_{name}.txt", await stage.show(root))
    await stage.visitor.leave(clear=True)


@pytest.fixture(scope="module")
def signed_in(receiver: Receiver) -> Iterator[ChainlitServer]:
    env = {**receiver.env, "CHAINLIT_AUTH_SECRET": "x" * 32}
    with ChainlitServer({"app.py": SIGNED_IN}, env=env) as server:
        yield server


async def test_a_resumed_chat(
    signed_in: ChainlitServer, receiver: Receiver, golden: CompareGolden
) -> None:
    async with httpx.AsyncClient() as client:
        form = {"username": "ada", "password": "secret"}
        answer = await client.post(f"{signed_in.url}/login", data=form)
        cookie = "; ".join(f"{name}={value}" for name, value in answer.cookies.items())
    visitor = Visitor(signed_in.url, headers={"Cookie": cookie})
    visitor.thread_id = THREAD
    stage = Stage(signed_in, receiver, visitor)
    await visitor.connect()
    root = await stage.root("chainlit.callback on_chat_resume")
    assert root.attributes["gen_ai.conversation.id"] == THREAD
    assert "user.id" not in root.attributes
    golden("traces/on_chat_resume.txt", await stage.show(root))
    await visitor.leave(clear=True)


async def test_a_refused_connection_is_an_error_of_its_own(
    signed_in: ChainlitServer, receiver: Receiver, golden: CompareGolden
) -> None:
    def refused() -> list[Span]:
        return [span for span in receiver.named("chainlit.connect") if span.status == "error"]

    with pytest.raises(Refused):
        await Visitor(signed_in.url).connect()
    await asyncio.to_thread(receiver.wait_for, refused, "the refused connect")
    (root,) = refused()
    assert root.parent == ""
    golden("traces/refused.txt", tree(receiver.trace(root)))


async def test_a_user_is_named_only_if_a_setting_says_so(receiver: Receiver) -> None:
    settings = {"CHAINLIT_AUTH_SECRET": "x" * 32, "CHAINLIT_OTEL_CAPTURE_USER": "true"}
    with ChainlitServer({"app.py": SIGNED_IN}, env={**receiver.env, **settings}) as server:
        async with httpx.AsyncClient() as client:
            form = {"username": "grace", "password": "secret"}
            answer = await client.post(f"{server.url}/login", data=form)
            cookie = "; ".join(f"{name}={value}" for name, value in answer.cookies.items())
        stage = Stage(server, receiver, Visitor(server.url, headers={"Cookie": cookie}))
        await stage.visitor.connect()
        await stage.visitor.say("hello")
        turn = await stage.root("chainlit.turn")
        assert turn.attributes["user.id"] == "grace"
        await stage.visitor.leave(clear=True)


@pytest.mark.parametrize("capture", [False, True], ids=["default", "captured"])
async def test_messages_of_exceptions(receiver: Receiver, capture: bool) -> None:
    setting = {"CHAINLIT_OTEL_CAPTURE_EXCEPTION_MESSAGES": "true"} if capture else {}
    with ChainlitServer({"app.py": APP}, env={**receiver.env, **setting}) as server:
        stage = Stage(server, receiver, Visitor(server.url))
        await stage.visitor.connect()
        await stage.visitor.say("fail")
        spans = receiver.trace(await stage.root("chainlit.turn"))
        await stage.visitor.leave(clear=True)
    assert len(spans) == 3
    for span in spans:
        (event,) = span.events
        assert (span.status, span.attributes["error.type"]) == ("error", "ValueError")
        assert (event.name, event.attributes["exception.type"]) == ("exception", "ValueError")
        said = "ValueError: no such thing" if capture else "ValueError"
        assert span.description == said
        assert event.attributes.get("exception.message") == ("no such thing" if capture else None)
        stack = event.attributes["exception.stacktrace"]
        assert re.search(r'File ".*app\.py", line \d+, in fail\n', stack)
        assert stack.endswith(f"\n{said}")


@pytest.fixture(scope="module")
def mounted(receiver: Receiver) -> Iterator[ChainlitServer]:
    with ChainlitServer(
        {"main.py": MAIN, "chat.py": CHAT},
        env=receiver.env,
        command=["uvicorn", "main:app", "--port", "{port}"],
        path="/chat",
    ) as server:
        yield server


async def test_an_endpoint_with_an_http_context_is_one_trace(
    mounted: ChainlitServer, receiver: Receiver
) -> None:
    origin = mounted.url.removesuffix("/chat")
    async with httpx.AsyncClient() as client:
        assert (await client.post(f"{origin}/ask?question=why")).status_code == 200
    await asyncio.to_thread(receiver.wait_for, lambda: receiver.named("POST /ask"))
    (request,) = receiver.named("POST /ask")
    same, step = receiver.trace(request)
    assert (step.name, step.parent, same) == ("chainlit.step tool search", request.id, request)
    assert step.attributes["session.id"]


@pytest.mark.parametrize("client", ["webapp", "slack"])
async def test_an_http_context_outside_of_a_request_has_traces_of_its_own(
    mounted: ChainlitServer, receiver: Receiver, golden: CompareGolden, client: str
) -> None:
    def roots(name: str) -> list[Span]:
        return [
            span
            for span in receiver.named(name)
            if span.parent == "" and span.attributes["chainlit.client.type"] == client
        ]

    origin = mounted.url.removesuffix("/chat")
    async with httpx.AsyncClient() as http:
        for _ in range(2):
            assert (await http.post(f"{origin}/beside?client={client}")).status_code == 200
    await asyncio.to_thread(receiver.wait_for, lambda: len(roots("chainlit.step run chain")) >= 2)
    tools, chains = roots("chainlit.step tool search"), roots("chainlit.step run chain")
    assert [len(receiver.trace(root)) for root in (*tools, *chains)] == [1, 1, 2, 2]
    for first, second in (tools, chains):
        assert first.attributes["session.id"] != second.attributes["session.id"]
    for tool, chain in zip(tools, chains, strict=True):
        assert tool.attributes["session.id"] == chain.attributes["session.id"]
    names = {
        chains[0].attributes["session.id"]: "<session>",
        chains[0].attributes["gen_ai.conversation.id"]: "<thread>",
    }
    shown = [tree(receiver.trace(root), names) for root in (tools[0], chains[0])]
    golden(f"traces/beside_{client}.txt", "\n".join(shown))


async def test_what_a_request_pushes_to_a_session_has_traces_linked_to_both(
    mounted: ChainlitServer, receiver: Receiver, golden: CompareGolden
) -> None:
    stage = Stage(mounted, receiver, Visitor(mounted.url))
    await stage.visitor.connect()
    origin = mounted.url.removesuffix("/chat")
    async with httpx.AsyncClient() as client:
        pushed = await client.post(f"{origin}/push?session_id={stage.visitor.session_id}")
    assert pushed.status_code == 200
    tool, chain = (
        await stage.root("chainlit.step tool search"),
        await stage.root("chainlit.step run chain"),
    )
    await asyncio.to_thread(receiver.wait_for, lambda: receiver.named("POST /push"), "the request")
    await stage.visitor.leave(clear=True)
    golden("traces/pushed.txt", "\n".join([await stage.show(tool), await stage.show(chain)]))
