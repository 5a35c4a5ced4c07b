"""Sockets that die at a bad moment, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from chainlit_otel import catalog
from chainlit_otel.patching import Patches
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.probes.session_spans import SessionSpans
from chainlit_otel.probes.sessions import Sessions
from chainlit_otel.probes.sockets import connections as probe
from tests.support.probes import probe_context


class Chat:
    """As much of a session as a connect asks for."""

    id, thread_id, socket_id = "s", "t", "a"
    user = None


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        *((value.replace("_", " "), value) for value in catalog.CLOSE_REASON.values),
        ("transport gone", "other"),
        ("client", "other"),
        (None, "other"),
    ],
)
def test_a_close_reason_has_all_of_its_words(given: object, reason: str) -> None:
    assert probe.close_reason(given) == reason


def test_the_span_of_a_socket_that_died_while_it_connected_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = probe_context(TracerProvider(shutdown_on_exit=False).get_tracer("ours"))
    sockets, spans = context.get(probe.Sockets), context.get(SessionSpans)
    chat: Any = Chat()
    monkeypatch.setattr(probe, "_session_of", lambda _: chat)

    sockets.end_connect("a", sockets.start_connect(), None)
    assert spans.links(chat) == []

    sockets.connections["a"] = sockets.ledger.open(lambda: True)
    sockets.end_connect("a", sockets.start_connect(), None)
    assert len(spans.links(chat)) == 1


class OlderServer:
    """As much of python-socketio 5.11 as a close goes through: it passes on no reason."""

    def __init__(self, sockets: probe.Sockets) -> None:
        self.calls: list[str] = []
        patches = Patches(self)
        self._on_close = probe._wrap_engine_disconnect(
            patches, sockets, self._handle_eio_disconnect
        )
        self._disconnect = probe._wrap_disconnect(patches, sockets, self._chainlits)

    async def close(self, engine_sid: str, reason: str) -> None:
        """As python-engineio does it."""
        try:
            await self._on_close(engine_sid, reason)
        except TypeError:
            await self._on_close(engine_sid)

    async def _handle_eio_disconnect(self, engine_sid: str) -> None:
        if engine_sid != "never called" and f"sid of {engine_sid}" not in self.calls:
            await self.disconnect(engine_sid)

    async def _handle_eio_message(self, engine_sid: str) -> None:
        await self.disconnect(engine_sid)

    async def goodbye(self, engine_sid: str) -> None:
        await self._handle_eio_message(engine_sid)
        await self.close(engine_sid, "transport close")

    async def disconnect(self, engine_sid: str) -> None:
        await self._disconnect(f"sid of {engine_sid}")

    async def _chainlits(self, sid: str) -> None:
        self.calls.append(sid)


async def test_a_server_that_passes_on_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    chats = {engine_sid: Chat() for engine_sid in ("a", "b", "c", "d", "never called")}
    abandoned: list[object] = []
    monkeypatch.setattr(Sessions, "on_abandoned", lambda _, chat, grace: abandoned.append(chat))
    monkeypatch.setattr(probe, "_session_of", lambda sid: chats[sid.removeprefix("sid of ")])
    monkeypatch.setattr(probe, "_grace", lambda: 1.0)
    histograms = Histograms()
    context = probe_context(histograms=histograms)
    sockets = context.get(probe.Sockets)
    server = OlderServer(sockets)
    for engine_sid in chats:
        sockets.connections[f"sid of {engine_sid}"] = sockets.ledger.open(lambda: True)
        sockets._sids[engine_sid] = f"sid of {engine_sid}"

    await server.close("a", "ping timeout")
    await server.goodbye("b")
    await server.disconnect("c")  # the app does
    await server.close("c", "transport close")
    await server.close("d", "transport error")
    await server.close("never called", "transport close")

    context.telemetry.flush()
    assert {values: sum(series.counts) for _, values, series in histograms.read()} == {
        ("ping_timeout",): 1,
        ("client_disconnect",): 1,
        ("other",): 1,
        ("transport_error",): 1,
        ("transport_close",): 1,
    }
    assert server.calls == ["sid of a", "sid of b", "sid of c", "sid of d"]
    assert abandoned == [chats["never called"]]
    assert not any((sockets.connections, sockets._sids, sockets._reasons))
