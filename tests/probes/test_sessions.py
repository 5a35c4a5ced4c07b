"""Why a session ended, as the books say, without a server."""

from __future__ import annotations

import gc
from typing import Any, Literal

import pytest

from chainlit_otel.core.sessions import SessionLedger
from chainlit_otel.probes.sessions import Sessions


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
        (["dropped"], "cleared"),
        (["dropped", "cleaned_up"], "timeout"),
    ],
)
def test_the_reason_of_an_end(events: list[str], reason: str) -> None:
    ended: list[str] = []
    ledger = SessionLedger(lambda session, reason, seconds: ended.append(reason))
    sessions = Sessions(ledger, lambda hash: None, capture_user=False)
    session = Session()
    sessions.started(session, "websocket")
    for event in events:
        getattr(sessions, event)(session)
    sessions.deleted(session)
    assert ended == [reason]
    assert ledger.ends() == {("websocket", "webapp", reason): 1}


@pytest.mark.parametrize(("type", "reason"), [("websocket", "other"), ("http", "completed")])
def test_of_a_session_that_is_gone_without_a_word_nobody_knows_why(
    type: Literal["websocket", "http"], reason: str
) -> None:
    ledger = SessionLedger(lambda session, reason, seconds: None)
    sessions = Sessions(ledger, lambda hash: None, capture_user=False)
    session = Session()
    sessions.started(session, type)
    del session
    gc.collect()
    assert ledger.ends() == {(type, "webapp", reason): 1}
