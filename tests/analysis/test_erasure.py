"""`chainlit-otel export --erase`: no trace of a person stays, and no other row is lost."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chainlit_otel.analysis.erasure import erase
from chainlit_otel.catalog import RECORDS_LOCK_FILE
from chainlit_otel.cli import main
from tests.support.population import Population, Record, write
from tests.support.scrape import wait_until
from tests.support.server import python_path

USER = "0123456789abcdef"


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["export", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


def content(directory: Path) -> dict[str, bytes]:
    return {str(f.relative_to(directory)): f.read_bytes() for f in directory.rglob("*.jsonl")}


def lines(directory: Path) -> list[bytes]:
    return [line for data in content(directory).values() for line in data.splitlines()]


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    people = list(Population(seed=4, sessions=300, weeks=2).records())
    write(people[::2], tmp_path / "one")
    write(people[1::2], tmp_path / "two")
    return people


def test_all_rows_of_a_user_go_and_no_other(records: list[Record], tmp_path: Path) -> None:
    user = records[0]["user_hash"]
    sessions = {r["session_id"] for r in records if r.get("user_hash") == user}
    # Rows of the user's session that do not name the user.
    bare = {"session_id": sorted(sessions)[0], "kind": "session.start", "schema": 1}
    write([{**records[0], **bare, "user_hash": ""}], tmp_path / "one")
    theirs = [r for r in records if r["session_id"] in sessions]
    before = lines(tmp_path)
    result = run("--from", tmp_path, "--erase", user)
    after = lines(tmp_path)
    assert len(before) - len(after) == len(theirs) + 1
    assert result.stderr.startswith(f"took {len(theirs) + 1} rows out of ")
    expected = [line for line in before if json.loads(line)["session_id"] not in sessions]
    assert sorted(after) == sorted(expected)
    for file in tmp_path.rglob("*"):
        assert file.is_dir() or user.encode() not in file.read_bytes(), file
        assert not file.name.endswith(".erasing")


def test_all_rows_of_a_session_go(records: list[Record], tmp_path: Path) -> None:
    session = records[0]["session_id"]
    count = len([r for r in records if r["session_id"] == session])
    assert erase(tmp_path, session).rows == count > 0
    assert erase(tmp_path, session).rows == 0
    assert len(lines(tmp_path)) == len(records) - count


def test_lines_that_a_crash_has_cut_are_searched_as_well(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    whole = b'{"session_id":"aaaaaaaaaaaaaaaa","kind":"turn"}\n'
    cut = b'{"session_id":"bbbbbbbbbbbbbbbb","user_hash":"' + USER.encode() + b'","chainlit_tu'
    named = b'{"session_id":"cccccccccccccccc","user_hash":"' + USER.encode() + b'"}\n'
    of_it = b'{"session_id":"cccccccccccccccc","kin'
    spaced = b'{"user_hash" : "' + USER.encode() + b'"}\n'
    file.write_bytes(whole + cut + b"\n" + named + b"\0\0\n" + spaced + whole + of_it)
    assert erase(tmp_path, USER).rows == 4
    assert file.read_bytes() == whole + b"\0\0\n" + whole


def test_names_that_need_an_escape_hide_nobody(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    theirs = {"service_name": 'a "chat" \\', "session_id": "a" * 16, "user_hash": USER}
    other = {**theirs, "user_hash": "f" * 16, "session_id": "b" * 16}
    odd = {"service_version": '1"', **{k: theirs[k] for k in ("session_id", "service_name")}}
    rows = [json.dumps(row).encode() + b"\n" for row in (theirs, other, odd)]
    # Cut within the hash's closing quote, within a name, and with a whole line after what was cut.
    cut = [b'{"user_hash":"' + USER.encode() + b"\n", b'{"service_name":"a \\"c' + rows[0]]
    file.write_bytes(b"".join([*rows, *cut]))
    assert erase(tmp_path, USER).rows == 4
    assert file.read_bytes() == rows[1]


def test_a_user_without_a_session_takes_no_others_along(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    bare = json.dumps({"user_hash": USER, "kind": "feedback"}) + "\n"
    other = json.dumps({"user_hash": "f" * 16, "session_id": "None"}) + "\n"
    file.write_text(bare + other, encoding="utf-8")
    assert erase(tmp_path, USER).rows == 1
    assert file.read_text(encoding="utf-8") == other


def test_what_a_link_leads_to_is_rewritten_and_a_directory_is_passed(tmp_path: Path) -> None:
    records, elsewhere = tmp_path / "records", tmp_path / "elsewhere"
    (records / "old.jsonl").mkdir(parents=True)
    elsewhere.mkdir()
    target = elsewhere / "data"
    target.write_text(json.dumps({"user_hash": USER}) + "\n", encoding="utf-8")
    (records / "a.jsonl").symlink_to(target)
    (records / "gone.jsonl").symlink_to(tmp_path / "nothing")
    result = run("--from", records, "--erase", USER)
    assert result.stderr == "took 1 row out of 1 of 1 file\n"
    assert target.read_bytes() == b""
    assert (records / "a.jsonl").is_symlink()


def test_a_file_without_such_rows_is_not_touched(records: list[Record], tmp_path: Path) -> None:
    before = {file: os.stat(file) for file in tmp_path.rglob("*.jsonl")}
    assert erase(tmp_path, USER).files == 0
    assert {file: os.stat(file).st_ino for file in before} == {
        file: found.st_ino for file, found in before.items()
    }


def test_a_file_keeps_its_mode_and_its_age(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"user_hash": USER}) + "\n", encoding="utf-8")
    file.chmod(0o640)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    assert erase(tmp_path, USER).rows == 1
    assert file.read_bytes() == b""
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert file.stat().st_mtime == 1_700_000_000


def test_a_crash_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text(json.dumps({"user_hash": USER}) + "\n", encoding="utf-8")
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(os, "fsync", full)
    result = run("--from", tmp_path, "--erase", USER, code=1)
    assert result.stderr == f"Error: cannot write {file}: No space left on device\n"
    assert file.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == [RECORDS_LOCK_FILE, "a.jsonl"]


WRITER = """
import fcntl, os, sys, time
from pathlib import Path

