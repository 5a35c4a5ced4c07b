"""A forked child that begins to serve Chainlit, as the worker of a server that preloads the app.

Most children serve nothing of Chainlit, such as those of a process pool. So a child observes
nothing until an application that leads to Chainlit is called for the first time, which builds its
middleware; or its lifespan begins; or, under a host without a lifespan, a session is made.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.probes.lifecycle import serves


def install(patches: Patches, guard: Guard, serving: Callable[[], None]) -> None:
    """Tell when this process begins to serve Chainlit.

    Args:
        patches: Takes the changes.
        guard: Holds what goes wrong of ours.
        serving: Called then, possibly by several threads; it undoes the changes, too.

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
                    serving()
                    # What has been put there by that is to see this very call.
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
