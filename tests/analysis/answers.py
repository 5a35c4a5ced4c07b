"""What each question of the report must answer, by plain Python over plain rows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from statistics import fmean, stdev
from typing import Any

from chainlit_otel.analysis.statistics import Z
from chainlit_otel.analysis.tables import Periods
from tests.analysis import naive
from tests.analysis.naive import Row, time_of
from tests.support.population import Record

WEEK = timedelta(weeks=1)
Answer = list[tuple[Any, ...]]


def quantile(values: Iterable[float | None], q: float) -> float | None:
    """A quantile, linear between two values."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    place = q * (len(known) - 1)
    low = math.floor(place)
    high = min(low + 1, len(known) - 1)
    return known[low] + (known[high] - known[low]) * (place - low)


class Tables:
    """The tables of a report.

    Args:
        records: What they are made of.
        periods: What the report is about.
    """

    def __init__(self, records: list[Record], periods: Periods) -> None:
        def within(rows: Iterable[Row], column: str) -> list[Row]:
            found = []
            for row in rows:
                time = time_of(row[column])
                if periods.before <= time < periods.until:
                    period = "this" if time >= periods.since else "before"
                    found.append({**row, "period": period, "at": time})
            return found

        self.periods = periods
        self.sessions = within(naive.sessions(records), "chainlit_session_start")
        self.turns = within(naive.of_kind(records, "turn"), "chainlit_turn_start")
        self.feedback = within(naive.feedback_of(records), "time")
        self.scores = within(naive.of_kind(records, "score"), "time")


def by(rows: Iterable[Row], *columns: str | Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(c(row) if callable(c) else row.get(c) for c in columns)].append(row)
    return groups


def sum_of(rows: Iterable[Row], column: str) -> int:
    return sum(row.get(column) or 0 for row in rows)


def count(rows: Iterable[Row], **wanted: Any) -> int:
    return sum(all(row.get(k) == v for k, v in wanted.items()) for row in rows)


def unseen(rows: Iterable[Row]) -> int:
    return sum(row["chainlit_turn_undelivered"] > 0 for row in rows)


FIRST_TOKEN = "chainlit_turn_time_to_first_token"


def overview(t: Tables) -> Answer:
    all_sessions, turns = by(t.sessions, "period"), by(t.turns, "period")
    rows: Answer = []
    for place in {*all_sessions, *turns}:
        (period,) = place
        sessions, of = all_sessions.get(place, []), turns.get(place, [])
        users = {s["user_hash"] for s in sessions if "user_hash" in s}
        rows.append(
            (
                *(period, len(sessions), count(sessions, is_open=True)),
                *(count(sessions, chainlit_session_type="http"), len(users)),
                *(sum_of(sessions, "chainlit_session_reconnects"), len(of)),
                *(count(of, chainlit_outcome="ok"), count(of, chainlit_outcome="error")),
                *(unseen(of), quantile((turn.get(FIRST_TOKEN) for turn in of), 0.5)),
            )
        )
    return rows


def days(t: Tables) -> Answer:
    rows: Answer = []
    sessions = by(t.sessions, "period", lambda r: r["at"].date())
    turns = by(t.turns, "period", lambda r: r["at"].date())
    for period, day in {*sessions, *turns}:
        of = sessions.get((period, day), [])
        users = {s["user_hash"] for s in of if "user_hash" in s}
        rows.append((period, day, len(of), len(users), len(turns.get((period, day), []))))
    return rows


def hours(t: Tables) -> Answer:
    groups = by(t.sessions, "period", lambda r: r["at"].isoweekday(), lambda r: r["at"].hour)
    return [(*place, len(rows)) for place, rows in groups.items()]


def audience(t: Tables) -> Answer:
    columns = {
        "client": "chainlit_client_type",
        "profile": "chainlit_chat_profile",
        "origin": "chainlit_session_origin",
        "type": "chainlit_session_type",
    }
    return [
        (period, name, value or "", len(rows), sum_of(rows, "chainlit_session_turns_started"))
        for name, column in columns.items()
        for (period, value), rows in by(t.sessions, "period", column).items()
    ]


def survival(t: Tables) -> Answer:
    """The whole curve; the question keeps some of its points."""
    points: Answer = []
    lives = [s for s in t.sessions if s["chainlit_session_type"] == "websocket"]
    for (period,), rows in by(lives, "period").items():
        known = [
            (
                min(row["chainlit_session_duration"], row["seconds_known"]),
                not row["is_open"] and row["chainlit_session_duration"] <= row["seconds_known"],
            )
            for row in rows
            if row["seconds_known"] > 0
        ]
        survival, variance = 1.0, 0.0
        for duration in sorted({one for one, _ in known}):
            at_risk = sum(one >= duration for one, _ in known)
            ends = sum(one == duration and over for one, over in known)
            if not ends:
                continue
            survival *= 1 - ends / at_risk
            low = high = None
            if ends < at_risk:
                variance += ends / (at_risk * (at_risk - ends))
                width = Z * math.sqrt(variance) / -math.log(survival)
                low, high = survival ** math.exp(width), survival ** math.exp(-width)
            points.append((period, duration, at_risk, survival, low, high))
    return points


