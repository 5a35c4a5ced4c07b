"""What is kept of sessions and turns: enough, no more, and what is sent of changes adds up."""

from __future__ import annotations

import gc
import random
import sys
from types import FunctionType, ModuleType
from typing import Any

import pytest

from chainlit_otel.core.journal import Journal
from chainlit_otel.core.sessions import NS, Session, SessionLedger
from chainlit_otel.core.turns import ToolCall, TurnLedger
from chainlit_otel.core.usage import ModelCall, UsageTotals
from chainlit_otel.live.page import Live
from chainlit_otel.live.sessions import ENDED, WITH_TROUBLE
from chainlit_otel.live.turns import FAILED, LAST, SLOW
from tests.core.clocks import Clock

SLOW_SECONDS = 10


class Deployment:
    """Ledgers with the page on them, as the probes and the runtime put them together."""

    def __init__(self) -> None:
        self.clock = Clock()
        times = (lambda: self.clock.now, lambda: self.clock.wall)
        self.live = Live(None, "https://traces/{trace_id}", *times)
        journal: Journal = self.live.journal
        self.sessions = SessionLedger(self.live.sessions.ended, *times, journal)
        self.turns = TurnLedger(self.live.turns.add, *times)
        self.live._open_sessions = self.sessions.open
        self.live._open_turns = self.turns.open
        self._ids = 0

    def start(self) -> Session:
        self._ids += 1
        return self.sessions.start("websocket", "webapp", "new", f"{self._ids:016x}")

    def turn(self, session: Session, error: Exception | None = None, first: float = 0.1) -> None:
        turn = self.turns.start(self.clock.now, "", session=session)
        turn.reference.number = self.sessions.start_turn(session)
        self.clock.advance(int(first * NS))
        turn.output(self.clock.now)
        if error is not None:
            turn.fail(error)
        self.turns.end(turn)


def keys(rows: list[dict[str, Any]]) -> list[str]:
    return [row["key"] for row in rows]


def test_failures_and_slow_turns_outlive_the_others() -> None:
    chat = Deployment()
    session = chat.start()
    chat.turn(session, ValueError("no"))
    chat.turn(session, first=SLOW_SECONDS)
    for _ in range(5000):
        chat.turn(session)
    rows = chat.live.read_turns()["rows"]
    assert [(row["kept"], row["number"]) for row in rows[:2]] == [("failed", 1), ("slow", 2)]
    assert (rows[0]["outcome"], rows[0]["error"]) == ("error", "ValueError")
    assert [row["number"] for row in rows[2:]] == list(range(5003 - LAST, 5003))
    assert {row["kept"] for row in rows[2:]} == {"last"}


def test_memory_does_not_grow_with_what_is_over() -> None:
    chat = Deployment()
    for n in range(3000):
        session = chat.start()
        chat.turn(session, ValueError("no") if n % 3 == 0 else None, SLOW_SECONDS if n % 2 else 0)
        chat.sessions.end(session, "cleared")
    shown = chat.live.read_sessions()
    assert (len(shown["open"]), len(shown["ended"])) == (0, ENDED + WITH_TROUBLE)
    rows = chat.live.read_turns()["rows"]
    assert len(rows) == LAST + FAILED + SLOW
    assert chat.live.turns.totals() == {"error": 1000, "ok": 2000}


def test_a_session_tells_what_has_happened_in_it() -> None:
    chat = Deployment()
    session = chat.start()
    chat.clock.advance(NS)
    chat.turn(session, KeyError("who"))
    session.close_reason = "ping_timeout"
    chat.sessions.drop(session)
    chat.turns.drop("new_message", None, session)
    chat.clock.advance(2 * NS)
    chat.sessions.restore(session)
    (row,) = chat.live.read_sessions()["open"]
    assert (row["state"], row["turns"], row["errors"], row["undelivered"]) == ("connected", 1, 1, 1)
    chat.sessions.end(session, "cleared")
    found = chat.live.read_session(row["key"])
    assert found is not None
    assert [(e["kind"], e["detail"]) for e in found["events"]] == [
        ("connect", ""),
        ("turn", "1"),
        ("turn_end", "KeyError"),
        ("drop", "ping_timeout"),
        ("undelivered", "new_message"),
        ("reconnect", ""),
        ("end", "cleared"),
    ]
    began = row["started"]
    assert [round(e["at"] - began, 3) for e in found["events"]] == [0, 1, 1.1, 1.1, 1.1, 3.1, 3.1]
    assert [turn["number"] for turn in found["turns"]] == [1]
    assert (found["row"]["state"], found["row"]["reason"]) == ("ended", "cleared")
    assert chat.live.read_session("nonsense") is None


@pytest.mark.parametrize("hours", [-1, 1])
def test_after_a_step_of_the_clock_ages_are_right(hours: int) -> None:
    chat = Deployment()
    session = chat.start()
    chat.clock.advance(NS)
    chat.turn(session)
    chat.turns.start(chat.clock.now, "", session=session)
    chat.clock.advance(NS)
    chat.clock.step(hours * 3600 * NS)
    shown = chat.live.read_sessions()
    (row,) = shown["open"]
    assert shown["at"] - row["started"] == pytest.approx(2.1)
    assert shown["at"] - row["doing"]["since"] == pytest.approx(1)
    told = chat.live.read_session(row["key"])
    assert told is not None
    turn = told["turns"][0]
    assert turn["started"] - row["started"] == pytest.approx(1)
    assert [round(e["at"] - row["started"], 3) for e in told["events"]] == [0, 1, 1.1]


