"""Files: `BaseSession.persist_file`, which stores every file of a session.

It stores what a user uploads, in the page or by a bot, and the content of the elements of the app.
An element that has only an address, or that is sent again unchanged, stores nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.patching import Patches, SeamMissing
from chainlit_otel.probes.chainlit_types import ChainlitSession
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.sessions import Sessions, calling_function

# The parts of Chainlit that take files from users.
_FROM_USERS = ("chainlit.server", "chainlit.slack", "chainlit.teams", "chainlit.discord")


class Files(Probe):
    """The sizes of files."""

    name = "files"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._sessions = context.get(Sessions)

    def install(self, patches: Patches) -> None:
        """Wrap the storing of files."""
        session_class = getattr(import_module("chainlit.session"), "BaseSession", None)
        if session_class is None:
            raise SeamMissing("chainlit.session.BaseSession")
        patches.wrap_attribute(session_class, "persist_file", _wrap_persist_file(self))

    def on_stored(self, session: ChainlitSession, size: int, direction: str) -> None:
        """A file of a session was stored."""
        handle = self._sessions.handle(session)
        if handle is None or not handle.is_synthetic:
            self.telemetry.record(catalog.FILE_SIZE, size, direction)


def _wrap_persist_file(files: Files) -> Any:
    async def wrapper(wrapped: Any, session: ChainlitSession, args: Any, kwargs: Any) -> Any:
        direction = "element"
        with files.guard:
            direction = _direction()
        reference = await wrapped(*args, **kwargs)
        with files.guard:
            files.on_stored(session, session.files[reference["id"]]["size"], direction)
        return reference

    return wrapper


def _direction() -> str:
    module, _ = calling_function(sys._getframe())
    return "upload" if module.startswith(_FROM_USERS) else "element"
