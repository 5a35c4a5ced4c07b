"""Synthetic visitors: monitors and load tests that show the token of the app.

They show it by a header of each of their requests. For a websocket session the request by which its
socket was opened decides, since that is known for as long as the socket is open. For what belongs
to no session, such as a sign-in, the request decides inside which it runs. Every request passes
`Starlette.__call__`, wherever Chainlit is mounted and whatever endpoints the app has of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from hmac import compare_digest
from importlib import import_module
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.probes.probe import ProbeContext

_HEADER = catalog.SYNTHETIC_HEADER.lower().encode()

_shown: ContextVar[bool] = ContextVar("chainlit_otel_synthetic", default=False)


class Synthetic:
    """Tells synthetic visitors from others.

    Args:
        context: What all probes share.

    Attributes:
        is_enabled: Whether there can be any; else no request is looked at.
    """

    def __init__(self, context: ProbeContext) -> None:
        self._token = (context.settings.synthetic_token or "").encode()
        self.is_enabled = False

    def install(self, patches: Patches, guard: Guard) -> None:
        """Look at each request, if the app has a token.

        Args:
            patches: Takes the changes.
            guard: Holds what goes wrong of ours.

        Raises:
            SeamMissing: This release of Starlette takes requests elsewhere.
        """
        if not self._token:
            return

        starlette = import_module("starlette.applications").Starlette
        patches.wrap_attribute(starlette, "__call__", _wrap_call(self, guard))
        self.is_enabled = True

    def on_request(self, scope: Mapping[str, Any]) -> None:
        """A request is about to be handled, with this ASGI scope."""
        # Either way: a server may handle a request in the context of the one before.
        _shown.set(self._is_shown(scope))

    def shown_by_request(self) -> bool:
        """Tell whether the request inside which this runs shows the token."""
        return self.is_enabled and _shown.get()

    def shown_by_socket(self, session: Any) -> bool:
        """Tell whether the request shows the token by which a session's socket was opened."""
        if not self.is_enabled:
            return False
        environ = import_module("chainlit.server").sio.get_environ(session.socket_id) or {}
        return self._is_shown(environ.get("asgi.scope") or {})

    def _is_shown(self, scope: Mapping[str, Any]) -> bool:
        return any(
            name.lower() == _HEADER and compare_digest(value, self._token)
            for name, value in scope.get("headers") or ()
        )


def _wrap_call(synthetic: Synthetic, guard: Guard) -> Any:
    # A coroutine of ours would take memory for as long as a websocket is open.
    def wrapper(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        with guard:
            synthetic.on_request(next(iter((*args, *kwargs.values()))))
        return wrapped(*args, **kwargs)

    return wrapper
