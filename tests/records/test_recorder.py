"""What a recorder keeps to tell which turn somebody judges."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import pytest

from chainlit_otel import settings
from chainlit_otel.core.hashes import hashed
from chainlit_otel.core.sessions import Session
from chainlit_otel.core.turns import Turn
from chainlit_otel.guard import Guard
from chainlit_otel.records import recorder as module
from chainlit_otel.records.queue import RecordQueue
from chainlit_otel.records.recorder import Recorder
from chainlit_otel.records.rows import Record


class Kept:
    """A destination that keeps all."""

    name = "file"

    def __init__(self) -> None:
        self.records: list[Record] = []

    def write(self, rows: Sequence[Record]) -> int:
        self.records += rows
        return len(rows)

    def close(self) -> None:
        """Have nothing open."""


def new() -> tuple[Recorder, Kept]:
    kept = Kept()
    return Recorder(RecordQueue([kept], delay=0), Guard("records")), kept


def turn_of(session: Session | None, number: int) -> Turn:
    turn = Turn(0, "", "message", session)
    turn.number = number
    return turn


def said(recorder: Recorder, kept: Kept) -> list[dict[str, Any]]:
    assert recorder.queue.flush(60) == 0
    return [
        {
            key: value
            for key, value in record.values.items()
            if key in ("session.id", "chainlit.turn.number", "chainlit.feedback.value")
        }
        for record in kept.records
    ]


def test_feedback_finds_its_turn_by_any_message_of_it_also_when_it_is_deleted() -> None:
    recorder, kept = new()
    session = Session("websocket", "webapp", "ab" * 8, 0)
    recorder.message_sent("question", turn_of(session, 1))
    recorder.message_sent("answer", turn_of(session, 2))
    recorder.message_sent(None, turn_of(session, 3))
    recorder.feedback_given("answer", "f1", "positive", True)
    recorder.feedback_given("question", "f2", "negative", False)
    recorder.feedback_deleted("f1")
    recorder.feedback_deleted("f1")
    recorder.feedback_given("of yesterday", "f3", "positive", False)
    found = {"session.id": "ab" * 8}
    assert said(recorder, kept) == [
        {**found, "chainlit.turn.number": 2, "chainlit.feedback.value": "positive"},
        {**found, "chainlit.turn.number": 1, "chainlit.feedback.value": "negative"},
        {**found, "chainlit.turn.number": 2, "chainlit.feedback.value": "deleted"},
        {"chainlit.feedback.value": "deleted"},
        {"chainlit.feedback.value": "positive"},
    ]
    assert [r.values["chainlit.feedback.has_comment"] for r in kept.records] == [
        *(True, False),
        *(None, None),
        False,
    ]
    # One was taken back.
    assert session.feedback == {"positive": 0, "negative": 1}


def test_who_changes_their_mind_has_judged_once() -> None:
    recorder, kept = new()
    session = Session("websocket", "webapp", "ab" * 8, 0)
    recorder.message_sent("answer", turn_of(session, 1))
    for value, comment in (("positive", False), ("positive", True), ("negative", False)):
        recorder.feedback_given("answer", "f1", value, comment)
    assert session.feedback == {"positive": 0, "negative": 1}
    recorder.feedback_deleted("f1")
    assert session.feedback == {"positive": 0, "negative": 0}
    recorder.feedback_given("answer", "f2", "positive", False)
    assert session.feedback == {"positive": 1, "negative": 0}
    assert recorder.queue.flush(60) == 0
    # What links the rows of one message, and is not its id.
    assert {r.values["chainlit.feedback.message"] for r in kept.records} == {hashed("answer")}


def test_the_oldest_messages_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MESSAGES", 3)
    recorder, kept = new()
    for number in range(1, 6):
        recorder.message_sent(f"m{number}", turn_of(None, number))
    recorder.message_sent("m3", turn_of(None, 3))  # it is sent again, and is the newest
    recorder.message_sent("m6", turn_of(None, 6))
    for number in range(1, 7):
        recorder.feedback_given(f"m{number}", "f", "positive", False)
    assert [row.get("chainlit.turn.number") for row in said(recorder, kept)] == [
        *(None, None, 3, None),
        *(5, 6),
    ]


def test_a_score_is_a_finite_number(caplog: pytest.LogCaptureFixture) -> None:
    settings._problems.clear()
    recorder, kept = new()
    turn, session = turn_of(None, 4), Session("websocket", "webapp", "ab" * 8, 0)
    recorder.score_given(turn, None, "relevance", 1, None)
    recorder.score_given(None, session, "relevance", 0.5, "meh")
    with caplog.at_level(logging.WARNING, "chainlit_otel"):
        for bad in (math.nan, math.inf, "good", None, 10**400):
            recorder.score_given(turn, None, "relevance", bad, None)  # type: ignore[arg-type]
    assert [line.getMessage() for line in caplog.records] == [
        "record_score('relevance') keeps nothing: its value must be a finite number"
    ]
    assert recorder.queue.flush(60) == 0
    assert [
        (r.values["gen_ai.evaluation.score.value"], r.values["gen_ai.evaluation.score.label"])
        for r in kept.records
    ] == [(1.0, None), (0.5, "meh")]
    assert [r.values.get("chainlit.turn.number") for r in kept.records] == [4, None]
    assert [r.values.get("session.id") for r in kept.records] == [None, "ab" * 8]


def test_without_a_destination_nothing_is_kept() -> None:
    recorder = Recorder(RecordQueue([]), Guard("records"))
    recorder.message_sent("m", turn_of(None, 1))
    recorder.feedback_given("m", "f", "positive", False)
    recorder.feedback_deleted("f")
    recorder.score_given(None, None, "relevance", 1.0, None)
    recorder.session_started(Session("websocket", "webapp", "", 0))
    assert not recorder.is_enabled
    assert recorder._turns.get("m") is None
    assert recorder.queue._thread is None
