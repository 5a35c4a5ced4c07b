"""The ledger against a script that knows what it did: exact counts, states and durations."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest

from chainlit_otel.testing import Visitor
from tests.support.refusal import be_refused
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

SEED = 20260713
SESSIONS = 300
GRACE = 4
TOLERANCE = 0.050  # seconds a session, between the script's clock and the server's

APP = """
import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.password_auth_callback
def sign_in(name, password):
    return cl.User(identifier=name) if password == "right" else None


@cl.on_message
async def answer(message):
    await cl.Message("You said: " + message.content).send()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer(
        {"app.py": APP},
        config={"project": {"session_timeout": GRACE}},
        env={"CHAINLIT_AUTH_SECRET": "a-secret-of-this-test-and-nothing-else"},
    ) as server:
        yield server


class Script:
    """Sends visitors and keeps a ledger of what they did, by a clock of its own."""

    def __init__(self, server: ChainlitServer) -> None:
        self.server = server
        self.done: Counter[str] = Counter()
        self.durations: list[float] = []
        self.connected: dict[str, float] = {}
        self.refusals: list[asyncio.Task[str]] = []
        self._headers: dict[str, str] = {}

    def sign_in(self) -> None:
        answer = httpx.post(
            f"{self.server.url}/login", data={"username": "ada", "password": "right"}
        )
        answer.raise_for_status()
        cookies = "; ".join(f"{name}={value}" for name, value in answer.cookies.items())
        self._headers = {"Cookie": cookies}

    def visitor(self, signed_in: bool = True) -> Visitor:
        return Visitor(
            self.server.url,
            headers=self._headers if signed_in else None,
            transports=["websocket"],
        )

    async def start(self, visitor: Visitor) -> None:
        before = time.monotonic()
        await visitor.connect()
        # The session starts on the server somewhere in between.
        self.connected[visitor.session_id] = (before + time.monotonic()) / 2
        self.done["starts"] += 1

    def leave(self, session_id: str, reason: str) -> None:
        self.durations.append(time.monotonic() - self.connected.pop(session_id))
        self.done[reason] += 1

    # What a visitor may do

    async def closes_the_tab(self) -> None:
        visitor = self.visitor()
        await self.start(visitor)
        assert (await visitor.say("hello")).texts == ["You said: hello"]
        self.leave(visitor.session_id, "timeout")
        await visitor.leave()

    async def drops_and_comes_back(self) -> None:
        visitor = self.visitor()
        await self.start(visitor)
        await visitor.drop()
        await visitor.reconnect()
        self.done["reconnects"] += 1
        self.leave(visitor.session_id, "timeout")
        await visitor.leave()

    async def reconnects_before_the_first_socket_dies(self) -> None:
        first, second = self.visitor(), self.visitor()
        await self.start(first)
        second.session_id = first.session_id
        await second.connect()
        self.done["reconnects"] += 1
        await first.drop()
        assert (await second.say("still here")).texts == ["You said: still here"]
        self.leave(second.session_id, "timeout")
        await second.leave()

    async def starts_a_new_chat(self) -> None:
        visitor = self.visitor()
        await self.start(visitor)
        self.leave(visitor.session_id, "cleared")
        before = time.monotonic()
        await visitor.new_chat()
        self.connected[visitor.session_id] = (before + time.monotonic()) / 2
        self.done["starts"] += 1
        self.leave(visitor.session_id, "cleared")
        await visitor.leave(clear=True)

    async def is_refused(self) -> None:
        # Who waits in vain for an answer keeps nobody else waiting.
        self.refusals.append(asyncio.create_task(be_refused(self.visitor(signed_in=False))))
        self.done["refused"] += 1

    async def comes_back_too_late(self) -> None:
        visitor = self.visitor()
        await self.start(visitor)
        self.leave(visitor.session_id, "timeout")
        await visitor.drop()
        await asyncio.sleep(GRACE + 1)  # the very thing under test: staying away too long
        await self.start(visitor)
        self.leave(visitor.session_id, "cleared")
        await visitor.leave(clear=True)


@pytest.fixture
def script(server: ChainlitServer) -> Script:
    script = Script(server)
    script.sign_in()
    return script


async def scrape(server: ChainlitServer) -> Scrape:
    return await asyncio.to_thread(server.scrape)


def ended(scrape: Scrape) -> float:
    return scrape.sum("chainlit_session_ends_total")


def state(scrape: Scrape, state: str) -> float:
    return scrape.sum("chainlit_session_active", chainlit_session_state=state)


