"""What is kept to tell which turn somebody judges."""

from __future__ import annotations

import sys

import pytest

from chainlit_otel.core import judgements as module
from chainlit_otel.core.judgements import Judgements
from chainlit_otel.core.sessions import Session
from chainlit_otel.core.turns import Turn


def turn_of(session: Session | None, number: int) -> Turn:
    turn = Turn(0, "", "message", session)
    turn.number = number
    return turn


def test_feedback_finds_its_turn_by_any_message_of_it_also_when_it_is_deleted() -> None:
    judgements = Judgements()
    session = Session("websocket", "webapp", "ab" * 8, 0)
    first, second = turn_of(session, 1), turn_of(session, 2)
    judgements.message_sent("question", first)
    judgements.message_sent("answer", second)
    judgements.message_sent(None, turn_of(session, 3))
    assert judgements.feedback_given("answer", "f1", "positive") is second.reference
    assert judgements.feedback_given("question", "f2", "negative") is first.reference
    assert judgements.feedback_deleted("f1") == ("answer", second.reference)
    assert judgements.feedback_deleted("f1") == ("", None)
    assert judgements.feedback_given("of yesterday", "f3", "positive") is None
    assert judgements.feedback_deleted("f3") == ("of yesterday", None)
    # One was taken back.
    assert session.feedback == {"positive": 0, "negative": 1}


def test_who_changes_their_mind_has_judged_once() -> None:
    judgements = Judgements()
    session = Session("websocket", "webapp", "ab" * 8, 0)
    judgements.message_sent("answer", turn_of(session, 1))
    for value in ("positive", "positive", "negative"):
        judgements.feedback_given("answer", "f1", value)
    assert session.feedback == {"positive": 0, "negative": 1}
    judgements.feedback_deleted("f1")
    assert session.feedback == {"positive": 0, "negative": 0}
    judgements.feedback_given("answer", "f2", "positive")
    assert session.feedback == {"positive": 1, "negative": 0}


def test_the_oldest_messages_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MESSAGES", 3)
    judgements = Judgements()
    turns = [turn_of(None, number) for number in range(7)]
    for number in range(1, 6):
        judgements.message_sent(f"m{number}", turns[number])
    judgements.message_sent("m3", turns[6])  # the same message in another turn is the newest
    judgements.message_sent("m5", turns[5])  # sent again in the same one it is as old as before
    judgements.message_sent("m6", turns[6])
    found = [judgements.turn_of(f"m{number}") for number in range(1, 7)]
    assert found == [*(None, None), turns[6].reference, None, turns[5].reference, found[-1]]
    assert found[-1] is turns[6].reference


def test_they_are_forgotten_also_if_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MESSAGES", 3)
    monkeypatch.setattr(module, "_MANY", 2)
    judgements, turn = Judgements(), turn_of(None, 1)
    first = turn.reference
    before = sys.getrefcount(first)
    judgements.message_sent("first", turn)
    assert sys.getrefcount(first) > before
    for number in range(6):
        judgements.message_sent(f"m{number}", turn_of(None, number))
    assert sys.getrefcount(first) == before


def test_what_is_kept_of_a_turn_is_not_the_turn() -> None:
    session = Session("websocket", "webapp", "ab" * 8, 0)
    turn = Turn(0, "expert", "edit", session)
    turn.number, turn.trace_id, turn.span_id = 3, "1" * 32, "2" * 16
    kept = turn.reference
    assert (kept.session, kept.number, kept.profile) == (session, 3, "expert")
    assert (kept.trace_id, kept.span_id) == ("1" * 32, "2" * 16)
    assert kept is turn.reference
