"""Why a session ended, as the ledger says, without a server."""

from __future__ import annotations

import gc
from typing import Any, Literal

import pytest

from chainlit_otel import catalog
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.probes.sessions import Sessions
from tests.support.probes import probe_context


class Session:
    """What the probe knows a session by."""

    id = "session"
    client_type = "webapp"
    thread_id_to_resume: str | None = None
    user: Any = None


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        # Deleted while its socket is there: nobody has said why.
        ([], "other"),
        (["on_drop"], "cleared"),
        (["on_drop", "on_cleanup"], "timeout"),
    ],
)
def test_the_reason_of_an_end(events: list[str], reason: str) -> None:
    histograms = Histograms()
    context = probe_context(histograms=histograms)
    sessions = context.get(Sessions)
    session: Any = Session()
    sessions.on_start(session, "websocket")
    for event in events:
        getattr(sessions, event)(session)
    sessions.on_delete(session)
    context.telemetry.flush()
    recorded = {(metric, values): sum(s.counts) for metric, values, s in histograms.read()}
    assert recorded == {
        (catalog.SESSION_DURATION, ("websocket", "webapp", reason)): 1,
        (catalog.SESSION_TURNS, (reason,)): 1,
    }
    assert sessions.ledger.ends() == {("websocket", "webapp", reason): 1}


@pytest.mark.parametrize(("type", "reason"), [("websocket", "other"), ("http", "completed")])
def test_of_a_session_that_is_gone_without_a_word_nobody_knows_why(
    type: Literal["websocket", "http"], reason: str
) -> None:
    sessions = probe_context().get(Sessions)
    session: Any = Session()
    sessions.on_start(session, type)
    del session
    gc.collect()
    assert sessions.ledger.ends() == {(type, "webapp", reason): 1}
