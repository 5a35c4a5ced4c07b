"""Records against a script that knows what it did: row by row, by files and by OTLP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chainlit_otel import catalog
from chainlit_otel.core.hashes import hashed_user
from chainlit_otel.testing import Visitor
from tests.support import LAYER
from tests.support.otlp import Receiver
from tests.support.refusal import be_refused
from tests.support.scrape import Scrape, wait_until, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

SEED = 20261126
SESSIONS = 300
AT_ONCE = 12
GRACE = 15  # seconds; nobody who comes back needs as long, however busy the machine is
TOLERANCE = 0.050  # seconds a session, between the script's clock and the server's
KEY = "a key of this test"
USERS = ("ada.l", "grace.h", "alan.t")
CANARY = "canary-4711"

APP = """
import asyncio
import os

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl
from chainlit.server import sio
from layer import Layer


@cl.data_layer
def data_layer():
    return Layer()


@cl.password_auth_callback
def sign_in(name, password):
    return cl.User(identifier=name)


@cl.set_chat_profiles
async def profiles(user):
    return [cl.ChatProfile(name=name, markdown_description=name) for name in ("short", "long")]


@cl.step(type="tool", name="search")
async def search(text):
    if "fail" in text:
        raise ValueError("canary-4711")
    return "canary-4711"


def note(text):
    with open("notes", "a") as notes:
        notes.write(text + "\\n")


@cl.on_message
async def answer(message):
    kind, _, number = message.content.split(" ")[0].partition(":")
    if kind == "stream":
        await search(message.content)
        chainlit_otel.record_score("relevance", int(number) / 10)
        reply = cl.Message("")
        for _ in range(int(number)):
            await reply.stream_token("ab")
        await reply.send()
    elif kind == "fail":
        await search(message.content)
    elif kind == "wait":
        await cl.Message("waiting").send()
        await asyncio.sleep(600)
    elif kind == "lose":
        while sio.manager.is_connected(cl.context.session.socket_id, "/"):
            await asyncio.sleep(0.01)
        await cl.Message("lost").send()
        note(message.id)
    elif kind == "fork":
        if (child := os.fork()) == 0:
            os._exit(0)
        os.waitpid(child, 0)
        await cl.Message("forked").send()
