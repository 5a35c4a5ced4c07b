"""Print whether pages are answered as without us, beside releases of OpenTelemetry and FastAPI.

`python -m tools.http_matrix` makes an environment for each release, with the newest FastAPI that it
allows, by `uv`; `--directory` keeps them for the next time. In each it starts the same app twice,
with us and without, and sends both the same requests. It takes minutes and a network, so it is no
part of the tests.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

_ROOT = Path(__file__).resolve().parents[1]
# Releases of the SDK and of the instrumentations that belong to it; None is the newest.
_RELEASES: dict[str, str | None] = {
    "1.28.1": "0.49b1",
    "1.30.0": "0.51b0",
    "1.36.0": "0.57b0",
    "1.37.0": "0.58b0",
    "1.40.0": "0.61b0",
    "1.42.0": "0.63b0",
    "1.43.0": "0.64b0",
    "newest": None,
}
_APP = "import chainlit as cl\n\n\n@cl.on_message\nasync def on_message(message):\n    pass\n"
_WITH_US = "import chainlit_otel\n\nchainlit_otel.enable()\n"
# What `enable()` put into the app before: it shows what these releases do by themselves.
_WITH_THEM = """
from chainlit.server import app
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

FastAPIInstrumentor.instrument_app(app)
"""
_PREFLIGHT = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "GET"}
_REQUESTS: list[tuple[str, str, dict[str, str]]] = [
    ("GET", "/", {}),
    ("GET", "/project/translations?language=en-US", {}),
    ("GET", "/project/settings?language=en-US", {}),
    ("GET", "/auth/config", {}),
    ("GET", "/user", {}),
    ("GET", "/logo?theme=light", {}),
    ("GET", "/public/absent.txt", {}),
    ("GET", "/project/file/absent?session_id=absent", {}),
    ("GET", "/whatever/somebody/types?prompt=hello", {}),
    ("OPTIONS", "/project/translations", _PREFLIGHT),
    ("OPTIONS", "/login", _PREFLIGHT),
    ("PUT", "/project/translations", {}),
    ("DELETE", "/login", {}),
]
_START_TIMEOUT = 300.0  # seconds


class _Answer(NamedTuple):
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def main() -> int:
    """Print the table; the exit code is 1 if an answer is another one with us."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, help="where the environments are kept")
    parser.add_argument("releases", nargs="*", help=f"some of {', '.join(_RELEASES)}")
    options = parser.parse_args()
    uv = shutil.which("uv")
    if uv is None:
        parser.error("uv is not installed: pip install uv")
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="chainlit-otel-matrix-") as temporary:
        directory = options.directory or Path(temporary)
        print(
            "OpenTelemetry | FastAPI | as without us | 500 by the instrumentation alone | http",
            flush=True,
        )
        for release in options.releases or _RELEASES:
            python = _environment(uv, directory / release, release)
            row, same = _try(python, Path(temporary))
            wrong += not same
            print(" | ".join(row), flush=True)
    return 1 if wrong else 0


def _environment(uv: str, place: Path, release: str) -> Path:
    python = place / "bin" / "python"
    if python.exists():
        return python
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(place)], check=True)
    pins = [f"opentelemetry-instrumentation-fastapi{_equals(_RELEASES[release])}"]
    if _RELEASES[release]:
        pins.append(f"opentelemetry-sdk=={release}")
    command = [uv, "pip", "install", "-q", "--python", str(python), "chainlit", *pins]
    subprocess.run([*command, "-e", str(_ROOT)], check=True)
    return python


def _equals(version: str | None) -> str:
    return f"=={version}" if version else ""


def _try(python: Path, directory: Path) -> tuple[list[str], bool]:
    plain, _ = _answers(python, directory, _APP)
    ours, state = _answers(python, directory, _WITH_US + _APP)
    theirs, _ = _answers(python, directory, _WITH_THEM + _APP)
    same = sum(one == other for one, other in zip(plain, ours, strict=True))
    failed = sum(answer.status == 500 for answer in theirs)
    versions = [_version(python, name) for name in ("opentelemetry-sdk", "fastapi")]
    total = len(_REQUESTS)
    return [*versions, f"{same} of {total}", f"{failed} of {total}", state], same == total


def _version(python: Path, name: str) -> str:
    code = f"from importlib.metadata import version; print(version({name!r}))"
    return subprocess.run(
        [python, "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def _answers(python: Path, directory: Path, app: str) -> tuple[list[_Answer], str]:
    with _serving(python, directory, app) as (port, admin_port):
        answers = [_ask(port, *request) for request in _REQUESTS]
        state = ""
        if "chainlit_otel" in app:
            health = json.loads(_ask(admin_port, "GET", "/healthz", {}).body)
            state = health["probes"]["http"]
    return answers, state


@contextmanager
def _serving(python: Path, directory: Path, app: str) -> Iterator[tuple[int, int]]:
    port, admin_port = _free_ports()
    (directory / "app.py").write_text(app, encoding="utf-8")
    command: Sequence[str] = ["-m", "chainlit", "run", "app.py", "--headless", "--port", str(port)]
    process = subprocess.Popen(
        [str(python), *command],
        cwd=directory,
        env={**os.environ, "OTEL_EXPORTER_PROMETHEUS_PORT": str(admin_port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + _START_TIMEOUT
        while time.monotonic() < deadline and process.poll() is None:
            try:
                _ask(port, "GET", "/", {})
                break
            except OSError:
                time.sleep(0.2)
        yield port, admin_port
    finally:
        process.terminate()
        process.wait()


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def _ask(port: int, method: str, path: str, headers: dict[str, str]) -> _Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        received = tuple(sorted((n, v) for n, v in response.getheaders() if n.lower() != "date"))
        return _Answer(response.status, received, response.read())
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
