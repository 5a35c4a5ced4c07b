"""The quickstart in a process of its own, by whichever interpreter has the package."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.server import free_port

_APP = Path(__file__).parents[1] / "examples/quickstart/app.py"
_START_TIMEOUT = 120.0
_ANSWER_TIMEOUT = 10.0
_STOP_TIMEOUT = 30.0
_POLL = 0.1
# Nothing that is set for another app may decide how this one runs.
_NOT_INHERITED = ("CHAINLIT_", "OTEL_", "PYTHONPATH", "TRACELOOP_")


class Failed(Exception):
    """The app did not start, or did not answer as it must; the message has the end of its log."""


class Quickstart:
    """Where a running quickstart answers.

    Args:
        url: Address of the chat.
        admin_url: Address of the admin server.
        log: The file with what the process prints.
    """

    def __init__(self, url: str, admin_url: str, log: Path) -> None:
        self.url = url
        self.admin_url = admin_url
        self.log = log

    def get(self, url: str) -> str:
        """Fetch an address.

        Raises:
            Failed: It does not answer in time, or not with success.
        """
        try:
            with urllib.request.urlopen(url, timeout=_ANSWER_TIMEOUT) as response:
                return str(response.read().decode("utf-8", "replace"))
        except OSError as error:
            raise Failed(f"{url}: {error}\n{self.tail()}") from error

    def tail(self) -> str:
        """The last lines that the process has printed."""
        return "\n".join(self.log.read_text("utf-8", "replace").splitlines()[-40:])


@contextlib.contextmanager
def quickstart(python: str) -> Iterator[Quickstart]:
    """Run the quickstart by `chainlit run` until the block ends; its chat answers from the start.

    Args:
        python: The interpreter, of an environment that has the package.

    Raises:
        Failed: It did not start, or did not stop.
    """
    with tempfile.TemporaryDirectory(
        prefix="chainlit-otel-quickstart-", ignore_cleanup_errors=True
    ) as name:
        directory = Path(name)
        shutil.copy(_APP, directory)
        port, admin_port = free_port(), free_port()
        log = directory / "server.log"
        app = Quickstart(f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}", log)
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(_NOT_INHERITED)
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [python, "-m", "chainlit", "run", _APP.name, "--headless", "--port", str(port)],
                cwd=directory,
                env={**environment, "OTEL_EXPORTER_PROMETHEUS_PORT": str(admin_port)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            _wait_for_chat(app, process)
            yield app
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                raise Failed(f"still there after SIGTERM\n{app.tail()}") from None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_chat(app: Quickstart, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"ended with {process.returncode}\n{app.tail()}")
        try:
            with urllib.request.urlopen(app.url, timeout=_ANSWER_TIMEOUT):
                return
        except urllib.error.HTTPError as error:
            raise Failed(f"{app.url}: {error}\n{app.tail()}") from error
        except OSError:
            time.sleep(_POLL)
    raise Failed(f"no answer within {_START_TIMEOUT:g} s\n{app.tail()}")
