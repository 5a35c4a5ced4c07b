"""Connections: the handlers that Chainlit registered with python-socketio.

The `connect` and `disconnect` handlers are replaced in the table in which python-socketio looks
them up at each call. Only they know why a connection was refused or closed, and which socket of a
session is the current one. The close of the Engine.IO socket is wrapped for the sockets that are
lost while they connect: python-socketio never calls `disconnect` for those, and Chainlit keeps
their sessions for ever. Only Engine.IO sees a poll that comes to the wrong replica, which is the
first thing to fail where a load balancer has no sticky sessions.
"""

from __future__ import annotations

import functools
import inspect
import sys
import time
from collections.abc import Awaitable, Callable
from importlib import import_module
from types import FrameType
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.core.connections import Connection, ConnectionLedger
from chainlit_otel.patching import Patches, SeamMissing, wraps
from chainlit_otel.pipeline.spans import (
    SpanScope,
    current_span_context,
    outcome_of,
)
from chainlit_otel.probes.chainlit_types import ChainlitWebsocketSession
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.session_spans import SessionSpans
from chainlit_otel.probes.sessions import Sessions
from chainlit_otel.probes.sockets import inbound

Handler = Callable[..., Awaitable[Any]]

_NAMESPACE = "/"


class Sockets(Probe):
    """The open sockets, by the ids of Socket.IO and of Engine.IO.

    Attributes:
        ledger: The ledger of connections, without those of synthetic visitors.
        connections: The open sockets, by their Socket.IO id.
        on_gone: Called with the Socket.IO id of each socket that is open no longer.
        stopping: Whether the server is closing its sockets, in order to stop.
    """

    name = "sockets"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self.ledger = ConnectionLedger(self._on_close)
        self.stopping = False
        self.connections: dict[str, Connection] = {}
        self.on_gone: Callable[[str], None] | None = None
        self._sessions = context.get(Sessions)
        self._spans = context.get(SessionSpans)
        self._tracing = context.tracing
        self._sids: dict[str, str] = {}
        self._reasons: dict[str, object] = {}

    def install(self, patches: Patches) -> None:
        """Replace the handlers, and open the connections of the sockets that are open."""
        sio = getattr(import_module("chainlit.server"), "sio", None)
        if sio is None or not hasattr(sio, "eio"):
            raise SeamMissing("chainlit.server.sio")
        handlers = sio.handlers.get(_NAMESPACE)
        patches.replace_item(handlers, "connect", functools.partial(_wrap_connect, patches, self))
        patches.replace_item(
            handlers, "disconnect", functools.partial(_wrap_disconnect, patches, self)
        )
        patches.replace_item(
            sio.eio.handlers,
            "disconnect",
            functools.partial(_wrap_engine_disconnect, patches, self),
        )
        patches.wrap_on_instance(
            sio.eio, "_bad_request", functools.partial(_wrap_bad_request, patches, self)
        )
        inbound.install(patches, self.guard, self._on_inbound_drop, sio)
        self.resync()
        self.telemetry.register_observable(
            catalog.CONNECTION_ACTIVE, self.ledger.active, self.guard
        )
        self.telemetry.register_observable(
            catalog.CONNECTION_REJECTED, self.ledger.rejected, self.guard
        )
        self.telemetry.register_observable(catalog.INBOUND_DROPPED, self.ledger.dropped, self.guard)

    def on_startup(self) -> None:
        """A server that starts closes no sockets, whatever another one did."""
        self.stopping = False

    def on_server_shutdown(self) -> None:
        """From now on it is the server that closes sockets."""
        self.stopping = True

    def end(self, reason: str) -> None:
        """Close every connection."""
        self.ledger.close_all(reason)
        for sid in list(self.connections):
            if (handle := self._sessions.handle(_session_of(sid))) is not None:
                handle.close_reason = reason

    def _on_close(self, reason: str, seconds: float) -> None:
        with self.guard:
            self.telemetry.record(catalog.CONNECTION_DURATION, seconds, reason)

    def start_connect(self) -> SpanScope:
        """Chainlit's `connect` handler is about to run."""
        return self._tracing.start_root(catalog.SPAN_CONNECT, {}, [current_span_context()])

    def end_connect(self, sid: str, scope: SpanScope, error: BaseException | None) -> None:
        """Chainlit's `connect` handler has accepted or refused a socket."""
        session = _session_of(sid)
        if session is not None:
            scope.span.set_attributes(self._sessions.attributes(session))
            # One that was lost meanwhile is closed already, and nothing would remove its span.
            if sid in self.connections and scope.span.is_recording():
                self._spans.connected(sid, scope.span.get_span_context())
        self._tracing.end(scope, outcome_of(error), error)

    def start_disconnect(self, sid: str) -> SpanScope:
        """Chainlit's `disconnect` handler is about to run."""
        session = _session_of(sid)
        attributes = {} if session is None else self._sessions.attributes(session)
        return self._tracing.start_root(
            catalog.SPAN_DISCONNECT, attributes, self._spans.forget(sid)
        )

    def end_disconnect(self, scope: SpanScope, error: BaseException | None) -> None:
        """Chainlit's `disconnect` handler is done."""
        self._tracing.end(scope, outcome_of(error), error)

    def on_connect(self, sid: str) -> None:
        """A socket is connected to Chainlit."""
        sio = import_module("chainlit.server").sio
        engine_sid = sio.manager.eio_sid_from_sid(sid, _NAMESPACE)
        socket = sio.eio.sockets.get(engine_sid)
        upgraded = functools.partial(getattr, socket, "upgraded", False)
        handle = self._sessions.handle(_session_of(sid))
        # One that the ledger does not have can be closed all the same.
        self.connections[sid] = (
            Connection(time.monotonic_ns(), upgraded)
            if handle is not None and handle.is_synthetic
            else self.ledger.open(upgraded)
        )
        self._sids[engine_sid] = sid
        if socket is None or socket.closed or socket.closing:
            self.on_engine_close(engine_sid)

    def on_refused(self, error: BaseException | None) -> None:
        """Chainlit refused a socket, by an exception or by returning False."""
        if not self._sessions.is_synthetic():
            self.ledger.reject(refusal(error))

    def _on_inbound_drop(self, reason: str, packets: int = 1) -> None:
        if not self._sessions.is_synthetic():
            self.ledger.drop(reason, packets)

    def on_disconnect(self, sid: str, reason: object) -> Any:
        """A socket is closed.

        Returns:
            Chainlit's session, if this was its current socket.
        """
        session = _session_of(sid)
        engine_reason = self._reasons.pop(sid, None)
        connection = self.connections.pop(sid, None)
        if self.on_gone is not None:
            self.on_gone(sid)
        closed_by = self._reason(reason or engine_reason)
        if connection is not None and (handle := self._sessions.handle(session)) is not None:
            handle.close_reason = closed_by
        if session is not None:
            self._sessions.on_drop(session)
        if connection is not None:
            self.ledger.close(connection, closed_by)
        return session

    def _reason(self, reason: object) -> str:
        if self.stopping:
            return "shutdown"
        return "message_too_large" if inbound.is_too_large() else close_reason(reason)

    def on_cleanup(self, session: ChainlitWebsocketSession, failed: bool) -> None:
        """Chainlit's handler is done with the disconnect of a session."""
        self._sessions.on_cleanup(session)
        if failed:
            self._sessions.on_abandoned(session, _grace())

    def on_engine_closing(self, engine_sid: str, reason: object) -> None:
        """An Engine.IO socket closes, by a reason that older python-socketio does not pass on."""
        sid = self._sids.get(engine_sid, "")
        if sid in self.connections:
            self._reasons[sid] = reason

    def on_engine_close(self, engine_sid: str) -> None:
        """An Engine.IO socket is closed; Chainlit's handler may not have been called for it."""
        sid = self._sids.pop(engine_sid, "")
        self._spans.forget(sid)
        if sid in self.connections:
            session = self.on_disconnect(sid, None)
            if session is not None:
                self.on_cleanup(session, failed=True)

    def on_unknown_engine_sid(self) -> None:
        """A request came for an Engine.IO socket that is not here."""
        self._sessions.on_lookup("socket", is_miss=True)

    def resync(self) -> None:
        """Start anew with the sockets that are open now."""
        self.stopping = False
        self._spans.clear()
        self.connections.clear()
        self._sids.clear()
        self._reasons.clear()
        sio = import_module("chainlit.server").sio
        for sid, session in list(import_module("chainlit.session").ws_sessions_sid.items()):
            if not self._sessions.knows(session):
                continue
            if sio.manager.is_connected(sid, _NAMESPACE):
                self.on_connect(sid)
            else:
                self._sessions.on_drop(session)
                self._sessions.on_cleanup(session)


