"""What a run of visitors leaves behind: JSON, JUnit, a page, and the app's ledger beside theirs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import jsonschema
import pytest
from click.testing import CliRunner, Result

import chainlit_otel
from chainlit_otel.cli import main
from tests.support import junit
from tests.support.axe import install_axe, violations
from tests.support.browser import chromium
from tests.support.local import Handler, LocalServer
from tests.support.server import ChainlitServer, free_port

pytestmark = pytest.mark.e2e

VISITORS = 6
PACKAGE = Path(chainlit_otel.__file__).parent

APP = """
import chainlit as cl
import chainlit_otel

chainlit_otel.enable()


@cl.action_callback("tea")
async def tea(action):
    await cl.Message("Here it is.").send()


@cl.on_message
async def answer(message):
    if message.content == "fail":
        raise RuntimeError("<b>as you wish</b>")
    if message.content == "menu":
        tea = cl.Action(name="tea", payload={}, label="Tea")
        await cl.Message("What would you like?", actions=[tea]).send()
    elif message.content == "who?":
        name = await cl.AskUserMessage("Who are you?", timeout=60).send()
        await cl.Message(f"Hello, {name['output']}!").send()
    else:
        reply = cl.Message("")
        for token in ("You ", "said ", message.content):
            await reply.stream_token(token)
        await reply.send()
"""
SCRIPT = """
name: tea
timeout: 60s
dialog:
  - say: hello
    expect: {contains: hello}
  - say: look
    files: note.txt
  - drop: 50ms
  - say: wrong
    expect: {contains: right}
  - say: fail
  - new_chat: true
  - say: menu
  - press: tea
    expect: {contains: Here it is.}
  - say: who?
  - say: Ada
    expect: {contains: "Hello, Ada!"}
"""


class Page(HTMLParser):
    """The text of a page, the cells of each row of its tables, and the names of its tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[list[str]] = []
        self.text = ""
        self._in_cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("th", "td")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_cell:
            self.rows[-1][-1] += data


class Done:
    """A run, and what it has written."""

    def __init__(self, server: ChainlitServer, directory: Path) -> None:
        (directory / "tea.yaml").write_text(SCRIPT)
        (directory / "note.txt").write_text("a note")
        files = {name: directory / f"results.{name}" for name in ("json", "junit", "html")}
        self.result = visit(
            *(server.url, "--script", str(directory / "tea.yaml"), "--quiet"),
            *("--visitors", str(VISITORS), "--rate", "10", "--metrics", server.metrics_url),
            *("--threshold", "failed < 1%", "--threshold", "p95(turn) < 1m"),
            *(word for name, file in files.items() for word in (f"--{name}", str(file))),
        )
        self.json: dict[str, Any] = json.loads(files["json"].read_text())
        self.junit = ElementTree.parse(files["junit"]).getroot()
        self.page = files["html"]


def visit(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["visit", *arguments])


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP}) as server:
        yield server


@pytest.fixture(scope="module")
def done(server: ChainlitServer, tmp_path_factory: pytest.TempPathFactory) -> Done:
    return Done(server, tmp_path_factory.mktemp("run"))


def test_both_ledgers_have_the_same(done: Done) -> None:
    assert done.result.exit_code == 1, done.result.output  # a threshold was not met
    rows = {row["figure"]: row for row in done.json["ledgers"]}
    per_visitor = {"sessions": 2, "reconnects": 1, "turns": 6, "failed turns": 1, "uploads": 1}
    for figure, number in per_visitor.items():
        expected = number * VISITORS
        row = rows[figure]
        assert (row["visitors"], row["app"], row["difference"]) == (expected, expected, 0), figure
        assert re.search(rf"^{figure} +{expected} +{expected} +0$", done.result.output, re.M)
    for figure in ("mean turn", "mean first token"):
        assert rows[figure]["unit"] == "s"
        assert rows[figure]["app"] > 0
        assert rows[figure]["visitors"] > 0
    assert "If others use the app meanwhile" in done.result.output


