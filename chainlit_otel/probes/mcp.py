"""MCP connections: `chainlit.session.McpSession`, which is there from Chainlit 2.11 on.

One is made for each connection that stands, and closed when it is replaced, given up by its user
or left behind by a session that is deleted.
"""

from __future__ import annotations

import weakref
from importlib import import_module
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches, SeamMissing
from chainlit_otel.pipeline.instruments import Telemetry


class Connections:
    """The MCP connections that stand. They cannot be hashed, so they go by their identity."""

    def __init__(self) -> None:
        self._open: dict[int, weakref.finalize[[int, None], Any]] = {}

    def opened(self, connection: Any) -> None:
        """A connection stands; it counts until it is closed or garbage-collected."""
        key = id(connection)
        finalizer = weakref.finalize(connection, self._open.pop, key, None)
        finalizer.atexit = False
        self._open[key] = finalizer

    def closed(self, connection: Any) -> None:
        """A connection is closed; closing it again changes nothing."""
        if finalizer := self._open.get(id(connection)):
            finalizer()

    def active(self) -> dict[tuple[str, ...], int]:
        """How many stand."""
        return {(): len(self._open)}


def install(patches: Patches, guard: Guard, telemetry: Telemetry, connections: Connections) -> None:
    """Wrap the making and the closing of connections.

    Raises:
        SeamMissing: This version of Chainlit keeps its MCP connections elsewhere.
    """
    session = getattr(import_module("chainlit.session"), "McpSession", None)
    if session is None:
        raise SeamMissing("chainlit.session.McpSession")

    def opening(wrapped: Any, connection: Any, args: Any, kwargs: Any) -> None:
        wrapped(*args, **kwargs)
        with guard:
            connections.opened(connection)

    async def closing(wrapped: Any, connection: Any, args: Any, kwargs: Any) -> Any:
        try:
            return await wrapped(*args, **kwargs)
        finally:
            with guard:
                connections.closed(connection)

    patches.wrap(session, "__init__", opening)
    patches.wrap(session, "close", closing)
    telemetry.observe(catalog.MCP_CONNECTIONS, connections.active, guard)
