"""Connections: the handlers that Chainlit registered with python-socketio.

The `connect` and `disconnect` handlers are replaced in the table where python-socketio looks
them up at each call. They alone know why a connection was refused or closed, and which socket
of a session is the current one. Below them lies the close of the Engine.IO socket, for the
sockets that die while they connect: python-socketio never calls `disconnect` for those, and
Chainlit keeps their sessions for ever. Engine.IO alone sees a poll that comes to the wrong
replica, which is the first thing to fail where a proxy is not sticky.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Awaitable, Callable
from importlib import import_module
from types import FrameType
from typing import Any

from opentelemetry.trace import SpanContext

from chainlit_otel import catalog
from chainlit_otel.core.connections import Connection, ConnectionLedger
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches, SeamMissing, wraps
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.pipeline.spans import (
    UNHEARD,
    Frame,
    Tracing,
    current_span_context,
    outcome_of,
    within,
)
from chainlit_otel.probes import inbound
from chainlit_otel.probes.sessions import Sessions, current_session

Handler = Callable[..., Awaitable[Any]]

_NAMESPACE = "/"


class Sockets:
    """The open sockets, by the ids of Socket.IO and of Engine.IO.

    Args:
        ledger: The books of connections.
        sessions: The books of sessions.
        tracing: Opens the spans of connects and disconnects.

    Attributes:
        ledger: The books of connections.
        connections: The open sockets, by their Socket.IO id.
        stopping: Whether the server is closing its sockets, in order to stop.
    """

    def __init__(self, ledger: ConnectionLedger, sessions: Sessions, tracing: Tracing) -> None:
        self.ledger = ledger
        self.stopping = False
        self._sessions = sessions
        self._tracing = tracing
        self._spans: dict[str, SpanContext] = {}
        self.connections: dict[str, Connection] = {}
        self._sids: dict[str, str] = {}
        self._reasons: dict[str, object] = {}

    def links(self, session: Any) -> list[SpanContext]:
        """Return the span that connected the current socket of a session, if there is one."""
        span = self._spans.get(getattr(session, "socket_id", ""))
        return [] if span is None else [span]

    def open(
        self,
        name: str,
        attributes: dict[str, str],
        start: int | None = None,
        above: Frame | None = None,
    ) -> Frame:
        """Open the span of something that may happen anywhere.

        Outside of any span of ours it tells of the session itself. That of a websocket is then
        the root of a trace.

        Args:
            name: Name of the span.
            attributes: Attributes of the span.
            start: Start time, in nanoseconds since the epoch; now by default.
            above: What is known to be above it, whatever is current.
        """
        if self._tracing.idle:
            return UNHEARD
        session = None
        with self._tracing.guard:
            session = None if above is not None or within() else current_session()
            if session is not None:
                attributes = attributes | self._sessions.attributes(session)
        if session is None:
            return self._tracing.open_child(name, attributes, start, above)
        if not hasattr(session, "socket_id"):
            return self._tracing.open_child(name, attributes, start)
        # The span of a socket, if somebody opens one, lasts as long as the tab.
        links = [current_span_context(), *self.links(session)]
        return self._tracing.open_root(name, attributes, links, start)

    def connecting(self) -> Frame:
        """Chainlit is about to be asked whether a socket may connect."""
        return self._tracing.open_root(catalog.SPAN_CONNECT, {}, [current_span_context()])

    def connected(self, sid: str, frame: Frame, error: BaseException | None) -> None:
        """Chainlit has said whether a socket may connect."""
        session = _session_of(sid)
        if session is not None:
            frame.span.set_attributes(self._sessions.attributes(session))
            # One that died meanwhile has been lost already: nobody would take its span out again.
            if sid in self.connections and frame.span.is_recording():
                self._spans[sid] = frame.span.get_span_context()
        self._tracing.close(frame, outcome_of(error), error)

    def disconnecting(self, sid: str) -> Frame:
        """Chainlit is about to be told that a socket is gone."""
        session = _session_of(sid)
        attributes = {} if session is None else self._sessions.attributes(session)
        span = self._spans.pop(sid, None)
        links = [] if span is None else [span]
        return self._tracing.open_root(catalog.SPAN_DISCONNECT, attributes, links)

    def disconnected(self, frame: Frame, error: BaseException | None) -> None:
        """Chainlit has dealt with a socket that is gone."""
        self._tracing.close(frame, outcome_of(error), error)

    def opened(self, sid: str) -> None:
        """A socket is connected to Chainlit."""
        sio = import_module("chainlit.server").sio
        engine_sid = sio.manager.eio_sid_from_sid(sid, _NAMESPACE)
        socket = sio.eio.sockets.get(engine_sid)
        upgraded = functools.partial(getattr, socket, "upgraded", False)
        self.connections[sid] = self.ledger.open(upgraded)
        self._sids[engine_sid] = sid
        if socket is None or socket.closed or socket.closing:
            self.lost(engine_sid)

    def refused(self, error: BaseException | None) -> None:
        """Chainlit refused a socket, by an exception or by returning False."""
        self.ledger.reject(refusal(error))

    def closed(self, sid: str, reason: object) -> Any:
        """A socket is closed.

        Returns:
            Chainlit's session, if this was its current socket.
        """
        session = _session_of(sid)
        if session is not None:
            self._sessions.dropped(session)
        told = self._reasons.pop(sid, None)
        if connection := self.connections.pop(sid, None):
            self.ledger.close(connection, self._reason(reason or told))
        return session

    def _reason(self, reason: object) -> str:
        if self.stopping:
            return "shutdown"
        return "message_too_large" if inbound.is_too_large() else close_reason(reason)

    def cleaned_up(self, session: Any, failed: bool) -> None:
        """Chainlit's handler is done with the disconnect of a session."""
        self._sessions.cleaned_up(session)
        if failed:
            self._sessions.abandoned(session, _grace())

    def losing(self, engine_sid: str, reason: object) -> None:
        """An Engine.IO socket closes; older releases of python-socketio do not pass on why."""
        sid = self._sids.get(engine_sid, "")
        if sid in self.connections:
            self._reasons[sid] = reason

    def lost(self, engine_sid: str) -> None:
        """The Engine.IO socket is closed; Chainlit may not have been told."""
        sid = self._sids.pop(engine_sid, "")
        self._spans.pop(sid, None)
        if sid in self.connections:
            session = self.closed(sid, None)
            if session is not None:
                self.cleaned_up(session, failed=True)

    def strayed(self) -> None:
        """A request came for an Engine.IO socket that is not here."""
        self._sessions.missed("socket")

    def adopt(self) -> None:
        """Take up the sockets that are open now, and only those."""
        self.stopping = False
        for known in (self.connections, self._sids, self._spans, self._reasons):
            known.clear()
        sio = import_module("chainlit.server").sio
        for sid, session in list(import_module("chainlit.session").ws_sessions_sid.items()):
            if not self._sessions.knows(session):
                continue
            if sio.manager.is_connected(sid, _NAMESPACE):
                self.opened(sid)
            else:
                self._sessions.dropped(session)
                self._sessions.cleaned_up(session)


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
    """Return the close reason for what is known of it, which may be None."""
    named = str(reason).replace(" ", "_")
    return named if named in catalog.CLOSE_REASON.values else catalog.OTHER


