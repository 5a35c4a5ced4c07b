"""`chainlit-otel monitor` in a process of its own, as it is started by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx

from tests.support.http import fetch
from tests.support.scrape import Scrape, wait_until
from tests.support.server import free_port


class Monitored:
    """A monitor that has begun.

    Args:
        arguments: of the command, but for its port.
        env: added to the environment.

    Attributes:
        address: `host:port` of its metrics.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        run = [sys.executable, "-c", "from chainlit_otel.cli import main; main()", "monitor"]
        self.process = subprocess.Popen(
            [*run, *arguments, "--port", str(port)],
            env={**os.environ, **(env or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(self._answers, 60, "the metrics")

    @classmethod
    def of(
        cls, url: str, directory: Path, scripts: Mapping[str, str], every: str = "200ms"
    ) -> Monitored:
        """Start one of dialogs, which are written to a directory, by the name of each."""
        given = [url, "--every", every]
        for name, text in scripts.items():
            (directory / f"{name}.yaml").write_text(text)
            given += ["--script", str(directory / f"{name}.yaml")]
        return cls(*given)

    def _answers(self) -> bool:
        try:
            self.scrape()
        except httpx.TransportError:
            return False
        return True

    def scrape(self) -> Scrape:
        return Scrape(fetch(f"http://{self.address}/metrics").text)

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
        """Have it end, and return its exit code and what it has printed."""
        self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors
