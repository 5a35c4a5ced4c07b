"""`chainlit-otel export`: records as a table for other programs."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from chainlit_otel.analysis import erasure
from chainlit_otel.analysis.erasure import HASH
from chainlit_otel.analysis.selection import WHATS, Selection, What
from chainlit_otel.analysis.source import AnalysisError
from chainlit_otel.catalog import OUTCOME
from chainlit_otel.cli.analysis import (
    check_output,
    check_packages,
    end_of,
    open_source,
    progress,
    source_option,
    time_of,
)


@click.command("export")
@click.option(
    "--what",
    type=click.Choice(WHATS),
    default="sessions",
    show_default=True,
    help="What a row is about. `all` has the records as they are, of every kind.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    default="csv",
    show_default=True,
    help="Format of the table.",
)
@source_option
@click.option(
    "--since",
    callback=time_of,
    metavar="WHEN",
    help="What started then or later: 2026-11-26, 2026-11-26T08:00, or 7d for seven days ago.",
)
@click.option(
    "--until",
    callback=end_of,
    metavar="WHEN",
    help="What started before; of a date, its whole day is included.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file instead of standard output.",
)
@click.option(
    "--outcome",
    type=click.Choice(OUTCOME.values),
    help="Turns with this outcome, or sessions with such a turn.",
)
@click.option("--profile", help="Of this chat profile.")
@click.option(
    "--min-duration",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Sessions or turns that took at least this long.",
)
@click.option("--user-hash", help="Of this user.")
@click.option("--client", help="Of this client.")
@click.option(
    "--erase",
    metavar="USER_HASH|SESSION",
    help="Export nothing; take all rows of this user or session out of the files.",
)
@click.pass_context
def command(
    context: click.Context,
    /,
    what: What,
    form: str,
    source: str,
    since: datetime | None,
    until: datetime | None,
    output: Path | None,
    erase: str | None,
    **filters: Any,
) -> None:
    """Export records of sessions, turns, feedback and scores as a table.

    Times are in UTC. A session or a turn is taken by its start, also if it has not ended.
    """
    if erase is not None:
        _check_erasure(context, source, erase)
        _erase(Path(source), erase)
        return
    check_packages()
    check_output(output)
    try:
        selection = Selection(what, since, until, **filters)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="chainlit-otel-") as directory:
        file = Path(directory) / "table"
        if output is not None:
            # Beside its place, to be renamed: nobody sees a half of it.
            file = output.with_name(f".{output.name}.{os.getpid()}")
        try:
            with (
                progress("reading") as reading,
                open_source(source, [selection.sql()], since, reading) as records,
            ):
                with progress("writing") as writing:
                    records.progress = writing
                    count = records.export(selection, form, file)
                click.echo(f"read {records.reading}", err=True)
            if output is not None:
                file.replace(output)
                click.echo(f"wrote {count:,} rows to {output}", err=True)
            else:
                with file.open("rb") as table:
                    shutil.copyfileobj(table, sys.stdout.buffer)
        except AnalysisError as error:
            raise click.ClickException(str(error)) from None
        except OSError as error:
            raise click.ClickException(f"cannot write {output}: {error.strerror}") from None
        finally:
            file.unlink(missing_ok=True)


def _check_erasure(context: click.Context, source: str, subject: str) -> None:
    given = [
        name
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ]
    if set(given) - {"erase", "source"}:
        raise click.UsageError("--erase takes no other option than --from")
    if HASH.fullmatch(subject) is None:
        raise click.UsageError(
            f"{subject!r} is neither a user_hash nor a session_id of a record: these are 16 "
            "hexadecimal digits"
        )
    if not Path(source).is_dir():
        raise click.ClickException(f"{source} is not a directory; --erase is for files")


def _erase(directory: Path, subject: str) -> None:
    try:
        with progress("erasing") as show:
            erased = erasure.erase(directory, subject, show)
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename}: {error.strerror}") from None
    click.echo(
        f"took {erased.rows:,} rows out of {erased.files:,} of {erased.searched:,} files", err=True
    )
