"""`make stack` as a user runs it: what its servers see, and that nothing is left of them."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from chainlit_otel.rules import Windows, render
from tests.support.http import fetch
from tests.support.scrape import wait_until
from tests.support.server import free_port, python_path
from tools import stack

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SCALE = 0.02
PLACES = ("chat", "metrics", "prometheus", "alertmanager")


class Stack:
    """The running stack, whose temporary files are all in `directory`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.admin_port = free_port()
        self._output = directory.parent / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*(sys.executable, "-m", "tools.stack", "--visitors-rate", "5"), *arguments],
                cwd=ROOT,
                env={
                    **os.environ,
                    **python_path(),
                    "TMPDIR": str(directory),
                    "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.admin_port),
                },
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def url(self, name: str) -> str:
        found = re.search(rf"^ *{name} +(http\S+)$", self.output, re.M)
        if found is None:
            assert self.process.poll() is None, self.output
            raise KeyError(name)
        return found[1]

    def ask(self, path: str) -> Any:
        """The data in an answer of Prometheus."""
        return fetch(self.url("prometheus") + path).json()["data"]

    def remains(self) -> list[str]:
        """The processes, files and listening ports of it."""
        found = [str(path) for path in self.directory.iterdir()]
        found += [f"process {pid}" for pid in self._processes()]
        for name in PLACES:
            host, port = self.url(name).split("/")[2].split(":")
            with socket.socket() as probe:
                if probe.connect_ex((host, int(port))) == 0:
                    found.append(self.url(name))
        return found

    def _processes(self) -> list[str]:
        """Those that run in a temporary directory of it, which all its servers do."""
        numbers = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [number for number in numbers if _cwd(number).is_relative_to(self.directory)]


def _cwd(process: str) -> Path:
    try:
        return Path(f"/proc/{process}/cwd").readlink()
    except OSError:  # it has ended
        return Path("/")


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Stack]:
    directory = tmp_path / "temporary"
    directory.mkdir()
    # Not those that everybody prefers: another demo may be starting at the same moment.
    options = ("--port", "--prometheus-port", "--alertmanager-port")
    ports = [word for option in options for word in (option, str(free_port()))]
    stack = Stack(directory, "--scale", str(SCALE), *ports)
    try:
        yield stack
    finally:
        if stack.process.poll() is None:
            stack.process.terminate()
            stack.process.wait(30)


def test_prometheus_watches_the_demo_by_the_shipped_rules(running: Stack) -> None:
    wait_until(lambda: running.url("alertmanager"), 90, "the addresses")
    assert len(running.remains()) >= 2 * len(PLACES) - 1  # what is looked for is there to be found

    assert running.url("metrics") == f"http://127.0.0.1:{running.admin_port}/metrics"

    def up() -> bool:
        targets = running.ask("/api/v1/targets")["activeTargets"]
        found = [(target["scrapeUrl"], target["health"]) for target in targets]
        return found == [(running.url("metrics"), "up")]

    wait_until(up, 60, "the demo to be scraped")
    shipped = yaml.safe_load(render(window=Windows(SCALE)))["groups"]
    loaded = running.ask("/api/v1/rules")["groups"]
    assert {group["name"]: len(group["rules"]) for group in loaded} == {
        group["name"]: len(group["rules"]) for group in shipped
    }

    def recorded() -> bool:
        query = "/api/v1/query?query=job:chainlit_session_starts:rate5m"
        return any(float(one["value"][1]) > 0 for one in running.ask(query)["result"])

    wait_until(recorded, 60, "visitors in a recording rule")
    url = running.url("alertmanager")

    def connected() -> bool:
        found = running.ask("/api/v1/alertmanagers")["activeAlertmanagers"]
        return [one["url"] for one in found] == [f"{url}/api/v2/alerts"]

    wait_until(connected, 60, "the Alertmanager to be known")
    assert fetch(f"{url}/api/v2/status").json()["cluster"]["status"] == "disabled"
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(30) == 0, running.output
    assert "most at one time" in running.output
    assert "Traceback" not in running.output
    assert running.remains() == []


@pytest.mark.parametrize("option", ["--prometheus-port", "--alertmanager-port", "--port"])
def test_a_port_that_is_taken_is_an_error_if_it_was_asked_for(option: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(stack.main, [option, str(port)])
    assert result.exit_code == 1
    assert result.output.strip() == f"Error: port {port} is taken"


def test_without_prometheus_it_says_so_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("OTEL_EXPORTER_PROMETHEUS_PORT", str(free_port()))
    result = CliRunner().invoke(stack.main, ["--seconds", "1", "--port", str(free_port())])
    assert result.exit_code == 1
    assert "prometheus" in result.output.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []


def test_make_stack_runs_it() -> None:
    make = ["make", "--no-print-directory", "--dry-run", "stack", "STACK_ARGS=--seconds 3"]
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].endswith("-m tools.stack --seconds 3")
