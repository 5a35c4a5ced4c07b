"""Files: `BaseSession.persist_file`, by which every file gets to its session.

It writes what a user uploads, in the page or by a bot, and what an element of the app holds. An
element that is an address only, or one that is sent again unchanged, writes nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches, SeamMissing
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.probes.sessions import asking

# The parts of Chainlit that take files from users.
_FROM_USERS = ("chainlit.server", "chainlit.slack", "chainlit.teams", "chainlit.discord")


def install(patches: Patches, guard: Guard, telemetry: Telemetry) -> None:
    """Wrap the storing of files.

    Raises:
        SeamMissing: This version of Chainlit stores files elsewhere.
    """
    session_class = getattr(import_module("chainlit.session"), "BaseSession", None)
    if session_class is None:
        raise SeamMissing("chainlit.session.BaseSession")

    async def persist(wrapped: Any, session: Any, args: Any, kwargs: Any) -> Any:
        direction = "element"
        with guard:
            direction = _direction()
        reference = await wrapped(*args, **kwargs)
        with guard:
            size = session.files[reference["id"]]["size"]
            telemetry.record(catalog.FILE_SIZE, size, direction)
        return reference

    patches.wrap(session_class, "persist_file", persist)


def _direction() -> str:
    module, _ = asking(sys._getframe())
    return "upload" if module.startswith(_FROM_USERS) else "element"
