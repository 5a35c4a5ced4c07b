"""Ten thousand connects with whatever a browser may send: no new series, no wrong count."""

from __future__ import annotations

import asyncio
import json
import random
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import aiohttp
import pytest

from chainlit_otel import catalog
from chainlit_otel.testing import Visitor
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

SEED = 20260713
CONNECTS = 10_000
AT_ONCE = 32
GRACE = 1
PAUSE = 0.1  # between two messages of the user who goes on meanwhile

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.on_message
async def answer(message):
    await cl.Message("You said: " + message.content).send()
"""

Outcome = Literal["started", "refused", "failed", "unheard"]
"""A session; a refusal; an exception in Chainlit's handler; a packet that never gets so far."""


@dataclass(frozen=True)
class Attempt:
    """One connect and what must come of it.

    Attributes:
        packet: the payload of the Socket.IO packet.
        outcome: what becomes of it.
        auth: what the client says it is, as far as it gets to be a session.
    """

    packet: str
    outcome: Outcome
    auth: dict[str, Any]


_MISSING = object()


class Attacker:
    """Makes up attempts, every one different."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def attempt(self) -> Attempt:
        kinds = {self._strange: 60, self._unlucky: 15, self._failing: 15, self._malformed: 10}
        [kind] = self._rng.choices(list(kinds), list(kinds.values()))
        return kind()

    def _strange(self) -> Attempt:
        """Chainlit takes this for a session."""
        auth = {
            "sessionId": self._any(self._id, self._long, self._whole, self._float),
            "clientType": self._any(
                self._known_client, self._text, self._long, self._whole, self._nothing, self._nested
            ),
            "threadId": self._any(self._nothing, self._text, self._whole, self._nested),
            "userEnv": self._any(lambda: '{"KEY": "value"}', lambda: '["KEY"]'),
            "chatProfile": self._any(self._text, self._long, self._nothing, lambda: "%zz%00%ff"),
            self._text(): self._nested(),
        }
        for optional in ("threadId", "chatProfile"):
            if self._rng.random() < 0.2:
                del auth[optional]
        return Attempt(json.dumps(auth), "started", auth)

    def _unlucky(self) -> Attempt:
        """Chainlit refuses this: it lacks what the app wants from its users."""
        env = self._any(self._nothing, lambda: "[]", lambda: "null", lambda: '{"OTHER": "value"}')
        auth = {**self._strange().auth, "userEnv": env}
        return Attempt(json.dumps(auth), "refused", auth)

    def _failing(self) -> Attempt:
        """Chainlit's handler raises on this."""
        auth = self._strange().auth
        spoil: list[dict[str, Any]] = [
            {"sessionId": [self._text()]},
            {"sessionId": self._nested()},
            {"chatProfile": self._whole()},
            {"chatProfile": [self._text()]},
            {"chatProfile": self._nested()},
            {"userEnv": "{broken"},
            {"userEnv": {"KEY": "value"}},
            {"userEnv": self._whole()},
        ]
        spoil += [{"sessionId": _MISSING}, {"clientType": _MISSING}]
        auth |= self._rng.choice(spoil)
        auth = {key: value for key, value in auth.items() if value is not _MISSING}
        return Attempt(json.dumps(auth), "failed", auth)

    def _malformed(self) -> Attempt:
        """This is no auth at all, or no packet."""
        raising = ["", "null", "[]", "{}", "true", str(self._whole()), json.dumps(self._text())]
        raising += [
            json.dumps([self._text()]),
            "[" * 100 + "]" * 100,
            '{"a":' * 50 + "1" + "}" * 50,
        ]
        if self._rng.random() < 0.7:
            return Attempt(self._rng.choice(raising), "failed", {})
        unheard = ["{broken", "[1, 2", "nonsense", "[" * 100_000 + "]" * 100_000, "1" * 200]
        return Attempt(self._rng.choice(unheard), "unheard", {})

    def _any(self, *makers: Any) -> Any:
        return self._rng.choice(makers)()

    def _id(self) -> str:
        # No dots and slashes: Chainlit takes the id for the name of a directory.
        return "".join(self._rng.choices(string.ascii_letters + "-äπ😀\ud800\n", k=24))

    def _text(self) -> str:
        return "".join(self._rng.choices(string.printable + "äπ😀", k=12))

    def _long(self) -> str:
        return self._id() * 400

    def _whole(self) -> int:
        return self._rng.randrange(2, 2**70)

    def _float(self) -> float:
        return self._rng.random()

    def _nothing(self) -> None:
        return None

    def _nested(self) -> dict[str, Any]:
        value: Any = self._text()
        for _ in range(self._rng.randrange(1, 40)):
            value = {self._text(): value}
        result: dict[str, Any] = value
        return result

    def _known_client(self) -> str:
        return self._rng.choice(catalog.CLIENT_TYPE.values)


class Ledger:
    """What the attempts must have left behind."""

    def __init__(self) -> None:
        self.outcomes: Counter[Outcome] = Counter()
        self.unknown_clients = 0
        self.resumed = 0
        self.kept = 0

    def add(self, attempt: Attempt) -> None:
        self.outcomes[attempt.outcome] += 1
        if attempt.outcome == "started":
            self.unknown_clients += attempt.auth["clientType"] not in catalog.CLIENT_TYPE.values
            self.resumed += bool(attempt.auth.get("threadId"))
            self.kept += not is_directory_name(attempt.auth["sessionId"])


