"""A real Chainlit server process for the tests: its files, its log, its metrics, its end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx

import chainlit_otel
from tests.support.http import fetch
from tests.support.scrape import POLL, Scrape

_TAIL = 80
# No test may depend on what the developer has set for an app of his own.
_NOT_INHERITED = ("OTEL_", "CHAINLIT_", "TRACELOOP_", "LITERAL_", "DATABASE_URL")


def python_path() -> dict[str, str]:
    """The variable by which a child imports the same chainlit_otel as this process.

    Empty if it is installed: `site-packages` must not come before the standard library.
    """
    root = Path(next(iter(chainlit_otel.__path__))).resolve().parent
    if root.name == "site-packages":
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}


# Below the range the system gives to outgoing connections: one of those could otherwise take a port
# before the server does. A metrics server whose port is taken looks at the sixteen after it.
_PORTS = range(20000, 32000, 20)
_dice = random.SystemRandom()
# Keeps other test processes from the ports that were given here last, and may not be in use yet.
_claims: deque[socket.socket] = deque(maxlen=32)


def free_port() -> int:
    """A port of the loopback interface on which nothing listens, and that no other is given."""
    while True:
        port = _dice.choice(_PORTS)
        claim = socket.socket(socket.AF_UNIX)
        try:
            # A name that is no file, and free again when the process is gone.
            claim.bind(f"\0chainlit-otel-tests-{port}")
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        if len(_claims) == _claims.maxlen:
            _claims.popleft().close()
        _claims.append(claim)
        return port


class ChainlitServer:
    """A server process in a temporary directory of its own.

    `start` (or `with`) starts it and returns when it answers.

    Args:
        files: text of each file by its path below the directory; ``app.py`` is what runs.
        config: tables of ``.chainlit/config.toml``, e.g. ``{"project": {"session_timeout": 1}}``.
        env: added to the environment.
        args: added to the command, e.g. ``["--root-path", "/cl"]`` or ``["-w"]``.
        command: run instead of ``python -m chainlit run app.py``; ``{port}`` in it becomes the
            port. Starts with what follows ``python -m``.
        runner: what runs the interpreter, e.g. ``["valgrind"]``.
        startup_timeout: seconds until it must answer.
        path: path of the chat below the server, for ``--root-path`` and ``mount_chainlit``.

    Attributes:
        url: address of the chat.
        metrics_url: address at which the exposition is expected.
        directory: where the process runs.
    """

    def __init__(
        self,
        files: Mapping[str, str],
        *,
        config: Mapping[str, Mapping[str, object]] | None = None,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        command: Sequence[str] | None = None,
        runner: Sequence[str] = (),
        startup_timeout: float = 120.0,
        path: str = "",
    ) -> None:
        self.files = dict(files)
        self.config = {table: dict(values) for table, values in (config or {}).items()}
        self.env = dict(env or {})
        self.port = free_port()
        self.admin_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{path}"
        self.metrics_url = f"http://127.0.0.1:{self.admin_port}/metrics"
        chosen = command or ["chainlit", "run", "app.py", "--headless", "--port", "{port}"]
        self._command = [
            *(*runner, sys.executable, "-m"),
            *(part.replace("{port}", str(self.port)) for part in chosen),
            *args,
        ]
        self._startup_timeout = startup_timeout
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Where the process runs; gone after `close`."""
        if self._temporary is None:
            raise RuntimeError("the server was not started")
        return Path(self._temporary.name)

    @property
    def pid(self) -> int:
        """The process id of the server."""
        return self._started().pid

    @property
    def log(self) -> str:
        """Everything the process has printed."""
        return (self.directory / "server.log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> ChainlitServer:
        """Start the process and wait until it answers; again after `stop`, in the same directory.

        Raises:
            RuntimeError: it ended or did not answer in time; the end of its log is in the message.
        """
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="chainlit-otel-test-")
        self._write_files()
        with (self.directory / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_for_answer()
        except BaseException:
            self.close()
            raise
        return self

    def scrape(self) -> Scrape:
        """Fetch and parse what `/metrics` says now.

        Raises:
            httpx.HTTPError: it cannot be fetched.
        """
        response = fetch(self.metrics_url)
        response.raise_for_status()
        return Scrape(response.text)

    def read(self, name: str) -> str:
        """The text of a file of the server's directory; empty if there is none yet."""
        file = self.directory / name
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def ended(self, timeout: float) -> int | None:
        """The return code, if the process ends within `timeout` seconds; else None."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._started().wait(timeout)
        return None

    def stop(self, sig: int = signal.SIGTERM, timeout: float = 60.0) -> int:
        """Send `sig`, wait for the end; the directory stays until `close`.

        Blocks: with visitors connected from the same event loop, call it by `asyncio.to_thread`,
        or they cannot answer when the server closes their connections.

        Returns:
            The return code.

        Raises:
            TimeoutError: the process was still there after `timeout` seconds and was killed.
        """
        process = self._started()
        try:
            if process.poll() is None:
                process.send_signal(sig)
            return process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise TimeoutError(
                f"still there {timeout:g} s after the signal\n{self.tail()}"
            ) from None
        finally:
            # What the server has started shares the process group that was made for it alone.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Stop the process if it runs, and remove the directory."""
        if self._process is not None and self._process.poll() is None:
            # Shorter than what a long poll may hold the server up (20 s and more).
            with contextlib.suppress(TimeoutError):
                self.stop(timeout=3)
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def tail(self) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.splitlines()[-_TAIL:])

    def __enter__(self) -> ChainlitServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server was not started")
        return self._process

    def _write_files(self) -> None:
        for name, text in {**self.files, ".chainlit/config.toml": self._toml()}.items():
            file = self.directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")

    def _toml(self) -> str:
        # The least that Chainlit takes: a version that is not too old, and a name.
        tables: dict[str, dict[str, object]] = {
            "meta": {"generated_by": "2.0.0"},
            "UI": {"name": "test"},
        }
        for table, values in self.config.items():
            tables.setdefault(table, {}).update(values)
        lines: list[str] = []
        for table, values in tables.items():
            lines.append(f"[{table}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        return "\n".join(lines) + "\n"

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
        }
        return {
            **inherited,
            **python_path(),
            "PYTHONUNBUFFERED": "1",
            "OTEL_EXPORTER_PROMETHEUS_HOST": "127.0.0.1",
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.admin_port),
            **self.env,
        }

    def _wait_for_answer(self) -> None:
        process = self._started()
        deadline = time.monotonic() + self._startup_timeout
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with {process.returncode}\n{self.tail()}")
            try:
                if fetch(f"{self.url}/", timeout=2).status_code < 500:
                    return
            except httpx.TransportError:
                pass
            time.sleep(POLL)
        raise RuntimeError(f"no answer within {self._startup_timeout:g} s\n{self.tail()}")
