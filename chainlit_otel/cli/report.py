"""`chainlit-otel report`: what users did and how it went, as a page or as JSON."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import click

from chainlit_otel.analysis import tables
from chainlit_otel.analysis.source import AnalysisError
from chainlit_otel.analysis.tables import Periods
from chainlit_otel.cli import generated
from chainlit_otel.cli.analysis import (
    check_output,
    check_packages,
    end_of,
    ended_cleanly,
    open_source,
    output_option,
    progress,
    source_option,
    time_of,
)

_PERIOD = timedelta(days=28)


@click.command("report")
@source_option(required=False)
@click.option(
    "--since",
    callback=time_of,
    metavar="WHEN",
    help="Start of the period: 2026-11-01, or 7d for seven days ago. The period before it is as "
    "long.  [default: 28 days before the end]",
)
@click.option(
    "--until",
    callback=end_of,
    metavar="WHEN",
    help="End of the period; of a date, its whole day is included.  [default: now]",
)
@output_option("Write the page to this file instead of standard output.")
@click.option("--json", "as_json", is_flag=True, help="Give the same figures as JSON.")
@click.option("--sql", is_flag=True, help="Read nothing; print the queries.")
def command(
    source: str | None,
    since: datetime | None,
    until: datetime | None,
    output: Path | None,
    as_json: bool,
    sql: bool,
) -> None:
    """Make a report of what users did and how it went.

    It is one page that needs neither a script nor a network, and everything in it stands beside the
    same time before. Times are in UTC.
    """
    check_packages()
    check_output(output)
    from chainlit_otel.analysis import clickhouse
    from chainlit_otel.analysis.sections import SECTIONS

    until = until or datetime.now(timezone.utc)
    periods = Periods(since or until - _PERIOD, until)
    if periods.since >= until:
        raise click.UsageError("--since is not before --until")
    if sql:
        questions = [section.__name__ for section in SECTIONS]
        if source is not None and source.startswith("clickhouse://"):
            click.echo(clickhouse.script("otel_logs", periods, questions), nl=False)
        else:
            click.echo(tables.script(periods, questions), nl=False)
        return
    if source is None:
        raise click.UsageError("Missing option '--from'.")
    with ended_cleanly():
        write_report(source, periods, output, as_json)


def write_report(source: str, periods: Periods, output: Path | None, as_json: bool = False) -> None:
    """Make a report and write it.

    Args:
        source: Where the records are.
        periods: What it is about.
        output: The file; None for standard output.
        as_json: Whether it is JSON; else it is a page.

    Raises:
        click.ClickException: The records cannot be read.
    """
    from chainlit_otel.analysis import report
    from chainlit_otel.analysis.sections import SECTIONS

    asked = [tables.question(section.__name__) for section in SECTIONS]
    sections = []
    try:
        with (
            progress("reading") as reading,
            open_source(source, asked, periods.before, reading) as records,
            progress("answering") as answering,
        ):
            for section in report.make(records, periods):
                sections.append(section)
                answering(len(sections) / len(SECTIONS))
        read = str(records.reading)
        made = report.Report(periods, datetime.now(timezone.utc), read, tuple(sections))
    except AnalysisError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"read {read}", err=True)
    text = report.as_json(made) + "\n" if as_json else report.as_html(made)
    if output is None:
        click.echo(text, nl=False)
    else:
        generated.write(output, text)
