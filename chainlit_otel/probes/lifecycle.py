"""The end of the process: the ASGI lifespan of the application that serves Chainlit.

Chainlit's own lifespan ends in `os._exit(0)`, and under `mount_chainlit` uvicorn dies of the
signal that stopped it: `atexit` runs in neither. So the books are closed and exported when the
server says `lifespan.shutdown`, before any code of the application hears of it. Wrapping
`Router.lifespan` serves both, whichever application is the outermost. uvicorn closes the
sockets before that; its `shutdown` is wrapped to tell these closes from lost connections.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.telemetry import Telemetry


def serves(router: Any, app: Any) -> bool:
    """Tell whether an ASGI router is the one of `app`, or leads to it by its mounts."""
    if router is getattr(app, "router", None):
        return True
    for route in getattr(router, "routes", ()):
        mounted = getattr(route, "_base_app", None) or getattr(route, "app", None)
        if mounted is app:
            return True
        if hasattr(mounted, "routes") and serves(getattr(mounted, "router", mounted), app):
            return True
    return False


def install(
    patches: Patches,
    guard: Guard,
    telemetry: Telemetry,
    stopping: Callable[[Any], None],
    stop: Callable[[], Awaitable[None]],
) -> None:
    """Wrap the lifespan.

    Args:
        patches: Takes the changes.
        guard: Holds what goes wrong in this probe.
        telemetry: Not used; this probe has no metric of its own.
        stopping: Told when a uvicorn server begins to stop, with the server.
        stop: Awaited once the server has stopped serving, before the application cleans up.

    Raises:
        SeamMissing: Starlette's router has no lifespan.
    """
    patches.wrap(import_module("starlette.routing").Router, "lifespan", _ending(guard, stop))
    if uvicorn := sys.modules.get("uvicorn.server"):
        patches.wrap(uvicorn.Server, "shutdown", _announcing(guard, stopping))


def _ending(guard: Guard, stop: Callable[[], Awaitable[None]]) -> Any:
    def is_ours(router: Any) -> bool:
        with guard:
            return serves(router, import_module("chainlit.server").app)
        return False

    async def wrapper(wrapped: Any, router: Any, args: Any, kwargs: Any) -> Any:
        if len(args) != 3 or not is_ours(router):
            return await wrapped(*args, **kwargs)
        scope, receive, send = args

        async def receive_then_stop() -> Any:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                with guard:
                    await stop()
            return message

        return await wrapped(scope, receive_then_stop, send)

    return wrapper


def _announcing(guard: Guard, stopping: Callable[[Any], None]) -> Any:
    def wrapper(wrapped: Any, server: Any, args: Any, kwargs: Any) -> Any:
        with guard:
            stopping(server)
        return wrapped(*args, **kwargs)

    return wrapper
