"""A dialog that is repeated, and the metrics of it, while the app works, fails, and is down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from chainlit_otel import catalog
from chainlit_otel.cli import main
from chainlit_otel.rules import Thresholds, Windows, render
from chainlit_otel.testing.errors import VisitError
from chainlit_otel.testing.results import PHASES
from tests.support.monitor import Monitored
from tests.support.prometheus import Prometheus
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

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


def test_the_metrics_of_a_dialog(server: ChainlitServer, tmp_path: Path) -> None:
    monitored = Monitored.of(server.url, tmp_path, SCRIPTS)
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
        assert well.value("probe_chat_consecutive_failures", **where) == 0
        assert well.value("probe_chat_interval_seconds", **where) == 0.2

        (server.directory / "answer").write_text("You wrote ")
        wrong = monitored.wait("greeting", 0)
        assert wrong.value("probe_chat_failures_total", **where, kind="CheckFailed") >= 1
        assert wrong.value("probe_chat_consecutive_failures", **where) >= 1
        # The other dialog expects nothing of the text.
        monitored.wait("short", 1)

        server.stop()
        down = monitored.wait("short", 0)
        elsewhere = {"target": server.url, "dialog": "short"}
        assert down.value("probe_chat_failures_total", **elsewhere, kind="Unreachable") >= 1
        assert down.value("probe_chat_last_timestamp_seconds", **elsewhere) > 0

        (server.directory / "answer").write_text("You said ")
        server.start()
        again = monitored.wait("greeting", 1)
        assert again.value("probe_chat_consecutive_failures", **where) == 0
        monitored.wait("short", 1)
    finally:
        code, errors = monitored.end()
    assert code == 0, errors
    lines = errors.splitlines()
    assert lines[0] == f"metrics at http://{monitored.address}/metrics"
    assert any(
        "greeting: CheckFailed: say 'hello': the answer does not contain" in e for e in lines
    )
    assert any("short: Unreachable: " in line for line in lines)
    assert "Traceback" not in errors


def test_the_alerts_are_about_real_monitors(server: ChainlitServer, tmp_path: Path) -> None:
    # A minute is a second.
    rules = render(Thresholds(monitor_late=3), Windows(scale=1 / 60, scrape=1))
    monitored = Monitored.of(server.url, tmp_path, SCRIPTS)
    with Prometheus({"monitor": [monitored.address]}, rules) as prometheus:

        def firing() -> set[tuple[str, str, str]]:
            found = prometheus.query('ALERTS{alertstate="firing",job="monitor"}')
            assert all(labels["target"] == server.url for labels, _ in found)
            return {
                (labels["alertname"], labels.get("dialog", ""), labels.get("cause", ""))
                for labels, _ in found
            }

        def fires(*alerts: tuple[str, str, str]) -> None:
            wait_until(lambda: firing() == set(alerts), 120, f"{alerts} and no other")

        try:
            wait_until(lambda: prometheus.query("probe_success == 1"), 60, "the first scrape")
            fires()
            (server.directory / "answer").write_text("You wrote ")
            fires(("ChainlitDialogFailing", "greeting", "outage"))
            (server.directory / "answer").write_text("You said ")
            fires()
            server.stop()
            both = [("ChainlitDialogFailing", dialog, "outage") for dialog in SCRIPTS]
            fires(*both)
            server.start()
            fires()
        finally:
            monitored.end()
        fires(("ChainlitMonitorStopped", "", ""))


def test_the_values_of_its_labels_are_those_of_the_catalogue() -> None:
    kinds, found = [VisitError], set()
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found.add(kind.__name__)
    assert found == set(catalog.FAILURE_KIND.values)
    assert catalog.PHASE.values == PHASES


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
