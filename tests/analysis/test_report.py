"""`chainlit-otel report`: one page that needs nothing else, its figures as JSON, its queries."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result
from playwright.async_api import Page

from chainlit_otel.analysis import charts, sections
from chainlit_otel.analysis.report import cell
from chainlit_otel.analysis.sections import SECTIONS
from chainlit_otel.analysis.statistics import Estimate, share
from chainlit_otel.analysis.tables import Periods
from chainlit_otel.cli import main
from chainlit_otel.document import style
from chainlit_otel.document.pictures import svg
from tests.support.axe import install_axe, violations
from tests.support.browser import chromium
from tests.support.population import Population, rfc3339, write

NAMES = [section.__name__ for section in SECTIONS]
PEOPLE = Population(seed=8, sessions=900, weeks=4, failing=(0.02, 0.1))
UNTIL = PEOPLE.end.strftime("%Y-%m-%dT%H:%M")


def report(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["report", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("records")
    PEOPLE.write(place)
    return place


@pytest.fixture(scope="module")
def page(directory: Path) -> str:
    return report("--from", directory, "--until", UNTIL, "--since", "2026-09-21").stdout


@pytest.fixture(scope="module")
def figures(directory: Path) -> dict[str, Any]:
    arguments = ("--from", directory, "--until", UNTIL, "--since", "2026-09-21", "--json")
    found: dict[str, Any] = json.loads(report(*arguments).stdout)
    return found


class Elements(HTMLParser):
    """Start tags of a page with their attributes, and the text between."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_needs_no_script_and_no_network(page: str) -> None:
    elements = Elements(page)
    assert elements.of("script") == elements.of("link") == elements.of("img") == []
    for tag, attributes in elements.found:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href"):
                assert str(value).startswith("#"), (tag, value)
    style = page[page.index("<style>") : page.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_every_picture_has_its_table_and_every_table_its_name(page: str) -> None:
    elements = Elements(page)
    ids = [str(a["id"]) for _, a in elements.found if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in elements.found:
        for name in ("aria-labelledby", "href"):
            if (target := attributes.get(name)) is not None:
                assert target.removeprefix("#") in ids, target
    for figure in re.findall(r"<figure>.*?</figure>", page, re.S):
        assert figure.count("<svg") <= figure.count("<table") == figure.count("<figcaption") == 1
    assert all(a.get("aria-hidden") == "true" for a in elements.of("svg"))
    assert len(elements.of("svg")) >= 12
    assert len(elements.of("h1")) == len(elements.of("main")) == 1
    assert [a["id"] for a in elements.of("section")] == NAMES
    assert {a.get("scope") for a in elements.of("th")} == {"col", "row"}
    # A fragment of an address in SVG, such as a clip path, leads to what is there as well.
    for target in re.findall(r"url\(#([^)]+)\)", page):
        assert target in ids


def test_the_json_has_the_figures_of_the_page(page: str, figures: dict[str, Any]) -> None:
    text = " ".join(" ".join(Elements(page).text).split())
    assert [section["name"] for section in figures["sections"]] == NAMES
    for section in figures["sections"]:
        assert section["title"] in text
        for finding in section["findings"]:
            assert finding in text
        for figure in section["figures"]:
            assert figure["title"] in text
            assert all(len(row) == len(figure["columns"]) for row in figure["rows"])
            for row in figure["rows"]:
                for column, value in zip(figure["columns"], row, strict=True):
                    if isinstance(value, int):
                        assert f"{value:,}" in text, (figure["title"], column)
    assert figures["since"] == "2026-09-21T00:00:00Z"
    assert figures["source"] in text


def test_the_same_records_give_the_same_figures_to_the_last_digit(directory: Path) -> None:
    arguments = ("--from", directory, "--until", UNTIL, "--since", "2026-09-21", "--json")
    first, second = (
        re.sub(r'"made": "[^"]+"', "", report(*arguments).stdout, count=1) for _ in range(2)
    )
    assert first == second


def section_of(figures: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = [section for section in figures["sections"] if section["name"] == name]
    return dict(found)


def test_findings_say_what_is_worse(figures: dict[str, Any]) -> None:
    # In the second half of the weeks another version was there, which fails more often.
    assert any("worse" in says for says in section_of(figures, "overview")["findings"])
    (finding,) = section_of(figures, "leaving")["findings"]
    assert finding.endswith("slow answers cost users.")
    assert section_of(figures, "versions")["figures"][0]["rows"][0][0] == "1.0.0 → 1.1.0"


def test_what_is_not_known_is_not_shown_as_a_fact(tmp_path: Path) -> None:
    Population(sessions=60, weeks=1, signed_in=False).write(tmp_path)
    arguments = ("--from", tmp_path, "--since", "2026-09-07", "--until", "2026-09-13", "--json")
    figures = json.loads(report(*arguments).stdout)
    (says,) = section_of(figures, "users")["findings"]
    assert "user_hash_key" in says
    (says,) = section_of(figures, "retention")["findings"]
    assert "user_hash_key" in says
    assert any("user_hash_key" in says for says in section_of(figures, "funnel")["findings"])
    steps = section_of(figures, "funnel")["figures"][0]["rows"]
    assert [row[0] for row in steps] == ["opened the chat", "wrote", "was answered", "wrote again"]
    assert "nothing to compare with" in str(section_of(figures, "overview")["findings"])


def test_a_period_without_anything_says_so_in_each_section(tmp_path: Path) -> None:
    PEOPLE.write(tmp_path)
    arguments = ("--from", tmp_path, "--since", "2025-01-01", "--until", "2025-01-31")
    figures = json.loads(report(*arguments, "--json").stdout)
    for section in figures["sections"]:
        if section["name"] not in ("audience", "days", "hours"):
            assert section["findings"], section["name"]
            assert section["figures"] == [], section["name"]
    assert "No session started in this period." in report(*arguments).stdout


def finding(figures: dict[str, Any], name: str) -> str:
    return " ".join(section_of(figures, name)["findings"])


def test_nothing_is_compared_with_a_period_that_has_nothing(tmp_path: Path) -> None:
    Population(sessions=60, weeks=1, hours_short=0).write(tmp_path)
    arguments = ("--from", tmp_path, "--since", "2026-09-07", "--until", "2026-09-13", "--json")
    figures = json.loads(report(*arguments).stdout)
    for name in ("overview", "survival", "engagement", "users", "quality"):
        assert "nothing to compare with in the period before" in finding(figures, name), name
    assert finding(figures, "errors").startswith("No turn failed in the period before; ")
    # Two versions were there, which may be compared, and so may slow answers and fast ones.
    text = " ".join(finding(figures, name) for name in set(NAMES) - {"versions", "leaving"})
    for claim in ("unknown", "chance", "changed", "than before", "0 of them"):
        assert claim not in text, claim


def test_a_day_without_a_session_is_not_the_busiest(tmp_path: Path) -> None:
    Population(sessions=40, weeks=1).write(tmp_path)
    figures = json.loads(
        report(
            "--from", tmp_path, "--since", "2026-10-07", "--until", "2026-10-09", "--json"
        ).stdout
    )
    assert finding(figures, "days").startswith("No session started in this period.")


def test_one_thing_is_in_the_singular(tmp_path: Path) -> None:
    records = [r for r in Population(sessions=40, weeks=1).records() if r["kind"] == "turn"]
    (start,) = [
        {**r, "kind": "session.start", "time": r["chainlit_turn_start"]}
        | {"chainlit_session_type": "websocket"}
        for r in records[:1]
    ]
    write([start, records[0]], tmp_path)
    arguments = ("--from", tmp_path, "--since", "2026-09-07", "--until", "2026-09-13", "--json")
    figures = json.loads(report(*arguments).stdout)
    assert finding(figures, "overview").startswith("1 session with 1 turn; ")
    assert figures["source"] == "2 records"


def test_the_json_is_valid_whatever_an_app_scores(tmp_path: Path) -> None:
    records = list(Population(sessions=40, weeks=1).records())
    score = {"kind": "score", "gen_ai_evaluation_name": "odd"}
    for value in (-1e308, -1e308, -1e308):
        records.append({**records[0], **score, "gen_ai_evaluation_score_value": value})
    write(records, tmp_path)
    arguments = ("--from", tmp_path, "--since", "2026-09-07", "--until", "2026-09-13")

    def never(constant: str) -> None:
        raise AssertionError(constant)

    figures = json.loads(report(*arguments, "--json").stdout, parse_constant=never)
    (row,) = [r for r in section_of(figures, "scores")["figures"][0]["rows"] if r[0] == "odd"]
    assert row[1] == 3
    assert row[2]["value"] is None
    report(*arguments)


def test_each_day_has_one_label_and_counts_are_whole() -> None:
    drawn = [
        {"period": "this", "date": f"2026-11-0{day}", "measure": "sessions", "value": day % 2}
        for day in (1, 2, 3)
    ]
    labels = re.findall(r">([^<>]+)</text>", svg(charts.lines(drawn, ["sessions"]), 1))
    assert [label for label in labels if label.endswith("Nov")] == ["01 Nov", "02 Nov", "03 Nov"]
    assert {label for label in labels if label[0].isdigit() and "Nov" not in label} == {"0", "1"}


def test_the_queries_are_printed_without_any_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAINLIT_OTEL_RECORDS_DIR", raising=False)
    assert report("--sql").stdout.startswith("-- The shell of DuckDB")
    assert "Missing option '--from'" in report(code=2).stderr


def test_a_name_from_a_browser_is_text_on_the_page(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>&\"'"
    records = list(Population(sessions=40, weeks=1).records())
    for number, record in enumerate(records):
        record["chainlit_client_type"] = (evil, "webapp")[number % 2]
        if "chainlit_turn_tools" in record:
            for tool in record["chainlit_turn_tools"]:
                tool["name"] = evil
    write(records, tmp_path)
    page = report("--from", tmp_path, "--since", "2026-09-07", "--until", "2026-09-13").stdout
    assert Elements(page).of("script") == []
    assert any(evil in text for text in Elements(page).text)


def test_the_queries_are_those_that_are_asked(directory: Path, figures: dict[str, Any]) -> None:
    arguments = ("--from", directory, "--until", UNTIL, "--since", "2026-09-21", "--sql")
    script = report(*arguments).stdout.replace("'./**", f"'{directory}/**")
    with duckdb.connect() as connection:
        answers = [
            connection.execute(statement).fetchall()
            for statement in connection.extract_statements(script)
        ]
    answers = answers[-len(NAMES) :]
    days = answers[NAMES.index("days")]
    shown = section_of(figures, "days")["figures"][0]["rows"]
    assert sum(row[2] for row in days if row[0] == "this") == sum(row[1] for row in shown) > 0


def test_what_was_skipped_is_said_in_the_report(directory: Path, tmp_path: Path) -> None:
    write(list(PEOPLE.records())[:300], tmp_path)
    with next(tmp_path.glob("*.jsonl")).open("a", encoding="utf-8") as file:
        file.write('{"time":"2026-09-2\n')
    arguments = ("--from", tmp_path, "--since", "2026-09-07", "--until", "2026-09-13")
    result = report(*arguments)
    says = "1 line skipped: no whole record"
    assert says in result.stdout
    assert says in result.stderr


def test_the_period_is_four_weeks_up_to_now_unless_said(tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)
    records = list(Population(sessions=1, weeks=1, hours_short=0).records())
    for number, record in enumerate(records):
        record["time"] = rfc3339(now - timedelta(minutes=len(records) - number))
    write(records, tmp_path)
    figures = json.loads(report("--from", tmp_path, "--json").stdout)
    since, until = (datetime.fromisoformat(figures[k][:19]) for k in ("since", "until"))
    assert until - since == timedelta(days=28)
    before = datetime.fromisoformat(figures["since_before"][:19])
    assert since - before == timedelta(days=28)


def test_an_error_names_what_to_change(directory: Path, tmp_path: Path) -> None:
    cases: list[tuple[list[str | Path], int, str]] = [
        (["--from", tmp_path], 1, "no *.jsonl below"),
        (["--from", directory, "--since", "2026-09-10", "--until", "2026-09-01"], 2, "--since is"),
        (["--from", directory, "-o", tmp_path / "no" / "page"], 1, "cannot write"),
    ]
    for arguments, code, says in cases:
        result = report(*arguments, code=code)
        assert says in result.stderr.strip().splitlines()[-1]
    page = tmp_path / "page.html"
    report("--from", directory, "--until", UNTIL, "-o", page)
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("value", "kind", "written"),
    [
        (None, "count", "\N{EN DASH}"),
        (1234567, "count", "1,234,567"),
        (share(1, 3), "share", "33.3% (6.1 to 79.2)"),
        (share(0, 0), "share", "\N{EN DASH}"),
        (Estimate(0.02, -0.01, 0.05), "points", "+2.0 (-1.0 to +5.0)"),
        (Estimate(90.0, 80.0), "seconds", "90\u202fs (80\u202fs to ?)"),
        (Estimate(150.0), "seconds", "2.5\u202fmin"),
        (9000.0, "seconds", "2.5\u202fh"),
        (0.117, "change", "+11.7%"),
        (0.71234, "number", "0.7123"),
        (datetime(2026, 9, 1, 8, 30), "time", "2026-09-01 08:30:00"),
    ],
)
def test_a_figure_is_written_with_its_interval(value: Any, kind: Any, written: str) -> None:
    assert cell(value, kind) == written


# As it looks

CSS = style()


def luminance(colour: str) -> float:
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_all_text_and_all_lines_can_be_told_from_what_is_behind_them(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", CSS, re.S)[scheme]
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
    for text in ("ink", "muted", "now", "before"):
        assert contrast(colours[text], colours["paper"]) >= 4.5, text
    for level in range(6):
        assert contrast(colours["ink"], colours[f"heat-{level}"]) >= 4.5, level


def requests_of(tab: Page) -> list[str]:
    """The addresses that a page asks for, from now on."""
    found: list[str] = []
    tab.on("request", lambda request: found.append(request.url))
    return found


@pytest.mark.browser
async def test_it_fits_a_phone_and_follows_the_scheme_and_is_printed(
    page: str, tmp_path: Path
) -> None:
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    papers, inks = set(), set()
    async with chromium() as browser:
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                context = await browser.new_context(
                    viewport={"width": width, "height": 800},
                    color_scheme="dark" if scheme == "dark" else "light",
                    java_script_enabled=True,
                )
                tab = await context.new_page()
                requests = requests_of(tab)
                await tab.goto(file.as_uri())
                assert requests == [file.as_uri()]
                assert await tab.evaluate("document.documentElement.scrollWidth") == width
                paper = "getComputedStyle(document.documentElement).backgroundColor"
                papers.add(await tab.evaluate(paper))
                # A line of the pictures has the colour of the scheme, by a variable of the page.
                line = "getComputedStyle(document.querySelector('.mark-line path')).stroke"
                inks.add(await tab.evaluate(line))
                await context.close()
        tab = await browser.new_page()
        await tab.goto(file.as_uri())
        printed = await tab.pdf(format="A4")
        hidden = "document.querySelectorAll('details:not([open])').length"
        assert await tab.evaluate(hidden) > 0
        await tab.emulate_media(media="print")
        table = tab.locator("#hours table")
        assert await table.is_visible()
    assert len(papers) == len(inks) == 2
    assert printed.startswith(b"%PDF")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing(page: str, scheme: Any, tmp_path: Path) -> None:
    script = install_axe(tmp_path)
    file = tmp_path / "report.html"
    file.write_text(page, encoding="utf-8")
    async with chromium() as browser:
        tab = await browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
        await tab.goto(file.as_uri())
        await tab.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert await violations(tab, script) == []


@pytest.mark.parametrize(
    ("now", "before", "says"),
    [
        ((2_040, 100_000), (1_970, 100_000), "2.04% of them; 1.97% before: within chance."),
        ((5, 100), (4, 100), "5.0% of them; 4.0% before: within chance."),
        ((5, 100), (5, 100), "5.0% of them; 5.0% before: within chance."),
        ((90, 100), (5, 100), "90.0% of them; 5.0% before: worse than before."),
        ((5, 100), (0, 0), "5.0% of them; nothing to compare with in the period before."),
    ],
)
def test_two_shares_have_the_digits_that_tell_them_apart(
    now: tuple[int, int], before: tuple[int, int], says: str
) -> None:
    assert sections._share_and_before("of them", now, before, "worse", "better") == says


def test_a_cost_that_is_not_known_is_no_zero() -> None:
    row = {"period": "this", "turns": 2, "with_calls": 2, "input": 7, "output": 5}
    known = {**row, "calls": 2, "uncounted": 0, "unpriced": 0, "cost": 0.5}
    unknown = {**row, "calls": 2, "uncounted": 1, "unpriced": 1, "cost": 0.0}
    free = {**row, "calls": 2, "uncounted": 1, "unpriced": 0, "cost": 0.0}
    models = {"known": known, "unknown": unknown, "free": free}
    rows = [{**of, "dimension": "model", "name": name} for name, of in models.items()]
    periods = Periods(datetime(2026, 1, 1), datetime(2026, 1, 8))
    for whole, first in (
        (known, "$0.50 for 2 model calls, nothing to compare with in the period before; 7 tokens"),
        (unknown, "2 model calls; 7 tokens were sent, and 5 answered."),
    ):
        shown = sections.cost([*rows, {**whole, "dimension": "all", "name": ""}], periods)
        assert shown.findings[0].startswith(first)
    by_model = shown.figures[0]
    assert [(line[0], line[7]) for line in by_model.rows] == [
        ("known", 0.5),
        ("unknown", None),
        ("free", 0.0),
    ]
