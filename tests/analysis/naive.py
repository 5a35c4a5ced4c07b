"""The tables of an analysis, made of records by plain Python: what the SQL must come to as well."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timezone
from statistics import median
from typing import Any

from chainlit_otel.catalog import USAGE
from tests.support.population import Record

Row = dict[str, Any]
Key = tuple[str, str]


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=timezone.utc)


def seconds(start: str, end: str) -> float:
    """Seconds between two times, by whole milliseconds as these are counted in each."""

    def milliseconds(text: str) -> int:
        return int(time_of(text).timestamp() * 1_000_000) // 1000

    return (milliseconds(end) - milliseconds(start)) / 1000


def thousandth(time: str) -> str:
    """A time up to its milliseconds."""
    return time[: len("2026-11-26T10:00:00.000")]


def key(record: Record) -> Key:
    return record["service_instance_id"], record["session_id"]


def sessions(records: Iterable[Record]) -> list[Row]:
    """One row for each session, ended or open, with what a test asks for."""
    kinds: dict[str, list[Record]] = defaultdict(list)
    last: dict[str, str] = {}
    for record in records:
        kinds[record["kind"]].append(record)
        instance = record["service_instance_id"]
        last[instance] = max(last.get(instance, ""), record["time"])
    kinds["feedback"] = feedback_of(kinds["feedback"])
    over = {(*key(e), thousandth(e["chainlit_session_start"])) for e in kinds["session.end"]}
    started = [s for s in kinds["session.start"] if (*key(s), thousandth(s["time"])) not in over]
    starts: dict[Key, list[str]] = defaultdict(list)
    for start in kinds["session.start"]:
        starts[key(start)].append(start["time"])

    def next_of(start: Record) -> str | None:
        """When the id of a session was used again, if it was."""
        later = (time for time in starts[key(start)] if time > start["time"])
        return min(later, default=None)

    waits = [
        seconds(end["chainlit_session_start"], end["time"]) - end["chainlit_session_duration"]
        for end in kinds["session.end"]
        if end["chainlit_session_end_reason"] == "timeout"
    ]
    running = {start["service_instance_id"] for start in started}
    unknown = {i: median(waits) if waits and i in running else 0.0 for i in last}

    def known(instance: str, start: str, until: str | None = None) -> float:
        return seconds(start, until or last[instance]) - unknown[instance]

    rows = [
        {
            **end,
            "is_open": False,
            "seconds_known": known(end["service_instance_id"], end["chainlit_session_start"]),
        }
        for end in kinds["session.end"]
    ]
    for start in started:
        one, until = key(start), next_of(start)
        turns, feedback = (
            [
                record
                for record in kinds[kind]
                if key(record) == one
                and record["time"] >= start["time"]
                and (until is None or record["time"] < until)
            ]
            for kind in ("turn", "feedback")
        )
        values = [given["chainlit_feedback_value"] for given in feedback]
        outcomes = [turn["chainlit_outcome"] for turn in turns]
        row = {
            **start,
            "chainlit_session_start": start["time"],
            "is_open": True,
            "chainlit_session_duration": seconds(start["time"], until or last[one[0]]),
            "chainlit_session_turns_started": len(outcomes),
            **{f"chainlit_session_turns_{o}": outcomes.count(o) for o in OUTCOMES},
            "chainlit_session_undelivered": sum(
                turn["chainlit_turn_undelivered"] for turn in turns
            ),
            "chainlit_session_feedback_positive": values.count("positive"),
            "chainlit_session_feedback_negative": values.count("negative"),
            "seconds_known": known(one[0], start["time"], until),
        }
        for name in USAGE:
            used = [
                turn[f"chainlit_turn_{name}"] for turn in turns if f"chainlit_turn_{name}" in turn
            ]
            if used:
                row[f"chainlit_session_{name}"] = sum(used)
        if turns:
            first = min(turn["chainlit_turn_start"] for turn in turns)
            row["chainlit_session_time_to_first_turn"] = seconds(start["time"], first)
            row["gen_ai_conversation_id"] = turns[0]["gen_ai_conversation_id"]
        rows.append(row)
    return rows


def feedback_of(records: Iterable[Record]) -> list[Row]:
    """Feedback as it was given last on each message, and all whose message is not known."""
    last: dict[tuple[str, str], Row] = {}
    rows = []
    for record in sorted(of_kind(records, "feedback"), key=lambda one: one["time"]):
        if "chainlit_feedback_message" in record:
            last[record["service_instance_id"], record["chainlit_feedback_message"]] = record
        else:
            rows.append(record)
    return rows + [one for one in last.values() if one["chainlit_feedback_value"] != "deleted"]


OUTCOMES = ("ok", "error", "cancelled")


def of_kind(records: Iterable[Record], kind: str) -> list[Row]:
    return [record for record in records if record["kind"] == kind]
