"""`chainlit-otel visit`: visitors for an app that runs already."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import click

from chainlit_otel.cli.headline import show
from chainlit_otel.cli.visitors import WrongAddress, header_option, parsed, transport_option
from chainlit_otel.privacy import mask_url
from chainlit_otel.testing.arrivals import Stage, evenly
from chainlit_otel.testing.criteria import Criterion, Judgement
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
from chainlit_otel.testing.limit import TriedRate, find_limit
from chainlit_otel.testing.load import Crowd, Plan, PlannedVisit, scripted
from chainlit_otel.testing.results import PHASES, LoadReport, Phase, percentile
from chainlit_otel.testing.visit import Target
from chainlit_otel.testing.written import as_json, as_junit

_REFRESH = 0.2
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
_PHASE_NAMES: dict[Phase, str] = {
    "connect": "connected in",
    "first_token": "first text in",
    "turn": "answer in",
    "reconnect": "reconnected in",
}


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
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write results."
)
@click.option(
    "--junit",
    "junit_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write results as JUnit, which systems for continuous integration show.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write a page: curves over the run, distributions, failures with their dialog.",
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
    if find_limit and (json_file or junit_file or html_file or metrics):
        raise click.UsageError("--find-limit prints each trial, and writes no results")
    if html_file and any(find_spec(package) is None for package in _PAGE_PACKAGES):
        raise _BrokenRun("--html needs more packages: pip install 'chainlit-otel[analysis]'")
    for file in (json_file, junit_file, html_file):
        if file is not None and not file.parent.is_dir():
            raise _BrokenRun(f"cannot write {file}: there is no directory {file.parent}")
    target = Target(url, transports=transport, headers=headers)
    number = visitors or (None if stages else 10)
    plan = Plan(number, rate, length, seed, stages=stages)

    def visits(arrivals: Iterator[float] | None) -> Iterator[PlannedVisit]:
        if script is not None:
            return scripted(script, plan.arrivals() if arrivals is None else arrivals, seed)
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
    crowd = Crowd(target, visits(None))
    code = 0
    try:
        asyncio.run(_run(crowd, plan.visitors, quiet))
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
    click.echo(summary(report, plan.visitors, judgements, ledgers))
    name, where = script.name if script else "small talk", mask_url(url)
    try:
        if json_file is not None:
            json_file.write_text(
                as_json(report, name, where, judgements, ledgers), encoding="utf-8"
            )
        if junit_file is not None:
            junit_file.write_text(as_junit(report, name, judgements), encoding="utf-8")
        if html_file is not None:
            from chainlit_otel.testing.run_page import as_html

            page = as_html(report, name, where, judgements, ledgers)
            html_file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise _BrokenRun(f"cannot write {error.filename}: {error.strerror}") from None
    reached = all(each.met for each in judgements) if judgements else report.succeeded
    sys.exit(code or (0 if reached else _NOT_REACHED))


def summary(
    report: LoadReport,
    expected: int | None,
    judgements: Sequence[Judgement] = (),
    ledgers: Sequence[LedgerRow] = (),
) -> str:
    """The report of the visitors, aligned, one figure a line; failures only if there are any."""
    of = f"{report.finished} of {expected}" if expected else str(report.finished)
    rows = [
        ("visitors", of),
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
    lines += _side_by_side(ledgers)
    for judgement in judgements:
        mark = "ok    " if judgement.met else "FAILED"
        lines.append(f"{mark} {judgement.criterion}: {judgement.shown}")
    lag = percentile(report.lags, 0.99)
    if lag is not None and lag > _MOST_LAG:
        lines.append(
            f"The visitors themselves were late, by {lag:.2f} s in the worst hundredth of the "
            "time: their figures say as much of this machine as of the app. Send fewer, or from "
            "several machines."
        )
    return "\n".join(lines)


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
    visits: Callable[[Iterator[float]], Iterator[PlannedVisit]],
    criteria: tuple[Criterion, ...],
    first: float,
    trial: float,
    quiet: bool,
) -> None:
    """Try rates, and print each with what came of it, and the limit."""
    judged: list[Judgement] = []

    async def attempt(rate: float) -> bool:
        crowd = Crowd(target, visits(evenly(rate, trial)))
        await _run(crowd, int(rate * trial), quiet)
        judged[:] = [criterion.look_at(crowd.report) for criterion in criteria]
        return all(each.met for each in judged)

    def show_trial(done: TriedRate) -> None:
        figures = ", ".join(f"{each.criterion}: {each.shown}" for each in judged)
        click.echo(f"{done.rate:8.2f}/s  {'ok    ' if done.met else 'FAILED'}  {figures}")

    succeeded, failed = await find_limit(attempt, first, show_trial)
    if not succeeded:
        click.echo(f"not even {failed:.2f} visitors a second reach the thresholds")
        sys.exit(_NOT_REACHED)
    click.echo(f"limit: {succeeded:.2f} visitors a second; {failed:.2f} are too many")


async def _run(crowd: Crowd, visitors: int | None, quiet: bool) -> None:
    if quiet or visitors is None:
        await crowd.run()
        return
    with click.progressbar(
        range(visitors), label="visitors", show_pos=True, file=sys.stderr
    ) as bar:
        task = asyncio.create_task(crowd.run())
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_REFRESH)
                bar.update(crowd.report.finished - bar.pos)
        finally:
            task.cancel()
            await asyncio.wait({task})
    await task