def test_the_json_is_as_its_schema_says(done: Done) -> None:
    schema = json.loads((PACKAGE / "testing" / "results.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(done.json, schema, jsonschema.Draft202012Validator)
    assert done.json["counts"]["uploads"] == VISITORS
    broken = {**done.json, "counts": {**done.json["counts"], "peak": -1}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema, jsonschema.Draft202012Validator)


def test_the_junit_is_as_jenkins_reads_it(done: Done) -> None:
    assert junit.mistakes(done.junit) == []
    (suite,) = done.junit
    cases = {case.attrib["name"]: case for case in suite}
    visitors = [f"visitor {number}" for number in range(VISITORS)]
    assert sorted(cases) == sorted([*visitors, "failed < 1%", "p95(turn) < 1m"])
    failed = {name for name, case in cases.items() if case.findall("failure")}
    assert failed == {*visitors, "failed < 1%"}
    assert suite.attrib["failures"] == str(VISITORS + 1)
    wrong, fail = cases["visitor 0"].findall("failure")
    assert "does not contain 'right'" in wrong.attrib["message"]
    assert "<b>as you wish</b>" in fail.attrib["message"]
    assert "< You said hello" in (wrong.text or "")


def test_the_page_has_it_all_without_a_script(done: Done) -> None:
    text = done.page.read_text(encoding="utf-8")
    page = Page(text)
    assert not {"script", "link", "img", "b"} & page.tags
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', text)
    assert ["failed < 1%", "100.00%", "no"] in page.rows
    for figure, number in (("sessions", 2), ("turns", 6), ("failed turns", 1)):
        assert [figure, *[str(number * VISITORS)] * 2, "0"] in page.rows
    assert ["CheckFailed", str(2 * VISITORS), str(VISITORS)] in [row[:3] for row in page.rows]
    lengths = {row[0]: row[1] for row in page.rows if len(row) == 8}
    assert lengths["connect"] == str(VISITORS)
    assert lengths["reconnect"] == str(VISITORS)
    assert page.text.count("The dialog of visitor") == 2 * VISITORS
    assert "the app shows a failure: <b>as you wish</b>" in page.text


@pytest.mark.browser
async def test_the_page_fits_a_phone_and_axe_finds_nothing(done: Done, tmp_path: Path) -> None:
    script = await asyncio.to_thread(install_axe, tmp_path)
    schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
    papers = set()
    async with chromium() as browser:
        for scheme in schemes:
            tab = await browser.new_page(
                viewport={"width": 400, "height": 844}, color_scheme=scheme
            )
            await tab.goto(done.page.as_uri())
            opened = "document.querySelectorAll('details').forEach(each => each.open = true)"
            await tab.evaluate(opened)
            assert await tab.evaluate("document.documentElement.scrollWidth") == 400
            assert await violations(tab, script) == []
            paper = "getComputedStyle(document.documentElement).backgroundColor"
            papers.add(await tab.evaluate(paper))
    assert len(papers) == 2


def test_metrics_that_cannot_be_read_are_one_line(server: ChainlitServer) -> None:
    class Other(Handler):
        def do_GET(self) -> None:
            self.answer(b"up 1\n")

    nobody = f"http://127.0.0.1:{free_port()}/metrics"
    with LocalServer(Other) as other:
        cases = {
            nobody: "Connection refused",
            f"{server.metrics_url}/no": "answers 404",
            server.url: "is no metrics",
            f"{other.origin}/metrics": "it has no chainlit_session_starts_total",
        }
        for url, why in cases.items():
            result = visit(server.url, "--visitors", "1", "--quiet", "--metrics", url)
            assert result.exit_code == 3, result.output
            assert re.fullmatch(r"Error: cannot read .*\n", result.output), result.output
            assert why in result.output


def test_a_directory_that_is_not_there_is_said_before_anybody_comes(
    server: ChainlitServer, tmp_path: Path
) -> None:
    for option in ("--json", "--junit", "--html"):
        result = visit(server.url, "--visitors", "1", option, str(tmp_path / "no" / "file"))
        assert result.exit_code == 3
        assert re.fullmatch(r"Error: cannot write .*: there is no directory .*\n", result.output)


def test_an_app_whose_metrics_are_gone_in_the_end_leaves_the_other_results(
    server: ChainlitServer, tmp_path: Path
) -> None:
    class Gone(Handler):
        asked = 0

        def do_GET(self) -> None:
            Gone.asked += 1
            self.answer(server.scrape().text.encode(), status=200 if Gone.asked == 1 else 500)

    file = tmp_path / "results.json"
    with LocalServer(Gone) as gone:
        few = ("--visitors", "1", "--length", "0.1", "--quiet", "--json", str(file))
        result = visit(server.url, *few, "--metrics", f"{gone.origin}/metrics")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(
        r"no figures of the app: cannot read .*: it answers 500\n", result.stderr
    ), result.stderr
    assert json.loads(file.read_text())["ledgers"] == []
    assert "by the app" not in result.stdout


def test_a_page_without_its_packages_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chainlit_otel.cli.visit.find_spec", lambda name: None)
    result = visit("http://127.0.0.1:1", "--html", "results.html")
    assert result.exit_code == 3
    assert result.output == (
        "Error: --html needs more packages: pip install 'chainlit-otel[analysis]'\n"
    )