def engagement(t: Tables) -> Answer:
    over = [s for s in t.sessions if not s["is_open"] and s["chainlit_session_type"] == "websocket"]
    turns = "chainlit_session_turns_started"
    first = "chainlit_session_time_to_first_turn"
    return [
        (*place, len(rows), sum_of(rows, turns), quantile((r.get(first) for r in rows), 0.5))
        for place, rows in by(over, "period", lambda r: min(r[turns], 20)).items()
    ]


def funnel(t: Tables) -> Answer:
    sessions = [s for s in t.sessions if s["chainlit_session_type"] == "websocket"]
    starts = {
        user: sorted(r["at"] for r in rows) for (user,), rows in by(sessions, "user_hash").items()
    }
    rows: Answer = []
    for (period,), of in by(sessions, "period").items():
        again = [
            s
            for s in of
            if s["chainlit_session_turns_ok"] and s["chainlit_session_turns_started"] > 1
        ]
        known = [s for s in again if "user_hash" in s and s["at"] + WEEK <= t.periods.until]
        back = [
            s
            for s in known
            if any(s["at"] < start < s["at"] + WEEK for start in starts[s["user_hash"]])
        ]
        wrote = sum(s["chainlit_session_turns_started"] > 0 for s in of)
        answered = sum(s["chainlit_session_turns_ok"] > 0 for s in of)
        rows.append((period, len(of), wrote, answered, len(again), len(known), len(back)))
    return rows


def leaving(t: Tables) -> Answer:
    sessions = by(t.sessions, "service_instance_id", "session_id")
    limits = (0.5, 1, 2, 4, 8, 16)
    places: Counter[tuple[str, str, int]] = Counter()
    lasts: Counter[tuple[str, str, int]] = Counter()
    for turn in t.turns:
        for session in sessions.get(naive.key(turn), []):
            if (
                session["is_open"]
                or session["chainlit_session_type"] != "websocket"
                or session["chainlit_session_end_reason"] == "shutdown"
                or not session["at"] <= turn["at"] <= time_of(session["time"])
            ):
                continue
            number, wait = turn["chainlit_turn_number"], turn.get(FIRST_TOKEN)
            bucket = 99 if wait is None else sum(wait >= limit for limit in limits)
            last = number >= session["chainlit_session_turns_started"]
            for place in (
                (turn["period"], "turn", min(number, 10)),
                (turn["period"], "first_token", bucket),
            ):
                places[place] += 1
                lasts[place] += last
    return [(*place, n, lasts[place]) for place, n in places.items()]


def users(t: Tables) -> Answer:
    known = [s for s in t.sessions if "user_hash" in s]
    earlier = {s["user_hash"] for s in known if s["period"] == "before"}
    groups: dict[tuple[str, int], list[tuple[str, int]]] = defaultdict(list)
    for (period, user), rows in by(known, "period", "user_hash").items():
        there = len({row["at"].date() for row in rows})
        groups[period, min(there, 7)].append((user, len(rows)))
    return [
        (
            *(period, there, len(found), sum(n for _, n in found)),
            sum(user in earlier for user, _ in found) if period == "this" else 0,
        )
        for (period, there), found in groups.items()
    ]


