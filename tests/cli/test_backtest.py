"""`chainlit-otel backtest` over the past of a real Prometheus."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from click.testing import CliRunner

from chainlit_otel.backtest.evaluate import Evaluation
from chainlit_otel.backtest.replay import replay
from chainlit_otel.cli import main
from chainlit_otel.rules import Windows, render
from chainlit_otel.thresholds import Thresholds
from tests.backtest.past import GRID, STEP, openmetrics, past
from tests.support.axe import install_axe, violations
from tests.support.browser import chromium
from tests.support.http import fetch
from tests.support.local import Handler, LocalServer
from tests.support.prometheus import Prometheus

SEED = 3


def when(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%dT%H:%M:%SZ}"


SINCE, UNTIL = when(GRID.start), when(GRID.end)


@pytest.fixture(scope="module")
def prometheus() -> Iterator[Prometheus]:
    with Prometheus([], history="".join(openmetrics(past(SEED)))) as prometheus:
        yield prometheus


def backtest(url: str, *arguments: str) -> Any:
    return CliRunner().invoke(main, ["backtest", "--prometheus", url, *arguments])


def over(url: str, *arguments: str) -> dict[str, Any]:
    period = ["--since", SINCE, "--until", UNTIL]
    rate = ["--step", str(STEP), "--scrape-interval", str(STEP)]
    result = backtest(url, "--json", *period, *rate, *arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def found(prometheus: Prometheus) -> dict[str, Any]:
    return over(prometheus.url)


def test_the_firings_are_those_of_the_samples(found: dict[str, Any]) -> None:
    evaluation = Evaluation(GRID, lambda _: {})
    evaluation.known.update(past(SEED))
    groups = yaml.safe_load(render(window=Windows(scrape=STEP)))["groups"]
    expected = [
        (one.alert, dict(one.labels), one.pending, one.start, one.end)
        for one in replay(groups, evaluation, GRID)
    ]
    assert len(expected) > 5
    assert [
        (one["alert"], one["labels"], one["pending"], one["start"], one["end"])
        for one in found["firings"]
    ] == expected
    assert found["weeks"] == pytest.approx((GRID.end - GRID.start) / 604_800)
    # Twenty-two days before the period are read as well, in parts of 10,000 evaluations.
    assert found["asked"]["questions"] < 500
    assert found["asked"]["samples"] > 10_000


def test_another_value_is_what_that_value_would_have_done(
    prometheus: Prometheus, found: dict[str, Any]
) -> None:
    defaults = Thresholds()
    changed = [one for one in found["alternatives"] if one["is_proposed"]]
    assert changed
    for one in changed[:1]:
        option = f"--{one['threshold'].replace('_', '-')}"
        assert one["value"] != getattr(defaults, one["threshold"])
        again = over(prometheus.url, option, str(one["value"]))["firings"]
        fired = [firing["alert"] for firing in again]
        assert {name: fired.count(name) for name in one["firings"]} == one["firings"]
        before = [firing["alert"] for firing in found["firings"]]
        assert {name: before.count(name) for name in one["firings_in_force"]} == one[
            "firings_in_force"
        ]


def test_people_read_which_alert_when_and_for_how_long(
    prometheus: Prometheus, found: dict[str, Any]
) -> None:
    result = backtest(prometheus.url, "--since", SINCE, "--until", UNTIL, "--step", str(STEP))
    assert result.exit_code == 0
    for name in {one["alert"] for one in found["firings"]}:
        assert f"{name}: " in result.output
    assert f"{datetime.fromtimestamp(GRID.start, timezone.utc):%Y-%m-%d}" in result.output
    assert "questions, got" in result.output


def test_no_metrics_are_no_firings() -> None:
    with Prometheus([]) as empty:
        result = backtest(empty.url, "--since", SINCE, "--until", UNTIL)
    assert result.exit_code == 0
    assert "No alert would have fired in 0.1 weeks." in result.output


class _Guarded(LocalServer):
    """What stands before a Prometheus and wants a token."""

    def __init__(self, behind: str) -> None:
        class Answering(Handler):
            def do_GET(self) -> None:
                if self.headers.get("Authorization") != "Bearer right":
                    self.answer(b"<h1>401</h1>", status=401)
                    return
                self.answer(fetch(behind + self.path).content)

        super().__init__(Answering)


def test_a_header_opens_what_is_guarded(prometheus: Prometheus) -> None:
    with _Guarded(prometheus.url) as guarded:
        refused = backtest(guarded.origin, "--since", SINCE, "--until", UNTIL)
        assert refused.exit_code == 1
        assert "answers 401 and no JSON; give --prometheus" in refused.output
        assert len(over(guarded.origin, "--header", "Authorization: Bearer right")["firings"]) > 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--since", "2150-01-01"], "is not before the end of the period"),
        (["--header", "Authorization"], "is not NAME:VALUE"),
        (["--step", "45"], "'--step': 45 does not divide a minute, as 15, 20, 30 and 60 do"),
        (["--step", "7"], "'--step': 7 does not divide a minute"),
        (["--step", "120"], "'--step': 120.0 is not in the range 1<=x<=60."),
        (["--spike-factor", "0"], "threshold spike_factor is 0"),
        (["--since", "2023-11-14"], "cannot be asked (ConnectError)"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str) -> None:
    result = backtest("http://127.0.0.1:1", *arguments)
    assert result.exit_code != 0
    (line,) = [line for line in result.output.splitlines() if line.startswith("Error: ")]
    assert says in line
    assert httpx.__name__ not in result.output


class _Page(HTMLParser):
    """What stands in a page, by the id of its section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: dict[str, list[str]] = {}
        self.text: dict[str, str] = {}
        self._section = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self._section = dict(attrs).get("id") or ""
        self.elements.setdefault(self._section, []).append(tag)

    def handle_data(self, data: str) -> None:
        self.text[self._section] = self.text.get(self._section, "") + data


def test_a_page_shows_each_alert_with_what_it_looked_at(
    prometheus: Prometheus, found: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "alerts.html"
    rate = ["--step", str(STEP), "--scrape-interval", str(STEP)]
    result = backtest(prometheus.url, "--since", SINCE, "--until", UNTIL, *rate, "-o", str(file))
    assert result.exit_code == 0, result.output
    text = file.read_text()
    page = _Page(text)
    fired = Counter(one["alert"] for one in found["firings"])
    assert {name for name in page.elements if name.startswith("Chainlit")} == set(fired)
    for name, number in fired.items():
        assert page.elements[name].count("svg") == 1
        assert page.elements[name].count("tr") == 1 + number
        assert "limit" in page.text[name]
    for one in found["firings"]:
        start = datetime.fromtimestamp(one["start"], timezone.utc)
        assert f"{start:%Y-%m-%d %H:%M}" in page.text[one["alert"]]
    proposed = [one for one in found["alternatives"] if one["is_proposed"]]
    assert page.text[""].count("proposed") == sum(len(one["firings"]) for one in proposed) > 0
    assert "script" not in {tag for tags in page.elements.values() for tag in tags}
    assert not re.findall(r'(?:src|href)="(?!#)[^"]*"', text)


@pytest.mark.browser
async def test_axe_finds_nothing_on_the_page(prometheus: Prometheus, tmp_path: Path) -> None:
    file = tmp_path / "alerts.html"
    result = backtest(prometheus.url, "--since", SINCE, "--until", UNTIL, "-o", str(file))
    assert result.exit_code == 0, result.output
    script = await asyncio.to_thread(install_axe, tmp_path)
    async with chromium() as browser:
        tab = await browser.new_page()
        await tab.goto(file.as_uri())
        assert await violations(tab, script) == []
