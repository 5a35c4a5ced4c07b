"""The demo app: its directory, its ports, its metrics."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from chainlit_otel.cli.headline import Reading, read
from chainlit_otel.testing.app import LOCALHOST, AppEnded, AppServer
from chainlit_otel.testing.errors import Unreachable
from chainlit_otel.testing.http import check

GRACE = 10  # `session_timeout`: short, so that sessions of closed tabs end while one watches

# Without a version that is new enough and a name, Chainlit does not accept the file.
_CONFIG = f"""\
[meta]
generated_by = "2.0.0"

[project]
session_timeout = {GRACE}

[UI]
name = "chainlit-otel demo"
"""
_WELCOME = ""  # instead of Chainlit's own welcome page
_APP = Path(__file__).with_name("demo_app.py")
_POLL = 0.1
_METRICS_TIMEOUT = 8.0  # seconds from the first answer of the chat to the first metrics
# Settings of the user's own app: the demo must not listen elsewhere, nor write to its database.
_NOT_INHERITED = ("CHAINLIT_", "DATABASE_URL", "LITERAL_")


class DemoServer:
    """The demo app in a process and a temporary directory of its own; use it by `async with`.

    Args:
        port: of the chat; None for 8000 or the next free one.
        records: directory in which the app keeps records; None for no records.

    Raises:
        AppEnded: the port is taken.
    """

    def __init__(self, port: int | None = None, records: Path | None = None) -> None:
        if port is not None and not is_free(port):
            raise AppEnded(f"port {port} is taken")
        self.port = port or free_port(8000)
        self.admin_port = free_port(_preferred_admin_port(), but=self.port)
        self._directory = tempfile.TemporaryDirectory(
            prefix="chainlit-otel-demo-", ignore_cleanup_errors=True
        )
        self._records = records
        app = _write_app(Path(self._directory.name))
        self._server = AppServer(app, port=self.port, env=self._environment())
        self._http: aiohttp.ClientSession | None = None

    @property
    def chat_url(self) -> str:
        """Address of the chat."""
        return f"http://{LOCALHOST}:{self.port}"

    @property
    def live_url(self) -> str:
        """Address of the live page."""
        return f"http://{LOCALHOST}:{self.admin_port}/"

    @property
    def metrics_url(self) -> str:
        """Address of the app's metrics."""
        return f"http://{LOCALHOST}:{self.admin_port}/metrics"

    @property
    def health_url(self) -> str:
        """Address of the health of chainlit-otel."""
        return f"http://{LOCALHOST}:{self.admin_port}/healthz"

    async def __aenter__(self) -> DemoServer:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=5))
        self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await asyncio.to_thread(self._server.close)
        finally:
            if self._http is not None:
                await self._http.close()
            self._directory.cleanup()

    async def wait_until_ready(self, timeout: float) -> None:
        """Return when the chat and the metrics answer.

        Args:
            timeout: seconds the chat may take.

        Raises:
            AppEnded: the process has ended, or they do not answer in time.
        """
        if not await self._answers(self._has_chat, timeout):
            raise AppEnded(self._server.with_log_tail(f"no answer within {timeout:g} s"))
        if not await self._answers(self._has_metrics, _METRICS_TIMEOUT):
            reason = f"the app runs, but there are no session metrics at {self.metrics_url}"
            raise AppEnded(self._server.with_log_tail(reason))

    async def _answers(self, ask: Callable[[], Awaitable[bool]], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not await ask():
            self.check_alive()
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_POLL)
        return True

    async def _has_chat(self) -> bool:
        try:
            await check(self.chat_url, timeout=2)
        except Unreachable:
            return False
        return True

    async def _has_metrics(self) -> bool:
        return await self.scrape() is not None

    def check_alive(self) -> None:
        """Make sure that the app runs.

        Raises:
            AppEnded: it does not.
        """
        self._server.check_alive()

    async def scrape(self) -> Reading | None:
        """Read the metrics now; None if they cannot be had."""
        if self._http is None:
            return None
        try:
            async with self._http.get(self.metrics_url) as response:
                return read(await response.text())
        except (aiohttp.ClientError, asyncio.TimeoutError, LookupError, ValueError):
            return None

    def _environment(self) -> dict[str, str]:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
        }
        return {
            **inherited,
            "OTEL_SDK_DISABLED": "false",
            "OTEL_EXPORTER_PROMETHEUS_HOST": LOCALHOST,
            "OTEL_EXPORTER_PROMETHEUS_PORT": str(self.admin_port),
            "CHAINLIT_OTEL_RECORDS_DIR": str(self._records or ""),
        }


def _write_app(root: Path) -> Path:
    """Write the app and its configuration into a directory; return the app's file."""
    (root / ".chainlit").mkdir()
    (root / ".chainlit" / "config.toml").write_text(_CONFIG, encoding="utf-8")
    (root / "chainlit.md").write_text(_WELCOME, encoding="utf-8")
    app = root / "app.py"
    shutil.copyfile(_APP, app)
    return app


def _preferred_admin_port() -> int:
    wanted = os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "")
    return int(wanted if wanted.isdecimal() else 0) or 9464


def free_port(preferred: int, but: int | None = None) -> int:
    """Return a port, or the next one that is free.

    Raises:
        AppEnded: the hundred from there on are taken.
    """
    for port in range(preferred, preferred + 100):
        if port != but and is_free(port):
            return port
    raise AppEnded(f"no port is free from {preferred} to {preferred + 99}")


def is_free(port: int) -> bool:
    """Tell whether nothing listens on a port of the loopback interface."""
    with contextlib.closing(socket.socket()) as probe:
        if os.name == "posix":
            # Without it, a port in TIME_WAIT seems taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError:
            return False
    return True
