"""What `export` and `report` have in common: where records come from, which time they are of."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import Any

import click

from chainlit_otel.analysis.source import RecordSource, scratch

PACKAGES = ("altair", "duckdb", "jinja2", "sqlglot", "vl_convert")
"""What the extra `analysis` installs."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_BACK = re.compile(r"(\d+)([hdw])")
_YEARS = (1970, 2200)  # what both engines can tell apart, the period before included
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def time_of(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Return what an option means by a date, a time, or a span back from now, in UTC."""
    if value is None:
        return None
    try:
        if back := _BACK.fullmatch(value):
            time = datetime.now(timezone.utc) - int(back[1]) * _UNITS[back[2]]
        else:
            time = datetime.fromisoformat(value.removesuffix("Z"))
    except OverflowError:
        raise click.BadParameter(_out_of_range(value), ctx, param) from None
    except ValueError:
        wanted = "neither a date such as 2026-11-26 nor a span such as 7d"
        raise click.BadParameter(f"{value!r} is {wanted}", ctx, param) from None
    if not _YEARS[0] <= time.year < _YEARS[1]:
        raise click.BadParameter(_out_of_range(value), ctx, param)
    return time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)


def _out_of_range(value: str) -> str:
    return f"{value!r} is not between {_YEARS[0]} and {_YEARS[1]}"


def end_of(ctx: click.Context, param: click.Parameter, value: str | None) -> datetime | None:
    """Return the same for an option where a date alone means the end of its day."""
    time = time_of(ctx, param, value)
    if time is not None and value is not None and _DATE.fullmatch(value):
        return time + timedelta(days=1)
    return time


def seconds_of(ctx: click.Context, param: click.Parameter, value: float | None) -> float | None:
    """Return what an option means by seconds."""
    if value is not None and not isfinite(value):
        raise click.BadParameter(f"{value} is no number of seconds", ctx, param)
    return value


def source_option(required: bool = True) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the option that says where the records are."""
    return click.option(
        "--from",
        "source",
        envvar="CHAINLIT_OTEL_RECORDS_DIR",
        required=required,
        metavar="PLACE",
        help="Where the records are: a directory, s3://bucket/path, or "
        "clickhouse://user:password@host:8123/database.  "
        "[default: $CHAINLIT_OTEL_RECORDS_DIR]",
    )


def check_packages() -> None:
    """Raise a `ClickException` if the extra is not installed."""
    if any(find_spec(package) is None for package in PACKAGES):
        raise click.ClickException(
            "this needs more packages: pip install 'chainlit-otel[analysis]'"
        )


def output_option(says: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the option that says where the result goes; `-` is standard output, as None is."""

    def where(ctx: click.Context, param: click.Parameter, value: str | None) -> Path | None:
        return None if value in (None, "-") else Path(value)

    return click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False, allow_dash=True),
        callback=where,
        help=says,
    )


def check_output(output: Path | None) -> None:
    """Raise a `ClickException` if the directory of a file to be written is not there."""
    if output is not None and not output.parent.is_dir():
        raise click.ClickException(f"cannot write {output}: there is no directory {output.parent}")


def open_source(
    place: str, asked: Sequence[str], since: datetime | None, show: Callable[[float], None]
) -> AbstractContextManager[RecordSource]:
    """Open the records that `--from` names, for these queries; older ones need not be read."""
    if place.startswith("clickhouse://"):
        from chainlit_otel.analysis.clickhouse import ClickHouse

        return closing(ClickHouse(place, since, show))
    from chainlit_otel.analysis.files import RecordFiles

    return closing(RecordFiles(place, asked, since, show))


@contextmanager
def ended_cleanly() -> Iterator[None]:
    """Clear up after SIGTERM as after an error: what stands on disk meanwhile is about persons."""

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def put(output: Path | None) -> Iterator[Path]:
    """Give a name to write a file at, and put the file where it is to go once it is whole.

    A file at its place is replaced at once, so that nobody sees a half of it. What is no file, such
    as a device or a pipe, stays what it is and is written to.

    Args:
        output: Where it is to go; None for standard output.

    Raises:
        OSError: It cannot be written there.
    """
    target = None if output is None else output.resolve()
    if target is not None and (target.is_file() or not target.exists()):
        file = target.with_name(f".{target.name}.{os.getpid()}")
        try:
            yield file
            file.replace(target)
        finally:
            file.unlink(missing_ok=True)
        return
    with scratch() as directory:
        file = directory / "output"
        yield file
        with file.open("rb") as whole:
            if target is None:
                shutil.copyfileobj(whole, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            else:
                with target.open("wb") as stream:
                    shutil.copyfileobj(whole, stream)


@contextmanager
def progress(label: str) -> Iterator[Callable[[float], None]]:
    """Show how far it is on standard error, if somebody looks at it."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    with click.progressbar(length=1000, label=label, file=sys.stderr) as bar:

        def show(share: float) -> None:
            bar.update(int(share * 1000) - bar.pos)

        yield show