def refusal(error: BaseException | None) -> str:
    """Return the `error.type` of a refused connection.

    Chainlit tells its refusals apart by their text only.
    """
    text = str(error) if isinstance(error, ConnectionRefusedError) else ""
    if text.startswith("Missing user environment variable"):
        return "missing_user_env"
    named = text.replace(" ", "_")
    return named if named in catalog.REFUSAL.values else catalog.OTHER


def close_reason(reason: object) -> str:
    """Return the close reason for that of Engine.IO, which may be None."""
    named = str(reason).replace(" ", "_")
    return named if named in catalog.CLOSE_REASON.values else catalog.OTHER


def _session_of(sid: str) -> Any:
    return import_module("chainlit.session").ws_sessions_sid.get(sid)


def _grace() -> float:
    return float(import_module("chainlit.config").config.project.session_timeout)


def _wrap_connect(patches: Patches, sockets: Sockets, original: Handler) -> Handler:
    @wraps(original)
    async def connect(sid: str, environ: Any, *auth: Any) -> Any:
        if not patches.active:
            return await original(sid, environ, *auth)
        scope: SpanScope | None = None
        with sockets.guard:
            scope = sockets.start_connect()
        error: BaseException | None = None
        try:
            accepted = await original(sid, environ, *auth)
        except BaseException as raised:
            error = raised
            with sockets.guard:
                # Without auth this is python-socketio trying an older signature.
                if auth and isinstance(error, Exception):
                    sockets.on_refused(error)
            raise
        else:
            with sockets.guard:
                if accepted is False:
                    sockets.on_refused(None)
                else:
                    sockets.on_connect(sid)
            return accepted
        finally:
            with sockets.guard:
                if scope is not None:
                    sockets.end_connect(sid, scope, error)
            # A traceback holds this frame: without this they would keep each other alive.
            del error

    return connect