def _session_of(sid: str) -> Any:
    return import_module("chainlit.session").ws_sessions_sid.get(sid)


def _grace() -> float:
    return float(import_module("chainlit.config").config.project.session_timeout)


def install(patches: Patches, guard: Guard, telemetry: Telemetry, sockets: Sockets) -> None:
    """Replace the handlers.

    Raises:
        SeamMissing: This version of Chainlit or python-socketio has no such handler.
    """
    sio = getattr(import_module("chainlit.server"), "sio", None)
    if sio is None or not hasattr(sio, "eio"):
        raise SeamMissing("chainlit.server.sio")
    handlers = sio.handlers.get(_NAMESPACE)
    patches.replace(handlers, "connect", functools.partial(_connecting, patches, guard, sockets))
    patches.replace(
        handlers, "disconnect", functools.partial(_disconnecting, patches, guard, sockets)
    )
    patches.replace(
        sio.eio.handlers, "disconnect", functools.partial(_losing, patches, guard, sockets)
    )
    patches.shadow(
        sio.eio, "_bad_request", functools.partial(_refusing_poll, patches, guard, sockets)
    )
    inbound.install(patches, guard, sockets.ledger, sio)
    sockets.adopt()
    telemetry.observe(catalog.CONNECTION_ACTIVE, sockets.ledger.active, guard)
    telemetry.observe(catalog.CONNECTION_REJECTED, sockets.ledger.rejected, guard)
    telemetry.observe(catalog.INBOUND_DROPPED, sockets.ledger.thrown_away, guard)


