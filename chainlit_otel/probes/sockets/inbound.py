"""Packets from browsers that Engine.IO or Socket.IO drops, so that Chainlit never gets them.

Engine.IO closes a connection over which a message comes that exceeds its limit, or that of the web
server, as if the tab had been closed. It drops a whole poll that exceeds the limit, has too many
packets, or has one that cannot be read, and answers the last of these with a success. So each
request of a browser is wrapped when it arrives, and so is each frame of its websocket.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from importlib import import_module
from typing import Any

from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches, SeamMissing, mark_coroutine_function, wraps

Receive = Callable[[], Awaitable[Any]]

# The status by which the web server closes: https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
_MESSAGE_TOO_BIG = 1009
_SEPARATOR = b"\x1e"


class _InboundRequest:
    """The `receive` of a request of a browser, or of the websocket that it becomes.

    Args:
        receive: Receives the events of the request, by ASGI.
        guard: Holds what goes wrong of ours.
        drop: Counts packets that are dropped, by the reason and their number.
        eio: The Engine.IO server.

    Attributes:
        packets: How many packets a poll has, at least one.
        too_large: Whether it was too large, or one of its messages.
    """

    __slots__ = ("_drop", "_eio", "_guard", "_receive", "packets", "too_large")

    def __init__(self, receive: Receive, guard: Guard, drop: Callable[..., None], eio: Any) -> None:
        self._receive = receive
        self._guard = guard
        self._drop = drop
        self._eio = eio
        self.packets = 1
        self.too_large = False

    async def __call__(self) -> Any:
        event = await self._receive()
        try:
            self._on_event(event)
        except Exception as error:  # noqa: BLE001 - a guard
            self._guard.on_error(error)
        return event

    def _on_event(self, event: Any) -> None:
        kind = event["type"]
        if kind == "http.request":
            self.packets += event.get("body", b"").count(_SEPARATOR)
        elif kind == "websocket.receive":
            data = event.get("bytes") or event.get("text") or ""
            if len(data) > self._eio.max_http_buffer_size:
                self.on_too_large()
        elif kind == "websocket.disconnect" and event.get("code") == _MESSAGE_TOO_BIG:
            self.on_too_large()

    def on_too_large(self) -> None:
        """It was too large; it counts once."""
        if not self.too_large:
            self.too_large = True
            self._drop("too_large")

    def on_refused(self, error: Exception) -> None:
        """Engine.IO has raised at a poll."""
        if type(error).__name__ == "ContentTooLongError":
            # It has not been read, so its packets are not known.
            self.on_too_large()
        elif type(error).__name__ == "UnknownPacketError":
            self._drop("malformed")
        elif isinstance(error, (ValueError, LookupError)):
            too_many = str(error).startswith("Too many packets")
            self._drop("too_many" if too_many else "malformed", self.packets)


# Engine.IO handles a request, and closes its connection, in the task in which it arrived.
_request: ContextVar[_InboundRequest | None] = ContextVar("chainlit_otel_request", default=None)


def is_too_large() -> bool:
    """Tell whether this request, or one of its messages, was too large."""
    request = _request.get()
    return request is not None and request.too_large


def install(patches: Patches, guard: Guard, drop: Callable[..., None], sio: Any) -> None:
    """Wrap the requests to a Socket.IO server.

    Args:
        patches: Takes the changes.
        guard: Holds what goes wrong of ours.
        drop: Counts packets that are dropped, by the reason and their number.
        sio: The server.

    Raises:
        SeamMissing: This version of Engine.IO takes requests elsewhere.
    """
    socket = getattr(import_module("engineio.async_socket"), "AsyncSocket", None)
    if socket is None or not hasattr(socket, "handle_post_request"):
        raise SeamMissing("engineio.AsyncSocket.handle_post_request")

    def wrap_handle_request(original: Any) -> Any:
        # A coroutine of ours would take memory for as long as the websocket is open.
        @wraps(original)
        def handle_request(*args: Any, **kwargs: Any) -> Any:
            with guard:
                if patches.active and len(args) == 3:
                    scope, receive, send = args
                    request = _InboundRequest(receive, guard, drop, sio.eio)
                    _request.set(request)
                    args = (scope, request, send)
            return original(*args, **kwargs)

        return mark_coroutine_function(handle_request)

    def wrap_handle_post_request(original: Any) -> Any:
        @wraps(original)
        async def handle_post_request(*args: Any, **kwargs: Any) -> Any:
            try:
                return await original(*args, **kwargs)
            except Exception as error:
                with guard:
                    # A request to another Socket.IO server of the app is not known here.
                    if patches.active and (request := _request.get()) is not None:
                        request.on_refused(error)
                raise

        return handle_post_request

    def wrap_message(original: Any) -> Any:
        @wraps(original)
        async def message(*args: Any, **kwargs: Any) -> Any:
            try:
                return await original(*args, **kwargs)
            except (ValueError, LookupError) as error:
                with guard:
                    # The `connect` handler of Chainlit may raise these, too.
                    if patches.active and _raiser(error).startswith(("socketio.", "json.")):
                        drop("malformed")
                raise

        return message

    patches.wrap_on_instance(sio.eio, "handle_request", wrap_handle_request)
    patches.replace_attribute(socket, "handle_post_request", wrap_handle_post_request)
    patches.replace_item(sio.eio.handlers, "message", wrap_message)


def _raiser(error: BaseException) -> str:
    """Return the name of the module that raised an exception, with a dot at its end."""
    traceback, name = error.__traceback__, ""
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__", "")
        traceback = traceback.tb_next
    return f"{name}."
