"""`chainlit-otel rules`: recording and alerting rules for Prometheus."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from chainlit_otel.cli import generated
from chainlit_otel.cli.thresholds import given, threshold_options
from chainlit_otel.rules import DATASOURCE, RUNBOOK, Format, Links, Windows, render


@click.command("rules")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to this file instead of the screen.",
)
@click.option(
    "--check",
    is_flag=True,
    help="Write nothing; exit with 1 if the file of --output is not what would be written.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(get_args(Format)),
    default="prometheus",
    show_default=True,
    help="A rule file of Prometheus, a PrometheusRule for the Prometheus Operator, a provisioning "
    "file for Grafana's alerting, the objectives as OpenSLO documents, or inhibitions for the "
    "configuration of Alertmanager.",
)
@click.option(
    "--datasource-uid",
    default=DATASOURCE,
    show_default=True,
    help="Grafana's Prometheus data source, for --format grafana.",
)
@click.option(
    "--runbook-url",
    default=RUNBOOK,
    show_default=True,
    help="Address of the runbook; each alert links to its section.",
)
@click.option("--grafana-url", default="", help="Without it, links are relative to Grafana.")
@click.option(
    "--scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Make all time spans longer or shorter by this factor; 0.01 is for tests.",
)
@click.option(
    "--scrape-interval",
    type=float,
    default=15.0,
    show_default=True,
    help="Seconds between two scrapes, and at most between two evaluations of the rules.",
)
@threshold_options
def command(
    output: Path | None,
    check: bool,
    form: Format,
    datasource_uid: str,
    runbook_url: str,
    grafana_url: str,
    scale: float,
    scrape_interval: float,
    **thresholds: Any,
) -> None:
    """Write recording and alerting rules for Prometheus.

    Each threshold is an option. The runbook says what each alert means and what to do.
    """
    if check and output is None:
        raise click.UsageError("--check needs --output, the file to look at")
    try:
        window = Windows(scale, scrape_interval)
        links = Links(runbook_url, grafana_url)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    text = render(given(thresholds), window, links, form, datasource_uid)
    if output is None:
        click.echo(text, nl=False)
    elif check:
        generated.check(output, text)
    else:
        generated.write(output, text)
