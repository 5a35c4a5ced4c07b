"""Start and end of the process: the ASGI lifespan of the application that serves Chainlit.

Chainlit's own lifespan ends in `os._exit(0)`, and under `mount_chainlit` uvicorn dies of the
signal that stopped it: `atexit` runs in neither. So the books are closed and exported when the
server says `lifespan.shutdown`, before any code of the application hears of it. Wrapping
`Router.lifespan` serves both, whichever application is the outermost. uvicorn closes the
sockets before that; its `shutdown` is wrapped to tell these closes from lost connections.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from importlib import import_module
from typing import Any

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.pipeline.instruments import Telemetry

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


def install(
    patches: Patches,
    guard: Guard,
    telemetry: Telemetry,
    starting: Callable[[Any], None],
    started: Callable[[], None],
    stopping: Callable[[Any], None],
    stop: Callable[[], Awaitable[None]],
) -> None:
    """Wrap the lifespan.

    Args:
        patches: Takes the changes.
        guard: Holds what goes wrong in this probe.
        telemetry: Not used; this probe has no metric of its own.
        starting: Told when a server is about to start serving, on its event loop, with the router.
        started: Told when it serves, on its event loop.
        stopping: Told when a uvicorn server begins to stop, with the server.
        stop: Awaited once the server has stopped serving, before the application cleans up.

    Raises:
        SeamMissing: Starlette's router has no lifespan.
    """
    router = import_module("starlette.routing").Router
    patches.wrap(router, "lifespan", _living(guard, starting, started, stop))
    if uvicorn := sys.modules.get("uvicorn.server"):
        patches.wrap(uvicorn.Server, "shutdown", _announcing(guard, stopping))


def _living(
    guard: Guard,
    starting: Callable[[Any], None],
    started: Callable[[], None],
    stop: Callable[[], Awaitable[None]],
) -> Any:
    def is_ours(router: Any) -> bool:
        with guard:
            return serves(router, import_module("chainlit.server").app)
        return False

    async def wrapper(wrapped: Any, router: Any, args: Any, kwargs: Any) -> Any:
        if len(args) != 3 or not is_ours(router):
            return await wrapped(*args, **kwargs)
        scope, receive, send = args

        async def overhear() -> Any:
            message = await receive()
            with guard:
                if message["type"] == "lifespan.startup":
                    starting(router)
                elif message["type"] == "lifespan.shutdown":
                    await stop()
            return message

        async def answer(message: Any) -> None:
            await send(message)
            with guard:
                if message["type"] == "lifespan.startup.complete":
                    started()

        return await wrapped(scope, overhear, answer)

    return wrapper


def _announcing(guard: Guard, stopping: Callable[[Any], None]) -> Any:
    def wrapper(wrapped: Any, server: Any, args: Any, kwargs: Any) -> Any:
        with guard:
            stopping(server)
        return wrapped(*args, **kwargs)

    return wrapper
