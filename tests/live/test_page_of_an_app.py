"""The live page in a real browser, over a real app and what its visitors do."""

from __future__ import annotations

import asyncio
import re

import pytest
from playwright.async_api import Page, expect

from chainlit_otel import catalog
from chainlit_otel.testing.client import Visitor
from tests.support.browser import chromium
from tests.support.server import ChainlitServer

pytestmark = [pytest.mark.e2e, pytest.mark.browser]

TIMEOUT = 60_000
BLOCKED = 6

APP = f"""
import time

import chainlit_otel

chainlit_otel.enable()

import chainlit as cl


@cl.step(type="tool")
async def search(text):
    if text == "fail":
        raise ValueError(text)
    return text


@cl.on_message
async def answer(message):
    if message.content == "block":
        time.sleep({BLOCKED})  # here
    await search(message.content)
    await cl.Message("done").send()
"""
LINE = 1 + APP.splitlines().index(f"        time.sleep({BLOCKED})  # here")


async def test_it_shows_what_visitors_do() -> None:
    with ChainlitServer({"app.py": APP}) as server:
        async with chromium() as browser:
            page = await browser.new_page(viewport={"width": 1600, "height": 900})
            page.set_default_timeout(TIMEOUT)
            expect.set_options(timeout=TIMEOUT)
            await page.goto(server.metrics_url.removesuffix("metrics") + "#sessions?filter=")
            await expect(page.locator("#state")).to_have_attribute("data-state", "live")
            visitor = Visitor(server.url)
            await visitor.connect()
            await lives(page, visitor)
            await turns(page)
            visitor = Visitor(server.url)
            await visitor.connect()
            await blocks(page, visitor)
            await visitor.leave()
            await page.locator("nav a[data-view=overview]").click()
            await figures(page, server)


async def lives(page: Page, visitor: Visitor) -> None:
    """A session opens, has turns, drops and comes back, and its timeline tells of it."""
    row = page.locator("#sessions .grid tr[data-key]")
    await expect(row).to_contain_text("connected")
    await visitor.talk("hello")
    await visitor.talk("fail")
    await row.click()
    detail = page.locator("#sessions .detail")
    await expect(detail).to_contain_text("ValueError")
    await visitor.drop()
    await expect(row).to_contain_text("disconnected")
    await visitor.reconnect()
    await expect(row).to_contain_text("● connected")
    for what in ("turn began", "connection lost", "came back"):
        await expect(detail).to_contain_text(what)
    await visitor.leave(clear=True)
    await expect(row).to_contain_text("■ ended")


async def turns(page: Page) -> None:
    """The turn that failed shows its error and its spans."""
    await page.locator("nav a[data-view=turns]").click()
    await page.locator("#filter-turns").fill("outcome:error")
    row = page.locator("#turns .grid tr[data-key]")
    await expect(row).to_have_count(1)
    await expect(row).to_contain_text("ValueError")
    await row.click()
    spans = page.locator(".waterfall button")
    await expect(spans.filter(has_text=re.compile("search"))).to_have_count(1)
    await spans.first.click()
    await expect(page.locator(".waterfall .more").first).to_contain_text("session.id")


async def blocks(page: Page, visitor: Visitor) -> None:
    """While the event loop is blocked, the page says so, with the line, and goes on."""
    answer = asyncio.create_task(visitor.talk("block"))
    banner = page.locator("#banner")
    await expect(banner).to_contain_text(f"app.py:{LINE} in answer")
    await expect(page.locator("#state")).to_have_attribute("data-state", "live")
    await answer
    await expect(banner).to_be_hidden()


async def figures(page: Page, server: ChainlitServer) -> None:
    """The figures are those of `/metrics`."""
    scrape = server.scrape()
    peak = scrape.value(catalog.SESSION_PEAK.prometheus_name, chainlit_peak_window="process")
    await expect(page.locator(".tile[data-name=peak] .number")).to_have_text(f"{peak:g}")
    legend = page.locator(".chart", has_text="Turns, a minute").locator(".legend")
    await expect(legend).to_contain_text("failed 1")