directory, name = Path(sys.argv[1]), sys.argv[2]
path = directory / "chainlit-2026-11-26-one.jsonl"
file = -1
number = 0
while not (directory / "stop").exists():
    lock = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT, 0o640)
    fcntl.flock(lock, fcntl.LOCK_SH)
    try:
        here = os.stat(path)
    except FileNotFoundError:
        here = None
    if file < 0 or here is None or os.fstat(file).st_ino != here.st_ino:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    text = '{"session_id":"%s","n":%d}\\n' % (name, number)
    os.write(file, text.encode())
    os.close(lock)
    number += 1
    time.sleep(0.001)
print(number)
"""


def has_grown(file: Path, size: int) -> bool:
    return file.exists() and file.stat().st_size > size


def test_nothing_is_lost_of_what_two_processes_write_meanwhile(tmp_path: Path) -> None:
    names = ("a" * 16, "b" * 16)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, tmp_path, name],
            env={**os.environ, **python_path()},
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    file = tmp_path / "chainlit-2026-11-26-one.jsonl"
    erased = 0
    try:
        for round_ in range(8):
            size = file.stat().st_size if file.exists() else 0
            wait_until(partial(has_grown, file, size), 60, "lines")
            lock = os.open(tmp_path / RECORDS_LOCK_FILE, os.O_RDWR)
            fcntl.flock(lock, fcntl.LOCK_SH)
            with file.open("a", encoding="utf-8") as current:
                current.write(json.dumps({"user_hash": USER, "n": round_}) + "\n")
            os.close(lock)
            erased += erase(tmp_path, USER).rows
    finally:
        (tmp_path / "stop").touch()
    written = [int(writer.communicate(timeout=60)[0]) for writer in writers]
    assert erased == 8
    rows = [json.loads(line) for line in file.read_bytes().splitlines()]
    for name, count in zip(names, written, strict=True):
        assert [r["n"] for r in rows if r["session_id"] == name] == list(range(count))
    assert len(rows) == sum(written)


def test_it_waits_for_who_is_writing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"user_hash": USER}) + "\n", encoding="utf-8")
    lock = os.open(tmp_path / RECORDS_LOCK_FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_SH)
    script = "from pathlib import Path; from chainlit_otel.analysis.erasure import erase; "
    script += f"print('go', flush=True); print(erase(Path({str(tmp_path)!r}), {USER!r}).rows)"
    command = [sys.executable, "-c", script]
    eraser = subprocess.Popen(
        command, env={**os.environ, **python_path()}, stdout=subprocess.PIPE, text=True
    )
    try:
        assert eraser.stdout is not None
        assert eraser.stdout.readline() == "go\n"
        wait_until(lambda: waits_for_a_lock(eraser.pid), 60, "it to wait")
        assert USER in (tmp_path / "a.jsonl").read_text(encoding="utf-8")
        os.close(lock)
        assert eraser.communicate(timeout=60)[0] == "1\n"
    finally:
        eraser.kill()


def waits_for_a_lock(pid: int) -> bool:
    locks = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    return any("-> FLOCK" in line and f" {pid} " in line for line in locks)


def test_an_error_names_what_to_change(tmp_path: Path) -> None:
    wrong = run("--from", tmp_path, "--erase", "Alice", code=2)
    assert "16 hexadecimal digits" in wrong.stderr
    wrong = run("--from", tmp_path, "--erase", USER, "--what", "turns", code=2)
    assert "no other option than --from" in wrong.stderr
    says = run("--from", tmp_path / "none", "--erase", USER, code=1).stderr
    assert says == f"Error: {tmp_path / 'none'} is not a directory; --erase is for files\n"
