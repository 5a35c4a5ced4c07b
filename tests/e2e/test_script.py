"""Dialog scripts against an app with faults: each is found and named; and what is written."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from chainlit_otel.cli import main
from tests.support.server import ChainlitServer, free_port

pytestmark = pytest.mark.e2e

APP = """
import asyncio
import time

import chainlit as cl
from chainlit.server import sio
from socketio.exceptions import ConnectionRefusedError

busy = asyncio.Lock()
waiting = 0
connect = sio.handlers["/"]["connect"]


async def refusing_connect(sid, environ, auth):
    if auth["chatProfile"] == "closed":
        raise ConnectionRefusedError("we are closed")
    return await connect(sid, environ, auth)


sio.handlers["/"]["connect"] = refusing_connect


@cl.on_message
async def on_message(message):
    global waiting
    kind, _, rest = message.content.partition(" ")
    if kind == "late":
        await asyncio.sleep(0.5)
    elif kind == "lost":
        return
    elif kind == "fail":
        async with cl.Step("search", type="tool"):
            raise ValueError("the index is broken")
    elif kind == "block":
        time.sleep(0.7)
    elif kind == "queue":
        with open("waiting", "a") as file:
            print(waiting, file=file)
        waiting += 1
        async with busy:
            waiting -= 1
            await asyncio.sleep(0.1)
    elif kind == "never":
        await asyncio.sleep(60)
    elif kind == "ask":
        reply = await cl.AskUserMessage("Who are you?").send()
        rest = reply["output"]
    elif kind == "offer":
        offered = [cl.Action(name=n, payload={}, label=n) for n in ("tea", "coffee")]
        rest = (await cl.AskActionMessage("What?", actions=offered).send())["name"]
    await cl.Message(f"You said {rest} as order 17").send()
"""

GOOD = """
variables: {drink: tea}
data: people.csv
dialog:
  - say: order ${drink}
    expect:
      contains: ${drink}
      not_contains: coffee
      matches: 'order \\d+'
      within: 60s
      first_token_within: 60s
    save: {number: 'order (\\d+)'}
  - say: is ${number} for ${name}
    expect: {contains: "17 for ${name}"}
  - say: ask
    expect: {contains: Who are you}
  - say: ${name}
    expect: {contains: "You said ${name}"}
  - say: offer
  - answer_action: coffee
    expect: {contains: coffee}
  - wait: [1ms, 20ms]
  - drop: 10ms
  - edit: order milk
    expect: {contains: milk}
  - choose:
      - do: [{say: left one}]
      - {weight: 2, do: [{say: right one}]}
  - repeat: 2
    do: [{say: again}]
  - new_chat: true
  - say: bye
  - say: fail
    expect: {error: true, steps: search}
  - stop: never
    after: 50ms
"""

BAD = """
dialog:
  - say: order tea
    expect:
      contains: coffee
      not_contains: tea
      matches: 'order \\D+'
      steps: search
      elements: picture
      actions: more
  - say: late answer
    expect: {within: 400ms, first_token_within: 300ms}
  - say: block it
    expect: {within: 500ms}
  - say: lost question
    expect: {first_token_within: 60s}
  - say: fail
  - say: fine
    expect: {error: true}
  - answer_action: coffee
  - say: is never reached
