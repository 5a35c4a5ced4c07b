"""Chainlit's own page in a real browser: each row of the table in docs/sessions.md, to the unit."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from chainlit_otel import catalog
from tests.support.browser import TIMEOUT, User, chromium, user_of
from tests.support.browser_table import FIGURES, OPEN, SCENARIOS, Scenario
from tests.support.scrape import Scrape, wait_until_async
from tests.support.server import ChainlitServer

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

LONG_GRACE = 3600
SHORT_GRACE = 1

# The answers are numbered in the session: they tell whether it is still the same one.
APP = """
import chainlit as cl
import chainlit_otel

chainlit_otel.enable()


@cl.on_message
async def answer(message):
    number = cl.user_session.get("answers", 0) + 1
    cl.user_session.set("answers", number)
    await cl.Message(f"answer {number} to {message.content}").send()
"""


class Recorded:
    """What was recorded since this was made.

    Args:
        server: whose metrics.
    """

    def __init__(self, server: ChainlitServer) -> None:
        self._server = server
        self._expected = _read(server.scrape())

    def changes(self) -> dict[str, int]:
        """What has changed against what was expected so far."""
        now = _read(self._server.scrape())
        return {name: now[name] - self._expected[name] for name in now if self._moved(name, now)}

    async def expect(self, changes: Mapping[str, int]) -> None:
        """Wait until exactly these figures have changed by exactly this much."""
        due = {name: change for name, change in changes.items() if change}

        async def said() -> bool:
            return self.changes() == due

        with contextlib.suppress(TimeoutError):
            await wait_until_async(said, TIMEOUT, f"the metrics to say {due}")
        assert self.changes() == due
        for name, change in due.items():
            self._expected[name] += change

    async def wait_for(self, name: str, change: int) -> None:
        """Wait until one figure has changed by this much, whatever the others do."""

        async def said() -> bool:
            return self.changes().get(name) == change

        await wait_until_async(said, TIMEOUT, f"the metrics to say {name} {change:+d}")

    def _moved(self, name: str, now: Mapping[str, int]) -> bool:
        return now[name] != self._expected[name]


def _read(scrape: Scrape) -> dict[str, int]:
    return {name: figure.read(scrape) for name, figure in FIGURES.items()}


Act = Callable[[User, Recorded], Awaitable[None]]


async def open_page(user: User, recorded: Recorded) -> None:
    await user.open_tab()


async def chat(user: User, recorded: Recorded) -> None:
    assert await user.ask() == "answer 2 to question 2"


async def reload(user: User, recorded: Recorded) -> None:
    await user.reload()


async def new_chat(user: User, recorded: Recorded) -> None:
    await user.new_chat()


async def close_tab(user: User, recorded: Recorded) -> None:
    await user.close_tab()


async def back_in_time(user: User, recorded: Recorded) -> None:
    await user.lose_network()
    await recorded.wait_for("disconnected session", +1)
    user.network.restore()


async def back_too_late(user: User, recorded: Recorded) -> None:
    await user.lose_network()
    await recorded.wait_for("end (timeout)", 1)
    user.network.restore()


# What the user does in each row, and the number of the next answer in the tab he is in then.
ACTS: dict[str, tuple[Act, int | None]] = {
    "open": (open_page, 1),
    "chat": (chat, 3),
    "reload": (reload, 1),
    "new_chat": (new_chat, 1),
    "second_tab": (open_page, 1),
    "close_tab": (close_tab, None),
    "back_in_time": (back_in_time, 2),
    "back_too_late": (back_too_late, 1),
    "back_too_late_in_a_chat": (back_too_late, 1),
}


def _server(grace: int) -> ChainlitServer:
    return ChainlitServer({"app.py": APP}, config={"project": {"session_timeout": grace}})


@pytest.fixture(scope="module")
def patient() -> Iterator[ChainlitServer]:
    """A server that keeps every session for longer than these tests run."""
    with _server(LONG_GRACE) as server:
        yield server


@pytest.fixture(scope="module")
def hasty() -> Iterator[ChainlitServer]:
    """A server that gives up a session soon after its user has gone."""
    with _server(SHORT_GRACE) as server:
        yield server


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


def _rows(*scenarios: Scenario) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", scenarios, ids=[row.name for row in scenarios])


@pytest.mark.asyncio(loop_scope="module")
@_rows(*(row for row in SCENARIOS if not row.overstays))
async def test_what_the_ledger_has_at_once(
    row: Scenario, patient: ChainlitServer, browser: Browser
) -> None:
    await _play(row, row.at_once, patient, browser)
    await _nobody_is_connected(patient)
    _balanced(patient.scrape())


@pytest.mark.asyncio(loop_scope="module")
@_rows(*(row for row in SCENARIOS if row.overstays or row.later))
async def test_what_the_ledger_has_when_the_grace_time_is_over(
    row: Scenario, hasty: ChainlitServer, browser: Browser
) -> None:
    in_the_end = Counter(row.at_once)
    in_the_end.update(row.later)
    await _play(row, in_the_end, hasty, browser)
    await _nobody_is_connected(hasty)
    await _nothing_is_kept(hasty)
    _balanced(hasty.scrape())


async def _play(
    row: Scenario, changes: Mapping[str, int], server: ChainlitServer, browser: Browser
) -> None:
    act, next_answer = ACTS[row.name]
    async with user_of(server, browser) as user:
        recorded = Recorded(server)
        if row is not OPEN:
            await user.open_tab()
            await recorded.expect(OPEN.at_once)
        if row.talks_first:
            assert await user.ask() == "answer 1 to question 1"
            await recorded.expect({})
        await act(user, recorded)
        await recorded.expect(changes)
        assert user.is_there == (next_answer is not None)
        if user.is_there:
            assert (await user.ask()).startswith(f"answer {next_answer} to ")
        # A second reading after a whole turn: nothing came late, nothing was counted twice.
        await recorded.expect({})


async def _nobody_is_connected(server: ChainlitServer) -> None:
    async def nobody() -> bool:
        scrape = server.scrape()
        return (
            scrape.sum(catalog.CONNECTION_ACTIVE.prometheus_name) == 0
            and FIGURES["connected session"].read(scrape) == 0
        )

    await wait_until_async(nobody, TIMEOUT, "the connections to close")


async def _nothing_is_kept(server: ChainlitServer) -> None:
    async def nothing() -> bool:
        return server.scrape().sum(catalog.SESSION_ACTIVE.prometheus_name) == 0

    await wait_until_async(nothing, TIMEOUT, "the grace time of all sessions to run out")


def _balanced(scrape: Scrape) -> None:
    started, ended, active = (
        int(scrape.sum(metric.prometheus_name))
        for metric in (catalog.SESSION_STARTS, catalog.SESSION_ENDS, catalog.SESSION_ACTIVE)
    )
    assert started - ended == active
    # Whatever happened, the browser did it: no session of another type or client.
    assert started == sum(
        figure.read(scrape)
        for figure in FIGURES.values()
        if figure.metric is catalog.SESSION_STARTS
    )
    for values in catalog.INTERNAL_ERRORS.label_sets:
        labels = {catalog.PROBE.prometheus_label: values[0]}
        assert scrape.value(catalog.INTERNAL_ERRORS.prometheus_name, **labels) == 0, labels
