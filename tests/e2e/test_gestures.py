"""All that a person can do on Chainlit's page beside talking, done by a script and by a visitor."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator
from pathlib import Path

import chainlit
import pytest
from click.testing import CliRunner, Result

from chainlit_otel.cli import main
from chainlit_otel.testing import NoAnswer, Refused, Visitor
from tests.support import LAYER
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

HELLO = Path(chainlit.__file__).parent / "sample" / "hello.py"
SECRET = "a-secret-of-this-test-and-nothing-else"

APP = """
import json

import chainlit as cl
from layer import Layer


class Kept(Layer):
    def __init__(self):
        super().__init__()
        self.kept = {}

    async def update_thread(self, thread_id, name=None, user_id=None, metadata=None, tags=None):
        kept = self.kept.setdefault(thread_id, {"name": "", "shared": False})
        if name:
            kept["name"] = name
        if metadata and "is_shared" in metadata:
            kept["shared"] = metadata["is_shared"]

    async def delete_thread(self, thread_id):
        await super().delete_thread(thread_id)
        del self.kept[thread_id]


layer = Kept()


@cl.data_layer
def data_layer():
    return layer


@cl.password_auth_callback
async def sign_in(name, password):
    return cl.User(identifier=name) if password == "right" else None


@cl.set_starters
async def starters(user):
    return [cl.Starter(label="Weather", message="the weather", command="look")]


@cl.on_chat_start
async def start():
    card = cl.CustomElement(name="Card", props={"count": 1})
    await cl.Message("Welcome", elements=[card]).send()
    passing = await cl.Message("passing").send()
    step = cl.Step(name="gone", type="tool")
    await step.send()
    await step.remove()
    await passing.remove()


@cl.on_chat_resume
async def resume(thread):
    await cl.Message("Back again").send()


@cl.action_callback("count")
async def count(action):
    await cl.Message(f"counted {action.payload['by']}").send()


@cl.on_settings_update
async def settings(settings):
    await cl.Message("settings " + json.dumps(settings)).send()


@cl.on_window_message
async def window(data):
    await cl.send_window_message({"heard": data})
    await cl.Message("the window spoke").send()


@cl.on_audio_start
async def audio_start():
    cl.user_session.set("audio", [])
    return cl.user_session.get("hears", True)


@cl.on_audio_chunk
async def audio_chunk(chunk):
    cl.user_session.get("audio").append((chunk.isStart, chunk.elapsedTime, len(chunk.data)))


@cl.on_audio_end
async def audio_end():
    await cl.Message(json.dumps(cl.user_session.get("audio"))).send()


@cl.on_message
async def on_message(message):
    layer.authors[cl.context.session.thread_id] = cl.user_session.get("user").identifier
    if message.content == "form":
        form = cl.CustomElement(name="Form", props={})
        reply = await cl.AskElementMessage("Fill it in", element=form).send()
        await cl.Message(json.dumps(reply, sort_keys=True)).send()
    elif message.content == "call":
        reply = await cl.CopilotFunction(name="move", args={"to": "top"}).acall()
        await cl.Message(f"moved: {reply}").send()
    elif message.content == "nobody":
        await cl.CopilotFunction(name="unknown", args={}).acall()
    elif message.content == "env":
        await cl.Message(json.dumps(cl.user_session.get("env"))).send()
    elif message.content == "kept":
        await cl.Message(json.dumps(layer.kept.get(cl.context.session.thread_id))).send()
    elif message.content.startswith("is kept "):
        await cl.Message(str(message.content.split()[-1] in layer.kept)).send()
    elif message.content == "deaf":
        cl.user_session.set("hears", False)
    elif message.elements:
        await cl.Message(" ".join(f"{e.name} {e.mime}" for e in message.elements)).send()
    else:
        said = [message.content, message.command, message.modes]
        await cl.Message(json.dumps(said)).send()
"""

SCRIPT = """
who:
  client: copilot
  sign_in: {username: ada, password: right}
  functions: {move: to the top}
  env: {KEY: "${key}"}
