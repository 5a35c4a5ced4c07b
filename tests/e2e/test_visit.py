"""Visitors against bare Chainlit: what they did is read from the app's side."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner, Result

from chainlit_otel.cli import main
from chainlit_otel.cli.headline import NONE_YET
from chainlit_otel.testing import ConnectionLost, NoAnswer, Visitor
from chainlit_otel.testing.load import Crowd, Plan
from chainlit_otel.testing.visit import Target
from tests.support.scrape import wait_until, wait_until_async
from tests.support.server import ChainlitServer, free_port, python_path
from tests.support.sign_in import sign_in

T = TypeVar("T")

pytestmark = pytest.mark.e2e

# Notes every callback, every lost connection with its reason, and every session that is deleted.
APP = """
from pathlib import Path

import chainlit as cl
from chainlit.server import sio
from chainlit.session import WebsocketSession


def note(*words):
    with open("notes", "a") as notes:
        print(*words, file=notes)


disconnect = sio.handlers["/"]["disconnect"]


async def noted_disconnect(sid, reason=None):
    session = WebsocketSession.get(sid)  # None if another socket has taken its place
    note("lost", session and session.id, reason.replace(" ", "_"))
    await disconnect(sid)


sio.handlers["/"]["disconnect"] = noted_disconnect
delete = WebsocketSession.delete


async def noted_delete(session):
    note("deleted", session.id)
    await delete(session)


WebsocketSession.delete = noted_delete


@cl.on_chat_start
async def start():
    note("start", cl.context.session.id)
    await cl.Message("Welcome!").send()


@cl.on_chat_end
async def end():
    note("end", cl.context.session.id)


@cl.on_message
async def answer(message):
    note("message", cl.context.session.id, message.content)
    count = cl.user_session.get("count", 0) + 1
    cl.user_session.set("count", count)
    if message.content == "who?":
        name = await cl.AskUserMessage("Who are you?", timeout=30).send()
        await cl.Message(f"Hello, {name['output']}!").send()
    elif message.content == "fail":
        raise RuntimeError("as you wish")
    elif not Path("mute").exists():
        reply = cl.Message("")
        for token in (str(count), ": ", message.content):
            await reply.stream_token(token)
        await reply.send()
