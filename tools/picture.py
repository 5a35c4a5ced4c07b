"""Draws the picture in the README: the dashboard of sessions, over the real data of the demo.

There is no Grafana in this. The demo is visited for some minutes, a Prometheus scrapes it, and the
dashboard's own queries are drawn where the dashboard has them.

Usage: python -m tools.picture [--minutes MINUTES] [--output FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

from chainlit_otel.catalog import DASHBOARD_SESSIONS
from chainlit_otel.cli import demo_server
from chainlit_otel.rules import render
from chainlit_otel.testing.load import Crowd, Plan
from chainlit_otel.testing.visit import Target
from tests.support.browser import chromium
from tests.support.grafana import DASHBOARDS, Grafana
from tests.support.prometheus import Prometheus
from tests.support.server import ChainlitServer
from tools.drawing import Shown, page

PICTURE = Path(__file__).resolve().parent.parent / "docs" / "sessions.png"
ROWS = ("At a glance", "Sessions", "How long")
SIZE = (1280, 900)
_SCRAPE = 5

# Those who always come, one after the other; a rush of newcomers; some with other ways to come.
_USUAL = Plan(None, rate=0.8, length=40, seed=1, drops=0.02, closes=0.3)
_RUSH = Plan(90, rate=3, length=20, seed=2, drops=0, closes=0.3)
_COPILOT = Plan(None, rate=0.15, length=30, seed=3, drops=0, closes=0.3)
_POLLING = Plan(None, rate=0.05, length=30, seed=4, drops=0, closes=0.3)


async def visited(minutes: float) -> list[tuple[dict[str, Any], Shown]]:
    """Have the demo visited, and return the panels with what they show at the end."""
    app = Path(demo_server.__file__).with_name("demo_app.py").read_text(encoding="utf-8")
    config = {"project": {"session_timeout": demo_server.GRACE}}
    with (
        ChainlitServer({"app.py": app}, config=config) as server,
        Prometheus(
            [f"127.0.0.1:{server.admin_port}"], render(), interval=f"{_SCRAPE}s"
        ) as prometheus,
    ):
        start = time.time()
        crowds = [
            asyncio.create_task(visitors.run())
            for visitors in (
                Crowd(Target(server.url), _USUAL.visits()),
                Crowd(Target(server.url, client_type="copilot"), _COPILOT.visits()),
                Crowd(Target(server.url, transports=["polling"]), _POLLING.visits()),
            )
        ]
        await asyncio.sleep(minutes * 60 / 2)
        crowds.append(asyncio.create_task(Crowd(Target(server.url), _RUSH.visits()).run()))
        await asyncio.sleep(minutes * 60 / 2)
        with Grafana(
            prometheus.url, int(start), int(time.time()), scrape=_SCRAPE, points=300
        ) as grafana:
            found = await asyncio.to_thread(_look, grafana)
        for crowd in crowds:
            crowd.cancel()
        await asyncio.wait(crowds)
        return found


def _look(grafana: Grafana) -> list[tuple[dict[str, Any], Shown]]:
    dashboard = DASHBOARDS[DASHBOARD_SESSIONS]
    grafana.choose_all(dashboard)
    found: list[tuple[dict[str, Any], Shown]] = []
    row = ""
    for panel in dashboard["panels"]:
        if panel["type"] == "row":
            row = panel["title"]
        if row in ROWS:
            targets = panel.get("targets", ())
            found.append((panel, {t["refId"]: list(grafana.target(t)) for t in targets}))
    return found


async def photograph(html: str, file: Path) -> None:
    """Have Chromium make a picture of a page."""
    async with chromium() as browser:
        width, height = SIZE
        view = await browser.new_page(
            viewport={"width": width, "height": height}, device_scale_factor=1.5
        )
        await view.set_content(html)
        await view.screenshot(path=file, full_page=True)


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=6, help="of visits (6)")
    parser.add_argument("--output", type=Path, default=PICTURE, help="the PNG")
    options = parser.parse_args()
    found = asyncio.run(visited(options.minutes))
    title = DASHBOARDS[DASHBOARD_SESSIONS]["title"]
    asyncio.run(photograph(page(title, found), options.output))
    print(f"{options.output}: {options.output.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