def is_directory_name(session_id: Any) -> bool:
    """Whether Chainlit, when it deletes such a session, gets past looking for its files."""
    try:
        (Path("files") / session_id).is_dir()
    except (TypeError, OSError, ValueError):
        return False
    return True


async def make(attempt: Attempt, http: aiohttp.ClientSession, server: ChainlitServer) -> None:
    """Connect by Engine.IO and Socket.IO, see what comes, and go."""
    url = f"{server.url}/ws/socket.io/?EIO=4&transport=websocket"
    async with http.ws_connect(url) as websocket:
        assert (await websocket.receive_str(timeout=60)).startswith("0{")
        await websocket.send_str("40" + attempt.packet)
        if attempt.outcome in ("started", "refused"):
            answer = await websocket.receive_str(timeout=60)
            assert answer.startswith("40{" if attempt.outcome == "started" else "44{"), attempt


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer(
        {"app.py": APP},
        config={"project": {"session_timeout": GRACE, "user_env": ["KEY"]}},
    ) as server:
        yield server


def visitor_of(server: ChainlitServer) -> Visitor:
    visitor = Visitor(server.url, transports=["websocket"])
    visitor.user_env = {"KEY": "value"}
    return visitor


async def scrape_when_settled(server: ChainlitServer, starts: float) -> Scrape:
    """Scrape once so many sessions have started, and all of them have ended."""

    async def condition() -> Scrape | None:
        scrape = await asyncio.to_thread(server.scrape)
        over = scrape.sum("chainlit_session_starts_total") >= starts
        gone = (
            scrape.sum("chainlit_session_active") == scrape.sum("chainlit_connection_active") == 0
        )
        return await asyncio.to_thread(server.scrape) if over and gone else None

    found = await wait_until_async(condition, 60, f"the end of {starts:g} sessions")
    assert found is not None
    return found


# Two minutes of a CPU, and five beside three others.
@pytest.mark.timeout(900)
async def test_ten_thousand_hostile_connects(server: ChainlitServer) -> None:
    first = visitor_of(server)
    await first.connect()
    assert (await first.say("hello")).texts == ["You said: hello"]
    await first.leave(clear=True)
    before = await scrape_when_settled(server, 1)

    attacker, ledger = Attacker(SEED), Ledger()
    attempts = (attacker.attempt() for _ in range(CONNECTS))
    over = asyncio.Event()

    async def attack(http: aiohttp.ClientSession) -> None:
        for attempt in attempts:
            await make(attempt, http, server)
            ledger.add(attempt)

    async def use_the_app_meanwhile() -> int:
        visitor = visitor_of(server)
        await visitor.connect()
        turns = 0
        while not over.is_set():
            turns += 1
            assert (await visitor.say(f"turn {turns}")).texts == [f"You said: turn {turns}"]
            await asyncio.sleep(PAUSE)
        await visitor.leave(clear=True)
        return turns

    async def attack_from_all_sides() -> None:
        try:
            async with aiohttp.ClientSession() as http:
                await asyncio.gather(*(attack(http) for _ in range(AT_ONCE)))
        finally:
            over.set()

    turns, _ = await asyncio.gather(use_the_app_meanwhile(), attack_from_all_sides())
    assert turns > 10

    last = visitor_of(server)
    await last.connect()
    assert (await last.say("still there")).texts == ["You said: still there"]
    await last.leave(clear=True)

    started = ledger.outcomes["started"]
    after = await scrape_when_settled(server, started + 3)

    def grown(name: str, **labels: str) -> float:
        return after.sum(name, **labels) - before.sum(name, **labels)

    assert before.series <= after.series
    # A client that is known appears with the first session of its own, and no other does.
    by_client = [metric for metric in catalog.METRICS if catalog.CLIENT_TYPE in metric.attributes]
    known = {
        attribute.prometheus_label: {*attribute.values}
        for metric in by_client
        for attribute in metric.attributes
    }
    for name, labels in after.series - before.series:
        assert name.startswith(tuple(metric.prometheus_name for metric in by_client)), name
        for label, value in labels:
            assert label == "le" or value in known[label], (name, label, value)
    assert grown("chainlit_session_starts_total") == started + 2
    assert grown("chainlit_session_starts_total", chainlit_session_origin="thread_resume") == (
        ledger.resumed
    )
    assert grown(
        "chainlit_otel_label_overflow_total", chainlit_otel_attribute="chainlit.client.type"
    ) == (ledger.unknown_clients)
    assert (
        grown("chainlit_connection_rejected_total", error_type="missing_user_env")
        == (ledger.outcomes["refused"])
    )
    assert (
        grown("chainlit_connection_rejected_total", error_type="other")
        == (ledger.outcomes["failed"])
    )
    assert grown("chainlit_connection_rejected_total") == (
        ledger.outcomes["refused"] + ledger.outcomes["failed"]
    )
    timeout = {"chainlit_session_end_reason": "timeout"}
    assert grown("chainlit_session_ends_total", **timeout) == started
    assert grown("chainlit_session_duration_seconds_count", **timeout) == started
    assert grown("chainlit_session_reconnects_total") == 0
    assert grown("chainlit_connection_duration_seconds_count") == started + 2
    assert after.value("chainlit_retained", chainlit_retained_kind="sessions") == ledger.kept
    assert after.sum("chainlit_otel_internal_errors_total") == 0
    assert min(ledger.outcomes[outcome] for outcome in ("started", "refused", "failed")) > 1000
    assert ledger.unknown_clients > 1000
    assert ledger.kept > 1000
