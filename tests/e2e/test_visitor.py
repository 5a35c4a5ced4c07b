"""What a visitor of one's own tests can do, and what it hears, in an app that does not know us."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from chainlit_otel.testing import NoAnswer, Refused, Upload, Visitor
from tests.support import LAYER
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

SECRET = "a-secret-of-this-test-and-nothing-else"

APP = """
import asyncio
import json
import time
from pathlib import Path

import chainlit as cl
from layer import Layer


@cl.data_layer
def data_layer():
    return Layer({"of ada": "ada"})


@cl.password_auth_callback
async def sign_in(name, password):
    return cl.User(identifier=name) if password == "right" else None


@cl.header_auth_callback
def by_header(headers):
    return cl.User(identifier=headers["X-User"]) if headers.get("X-User") else None


@cl.set_chat_profiles
async def profiles(user):
    return [cl.ChatProfile(name=n, markdown_description=n) for n in ("plain", "fancy")]


@cl.on_chat_start
async def start():
    greet = cl.Action(name="greet", payload={"to": "you"}, label="Greet me")
    await cl.Message("Welcome.", actions=[greet]).send()


@cl.on_chat_resume
async def resume(thread):
    pass


@cl.action_callback("greet")
async def greet(action):
    await cl.Message(f"Greetings to {action.payload['to']}.").send()
    await action.remove()


@cl.on_settings_update
async def settings(settings):
    await cl.Message(json.dumps(settings)).send()


times = []


async def clock():
    message = cl.Message("")
    begin = time.perf_counter()
    await asyncio.sleep(0.05)
    await message.stream_token("tick")
    first = time.perf_counter()
    await asyncio.sleep(0.05)
    await message.stream_token(" tock")
    await message.send()
    times[:] = [first - begin, time.perf_counter() - begin]


async def tool():
    async with cl.Step("search", type="tool") as step:
        step.input, step.output = "what", "found"
    async with cl.Step("inner", type="run") as step:
        async with cl.Step("model", type="llm") as step:
            step.output = "thought"
    await cl.Message("done").send()


async def show():
    chosen = cl.Action(name="more", payload={}, label="More")
    text = cl.Text(name="notes", content="some text", display="inline")
    await cl.Message("here", elements=[text], actions=[chosen]).send()


async def fail():
    async with cl.Step("search", type="tool"):
        raise ValueError("the index is broken")


async def ask_text():
    reply = await cl.AskUserMessage("Who are you?").send()
    await cl.Message(f"Hello {reply['output']}.").send()


async def ask_file():
    files = await cl.AskFileMessage("A file?", accept=["text/plain"], max_files=2).send()
    found = [f.name + "=" + Path(f.path).read_text() for f in files]
    await cl.Message(" ".join(found)).send()


async def ask_action():
    offered = [cl.Action(name=n, payload={}, label=n.title()) for n in ("yes", "no")]
    reply = await cl.AskActionMessage("Sure?", actions=offered).send()
    await cl.Message(f"You chose {reply['label']}.").send()


async def wait():
    await cl.Message("waiting").send()
    await asyncio.sleep(60)


async def tell():
    session = cl.user_session
    told = {"user": session.get("user").identifier, "profile": session.get("chat_profile")}
    await cl.Message(json.dumps(told)).send()


async def report():
    await cl.Message(json.dumps(times)).send()


async def silent():
    pass


@cl.on_message
async def on_message(message):
    if work := globals().get(message.content):
        await work()
        return
    files = [f"{e.name}={Path(e.path).read_text()}" for e in message.elements]
    await cl.Message("You said: " + message.content).send()
    await cl.Message(" ".join(files)).send()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    env = {"CHAINLIT_AUTH_SECRET": SECRET}
    with ChainlitServer({"app.py": APP, "layer.py": LAYER}, env=env) as server:
        yield server


@pytest.fixture
async def ada(server: ChainlitServer) -> AsyncIterator[Visitor]:
    async with Visitor(server.url, password=("ada", "right"), timeout=60) as visitor:
        yield visitor


def said(visitor: Visitor, text: str) -> bool:
    return any(e.name == "new_message" and e.data["output"] == text for e in visitor.events)


async def test_an_answer_and_its_times(ada: Visitor) -> None:
    answer = await ada.say("clock")
    assert (answer.text, answer.error) == ("tick tock", None)
    assert answer.time_to_first_token is not None
    assert answer.duration is not None
    first, end = json.loads((await ada.say("report")).text)
    # Both clocks are those of one machine, and the visitor hears of nothing before it has happened.
    assert first <= answer.time_to_first_token < answer.duration
    assert end <= answer.duration


async def test_an_answer_of_several_messages(ada: Visitor) -> None:
    answer = await ada.say("well", files=[Upload("a.txt", b"one", "text/plain")])
    assert answer.texts == ["You said: well", "a.txt=one"]
    assert answer.text == "You said: well\na.txt=one"
    # The file is the visitor's own.
    assert answer.elements == []
    silent = await ada.say("silent")
    assert (silent.text, silent.texts, silent.time_to_first_token) == ("", [], None)
    assert silent.duration is not None


async def test_the_steps_of_an_answer(ada: Visitor) -> None:
    answer = await ada.say("tool")
    by_name = {step.name: step for step in answer.steps}
    search, inner, model = by_name["search"], by_name["inner"], by_name["model"]
    assert (search.type, search.input, search.output) == ("tool", "what", "found")
    assert not search.is_error
    assert (model.type, model.output, model.parent_id) == ("llm", "thought", inner.id)


async def test_an_answer_that_fails(ada: Visitor) -> None:
    answer = await ada.say("fail")
    assert answer.error is not None
    assert "the index is broken" in answer.error
    assert [step.name for step in answer.steps if step.is_error] == ["on_message", "search"]
    assert (await ada.say("well")).error is None


