"""`chainlit-otel export`: records as a table for other programs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from chainlit_otel.analysis import erasure
from chainlit_otel.analysis.erasure import HASH
from chainlit_otel.analysis.selection import WHATS, Selection, What
from chainlit_otel.analysis.source import AnalysisError, counted
from chainlit_otel.catalog import OUTCOME
from chainlit_otel.cli.analysis import (
    check_output,
    check_packages,
    end_of,
    ended_cleanly,
    open_source,
    output_option,
    progress,
    put,
    seconds_of,
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
@source_option()
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
@output_option("Write to this file instead of standard output.")
@click.option(
    "--outcome",
    type=click.Choice(OUTCOME.values),
    help="Turns with this outcome, or sessions with such a turn.",
)
@click.option("--profile", help="Of this chat profile.")
@click.option(
    "--min-duration",
    type=click.FloatRange(min=0),
    callback=seconds_of,
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
    try:
        with (
            ended_cleanly(),
            put(output) as file,
            progress("reading") as reading,
            open_source(source, [selection.sql()], since, reading) as records,
        ):
            with progress("writing") as writing:
                records.progress = writing
                count = records.export(selection, form, file)
            click.echo(f"read {records.reading}", err=True)
        if output is not None:
            click.echo(f"wrote {counted(count, 'row')} to {output}", err=True)
    except AnalysisError as error:
        raise click.ClickException(str(error)) from None
    except BrokenPipeError:
        raise  # whoever reads has had enough, which is no fault: click ends without a word
    except OSError as error:
        place = output or "standard output"
        raise click.ClickException(f"cannot write {place}: {error.strerror}") from None


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
        with ended_cleanly(), progress("erasing") as show:
            erased = erasure.erase(directory, subject, show)
    except OSError as error:
        raise click.ClickException(f"cannot write {error.filename}: {error.strerror}") from None
    click.echo(
        f"took {counted(erased.rows, 'row')} out of {erased.files:,} of "
        f"{counted(erased.searched, 'file')}",
        err=True,
    )
