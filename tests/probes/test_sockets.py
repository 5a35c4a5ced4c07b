"""Sockets that die at a bad moment, without a server."""

from __future__ import annotations

from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider

from chainlit_otel import catalog
from chainlit_otel.core.connections import ConnectionLedger
from chainlit_otel.core.sessions import SessionLedger
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.spans import Tracing
from chainlit_otel.probes import sockets as probe
from chainlit_otel.probes.sessions import Sessions


def ignore(*_: Any) -> None:
    pass


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
def test_a_close_reason_is_told_by_all_of_its_words(given: object, reason: str) -> None:
    assert probe.close_reason(given) == reason


def test_the_span_of_a_socket_that_died_while_it_connected_is_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tracing = Tracing(
        TracerProvider(shutdown_on_exit=False).get_tracer("ours"), False, Guard("tracing")
    )
    sessions = Sessions(SessionLedger(ignore), ignore, capture_user=False)
    sockets = probe.Sockets(ConnectionLedger(ignore), sessions, tracing)
    chat = Chat()
    monkeypatch.setattr(probe, "_session_of", lambda _: chat)

    sockets.connected("a", sockets.connecting(), None)
    assert sockets.links(chat) == []

    sockets.connections["a"] = sockets.ledger.open(lambda: True)
    sockets.connected("a", sockets.connecting(), None)
    assert len(sockets.links(chat)) == 1