async def everybody(tasks: list[Callable[[], Awaitable[None]]], at_once: int = 6) -> None:
    room = asyncio.Semaphore(at_once)

    async def one(task: Callable[[], Awaitable[None]]) -> None:
        async with room:
            await task()

    await asyncio.gather(*(one(task) for task in tasks))


async def test_the_metrics_equal_the_ledger_of_the_script(
    server: ChainlitServer, script: Script
) -> None:
    dice = random.Random(SEED)
    kinds = [
        script.closes_the_tab,
        script.drops_and_comes_back,
        script.reconnects_before_the_first_socket_dies,
        script.starts_a_new_chat,
        script.is_refused,
        script.comes_back_too_late,
    ]
    actions = [
        *kinds,
        *dice.choices(kinds, weights=[4, 4, 4, 4, 2, 1], k=SESSIONS - 20 - len(kinds)),
    ]
    dice.shuffle(actions)
    # Some stay for the whole run, and move from state to state at its end.
    stayers = [script.visitor() for _ in range(20)]
    await everybody([lambda v=v: script.start(v) for v in stayers])  # type: ignore[misc]
    await everybody([*actions])
    await asyncio.gather(*script.refusals)

    def all_timed_out(scrape: Scrape) -> bool:
        return ended(scrape) == script.done["timeout"] + script.done["cleared"]

    await reach(server, all_timed_out, "the grace of those who left to run out")
    now = await scrape(server)
    assert (state(now, "connected"), state(now, "disconnected")) == (20, 0)

    for visitor in stayers[:10]:
        await visitor.drop()
    await reach(server, lambda s: state(s, "disconnected") == 10, "ten to be seen as gone")
    assert state(await scrape(server), "connected") == 10
    for visitor in stayers[:5]:
        await visitor.reconnect()
        script.done["reconnects"] += 1
    now = await scrape(server)
    assert (state(now, "connected"), state(now, "disconnected")) == (15, 5)
    dropped = time.monotonic()
    for visitor in [*stayers[:5], *stayers[10:]]:
        script.leave(visitor.session_id, "cleared")
        await visitor.leave(clear=True)
    for visitor in stayers[5:10]:
        await visitor.reconnect()
        script.done["reconnects"] += 1
        script.leave(visitor.session_id, "timeout")
        await visitor.leave()
    assert time.monotonic() - dropped < GRACE, "too slow to say what the ledger should be"
    await reach(server, all_timed_out, "everybody to be gone")

    recorded = await scrape(server)
    compare(recorded, script)


def compare(recorded: Scrape, script: Script) -> None:
    done = script.done
    ends = done["timeout"] + done["cleared"]
    seconds = sum(script.durations)
    total = recorded.sum("chainlit_session_duration_seconds_sum")
    print(f"the script's ledger: {dict(done)}, {seconds:.3f} s in {ends} sessions")
    print(f"the ledger's durations: {total:.3f} s, off by {(total - seconds) / ends:.4f} s each")
    assert done["starts"] == ends >= SESSIONS - done["refused"]
    assert recorded.sum("chainlit_session_starts_total") == done["starts"]
    assert recorded.sum("chainlit_session_reconnects_total") == done["reconnects"]
    for reason in ("timeout", "cleared", "shutdown", "completed", "other"):
        label = {"chainlit_session_end_reason": reason}
        assert recorded.sum("chainlit_session_ends_total", **label) == done[reason]
        assert recorded.sum("chainlit_session_duration_seconds_count", **label) == done[reason]
    for reason, refused in (
        ("authentication_failed", done["refused"]),
        ("authorization_failed", 0),
        ("missing_user_env", 0),
        ("other", 0),
    ):
        assert recorded.value("chainlit_connection_rejected_total", error_type=reason) == refused
    assert (state(recorded, "connected"), state(recorded, "disconnected")) == (0, 0)
    assert recorded.sum("chainlit_connection_active") == 0
    assert recorded.sum("chainlit_connection_duration_seconds_count") == (
        done["starts"] + done["reconnects"]
    )
    assert abs(total - seconds) <= TOLERANCE * ends
    assert abs(total / ends - seconds / ends) <= TOLERANCE
    # All have ended, so the time spent in sessions is the sum of their durations.
    assert recorded.sum("chainlit_session_time_seconds_total") == pytest.approx(total, abs=1e-6)
    assert recorded.sum("chainlit_otel_internal_errors_total") == 0
    assert recorded.value("chainlit_retained", chainlit_retained_kind="sessions") == 0


async def reach(server: ChainlitServer, holds: Callable[[Scrape], bool], what: str) -> None:
    async def check() -> bool:
        return holds(await scrape(server))

    await wait_until_async(check, 60, what)
