"""MCP connections that stand."""

from __future__ import annotations

import gc

from chainlit_otel.probes.mcp import Connections


class Connection:
    """What cannot be hashed, as Chainlit's."""

    __hash__ = None  # type: ignore[assignment]


def test_a_connection_stands_until_it_is_closed_or_collected() -> None:
    connections = Connections()
    first, second = Connection(), Connection()
    connections.opened(first)
    connections.opened(second)
    assert connections.active() == {(): 2}
    connections.closed(first)
    connections.closed(first)
    assert connections.active() == {(): 1}
    del second
    gc.collect()
    assert connections.active() == {(): 0}