async def test_elements_and_actions(ada: Visitor) -> None:
    answer = await ada.say("show")
    assert [(each.name, each.type) for each in answer.elements] == [("notes", "text")]
    assert [(each.name, each.label) for each in answer.actions] == [("more", "More")]
    assert {each.name for each in ada.actions} == {"greet", "more"}


async def test_a_button_is_pressed(ada: Visitor) -> None:
    answer = await ada.press("Greet me")
    assert answer.texts == ["Greetings to you."]
    assert answer.duration is not None
    ada.timeout = 0.5
    with pytest.raises(NoAnswer, match=r"waited 0\.5 s for the button 'greet'"):
        await ada.press("greet")
    ada.timeout = 60
    await ada.say("show")
    with pytest.raises(Refused, match=r"refuses the action 'more'.*No callback found"):
        await ada.press("more")


async def test_questions(ada: Visitor, tmp_path: Path) -> None:
    asked = await ada.say("ask_text")
    assert asked.texts == ["Who are you?"]
    assert ada.question is not None
    assert (ada.question.kind, ada.question.text) == ("text", "Who are you?")
    with pytest.raises(LookupError, match="does not ask for file now: it asks for text"):
        await ada.answer_with_files(tmp_path / "a.txt")
    assert (await ada.say("Ada")).texts == ["Hello Ada."]
    assert ada.question is None

    (tmp_path / "a.txt").write_text("one")
    await ada.say("ask_file")
    with pytest.raises(Refused, match=r"does not take the file 'b\.png'"):
        await ada.answer_with_files(Upload("b.png", b"two", "image/png"))
    files = (tmp_path / "a.txt", Upload("b.txt", b"two", "text/plain"))
    assert (await ada.answer_with_files(*files)).texts == ["a.txt=one b.txt=two"]

    await ada.say("ask_action")
    with pytest.raises(LookupError, match="does not offer 'perhaps'; it offers 'yes', 'no'"):
        await ada.answer_with_action("perhaps")
    # Chainlit changes the words of its question to what was chosen.
    assert (await ada.answer_with_action("no")).texts[-1] == "You chose No."
    with pytest.raises(LookupError, match="does not ask for action now: it asks nothing"):
        await ada.answer_with_action("no")


async def test_a_message_is_changed(ada: Visitor) -> None:
    answer = await ada.say("one")
    assert answer.texts == ["You said: one"]
    changed = await ada.edit(answer.message_id, "two")
    assert changed.texts == ["You said: two"]


async def test_an_answer_is_stopped(ada: Visitor) -> None:
    turn = asyncio.create_task(ada.say("wait"))
    await ada.until(lambda: said(ada, "waiting"), "the app to wait")
    await ada.stop()
    answer = await turn
    assert answer.texts == ["waiting", "Task manually stopped."]
    assert (answer.stopped, answer.error) == (True, None)


async def test_feedback(ada: Visitor) -> None:
    answer = await ada.say("well")
    given = await ada.give_feedback(answer.message_ids[0], 1, "good")
    assert given
    await ada.withdraw_feedback(given)


async def test_settings(ada: Visitor) -> None:
    await ada.change_settings(tone="polite", words=3)
    await ada.until(lambda: said(ada, '{"tone": "polite", "words": 3}'), "the settings")


async def test_profiles_and_new_chats(ada: Visitor) -> None:
    first = ada.session_id
    await ada.choose_profile("fancy")
    assert json.loads((await ada.say("tell")).text) == {"user": "ada", "profile": "fancy"}
    assert ada.session_id != first


async def test_a_thread_is_resumed(ada: Visitor) -> None:
    await ada.say("well")
    await ada.resume("of ada")
    await ada.until(lambda: any(e.name == "resume_thread" for e in ada.events), "the thread")
    assert ada.thread_id == "of ada"
    assert (await ada.say("again")).texts == ["You said: again"]


async def test_a_lost_connection(ada: Visitor) -> None:
    session = ada.session_id
    await ada.drop()
    assert not ada.connected
    await ada.reconnect()
    assert ada.session_id == session
    assert (await ada.say("again")).texts == ["You said: again"]


async def test_an_answer_that_does_not_come(server: ChainlitServer) -> None:
    async with Visitor(server.url, password=("ada", "right"), timeout=1) as visitor:
        with pytest.raises(NoAnswer, match="waited 1 s for the end of the answer"):
            await visitor.say("wait")


async def test_ways_to_sign_in(server: ChainlitServer) -> None:
    async def name_of(**ways: object) -> str:
        async with Visitor(server.url, timeout=60, **ways) as visitor:  # type: ignore[arg-type]
            name: str = json.loads((await visitor.say("tell")).text)["user"]
            # What lets the visitor in does so at every connection.
            await visitor.drop()
            await visitor.reconnect()
            assert json.loads((await visitor.say("tell")).text)["user"] == name
            return name

    assert await name_of(password=("bob", "right")) == "bob"
    assert await name_of(headers={"X-User": "eve"}, header_auth=True) == "eve"
    visitor = Visitor(server.url, password=("joe", "right"))
    await visitor.connect()
    token = visitor.cookies["access_token"]
    await visitor.leave(clear=True)
    assert await name_of(token=token) == "joe"
    assert await name_of(headers={"Cookie": f"access_token={token}"}) == "joe"


async def test_who_is_not_let_in(server: ChainlitServer) -> None:
    with pytest.raises(Refused, match="does not let 'ada' in"):
        await Visitor(server.url, password=("ada", "wrong")).connect()
    with pytest.raises(Refused, match="lets nobody in with these headers"):
        await Visitor(server.url, header_auth=True).connect()
