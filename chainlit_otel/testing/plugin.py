"""Fixtures for pytest: one's own app on a free port.

In ``conftest.py``::

    pytest_plugins = ["chainlit_otel.testing.plugin"]

and in a test, with pytest-asyncio or anyio::

    async def test_greeting(chainlit_app):
        async with Visitor(chainlit_app.url) as visitor:
            answer = await visitor.say("hello")
            assert "Hello" in answer.text
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from chainlit_otel.testing.app import AppServer


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting of pytest that names the app."""
    parser.addini(
        "chainlit_app", "file of the app that the fixture chainlit_app runs", default="app.py"
    )


@pytest.fixture(scope="session")
def chainlit_app(pytestconfig: pytest.Config) -> Iterator[AppServer]:
    """The app of the setting ``chainlit_app`` (``app.py``), running until the tests are over.

    The file is looked for below the directory of pytest's configuration.
    """
    with AppServer(pytestconfig.rootpath / pytestconfig.getini("chainlit_app")) as app:
        yield app
