"""The same answers from ClickHouse, by its engine over the table of the collector's exporter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chainlit_otel.analysis.clickhouse import ClickHouse
from chainlit_otel.analysis.files import RecordFiles
from chainlit_otel.analysis.sections import SECTIONS
from chainlit_otel.analysis.source import ReadCounts
from chainlit_otel.analysis.tables import Periods, question
from chainlit_otel.cli import main
from tests.analysis.test_export import read, sorted_rows
from tests.analysis.test_questions import QUESTIONS, rounded
from tests.support.clickhouse import ClickHouseServer
from tests.support.population import Population, Record, write

PEOPLE = Population(seed=21, sessions=1500, weeks=5)
PERIODS = Periods(PEOPLE.end - timedelta(days=14), PEOPLE.end)


RECORDS: list[Record] = list(PEOPLE.records())


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("records")
    write(RECORDS, place)
    return place


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as running:
        newer = [{**record, "schema": 2} for record in RECORDS[:3]]
        foreign = [{**RECORDS[0], "kind": "dream"}]
        running.insert([*RECORDS, *newer, *foreign])
        yield running


@pytest.fixture(scope="module")
def clickhouse(server: ClickHouseServer) -> ClickHouse:
    database = ClickHouse(server.address)
    database.prepare(PERIODS)
    return database


@pytest.fixture(scope="module")
def files(directory: Path) -> Iterator[RecordFiles]:
    with closing(RecordFiles(str(directory), list(map(question, QUESTIONS)))) as records:
        records.prepare(PERIODS)
        yield records


@pytest.mark.parametrize("name", QUESTIONS)
def test_both_engines_give_the_same_rows(
    files: RecordFiles, clickhouse: ClickHouse, name: str
) -> None:
    one, other = files.ask(name), clickhouse.ask(name)
    assert one
    assert [list(row) for row in one[:1]] == [list(row) for row in other[:1]]
    assert rounded(row.values() for row in one) == rounded(row.values() for row in other)


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("what", ["sessions", "turns"])
def test_an_export_is_the_same(
    server: ClickHouseServer, directory: Path, tmp_path: Path, what: str, form: str
) -> None:
    tables = []
    for source in (server.address, directory):
        file = tmp_path / "table"
        run("export", "--from", source, "--what", what, "--format", form, "-o", file)
        tables.append(sorted_rows([without_empty(row) for row in read(form, file)]))
    differing = [pair for pair in zip(*tables, strict=True) if pair[0] != pair[1]]
    assert differing[:3] == []


def without_empty(row: dict[str, Any]) -> dict[str, Any]:
    """ClickHouse knows no list that is not there: it is empty."""
    return {key: value for key, value in row.items() if value != []}


def test_what_was_left_out_is_counted(clickhouse: ClickHouse) -> None:
    assert clickhouse.reading == ReadCounts(len(RECORDS), 0, 4)


def test_the_queries_of_clickhouse_are_printed(server: ClickHouseServer) -> None:
    script = run("report", "--from", server.address, "--sql").stdout
    assert script.count("`otel_logs`") >= len(SECTIONS)
    assert script.startswith("SET join_use_nulls = '1'")


def test_an_error_names_what_to_change(server: ClickHouseServer) -> None:
    for address, says in (
        ("clickhouse://127.0.0.1:1/x", "127.0.0.1:1 does not answer"),
        (server.address + "?table=nothing", "nothing"),
        (server.address + "?tables=x", "takes ?table= and ?secure=1, not tables"),
        ("clickhouse://localhost:port", "not a number"),
    ):
        result = run("export", "--from", address, code=1)
        last = result.stderr.strip().splitlines()[-1]
        assert last.startswith("Error: ")
        assert says in last, last
