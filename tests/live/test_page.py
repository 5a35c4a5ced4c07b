"""The live page in a real browser, over a simulated day."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.support.axe import install_axe, violations
from tests.support.browser import chromium
from tests.support.live_day import LiveDay

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

expect.set_options(timeout=60_000)

ODD = '<img src=x onerror="document.title=1">'


Open = Callable[..., AbstractAsyncContextManager[Page]]
"""Opens the page of a day, at a view, and waits until it is live."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as started:
        yield started


@pytest.fixture
def opened(browser: Browser) -> Open:
    @asynccontextmanager
    async def open_page(day: LiveDay, view: str = "overview") -> AsyncIterator[Page]:
        said: list[str] = []
        context = await browser.new_context(viewport={"width": 1600, "height": 900})
        page = await context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("console", lambda message: said.append(message.text))
        with day.served():
            await page.goto(f"{day.url}/#{view}")
            await state(page, "live")
            yield page
            await context.close()
        # A browser reports requests that fail, which some tests want; all else is a fault.
        assert [line for line in said if "Failed to load resource" not in line] == []

    return open_page


async def state(page: Page, wanted: str) -> None:
    await expect(page.locator("#state")).to_have_attribute("data-state", wanted)


async def hide(page: Page, hidden: bool) -> None:
    """Have the page believe that its tab is hidden, which a headless browser never does."""
    await page.evaluate(
        """hidden => {
          Object.defineProperty(document, "hidden", {value: hidden, configurable: true});
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def row(page: Page, text: str) -> Any:
    return page.locator(".grid tr[data-key]:visible", has_text=text)


async def test_names_are_shown_as_text(opened: Open) -> None:
    day = LiveDay(3)
    day.change(day.session("odd", id="0dd", profile=ODD, client=ODD, origin=ODD))
    day.add_turn({**day.turns["t0"], "key": "odd", "error": ODD, "tools": [
        {"name": ODD, "seconds": 1.0, "outcome": "ok"}]})  # fmt: skip
    day.blocked = {"blocked": True, "seconds": 3.2, "where": f"app.py:12 in {ODD}"}
    async with opened(day, "sessions") as page:
        await row(page, "0dd").click()
        await expect(page.locator(".detail:visible .facts")).to_contain_text(ODD)
        await expect(page.locator("#banner-text")).to_contain_text(ODD)
        await page.goto(f"{day.url}/#turns?key=odd")
        await expect(page.locator(".detail:visible .facts").first).to_contain_text(ODD)
        assert await page.locator("img").count() == 0
        await expect(page).to_have_title("support-desk, live")


async def test_the_filter_finds_what_it_says_and_names_a_mistake(opened: Open) -> None:
    day = LiveDay(0, ended=0, churn=0)
    old, tool = {"started": day.now() - 3600}, {"since": day.now(), "callback": "on_message"}
    common = {"profile": "fast", "client": "webapp", "errors": 0, "doing": None, "turns": 2}
    kinds: dict[str, dict[str, object]] = {
        "a": {"state": "connected", "doing": {**tool, "step": "tool search"}},
        "b": {"state": "disconnected", "turns": 9, "left": day.now()},
        "c": {"state": "connected", "errors": 2, **old},
        "d": {"state": "connected", "profile": "GPT 4", "client": "copilot"},
    }
    for name, values in kinds.items():
        day.change(day.session(name, **{**common, "id": name * 4, **values}))
    async with opened(day, "sessions") as page:
        box, shown = page.locator("#filter-sessions"), page.locator(".grid tr[data-key]:visible")
        for text, found in {
            "state:open": "abcd",
            "state:disconnected turns:>5": "b",
            "doing:tool": "a",
            "doing:idle": "bcd",
            "age:>10m": "c",
            "age:<10m -state:disconnected": "ad",
            "errors:>=2": "c",
            "errors:0 client:webapp": "ab",
            'profile:"gpt 4"': "d",
            "copilot": "d",
            "-fast": "d",
            "turns:>5 state:connected": "",
        }.items():
            await box.fill(text)
            await expect(shown).to_have_count(len(found))
            keys = await shown.evaluate_all("rows => rows.map(row => row.dataset.key)")
            assert sorted(keys) == list(found), text
        for text, message in {
            "sate:open": "There is no “sate:”",
            "state:gone": "is one of open, connected, disconnected, ended",
            "turns:many": "wants a number, such as turns:>5",
            "age:>10x": "wants a time",
            'profile:"gpt': "is not closed",
            "doing:": "wants a word",
        }.items():
            await box.fill("turns:9")
            await expect(shown).to_have_count(1)
            await box.fill(text)
            await expect(page.locator("#mistake-sessions")).to_contain_text(message)
            await expect(box).to_have_attribute("aria-invalid", "true")
            await expect(shown).to_have_count(1)


async def test_everything_works_by_keyboard_and_by_the_button_back(opened: Open) -> None:
    day = LiveDay(50, churn=0)
    async with opened(day) as page:
        await page.keyboard.press("Tab")
        await expect(page.locator(".skip")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        table = page.locator("#sessions .grid")
        await expect(table).to_be_visible()
        await page.keyboard.press("/")
        await page.keyboard.type("state:open turns:>0")
        await page.keyboard.press("Escape")
        await expect(page.locator("#filter-sessions")).to_have_value("")
        await page.keyboard.press("Escape")
        await expect(table).to_be_focused()
        for key, index in {"ArrowDown": 0, "End": 109, "ArrowUp": 108, "Home": 0}.items():
            await page.keyboard.press(key)
            active = await table.get_attribute("aria-activedescendant")
            assert active == f"grid-sessions-{index}"
            await expect(page.locator(f"#{active}")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await expect(page.locator("#sessions .detail h2")).to_be_focused()
        assert re.search(r"#sessions\?.*key=s\d+", page.url)
        await page.keyboard.press("Escape")
        await expect(table).to_be_focused()
        await expect(page.locator("#sessions .detail")).to_be_hidden()
        await page.go_back()
        await expect(page.locator("#sessions .detail")).to_be_visible()
        await page.locator("nav a[data-view=turns]").press("Enter")
        await page.locator("#turns .grid").focus()
        await page.keyboard.press("ArrowDown")
        await page.keyboard.press("Enter")
        await page.locator(".waterfall button").first.press("ArrowDown")
        await page.keyboard.press("Enter")
        await expect(page.locator(".waterfall .more:visible")).to_contain_text("session.id")
        await page.go_back()
        await page.go_back()
        await expect(page.locator("#sessions .detail")).to_be_visible()


async def test_a_session_comes_changes_and_goes(opened: Open) -> None:
    day = LiveDay(2, churn=0)
    async with opened(day, "sessions?filter=") as page:
        day.change(day.session("new", id="feed", state="connected", doing=None, left=None))
        await expect(row(page, "feed")).to_contain_text("idle")
        day.change({**day.rows["new"], "state": "disconnected", "left": day.now()})
        await expect(row(page, "feed")).to_contain_text("away for")
        day.change({**day.rows["new"], "state": "ended", "reason": "timeout", "seconds": 4.0})
        await expect(row(page, "feed")).to_contain_text("ended: timeout")
        day.change({"key": "new", "state": "gone"})
        await expect(row(page, "feed")).to_have_count(0)


async def test_an_open_session_grows_older_and_nothing_is_asked_for(opened: Open) -> None:
    day = LiveDay(2, churn=0)
    async with opened(day, "sessions?key=s0") as page:
        age = page.locator(".detail:visible .facts > div", has_text="Age")
        await expect(age).to_be_visible()

        async def grows_older() -> None:
            await expect(age).not_to_have_text(await age.inner_text())

        # The list may come after the details, which are asked for once more then.
        await grows_older()
        asked = [path for path in day.requests if "s0" in path]
        await grows_older()
        assert [path for path in day.requests if "s0" in path] == asked
        # Whoever marks a text keeps it.
        await age.evaluate("fact => getSelection().selectAllChildren(fact)")
        marked = await page.evaluate("getSelection().toString()")
        tile = page.locator(".grid tr[data-key=s0] .col-age")
        await expect(tile).not_to_have_text(await tile.inner_text())
        assert await page.evaluate("getSelection().toString()") == marked
        # What happens meanwhile is shown as soon as nothing is marked.
        day.change({**day.rows["s0"], "turns": 99})
        await expect(page.locator(".grid tr[data-key=s0] .col-turns")).to_have_text("99")
        await expect(tile).not_to_have_text(await tile.inner_text())
        assert await page.evaluate("getSelection().toString()") == marked
        await page.evaluate("getSelection().removeAllRanges()")
        turns = page.locator(".detail:visible .facts > div", has_text="Turns")
        await expect(turns).to_contain_text("99")


async def test_ten_thousand_sessions_are_a_few_rows_in_the_document(opened: Open) -> None:
    day = LiveDay(10_000, churn=200)
    async with opened(day, "sessions") as page:
        lines = page.locator(".grid tr[data-key]:visible")
        await expect(lines.first).to_be_visible()
        assert await page.locator("#sessions .grid").get_attribute("aria-rowcount") == "10001"
        assert await page.locator("*").count() < 3000
        frames = await page.evaluate(SCROLL)
        # Each frame shows rows where it has scrolled to, and there are never many of them.
        assert frames["blank"] == 0
        assert frames["most"] < 80
        await page.locator("#sessions .grid").press("End")
        await expect(page.locator("#grid-sessions-9999")).to_be_in_viewport()


SCROLL = """async () => {
  const box = document.querySelector("#sessions .scroller");
  const found = {blank: 0, most: 0, frames: 0, slow: 0, worst: 0};
  let before = performance.now();
  for (let top = 0; top < 40_000; top += 400) {
    box.scrollTop = top;
    await new Promise(requestAnimationFrame);
    const now = performance.now();
    await new Promise(done => setTimeout(done));
    const {top: edge, height} = box.getBoundingClientRect();
    const rows = [...box.querySelectorAll("tr[data-key]")].map(row => row.getBoundingClientRect());
    found.frames += 1;
    found.worst = Math.max(found.worst, now - before);
    found.slow += now - before > 17.5;
    before = now;
    found.most = Math.max(found.most, rows.length);
    const covers = rows[0].top <= edge + 40 && rows.at(-1).bottom >= edge + height - 1;
    found.blank += !covers;
  }
  return found;
}"""


async def test_it_pauses_while_hidden_and_catches_up(opened: Open) -> None:
    day = LiveDay(2, churn=0)
    async with opened(day, "sessions?filter=") as page:
        await hide(page, True)
        await state(page, "paused")
        # What was asked before may still be on its way.
        asked = -1
        while day.streams or asked != len(day.requests):
            asked = len(day.requests)
            await page.wait_for_timeout(500)
        day.change({"key": "s0", "state": "gone"}, day.session("new", id="feed"))
        await page.wait_for_timeout(1500)
        assert len(day.requests) == asked
        await hide(page, False)
        await state(page, "live")
        await expect(row(page, "feed")).to_be_visible()
        await expect(page.locator(".grid tr[data-key=s0]")).to_have_count(0)


async def test_it_comes_back_by_itself_and_says_that_it_is_not_live(opened: Open) -> None:
    day = LiveDay(2, churn=0)
    async with opened(day, "sessions?filter=") as page:

        async def gone(route: Any) -> None:
            await route.abort()

        await page.route("**/live/data/**", gone)
        day.cut()
        await state(page, "lost")
        await expect(page.locator("#state")).to_have_text(
            re.compile(r"Not live since \d\d:\d\d:\d\d, (again in \d+ seconds?|trying)")
        )
        day.change(day.session("new", id="feed"))
        await page.unroute("**/live/data/**")
        await state(page, "live")
        await expect(row(page, "feed")).to_be_visible()


async def test_whoever_may_not_look_is_told_why(opened: Open) -> None:
    day = LiveDay(2)
    async with opened(day, "sessions") as page:
        day.denied = "Set CHAINLIT_OTEL_PAGE_TOKEN."
        day.cut()
        await expect(page.get_by_text(day.denied)).to_be_visible()
        await expect(page.locator("#main")).to_be_hidden()
        day.denied = ""
        await expect(page.locator("#sessions .grid")).to_be_visible()


async def test_figures_levels_and_charts_are_those_of_the_stream(opened: Open) -> None:
    day = LiveDay(2, churn=0)
    day.missing = {"turn_p50", "turn_p95"}
    day.levels = {"loop_lag": "critical"}
    day.figures = {"connected": 4321}
    async with opened(day) as page:
        tile = page.locator(".tile[data-name=concurrent]")
        await expect(tile).to_contain_text("4,321")
        lag = page.locator(".tile[data-name=loop_lag]")
        await expect(lag.locator(".level")).to_have_text("◆ critical")
        assert (await page.title()).startswith("◆ 1")
        charts = page.locator(".chart:visible")
        sessions = charts.filter(has_text=re.compile("^Sessions"))
        await expect(sessions.locator("canvas")).to_have_count(1)
        await expect(sessions.locator(".legend")).to_contain_text("connected 4,321")
        duration = charts.filter(has_text="Turn duration")
        await expect(duration.locator("canvas")).to_have_count(0)
        await expect(duration).to_contain_text("Nothing in this time")
        await expect(page.locator(".chart", has_text="Tokens")).to_be_hidden()
        await page.get_by_role("button", name="24 h").click()
        slider = page.locator("#moment")
        await expect(slider).to_have_attribute("max", "1439")
        # The cursor is one for all charts, and the keyboard moves it.
        await slider.press("Home")
        await expect(page.locator("#moment-text")).not_to_have_text("now")
        await expect(sessions.locator(".legend")).to_contain_text("connected 4,321")
        day.figures["tokens_input"] = 7
        await page.get_by_role("button", name="15 min").click()
        await expect(page.locator(".chart", has_text="Tokens")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(browser: Browser, scheme: Any, tmp_path: Path) -> None:
    script = install_axe(tmp_path)
    day = LiveDay(100, churn=0)
    day.levels = {"first_token": "warning", "loop_lag": "critical"}
    day.blocked = {"blocked": True, "seconds": 3.2, "where": "app.py:12 in slow"}
    with day.served():
        # The page lets no script in that is not its own, axe neither.
        context = await browser.new_context(
            viewport={"width": 390, "height": 844}, color_scheme=scheme, bypass_csp=True
        )
        page = await context.new_page()
        await page.goto(day.url)
        for view in ("overview", "sessions?key=s3", "turns?filter=x:", "turns?key=t1", "health"):
            await page.evaluate("view => location.hash = view", view)
            await state(page, "live")
            await expect(page.locator(":is(table, figure):visible").first).to_be_visible()
            opening = "document.querySelectorAll('details').forEach(each => each.open = true)"
            await page.evaluate(opening)
            assert await violations(page, script) == [], view
        await context.close()


async def test_a_blocked_event_loop_is_said_with_its_line(opened: Open) -> None:
    day = LiveDay(2, churn=0)
    async with opened(day, "health") as page:
        await expect(page.locator("#banner")).to_be_hidden()
        day.blocked = {"blocked": True, "seconds": 7.4, "where": "app.py:12 in slow"}
        await expect(page.locator("#banner")).to_contain_text("blocked at app.py:12 in slow")
        await expect(page.locator("#banner")).to_contain_text("For 7 s")
        day.blocked = None
        await expect(page.locator("#banner")).to_be_hidden()
