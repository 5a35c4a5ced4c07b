"""The live page of a real app in a real browser: what visitors do is on it, to the unit."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from playwright.async_api import Page, expect

from chainlit_otel.testing import Visitor
from tests.support.browser import chromium
from tests.support.otlp import Receiver
from tests.support.scrape import wait_until_async
from tests.support.server import ChainlitServer

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

TIMEOUT = 60_000
SECRET = "words of a user"

APP = """
import asyncio
import pathlib
import time

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.step(type="tool")
async def search(question):
    while pathlib.Path("searching").exists():
        await asyncio.sleep(0.05)
    return question


def slow_call():
    time.sleep(6)  # in slow_call


@cl.on_message
async def answer(message):
    if message.content.startswith("fail"):
        raise LookupError(message.content)
    if message.content == "block":
        slow_call()
    await search(message.content)
    await cl.Message("done").send()
"""
LINE = next(n for n, line in enumerate(APP.splitlines(), 1) if "# in slow_call" in line)


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    with ChainlitServer({"app.py": APP}) as server:
        yield server


def address(server: ChainlitServer) -> str:
    return server.metrics_url.removesuffix("metrics")


@contextlib.asynccontextmanager
async def opened(server: ChainlitServer, view: str = "overview") -> AsyncIterator[Page]:
    """The page, once it is live; what it says on its console is an error."""
    said: list[str] = []
    async with chromium() as browser:
        page = await browser.new_page()
        page.set_default_timeout(TIMEOUT)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        await page.goto(f"{address(server)}#{view}")
        await expect(page.locator("#state")).to_have_attribute(
            "data-state", "live", timeout=TIMEOUT
        )
        yield page
    assert said == []


async def ask(server: ChainlitServer, path: str) -> Any:
    async with httpx.AsyncClient(timeout=60) as http:
        return (await http.get(f"{address(server)}live/data/{path}")).raise_for_status().json()


async def visitor_of(server: ChainlitServer) -> Visitor:
    visitor = Visitor(server.url)
    await visitor.connect()
    return visitor


def row(page: Page, text: str) -> Any:
    return page.locator(".grid tr[data-key]:visible", has_text=text)


async def test_a_session_appears_and_everything_that_happens_to_it(server: ChainlitServer) -> None:
    known = {row["key"] for row in (await ask(server, "sessions"))["open"]}
    async with opened(server, "sessions") as page:
        visitor = await visitor_of(server)
        (mine,) = [r for r in (await ask(server, "sessions"))["open"] if r["key"] not in known]
        shown = row(page, mine["id"])
        await expect(shown).to_contain_text("connected", timeout=TIMEOUT)

        searching = server.directory / "searching"
        searching.touch()
        await visitor.send(SECRET)
        await expect(shown).to_contain_text("search", timeout=TIMEOUT)
        searching.unlink()
        await visitor.until(lambda: visitor.events[-1].name == "task_end", "the end")
        await expect(shown).not_to_contain_text("search", timeout=TIMEOUT)

        await visitor.say(f"fail {SECRET}")
        await visitor.drop()
        await expect(shown).to_contain_text("disconnected", timeout=TIMEOUT)
        await visitor.reconnect()
        await expect(shown).not_to_contain_text("disconnected", timeout=TIMEOUT)
        await visitor.leave(clear=True)
        await expect(shown).to_have_count(0, timeout=TIMEOUT)
        await page.get_by_role("button", name="Ended", exact=True).click()
        await expect(shown).to_contain_text("ended", timeout=TIMEOUT)

        await shown.click()
        detail = page.locator(".detail:visible")
        for told in ("transport_close", "LookupError", "came back", "cleared"):
            await expect(detail).to_contain_text(told, timeout=TIMEOUT)
        assert SECRET not in await page.content()
    events = (await ask(server, f"sessions/{mine['key']}"))["events"]
    assert [(event["kind"], event["detail"]) for event in events] == [
        ("connect", ""),
        ("turn", "1"),
        ("turn_end", "ok"),
        ("turn", "2"),
        ("callback_error", "on_message: LookupError"),
        ("turn_end", "LookupError"),
        ("drop", "transport_close"),
        ("reconnect", ""),
        ("drop", "client_disconnect"),
        ("end", "cleared"),
    ]
    assert SECRET not in str(await ask(server, "turns"))


async def test_a_failing_turn_shows_its_error_and_its_spans(server: ChainlitServer) -> None:
    async with opened(server, "turns") as page:
        visitor = await visitor_of(server)
        await visitor.say(f"fail {SECRET}")
        last = (await ask(server, "turns"))["rows"][-1]
        shown = page.locator(f'.grid tr[data-key="{last["key"]}"]:visible')
        await expect(shown).to_contain_text("LookupError", timeout=TIMEOUT)
        await shown.click()
        detail = page.locator(".detail:visible")
        await expect(detail).to_contain_text("on_message", timeout=TIMEOUT)
        assert SECRET not in await page.content()
        await visitor.leave(clear=True)
    turn = await ask(server, f"turns/{last['key']}")
    names = {span["id"]: span["name"] for span in turn["spans"]}
    assert [(s["name"], names.get(s["parent"], ""), s["outcome"]) for s in turn["spans"]] == [
        ("chainlit.turn", "", "error"),
        ("chainlit.callback on_message", "chainlit.turn", "error"),
        ("chainlit.step run on_message", "chainlit.callback on_message", "error"),
    ]
    assert SECRET not in str(turn)


async def test_its_figures_are_those_of_the_metrics(server: ChainlitServer) -> None:
    visitors = [await visitor_of(server) for _ in range(5)]
    await asyncio.gather(*(visitor.say("hello") for visitor in visitors))
    for visitor in visitors[:2]:
        await visitor.drop()
    async with opened(server) as page:

        async def equal() -> bool:
            figures = {
                name: await page.locator(f'[data-name="{name}"] .number').inner_text()
                for name in ("connected", "peak")
            }
            scrape = server.scrape()
            active = scrape.value(
                "chainlit_session_active",
                chainlit_session_type="websocket",
                chainlit_client_type="webapp",
                chainlit_session_state="connected",
            )
            peak = scrape.value("chainlit_session_peak", chainlit_peak_window="process")
            return figures == {"connected": f"{active:g}", "peak": f"{peak:g}"} and active == 3

        await wait_until_async(equal, 60, "the figures of the page to be those of the metrics")
    history = await ask(server, "history?step=60")
    totals = {name: sum(filter(None, values)) for name, values in history["figures"].items()}
    scrape = server.scrape()
    for name, metric in (
        ("starts", "chainlit_session_starts_total"),
        ("reconnects", "chainlit_session_reconnects_total"),
        ("chunks", "chainlit_turn_output_chunks_total"),
    ):
        assert totals[name] == scrape.sum(metric), name
    for outcome in ("ok", "error", "cancelled"):
        counted = scrape.sum("chainlit_turn_duration_seconds_count", chainlit_outcome=outcome)
        assert totals[f"turns_{outcome}"] == counted, outcome
    for visitor in visitors[2:]:
        await visitor.leave(clear=True)


async def test_it_goes_on_while_the_loop_is_blocked_and_names_the_line(
    server: ChainlitServer,
) -> None:
    async with opened(server) as page:
        visitor = await visitor_of(server)
        await visitor.send("block")
        banner = page.locator("#banner-text:visible")
        await expect(banner).to_contain_text(f"app.py:{LINE} in slow_call", timeout=TIMEOUT)
        await expect(banner).to_have_count(0, timeout=TIMEOUT)
        await visitor.leave()


async def test_with_an_exporter_the_spans_are_those_that_are_exported() -> None:
    with Receiver() as backend:
        env = {**backend.env, "CHAINLIT_OTEL_TRACE_URL": "https://traces/{trace_id}"}
        with ChainlitServer({"app.py": APP}, env=env) as server:
            visitor = await visitor_of(server)
            await visitor.say("while nobody looks")
            # Spans are kept for a while after somebody has looked.
            stream = f"{address(server)}live/data/stream"
            async with httpx.AsyncClient() as http, http.stream("GET", stream) as events:
                await anext(events.aiter_lines())
            await visitor.say("hello")
            before, turn = (await ask(server, "turns"))["rows"]
            assert (await ask(server, f"turns/{before['key']}"))["spans"] == []
            assert turn["trace_url"] == f"https://traces/{turn['trace_id']}"
            shown = (await ask(server, f"turns/{turn['key']}"))["spans"]
            async with opened(server, f"turns?key={turn['key']}") as page:
                link = page.get_by_role("link", name="opens the trace")
                await expect(link).to_have_attribute("href", turn["trace_url"], timeout=TIMEOUT)
                assert "noopener" in (await link.get_attribute("rel") or "")
            await visitor.leave()
        exported = {span.id: span.name for span in backend.spans if span.trace == turn["trace_id"]}
        assert {span["id"]: span["name"] for span in shown} == exported
        assert len(exported) == 4


# Its `Step` has no `update`, as in a version of Chainlit that we do not know.
ODD = """
import chainlit, sys
chainlit.step
del sys.modules["chainlit.step"].Step.update
"""


async def test_health_says_what_is_off_and_what_is_lost_and_no_secret() -> None:
    env = {
        # Nobody listens there.
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:s3cret@127.0.0.1:9/",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "CHAINLIT_OTEL_USER_HASH_KEY": "s3cret",
        "CHAINLIT_OTEL_TRACE_URL": "https://user:s3cret@traces/{trace_id}?key=s3cret",
    }
    with ChainlitServer({"app.py": ODD + APP}, env=env) as server:
        visitor = await visitor_of(server)
        await visitor.say("hello")

        async def lost() -> bool:
            exporters = (await ask(server, "health"))["exporters"]
            return any(each["signal"] == "spans" and each["lost"] > 0 for each in exporters)

        await wait_until_async(lost, 60, "spans to be lost")
        async with opened(server, "health") as page:

            def cells(name: str) -> Any:
                return page.locator("#health tr", has=page.get_by_text(name, exact=True))

            steps = cells("steps")
            await expect(steps).to_contain_text("off", timeout=TIMEOUT)
            await expect(steps).to_contain_text("no Step.update")
            await expect(cells("sessions")).to_contain_text("on")
            spans = cells("spans")
            await expect(spans).to_contain_text("127.0.0.1:9")
            await expect(spans).to_contain_text(re.compile("◆ [1-9]"))
            await expect(cells("CHAINLIT_OTEL_USER_HASH_KEY")).to_contain_text("***")
            await expect(cells("CHAINLIT_OTEL_TRACE_URL")).to_contain_text("traces/{trace_id}")
            assert "s3cret" not in await page.content()
        assert "s3cret" not in str(await ask(server, "health"))
        await visitor.leave()


OWN_PROVIDER = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider


@cl.on_chat_start
def start():
    trace.set_tracer_provider(TracerProvider())
"""


