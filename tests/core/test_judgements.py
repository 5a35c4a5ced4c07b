"""What is kept to tell which turn somebody judges."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.core import judgements as module
from chainlit_otel.core.judgements import Judgements
from chainlit_otel.core.sessions import Session
from chainlit_otel.core.turns import Turn


def turn_of(session: Session | None, number: int) -> Turn:
    turn = Turn(0, "", "message", session)
    turn.reference.number = number
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


def test_the_last_messages_are_remembered_and_the_oldest_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MESSAGES", 3)
    judgements = Judgements()
    turns = [turn_of(None, number) for number in range(9)]

    def found() -> list[int | None]:
        known = [judgements.turn_of(f"m{number}") for number in range(1, 8)]
        return [turn.number if turn else None for turn in known]

    for number in range(1, 6):
        judgements.message_sent(f"m{number}", turns[number])
    assert found() == [1, 2, 3, 4, 5, None, None]
    judgements.message_sent("m3", turns[8])  # the same message in another turn is the newest
    judgements.message_sent("m7", turns[7])
    assert found() == [None, None, 8, 4, 5, None, 7]
    for _ in range(10):
        judgements.message_sent("m7", turns[7])  # the same message is no other one
    assert found() == [None, None, 8, 4, 5, None, 7]


def test_nothing_is_kept_of_turns_that_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MESSAGES", 3)
    judgements, turn = Judgements(), turn_of(None, 1)
    first = turn.reference
    before = sys.getrefcount(first)
    judgements.message_sent("first", turn)
    assert sys.getrefcount(first) > before
    for number in range(6):
        judgements.message_sent(f"m{number}", turn_of(None, number))
    assert sys.getrefcount(first) == before


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5)), max_size=60), st.integers(1, 8))
def test_as_many_as_it_has_to_remember_are_never_forgotten(
    sent: list[tuple[int, int]], enough: int
) -> None:
    recent: module._Recent[int] = module._Recent(enough)
    model: dict[str, int] = {}  # the message that was sent last is the last one
    for message, turn in sent:
        recent.put(str(message), turn)
        model.pop(str(message), None)
        model[str(message)] = turn
        for key in list(model)[-enough:]:
            assert recent.get(key) == model[key]
        known = [key for key in model if recent.get(key) is not None]
        assert all(recent.get(key) == model[key] for key in known)
        assert len(known) <= 2 * enough
    for key in model:
        was = recent.get(key)
        assert (recent.pop(key), recent.get(key), recent.pop(key)) == (was, None, None)


def test_what_is_kept_of_a_turn_names_its_trace_until_that_is_dropped() -> None:
    session = Session("websocket", "webapp", "ab" * 8, 0)
    turn = Turn(0, "expert", "edit", session)
    turn.reference.number, turn.reference.trace_id, turn.reference.span_id = 3, "1" * 32, "2" * 16
    kept = turn.reference
    assert (kept.session, kept.number, kept.profile) == (session, 3, "expert")
    assert (kept.trace_id, kept.span_id) == ("1" * 32, "2" * 16)
    kept.drop_trace()
    assert (kept.trace_id, kept.span_id, kept.dropped) == ("", "", ("1" * 32, "2" * 16))
