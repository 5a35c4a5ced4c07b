"""A dialog that is repeated, and the metrics of it, while the app works, fails, and is down."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from chainlit_otel.cli import main
from tests.support.http import fetch
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer, free_port

pytestmark = pytest.mark.e2e

APP = """
from pathlib import Path

import chainlit as cl


@cl.on_message
async def on_message(message):
    await cl.Message(Path("answer").read_text() + message.content).send()
"""
SCRIPTS = {
    "greeting": "dialog: [{say: hello, expect: {contains: You said hello}}, {drop: 10ms}]",
    "short": "timeout: 5s\ndialog: [{say: hi}]",
}


@pytest.fixture
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP, "answer": "You said "}) as server:
        yield server


class Monitored:
    """A monitor in a process of its own."""

    def __init__(self, url: str, directory: Path) -> None:
        self.port = free_port()
        given = ["monitor", url, "--every", "200ms", "--port", str(self.port)]
        for name, text in SCRIPTS.items():
            (directory / f"{name}.yaml").write_text(text)
            given += ["--script", str(directory / f"{name}.yaml")]
        command = [sys.executable, "-c", "from chainlit_otel.cli import main; main()", *given]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

        wait_until(self._answers, 60, "the metrics")

    def _answers(self) -> bool:
        try:
            self.scrape()
        except httpx.TransportError:
            return False
        return True

    def scrape(self) -> Scrape:
        return Scrape(fetch(f"http://127.0.0.1:{self.port}/metrics").text)

    def wait(self, dialog: str, success: int, more: int = 1) -> Scrape:
        """Wait until dialogs have ended that began from now on, and the last was this."""
        done = "probe_chat_probes_total"
        before = self.scrape().sum(done, dialog=dialog)

        def reached() -> bool:
            scrape = self.scrape()
            return (
                # The first of them may have begun before.
                scrape.sum(done, dialog=dialog) >= before + 1 + more
                and scrape.sum("probe_success", dialog=dialog) == success
            )

        wait_until(reached, 60, "the dialogs")
        return self.scrape()

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def test_the_metrics_of_a_dialog(server: ChainlitServer, tmp_path: Path) -> None:
    monitored = Monitored(server.url, tmp_path)
    try:
        well = monitored.wait("greeting", 1)
        monitored.wait("short", 1)
        where = {"target": server.url, "dialog": "greeting"}
        assert well.value("probe_success", **where) == 1
        phases = {
            phase: well.value("probe_chat_duration_seconds", **where, phase=phase)
            for phase in ("connect", "first_token", "turn", "reconnect")
        }
        assert all(seconds > 0 for seconds in phases.values())
        whole = well.value("probe_duration_seconds", **where)
        assert phases["first_token"] <= phases["turn"] < whole
        assert well.sum("probe_chat_failures_total") == 0

        (server.directory / "answer").write_text("You wrote ")
        wrong = monitored.wait("greeting", 0)
        assert wrong.value("probe_chat_failures_total", **where, kind="CheckFailed") >= 1
        # The other dialog expects nothing of the text.
        monitored.wait("short", 1)

        server.stop()
        down = monitored.wait("short", 0)
        elsewhere = {"target": server.url, "dialog": "short"}
        assert down.value("probe_chat_failures_total", **elsewhere, kind="Unreachable") >= 1
        assert down.value("probe_chat_last_timestamp_seconds", **elsewhere) > 0

        (server.directory / "answer").write_text("You said ")
        server.start()
        monitored.wait("greeting", 1)
        monitored.wait("short", 1)
    finally:
        code, errors = monitored.end()
    assert code == 0, errors
    lines = errors.splitlines()
    assert lines[0] == f"metrics at http://127.0.0.1:{monitored.port}/metrics"
    assert any(
        "greeting: CheckFailed: say 'hello': the answer does not contain" in e for e in lines
    )
    assert any("short: Unreachable: " in line for line in lines)
    assert "Traceback" not in errors


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    script = tmp_path / "talk.yaml"
    script.write_text("dialog: [{say: hello}]")
    given = ["http://127.0.0.1:1", "--script", str(script)]
    for options, words in (
        ([*given, "--script", str(script)], "two scripts have the name 'talk'"),
        (given[:1], "Missing option '--script'"),
        (["127.0.0.1", *given[1:]], "is not an address"),
        ([*given, "--every", "0"], "must be greater than 0"),
        ([*given, "--every", "soon"], "'soon' is not a duration"),
    ):
        done = CliRunner().invoke(main, ["monitor", *options])
        assert (done.exit_code, words in done.output) == (2, True), done.output