"""

TRANSPORTS = [None, ["websocket"], ["polling"]]


@pytest.fixture(scope="module", params=["", "/cl"], ids=["root", "root-path"])
def server(request: pytest.FixtureRequest) -> Iterator[ChainlitServer]:
    path: str = request.param
    args = ["--root-path", path] if path else []
    # A grace time that no test outlasts: what is deleted here was cleared by its visitor.
    config = {"project": {"session_timeout": 600}}
    with ChainlitServer({"app.py": APP}, config=config, args=args, path=path) as server:
        yield server


def notes(server: ChainlitServer, session_id: str = "") -> list[str]:
    """What the app has noted about a session, without its id; everything if none is given."""
    lines = server.read("notes").splitlines()
    if not session_id:
        return lines
    return [line.replace(f" {session_id}", "") for line in lines if session_id in line]


async def soon(ask: Callable[[], T], expected: T) -> None:
    """Wait until the answer is as expected; if it never is, fail with the difference."""

    async def as_expected() -> bool:
        return ask() == expected

    with contextlib.suppress(TimeoutError):
        await wait_until_async(as_expected, 60, "what is expected")
    assert ask() == expected


async def noted(server: ChainlitServer, session_id: str, *expected: str) -> None:
    """Wait until the app has noted exactly this about the session."""
    await soon(lambda: notes(server, session_id), list(expected))


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_a_visitor_talks_and_disconnects(
    server: ChainlitServer, transports: list[str] | None
) -> None:
    visitor = Visitor(server.url, transports=transports)
    await visitor.connect()
    assert visitor.transport == (transports or ["websocket"])[0]
    assert (await visitor.say("one")).texts == ["1: one"]
    assert (await visitor.say("two")).texts == ["2: two"]
    await visitor.leave(clear=True)
    assert not visitor.connected
    await noted(
        server,
        visitor.session_id,
        *("start", "message one", "message two", "lost client_disconnect", "end", "deleted"),
    )


async def test_closing_the_tab_leaves_the_session_to_its_grace_time(server: ChainlitServer) -> None:
    visitor = Visitor(server.url)
    await visitor.connect()
    await visitor.say("one")
    await visitor.leave()
    await noted(server, visitor.session_id, "start", "message one", "lost transport_close", "end")


@pytest.mark.parametrize("transports", TRANSPORTS[:2])
async def test_who_drops_and_reconnects_is_in_the_same_session(
    server: ChainlitServer, transports: list[str] | None
) -> None:
    visitor = Visitor(server.url, transports=transports)
    await visitor.connect()
    assert visitor.thread_id is None
    await visitor.say("one")
    await visitor.until(lambda: bool(visitor.thread_id), "the thread")
    before = (visitor.session_id, visitor.thread_id)
    await visitor.drop()
    assert not visitor.connected
    with pytest.raises(ConnectionLost):
        await visitor.say("into the void")
    await noted(server, visitor.session_id, "start", "message one", "lost transport_close", "end")
    await visitor.reconnect()
    assert (await visitor.say("two")).texts == ["2: two"]
    assert (visitor.session_id, visitor.thread_id) == before
    await visitor.leave(clear=True)
    await noted(
        server,
        visitor.session_id,
        *("start", "message one", "lost transport_close", "end"),
        *("message two", "lost client_disconnect", "end", "deleted"),
    )


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_a_new_chat_ends_the_old_session_and_starts_another(
    server: ChainlitServer, transports: list[str] | None
) -> None:
    visitor = Visitor(server.url, transports=transports)
    await visitor.connect()
    await visitor.say("one")
    await visitor.until(lambda: bool(visitor.thread_id), "the thread")
    first, thread = visitor.session_id, visitor.thread_id
    await visitor.new_chat()
    assert visitor.session_id != first
    assert visitor.thread_id is None
    assert (await visitor.say("two")).texts == ["1: two"]
    await visitor.until(lambda: visitor.thread_id not in (None, thread), "another thread")
    ended = ("lost client_disconnect", "end", "deleted")
    await noted(server, first, "start", "message one", *ended)
    await visitor.leave(clear=True)
    await noted(server, visitor.session_id, "start", "message two", *ended)


async def test_a_question_of_the_app_is_answered_by_what_is_said_next(
    server: ChainlitServer,
) -> None:
    visitor = Visitor(server.url)
    await visitor.connect()
    assert (await visitor.say("who?")).texts == ["Who are you?"]
    assert (await visitor.say("Ada")).texts == ["Hello, Ada!"]
    assert (await visitor.say("three")).texts == ["2: three"]
    await visitor.leave(clear=True)


async def test_who_leaves_a_question_open_leaves_nothing_behind(server: ChainlitServer) -> None:
    tasks = len(asyncio.all_tasks())
    visitor = Visitor(server.url)
    await visitor.connect()
    await visitor.say("who?")
    await visitor.leave()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == tasks


async def test_a_failing_callback_is_seen(server: ChainlitServer) -> None:
    visitor = Visitor(server.url)
    await visitor.connect()
    assert (await visitor.say("fail")).texts == []
    assert visitor.failures == 1
    await visitor.leave(clear=True)


async def test_the_greeting_is_never_taken_for_the_answer(server: ChainlitServer) -> None:
    """Both are under way at once when a visitor talks at once."""
    for _ in range(30):
        visitor = Visitor(server.url, transports=["websocket"])
        await visitor.connect()
        assert (await visitor.say("hi")).texts == ["1: hi"]
        await visitor.leave(clear=True)
        shown = [event.data for event in visitor.events if event.name == "new_message"]
        assert "Welcome!" in [step["output"] for step in shown]


async def test_waiting_ends_with_the_connection_or_the_time(server: ChainlitServer) -> None:
    visitor = Visitor(server.url, timeout=5)
    await visitor.connect()
    visitor.timeout = 0.1
    with pytest.raises(NoAnswer, match=r"0\.1 s for a miracle"):
        await visitor.until(lambda: False, "a miracle")
    visitor.timeout = 60
    waiting = asyncio.create_task(visitor.until(lambda: False, "a miracle"))
    await asyncio.sleep(0)
    await visitor.drop()
    with pytest.raises(ConnectionLost, match="before a miracle"):
        await asyncio.wait_for(waiting, 30)


@pytest.mark.parametrize("transports", TRANSPORTS)
async def test_a_crowd_does_what_it_planned_and_counts_what_it_did(
    server: ChainlitServer, transports: list[str] | None
) -> None:
    # Over polling, nobody vanishes: the app would wait for them, and a stopping server for it.
    odds = 0.0 if transports == ["polling"] else 0.5
    plan = Plan(40, rate=100, length=0.5, seed=3, drops=odds, new_chats=0.5, closes=odds)
    # What is noted late about the visitors of other tests is not about these.
    others = {line.split()[1] for line in notes(server)} - {"None"}
    report = await Crowd(Target(server.url, transports=transports), plan.visits()).run()
    visits = list(plan.visits())
    acts = Counter(act.kind for visit in visits for act in visit.actions)
    assert report.succeeded, report.failure_examples
    assert (report.arrived, report.finished, report.connected) == (40, 40, 0)
    assert (report.messages, report.replies) == (acts["talk"], acts["talk"])
    assert (report.reconnects, report.new_chats) == (acts["drop"], acts["new_chat"])
    assert report.sessions == report.ended == 40 + report.new_chats
    assert len(report.timings["turn"]) == report.messages
    assert 1 < report.peak <= 40
    assert report.seconds > 0

    expected = {
        "start": report.sessions,
        "message": report.messages,
        "lost": report.sessions + report.reconnects,
        "deleted": report.new_chats + sum(not visit.closes for visit in visits),
    }

    def seen() -> dict[str, int]:
        lines = [line.split() for line in notes(server)]
        kinds = Counter(kind for kind, session, *_ in lines if session not in others)
        return {kind: kinds[kind] for kind in expected}

    await soon(seen, expected)


async def test_a_cancelled_crowd_goes_home_at_once(server: ChainlitServer) -> None:
    tasks = len(asyncio.all_tasks())
    crowd = Crowd(Target(server.url), Plan(None, rate=200, length=60).visits())
    running = asyncio.create_task(crowd.run())

    async def some_are_there() -> bool:
        return crowd.report.connected >= 20

    await wait_until_async(some_are_there, 60, "twenty visitors")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(running, 30)
    assert len(asyncio.all_tasks()) == tasks
    report = crowd.report
    assert (report.connected, report.finished, report.ended) == (0, report.arrived, report.sessions)


def options(**values: object) -> list[str]:
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def visit(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["visit", *arguments])


def test_the_command_reports_how_they_fared(server: ChainlitServer) -> None:
    result = visit(server.url, *options(visitors=12, rate=50, length=0.3, seed=5))
    assert result.exit_code == 0, result.output
    plan = Plan(12, rate=50, length=0.3, seed=5)
    acts = Counter(act.kind for each in plan.visits() for act in each.actions)
    assert re.search(r"^visitors +12 of 12$", result.output, re.M)
    assert re.search(rf"^sessions +{12 + acts['new_chat']}$", result.output, re.M)
    assert re.search(rf"^replies +{acts['talk']}$", result.output, re.M)
    assert "no answer" not in result.output


def test_quiet_prints_the_summary_only(server: ChainlitServer) -> None:
    arguments = [
        "--visitors",
        "2",
        "--rate",
        "50",
        "--length",
        "0.1",
        "--transport",
        "websocket",
        "--quiet",
    ]
    result = visit(server.url, *arguments)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("visitors ")


def test_an_app_that_answers_nothing_makes_it_fail(server: ChainlitServer) -> None:
    mute = server.directory / "mute"
    mute.touch()
    try:
        result = visit(
            server.url, *["--visitors", "2", "--rate", "50", "--length", "0.1", "--quiet"]
        )
    finally:
        mute.unlink()
    assert result.exit_code == 1
    assert re.search(r"^no answer +2$", result.output, re.M)
    assert "the app said nothing to" in result.output


def start(*arguments: str) -> subprocess.Popen[str]:
    """Start the console script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from chainlit_otel.cli import main; main()", *arguments],
        env={**os.environ, **python_path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell has what it starts in the background ignore Ctrl-C, and these tests with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_a_wrong_address_is_one_line(server: ChainlitServer) -> None:
    root = server.url.removesuffix("/cl")
    wrong = {
        "localhost:8000": "is not an address",
        f"http://127.0.0.1:{free_port()}": "Connection refused",
        f"{root}/elsewhere": "",
    }
    if server.url != root:
        wrong[root] = "not the address of a Chainlit app"
        wrong[f"{root}/elsewhere"] = "not the address of a Chainlit app"
    for url, words in wrong.items():
        with start("visit", url) as process:
            output, errors = process.communicate(timeout=60)
        assert process.returncode == (2 if words == "is not an address" else 3), url
        assert output == ""
        assert re.fullmatch(r"Error: .*\n", errors), errors
        assert words in errors


def on_a_terminal(*arguments: str) -> tuple[str, str]:
    """What a command prints, and what it shows on a terminal of 90 columns meanwhile."""
    ours, its = pty.openpty()
    environment = {**os.environ, **python_path(), "COLUMNS": "90", "TERM": "xterm"}
    command = [sys.executable, "-c", "from chainlit_otel.cli import main; main()", *arguments]
    try:
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=its, text=True
        ) as process:
            os.close(its)
            shown = b""
            with contextlib.suppress(OSError):  # of a terminal whose other side is gone
                while part := os.read(ours, 4096):
                    shown += part
            output, _ = process.communicate(timeout=60)
    finally:
        os.close(ours)
    assert process.returncode == 0, output
    return output, shown.decode()