"""

CHARACTERS = {"stream": len(f"stream:5 {CANARY}"), "wait": len("waiting"), "fork": len("forked")}


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(receiver: Receiver) -> Iterator[ChainlitServer]:
    with ChainlitServer(
        {"app.py": APP, "layer.py": LAYER},
        config={"project": {"session_timeout": GRACE}},
        env={
            "CHAINLIT_AUTH_SECRET": "a-secret-of-this-test-and-nothing-else",
            "CHAINLIT_OTEL_RECORDS_DIR": "records",
            "CHAINLIT_OTEL_EXPORT_RECORDS": "true",
            "CHAINLIT_OTEL_USER_HASH_KEY": KEY,
            "CHAINLIT_OTEL_SHUTDOWN_TIMEOUT": "30",
            **receiver.env,
        },
    ) as server:
        yield server


def rows(server: ChainlitServer) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in sorted((server.directory / "records").glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def of_kind(server: ChainlitServer, kind: str) -> list[dict[str, Any]]:
    return [row for row in rows(server) if row["kind"] == kind]


def digest(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()[:16]


class Stay:
    """What one session has to be in the records.

    Attributes:
        row: the fields of its end.
        turns: the fields of its turns.
        feedback: values of the feedback, with the number of the turn.
        least, most: bounds of its duration, by the clock of the visitor.
    """

    def __init__(self, user: str, profile: str) -> None:
        self.user = hashed_user(KEY, user)
        self.profile = profile
        self.row: Counter[str] = Counter()
        self.turns: list[dict[str, Any]] = []
        self.feedback: list[tuple[int, str]] = []
        self.least = self.most = 0.0
        self.reason = ""


class Script:
    """Sends visitors, and keeps a ledger of what each of them did."""

    def __init__(self, server: ChainlitServer) -> None:
        self.server = server
        self.stays: dict[str, Stay] = {}
        self.refused = 0
        self._cookies = {user: self._sign_in(user) for user in USERS}

    def _sign_in(self, user: str) -> str:
        form = {"username": user, "password": "any"}
        answer = httpx.post(f"{self.server.url}/login", data=form)
        answer.raise_for_status()
        return "; ".join(f"{name}={value}" for name, value in answer.cookies.items())

    async def visit(self, dice: random.Random) -> None:
        user, profile = dice.choice(USERS), dice.choice(["short", "long"])
        cookie = {"Cookie": self._cookies[user]}
        visitor = Visitor(
            self.server.url,
            headers=cookie,
            chat_profile=profile,
            transports=["websocket"],
        )
        before = time.monotonic()
        await visitor.connect()
        after = time.monotonic()
        stay = self.stays[digest(visitor.session_id)] = Stay(user, profile)
        async with httpx.AsyncClient(base_url=self.server.url, headers=cookie, timeout=60) as http:
            for _ in range(dice.choice([0, 1, 1, 2, 3])):
                kind = dice.choice(["stream", "stream", "stream", "fail", "wait", "lose", "drop"])
                await self._do(kind, dice, visitor, stay, http)
        leaves = time.monotonic()
        clear = dice.random() < 0.5
        await visitor.leave(clear=clear)
        stay.reason = "cleared" if clear else "timeout"
        stay.least, stay.most = leaves - after, time.monotonic() - before

    async def _do(
        self,
        kind: str,
        dice: random.Random,
        visitor: Visitor,
        stay: Stay,
        http: httpx.AsyncClient,
    ) -> None:
        if kind == "drop":
            await visitor.drop()
            await visitor.reconnect()
            stay.row["reconnects"] += 1
            return
        number = dice.randrange(1, 10)
        text = f"{kind}:{number} {CANARY}"
        expected: dict[str, Any] = {
            "chainlit_turn_source": "message",
            "chainlit_turn_input_size": len(text),
            "chainlit_outcome": "ok",
            "chainlit_turn_chunks": 0,
            "chainlit_turn_output_size": 0,
            "chainlit_turn_data_layer_errors": 0,
            "tools": [],
        }
        seen = len(visitor.events)
        if kind == "stream":
            assert (await visitor.say(text)).texts == ["ab" * number]
            expected |= {
                "chainlit_turn_chunks": number,
                "chainlit_turn_output_size": 2 * number,
                "tools": [("search", "ok")],
            }
            if dice.random() < 0.5:
                await self._judge(dice, visitor, seen, stay, http)
        elif kind == "fail":
            await visitor.say(text)
            expected |= {
                "chainlit_outcome": "error",
                "error_type": "ValueError",
                "chainlit_callback_name": "on_message",
                "tools": [("search", "error")],
            }
        elif kind == "wait":
            turn = asyncio.create_task(visitor.say(text))
            await visitor.until(
                lambda: any(_is_answer(event) for event in visitor.events[seen:]), "the app to wait"
            )
            await visitor.emit("stop")
            await turn
            expected |= {
                "chainlit_outcome": "cancelled",
                "chainlit_turn_output_size": CHARACTERS["wait"],
            }
        elif kind == "lose":
            message = await visitor.send(text)
            await visitor.until(
                lambda: any(event.name == "new_message" for event in visitor.events[seen:]),
                "the app to start",
            )
            await visitor.drop()
            await self._said(message)
            await visitor.reconnect()
            stay.row["reconnects"] += 1
            stay.row["lost"] += 1
        stay.row[str(expected["chainlit_outcome"])] += 1
        stay.turns.append(expected)

    async def _judge(
        self,
        dice: random.Random,
        visitor: Visitor,
        seen: int,
        stay: Stay,
        http: httpx.AsyncClient,
    ) -> None:
        answer = next(event.data["id"] for event in visitor.events[seen:] if _is_answer(event))
        value = dice.choice([0, 1])
        feedback = {"forId": answer, "value": value, "comment": CANARY if value else None}
        body = {"feedback": feedback, "sessionId": visitor.session_id}
        (await http.put("/feedback", json=body)).raise_for_status()
        stay.feedback.append((len(stay.turns) + 1, "positive" if value else "negative"))

    async def _said(self, message: str) -> None:
        async def condition() -> bool:
            return message in self.server.read("notes")

        await wait_until_async(condition, 60, "the app to have said it to nobody")

    async def be_refused(self) -> None:
        await be_refused(Visitor(self.server.url, transports=["websocket"]))
        self.refused += 1


def _is_answer(event: Any) -> bool:
    return event.name in ("new_message", "stream_start") and event.data.get("type") == (
        "assistant_message"
    )


async def everybody(script: Script) -> None:
    dice = random.Random(SEED)
    seeds = iter([dice.random() for _ in range(SESSIONS)])

    async def one_after_the_other() -> None:
        for seed in seeds:
            await script.visit(random.Random(seed))
            if seed < 0.05:
                await script.be_refused()

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))


@pytest.fixture(scope="module")
def done(server: ChainlitServer) -> tuple[Script, Scrape]:
    script = Script(server)
    asyncio.run(everybody(script))

    def is_over() -> Scrape | None:
        now = server.scrape()
        written = now.value(
            "chainlit_otel_records_written_total",
            chainlit_otel_record_kind="session.end",
            chainlit_otel_record_destination="file",
        )
        over = now.sum("chainlit_session_ends_total") == written == SESSIONS
        return server.scrape() if over else None

    scrape = wait_until(is_over, 90, "everybody to be gone, and written down")
    assert scrape is not None
    return script, scrape


def test_every_session_is_what_the_script_did(
    server: ChainlitServer, done: tuple[Script, Scrape]
) -> None:
    script, _ = done
    starts, ends = of_kind(server, "session.start"), of_kind(server, "session.end")
    assert Counter(row["session_id"] for row in starts) == Counter([*script.stays])
    assert Counter(row["session_id"] for row in ends) == Counter([*script.stays])
    started = {row["session_id"]: row for row in starts}
    for row in ends:
        stay, start = script.stays[row["session_id"]], started[row["session_id"]]
        positive = sum(value == "positive" for _, value in stay.feedback)
        shown = {
            "chainlit_session_type": "websocket",
            "chainlit_client_type": "webapp",
            "chainlit_session_origin": "new",
            "user_hash": stay.user,
            "chainlit_chat_profile": stay.profile,
        }
        assert {key: start[key] for key in shown} == shown
        expected = {
            **shown,
            "chainlit_session_start": start["time"],
            "chainlit_session_end_reason": stay.reason,
            "chainlit_session_turns_started": len(stay.turns),
            "chainlit_session_turns_ok": stay.row["ok"],
            "chainlit_session_turns_error": stay.row["error"],
            "chainlit_session_turns_cancelled": stay.row["cancelled"],
            "chainlit_session_reconnects": stay.row["reconnects"],
            "chainlit_session_feedback_positive": positive,
            "chainlit_session_feedback_negative": len(stay.feedback) - positive,
        }
        assert {key: row[key] for key in expected} == expected
        # The answer, and the step that it is in.
        assert (row["chainlit_session_undelivered"] > 0) == (stay.row["lost"] > 0)
        assert stay.least <= row["chainlit_session_duration"]
        assert ("chainlit_session_time_to_first_turn" in row) == bool(stay.turns)
        assert 0 <= row["chainlit_session_connected"] <= row["chainlit_session_duration"]
        gap = row.get("chainlit_session_longest_gap", 0)
        missing = row["chainlit_session_duration"] - row["chainlit_session_connected"]
        assert gap <= missing + 2e-6
        assert (missing < 2e-6) == (gap == 0)
    # The server hears of an end a moment after the visitor has left.
    later = sum(
        row["chainlit_session_duration"] - script.stays[row["session_id"]].most for row in ends
    )
    print(f"{1000 * later / len(ends):.2f} ms a session longer than by the clock of the visitors")
    assert later <= TOLERANCE * len(ends)


def test_every_turn_is_what_the_script_did(
    server: ChainlitServer, done: tuple[Script, Scrape]
) -> None:
    script, _ = done
    turns: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(of_kind(server, "turn"), key=lambda row: row["chainlit_turn_number"]):
        turns.setdefault(row["session_id"], []).append(row)
    assert sum(map(len, turns.values())) > SESSIONS
    for session, stay in script.stays.items():
        found = turns.get(session, [])
        assert [row["chainlit_turn_number"] for row in found] == [*range(1, len(stay.turns) + 1)]
        for row, expected in zip(found, stay.turns, strict=True):
            tools = [(t["name"], t["outcome"]) for t in row.get("chainlit_turn_tools", [])]
            wanted = {key: value for key, value in expected.items() if key != "tools"}
            assert {key: row.get(key) for key in wanted} == wanted
            assert tools == expected["tools"]
            assert (row["user_hash"], row["chainlit_chat_profile"]) == (stay.user, stay.profile)
            assert row["chainlit_turn_steps"] >= len(tools)
            first = row.get("chainlit_turn_time_to_first_token", 0)
            assert 0 <= first <= row["chainlit_turn_duration"]


def test_feedback_and_scores_are_of_their_turns(
    server: ChainlitServer, done: tuple[Script, Scrape]
) -> None:
    script, _ = done
    expected = Counter(
        (session, number, value, value == "positive")
        for session, stay in script.stays.items()
        for number, value in stay.feedback
    )
    assert sum(expected.values()) > 30
    assert expected == Counter(
        (
            row["session_id"],
            row["chainlit_turn_number"],
            row["chainlit_feedback_value"],
            row["chainlit_feedback_has_comment"],
        )
        for row in of_kind(server, "feedback")
    )
    scores = Counter(
        (session, number, turn["chainlit_turn_chunks"] / 10)
        for session, stay in script.stays.items()
        for number, turn in enumerate(stay.turns, 1)
        if turn["tools"] == [("search", "ok")]
    )
    assert scores == Counter(
        (row["session_id"], row["chainlit_turn_number"], row["gen_ai_evaluation_score_value"])
        for row in of_kind(server, "score")
    )


def test_sums_over_the_rows_are_the_metrics(
    server: ChainlitServer, done: tuple[Script, Scrape]
) -> None:
    _, scrape = done
    starts, ends, turns = (of_kind(server, k) for k in ("session.start", "session.end", "turn"))

    def total(found: list[dict[str, Any]], key: str) -> float:
        return float(sum(row.get(key, 0) for row in found))

    assert len(starts) == scrape.sum("chainlit_session_starts_total")
    for reason, count in Counter(row["chainlit_session_end_reason"] for row in ends).items():
        label = {"chainlit_session_end_reason": reason}
        assert count == scrape.sum("chainlit_session_ends_total", **label)
    assert total(ends, "chainlit_session_duration") == pytest.approx(
        scrape.sum("chainlit_session_duration_seconds_sum"), abs=1e-6 * len(ends)
    )
    assert total(ends, "chainlit_session_reconnects") == scrape.sum(
        "chainlit_session_reconnects_total"
    )
    assert total(ends, "chainlit_session_turns_started") == len(turns)
    assert total(ends, "chainlit_session_undelivered") == scrape.sum("chainlit_emit_dropped_total")
    assert total(turns, "chainlit_turn_chunks") == scrape.sum(catalog.OUTPUT_CHUNKS.prometheus_name)
    assert total(turns, "chainlit_turn_duration") == pytest.approx(
        scrape.sum("chainlit_turn_duration_seconds_sum"), abs=1e-6 * len(turns)
    )
    for outcome, count in Counter(row["chainlit_outcome"] for row in turns).items():
        name, label = "chainlit_turn_duration_seconds_count", {"chainlit_outcome": outcome}
        assert count == scrape.sum(name, **label)
    values = Counter(row["chainlit_feedback_value"] for row in of_kind(server, "feedback"))
    for value, count in values.items():
        label = {"chainlit_feedback_value": value}
        assert count == scrape.sum("chainlit_feedback_total", **label)
    written = Counter(row["kind"] for row in rows(server))
    for kind in catalog.RECORD_KIND_ATTRIBUTE.values:
        for destination in ("file", "log"):
            labels = {
                "chainlit_otel_record_kind": kind,
                "chainlit_otel_record_destination": destination,
            }
            assert scrape.value("chainlit_otel_records_written_total", **labels) == written[kind]
            assert scrape.value("chainlit_otel_records_dropped_total", **labels) == 0
    assert scrape.sum("chainlit_otel_internal_errors_total") == 0


def test_the_log_events_are_the_same_rows(
    server: ChainlitServer, receiver: Receiver, done: tuple[Script, Scrape]
) -> None:
    written = rows(server)
    wait_until(lambda: len(receiver.logs) >= len(written), 60, "all log events")
    kinds = {kind.name: kind for kind in catalog.RECORDS}

    def as_event(row: dict[str, Any]) -> tuple[str, frozenset[tuple[str, str]]]:
        kind = kinds[row["kind"]]
        attributes = {
            field.key: row[field.column]
            for field in kind.fields
            if field.column in row and field.key not in ("trace_id", "span_id")
        }
        if tools := attributes.pop(catalog.TURN_TOOLS, None):
            attributes[catalog.TURN_TOOLS] = json.dumps(tools, separators=(",", ":"))
        attributes |= {
            catalog.RECORD_KIND_ATTRIBUTE.key: row["kind"],
            catalog.RECORD_SCHEMA_KEY: row["schema"],
            "scope": catalog.SCOPE,
            "trace_id": row.get("trace_id", ""),
        }
        return kind.event, frozenset((key, str(value)) for key, value in attributes.items())

    found = Counter((log.name, frozenset(log.attributes.items())) for log in receiver.logs)
    assert found == Counter(map(as_event, written))


def test_a_turn_leads_to_its_trace(
    server: ChainlitServer, receiver: Receiver, done: tuple[Script, Scrape]
) -> None:
    turns = {(row["trace_id"], row["span_id"]): row for row in of_kind(server, "turn")}
    wait_until(lambda: len(receiver.named("chainlit.turn")) >= len(turns), 60, "all spans")
    spans = {(span.trace, span.id): span for span in receiver.named("chainlit.turn")}
    assert spans.keys() == turns.keys()
    for key, span in spans.items():
        assert span.attributes["session.id"] == turns[key]["session_id"]
        assert span.attributes["gen_ai.conversation.id"] == turns[key]["gen_ai_conversation_id"]
        assert span.attributes["chainlit.outcome"] == turns[key]["chainlit_outcome"]


def test_nothing_that_anybody_wrote_or_is_called_is_in_a_record(
    server: ChainlitServer, receiver: Receiver, done: tuple[Script, Scrape]
) -> None:
    for text in (*map(json.dumps, rows(server)), *map(str, receiver.logs)):
        assert CANARY not in text
        assert not [user for user in USERS if user in text]


def test_a_fork_writes_nothing_twice_and_a_stop_writes_all(server: ChainlitServer) -> None:
    before = rows(server)

    async def stay_till_the_end() -> list[str]:
        script = Script(server)
        visitors = [
            Visitor(server.url, headers={"Cookie": script._cookies[USERS[0]]}) for _ in range(3)
        ]
        for visitor in visitors:
            await visitor.connect()
        assert (await visitors[0].say("fork:0 x")).texts == ["forked"]
        seen = len(visitors[1].events)
        await visitors[1].send("wait:0 x")
        await visitors[1].until(
            lambda: any(_is_answer(event) for event in visitors[1].events[seen:]), "it to wait"
        )
        assert await asyncio.to_thread(server.stop, signal.SIGTERM) == 0
        for visitor in visitors:
            await visitor.leave()
        return [digest(visitor.session_id) for visitor in visitors]

    sessions = asyncio.run(stay_till_the_end())
    more = rows(server)[len(before) :]
    assert len({row["service_instance_id"] for row in rows(server)}) == 1
    assert Counter((row["kind"], row["session_id"]) for row in more) == Counter(
        {
            **{(kind, s): 1 for s in sessions for kind in ("session.start", "session.end")},
            ("turn", sessions[0]): 1,
            ("turn", sessions[1]): 1,
        }
    )
    assert {row["chainlit_session_end_reason"] for row in more if "end" in row["kind"]} == {
        "shutdown"
    }
    assert [row["chainlit_outcome"] for row in more if row["kind"] == "turn"] == [
        "ok",
        "cancelled",
    ]


def test_without_a_key_nobody_has_a_hash() -> None:
    with ChainlitServer(
        {"app.py": APP, "layer.py": LAYER},
        env={
            "CHAINLIT_AUTH_SECRET": "a-secret-of-this-test-and-nothing-else",
            "CHAINLIT_OTEL_RECORDS_DIR": "records",
        },
    ) as server:
        script = Script(server)

        async def visit() -> None:
            visitor = Visitor(server.url, headers={"Cookie": script._cookies[USERS[0]]})
            await visitor.connect()
            assert (await visitor.say("stream:3 x")).texts == ["ababab"]
            await visitor.leave(clear=True)

        asyncio.run(visit())
        assert server.stop() == 0
        found = rows(server)
        assert Counter(row["kind"] for row in found) == {
            "session.start": 1,
            "turn": 1,
            "score": 1,
            "session.end": 1,
        }
        assert not [row for row in found if "user_hash" in row]


def test_a_directory_that_cannot_be_written_harms_nobody_and_is_counted() -> None:
    env = {
        "CHAINLIT_AUTH_SECRET": "a-secret-of-this-test-and-nothing-else",
        "CHAINLIT_OTEL_RECORDS_DIR": "app.py/records",
    }
    with ChainlitServer({"app.py": APP, "layer.py": LAYER}, env=env) as server:
        script = Script(server)

        async def visit() -> None:
            for number in range(1, 4):
                visitor = Visitor(server.url, headers={"Cookie": script._cookies[USERS[0]]})
                await visitor.connect()
                assert (await visitor.say(f"stream:{number} x")).texts == ["ab" * number]
                await visitor.leave(clear=True)

        asyncio.run(visit())
        expected = {"session.start": 3, "turn": 3, "score": 3, "session.end": 3, "feedback": 0}

        def lost() -> dict[str, float]:
            now = server.scrape()
            assert now.sum("chainlit_otel_records_written_total") == 0
            assert now.sum("chainlit_otel_internal_errors_total") == 0
            return {
                kind: now.sum("chainlit_otel_records_dropped_total", chainlit_otel_record_kind=kind)
                for kind in expected
            }

        wait_until(lambda: lost() == expected, 60, f"the loss of {expected}")
        assert server.stop() == 0
        (line,) = [line for line in server.log.splitlines() if "records are lost" in line]
        assert "app.py/records): Not a directory" in line


WRITER = """
import sys, time
from pathlib import Path
from chainlit_otel import catalog
from chainlit_otel.records.files import JsonLines
from chainlit_otel.records.queue import RecordQueue
from chainlit_otel.records.rows import Record
queue = RecordQueue([JsonLines(Path(sys.argv[1]), {}, 2**30, 30)])
for number in range(100_000):
    queue.put(Record(catalog.TURN_RECORD, 0, {catalog.TURN_NUMBER: number}))
    if number % 50 == 0:
        print(queue.written()["turn", "file"], flush=True)
    time.sleep(0.0005)
"""
KILLS = 50


def test_a_process_that_is_killed_leaves_whole_files(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    for first in range(0, KILLS, 5):
        started: list[tuple[Path, subprocess.Popen[str], int]] = []
        for number in range(first, first + 5):
            directory = tmp_path / str(number)
            process = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(directory)],
                stdout=subprocess.PIPE,
                text=True,
            )
            started.append((directory, process, dice.randrange(1, 1500)))
        for directory, process, enough in started:
            assert process.stdout is not None
            written = 0
            while written < enough:
                written = int(process.stdout.readline())
            process.kill()
            # What it may have said before it died.
            said, _ = process.communicate(timeout=60)
            written = max([written, *map(int, said.split())])
            text = "".join(file.read_text() for file in directory.glob("*.jsonl"))
            # Of what was being written a part may be there: the last line, and no other.
            *lines, _ = text.split("\n")
            numbers = [json.loads(line)["chainlit_turn_number"] for line in lines]
            assert numbers == [*range(len(numbers))]
            assert len(numbers) >= written >= enough