"""

EXPECTED = (
    *("answer does not contain 'coffee', it is 'You said tea as order 17'",),
    *(r"answer does not match 'order \\D+', it is", "answer contains 'tea', it is"),
    *("there is no step 'search'; there are: 'on_message'",),
    *("there is no element 'picture'; there are: none",),
    *("there is no button 'more'; there are: none",),
    *("say 'late answer': the answer took 0.", "say 'late answer': the first text came after 0."),
    *("say 'block it': the answer took 0.", "say 'lost question': the answer has no text"),
    *("say 'fail': the app shows a failure: the index is broken",),
    *("say 'fine': the app shows no failure",),
    *("answer with 'coffee': the app does not ask for action now: it asks nothing",),
)


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP}) as server:
        yield server


class Runs:
    """Runs of `visit`, each with a script and what it wrote."""

    def __init__(self, server: ChainlitServer, directory: Path) -> None:
        self.server = server
        self.directory = directory
        (directory / "people.csv").write_text("name\nada\nbob\n")

    def run(self, script: str, *options: str, url: str = "") -> Result:
        written = ["--json", str(self.directory / "out.json")]
        written += ["--junit", str(self.directory / "out.xml")]
        return self.run_only(script, "--rate", "50", *written, *options, url=url)

    def run_only(self, script: str, *options: str, url: str = "") -> Result:
        file = self.directory / "talk.yaml"
        file.write_text(script)
        given = ["visit", url or self.server.url, "--script", str(file), "--quiet"]
        return CliRunner().invoke(main, [*given, *options])

    @property
    def json(self) -> Any:
        return json.loads((self.directory / "out.json").read_text())

    @property
    def junit(self) -> ElementTree.Element:
        return ElementTree.parse(self.directory / "out.xml").getroot()[0]


@pytest.fixture
def runs(server: ChainlitServer, tmp_path: Path) -> Runs:
    return Runs(server, tmp_path)


def test_a_dialog_that_goes_as_expected(runs: Runs) -> None:
    done = runs.run(GOOD, "--visitors", "4")
    assert done.exit_code == 0, done.output
    counts = runs.json["counts"]
    assert runs.json["failures"] == []
    assert (counts["arrived"], counts["finished"], counts["failed"]) == (4, 4, 0)
    # One chat and a new one; lost once; eleven messages, of which one is an answer.
    assert (counts["sessions"], counts["new_chats"], counts["reconnects"]) == (8, 4, 4)
    assert counts["messages"] == 4 * 11
    assert counts["checks"] == 4 * (6 + 2 + 2 + 2 + 1 + 2 + 2 + 1 + 2 * 1 + 1 + 2)
    # Of each message, each choice, and the edit.
    assert runs.json["timings"]["turn"]["count"] == 4 * (11 + 2)
    assert runs.json["timings"]["reconnect"]["count"] == 4
    assert [case.get("name") for case in runs.junit] == [f"visitor {n}" for n in range(4)]
    assert runs.junit.get("failures") == "0"


def test_results_have_no_password_of_the_address(runs: Runs) -> None:
    url = runs.server.url.replace("//", "//ada:s3cret@")
    done = runs.run("timeout: 0.5s\ndialog: [{say: never}]", url=url)
    assert "s3cret" not in done.output
    nowhere = f"http://ada:s3cret@127.0.0.1:{free_port()}"
    assert "s3cret" not in runs.run("dialog: [{say: hello}]", url=nowhere).output
    written = json.dumps(runs.json) + (runs.directory / "out.xml").read_text()
    assert "s3cret" not in written
    assert runs.json["url"].endswith(runs.server.url.removeprefix("http://"))


def test_each_fault_is_found_and_named(runs: Runs) -> None:
    done = runs.run(BAD, "--visitors", "1")
    assert done.exit_code == 1, done.output
    messages = [failure["message"] for failure in runs.json["failures"]]
    assert len(messages) == len(EXPECTED), messages
    for message, words in zip(messages, EXPECTED, strict=True):
        assert words in message
    assert {failure["kind"] for failure in runs.json["failures"]} == {"CheckFailed"}
    counts = runs.json["counts"]
    assert (counts["unexpected"], counts["failed"], counts["messages"]) == (len(EXPECTED), 1, 6)
    assert runs.json["failures"][0]["transcript"] == [
        "> order tea",
        "< You said tea as order 17",
    ]
    (case,) = runs.junit
    assert [failure.get("message") for failure in case] == messages
    assert messages[0] in done.output


@pytest.mark.parametrize(
    ("script", "row", "words"),
    [
        (
            "dialog: [{say: late, expect: {first_token_within: 300ms}}]",
            *("not as expected", "say 'late': the first text came after "),
        ),
        (
            "dialog: [{say: lost, expect: {contains: You said}}]",
            *("not as expected", "say 'lost': the answer does not contain 'You said', it is ''"),
        ),
        (
            "timeout: 2s\ndialog: [{say: never}]",
            *("no answer", "waited 2 s for the end of the answer"),
        ),
        (
            "dialog: [{say: order tea, expect: {contains: coffee}}]",
            *("not as expected", "does not contain 'coffee', it is 'You said tea as order 17'"),
        ),
        (
            "dialog: [{say: fail}]",
            *("not as expected", "say 'fail': the app shows a failure: the index is broken"),
        ),
        ("who: {profile: closed}\ndialog: [{say: hello}]", "refused", "we are closed"),
        (
            "dialog: [{say: block, expect: {within: 500ms}}]",
            *("not as expected", "say 'block': the answer took "),
        ),
    ],
    ids=["slow", "without-text", "never", "wrong", "error", "refused", "blocked"],
)
def test_the_summary_names_each_fault(runs: Runs, script: str, row: str, words: str) -> None:
    done = runs.run(script, "--visitors", "3")
    assert done.exit_code == 1, done.output
    assert re.search(rf"^{row} +3$", done.output, re.M), done.output
    assert words in done.output


def test_the_summary_names_all_faults_of_a_dialog(runs: Runs) -> None:
    output = runs.run(BAD, "--visitors", "2").output
    # Of two answers that took too long, the first.
    for words in (each for each in EXPECTED if "say 'block it'" not in each):
        assert words in output


def test_a_blocked_loop_makes_those_wait_who_connect(runs: Runs) -> None:
    done = runs.run(
        "dialog: [{say: block}]", "--visitors", "10", "--threshold", "max(connect) < 500ms"
    )
    assert done.exit_code == 1, done.output
    assert "FAILED max(connect) < 500ms: " in done.output


def test_an_answer_that_does_not_come_ends_the_dialog(runs: Runs) -> None:
    done = runs.run("timeout: 0.5s\ndialog: [{say: never}, {say: more}]", "--visitors", "2")
    assert done.exit_code == 1
    kinds = Counter(failure["kind"] for failure in runs.json["failures"])
    assert kinds == {"NoAnswer": 2}
    assert runs.json["counts"]["messages"] == 2


def test_the_branches_are_left_to_chance_and_the_seed(runs: Runs) -> None:
    script = "dialog: [{choose: [{weight: 3, do: [{say: a}]}, {do: [{say: b}, {say: c}]}]}]"

    def messages(seed: str) -> int:
        assert runs.run(script, "--visitors", "20", "--seed", seed).exit_code == 0
        count: int = runs.json["counts"]["messages"]
        return count

    assert 20 < messages("1") < 40
    assert messages("1") == messages("1")


def test_thresholds_decide_in_place_of_single_failures(runs: Runs) -> None:
    script = "dialog: [{say: lost, expect: {contains: tea}}]"
    options = ("--visitors", "3", "--threshold")
    assert runs.run(script, *options, "failed <= 100%").exit_code == 0
    crossed = runs.run(script, *options, "p95(turn) < 60s", "--threshold", "failed < 50%")
    assert crossed.exit_code == 1
    assert "ok     p95(turn) < 60s: 0." in crossed.output
    assert "FAILED failed < 50%: 100.00%" in crossed.output
    assert [each["met"] for each in runs.json["thresholds"]] == [True, False]


def test_a_broken_run_is_no_failed_check(runs: Runs) -> None:
    script = "dialog: [{say: hello}]"
    unreachable = runs.run(script, url=f"http://127.0.0.1:{free_port()}")
    assert (unreachable.exit_code, "nothing answers" in unreachable.output) == (3, True)
    wrong = runs.run("dialog: [{sya: hello}]")
    assert wrong.exit_code == 2
    assert "talk.yaml:1: dialog.0: there is nothing to do in this step" in wrong.output
    for options, words in (
        (("--threshold", "p95(turn) < soon"), "'soon' is not a duration"),
        (("--stage", "30"), "'30' is not a stage such as 30s:5"),
        (("--find-limit",), "--find-limit needs a --threshold"),
        (("--find-limit", "--threshold", "failed < 1%", "--stage", "1s:1"), "no --stage"),
        (("--find-limit", "--threshold", "failed < 1%"), "writes no results"),
    ):
        wrong = runs.run(script, *options)
        assert (wrong.exit_code, words in wrong.output) == (2, True), wrong.output


def test_results_that_cannot_be_written_are_one_line(runs: Runs) -> None:
    for option in ("--json", "--junit"):
        done = runs.run_only("dialog: [{say: hello}]", option, str(runs.directory))
        assert done.exit_code == 3
        assert f"Error: cannot write {runs.directory}: Is a directory" in done.output


def test_visitors_come_in_stages(runs: Runs) -> None:
    done = runs.run("dialog: [{say: hello}]", "--stage", "500ms:40", "--stage", "1s:40")
    assert done.exit_code == 0, done.output
    # Half a second of 20 a second in the mean, and a second of 40: 50, by a Poisson process.
    assert 25 <= runs.json["counts"]["arrived"] <= 80


def limit_of(output: str) -> tuple[dict[float, str], float]:
    """What came of each rate that was tried, and the limit."""
    *lines, limit = output.splitlines()
    assert limit.startswith("limit: ")
    # On a busy machine there are warnings in between.
    tried = [line.split("/s  ") for line in lines if "/s  " in line]
    outcomes = {float(rate): outcome for rate, outcome in tried}
    return outcomes, float(limit.split()[1])


def test_the_limit_of_an_app(runs: Runs) -> None:
    # One is served at a time, in a tenth of a second: ten a second, at most.
    done = runs.run_only(
        "dialog: [{say: queue}]",
        *("--find-limit", "--threshold", "p95(turn) < 500ms"),
        *("--rate", "40", "--trial", "1500ms"),
    )
    assert done.exit_code == 0, done.output
    outcomes, best = limit_of(done.output)
    assert "FAILED" in outcomes[40.0]
    assert "ok" in outcomes[best]
    assert 1 < best < 40


def test_a_limit_that_no_threshold_notices(runs: Runs) -> None:
    done = runs.run_only(
        "dialog: [{say: queue}]",
        *("--find-limit", "--threshold", "failed < 1%", "--rate", "20", "--trial", "3s"),
    )
    assert done.exit_code == 0, done.output
    outcomes, best = limit_of(done.output)
    assert "failed < 1%: 0.00%, a queue grows: turns took " in outcomes[20.0]
    assert best < 20


def test_what_one_rate_leaves_behind_is_not_taken_for_the_next(runs: Runs) -> None:
    before = len(runs.server.read("waiting").split())
    # Of 80 visitors, some 30 are served; 50 have left when the app comes to them, in 5 seconds.
    done = runs.run_only(
        "timeout: 1s\ndialog: [{say: queue}]",
        *("--find-limit", "--threshold", "failed < 1%", "--rate", "40", "--trial", "2s"),
    )
    assert "FAILED" in done.output.splitlines()[0], done.output
    found = [int(line) for line in runs.server.read("waiting").split()[before:]]
    # After one alone and 80, the 40 of the next rate come to an app that is at leisure again.
    assert found[81:].index(0) < 40


def test_an_app_that_does_not_serve_even_one(runs: Runs) -> None:
    done = runs.run_only(
        "dialog: [{say: late}]",
        *("--find-limit", "--threshold", "max(turn) < 100ms", "--trial", "1s"),
    )
    assert done.exit_code == 1
    assert done.output.startswith("not even one visitor alone reaches the thresholds: max(turn) < ")
    assert len(done.output.splitlines()) == 1
