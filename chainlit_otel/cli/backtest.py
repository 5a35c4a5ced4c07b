"""`chainlit-otel backtest`: what the alerts would have done over the past of a Prometheus."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chainlit_otel.cli import generated
from chainlit_otel.cli.analysis import check_output, end_of, output_option, progress, time_of
from chainlit_otel.cli.thresholds import given, threshold_options
from chainlit_otel.rules import Windows

if TYPE_CHECKING:
    from chainlit_otel.backtest.history import PrometheusHistory
    from chainlit_otel.backtest.replay import Firing
    from chainlit_otel.backtest.trial import Alternative

_PACKAGES = ("altair", "jinja2", "numpy", "promql_parser", "vl_convert")  # of the extra `backtest`
_PERIOD = timedelta(days=30)
_QUESTIONS = 45
"""About as many as a run asks for each part of the time, for the progress bar."""


def _part_of_a_minute(context: click.Context, parameter: click.Parameter, step: float) -> float:
    # The windows of the rules are whole minutes, and each has to be a number of evaluations.
    if 60 % step:
        raise click.BadParameter(f"{step:g} does not divide a minute, as 15, 20, 30 and 60 do")
    return step


@click.command("backtest")
@click.option(
    "--prometheus",
    "url",
    required=True,
    metavar="URL",
    help="Address of the Prometheus, or of what answers like one, such as Thanos or Mimir.",
)
@click.option(
    "--header",
    "headers",
    multiple=True,
    metavar="NAME:VALUE",
    help="Send this with each question, such as `Authorization: Bearer …`.",
)
@click.option(
    "--since",
    callback=time_of,
    metavar="WHEN",
    help="Start of the period: 2026-11-01, or 30d for thirty days ago.  [default: 30d]",
)
@click.option(
    "--until",
    callback=end_of,
    metavar="WHEN",
    help="End of the period; of a date, its whole day is included.  [default: now]",
)
@click.option(
    "--step",
    type=click.FloatRange(1, 60),
    callback=_part_of_a_minute,
    default=60.0,
    show_default=True,
    help="Seconds between two evaluations, of which a minute is a multiple.",
)
@click.option(
    "--scrape-interval",
    type=click.FloatRange(1, 300),
    default=15.0,
    show_default=True,
    help="Seconds between two scrapes, as given to `chainlit-otel rules`.",
)
@output_option("Write a page to this file: what each alert looked at, and when it fired.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@threshold_options
def command(
    url: str,
    headers: tuple[str, ...],
    since: datetime | None,
    until: datetime | None,
    step: float,
    scrape_interval: float,
    output: Path | None,
    as_json: bool,
    **thresholds: Any,
) -> None:
    """Show which alerts would have fired over the past that a Prometheus has.

    Neither the alerts nor the recording rules have to be there already: only the metrics are asked
    for, and the rules are worked out here. With other thresholds, the same past is asked again, and
    a value is proposed for each alert that fires more than once a week.
    """
    if any(find_spec(package) is None for package in _PACKAGES):
        raise click.ClickException(
            "this needs more packages: pip install 'chainlit-otel[backtest]'"
        )
    check_output(output)
    from chainlit_otel.backtest.evaluate import Evaluation
    from chainlit_otel.backtest.history import POINTS, HistoryError, PrometheusHistory
    from chainlit_otel.backtest.trial import LOOK_BACK, Trial
    from chainlit_otel.backtest.vector import Grid

    limits = given(thresholds)
    now = datetime.now(timezone.utc)
    end = min(until or now, now)
    start = since or end - _PERIOD
    if start >= end:
        raise click.BadParameter("is not before the end of the period", param_hint="--since")
    first = start.timestamp() // step * step
    size = int((end.timestamp() - first + LOOK_BACK) // step) + 1
    grid = Grid(first - LOOK_BACK, step, size)
    parts = -(-grid.size // POINTS) * _QUESTIONS
    with progress("asking") as show:

        def asked() -> None:
            show(min(history.questions / parts, 1.0))

        with closing(PrometheusHistory(url, grid, _headers(headers), asked)) as history:
            try:
                evaluation = Evaluation(grid, history, history.is_left_open())
                trial = Trial(evaluation, grid, first, Windows(scrape=scrape_interval))
                firings = trial.firings(limits)
                curves = list(trial.curves(limits)) if output is not None else []
                alternatives = list(trial.alternatives(limits))
            except HistoryError as error:
                raise click.ClickException(str(error)) from error
    if output is not None:
        from chainlit_otel.backtest.page import Backtest, as_html

        asked_for = f"{history.questions:,} questions and {history.samples:,} samples"
        found = Backtest(first, grid.end, firings, curves, alternatives, asked_for)
        generated.write(output, as_html(found))
    elif as_json:
        click.echo(json.dumps(_as_json(firings, alternatives, trial.weeks, history), indent=2))
    else:
        _show(firings, alternatives, trial.weeks, history)


def _headers(given: Sequence[str]) -> dict[str, str]:
    headers = {}
    for header in given:
        name, colon, value = header.partition(":")
        if not colon:
            raise click.BadParameter("is not NAME:VALUE", param_hint="--header")
        headers[name.strip()] = value.strip()
    return headers


def _as_json(
    firings: Sequence[Firing],
    alternatives: Sequence[Alternative],
    weeks: float,
    history: PrometheusHistory,
) -> dict[str, Any]:
    return {
        "weeks": weeks,
        "asked": {"questions": history.questions, "samples": history.samples},
        "firings": [
            {
                "alert": one.alert,
                "labels": dict(sorted(one.labels)),
                "pending": one.pending,
                "start": one.start,
                "end": one.end,
            }
            for one in firings
        ],
        "alternatives": [
            {
                "threshold": one.threshold,
                "value": one.value,
                "firings": dict(one.alerts),
                "firings_in_force": dict(one.before),
                "is_proposed": one.is_proposed,
            }
            for one in alternatives
        ],
    }


def _show(
    firings: Sequence[Firing],
    alternatives: Sequence[Alternative],
    weeks: float,
    history: PrometheusHistory,
) -> None:
    from chainlit_otel.backtest.replay import in_words

    by_name: dict[str, list[Firing]] = {}
    for one in firings:
        by_name.setdefault(one.alert, []).append(one)
    if not firings:
        click.echo(f"No alert would have fired in {weeks:.1f} weeks.")
    for name, fired in sorted(by_name.items()):
        click.echo(f"{name}: {len(fired)} times, {len(fired) / weeks:.1f} a week")
        for one in fired:
            lasted = "still firing" if one.end is None else in_words(one.end - one.start)
            labels = ", ".join(f"{key}={value}" for key, value in sorted(one.labels))
            at = datetime.fromtimestamp(one.start, timezone.utc)
            click.echo(f"  {at:%Y-%m-%d %H:%M} UTC  {lasted:>12}  {labels}")
    proposed = [one for one in alternatives if one.is_proposed]
    if proposed:
        click.echo("More than once a week, and what would have made it less:")
    for other in proposed:
        option = other.threshold.replace("_", "-")
        changes = ", ".join(
            f"{name} {other.before[name]} -> {number}" for name, number in other.alerts.items()
        )
        click.echo(f"  --{option} {other.value:g}: {changes}")
    click.echo(f"Asked {history.questions} questions, got {history.samples:,} samples.")