variables: {key: abc, by: three}
dialog:
  - hear: Welcome
    expect: {elements: Card, not_contains: passing}
  - change_element: Card
    props: {count: 2}
  - press: count
    payload: {by: "${by}"}
    expect: {contains: counted three}
  - starter: Weather
    expect: {contains: '["the weather", "look", '}
  - say: hi
    command: draw
    modes: {model: large}
    expect: {contains: '["hi", "draw", {"model": "large"}]'}
  - say: form
    expect: {contains: Fill it in, elements: Form}
  - answer_element: {size: "${by}"}
    expect: {contains: '{"size": "three", "submitted": true}'}
  - say: form
  - answer_element: cancel
    expect: {contains: '{"submitted": false}'}
  - say: call
    expect: {contains: 'moved: to the top', calls: move}
  - window: {from: "${by}"}
  - hear: the window spoke
    expect: {window: {heard: {from: three}}}
  - settings: {tone: "${key}"}
  - hear: 'settings {"tone": "abc"}'
  - say: env
    expect: {contains: '{"KEY": "abc"}'}
  - say: files
    files: [a.txt, {file: b.py, mime: text/plain}]
    expect: {contains: a.txt text/plain b.py text/plain}
  - speak: speech.wav
    expect: {contains: '[[true, 0.0, 4800], [false, 100.0, 4800], [false, 200.0, 2400]]'}
  - new_chat: true
  - hear: Welcome
  - resume: true
  - hear: Back again
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    config: dict[str, dict[str, object]] = {
        "project": {"user_env": ["KEY"]},
        "features.audio": {"enabled": True},
    }
    env = {"CHAINLIT_AUTH_SECRET": SECRET}
    with ChainlitServer({"app.py": APP, "layer.py": LAYER}, config=config, env=env) as server:
        yield server


def visit(url: str, script: str, directory: Path) -> Result:
    file = directory / "talk.yaml"
    file.write_text(script)
    written = ["--json", str(directory / "out.json")]
    options = ["--script", str(file), "--visitors", "3", "--rate", "50", "--quiet", *written]
    return CliRunner().invoke(main, ["visit", url, *options])


