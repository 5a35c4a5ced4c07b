"""Spans of a session: the attributes that describe it, their links and their parents."""

from __future__ import annotations

from opentelemetry.trace import SpanContext

from chainlit_otel.pipeline.spans import (
    NOOP_SCOPE,
    Attributes,
    SpanScope,
    current_span_context,
    in_trace,
)
from chainlit_otel.probes.chainlit_types import ChainlitSession
from chainlit_otel.probes.probe import ProbeContext
from chainlit_otel.probes.sessions import Sessions, current_session


class SessionSpans:
    """Starts the spans that belong to sessions.

    Args:
        context: What all probes share.
    """

    def __init__(self, context: ProbeContext) -> None:
        self._sessions = context.get(Sessions)
        self._tracing = context.tracing
        # The span of the connect of each socket, by the id of the socket.
        self._connects: dict[str, SpanContext] = {}

    def connected(self, sid: str, span: SpanContext) -> None:
        """Store the span of the connect of a socket, until `forget`."""
        self._connects[sid] = span

    def forget(self, sid: str) -> list[SpanContext]:
        """Remove and return the span of the connect of a socket, if there was one."""
        span = self._connects.pop(sid, None)
        return [] if span is None else [span]

    def clear(self) -> None:
        """Forget the spans of all sockets."""
        self._connects.clear()

    def links(self, session: ChainlitSession | None) -> list[SpanContext]:
        """Return the span of the connect of a session's current socket, if there is one."""
        span = self._connects.get(getattr(session, "socket_id", ""))
        return [] if span is None else [span]

    def start_root(
        self,
        name: str,
        session: ChainlitSession | None,
        attributes: Attributes,
        start: int | None = None,
    ) -> SpanScope:
        """Start a new trace for a session, linked to the span of its connection.

        Args:
            name: Name of the span.
            session: Chainlit's session; None if there is none.
            attributes: Attributes of the span, besides those of the session.
            start: Start time, in nanoseconds since the epoch; now by default.
        """
        if not self._tracing.is_enabled():
            return NOOP_SCOPE
        described: Attributes = {}
        with self._tracing.guard:
            if session is not None:
                described = self._sessions.attributes(session)
        # Links and no parent: a span of a socket, if there is one, lasts as long as its tab.
        links = [current_span_context(), *self.links(session)]
        return self._tracing.start_root(name, {**described, **attributes}, links, start)

    def start(
        self,
        name: str,
        attributes: Attributes,
        start: int | None = None,
        parent: SpanScope | None = None,
    ) -> SpanScope:
        """Start a span, as a child of the current one if there is one.

        Outside of any span of ours it has the attributes of the session, and for a websocket
        session it is the root of a new trace.

        Args:
            name: Name of the span.
            attributes: Attributes of the span.
            start: Start time, in nanoseconds since the epoch; now by default.
            parent: Its parent, in place of the current span.
        """
        if not self._tracing.is_enabled():
            return NOOP_SCOPE
        if parent is None and not in_trace():
            session = None
            with self._tracing.guard:
                session = current_session()
            if hasattr(session, "socket_id"):
                return self.start_root(name, session, attributes, start)
            with self._tracing.guard:
                if session is not None:
                    attributes = {**attributes, **self._sessions.attributes(session)}
        return self._tracing.start_child(name, attributes, start, parent)
