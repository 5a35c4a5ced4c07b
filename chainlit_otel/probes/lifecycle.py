"""Start and end of the process: the ASGI lifespan of the application that serves Chainlit.

Chainlit's own lifespan ends in `os._exit(0)`, and under `mount_chainlit` uvicorn dies of the
signal that stopped it: `atexit` runs in neither. So the ledgers are closed and exported when the
server says `lifespan.shutdown`, before any code of the application hears of it. Wrapping
`Router.lifespan` serves both, whichever application is the outermost. uvicorn closes the
sockets before that; its `shutdown` is wrapped to tell these closes from lost connections.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from chainlit_otel.patching import Patches
from chainlit_otel.probes.probe import Probe, ProbeContext

_MIDDLEWARES = 64


def mounts_of(router: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give path and application of all that is mounted in a router, however deep."""
    for route in getattr(router, "routes", ()):
        mounted = getattr(route, "_base_app", None) or getattr(route, "app", None)
        if mounted is not None and hasattr(mounted, "routes"):
            path = prefix + getattr(route, "path", "")
            yield path, mounted
            yield from mounts_of(mounted, path)


def path_of_chainlit(router: Any) -> str:
    """Return the path at which a router, or what is mounted in it, has Chainlit's app."""
    app = import_module("chainlit.server").app
    return next((path for path, mounted in mounts_of(router) if mounted is app), "")


def serves(router: Any, app: Any) -> bool:
    """Tell whether an ASGI router is the one of `app`, or leads to it by its mounts."""
    return router is app.router or any(mounted is app for _, mounted in mounts_of(router))


def is_server_of(server: Any, app: Any) -> bool:
    """Tell whether a uvicorn server serves an application; if nobody can tell, it does."""
    asgi = getattr(server.config, "loaded_app", None)
    # What stands before an application holds it, and none stands before itself.
    for _ in range(_MIDDLEWARES):
        if asgi is None:
            return True
        if hasattr(asgi, "router"):
            return asgi is app or serves(asgi.router, app)
        asgi = getattr(asgi, "app", None) or getattr(asgi, "other_asgi_app", None)
    return True


class Lifecycle(Probe):
    """Tells of the start and the end of the server."""

    name = "lifecycle"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self.lifespan = context.lifespan

    def install(self, patches: Patches) -> None:
        """Wrap the lifespan."""
        router = import_module("starlette.routing").Router
        patches.wrap_attribute(router, "lifespan", _wrap_lifespan(self))
        if uvicorn := sys.modules.get("uvicorn.server"):
            patches.wrap_attribute(uvicorn.Server, "shutdown", _wrap_server_shutdown(self))


def _wrap_lifespan(probe: Lifecycle) -> Any:
    guard, lifespan = probe.guard, probe.lifespan

    def is_ours(router: Any) -> bool:
        with guard:
            return serves(router, import_module("chainlit.server").app)
        return False

    async def wrapper(wrapped: Any, router: Any, args: Any, kwargs: Any) -> Any:
        if len(args) != 3 or not is_ours(router):
            return await wrapped(*args, **kwargs)
        scope, receive, send = args

        async def wrapped_receive() -> Any:
            message = await receive()
            with guard:
                if message["type"] == "lifespan.startup":
                    lifespan.on_startup(router)
                elif message["type"] == "lifespan.shutdown":
                    await lifespan.on_shutdown()
            return message

        async def wrapped_send(message: Any) -> None:
            await send(message)
            with guard:
                if message["type"] == "lifespan.startup.complete":
                    lifespan.on_serving()

        return await wrapped(scope, wrapped_receive, wrapped_send)

    return wrapper


def _wrap_server_shutdown(probe: Lifecycle) -> Any:
    def wrapper(wrapped: Any, server: Any, args: Any, kwargs: Any) -> Any:
        with probe.guard:
            probe.lifespan.on_server_shutdown(server)
        return wrapped(*args, **kwargs)

    return wrapper
