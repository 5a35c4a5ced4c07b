"""Installs the wheel as a user does: into an empty environment, without constraints, timed.

How long pip looks for releases that fit together changes with every release of others, so this is
measured each time, beside `pip install chainlit`, with an old pip, the newest one and uv. What the
old pip chose is then installed, and runs the quickstart.

Usage: python -m tools.install_check [--help]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from tools.quickstart import Failed, quickstart

_ROOT = Path(__file__).parents[1]
_CONSTRAINTS = _ROOT / "constraints.txt"
# What Python 3.11 brings. Before 25.1, pip took what is required nearest first.
_OLD_PIP = "pip==23.2.1"
# Our share of the time must not be more than that of Chainlit, but for the noise of a short run.
_RATIO = 2.0
_NOISE = 20.0
_CHAINLIT_TIMEOUT = 300.0
_INSTALL_TIMEOUT = 600.0
_ATTEMPTS = 2

_Dry = Callable[[str], list[str]]


def _pip(directory: Path, release: str) -> Path:
    """Make an empty environment with a release of pip, and return its interpreter."""
    venv.create(directory, with_pip=True)
    python = directory / "bin" / "python"
    _run([str(python), "-m", "pip", "install", "-qq", "--upgrade", release], _INSTALL_TIMEOUT)
    return python


def _dry_pip(python: Path) -> _Dry:
    command = [str(python), "-m", "pip", "install", "-qq", "--no-cache-dir", "--dry-run"]
    return lambda requirement: [*command, requirement]


def _dry_uv(directory: Path) -> _Dry:
    python = _pip(directory / "tool", "uv")
    venv.create(directory / "empty", with_pip=False)
    empty = str(directory / "empty" / "bin" / "python")
    command = [str(python.with_name("uv")), "pip", "install", "-q", "--no-cache", "--dry-run"]
    return lambda requirement: [*command, "--python", empty, requirement]


def _run(command: Sequence[str], timeout: float) -> float:
    """Run a command, and return the seconds that it took.

    Raises:
        Failed: It failed, or took longer than `timeout`.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.endswith("_CONSTRAINT")
    }
    start = time.monotonic()
    try:
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"not done after {timeout:.0f} s: {' '.join(command)}") from None
    if done.returncode:
        output = done.stdout.decode("utf-8", "replace")[-4000:]
        raise Failed(f"failed: {' '.join(command)}\n{output}")
    return time.monotonic() - start


def _compare(name: str, dry: _Dry, wheel: Path) -> None:
    """Time Chainlit alone and the wheel, and say how long each took.

    Raises:
        Failed: The wheel took too long, twice.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        alone = _run(dry("chainlit"), _CHAINLIT_TIMEOUT)
        bound = _RATIO * alone + _NOISE
        try:
            ours = _run(dry(str(wheel)), bound)
        except Failed:
            # The index may have been slow meanwhile.
            if attempt == _ATTEMPTS:
                raise
        else:
            print(f"{name}: chainlit {alone:.0f} s, chainlit-otel {ours:.0f} s", flush=True)
            return


@click.command("install-check")
def main() -> None:
    """Build the wheel, time its installation beside Chainlit's, and run the quickstart with it."""
    with tempfile.TemporaryDirectory(prefix="chainlit-otel-install-") as name:
        directory = Path(name)
        build = [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "-w", name]
        try:
            _run([*build, "--build-constraint", str(_CONSTRAINTS), str(_ROOT)], _INSTALL_TIMEOUT)
            wheel = next(directory.glob("*.whl"))
            old = _pip(directory / "old", _OLD_PIP)
            _compare(_OLD_PIP, _dry_pip(old), wheel)
            _compare("newest pip", _dry_pip(_pip(directory / "new", "pip")), wheel)
            _compare("uv", _dry_uv(directory / "uv"), wheel)
            seconds = _run([str(old), "-m", "pip", "install", "-qq", str(wheel)], _INSTALL_TIMEOUT)
            print(f"installed by {_OLD_PIP} in {seconds:.0f} s", flush=True)
            with quickstart(str(old)) as app:
                app.get(f"{app.admin_url}/healthz")
                for part in ("chainlit_session_starts_total", "http_server_request_duration"):
                    if part not in app.get(f"{app.admin_url}/metrics"):
                        raise Failed(f"/metrics has no {part}\n{app.tail()}")
        except Failed as error:
            sys.exit(f"error: {error}")
    print("the quickstart runs, and its metrics are served")


if __name__ == "__main__":
    main()
