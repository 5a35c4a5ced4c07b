"""The same answers from ClickHouse, by its engine over the table of the collector's exporter."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from chainlit_otel.analysis.clickhouse import ClickHouse, transpiled
from chainlit_otel.analysis.files import RecordFiles
from chainlit_otel.analysis.source import AnalysisError, ReadCounts
from chainlit_otel.analysis.tables import TABLES, Periods, question
from chainlit_otel.cli import main
from tests.analysis.naive import time_of
from tests.analysis.test_export import read, sorted_rows
from tests.analysis.test_questions import QUESTIONS, differences, rounded
from tests.support.clickhouse import ClickHouseServer
from tests.support.population import Population, Record, rfc3339, write

# For the whole size, AGREEMENT_SESSIONS=100000.
PEOPLE = Population(seed=21, sessions=int(os.environ.get("AGREEMENT_SESSIONS", "6000")), weeks=5)
# No whole second: a record may lie between it and the time that is meant.
UNTIL = PEOPLE.end - timedelta(microseconds=1)
PERIODS = Periods(UNTIL - timedelta(days=14), UNTIL)


def eventful(records: Iterable[Record]) -> Iterator[Record]:
    """Records with what the population has not: bots, lost ends, ids that come back."""
    for number, record in enumerate(records):
        first = record["session_id"][0]
        if first == "0" and "chainlit_session_type" in record:
            record["chainlit_session_type"] = "http"
        if first == "1" and record["kind"] == "session.end":
            record["chainlit_session_end_reason"] = "shutdown"
        if first == "2" and record["kind"] == "session.end":
            continue
        if first == "3":
            record["session_id"] = "3" + record["session_id"][-2:]
        if first == "4":
            del record["service_version"]
        if record["kind"] == "turn" and number % 50 == 0:
            del record["chainlit_turn_time_to_first_token"]
        yield record
        if record["kind"] == "feedback" and number % 2:
            record["chainlit_feedback_message"] = record["trace_id"][:16]
            for seconds, value in ((60, "negative"), (3600, "deleted"))[: number % 3]:
                time = rfc3339(time_of(record["time"]) + timedelta(seconds=seconds))
                yield {**record, "time": time, "chainlit_feedback_value": value}


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(eventful(PEOPLE.records()))


@pytest.fixture(scope="module")
def directory(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("records")
    write(records, place)
    return place


@pytest.fixture(scope="module")
def server(
    records: list[Record], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClickHouseServer]:
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as running:
        newer = [{**record, "schema": 2} for record in records[:3]]
        foreign = [{**records[0], "kind": "dream"}]
        running.insert(chain(records, newer, foreign))
        yield running


@pytest.fixture(scope="module")
def clickhouse(server: ClickHouseServer) -> Iterator[ClickHouse]:
    with closing(ClickHouse(server.address)) as database:
        database._run("SET readonly = 2")  # as a user who may read alone
        database.prepare(PERIODS)
        yield database


@pytest.fixture(scope="module")
def files(directory: Path) -> Iterator[RecordFiles]:
    with closing(RecordFiles(str(directory), list(map(question, QUESTIONS)))) as found:
        found.prepare(PERIODS)
        yield found


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
        since = ("--since", f"{UNTIL - timedelta(days=2):%Y-%m-%dT%H:%M:%S.%f}")
        run("export", "--from", source, "--what", what, "--format", form, "-o", file, *since)
        tables.append(sorted_rows([without_empty(row) for row in read(form, file)]))
    differing = [pair for pair in zip(*tables, strict=False) if pair[0] != pair[1]]
    assert differing[:3] == []
    assert len(tables[0]) == len(tables[1]) > 100


def without_empty(row: dict[str, Any]) -> dict[str, Any]:
    """ClickHouse knows no list that is not there: it is empty."""
    return {key: value for key, value in row.items() if value != []}


def test_a_period_ends_within_a_second(clickhouse: ClickHouse) -> None:
    (row,) = clickhouse._rows("SELECT since_time, until_time FROM bounds")
    assert [row["since_time"], row["until_time"]] == [
        time.replace(tzinfo=None) for time in (PERIODS.since, PERIODS.until)
    ]


def test_what_was_left_out_is_counted(clickhouse: ClickHouse, records: list[Record]) -> None:
    assert clickhouse.reading == ReadCounts(len(records), 0, 4)


def test_the_queries_of_clickhouse_are_printed_as_a_script(server: ClickHouseServer) -> None:
    script = run("report", "--from", server.address, "--sql").stdout
    settings, *made = script.rstrip(";\n").split(";\n\n")
    assert settings.startswith("SET join_use_nulls = '1'")
    assert [one.partition(" AS")[0] for one in made[:5]] == [
        f"CREATE TEMPORARY TABLE {name}" for name in ("bounds", *TABLES)
    ]
    assert made[5:] == [transpiled(question(name)) for name in QUESTIONS]
    server.run(settings, "script")
    for statement in (made[0], made[4], made[5 + QUESTIONS.index("scores")]):
        server.run(statement, "script")


def test_a_report_is_the_same_and_leaves_nothing_behind(
    server: ClickHouseServer, directory: Path
) -> None:
    made = []
    for source in (server.address, directory):
        text = run("report", "--from", source, "--json", "--until", f"{UNTIL:%Y-%m-%d}").stdout
        made.append({k: v for k, v in json.loads(text).items() if k not in ("made", "source")})
    assert list(differences(made[0], made[1])) == []
    left = "SELECT count() FROM system.tables WHERE is_temporary OR name = 'sessions'"
    assert json.loads(server.run(left))["data"] == [[0]]


def test_who_may_not_even_set_anything_is_told_what_to_change(server: ClickHouseServer) -> None:
    database = ClickHouse(server.address)
    server.run("SET readonly = 1", database._session)
    with pytest.raises(AnalysisError, match="needs readonly = 2"):
        database.prepare(PERIODS)


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
