"""The rows of records: what is in them is what the catalogue says, and what happened."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel import catalog
from chainlit_otel.core.hashes import hashed_user
from chainlit_otel.core.sessions import SessionLedger
from chainlit_otel.core.turns import MAX_TOOLS, ToolCall, Turn, TurnLedger
from chainlit_otel.core.usage import ModelCall, UsageTotals
from chainlit_otel.records import rows
from chainlit_otel.records.rows import Record
from tests.core.clocks import NS, Clock

TYPES = {
    "string": str,
    "integer": int,
    "double": float,
    "boolean": bool,
    "time": str,
    "tools": list,
}


def check_types(record: Record) -> None:
    """Every value is of a field of its kind, and of the type of that."""
    fields = {field.key: field for field in record.kind.fields}
    for key, value in record.values.items():
        assert key in fields, f"{record.kind.name} has no field {key}"
        if value is not None:
            assert type(value) is TYPES[fields[key].type], (key, value)


def test_a_session_and_its_turns_are_told_to_the_microsecond() -> None:
    clock = Clock(now=5 * NS)
    records: list[Record] = []
    sessions = SessionLedger(
        lambda session, reason, seconds: records.append(
            rows.session_ended(session, reason, seconds, clock.wall)
        ),
        lambda: clock.now,
        lambda: clock.wall,
    )
    turns = TurnLedger(
        lambda turn, seconds: records.append(rows.turn_ended(turn, seconds)),
        lambda: clock.now,
        lambda: clock.wall,
    )
    session = sessions.start("websocket", "webapp", "thread_resume", "ab" * 8)
    session.user, session.profile, session.conversation = "cd" * 8, "expert", "t1"
    start = rows.session_started(session)
    begun = clock.wall

    clock.advance(2 * NS)
    turn = turns.start(clock.now - NS // 2, "expert", "edit", session)
    turn.reference.number = sessions.start_turn(session)
    turn.reference.trace_id, turn.reference.span_id = "1" * 32, "2" * 16
    turn.input_size = 7
    turn.output_sizes = {"a": 3, "b": 4}
    turn.chunk(clock.now + NS)
    for n in range(MAX_TOOLS + 1):
        turns.record_step(turn)
        tool = ToolCall(f"tool {n}", 0.25, "ok")
        assert turns.record_tool(turn, "test", tool.name, n, n + 1, tool)
    turns.record_step(turn)
    turns.record_data_layer_error(turn)
    turns.drop("element", turn, session)
    turn.fail(ValueError("secret"), "on_message")
    clock.advance(3 * NS)
    turns.end(turn)
    turns.drop("element", turn, session)  # a task that outlives the turn

    sessions.drop(session)
    clock.advance(10 * NS)
    sessions.restore(session)
    clock.advance(NS)
    sessions.drop(session)
    clock.advance(20 * NS)
    sessions.end(session, "timeout")

    for record in (start, *records):
        check_types(record)
    of_turn, of_session = records
    assert start.time == begun
    assert dict(start.values) == {
        "session.id": "ab" * 8,
        "chainlit.session.type": "websocket",
        "chainlit.client.type": "webapp",
        "chainlit.session.origin": "thread_resume",
        "user.hash": "cd" * 8,
        "chainlit.chat_profile": "expert",
    }
    tools = of_turn.values["chainlit.turn.tools"]
    assert tools == [
        {"name": f"tool {n}", "duration": 0.25, "outcome": "ok"} for n in range(MAX_TOOLS)
    ]
    assert of_turn.time == begun + 5 * NS
    assert {**of_turn.values, "chainlit.turn.tools": None} == {
        "session.id": "ab" * 8,
        "chainlit.client.type": "webapp",
        "user.hash": "cd" * 8,
        "chainlit.turn.number": 1,
        "trace_id": "1" * 32,
        "span_id": "2" * 16,
        "chainlit.turn.source": "edit",
        "chainlit.chat_profile": "expert",
        "chainlit.turn.start": rows.rfc3339(begun + 3 * NS // 2),
        "chainlit.turn.duration": 3.5,
        "chainlit.turn.time_to_first_token": 1.5,
        "chainlit.turn.chunks": 1,
        "chainlit.outcome": "error",
        "error.type": "ValueError",
        "chainlit.callback.name": "on_message",
        "chainlit.turn.steps": MAX_TOOLS + 2,
        "chainlit.turn.tools": None,
        "chainlit.turn.input_size": 7,
        "chainlit.turn.output_size": 7,
        "chainlit.turn.undelivered": 1,
        "chainlit.turn.data_layer_errors": 1,
        "gen_ai.conversation.id": "t1",
    }
    assert dict(of_session.values) == {
        **start.values,
        "chainlit.session.start": rows.rfc3339(begun),
        "chainlit.session.duration": 16.0,
        "chainlit.session.connected": 6.0,
        "chainlit.session.end_reason": "timeout",
        "chainlit.session.turns.started": 1,
        "chainlit.session.turns.ok": 0,
        "chainlit.session.turns.error": 1,
        "chainlit.session.turns.cancelled": 0,
        "chainlit.session.reconnects": 1,
        "chainlit.session.longest_gap": 10.0,
        "chainlit.session.time_to_first_turn": 2.0,
        "chainlit.session.undelivered": 2,
        "chainlit.session.feedback.positive": 0,
        "chainlit.session.feedback.negative": 0,
        "chainlit.connection.close_reason": "",
        "gen_ai.conversation.id": "t1",
    }


def test_every_field_of_the_catalogue_can_be_filled() -> None:
    clock = Clock()
    sessions = SessionLedger(lambda *_: None, lambda: clock.now, lambda: clock.wall)
    session = sessions.start("websocket", "webapp", "new", "ab" * 8)
    turn = Turn(0, "", "voice", session)
    about = turn.reference
    session.spent = UsageTotals()
    used = ModelCall(tokens=dict.fromkeys(catalog.TOKEN_TYPE.values, 1))
    session.spent.add(used, "counted", 0.5)
    turn.spent = {"model": session.spent}
    made = [
        rows.session_started(session),
        rows.session_ended(session, "cleared", 1.0, 0),
        rows.turn_ended(turn, 1.0),
        rows.feedback_given(about, "ab" * 8, "positive", True, 0),
        rows.score_given(about, "relevance", 0.5, "good", 0),
    ]
    assert [record.kind for record in made] == list(catalog.RECORDS)
    for record in made:
        assert {field.key for field in record.kind.fields} == set(record.values), record.kind.name


def test_no_field_has_the_name_of_a_namespace_or_of_another_field() -> None:
    for kind in catalog.RECORDS:
        keys = [field.key for field in (*catalog.COMMON_FIELDS, *kind.fields)]
        assert len(keys) == len(set(keys))
        columns = [field.column for field in (*catalog.COMMON_FIELDS, *kind.fields)]
        assert len(columns) == len(set(columns))
        assert not [k for k in keys for other in keys if other.startswith(f"{k}.")]
    assert tuple(kind.name for kind in catalog.RECORDS) == catalog.RECORD_KIND_ATTRIBUTE.values


@given(st.integers(min_value=0, max_value=4_000_000_000 * NS))
def test_a_time_is_what_the_standard_library_reads(at: int) -> None:
    text = rows.rfc3339(at)
    read = datetime.fromisoformat(text.replace("Z", "+00:00"))
    assert read.tzinfo == timezone.utc
    assert (read - datetime.fromtimestamp(0, timezone.utc)).total_seconds() == pytest.approx(
        at / NS, abs=1e-6
    )


def test_a_user_has_a_hash_by_the_key_and_none_without() -> None:
    # The first 16 digits of `printf ada | openssl dgst -sha256 -hmac key`.
    assert hashed_user("key", "ada") == "708a727d2475357e"
    assert hashed_user("key", "ada") != hashed_user("other", "ada")
    assert hashed_user("key", "ada") != hashed_user("key", "grace")
    assert hashed_user(None, "ada") == ""
    assert len(hashed_user("\ud800", "\ud800")) == 16