def retention(t: Tables) -> Answer:
    def week(time: datetime) -> datetime:
        day = time.replace(hour=0, minute=0, second=0, microsecond=0)
        return day - timedelta(days=day.weekday())

    weeks: dict[str, set[datetime]] = defaultdict(set)
    for session in t.sessions:
        if "user_hash" in session:
            weeks[session["user_hash"]].add(week(session["at"]))
    found: Counter[tuple[Any, int]] = Counter()
    for there in weeks.values():
        cohort = min(there)
        for one in there:
            if cohort >= t.periods.before and one + WEEK <= t.periods.until:
                found[cohort.date(), (one - cohort) // WEEK] += 1
    return [(*place, n) for place, n in found.items()]


def quality(t: Tables) -> Answer:
    rows: Answer = []
    for dimension, columns in (
        ("all", ("period",)),
        ("profile", ("period", "chainlit_chat_profile")),
    ):
        turns, feedback = by(t.turns, *columns), by(t.feedback, *columns)
        for place in {*turns, *feedback}:
            of, given = turns.get(place, []), feedback.get(place, [])
            waits = [turn.get(FIRST_TOKEN) for turn in of]
            rows.append(
                (
                    *(place[0], dimension, (place[1] or "") if len(place) > 1 else "", len(of)),
                    *(count(of, chainlit_outcome=o) for o in ("ok", "error", "cancelled")),
                    *(count(of, chainlit_turn_source="edit"), unseen(of)),
                    *(count(given, chainlit_feedback_value=v) for v in ("positive", "negative")),
                    *(quantile(waits, 0.5), quantile(waits, 0.99)),
                )
            )
    return rows


def errors(t: Tables) -> Answer:
    failed = [turn for turn in t.turns if turn["chainlit_outcome"] == "error"]
    return [
        (period, error or "", callback or "", len(rows), len({r["session_id"] for r in rows}))
        for (period, error, callback), rows in by(
            failed, "period", "error_type", "chainlit_callback_name"
        ).items()
    ]


def versions(t: Tables) -> Answer:
    feedback = by(t.feedback, "service_version")
    rows: Answer = []
    for (version,), of in by(t.turns, "service_version").items():
        given = feedback.get((version,), [])
        rows.append(
            (
                *(version or "", min(r["at"] for r in of).replace(tzinfo=None), len(of)),
                *(count(of, chainlit_outcome=o) for o in ("error", "cancelled")),
                *(count(of, chainlit_turn_source="edit"), unseen(of)),
                *(count(given, chainlit_feedback_value=v) for v in ("positive", "negative")),
                quantile((r.get(FIRST_TOKEN) for r in of), 0.5),
            )
        )
    return rows


def tools(t: Tables) -> Answer:
    calls = [
        {**tool, "period": turn["period"]}
        for turn in t.turns
        for tool in turn.get("chainlit_turn_tools", [])
    ]
    rows: Answer = []
    for place, of in by(calls, "period", "name").items():
        took = [call["duration"] for call in of]
        quantiles = quantile(took, 0.5), quantile(took, 0.99)
        rows.append((*place, len(of), count(of, outcome="error"), *quantiles, sum(took)))
    return rows


_BECAME = {"error": "failed", "cancelled": "stopped"}


def cost(t: Tables) -> Answer:
    def became(turn: Row) -> str:
        unseen = "not seen in full" if turn["chainlit_turn_undelivered"] else "answered"
        return _BECAME.get(turn["chainlit_outcome"], unseen)

    used: list[Row] = []
    for turn in t.turns:
        one = {
            name.removeprefix("chainlit_turn_"): value
            for name, value in turn.items()
            if name.startswith("chainlit_turn_")
        }
        period = {"period": turn["period"]}
        used.append({**one, **period, "dimension": "all", "name": ""})
        profile = turn.get("chainlit_chat_profile", "")
        used.append({**one, **period, "dimension": "profile", "name": profile})
        used.append({**one, **period, "dimension": "became", "name": became(turn)})
        models = turn.get("chainlit_turn_models", [])
        used += [{**model, **period, "dimension": "model"} for model in models]
    rows: Answer = []
    for place, of in by(used, "period", "dimension", "name").items():
        calls = ("inferences", "uncounted", "unpriced", "input_tokens", "output_tokens")
        rows.append(
            (
                *(*place, len(of), sum(row.get("inferences", 0) > 0 for row in of)),
                *(sum_of(of, name) for name in calls),
                sum(sorted(row.get("cost", 0.0) for row in of)),
            )
        )
    return rows


def scores(t: Tables) -> Answer:
    rows: Answer = []
    for place, of in by(t.scores, "period", "gen_ai_evaluation_name").items():
        values = [row["gen_ai_evaluation_score_value"] for row in of]
        deviation = stdev(values) if len(values) > 1 else None
        rows.append((*place, len(of), fmean(values), deviation))
    return rows


def trouble(t: Tables) -> Answer:
    def points(row: Row) -> int:
        return int(
            3 * row["chainlit_session_turns_error"]
            + 3 * row["chainlit_session_feedback_negative"]
            + row["chainlit_session_turns_cancelled"]
            + (row["chainlit_session_undelivered"] > 0)
        )

    found = [s for s in t.sessions if s["period"] == "this" and points(s) > 0]
    found.sort(key=lambda s: (-points(s), s["at"], s["session_id"]))
    bad = by(
        (
            turn
            for turn in t.turns
            if turn["chainlit_outcome"] != "ok" or turn["chainlit_turn_undelivered"] > 0
        ),
        *("service_instance_id", "session_id"),
    )
    rows: Answer = []
    for s in found[:10]:
        last = (
            s["at"] + timedelta(seconds=s["chainlit_session_duration"])
            if s["is_open"]
            else time_of(s["time"])
        )
        turns = [turn for turn in bad.get(naive.key(s), []) if s["at"] <= turn["at"] <= last]
        first = min(turns, key=lambda turn: turn["at"])["trace_id"] if turns else None
        rows.append(
            (
                *(s["session_id"], s.get("gen_ai_conversation_id"), first, s.get("user_hash")),
                *(s["at"].replace(tzinfo=None), s["chainlit_session_duration"]),
                *(s["chainlit_session_turns_started"], s["chainlit_session_turns_error"]),
                *(s["chainlit_session_turns_cancelled"], s["chainlit_session_undelivered"]),
                *(s["chainlit_session_feedback_negative"], points(s)),
            )
        )
    return rows


ANSWERS: dict[str, Callable[[Tables], Answer]] = {
    answer.__name__: answer
    for answer in (
        *(overview, days, hours, audience, survival, engagement, funnel, leaving, users),
        *(retention, quality, errors, versions, tools, cost, scores, trouble),
    )
}
