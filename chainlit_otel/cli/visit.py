"""`chainlit-otel visit`: visitors for an app that runs already."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import click

from chainlit_otel.cli.crowd import run_crowd
from chainlit_otel.cli.headline import show
from chainlit_otel.cli.visitors import WrongAddress, header_option, parsed, transport_option
from chainlit_otel.privacy import mask_url
from chainlit_otel.testing.arrivals import Stage, evenly
from chainlit_otel.testing.criteria import Criterion
from chainlit_otel.testing.dialog import Dialog, seconds
from chainlit_otel.testing.errors import NoAnswer, Refused, Unreachable
from chainlit_otel.testing.http import check, check_sign_in
from chainlit_otel.testing.ledgers import (
    LedgerError,
    LedgerRow,
    compare,
    read_final_ledger,
    read_ledger,
    remark,
)
from chainlit_otel.testing.limit import find_limit, growth
from chainlit_otel.testing.load import Crowd, Plan, PlannedVisit, scripted
from chainlit_otel.testing.results import PHASES, LoadReport, Phase, percentile
from chainlit_otel.testing.visit import Target
from chainlit_otel.testing.written import FinishedRun, as_json, as_junit

_COOKIE = (
    "sign in with a browser and pass the cookie that its developer tools show for the app, "
    "--header 'Cookie: access_token=...'"
)
_PAGE_PACKAGES = ("altair", "jinja2", "vl_convert")  # of the extra `analysis`
_NOT_REACHED = 1
_BROKEN = 3
_INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
# Beyond it, what is measured is the visitors' own waiting.
_MOST_LAG = 0.05
_PAUSE = 1.0  # seconds before an app that is not well is asked again
_MOST_RECOVERY = 10.0  # times of a trial

_F = TypeVar("_F", bound=Callable[..., Any])
_PHASE_NAMES: dict[Phase, str] = {
    "connect": "connected in",
    "first_token": "first text in",
    "turn": "answer in",
    "reconnect": "reconnected in",
}


def _file_option(name: str, text: str) -> Callable[[_F], _F]:
    return click.option(
        f"--{name}", f"{name}_file", type=click.Path(path_type=Path), metavar="FILE", help=text
    )


def _as_html(run: FinishedRun) -> str:
    # What draws the page is of an extra, and takes a second to import.
    from chainlit_otel.testing.run_page import as_html

    return as_html(run)


@click.command("visit")
@click.argument("url")
@click.option(
    "--script",
    callback=parsed(Dialog.load),
    metavar="FILE",
    help="A dialog in YAML that each visitor follows, in place of small talk.",
)
@click.option(
    "--visitors",
    type=click.IntRange(min=1),
    metavar="NUMBER",
    help="How many come in all: 10, or with --stage as many as these bring.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    metavar="PER_SECOND",
    help="How many arrive per second, on average; they come at random moments.",
)
@click.option(
    "--stage",
    "stages",
    callback=parsed(Stage.parse),
    multiple=True,
    metavar="TIME:RATE",
    help="In this time, the rate goes to this one: 30s:5. May be repeated, in place of --rate.",
)
@click.option(
    "--length",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one stays, on average, without a script: many leave soon, a few stay long.",
)
@click.option(
    "--threshold",
    "criteria",
    callback=parsed(Criterion),
    multiple=True,
    metavar="TEXT",
    help="What has to be reached: 'p95(first_token) < 2s', 'failed < 1%'. May be repeated.",
)
@click.option(
    "--find-limit",
    is_flag=True,
    help="Find the highest rate that still reaches the thresholds, from --rate on.",
)
@click.option(
    "--trial",
    callback=parsed(seconds),
    default="30s",
    show_default=True,
    metavar="TIME",
    help="With --find-limit: how long visitors arrive at each rate that is tried.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Decides everything that is left to chance. The same seed makes the same visit.",
)
@transport_option
@header_option
@_file_option("json", "Write results.")
@_file_option("junit", "Write results as JUnit, which systems for continuous integration show.")
@_file_option(
    "html", "Write a page: curves over the run, distributions, failures with their dialog."
)
@click.option(
    "--metrics",
    metavar="URL",
    help="The app's own /metrics: show its figures of the run beside those of the visitors.",
)
@click.option("--quiet", is_flag=True, help="No progress bar, only the summary.")
def command(
    url: str,
    script: Dialog | None,
    visitors: int | None,
    rate: float,
    stages: tuple[Stage, ...],
    length: float,
    criteria: tuple[Criterion, ...],
    find_limit: bool,
    trial: float,
    seed: int,
    transport: list[str] | None,
    headers: dict[str, str],
    json_file: Path | None,
    junit_file: Path | None,
    html_file: Path | None,
    metrics: str | None,
    quiet: bool,
) -> None:
    """Send visitors to the Chainlit app at URL and report how they fared.

    URL is what you would type into a browser, with the path if the app runs below one. The visitors
    speak to the app exactly as its own page does: they chat, lose the connection and come back,
    start new chats, and leave, some by just closing the tab; or they follow a dialog script, and
    what comes back is compared with what it expects.

    Every visitor starts real sessions in the app, and every message is really answered: with a paid
    model behind the app this costs money.

    The exit code is 0 if everybody got in and was answered as expected, else 1. With thresholds,
    these decide. It is 2 if the command line or the script is wrong, and 3 if there is no app that
    lets visitors in, no /metrics where it is said to be, or no place for the results.

    \b
    Examples:
        chainlit-otel visit http://localhost:8000 --visitors 50 --rate 5 --length 20
        chainlit-otel visit http://localhost:8000 --script refund.yaml --junit results.xml
        chainlit-otel visit http://localhost:8000 --stage 30s:10 --stage 2m:10 \\
            --threshold 'p95(first_token) < 2s' --threshold 'failed < 1%'
        chainlit-otel visit http://localhost:8000 --find-limit --threshold 'p95(turn) < 3s'
    """  # noqa: D301 - for click, \b keeps the line breaks of a paragraph
    if find_limit and not criteria:
        raise click.UsageError("--find-limit needs a --threshold, such as 'p95(turn) < 3s'")
    if find_limit and stages:
        raise click.UsageError("--find-limit tries rates of its own, from --rate on: no --stage")
    results = [
        (file, write)
        for file, write in ((json_file, as_json), (junit_file, as_junit), (html_file, _as_html))
        if file is not None
    ]
    if find_limit and (results or metrics):
        raise click.UsageError("--find-limit prints each trial, and writes no results")
    if html_file and any(find_spec(package) is None for package in _PAGE_PACKAGES):
        raise _BrokenRun("--html needs more packages: pip install 'chainlit-otel[analysis]'")
    for file, _ in results:
        if not file.parent.is_dir():
            raise _BrokenRun(f"cannot write {file}: there is no directory {file.parent}")
    target = Target(url, transports=transport, headers=headers)
    number = visitors or (None if stages else 10)
    plan = Plan(number, rate, length, seed, stages=stages)

    def visits(arrivals: Sequence[float]) -> Iterator[PlannedVisit]:
        if script is not None:
            return scripted(script, arrivals, seed)
        return plan.visits(arrivals)

    signs_in = script is not None and script.who.sign_in is not None
    try:
        asyncio.run(_check(target, signs_in))
        if find_limit:
            asyncio.run(_find_limit(target, visits, criteria, rate, trial, quiet))
            return
    except Refused as error:
        raise _BrokenRun(f"{error}: {_COOKIE}") from None
    except (Unreachable, NoAnswer) as error:
        raise _BrokenRun(str(error)) from None
    except ValueError as error:
        raise WrongAddress(str(error)) from None
    try:
        before = asyncio.run(read_ledger(metrics)) if metrics else None
    except LedgerError as error:
        raise _BrokenRun(str(error)) from None
    arrivals = list(plan.arrivals())
    crowd = Crowd(target, visits(arrivals))
    code = 0
    try:
        asyncio.run(run_crowd(crowd, len(arrivals), quiet=quiet))
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        code = _INTERRUPTED
    report = crowd.report
    judgements = [criterion.look_at(report) for criterion in criteria]
    ledgers: Sequence[LedgerRow] = ()
    if metrics and before:
        try:
            ledgers = compare(report, before, asyncio.run(read_final_ledger(metrics)))
        except LedgerError as error:
            click.echo(f"no figures of the app: {error}", err=True)
    name = script.name if script else "small talk"
    run = FinishedRun(name, mask_url(url), crowd.report, judgements, ledgers)
    click.echo(summary(run, len(arrivals)))
    try:
        for file, write in results:
            file.write_text(write(run), encoding="utf-8")
    except OSError as error:
        raise _BrokenRun(f"cannot write {error.filename}: {error.strerror}") from None
    reached = all(each.met for each in judgements) if judgements else report.succeeded
    sys.exit(code or (0 if reached else _NOT_REACHED))


def summary(run: FinishedRun, expected: int) -> str:
    """A run, aligned, one figure a line; failures only if there are any.

    Args:
        run: what is summed up.
        expected: how many visitors were to come.
    """
    report = run.report
    rows = [
        ("visitors", f"{report.finished} of {expected}"),
        ("sessions", str(report.sessions)),
        ("mean length", show(report.mean_length, " s")),
        ("most at once", str(report.peak)),
        ("reconnects", str(report.reconnects)),
        ("new chats", str(report.new_chats)),
        ("messages", str(report.messages)),
        ("replies", str(report.replies)),
    ]
    if report.checks:
        rows.append(("expectations", str(report.checks)))
    for phase in PHASES:
        rows += _times(_PHASE_NAMES[phase], report.seconds_of(phase))
    failures = [
        ("no answer", report.unanswered),
        ("not as expected", report.unexpected),
        ("refused", report.refused),
        ("no connection", report.unreachable),
        ("errors", report.errors),
    ]
    rows += [(name, str(count)) for name, count in failures if count]
    lines = [f"{name:<18}{figure:>12}" for name, figure in rows]
    lines += [f"  {example}" for example in report.failure_examples]
    lines += _side_by_side(run.ledgers)
    for judgement in run.judgements:
        mark = "ok    " if judgement.met else "FAILED"
        lines.append(f"{mark} {judgement.criterion}: {judgement.shown}")
    lines += _own_lag(report)
    return "\n".join(lines)


def _own_lag(report: LoadReport) -> list[str]:
    """Warn of figures that say more of this process than of the app."""
    lag = percentile(report.lags, 0.99)
    if lag is None or lag <= _MOST_LAG:
        return []
    return [
        f"The visitors themselves were late, by {lag:.2f} s in the worst hundredth of the "
        "time: their figures say as much of this machine as of the app. Send fewer, or from "
        "several machines."
    ]


def _times(name: str, values: list[float]) -> list[tuple[str, str]]:
    """Median and slowest twentieth of the times of a phase."""
    median, p95 = percentile(values, 0.5), percentile(values, 0.95)
    if median is None or p95 is None:
        return []
    return [(name, f"{median:.2f} s"), ("  95 % within", f"{p95:.2f} s")]


def _side_by_side(ledgers: Sequence[LedgerRow]) -> list[str]:
    if not ledgers:
        return []
    lines = [f"{'':<18}{'by visitors':>12}{'by the app':>12}{'difference':>12}"]
    for row in ledgers:
        digits, unit = (3, " s") if row.unit else (0, "")
        visitors, app = (show(each, unit, digits) for each in (row.visitors, row.app))
        difference = f"{row.difference:+.{digits}f}{unit}" if row.difference else "0"
        lines.append(f"{row.figure:<18}{visitors:>12}{app:>12}{difference:>12}")
    lines.append(remark(ledgers))
    return lines


class _BrokenRun(click.ClickException):
    """No visitor can be sent, or what is asked for cannot be found out."""

    exit_code = _BROKEN


async def _check(target: Target, signs_in: bool) -> None:
    await check(target.url, headers=target.headers)
    if not signs_in:
        await check_sign_in(target.url, target.headers)


async def _find_limit(
    target: Target,
    visits: Callable[[Sequence[float]], Iterator[PlannedVisit]],
    criteria: tuple[Criterion, ...],
    first: float,
    trial: float,
    quiet: bool,
) -> None:
    """Try rates, and print each with what came of it, and the limit."""
    overloaded = False

    def judge(report: LoadReport) -> tuple[bool, str]:
        judgements = [criterion.look_at(report) for criterion in criteria]
        shown = ", ".join(f"{each.criterion}: {each.shown}" for each in judgements)
        return all(each.met for each in judgements), shown

    async def try_one_alone(patience: float) -> tuple[bool, str]:
        deadline = time.monotonic() + patience
        while True:
            crowd = Crowd(target, visits([0.0]))
            met, shown = judge(await crowd.run())
            if met or time.monotonic() >= deadline:
                return met, shown
            await asyncio.sleep(_PAUSE)

    async def attempt(rate: float) -> bool:
        nonlocal overloaded
        # Chainlit ends no turn whose visitor has left: those of a rate that was too high would be
        # in the way of the next.
        if overloaded:
            recovered, shown = await try_one_alone(_MOST_RECOVERY * trial)
            if not recovered:
                raise _BrokenRun(f"the app has not recovered from the last rate: {shown}")
        arrivals = list(evenly(rate, trial))
        crowd = Crowd(target, visits(arrivals))
        await run_crowd(crowd, len(arrivals), quiet=quiet, label=f"{rate:8.2f}/s")
        met, shown = judge(crowd.report)
        grows = growth(crowd.report.timings["turn"], trial)
        if grows:
            shown += f", a queue grows: turns took {grows:.2f} s longer each second"
        overloaded = not met or grows > 0
        click.echo(f"{rate:8.2f}/s  {'FAILED' if overloaded else 'ok    '}  {shown}")
        for line in _own_lag(crowd.report):
            click.echo(line)
        return not overloaded

    alone, shown = await try_one_alone(trial)
    if not alone:
        click.echo(f"not even one visitor alone reaches the thresholds: {shown}")
        sys.exit(_NOT_REACHED)
    succeeded, failed = await find_limit(attempt, first, 1 / trial)
    if not succeeded:
        click.echo(f"not even {failed:.2f} visitors a second reach the thresholds")
        sys.exit(_NOT_REACHED)
    click.echo(f"limit: {succeeded:.2f} visitors a second; {failed:.2f} are too many")
