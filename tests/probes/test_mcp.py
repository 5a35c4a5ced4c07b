"""MCP connections that stand."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from chainlit_otel.probes.mcp import Mcp
from tests.support.probes import probe_context
from tests.support.server import python_path

CLOSED = """
import asyncio
import chainlit_otel
from chainlit_otel import Settings, api
from chainlit_otel.probes.mcp import Mcp

chainlit_otel.enable(Settings(port=0))
import chainlit.server
from chainlit.session import McpSession

async def stand(stop):
    await stop.wait()

async def main():
    stop = asyncio.Event()
    connection = McpSession("tools", None, asyncio.create_task(stand(stop)), stop)
    active = api.active().context.get(Mcp).active
    print(active())
    await connection.close()
    print(active(), connection.name)

asyncio.run(main())
chainlit_otel.disable()
"""


class Connection:
    """What cannot be hashed, as Chainlit's."""

    __hash__ = None  # type: ignore[assignment]


def test_a_connection_stands_until_it_is_closed_or_collected() -> None:
    connections = probe_context().get(Mcp)
    first, second = Connection(), Connection()
    connections.on_open(first)
    connections.on_open(second)
    assert connections.active() == {(): 2}
    connections.on_close(first)
    connections.on_close(first)
    assert connections.active() == {(): 1}
    del second
    gc.collect()
    assert connections.active() == {(): 0}


def test_a_connection_of_chainlit_that_is_closed_counts_no_more(tmp_path: Path) -> None:
    out = subprocess.run(
        [sys.executable, "-c", CLOSED],
        cwd=tmp_path,
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert out.splitlines() == ["{(): 1}", "{(): 0} tools"]
