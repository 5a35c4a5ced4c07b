"""Records as lines of JSON: one file a process and day, with limits to size and age.

A line is one `write` to a file that is opened to append. Somebody who takes rows out of files holds
the lock of the directory alone and puts another file in the place of each; whoever writes holds it
together with other writers, and looks whether its file is still the one of that name.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NamedTuple

from chainlit_otel import catalog
from chainlit_otel.core.sessions import NS
from chainlit_otel.records.rows import Record, fields_of, rfc3339

try:
    import fcntl
except ImportError:  # Windows; nobody can take rows out of a file there while it is written
    fcntl = None  # type: ignore[assignment]

_NAME = re.compile(r"chainlit-(\d{4}-\d{2}-\d{2})-.+\.jsonl")
_UNSAFE = re.compile(r"[^0-9A-Za-z._-]")
# Files are looked at when so much of the limit was written, and brought down to so much of it:
# together they stay below it.
_SEGMENTS = 20
_DOWN_TO = 0.9
_LOOK_EVERY = 60 * NS

# `json.dumps` with options makes an encoder for each line.
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_A_DAY = timedelta(days=1)


def records_dir_problem(directory: str | Path) -> str | None:
    """Return why no records can be written to a directory, be it there or not; None if they can."""
    place = Path(directory).absolute()
    while not place.exists():
        place = place.parent
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"\n")
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


class _Kept(NamedTuple):
    day: date
    modified: int
    path: Path
    size: int


class JsonLines:
    """Writes records to files.

    Args:
        directory: Where; it is made if it is not there.
        resource: Name, version and instance of the service, by their OpenTelemetry keys.
        max_bytes: Most bytes of all files in the directory; the oldest go first.
        keep_days: Days that a file is kept.
        clock: Wall clock, in nanoseconds since the epoch.
    """

    name = "file"

    def __init__(
        self,
        directory: str | Path,
        resource: dict[str, str],
        max_bytes: int,
        keep_days: int,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._directory = Path(directory).absolute()
        self._resource = {catalog.column_of(key): value for key, value in resource.items()}
        self._instance = _UNSAFE.sub("_", resource.get("service.instance.id", ""))[:64]
        self._max_bytes = max_bytes
        self._keep_days = keep_days
        self._clock = clock
        self._path: Path | None = None
        self._file = -1
        self._day = ""
        self._part = 1
        self._size = 0
        self._looked = 0
        self._since_look = 0
        self._is_cut = False

    def __str__(self) -> str:
        return f"CHAINLIT_OTEL_RECORDS_DIR={self._directory}"

    def write(self, rows: Sequence[Record]) -> int:
        """Append rows to the file of today.

        Returns:
            How many are on disk, from the first on.

        Raises:
            OSError: The directory cannot be made, or the file not opened.
        """
        lines = [self._line(row) for row in rows]
        self._directory.mkdir(parents=True, exist_ok=True)
        with self._locked():
            now = self._clock()
            self._open(now)
            written = self._append(lines)
        self._since_look += sum(map(len, lines[:written]))
        if self._since_look * _SEGMENTS >= self._max_bytes or not (
            0 <= now - self._looked < _LOOK_EVERY
        ):
            self._since_look, self._looked = 0, now
            # What is written is written, though its directory may be gone by now.
            with suppress(OSError):
                self._enforce_limits(now)
        return written

    def close(self) -> None:
        """Close the file."""
        if self._file >= 0:
            with suppress(OSError):
                os.close(self._file)
        self._file = -1

    def _line(self, row: Record) -> bytes:
        values: dict[str, Any] = {
            catalog.RECORD_TIME.column: rfc3339(row.time),
            catalog.RECORD_KIND.column: row.kind.name,
            catalog.RECORD_SCHEMA_FIELD.column: catalog.RECORD_SCHEMA,
            **self._resource,
        }
        for key, value in fields_of(row).items():
            values[catalog.column_of(key)] = value
        return _encode(values).encode(errors="replace") + b"\n"

    def _append(self, lines: Sequence[bytes]) -> int:
        # After a line that could not be written whole, the next one begins on its own.
        data = (b"\n" if self._is_cut else b"") + b"".join(lines)
        end, done, written = len(data) - sum(map(len, lines)), 0, 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError:
            # A disk that becomes full takes a part, and then nothing.
            if done == 0:
                raise
        finally:
            self._size += done
            self._is_cut = done < len(data) and (self._is_cut or done > 0)
        for line in lines:
            end += len(line)
            written += end <= done
        return written

    def _open(self, now: int) -> None:
        day = f"{_day(now):%Y-%m-%d}"
        whole = self._size * _SEGMENTS >= self._max_bytes
        if self._file >= 0 and day == self._day and not whole and self._is_in_place():
            return
        if day != self._day:
            self._part = 1
        elif whole:
            self._part += 1
        self.close()
        suffix = "" if self._part == 1 else f"-{self._part}"
        path = self._directory / f"chainlit-{day}-{self._instance}{suffix}.jsonl"
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        self._path, self._day = path, day
        self._size = os.fstat(self._file).st_size
        # A process of the same name that was killed may have left half a line.
        self._is_cut = self._size > 0 and os.pread(self._file, 1, self._size - 1) != b"\n"

    def _is_in_place(self) -> bool:
        """Tell whether the file that is open still is the one of its name."""
        try:
            known = os.stat(self._path or "")
        except OSError:
            return False
        mine = os.fstat(self._file)
        return (known.st_ino, known.st_dev) == (mine.st_ino, mine.st_dev)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        if fcntl is None:
            yield
            return
        lock = os.open(
            self._directory / catalog.RECORDS_LOCK_FILE,
            os.O_RDWR | os.O_CREAT | os.O_CLOEXEC,
            0o640,
        )
        try:
            # Some file systems of networks have no locks; then nothing is taken out of files there.
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_SH)
            yield
        finally:
            os.close(lock)

    def _enforce_limits(self, now: int) -> None:
        files = sorted(self._files())
        today, most = _today(now, files), timedelta(days=self._keep_days)
        total = sum(file.size for file in files)
        for file in files:
            over = total > self._max_bytes * _DOWN_TO
            if file.path == self._path or not (over or today - file.day > most):
                continue
            with suppress(OSError):
                file.path.unlink()
                total -= file.size

    def _files(self) -> Iterator[_Kept]:
        for entry in os.scandir(self._directory):
            named = _NAME.fullmatch(entry.name)
            if named is None:
                continue
            # Another process may have taken it away; and what has no date is not ours.
            with suppress(OSError, ValueError):
                day, found = date.fromisoformat(named[1]), entry.stat()
                yield _Kept(day, found.st_mtime_ns, Path(entry.path), found.st_size)


def _today(now: int, files: Iterable[_Kept]) -> date:
    """Return the day from which the age of files is counted.

    A clock that has jumped ahead would make all files too old at once. It is believed up to two
    days after other records, those of yesterday and today aside, which may be of such a clock.
    """
    today = _day(now)
    earlier = max((file.day for file in files if file.day < today - _A_DAY), default=today)
    return min(today, earlier + 2 * _A_DAY)


def _day(now: int) -> date:
    return datetime.fromtimestamp(now // NS, timezone.utc).date()
