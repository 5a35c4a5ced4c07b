"""`chainlit-otel demo` as a user runs it: in a process of its own, ended in every way."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from chainlit_otel.cli import demo_server, main
from tests.support.scrape import wait_until
from tests.support.server import python_path

pytestmark = pytest.mark.e2e


class Demo:
    """A running demo whose temporary files are kept in `directory`."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self._output = directory.parent / "output"
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-c", "from chainlit_otel.cli import main; main()"),
                    *("demo", "--visitors-rate", "5", *arguments),
                ],
                env={**os.environ, **python_path(), "TMPDIR": str(directory)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def wait_for(self, words: str) -> None:
        def there() -> bool:
            assert self.process.poll() is None, self.output
            return words in self.output

        wait_until(there, 90, words)

    def url(self, name: str) -> str:
        found = re.search(rf"^ *{name} +(http\S+)$", self.output, re.M)
        assert found, self.output
        return found[1]

    @property
    def records(self) -> Path | None:
        """Where it says that the records of the visits are."""
        found = re.search(r"report --from (\S+) -o", self.output)
        return Path(found[1]) if found else None

    def is_gone(self) -> bool:
        """Whether nothing is left of it: no process in its group, no file, no open port."""
        left = self.records
        assert list(self.directory.iterdir()) == ([left] if left else [])
        for name in ("chat", "metrics"):
            host, port = self.url(name).split("/")[2].split(":")
            with socket.socket() as probe:
                assert probe.connect_ex((host, int(port))) != 0, name
        return True


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "temporary"
    directory.mkdir()
    return directory


@pytest.fixture
def endless(directory: Path) -> Iterator[Demo]:
    demo = Demo(directory)
    try:
        yield demo
    finally:
        if demo.process.poll() is None:
            demo.process.terminate()
            demo.process.wait(30)


def figure(name: str, output: str) -> list[float]:
    """The figures in the line of the summary with this name."""
    summary = output.partition("\nafter ")[2]
    found = re.search(rf"^ *{name} +(.*)$", summary, re.M)
    assert found, output
    return [float(number) for number in re.findall(r"[\d.]+", found[1])]


def test_after_its_time_it_ends_by_itself_with_a_summary(directory: Path) -> None:
    demo = Demo(directory, "--seconds", "8")
    start = time.monotonic()
    assert demo.process.wait(110) == 0, demo.output
    assert time.monotonic() - start > 8
    started, by_visitors = figure("sessions started", demo.output)
    assert started >= by_visitors >= 5
    peak, by_visitors = figure("most at one time", demo.output)
    assert peak >= by_visitors >= 2
    assert figure("per minute", demo.output)[0] > 0
    assert figure("replies", demo.output)[0] >= 1
    assert re.search(
        r"^sessions started [\d.]+/min   mean duration \S+( s)?   connected now \d+   peak \d+$",
        demo.output,
        re.M,
    )
    assert demo.is_gone()
    assert demo.records is not None
    page = demo.directory / "report.html"
    result = CliRunner().invoke(
        main, ["report", "--from", str(demo.records), "--json", "-o", str(page)]
    )
    assert result.exit_code == 0, result.output
    text = json.dumps(json.loads(page.read_text()))
    assert f"{started:.0f}" in text


def test_with_a_report_only_that_is_left(directory: Path) -> None:
    page = directory.parent / "report.html"
    demo = Demo(directory, "--seconds", "5", "--report", str(page))
    assert demo.process.wait(110) == 0, demo.output
    assert demo.records is None
    assert demo.is_gone()
    assert "<h1" in page.read_text()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_cleanly(endless: Demo, sig: signal.Signals) -> None:
    endless.wait_for("/min   mean")
    endless.process.send_signal(sig)
    assert endless.process.wait(30) == 0, endless.output
    assert figure("sessions started", endless.output)[0] >= 0
    assert "Traceback" not in endless.output
    assert endless.is_gone()


def test_a_signal_before_the_app_is_ready_ends_it_too(endless: Demo) -> None:
    endless.wait_for("starting the app")
    endless.process.send_signal(signal.SIGINT)
    assert endless.process.wait(30) == 0, endless.output
    assert "ended before the app was ready" in endless.output
    assert list(endless.directory.iterdir()) == []


def test_an_app_that_dies_is_reported_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise RuntimeError('no luck today')\n")
    monkeypatch.setattr(demo_server, "_APP", broken)
    result = CliRunner().invoke(main, ["demo", "--seconds", "1"])
    assert result.exit_code == 1
    assert "the app has ended with exit code 1" in result.output
    assert "RuntimeError: no luck today" in result.output


def test_a_port_that_is_taken_is_an_error_only_if_it_was_asked_for() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(main, ["demo", "--port", str(port)])
    assert result.exit_code == 1
    assert result.output.strip() == f"Error: port {port} is taken"
