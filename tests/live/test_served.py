"""The page as the admin server serves it, in a real browser, over an hour that is simulated."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from playwright.async_api import Page, expect
from starlette.responses import PlainTextResponse

from chainlit_otel.core.sessions import NS, SessionLedger
from chainlit_otel.guard import Guard
from chainlit_otel.live.figures import FIGURES
from chainlit_otel.live.page import Live
from chainlit_otel.server.admin import AdminServer
from chainlit_otel.server.live_page import LivePage
from chainlit_otel.server.start import start_admin_server
from chainlit_otel.settings import Settings
from tests.support.browser import chromium

pytestmark = [pytest.mark.browser]

HOUR = 3600


class Deployment:
    """A page with clocks of its own, and a ledger of sessions behind it."""

    def __init__(self) -> None:
        self.ahead = 0
        times = (
            lambda: time.monotonic_ns() + self.ahead,
            lambda: time.time_ns() + self.ahead,
        )
        self.live = Live(None, "", *times)
        self.sessions = SessionLedger(self.live.sessions.ended, *times, self.live.journal)
        self.live._open_sessions = self.sessions.open

    async def health(self) -> Mapping[str, Any]:
        return {"status": "ok", "service": {"name": "chat"}, "chainlit": "", "probes": {}}

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Page]:
        guard = Guard("server")
        page = LivePage(self.live, self.health, guard)
        metrics = PlainTextResponse("")
        server = start_admin_server(
            Settings(port=0), metrics, lambda: {"status": "ok"}, page, guard
        )
        assert isinstance(server, AdminServer)
        try:
            async with chromium() as browser:
                shown = await browser.new_page()
                shown.set_default_timeout(60_000)
                await shown.goto(server.url)
                await expect(shown.locator("#state")).to_have_attribute(
                    "data-state", "live", timeout=60_000
                )
                yield shown
        finally:
            server.stop()


async def test_a_page_that_is_opened_an_hour_later_has_the_whole_hour() -> None:
    chat = Deployment()
    began = chat.live._clock() // NS
    for second in range(HOUR):
        figures = dict.fromkeys(FIGURES, 0.0) | {"connected": float(second // 60 + 1)}
        chat.live.history.add(began + second, figures)
    chat.ahead += HOUR * NS
    async with chat.opened() as page:
        await page.get_by_role("button", name="24 h").click()
        legend = page.locator(".chart:visible .legend", has_text="connected")
        slider = page.locator("#moment")
        await expect(slider).to_have_attribute("max", re.compile("^(59|60|61)$"))
        seen = []
        await slider.press("Home")
        for _ in range(58):
            await slider.press("ArrowRight")
            text = await legend.inner_text()
            seen.append(int(re.search(r"connected (\d+)", text)[1]))  # type: ignore[index]
        assert seen == list(range(seen[0], seen[0] + 58))
        assert seen[0] in (1, 2)