def record(file: Path, *, rate: int = 24_000, samples: int = 6_000) -> None:
    with wave.open(str(file), "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(2)
        recording.setframerate(rate)
        recording.writeframes(bytes(2 * samples))


def signed_in(server: ChainlitServer, timeout: float = 60) -> Visitor:
    visitor = Visitor(server.url, password=("ada", "right"), timeout=timeout)
    visitor.user_env = {"KEY": "abc"}
    return visitor


def test_a_script_does_all_that_a_person_can(server: ChainlitServer, tmp_path: Path) -> None:
    record(tmp_path / "speech.wav")
    for name in ("a.txt", "b.py"):
        (tmp_path / name).write_text("text")
    done = visit(server.url, SCRIPT, tmp_path)
    assert done.exit_code == 0, done.output + server.log
    results = json.loads((tmp_path / "out.json").read_text())
    assert (results["failures"], results["counts"]["messages"]) == ([], 3 * 7)
    # What the app says by itself is no answer, and has no times of one.
    assert results["timings"]["turn"]["count"] == 3 * 11


def test_what_is_not_as_expected_is_named(server: ChainlitServer, tmp_path: Path) -> None:
    who = "who: {sign_in: {username: ada, password: right}, env: {KEY: a}}\ntimeout: 500ms\n"
    for steps, words in (
        ("[{hear: Goodbye}]", "waited 0.5 s for the app to say 'Goodbye': it said 'Welcome'"),
        (
            "[{hear: Welcome}, {hear: Goodbye}]",
            "waited 0.5 s for the app to say 'Goodbye': it said nothing",
        ),
        ("[{hear: Welcome, expect: {calls: move}}]", "no call of 'move'; there are: none"),
        ("[{hear: Welcome, expect: {window: {a: 1}}}]", "no message to the window {'a': 1}"),
        ("[{hear: Welcome, expect: {elements: [Card, gone]}}]", "no element 'gone'"),
        ("[{hear: Welcome, expect: {steps: gone}}]", "no step 'gone'"),
        ("[{starter: News}]", "there is no starter 'News'; there are: 'Weather'"),
        ("[{change_element: Map, props: {}}]", "there is no custom element 'Map'"),
        ("[{answer_element: {}}]", "the app does not ask for element now: it asks nothing"),
        ("[{resume: true}]", "resume: there is no chat before this one"),
        ("[{say: nobody}]", "waited 0.5 s for the end of the answer"),
    ):
        done = visit(server.url, f"{who}dialog: {steps}", tmp_path)
        assert (done.exit_code, words in done.output) == (1, True), done.output


def test_a_recording_is_checked_before_anybody_comes(tmp_path: Path) -> None:
    record(tmp_path / "slow.wav", rate=8_000)
    (tmp_path / "text.wav").write_text("no sound")
    wanted = "WAV, mono, 16 bits, 24000 samples a second expected"
    for file, words in (
        ("slow.wav", f"has 1 channels, 16 bits and 8000 samples a second: {wanted}"),
        ("text.wav", f"is no recording (file does not start with RIFF id): {wanted}"),
        ("none.wav", "talk.yaml:1: none.wav cannot be spoken: No such file or directory"),
    ):
        done = visit("http://127.0.0.1:1", f"dialog: [{{speak: {file}}}]", tmp_path)
        assert (done.exit_code, words in done.output) == (2, True), done.output


def test_what_the_list_of_threads_has(server: ChainlitServer, tmp_path: Path) -> None:
    script = """
who: {sign_in: {username: ada, password: right}, env: {KEY: a}}
variables: {name: plans}
dialog:
  - say: hi
  - rename: my ${name}
  - say: kept
    expect: {contains: '{"name": "my plans", "shared": false}'}
"""
    done = visit(server.url, script, tmp_path)
    assert done.exit_code == 0, done.output + server.log


@pytest.mark.skipif(not hasattr(chainlit.types, "ShareThreadRequest"), reason="nothing is shared")
def test_a_thread_is_shared(server: ChainlitServer, tmp_path: Path) -> None:
    script = """
who: {sign_in: {username: ada, password: right}, env: {KEY: a}}
dialog:
  - say: hi
  - share: true
  - say: kept
    expect: {contains: '"shared": true'}
  - share: false
  - say: kept
    expect: {contains: '"shared": false'}
"""
    done = visit(server.url, script, tmp_path)
    assert done.exit_code == 0, done.output + server.log


async def test_a_thread_is_deleted(server: ChainlitServer) -> None:
    async with signed_in(server) as visitor:
        await visitor.say("hi")
        await visitor.until(lambda: visitor.thread_id is not None, "the thread")
        thread = visitor.thread_id
        assert (await visitor.say(f"is kept {thread}")).text == "True"
        await visitor.delete_thread()
        await visitor.hear("Welcome")
        assert (await visitor.say(f"is kept {thread}")).text == "False"


async def test_a_chat_that_is_no_thread_yet(server: ChainlitServer) -> None:
    async with signed_in(server, timeout=0.3) as visitor:
        with pytest.raises(NoAnswer, match="for the app to name the thread"):
            await visitor.rename_thread("plans")


async def test_an_app_that_takes_no_audio_now(server: ChainlitServer, tmp_path: Path) -> None:
    record(tmp_path / "speech.wav")
    async with signed_in(server) as visitor:
        assert await visitor.starters() == ["Weather"]
        await visitor.say("deaf")
        with pytest.raises(Refused, match="it takes no audio now"):
            await visitor.speak(tmp_path / "speech.wav")


async def test_what_the_page_shows_now(server: ChainlitServer) -> None:
    async with signed_in(server) as visitor:
        heard = await visitor.hear("Welcome")
        assert (heard.texts, heard.error) == (["Welcome"], None)
        assert [each.name for each in visitor.elements] == ["Card"]
        await visitor.change_element("Card", {"more": True})
        props = {"count": 1, "more": True}
        await visitor.until(lambda: visitor.elements[0].data["props"] == props, "the change")
        # It is heard once.
        visitor.timeout = 0.3
        with pytest.raises(NoAnswer, match=r"waited 0\.3 s for the app to say 'Welcome'"):
            await visitor.hear("Welcome")


def test_the_sample_of_chainlit_hello(tmp_path: Path) -> None:
    script = """
dialog:
  - hear: What is your name?
  - say: Ada
    expect: {contains: ["Your name is: Ada", Chainlit installation is working!]}
"""
    with ChainlitServer({"app.py": HELLO.read_text()}) as server:
        done = visit(server.url, script, tmp_path)
    assert done.exit_code == 0, done.output
