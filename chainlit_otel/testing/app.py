"""A Chainlit app in a process of its own, for as long as a test or a demonstration needs it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

LOCALHOST = "127.0.0.1"
_POLL = 0.1
_ANSWER_TIMEOUT = 5.0
_EXIT_TIMEOUT = 8.0  # seconds the app has to end by itself
_TAIL = 25


class AppEnded(Exception):
    """The app could not be started, or ended by itself; the message has the end of its log."""


class AppServer:
    """Runs a Chainlit app as ``chainlit run`` does.

    As a context manager it starts the app, waits until it answers, and in the end stops it.

    Args:
        app: the app's file. It runs in the directory of the file, where Chainlit looks for
            ``.chainlit/config.toml``.
        port: of the loopback interface; None for a free one.
        env: the environment of the process; None for that of this one.
        timeout: seconds until it must answer.

    Raises:
        FileNotFoundError: there is no such file.
    """

    def __init__(
        self,
        app: str | os.PathLike[str],
        *,
        port: int | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60.0,
    ) -> None:
        self._app = Path(app).resolve()
        if not self._app.is_file():
            raise FileNotFoundError(f"there is no Chainlit app at {self._app}")
        self.port = port or free_port()
        self._env = None if env is None else dict(env)
        self._timeout = timeout
        self._directory = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._log = Path(self._directory.name) / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Address of the chat."""
        return f"http://{LOCALHOST}:{self.port}"

    @property
    def log(self) -> str:
        """All that the app has printed so far."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def start(self) -> None:
        """Start the process, and do not wait for anything."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "chainlit", "run", self._app.name),
                    *("--headless", "--host", LOCALHOST, "--port", str(self.port)),
                ],
                cwd=self._app.parent,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the terminal is for this process only, which then stops the app itself.
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Return when the app answers.

        Raises:
            AppEnded: the process has ended, or it does not answer in time.
        """
        deadline = time.monotonic() + self._timeout
        while not self._answers():
            self.check_alive()
            if time.monotonic() > deadline:
                raise AppEnded(self.with_log_tail(f"no answer within {self._timeout:g} s"))
            time.sleep(_POLL)

    def _answers(self) -> bool:
        # The one route that needs no sign-in.
        url = f"{self.url}/project/translations?language=en-US"
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=_ANSWER_TIMEOUT):
            return True
        return False

    def check_alive(self) -> None:
        """Make sure that the process runs.

        Raises:
            AppEnded: it does not.
        """
        code = self._process.poll() if self._process is not None else None
        if code is not None:
            raise AppEnded(self.with_log_tail(f"the app has ended with exit code {code}"))

    def with_log_tail(self, text: str) -> str:
        """Return a text, and below it the end of what the app has printed."""
        lines = self.log.splitlines()[-_TAIL:]
        return "\n".join([f"{text}; the end of its log:" if lines else text, *lines])

    def close(self) -> None:
        """End the process, by a signal on which the app shuts down, else by force."""
        try:
            if self._process is not None:
                self._end(self._process)
        finally:
            self._directory.cleanup()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(_EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            process.kill()  # no effect on a process that has ended
            process.wait()

    def __enter__(self) -> AppServer:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def free_port() -> int:
    """Return a port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])