def test_a_turn_under_way_is_what_its_session_is_doing() -> None:
    chat = Deployment()
    session = chat.start()
    turn = chat.turns.start(chat.clock.now, "", session=session)
    (row,) = chat.live.read_sessions()["open"]
    assert row["doing"] == {"since": chat.clock.wall / NS, "callback": "", "step": ""}
    turn.tools += (ToolCall("search", 0.5, "ok"),)
    turn.reference.trace_id = "ab" * 16
    turn.spent = {"gpt-4o": UsageTotals()}
    used = ModelCall(tokens={"input": 10, "output": 5})
    turn.spent["gpt-4o"].add(used, "counted", 0.25)
    chat.turns.end(turn)
    (row,) = chat.live.read_sessions()["open"]
    assert row["doing"] is None
    (ended,) = chat.live.read_turns()["rows"]
    assert ended["tools"] == [{"name": "search", "seconds": 0.5, "outcome": "ok"}]
    known = {"inferences": 1, "uncounted": 0, "unpriced": 0, "input_tokens": 10}
    assert ended["models"] == [{"name": "gpt-4o", **known, "output_tokens": 5, "cost": 0.25}]
    assert ended["trace_url"] == f"https://traces/{'ab' * 16}"


@pytest.mark.parametrize("seed", range(20))
def test_what_is_sent_of_changes_adds_up_to_what_is_there(seed: int) -> None:
    dice, chat = random.Random(seed), Deployment()
    open_sessions = [chat.start() for _ in range(10)]
    chat.live.look()
    shown = {row["key"]: row for row in chat.live.read_sessions()["open"]}
    turns = {row["key"]: row for row in chat.live.read_turns()["rows"]}
    for _ in range(30):
        for _ in range(dice.randrange(10)):
            chat.clock.advance(NS)
            session = dice.choice(open_sessions)
            what = dice.choice(["start", "turn", "drop", "restore", "end", "fail", "lose"])
            if what == "start":
                open_sessions.append(chat.start())
            elif what in ("turn", "fail"):
                chat.turn(session, ValueError() if what == "fail" else None)
            elif what == "end" and len(open_sessions) > 1:
                open_sessions.remove(session)
                chat.sessions.end(session, "timeout")
            elif what == "lose":
                chat.turns.drop("stream_token", None, session)
            elif what in ("drop", "restore"):
                getattr(chat.sessions, what)(session)
        sessions, ended_turns = chat.live.changes()
        shown |= {row["key"]: row for row in sessions}
        turns |= {row["key"]: row for row in ended_turns}
        there = chat.live.read_sessions()
        now = {row["key"]: row for row in there["open"]}
        assert {k: r for k, r in shown.items() if r["state"] not in ("ended", "gone")} == now
        assert turns == {row["key"]: row for row in chat.live.read_turns()["rows"]}
        ended = {row["key"]: row for row in there["ended"]}
        assert {k: r for k, r in shown.items() if r["state"] == "ended"}.items() <= ended.items()
    assert chat.live.changes() == ([], [])


def test_an_end_of_which_nothing_is_known_is_gone() -> None:
    chat = Deployment()
    sessions = [chat.start() for _ in range(ENDED + 3)]
    chat.live.look()
    for session in sessions:
        chat.sessions.end(session, "shutdown")
    rows, _ = chat.live.changes()
    assert sorted(row["state"] for row in rows) == ["ended"] * ENDED + ["gone"] * 3
    assert len(set(keys(rows))) == ENDED + 3


def test_while_nobody_looks_no_session_is_held() -> None:
    chat = Deployment()
    sessions = [chat.start() for _ in range(1000)]
    chat.live.look()
    chat.live.sample(1)
    assert len(chat.live.sessions._shown) == 1000
    chat.live.sample(0)
    assert len(chat.live.sessions._shown) == 0
    # Whoever looks next begins anew.
    chat.live.look()
    chat.sessions.end(sessions[0], "cleared")
    assert [row["state"] for row in chat.live.changes()[0]] == ["ended"]


def reachable_bytes(root: object) -> int:
    """The size of all that an object refers to, but for code."""
    seen, found, size = {id(root)}, [root], 0
    while found:
        thing = found.pop()
        size += sys.getsizeof(thing)
        for other in gc.get_referents(thing):
            if id(other) not in seen and not isinstance(other, (type, ModuleType, FunctionType)):
                seen.add(id(other))
                found.append(other)
    return size


def test_a_server_that_has_had_many_sessions_holds_no_more_than_one_with_few() -> None:
    chat, sizes = Deployment(), []
    for n in range(1, 40_001):
        session = chat.start()
        chat.turn(session, ValueError("no") if n % 3 == 0 else None, SLOW_SECONDS if n % 2 else 0)
        chat.sessions.drop(session)
        chat.sessions.restore(session)
        chat.sessions.end(session, "cleared")
        if n % 10_000 == 0:
            chat.live.sample(0)
            sizes.append(reachable_bytes(chat))
    assert max(sizes) - min(sizes) < 0.01 * min(sizes)
    assert max(sizes) < 2 * 2**20 + chat.live.history.size


def test_spans_are_wanted_while_somebody_looks_and_for_a_while_after() -> None:
    chat = Deployment()
    wanted = []
    for pages in (0, 1, *[0] * 31, 1, 0):
        if pages:
            chat.live.look()
        chat.live.sample(pages)
        wanted.append(chat.live.traces.is_wanted)
        chat.clock.advance(30 * NS)
    assert wanted == [False, *[True] * 31, False, True, True]
