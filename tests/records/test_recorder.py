"""What a recorder makes rows of, and that without a destination it makes none."""

from __future__ import annotations

from collections.abc import Sequence

from chainlit_otel.core.hashes import hashed
from chainlit_otel.core.sessions import Session
from chainlit_otel.core.turns import Turn, TurnReference
from chainlit_otel.guard import Guard
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


def test_feedback_has_what_stands_for_its_message_and_not_its_id() -> None:
    recorder, kept = new()
    session = Session("websocket", "webapp", "ab" * 8, 0)
    turn = TurnReference(session, 2, "expert")
    recorder.feedback_given(turn, "answer", "positive", True)
    recorder.feedback_given(turn, "answer", "negative", False)
    recorder.feedback_given(turn, "answer", "deleted", None)
    recorder.feedback_given(None, "", "deleted", None)
    assert recorder.queue.flush(60) == 0
    said = [
        (
            record.values["chainlit.feedback.message"],
            record.values["chainlit.feedback.value"],
            record.values["chainlit.feedback.has_comment"],
            record.values["gen_ai.evaluation.score.value"],
            record.values.get("session.id"),
            record.values.get("chainlit.turn.number"),
            record.values.get("chainlit.chat_profile"),
        )
        for record in kept.records
    ]
    found = "ab" * 8, 2, "expert"
    assert said == [
        (hashed("answer"), "positive", True, 1.0, *found),
        (hashed("answer"), "negative", False, 0.0, *found),
        (hashed("answer"), "deleted", None, None, *found),
        ("", "deleted", None, None, None, None, None),
    ]
    for record in kept.records:
        assert record.kind.event == "gen_ai.evaluation.result"
        assert record.values["gen_ai.evaluation.name"] == "user_feedback"
        label = record.values["gen_ai.evaluation.score.label"]
        assert label == record.values["chainlit.feedback.value"]


def test_a_score_is_of_its_turn_or_of_its_session_or_of_nothing() -> None:
    recorder, kept = new()
    turn, session = Turn(0, "expert"), Session("websocket", "webapp", "ab" * 8, 0)
    turn.reference.number = 4
    recorder.score_given(turn.reference, "relevance", 1.0, None)
    recorder.score_given(TurnReference(session), "relevance", 0.5, "meh")
    recorder.score_given(None, "relevance", -1.0, None)
    assert recorder.queue.flush(60) == 0
    assert [
        (r.values["gen_ai.evaluation.score.value"], r.values["gen_ai.evaluation.score.label"])
        for r in kept.records
    ] == [(1.0, None), (0.5, "meh"), (-1.0, None)]
    assert [r.values.get("chainlit.turn.number") for r in kept.records] == [4, None, None]
    assert [r.values.get("session.id") for r in kept.records] == [None, "ab" * 8, None]


def test_without_a_destination_nothing_is_kept() -> None:
    recorder = Recorder(RecordQueue([]), Guard("records"))
    recorder.feedback_given(None, "m", "positive", False)
    recorder.score_given(None, "relevance", 1.0, None)
    recorder.session_started(Session("websocket", "webapp", "", 0))
    assert not recorder.is_enabled
    assert recorder.queue._thread is None