def _connecting(patches: Patches, guard: Guard, sockets: Sockets, original: Handler) -> Handler:
    @wraps(original)
    async def connect(sid: str, environ: Any, *auth: Any) -> Any:
        if not patches.active:
            return await original(sid, environ, *auth)
        frame: Frame | None = None
        with guard:
            frame = sockets.connecting()
        error: BaseException | None = None
        try:
            accepted = await original(sid, environ, *auth)
        except BaseException as raised:
            error = raised
            with guard:
                # Without auth this is python-socketio trying an older signature.
                if auth and isinstance(error, Exception):
                    sockets.refused(error)
            raise
        else:
            with guard:
                if accepted is False:
                    sockets.refused(None)
                else:
                    sockets.opened(sid)
            return accepted
        finally:
            with guard:
                if frame is not None:
                    sockets.connected(sid, frame, error)
            # A traceback holds this frame: without this they would keep each other alive.
            del error

    return connect


def _disconnecting(patches: Patches, guard: Guard, sockets: Sockets, original: Handler) -> Handler:
    arity = len(inspect.signature(original).parameters)

    @wraps(original)
    async def disconnect(sid: str, *reason: Any) -> Any:
        if not patches.active:
            return await original(sid, *reason)
        session = None
        with guard:
            session = sockets.closed(sid, reason[0] if reason else _goodbye(sys._getframe()))
        # python-socketio offers a reason first and calls again without, on the TypeError of a
        # handler that takes none. The original gets both calls, so that a TypeError from
        # inside it is met as it would be without us.
        if len(reason) >= arity:
            return await original(sid, *reason)
        frame: Frame | None = None
        with guard:
            frame = sockets.disconnecting(sid)
        error: BaseException | None = None
        try:
            return await original(sid, *reason)
        except BaseException as raised:
            error = raised
            raise
        finally:
            with guard:
                if session is not None:
                    sockets.cleaned_up(session, failed=error is not None)
                if frame is not None:
                    sockets.disconnected(frame, error)
            del error

    return disconnect


def _goodbye(frame: FrameType | None) -> str | None:
    """Return why a socket is closed for which python-socketio gives no reason, as older ones do.

    What Engine.IO has not closed is closed by the browser, by a packet, or by the app.
    """
    while frame is not None and frame.f_code.co_name != "_handle_eio_message":
        frame = frame.f_back
    return None if frame is None else "client disconnect"


def _losing(patches: Patches, guard: Guard, sockets: Sockets, original: Handler) -> Handler:
    arity = len(inspect.signature(original).parameters)

    @wraps(original)
    async def disconnect(engine_sid: str, *reason: Any) -> Any:
        with guard:
            if patches.active and reason:
                sockets.losing(engine_sid, reason[0])
        # python-engineio, too, calls again without a reason, and has closed nothing until then.
        if len(reason) >= arity:
            return await original(engine_sid, *reason)
        try:
            return await original(engine_sid, *reason)
        finally:
            with guard:
                if patches.active:
                    sockets.lost(engine_sid)

    return disconnect


def _refusing_poll(patches: Patches, guard: Guard, sockets: Sockets, original: Any) -> Any:
    @wraps(original)
    def bad_request(*args: Any, **kwargs: Any) -> Any:
        with guard:
            # Without a socket's id it is no poll at all.
            message = str(args[0]) if args else ""
            if patches.active and message.startswith("Invalid session ") and message[16:] != "None":
                sockets.strayed()
        return original(*args, **kwargs)

    return bad_request
