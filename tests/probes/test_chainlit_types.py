"""What the probes read of Chainlit's objects is there in the installed release."""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import get_annotations

import pytest

from chainlit_otel.probes import chainlit_types

# In a process of its own: the import of Chainlit writes into the working directory.
OBJECTS = """
import asyncio
import json

from chainlit.context import init_http_context
from chainlit.message import Message
from chainlit.session import HTTPSession, WebsocketSession
from chainlit.step import Step
from chainlit.types import Feedback
from chainlit.user import User
from literalai import ChatGeneration


async def main():
    init_http_context()
    http = dict(id="a", client_type="webapp")
    websocket = http | dict(socket_id="b", emit=None, emit_call=None, user_env={})
    objects = {
        "ChainlitUser": User("ada"),
        "ChainlitSession": HTTPSession(**http),
        "ChainlitWebsocketSession": WebsocketSession(**websocket),
        "ChainlitGeneration": ChatGeneration(),
        "ChainlitStep": Step(name="search", type="tool"),
        "ChainlitMessage": Message("hello"),
        "ChainlitFeedback": Feedback(forId="c", value=1),
    }
    print(json.dumps({name: dir(value) for name, value in objects.items()}))


asyncio.run(main())
"""

PROTOCOLS = {
    name: kind
    for name, kind in vars(chainlit_types).items()
    if isinstance(kind, type) and kind.__module__ == chainlit_types.__name__
}


@pytest.fixture(scope="module")
def attributes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", OBJECTS],
        cwd=tmp_path_factory.mktemp("app"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("name", PROTOCOLS)
def test_chainlit_has_what_the_probes_read(name: str, attributes: dict[str, list[str]]) -> None:
    read = [key for kind in PROTOCOLS[name].__mro__ for key in get_annotations(kind)]
    assert read
    assert set(read) <= set(attributes[name])