def test_a_terminal_shows_the_figures_while_they_come(
    server: ChainlitServer, tmp_path: Path
) -> None:
    script = tmp_path / "talk.yaml"
    script.write_text("dialog: [{say: hello}, {wait: 2s}]")
    crowd = [server.url, "--script", str(script), *options(visitors=7, rate=50)]
    output, shown = on_a_terminal("visit", *crowd)
    plain = re.sub(r"\x1b\[[?0-9;]*[a-z]", "", shown, flags=re.I)
    frames = [frame for frame in re.split(r"[\r\n]", plain) if "now" in frame]
    figures = r"(\d+) now, (\d+) failed, p95 first token (\S+)(?: s)?, turn (\S+)(?: s)?"
    found = [re.search(rf" (\d+)/7  {figures}", frame) for frame in frames]
    assert all(found), frames
    seen = [match.groups() for match in found if match]
    assert seen[0] == ("0", "0", "0", NONE_YET, NONE_YET)
    assert any(int(now) > 0 and re.match(r"\d+\.\d\d", turn) for _, now, _, _, turn in seen)
    assert seen[-1][:3] == ("7", "0", "0")
    assert max(map(len, frames)) <= 90
    assert output.startswith("visitors ")


def test_what_is_no_terminal_is_shown_no_progress(server: ChainlitServer) -> None:
    with start("visit", server.url, *options(visitors=2, rate=50, length=0.1)) as process:
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output.startswith("visitors ")


