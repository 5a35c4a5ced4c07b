"""Takes the rows of a person, or of a session, out of the files of records.

Processes may be writing to these files. Whoever writes to a directory of records holds its lock
file together with others (`flock`, shared), and looks under that lock whether the file that it has
open is still the one of its name. Whoever takes rows out holds the lock alone while it copies a
file without them, puts the copy on the disk and then in the place of the file. So no line is lost,
and a crash leaves the file as it was or as it should be.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainlit_otel.catalog import RECORDS_LOCK_FILE

try:
    import fcntl
except ImportError:  # Windows has no such locks; there nobody may be writing
    fcntl = None  # type: ignore[assignment]

HASH = re.compile(r"[0-9a-f]{16}")
"""What stands for a user or a session in records."""

_HASHES = re.compile(rb'"([0-9a-f]{16})(?="|\s*$)')
_SUFFIX = ".erasing"


@dataclass(frozen=True)
class Erased:
    """What was taken out.

    Attributes:
        rows: How many rows.
        files: Of how many files.
        searched: How many files were searched.
    """

    rows: int
    files: int
    searched: int


def erase(
    directory: Path, subject: str, progress: Callable[[float], None] = lambda _: None
) -> Erased:
    """Take out all rows of a user, or of a session, from all `*.jsonl` below a directory.

    Args:
        directory: Where the files are.
        subject: What stands for the user or the session in records. Of a user, all rows of the
            user's sessions go.
        progress: Is called with the share of the work that is done.

    Raises:
        OSError: A file cannot be read or replaced; those before it are done.
    """
    files = sorted(file for file in directory.rglob("*.jsonl") if file.is_file())
    subjects = {subject}
    for file in files:
        subjects |= _sessions_of(subject, file)
    rows = changed = 0
    for done, file in enumerate(files, 1):
        # It may be gone by now, for its age.
        with suppress(FileNotFoundError), ExitStack() as locks:
            # Of a link, who writes may know the one name or the other.
            target = file.resolve(strict=True)
            for place in sorted({file.parent.resolve(), target.parent}):
                locks.enter_context(_alone(place))
            if count := _rewrite(target, subjects):
                rows, changed = rows + count, changed + 1
        progress(done / len(files))
    return Erased(rows, changed, len(files))


def _sessions_of(user: str, file: Path) -> set[str]:
    """Return what stands for the sessions of a user in a file."""
    found = set()
    needle = user.encode()
    with suppress(FileNotFoundError), file.open("rb") as lines:
        for line in lines:
            if needle in line and (row := _row(line)) is not None and row.get("user_hash") == user:
                session = row.get("session_id")
                if isinstance(session, str):
                    found.add(session)
    return found


def _row(line: bytes) -> dict[str, Any] | None:
    """Return the record of a line; None if it is no whole one."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_of(line: bytes, subjects: set[str]) -> bool:
    """Tell whether a line names one of these subjects."""
    row = _row(line)
    if row is None:
        # A line that was cut is searched like all others, if not as exactly.
        return any(found.decode() in subjects for found in _HASHES.findall(line))
    return any(isinstance(value, str) and value in subjects for value in row.values())


def _rewrite(file: Path, subjects: set[str]) -> int:
    """Replace a file by one without the rows of these subjects, if it has any; return how many."""
    copy = file.with_name(f".{file.name}{_SUFFIX}")
    count = 0
    try:
        with file.open("rb") as lines, copy.open("wb") as kept:
            for line in lines:
                if _is_of(line, subjects):
                    count += 1
                else:
                    kept.write(line)
            if not count:
                return 0
            kept.flush()
            shutil.copystat(file, copy)
            with suppress(AttributeError, PermissionError):
                owner = os.stat(file)
                os.chown(copy, owner.st_uid, owner.st_gid)
            os.fsync(kept.fileno())
        os.replace(copy, file)
        _sync_directory(file.parent)
    finally:
        copy.unlink(missing_ok=True)
    return count


def _sync_directory(directory: Path) -> None:
    with suppress(OSError):  # not every system can
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Keep writers out of a directory."""
    if fcntl is None:
        yield
        return
    lock = os.open(directory / RECORDS_LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
