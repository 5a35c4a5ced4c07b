"""`chainlit-otel export`: each format has what the records say; what is skipped is counted."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pytest
from click.testing import CliRunner, Result

from chainlit_otel.analysis.tables import FIELDS, TABLES, view
from chainlit_otel.catalog import (
    FEEDBACK_RECORD,
    SCORE_RECORD,
    SESSION_END_RECORD,
    TURN_RECORD,
)
from chainlit_otel.cli import main
from tests.analysis import naive
from tests.analysis.naive import Row
from tests.support.population import Population, Record, rfc3339, write
from tests.support.scrape import wait_until
from tests.support.server import python_path

KINDS = {"turns": "turn", "feedback": "feedback", "scores": "score"}
FORMATS = ("csv", "jsonl", "parquet")


def export(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(Population(seed=11, sessions=400, weeks=2).records())


@pytest.fixture(scope="module")
def directory(records: list[Record], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("records")
    write(records[::2], place / "one")
    write(records[1::2], place / "two" / "deeper")
    return place


def read(form: str, file: Path) -> list[Row]:
    """The rows of a file, without what is not there, times as records have them."""
    if form == "csv":
        with file.open(newline="", encoding="utf-8") as text:
            rows: list[Row] = [dict(row) for row in csv.DictReader(text)]
        return [{k: value_of(k, v) for k, v in row.items() if v != ""} for row in rows]
    if form == "jsonl":
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    else:
        with duckdb.connect() as connection:
            table = connection.execute("SELECT * FROM read_parquet($1)", [str(file)])
            names = [column[0] for column in table.description or ()]
            rows = [dict(zip(names, row, strict=True)) for row in table.fetchall()]
    shown = [{k: v for k, v in row.items() if v is not None} for row in rows]
    return [
        {k: rfc3339(v) if isinstance(v, datetime) else v for k, v in row.items()} for row in shown
    ]


def value_of(column: str, text: str) -> Any:
    """A value of a CSV table, by the type of its field."""
    field = FIELDS.get(column)
    convert: dict[str, Callable[[str], Any]] = {
        "string": str,
        "time": str,
        "integer": int,
        "double": float,
        "boolean": json.loads,
        "tools": json.loads,
        "models": json.loads,
    }
    if column in ("is_open", "seconds_known"):
        return json.loads(text)
    assert field is not None, column
    return convert[field.type](text)


def sorted_rows(rows: list[Row]) -> list[str]:
    """Rows in an order of their own, to be compared; floats as far as both ways agree."""
    return sorted(json.dumps({k: comparable(v) for k, v in sorted(row.items())}) for row in rows)


def comparable(value: Any) -> Any:
    """A whole number is the same with and without a point."""
    if isinstance(value, list):
        # What a model did not say is null in a table, and not there in a record.
        return [{k: comparable(v) for k, v in one.items() if v is not None} for one in value]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return round(float(value), 6) if is_number else value


def of_table(rows: list[Row]) -> list[Row]:
    """Records as a table has them, which is of one kind and one schema."""
    return [{k: v for k, v in row.items() if k not in ("kind", "schema")} for row in rows]


@pytest.mark.parametrize("form", FORMATS)
def test_every_session_is_a_row(
    records: list[Record], directory: Path, tmp_path: Path, form: str
) -> None:
    file = tmp_path / "table"
    export("--from", directory, "--format", form, "-o", file)
    expected = of_table(naive.sessions(records))
    assert sorted_rows(read(form, file)) == sorted_rows(expected)
    assert 0 < sum(row["is_open"] for row in expected) < len(expected)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("what", KINDS)
def test_every_turn_feedback_and_score_is_a_row(
    records: list[Record], directory: Path, tmp_path: Path, what: str, form: str
) -> None:
    file = tmp_path / "table"
    export("--from", directory, "--what", what, "--format", form, "-o", file)
    of_kind = naive.of_kind(records, KINDS[what])
    expected = of_table(naive.feedback_of(records) if what == "feedback" else of_kind)
    assert 0 < len(expected) <= len(of_kind)
    # Some have changed their mind.
    assert (len(expected) < len(of_kind)) == (what == "feedback")
    assert sorted_rows(read(form, file)) == sorted_rows(expected)


@pytest.mark.parametrize("form", FORMATS)
def test_all_records_come_back_as_they_are(
    records: list[Record], directory: Path, tmp_path: Path, form: str
) -> None:
    file = tmp_path / "table"
    export("--from", directory, "--what", "all", "--format", form, "-o", file)
    assert sorted_rows(read(form, file)) == sorted_rows(records)


def test_an_export_of_all_as_jsonl_can_be_read_again(directory: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    again.mkdir()
    export("--from", directory, "--what", "all", "--format", "jsonl", "-o", again / "all.jsonl")
    first = export("--from", directory).stdout
    assert sorted(export("--from", again).stdout.splitlines()) == sorted(first.splitlines())


def test_the_table_goes_to_standard_output_and_all_else_elsewhere(directory: Path) -> None:
    result = export("--from", directory, "--what", "turns")
    rows = list(csv.reader(io.StringIO(result.stdout)))
    assert rows[0][0] == "time"
    assert len({len(row) for row in rows}) == 1
    assert result.stderr.startswith("read ")


def test_the_directory_of_the_setting_is_the_default(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export("--what", "turns", code=2)
    monkeypatch.setenv("CHAINLIT_OTEL_RECORDS_DIR", str(directory))
    assert len(export("--what", "turns").stdout.splitlines()) > 400


# Where the table goes


def test_only_a_file_is_replaced(directory: Path, tmp_path: Path) -> None:
    table = export("--from", directory, "--what", "scores").stdout.encode()
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old", encoding="utf-8")
    link.symlink_to("target")
    export("--from", directory, "--what", "scores", "-o", link)
    assert link.is_symlink()
    assert sorted(target.read_bytes().splitlines()) == sorted(table.splitlines())

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE)
    export("--from", directory, "--what", "scores", "-o", pipe)
    read_from_it, _ = reader.communicate(timeout=60)
    assert sorted(read_from_it.splitlines()) == sorted(table.splitlines())
    assert pipe.is_fifo()

    export("--from", directory, "-o", "/dev/null")
    assert Path("/dev/null").is_char_device()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe", "target"]


def test_a_dash_is_standard_output(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = export("--from", directory, "--what", "turns", "-o", "-")
    assert result.stdout.startswith("time,")
    assert os.listdir(tmp_path) == []


def test_a_reader_that_has_had_enough_is_no_fault(directory: Path) -> None:
    script = "from chainlit_otel.cli import main; main()"
    command = [sys.executable, "-c", script, "export", "--from", str(directory), "--what", "all"]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command,
        env={**os.environ, **python_path()},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
    )
    os.close(writing)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("read ")


# Filters


def start_of(row: Row, what: str) -> str:
    return str(row["chainlit_session_start" if what == "sessions" else "chainlit_turn_start"])


@pytest.mark.parametrize(
    ("what", "options", "keeps"),
    [
        ("sessions", ["--outcome", "error"], lambda r: r["chainlit_session_turns_error"] > 0),
        ("turns", ["--outcome", "cancelled"], lambda r: r["chainlit_outcome"] == "cancelled"),
        ("sessions", ["--min-duration", "300"], lambda r: r["chainlit_session_duration"] >= 300),
        ("turns", ["--min-duration", "7.5"], lambda r: r["chainlit_turn_duration"] >= 7.5),
        ("turns", ["--profile", "careful"], lambda r: r.get("chainlit_chat_profile") == "careful"),
        ("sessions", ["--client", "copilot"], lambda r: r["chainlit_client_type"] == "copilot"),
        ("feedback", ["--client", "copilot"], lambda r: r["chainlit_client_type"] == "copilot"),
        (
            "sessions",
            ["--since", "2026-09-10", "--until", "2026-09-12"],
            lambda r: "2026-09-10" <= start_of(r, "sessions") < "2026-09-13",
        ),
        (
            "turns",
            ["--since", "2026-09-10T12:00", "--until", "2026-09-10T18:30:00+02:00"],
            lambda r: "2026-09-10T12:00" <= start_of(r, "turns") < "2026-09-10T16:30",
        ),
        (
            "turns",
            ["--client", "webapp", "--profile", "fast", "--outcome", "ok"],
            lambda r: (
                (r["chainlit_client_type"], r.get("chainlit_chat_profile"), r["chainlit_outcome"])
                == ("webapp", "fast", "ok")
            ),
        ),
    ],
)
def test_a_filter_keeps_what_it_names(
    records: list[Record],
    directory: Path,
    tmp_path: Path,
    what: str,
    options: list[str],
    keeps: Callable[[Row], bool],
) -> None:
    rows = naive.sessions(records) if what == "sessions" else naive.of_kind(records, KINDS[what])
    rows = naive.feedback_of(records) if what == "feedback" else rows
    expected = [row for row in rows if keeps(row)]
    file = tmp_path / "table"
    export("--from", directory, "--what", what, *options, "--format", "jsonl", "-o", file)
    assert 0 < len(expected) < len(rows)
    assert sorted_rows(read("jsonl", file)) == sorted_rows(of_table(expected))


def test_a_user_is_taken_by_the_hash(records: list[Record], directory: Path) -> None:
    user = records[0]["user_hash"]
    expected = [r for r in naive.of_kind(records, "session.start") if r["user_hash"] == user]
    lines = export("--from", directory, "--user-hash", user).stdout.splitlines()
    assert len(lines) - 1 == len(expected) > 0
    assert all(user in line for line in lines[1:])


def test_a_span_counts_back_from_now(tmp_path: Path) -> None:
    now = datetime.now(timezone.utc)
    ago = [timedelta(days=8), timedelta(days=6), timedelta(minutes=30)]
    write([turn(rfc3339(now - one), n) for n, one in enumerate(ago)], tmp_path)
    for span, count in (("7d", 2), ("1h", 1), ("2w", 3)):
        lines = export("--from", tmp_path, "--what", "turns", "--since", span).stdout.splitlines()
        assert len(lines) - 1 == count, span


def test_a_value_with_a_quote_is_no_sql(directory: Path) -> None:
    for text in ("'", "' OR ''='", "fast'; DROP VIEW turns; --"):
        assert len(export("--from", directory, "--profile", text).stdout.splitlines()) == 1


# Sessions that are open, and those that share an id


def record(kind: str, time: str, session: str = "a" * 16, **fields: Any) -> Record:
    common = {"service_name": "chat", "service_instance_id": "one", "session_id": session}
    return {"time": time, "kind": kind, "schema": 1, **common, **fields}


def turn(time: str, number: int, **fields: Any) -> Record:
    about = {"chainlit_turn_start": time, "chainlit_turn_number": number, "chainlit_outcome": "ok"}
    rest = {"chainlit_turn_undelivered": 0, "gen_ai_conversation_id": "thread"}
    return record("turn", time, **{**about, **rest, **fields})


def end(start: str, time: str, duration: float, **fields: Any) -> Record:
    about = {"chainlit_session_start": start, "chainlit_session_duration": duration}
    reason = {"chainlit_session_end_reason": "timeout"}
    return record("session.end", time, **{**about, **reason, **fields})


def at(minute: int, second: int = 0) -> str:
    return f"2026-11-26T10:{minute:02}:{second:02}.000000Z"


def test_a_session_that_has_come_back_under_its_id_is_open_again(tmp_path: Path) -> None:
    records = [
        record("session.start", at(0)),
        turn(at(1), 1),
        end(at(0), at(10), 240.0, chainlit_session_turns_started=1),
        record("session.start", at(20)),
        turn(at(21), 1, chainlit_outcome="error"),
        # Of another process, with the same id: it is another session.
        record("session.start", at(5), service_instance_id="two"),
        record("session.start", at(30), session="b" * 16),
    ]
    write(records, tmp_path)
    file = tmp_path / "table"
    export("--from", tmp_path, "--format", "jsonl", "-o", file)
    rows = {(r["service_instance_id"], r["chainlit_session_start"]): r for r in read("jsonl", file)}
    assert sorted_rows(list(rows.values())) == sorted_rows(of_table(naive.sessions(records)))
    assert len(rows) == 4
    again = rows["one", at(20)]
    assert again["is_open"]
    assert again["chainlit_session_turns_started"] == again["chainlit_session_turns_error"] == 1
    assert again["chainlit_session_duration"] == 600.0
    # The grace time was six minutes: of the last six nobody knows who has left.
    assert again["seconds_known"] == 240.0
    assert rows["two", at(5)]["chainlit_session_duration"] == 0.0


def sessions_of(records: list[Record], tmp_path: Path) -> dict[tuple[str, bool], Row]:
    """The sessions of an export, which plain Python finds as well, by their start."""
    write(records, tmp_path / "records")
    file = tmp_path / "table"
    export("--from", tmp_path / "records", "--format", "jsonl", "-o", file)
    rows = read("jsonl", file)
    assert sorted_rows(rows) == sorted_rows(of_table(naive.sessions(records)))
    return {(row["chainlit_session_start"], row["is_open"]): row for row in rows}


def given(time: str, value: str, message: str | None = "m" * 16) -> Record:
    about = {} if message is None else {"chainlit_feedback_message": message}
    return record("feedback", time, chainlit_feedback_value=value, **about)


def test_the_last_feedback_on_a_message_counts(tmp_path: Path) -> None:
    records = [
        record("session.start", at(0)),
        given(at(1), "positive"),
        given(at(2), "negative"),
        given(at(3), "positive", "n" * 16),
        given(at(4), "deleted", "n" * 16),
        given(at(5), "positive", None),
        given(at(6), "positive", None),
    ]
    (session,) = sessions_of(records, tmp_path).values()
    assert session["chainlit_session_feedback_positive"] == 2
    assert session["chainlit_session_feedback_negative"] == 1
    result = export("--from", tmp_path / "records", "--what", "feedback", "--format", "jsonl")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    shown = sorted((row["time"], row["chainlit_feedback_value"]) for row in rows)
    assert shown == [(at(2), "negative"), (at(5), "positive"), (at(6), "positive")]


def test_a_session_is_one_though_the_clock_steps_back(tmp_path: Path) -> None:
    records = [
        record("session.start", "2026-11-26T10:30:00.123999Z"),
        end("2026-11-26T10:30:00.123000Z", at(10), 60.0, chainlit_session_turns_started=1),
    ]
    assert list(sessions_of(records, tmp_path)) == [("2026-11-26T10:30:00.123000Z", False)]


def test_a_session_whose_end_was_lost_is_open_until_its_id_is_used_again(tmp_path: Path) -> None:
    records = [
        record("session.start", at(0)),
        turn(at(1), 1, chainlit_outcome="error"),
        record("session.start", at(20)),
        turn(at(21), 1),
        end(at(20), at(30), 240.0, chainlit_session_turns_started=1),
    ]
    rows = sessions_of(records, tmp_path)
    assert sorted(rows) == [(at(0), True), (at(20), False)]
    lost = rows[at(0), True]
    assert lost["chainlit_session_turns_started"] == lost["chainlit_session_turns_error"] == 1
    assert lost["chainlit_session_duration"] == 1200.0


@pytest.mark.parametrize(
    ("table", "kind"),
    [
        ("sessions", SESSION_END_RECORD),
        ("turns", TURN_RECORD),
        ("feedback", FEEDBACK_RECORD),
        ("scores", SCORE_RECORD),
    ],
)
def test_a_table_has_a_column_for_each_field(table: Any, kind: Any, directory: Path) -> None:
    result = export("--from", directory, "--what", table)
    header = result.stdout.splitlines()[0].split(",")
    # The span of a turn is of the table of turns alone; its trace is of all.
    missing = {field.column for field in kind.fields} - set(header) - {"span_id"}
    assert missing == set()
    assert view(table).startswith("-- ")
    assert len(TABLES) == 4


# What a crash leaves, and what a newer release writes


def test_lines_that_are_no_records_are_skipped_and_counted(
    records: list[Record], tmp_path: Path
) -> None:
    write(records, tmp_path)
    turns = len(naive.of_kind(records, "turn"))
    whole = json.dumps(turn(at(0), 1))
    file = sorted(tmp_path.glob("*.jsonl"))[0]
    with file.open("ab") as damaged:
        damaged.write(whole[:50].encode() + b"\n")  # cut, and gone on with after a restart
        damaged.write(whole[:90].encode() + whole.encode() + b"\n")  # the same, without a new line
        damaged.write(b"\0" * 4096 + b"\n")  # what a file system leaves after a power cut
        damaged.write(b'{"time":"' + b"\xff\xfe" + b'"}\n')
        damaged.write(b'null\n{}\n[]\n7\n"text"\n\n')
        damaged.write(b'{"time":"yesterday","kind":"turn","schema":1}\n')
        damaged.write(b'{"unknown":1,"kind":"turn","schema":1,"time":"2026-11-26T10:00:00Z"}\n')
        damaged.write(b'{"kind":"dream","schema":1,"time":"2026-11-26T10:00:00Z"}\n')
        damaged.write(b'{"kind":"turn","schema":2,"time":"2026-11-26T10:00:00Z"}\n' * 2)
        damaged.write(whole[:-20].encode())
    result = export("--from", tmp_path, "--what", "turns")
    assert len(result.stdout.splitlines()) - 1 == turns + 1
    assert "11 lines skipped: no whole record" in result.stderr
    assert "3 records skipped: of another schema than 1, or of an unknown kind" in result.stderr


def test_what_a_field_cannot_hold_and_what_is_no_field_costs_no_record(tmp_path: Path) -> None:
    whole = turn(at(0), 1)
    odd: Row = {
        "chainlit_turn_chunks": "many",
        "chainlit_turn_tools": [{"name": "search", "duration": 0.5, "outcome": "ok", "new": 1}],
        "newer": {"deeper": [1, {"chainlit_outcome": "error"}]},
    }
    (tmp_path / "a.jsonl").write_text(json.dumps({**whole, **odd}) + "\n")
    result = export("--from", tmp_path, "--what", "turns", "--format", "jsonl")
    (row,) = map(json.loads, result.stdout.splitlines())
    assert row["chainlit_outcome"] == whole["chainlit_outcome"]
    assert row["chainlit_turn_chunks"] is None
    tools = [{"name": "search", "duration": 0.5, "outcome": "ok"}]
    assert row["chainlit_turn_tools"] == tools
    assert result.stderr == "read 1 record\n"


def test_a_line_of_any_length_is_skipped_and_counted(tmp_path: Path) -> None:
    whole = json.dumps(turn(at(0), 1)).encode() + b"\n"
    other = json.dumps(turn(at(1), 2)).encode() + b"\n"
    long = b'{"time":"' + b"x" * (40 << 20) + b'"}\n'
    (tmp_path / "a.jsonl").write_bytes(whole + long + other + long[:-3])
    (tmp_path / "b.jsonl").write_bytes(other)
    result = export("--from", tmp_path, "--what", "turns")
    assert len(result.stdout.splitlines()) - 1 == 3
    assert result.stderr == "read 3 records; 2 lines skipped: no whole record\n"


def test_no_sign_in_the_name_of_a_directory_is_a_pattern(tmp_path: Path) -> None:
    for name in ("a[b]*?", "ab", "a[b]x"):
        write([turn(at(0), 1)], tmp_path / name)
    (tmp_path / "a[b]*?" / "directory.jsonl").mkdir()
    for name in ("a[b]*?", "a[b]x"):
        assert export("--from", tmp_path / name).stderr == "read 1 record\n"


# What a spreadsheet makes of it

FORMULAS = ("=1+1", "+1", "-1", "@x", "\tx", "\rx")


def test_no_text_of_a_csv_table_is_a_formula(tmp_path: Path) -> None:
    names = [*FORMULAS, "a=b", "'x"]
    turns = [turn(at(n), n, chainlit_chat_profile=name) for n, name in enumerate(names)]
    write(turns, tmp_path)
    arguments = ("--from", tmp_path, "--what", "turns")
    rows = csv.DictReader(io.StringIO(export(*arguments).stdout, newline=""))
    shown = sorted(row["chainlit_chat_profile"] for row in rows)
    assert shown == sorted([*(f"'{name}" for name in FORMULAS), "a=b", "'x"])
    lines = export(*arguments, "--format", "jsonl").stdout.splitlines()
    assert sorted(json.loads(line)["chainlit_chat_profile"] for line in lines) == sorted(names)


# What a user gets wrong


def one_line(result: Result) -> str:
    line: str = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    return line


def test_an_error_names_what_to_change(directory: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no *.jsonl below" in one_line(export("--from", empty, code=1))
    assert "is not a directory" in one_line(export("--from", tmp_path / "none", code=1))
    wrong = export("--from", directory, "--since", "last week", code=2)
    assert "neither a date such as 2026-11-26 nor a span such as 7d" in one_line(wrong)
    wrong = export("--from", directory, "--what", "scores", "--outcome", "ok", code=2)
    assert "--outcome goes with --what sessions and --what turns" in one_line(wrong)
    wrong = export("--from", directory, "-o", tmp_path / "none" / "table", code=1)
    assert "cannot write" in one_line(wrong)
    assert os.listdir(tmp_path) == ["empty"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--since", "99999999999d"], "'99999999999d' is not between 1970 and 2200"),
        (["--since", "99999d"], "'99999d' is not between 1970 and 2200"),
        (["--until", "9999-12-31"], "'9999-12-31' is not between 1970 and 2200"),
        (["--since", "0001-01-01T00:00+10:00"], "is not between 1970 and 2200"),
        (["--min-duration", "nan"], "nan is no number of seconds"),
        (["--min-duration", "inf"], "inf is no number of seconds"),
    ],
)
def test_what_is_beyond_all_bounds_is_one_line(
    directory: Path, options: list[str], says: str
) -> None:
    assert says in one_line(export("--from", directory, *options, code=2))


def test_a_scheme_that_is_not_known_names_those_that_are() -> None:
    says = one_line(export("--from", "gopher://host/records", code=1))
    assert says.startswith("Error: gopher:// is not known; --from takes a directory, s3://")
    assert "clickhouse://" in says


def test_without_the_extra_one_line_says_what_to_install(directory: Path, tmp_path: Path) -> None:
    script = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "duckdb" else find(name, *rest)
from chainlit_otel.cli import main
main(["export", "--from", {str(directory)!r}])
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **python_path()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 1
    wanted = "Error: this needs more packages: pip install 'chainlit-otel[analysis]'\n"
    assert (done.stdout, done.stderr) == ("", wanted)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(place))
    return place


def test_nothing_is_left_behind(directory: Path, tmp_path: Path, temporary: Path) -> None:
    export("--from", directory, "-o", tmp_path / "table")
    export("--from", directory)
    export("--from", tmp_path / "none", code=1)
    assert list(temporary.iterdir()) == []
    assert sorted(os.listdir(tmp_path)) == ["table", "temporary"]


def has_output(place: Path) -> bool:
    return any(place.glob("*/output"))


def test_nothing_is_left_behind_by_sigterm(directory: Path, tmp_path: Path) -> None:
    place, pipe = tmp_path / "temporary", tmp_path / "pipe"
    place.mkdir()
    os.mkfifo(pipe)  # that nobody reads
    arguments = ["export", "--from", str(directory), "-o", str(pipe)]
    exporting = subprocess.Popen(
        [sys.executable, "-c", "from chainlit_otel.cli import main; main()", *arguments],
        env={**os.environ, **python_path(), "TMPDIR": str(place)},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: has_output(place), 120, "the table")
        exporting.terminate()
        assert exporting.wait(60) == 128 + signal.SIGTERM
    finally:
        exporting.kill()
    assert list(place.iterdir()) == []
