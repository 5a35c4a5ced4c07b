"""Records in files: every line is there once, the limits hold, and a bad disk harms nobody."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from chainlit_otel import catalog
from chainlit_otel.records.files import JsonLines
from chainlit_otel.records.rows import Record
from tests.core.clocks import NS, Clock

SERVICE = {"service.name": "chat", "service.instance.id": "i/1"}
DAY = 24 * 3600 * NS
MEGABYTE = 2**20


def record(number: int, at: int = 0, **values: Any) -> Record:
    return Record(catalog.TURN_RECORD, at, {catalog.TURN_NUMBER: number, **values})


def writer(directory: Path, clock: Clock | None = None, **limits: int) -> JsonLines:
    known = clock or Clock()
    return JsonLines(
        directory,
        SERVICE,
        limits.get("max_bytes", 2**30),
        limits.get("keep_days", 30),
        lambda: known.wall,
    )


def lines(directory: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line)
        for file in sorted(directory.glob("*.jsonl"))
        for line in file.read_text(encoding="utf-8").splitlines()
    ]


def numbers(directory: Path) -> list[int]:
    return [line["chainlit_turn_number"] for line in lines(directory)]


def test_a_line_has_what_all_records_have_and_no_empty_field(tmp_path: Path) -> None:
    clock = Clock()
    values: dict[str, Any] = {
        catalog.TURN_TOOLS: [],
        catalog.ERROR_TYPE: None,
        catalog.CHAT_PROFILE.key: "",
        catalog.TURN_CHUNKS: 0,
        catalog.TURN_SOURCE: "half \ud800 of a pair\n",
    }
    assert writer(tmp_path / "a" / "b", clock).write([record(1, clock.wall, **values)]) == 1
    (file,) = (tmp_path / "a" / "b").glob("*.jsonl")
    assert file.name == "chainlit-2023-11-14-i_1.jsonl"
    assert file.read_bytes().count(b"\n") == 1
    assert lines(tmp_path / "a" / "b") == [
        {
            "time": "2023-11-14T22:13:20.000000Z",
            "kind": "turn",
            "schema": catalog.RECORD_SCHEMA,
            "service_name": "chat",
            "service_instance_id": "i/1",
            "chainlit_turn_number": 1,
            "chainlit_turn_chunks": 0,
            "chainlit_turn_source": "half ? of a pair\n",
        }
    ]


def test_a_long_text_is_cut(tmp_path: Path) -> None:
    writer(tmp_path).write([record(1, 0, **{catalog.EVALUATION_NAME: "x" * 1_000_000})])
    (line,) = lines(tmp_path)
    assert line["gen_ai_evaluation_name"] == "x" * 256


def test_rows_that_are_on_the_disk_are_written_whatever_the_limits_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = writer(tmp_path)

    def gone(_: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(os, "scandir", gone)
    assert files.write([record(1)]) == 1


def test_each_day_has_a_file_and_a_clock_that_is_stepped_back_loses_nothing(
    tmp_path: Path,
) -> None:
    clock = Clock()
    files = writer(tmp_path, clock)
    for number, step in enumerate([0, DAY, -DAY, -DAY, 3 * DAY]):
        clock.step(step)
        files.write([record(number)])
    assert sorted(numbers(tmp_path)) == [0, 1, 2, 3, 4]
    assert sorted(file.name[9:19] for file in tmp_path.glob("*.jsonl")) == [
        "2023-11-13",
        "2023-11-14",
        "2023-11-15",
        "2023-11-16",
    ]


def test_a_week_of_rotation_keeps_both_limits(tmp_path: Path) -> None:
    dice, clock = random.Random(7), Clock()
    others = tmp_path / "notes.jsonl"
    others.write_text("not ours")
    files, total = writer(tmp_path, clock, max_bytes=MEGABYTE, keep_days=3), 0
    for number in range(7 * 24):
        clock.step(3600 * NS)
        batch = [
            record(number, clock.wall, **{catalog.TURN_SOURCE: "x" * dice.randrange(400)})
            for _ in range(dice.randrange(1, 300))
        ]
        assert files.write(batch) == len(batch)
        found = list(tmp_path.glob("chainlit-*.jsonl"))
        size = sum(file.stat().st_size for file in found)
        total = max(total, size)
        assert size <= MEGABYTE
        assert len({file.name[9:19] for file in found}) <= 4
    # The newest are kept, and not much less than may be.
    assert total > 0.8 * MEGABYTE
    assert others.read_text() == "not ours"
    others.unlink()
    assert max(numbers(tmp_path)) == 7 * 24 - 1


def test_age_alone_takes_files_away(tmp_path: Path) -> None:
    clock = Clock()
    files = writer(tmp_path, clock, keep_days=2)
    for number in range(6):
        files.write([record(number)])
        clock.step(DAY)
    assert numbers(tmp_path) == [3, 4, 5]


def days(directory: Path) -> list[str]:
    return sorted(file.name[9:19] for file in directory.glob("chainlit-*.jsonl"))


@pytest.mark.parametrize("is_restarted", [False, True])
def test_a_clock_that_jumps_ahead_takes_no_file_away(tmp_path: Path, is_restarted: bool) -> None:
    clock = Clock()
    files = writer(tmp_path, clock, keep_days=4)
    for number in range(6):
        clock.step(DAY)
        files.write([record(number)])
    # Ahead by a year, over midnight as well, and back.
    for number, step in enumerate([366 * DAY, DAY, -367 * DAY], 6):
        clock.step(step)
        if is_restarted:
            files = writer(tmp_path, clock, keep_days=4)
        files.write([record(number)])
        assert days(tmp_path)[:3] == ["2023-11-18", "2023-11-19", "2023-11-20"]
    assert days(tmp_path)[3:] == ["2024-11-20", "2024-11-21"]
    clock.step(3 * DAY)
    files.write([record(9)])
    assert days(tmp_path)[0] == "2023-11-18"
    clock.step(2 * DAY)
    files.write([record(10)])
    assert days(tmp_path)[0] == "2023-11-23"


def test_what_is_too_old_goes_when_records_come_again(tmp_path: Path) -> None:
    clock = Clock()
    files = writer(tmp_path, clock, keep_days=2)
    for number, step in enumerate([0, 60 * DAY, DAY, DAY]):
        clock.step(step)
        files.write([record(number)])
    # Of a clock alone nobody knows whether it is right; by the third day it is.
    assert numbers(tmp_path) == [1, 2, 3]


def test_a_name_that_is_no_date_is_not_ours(tmp_path: Path) -> None:
    others = [tmp_path / f"chainlit-{day}-x.jsonl" for day in ("2023-02-30", "0000-01-01")]
    for other in others:
        other.write_text("")
    (tmp_path / "chainlit-0001-01-01-x.jsonl").write_text("")
    clock = Clock()
    files = writer(tmp_path, clock)
    assert files.write([record(1)]) == 1
    assert all(other.exists() for other in others)


def test_a_file_that_somebody_has_replaced_or_taken_away_is_opened_again(tmp_path: Path) -> None:
    directory = tmp_path / "records"
    files = writer(directory)
    files.write([record(1)])
    (file,) = directory.glob("*.jsonl")
    (directory / "new").write_text("")
    os.replace(directory / "new", file)
    files.write([record(2)])
    assert numbers(directory) == [2]
    for one in directory.iterdir():
        one.unlink()
    directory.rmdir()
    files.write([record(3)])
    assert numbers(directory) == [3]


def test_a_line_that_a_crash_has_cut_stays_alone(tmp_path: Path) -> None:
    files = writer(tmp_path)
    files.write([record(1)])
    (file,) = tmp_path.glob("*.jsonl")
    with file.open("a") as opened:
        opened.write('{"half')
    writer(tmp_path).write([record(2)])
    first, cut, second, end = file.read_text().split("\n")
    assert (cut, end) == ('{"half', "")
    assert [json.loads(line)["chainlit_turn_number"] for line in (first, second)] == [1, 2]


def test_a_full_disk_is_an_error_and_the_next_row_is_written_when_there_is_room(
    tmp_path: Path,
) -> None:
    files = writer(tmp_path)
    name = tmp_path / "chainlit-2023-11-14-i_1.jsonl"
    name.symlink_to("/dev/full")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        files.write([record(1), record(2)])
    name.unlink()
    assert files.write([record(3)]) == 1
    assert numbers(tmp_path) == [3]


PART = """
import os, resource, signal, sys
from pathlib import Path
from tests.records.test_files import record, writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
files = writer(Path(sys.argv[1]))
rows = [record(number) for number in range(20)]
size = len(files._line(rows[0]))
resource.setrlimit(resource.RLIMIT_FSIZE, (5 * size + size // 2, resource.RLIM_INFINITY))
print(files.write(rows))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(files.write([record(99)]))
"""


def test_a_disk_that_becomes_full_takes_whole_rows_and_tells_how_many(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PART, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.split() == ["5", "1"]
    (file,) = tmp_path.glob("*.jsonl")
    *whole, cut, last, end = file.read_text().split("\n")
    assert [json.loads(line)["chainlit_turn_number"] for line in whole] == [0, 1, 2, 3, 4]
    with pytest.raises(json.JSONDecodeError):
        json.loads(cut)
    assert json.loads(last)["chainlit_turn_number"] == 99
    assert end == ""


def test_a_directory_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTDIR)):
        writer(tmp_path / "file" / "records").write([record(1)])


MANY = """
import sys
from pathlib import Path
from tests.records.test_files import record, writer
files = writer(Path(sys.argv[1]))
for number in range(200):
    assert files.write([record(int(sys.argv[2]) * 1000 + number)]) == 1
"""


def test_processes_of_one_name_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    started = [
        subprocess.Popen([sys.executable, "-c", MANY, str(tmp_path), str(n)]) for n in range(2)
    ]
    assert [process.wait(60) for process in started] == [0, 0]
    assert sorted(numbers(tmp_path)) == [*range(200), *range(1000, 1200)]


def test_the_lock_is_shared_by_writers_and_waited_for(tmp_path: Path) -> None:
    files = writer(tmp_path)
    files.write([record(1)])
    with (tmp_path / catalog.RECORDS_LOCK_FILE).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        files.write([record(2)])
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = Thread(target=files.write, args=([record(3)],))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
        assert numbers(tmp_path) == [1, 2]
        fcntl.flock(lock, fcntl.LOCK_UN)
        thread.join(60)
    assert numbers(tmp_path) == [1, 2, 3]
