"""Start and end of the server: the ASGI lifespan of the application that serves Chainlit.

Chainlit's own lifespan ends in `os._exit(0)`, and under `mount_chainlit` uvicorn dies of the
signal that stopped it: `atexit` runs in neither case. So the ledgers are closed and exported when
the server sends `lifespan.shutdown`, before the application gets it. Wrapping `Router.lifespan`
covers both cases, whichever application is the outermost. uvicorn closes the sockets before that;
its `shutdown` is wrapped to tell these closes from lost connections.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

from chainlit_otel.guard import Guard
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
    """Calls the other probes, and the runtime, when the server starts and when it stops."""

    name = "lifecycle"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._context = context

    def install(self, patches: Patches) -> None:
        """Wrap the lifespan."""
        router = import_module("starlette.routing").Router
        patches.wrap_attribute(router, "lifespan", _wrap_lifespan(self))
        if uvicorn := sys.modules.get("uvicorn.server"):
            patches.wrap_attribute(uvicorn.Server, "shutdown", _wrap_server_shutdown(self))

    def on_lifespan_startup(self, router: Any) -> None:
        """A server is about to serve an application; called on its event loop."""
        for probe in self._context.probes:
            with probe.guard:
                probe.on_startup()
        self._context.announce(router)

    def on_lifespan_started(self) -> None:
        """The server serves; called on its event loop."""
        for probe in self._context.probes:
            with probe.guard:
                probe.on_serving()

    async def on_lifespan_shutdown(self) -> None:
        """The server has stopped serving, and the application is about to clean up."""
        await asyncio.to_thread(self._context.stop)

    def on_uvicorn_shutdown(self, server: Any) -> None:
        """A uvicorn server begins to stop; the app may run others in this process."""
        if is_server_of(server, sys.modules["chainlit.server"].app):
            for probe in self._context.probes:
                with probe.guard:
                    probe.on_server_shutdown()


def _wrap_lifespan(lifecycle: Lifecycle) -> Any:
    guard = lifecycle.guard

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
                    lifecycle.on_lifespan_startup(router)
                elif message["type"] == "lifespan.shutdown":
                    await lifecycle.on_lifespan_shutdown()
            return message

        async def wrapped_send(message: Any) -> None:
            await send(message)
            with guard:
                if message["type"] == "lifespan.startup.complete":
                    lifecycle.on_lifespan_started()

        return await wrapped(scope, wrapped_receive, wrapped_send)

    return wrapper


def _wrap_server_shutdown(lifecycle: Lifecycle) -> Any:
    def wrapper(wrapped: Any, server: Any, args: Any, kwargs: Any) -> Any:
        with lifecycle.guard:
            lifecycle.on_uvicorn_shutdown(server)
        return wrapped(*args, **kwargs)

    return wrapper


def await_serving(patches: Patches, guard: Guard, on_serving: Callable[[], None]) -> None:
    """Call a function when this process, a forked child, begins to serve Chainlit.

    Most children serve nothing of Chainlit, such as those of a process pool. So a child observes
    nothing until an application that leads to Chainlit is called for the first time, which builds
    its middleware; or its lifespan begins; or, under a host without a lifespan, a session is made.

    Args:
        patches: Takes the changes.
        guard: Holds what goes wrong of ours.
        on_serving: Called then, possibly by several threads; it undoes the changes, too.

    Raises:
        SeamMissing: This version of Chainlit or FastAPI has no such class or method.
    """
    chainlit = import_module("chainlit.server").app
    fastapi = import_module("fastapi.applications").FastAPI
    router = import_module("starlette.routing").Router
    session = import_module("chainlit.session").WebsocketSession

    def wrap(owner: Any, name: str, begins: Callable[[Any], bool]) -> None:
        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            with guard:
                if begins(instance):
                    on_serving()
                    # The wrappers that were installed by that must see this very call.
                    if not patches.active:
                        wrapped = getattr(instance, name)
            return wrapped(*args, **kwargs)

        patches.wrap_attribute(owner, name, wrapper)

    build = "build_middleware_stack"
    # Older releases of FastAPI inherit it.
    builder = next(kind for kind in fastapi.__mro__ if build in vars(kind))
    wrap(builder, build, lambda app: serves(app.router, chainlit))
    wrap(router, "lifespan", lambda instance: serves(instance, chainlit))
    wrap(session, "__init__", lambda _: True)