def _wrap_disconnect(patches: Patches, sockets: Sockets, original: Handler) -> Handler:
    arity = len(inspect.signature(original).parameters)

    @wraps(original)
    async def disconnect(sid: str, *reason: Any) -> Any:
        if not patches.active:
            return await original(sid, *reason)
        session = None
        with sockets.guard:
            session = sockets.on_disconnect(
                sid, reason[0] if reason else _reason_of_close(sys._getframe())
            )
        # python-socketio calls with a reason first, and without one after the TypeError of a
        # handler that takes none. The original gets both calls, so that a TypeError that is raised
        # inside it has the same effect as without us.
        if len(reason) >= arity:
            return await original(sid, *reason)
        scope: SpanScope | None = None
        with sockets.guard:
            scope = sockets.start_disconnect(sid)
        error: BaseException | None = None
        try:
            return await original(sid, *reason)
        except BaseException as raised:
            error = raised
            raise
        finally:
            with sockets.guard:
                if session is not None:
                    sockets.on_cleanup(session, failed=error is not None)
                if scope is not None:
                    sockets.end_disconnect(scope, error)
            del error

    return disconnect


def _reason_of_close(frame: FrameType | None) -> str | None:
    """Return why a socket is closed if python-socketio gives no reason, as older releases do.

    If Engine.IO has not closed it, then the browser has, by a packet, or the app.
    """
    while frame is not None and frame.f_code.co_name != "_handle_eio_message":
        frame = frame.f_back
    return None if frame is None else "client disconnect"


def _wrap_engine_disconnect(patches: Patches, sockets: Sockets, original: Handler) -> Handler:
    arity = len(inspect.signature(original).parameters)

    @wraps(original)
    async def disconnect(engine_sid: str, *reason: Any) -> Any:
        with sockets.guard:
            if patches.active and reason:
                sockets.on_engine_closing(engine_sid, reason[0])
        # python-engineio calls again without a reason, too, and closes the socket only then.
        if len(reason) >= arity:
            return await original(engine_sid, *reason)
        try:
            return await original(engine_sid, *reason)
        finally:
            with sockets.guard:
                if patches.active:
                    sockets.on_engine_close(engine_sid)

    return disconnect


def _wrap_bad_request(patches: Patches, sockets: Sockets, original: Any) -> Any:
    @wraps(original)
    def bad_request(*args: Any, **kwargs: Any) -> Any:
        with sockets.guard:
            # Without the id of a socket it is no poll.
            message = str(args[0]) if args else ""
            if patches.active and message.startswith("Invalid session ") and message[16:] != "None":
                sockets.on_unknown_engine_sid()
        return original(*args, **kwargs)

    return bad_request
