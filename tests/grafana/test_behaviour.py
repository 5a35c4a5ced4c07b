"""The dashboard Behaviour: its queries asked of the engine of ClickHouse, beside the report."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chainlit_otel.analysis import report
from chainlit_otel.analysis.files import RecordFiles
from chainlit_otel.analysis.sections import Section
from chainlit_otel.analysis.statistics import Estimate
from chainlit_otel.analysis.tables import Periods, question
from chainlit_otel.grafana import record_files
from tests.analysis.test_questions import QUESTIONS, differences
from tests.support.clickhouse import ClickHouseServer
from tests.support.grafana import panels
from tests.support.population import Population, write

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "examples" / "analytics" / "grafana" / "dashboards"
((NAME, TEXT),) = record_files().items()
DASHBOARD = json.loads(TEXT)
PEOPLE = Population(seed=8, sessions=1500, weeks=8)
PERIODS = Periods(PEOPLE.end - timedelta(days=28), PEOPLE.end)

Rows = list[dict[str, Any]]


def test_the_committed_file_is_what_would_be_written() -> None:
    assert [file.name for file in COMMITTED.iterdir()] == [NAME]
    assert (COMMITTED / NAME).read_text(encoding="utf-8") == TEXT, "run `make docs`"


def test_it_asks_one_data_source_and_says_when_to_investigate() -> None:
    kind = "grafana-clickhouse-datasource"
    assert [(v["name"], v["query"]) for v in DASHBOARD["templating"]["list"]] == [
        ("datasource", kind)
    ]
    taken: set[tuple[int, int]] = set()
    for panel in panels(DASHBOARD):
        assert "Investigate " in panel["description"]
        assert panel["description"].endswith(".")
        for source in (panel["datasource"], *(t["datasource"] for t in panel["targets"])):
            assert source == {"type": kind, "uid": "${datasource}"}
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Section]:
    """Those of the report over the same records in files."""
    directory = tmp_path_factory.mktemp("records")
    write(PEOPLE.records(), directory)
    asked = list(map(question, QUESTIONS))
    with closing(RecordFiles(str(directory), asked, PERIODS.before)) as files:
        return {section.name: section for section in report.make(files, PERIODS)}


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Rows]]:
    """Give what a panel is given, by its title."""
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as server:
        server.insert(PEOPLE.records())

        def answer(title: str) -> Rows:
            (panel,) = (panel for panel in panels(DASHBOARD) if panel["title"] == title)
            (target,) = panel["targets"]
            sql = target["rawSql"]
            for macro, time in (("from", PERIODS.since), ("to", PERIODS.until)):
                milliseconds = round(time.timestamp() * 1000)
                sql = sql.replace(f"$__{macro}Time_ms", f"fromUnixTimestamp64Milli({milliseconds})")
            assert "$" not in sql
            # As a client whose settings are those of the server.
            found = json.loads(server.run(sql, "grafana"))
            names = [column["name"] for column in found["meta"]]
            known = {
                override["matcher"]["options"] for override in panel["fieldConfig"]["overrides"]
            }
            assert known <= set(names)
            return [dict(zip(names, row, strict=True)) for row in found["data"]]

        yield answer


def number(value: Any) -> Any:
    """A figure as JSON of ClickHouse and the report both have it."""
    if isinstance(value, Estimate):
        return value.known()["value"]
    return int(value) if isinstance(value, str) and re.fullmatch(r"\d+", value) else value


def same(one: Any, other: Any) -> None:
    shown = [[[number(value) for value in row] for row in rows] for rows in (one, other)]
    assert list(differences(shown[0], shown[1])) == []
    assert shown[0]


def test_at_a_glance(ask: Callable[[str], Rows], sections: dict[str, Section]) -> None:
    (row,) = ask("Sessions and turns")
    now = {line[0]: line[1] for line in sections["overview"].figures[0].rows}
    turns = now["Turns"]
    same(
        [[row[name] for name in ("sessions", "users", "turns", "answered", "failed")]],
        [
            [now["Sessions"], now["Users that are known"], turns]
            + [now[name] / turns for name in ("Turns answered", "Turns that failed")]
        ],
    )


def test_session_length(ask: Callable[[str], Rows], sections: dict[str, Section]) -> None:
    (row,) = ask("Session length")
    quantiles = {line[0]: line[1] for line in sections["survival"].figures[0].rows}
    same([[row["median"], row["p99"]]], [[quantiles["median"], quantiles["99%"]]])


def test_bounces(ask: Callable[[str], Rows], sections: dict[str, Section]) -> None:
    (line,) = (line for line in sections["engagement"].figures[0].rows if line[0] == "0")
    same([ask("Bounces")[0].values()], [[line[2]]])


def test_days(ask: Callable[[str], Rows], sections: dict[str, Section]) -> None:
    figure = sections["days"].figures[0]
    heads = [name for name, _ in figure.columns]
    places = [heads.index(name) for name in ("sessions", "users", "turns")]
    expected = {
        line[0]: [line[place] for place in places]
        for line in figure.rows
        if any(line[place] for place in places)
    }
    rows = ask("Sessions, users and turns by day")
    found = {datetime.fromisoformat(row.pop("time")).date(): list(row.values()) for row in rows}
    assert list(found) == sorted(expected)
    same(found.values(), [expected[day] for day in found])


def test_way_through(ask: Callable[[str], Rows], sections: dict[str, Section]) -> None:
    (row,) = ask("The way through")
    steps = sections["funnel"].figures[0].rows
    same([row.values()], [[line[1] for line in steps]])
    assert [name in line[0] for name, line in zip(row, steps, strict=True)] == [True] * 5


def test_retention(ask: Callable[[str], Rows], sections: dict[str, Section]) -> None:
    rows = ask("Retention by week")
    expected = [
        [str(line[0]), *line[1:], *[None] * (9 - len(line))]
        for line in sections["retention"].figures[0].rows
    ]
    same([row.values() for row in rows], expected)
    assert rows[0]["+1"] == pytest.approx(PEOPLE.retention, abs=0.15)


def test_outcome_and_feedback_by_profile(
    ask: Callable[[str], Rows], sections: dict[str, Section]
) -> None:
    figure = sections["quality"].figures[1]
    heads = [name for name, _ in figure.columns]
    pairs = {
        "turns": "turns",
        "failed": "failed",
        "stopped": "stopped",
        "not seen in full": "not seen in full",
        "bad feedback": "bad feedback",
        "first token, median": "median first token",
    }
    found = {row["profile"]: row for row in ask("Outcome and feedback by chat profile")}
    for line in figure.rows:
        row = found.pop("" if line[0] == "(none)" else line[0])
        same(
            [[row[name] for name in pairs]],
            [[line[heads.index(head)] for head in pairs.values()]],
        )
    assert found == {}


def test_outcome_and_feedback_by_version(
    ask: Callable[[str], Rows], sections: dict[str, Section]
) -> None:
    one, other = ask("Outcome and feedback by version")
    measures = ("failed", "stopped", "asked again", "not seen in full", "bad feedback")
    lines = {line[1]: line for line in sections["versions"].figures[0].rows}
    assert {line[0] for line in lines.values()} == {f"{one['version']} → {other['version']}"}
    same(
        [[one[name], other[name]] for name in measures],
        [lines[name][2:4] for name in measures],
    )


def test_errors(ask: Callable[[str], Rows], sections: dict[str, Section]) -> None:
    expected = [[*line[:3], line[4]] for line in sections["errors"].figures[0].rows if line[2]]
    same([row.values() for row in ask("Errors")], expected)


def test_tools(ask: Callable[[str], Rows], sections: dict[str, Section]) -> None:
    figure = sections["tools"].figures[0]
    heads = [name for name, _ in figure.columns]
    places = [heads.index(n) for n in ("tool", "calls", "failed", "median", "99%", "in all")]
    expected = [[line[place] for place in places] for line in figure.rows]
    same([row.values() for row in ask("Tools")], expected)
