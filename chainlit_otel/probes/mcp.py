"""MCP connections: `chainlit.session.McpSession`, which Chainlit has from 2.11 on.

One is made for each open connection, and closed when it is replaced, closed by its user, or its
session is deleted.
"""

from __future__ import annotations

import weakref
from importlib import import_module
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.patching import Patches, SeamMissing
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.sessions import Sessions


class Mcp(Probe):
    """The open MCP connections, by their identity: they are not hashable."""

    name = "mcp"
    # Older releases keep their MCP connections in a dictionary, without a call to wrap.
    is_optional = True

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._sessions = context.get(Sessions)
        self._open: dict[int, weakref.finalize[[int, None], Any]] = {}

    def install(self, patches: Patches) -> None:
        """Wrap the making and the closing of connections."""
        session = getattr(import_module("chainlit.session"), "McpSession", None)
        if session is None:
            raise SeamMissing("chainlit.session.McpSession")
        patches.wrap_attribute(session, "__init__", _wrap_init(self))
        patches.wrap_attribute(session, "close", _wrap_close(self))
        self.telemetry.register_observable(catalog.MCP_CONNECTIONS, self.active, self.guard)

    def on_open(self, connection: Any) -> None:
        """A connection is open; it counts until it is closed or garbage-collected."""
        if self._sessions.is_synthetic():
            return
        key = id(connection)
        finalizer = weakref.finalize(connection, self._open.pop, key, None)
        finalizer.atexit = False
        self._open[key] = finalizer

    def on_close(self, connection: Any) -> None:
        """A connection is closed; closing it again changes nothing."""
        if finalizer := self._open.get(id(connection)):
            finalizer()

    def active(self) -> dict[tuple[str, ...], int]:
        """Return how many are open."""
        return {(): len(self._open)}


def _wrap_init(mcp: Mcp) -> Any:
    def wrapper(wrapped: Any, connection: Any, args: Any, kwargs: Any) -> None:
        wrapped(*args, **kwargs)
        with mcp.guard:
            mcp.on_open(connection)

    return wrapper


def _wrap_close(mcp: Mcp) -> Any:
    async def wrapper(wrapped: Any, connection: Any, args: Any, kwargs: Any) -> Any:
        try:
            return await wrapped(*args, **kwargs)
        finally:
            with mcp.guard:
                mcp.on_close(connection)

    return wrapper