async def test_the_spans_of_a_provider_that_the_app_sets_late_are_shown_too() -> None:
    with ChainlitServer({"app.py": APP + OWN_PROVIDER}) as server:
        visitor = await visitor_of(server)
        stream = f"{address(server)}live/data/stream"
        async with httpx.AsyncClient() as http, http.stream("GET", stream) as events:
            await anext(events.aiter_lines())
        await visitor.say("hello")
        (turn,) = (await ask(server, "turns"))["rows"]
        shown = (await ask(server, f"turns/{turn['key']}"))["spans"]
        await visitor.leave()
    assert turn["trace_id"]
    assert [span["name"] for span in shown][:2] == [
        "chainlit.turn",
        "chainlit.callback on_message",
    ]


@pytest.mark.parametrize(
    ("env", "path", "status"),
    [
        ({"CHAINLIT_OTEL_LIVE_PAGE": "false"}, "live/data/sessions", 404),
        ({"OTEL_EXPORTER_PROMETHEUS_HOST": "0.0.0.0"}, "live/data/sessions", 403),
        ({"CHAINLIT_OTEL_PAGE_TOKEN": "s3cret"}, "live/data/sessions", 401),
        ({"CHAINLIT_OTEL_PAGE_BASE_PATH": "/ops"}, "ops/live/data/sessions", 200),
    ],
)
async def test_settings(env: dict[str, str], path: str, status: int) -> None:
    with ChainlitServer({"app.py": APP}, env=env) as server:
        async with httpx.AsyncClient() as http:
            answer = await http.get(f"http://127.0.0.1:{server.admin_port}/{path}")
        assert answer.status_code == status
        lines = [line for line in server.log.splitlines() if "live page" in line]
        assert len(lines) == ("CHAINLIT_OTEL_LIVE_PAGE" not in env)
        assert "s3cret" not in server.log
        assert server.scrape().sum("chainlit_session_starts_total") == 0
