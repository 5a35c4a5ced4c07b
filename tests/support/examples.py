"""The examples that one command starts, with all that they need."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from chainlit_otel.testing.dialog import Dialog
from chainlit_otel.testing.load import Crowd, scripted
from chainlit_otel.testing.results import LoadReport
from chainlit_otel.testing.visit import Target
from tests.support.http import fetch
from tests.support.scrape import wait_until
from tests.support.server import free_port, python_path

EXAMPLES = Path(__file__).parents[2] / "examples"
# What would have an example use something that is there already.
_NOT_INHERITED = ("DATABASE_URL", "OPENAI_API_KEY", "OPENAI_BASE_URL", "REDIS_URL")


def dialogs(example: str) -> list[str]:
    """The names of the dialogs of an example."""
    return sorted(path.stem for path in (EXAMPLES / example / "dialogs").glob("*.yaml"))


def follow(url: str, example: str, dialog: str, visitors: int = 1) -> LoadReport:
    """Have visitors follow a dialog of an example; nothing may go wrong.

    Args:
        url: where the example runs.
        example: its directory below `examples`.
        dialog: name of the dialog.
        visitors: how many come, at once.

    Returns:
        What they have done.
    """
    script = Dialog.load(EXAMPLES / example / "dialogs" / f"{dialog}.yaml")
    crowd = Crowd(Target(url), scripted(script, [0.0] * visitors, seed=1))
    report = asyncio.run(crowd.run())
    assert report.failures == []
    assert report.finished == visitors
    return report


@contextlib.contextmanager
def started_by_script(
    example: str, directory: Path, env: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Path]]:
    """Run an example by its one command, and stop it as Ctrl-C does.

    Args:
        example: its directory below `examples`.
        directory: where it gets a copy, and a directory for its temporary files.
        env: added to the environment.

    Yields:
        The address of the chat, and the directory of temporary files.
    """
    home, temporary = directory / example, directory / "tmp"
    shutil.copytree(EXAMPLES / example, home)
    temporary.mkdir()
    port = free_port()
    known = {n: v for n, v in os.environ.items() if n not in _NOT_INHERITED}
    ours = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "TMPDIR": str(temporary),
        "OTEL_EXPORTER_PROMETHEUS_PORT": "0",
    }
    process = subprocess.Popen(
        [home / "start.sh", "--headless", "--port", str(port)],
        env={**known, **python_path(), **ours, **(env or {})},
        cwd=directory,
        start_new_session=True,
    )
    url = f"http://127.0.0.1:{port}"
    try:

        def answers() -> bool:
            assert process.poll() is None
            with contextlib.suppress(httpx.HTTPError):
                return fetch(url).status_code == 200
            return False

        wait_until(answers, 60, "the example to answer")
        yield url, temporary
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        process.wait(30)
