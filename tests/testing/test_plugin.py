"""The fixture for one's own tests, in a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from chainlit_otel.testing.app import AppEnded, AppServer
from tests.support.server import python_path

APP = """
import chainlit as cl


@cl.on_message
async def on_message(message):
    await cl.Message("You said " + message.content).send()
"""
TESTS = """
import pytest

from chainlit_otel.testing import Visitor


async def test_greeting(chainlit_app):
    async with Visitor(chainlit_app.url) as visitor:
        answer = await visitor.say("hello")
        assert answer.text == "You said hello"


def test_log(chainlit_app):
    assert "Your app is available" in chainlit_app.log
"""


def test_ones_own_tests(tmp_path: Path) -> None:
    (tmp_path / "chat").mkdir()
    (tmp_path / "chat" / "main.py").write_text(APP)
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["chainlit_otel.testing.plugin"]\n')
    (tmp_path / "test_chat.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(
        "[pytest]\nchainlit_app = chat/main.py\nasyncio_mode = auto\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


def test_an_app_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("raise RuntimeError('no database')")
    reason = r"(?s)exit code 1; the end of its log:.*no database"
    with pytest.raises(AppEnded, match=reason), AppServer(tmp_path / "app.py"):
        pytest.fail("it has started")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no Chainlit app at .*none\.py"):
        AppServer(tmp_path / "none.py")
