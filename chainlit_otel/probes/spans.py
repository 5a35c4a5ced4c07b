"""Spans on behalf of a session: what they say of it, and which span they are linked to or below."""

from __future__ import annotations

from typing import Any

from opentelemetry.trace import SpanContext

from chainlit_otel.pipeline.spans import UNHEARD, Attributes, Frame, current_span_context, within
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
        # What connected each socket, by the id of the socket.
        self._connects: dict[str, SpanContext] = {}

    def connected(self, sid: str, span: SpanContext) -> None:
        """Keep which span has connected a socket, until `forget`."""
        self._connects[sid] = span

    def forget(self, sid: str) -> list[SpanContext]:
        """Return the span that has connected a socket that is gone, if there was one."""
        span = self._connects.pop(sid, None)
        return [] if span is None else [span]

    def clear(self) -> None:
        """Forget all."""
        self._connects.clear()

    def links(self, session: Any) -> list[SpanContext]:
        """Return the span that connected the current socket of a session, if there is one."""
        span = self._connects.get(getattr(session, "socket_id", ""))
        return [] if span is None else [span]

    def open_root(
        self, name: str, session: Any, attributes: Attributes, start: int | None = None
    ) -> Frame:
        """Start a trace of its own on behalf of a session, linked to the span of its connection.

        Args:
            name: Name of the span.
            session: Chainlit's session; None if there is none.
            attributes: Attributes of the span, besides those of the session.
            start: Start time, in nanoseconds since the epoch; now by default.
        """
        if self._tracing.idle:
            return UNHEARD
        described: dict[str, str] = {}
        with self._tracing.guard:
            if session is not None:
                described = self._sessions.attributes(session)
        # The span of a socket, if somebody opens one, lasts as long as the tab.
        links = [current_span_context(), *self.links(session)]
        return self._tracing.open_root(name, {**described, **attributes}, links, start)

    def open(
        self,
        name: str,
        attributes: dict[str, str],
        start: int | None = None,
        above: Frame | None = None,
    ) -> Frame:
        """Start the span of something that may happen anywhere.

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
        if hasattr(session, "socket_id"):
            return self.open_root(name, session, attributes, start)
        with self._tracing.guard:
            if session is not None:
                attributes = attributes | self._sessions.attributes(session)
        return self._tracing.open_child(name, attributes, start, above)