def test_ctrl_c_sends_everybody_home_and_still_reports(server: ChainlitServer) -> None:
    before = len(notes(server))
    many = options(visitors=500, rate=5, length=60)
    visitors = start("visit", server.url, *many, "--quiet")
    try:
        wait_until(lambda: len(notes(server)) > before + 5, 60, "visitors")
        visitors.send_signal(signal.SIGINT)
        output, errors = visitors.communicate(timeout=60)
    finally:
        visitors.kill()
        visitors.communicate()
    assert visitors.returncode == 130
    assert re.search(r"^visitors +\d+ of 500$", output, re.M)
    assert errors.strip() == "interrupted"


def test_an_app_with_sign_in_says_how_to_pass_a_cookie() -> None:
    app = (
        APP
        + """

@cl.password_auth_callback
def sign_in(username, password):
    return cl.User(identifier=username)
"""
    )
    env = {"CHAINLIT_AUTH_SECRET": "a secret of thirty-two characters"}
    with ChainlitServer({"app.py": app}, env=env) as server:
        one = [server.url, *options(visitors=1, rate=50, length=0.1)]
        cookie = asyncio.run(sign_in(server.url, "ada"))["Cookie"]
        nobody = visit(*one)
        stranger = visit(*one, "--header", "cookie: access_token=of.another.app")
        ada = visit(*one, "--header", f"Cookie: {cookie}")
        assert "start" in server.read("notes"), "Ada came in"
    for refused, why in ((nobody, "only who has signed in"), (stranger, "nobody in with this")):
        assert refused.exit_code == 3
        assert len(refused.output.splitlines()) == 1
        assert why in refused.output
        assert "--header 'Cookie: access_token=" in refused.output
    assert ada.exit_code == 0, ada.output
    assert re.search(r"^visitors +1 of 1$", ada.output, re.M)
