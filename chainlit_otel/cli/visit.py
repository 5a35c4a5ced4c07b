"""`chainlit-otel visit`: visitors for an app that runs already."""

from __future__ import annotations

import asyncio
import statistics
import sys
from collections.abc import Mapping

import click

from chainlit_otel.cli.headline import show
from chainlit_otel.testing.errors import Refused, Unreachable
from chainlit_otel.testing.http import check, check_sign_in
from chainlit_otel.testing.load import Crowd, LoadReport, Plan

_TRANSPORTS: dict[str, list[str] | None] = {
    "browser": None,
    "websocket": ["websocket"],
    "polling": ["polling"],
}
_REFRESH = 0.2
_COOKIE = (
    "sign in with a browser and pass the cookie that its developer tools show for the app, "
    "--header 'Cookie: access_token=...'"
)
_INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended


@click.command("visit")
@click.argument("url")
@click.option(
    "--visitors",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="How many come in all.",
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
    "--length",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long one stays, on average: many leave soon, a few stay long.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Decides everything that is left to chance. The same seed makes the same visit.",
)
@click.option(
    "--transport",
    type=click.Choice(list(_TRANSPORTS)),
    default="browser",
    show_default=True,
    help="How they connect. A browser starts with polling and goes over to a websocket.",
)
@click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    metavar="'NAME: VALUE'",
    help="Sent with every request, e.g. the Cookie of a signed-in user. May be repeated.",
)
@click.option("--quiet", is_flag=True, help="No progress bar, only the summary.")
def command(
    url: str,
    visitors: int,
    rate: float,
    length: float,
    seed: int,
    transport: str,
    headers: tuple[str, ...],
    quiet: bool,
) -> None:
    """Send visitors to the Chainlit app at URL and report how they fared.

    URL is what you would type into a browser, with the path if the app runs below one. The visitors
    speak to the app exactly as its own page does: they chat, lose the connection and come back,
    start new chats, and leave, some by just closing the tab.

    Every visitor starts real sessions in the app, and every message is really answered: with a paid
    model behind the app this costs money.

    The exit code is 0 if everybody got in and was answered, else 1.

    \b
    Example:
        chainlit-otel visit http://localhost:8000 --visitors 50 --rate 5 --length 20
    """  # noqa: D301 - for click, \b keeps the line breaks of a paragraph
    sent = dict(_header(text) for text in headers)
    plan = Plan(visitors, rate, length, seed)
    crowd = Crowd(url, plan, transports=_TRANSPORTS[transport], headers=sent)
    code = 0
    try:
        asyncio.run(_visit(crowd, sent, visitors, quiet))
    except Refused as error:
        raise click.ClickException(f"{error}: {_COOKIE}") from None
    except (Unreachable, ValueError) as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        code = _INTERRUPTED
    click.echo(summary(crowd.report, visitors))
    sys.exit(code or int(not crowd.report.succeeded))


def summary(report: LoadReport, expected: int) -> str:
    """The report of the visitors, aligned, one figure a line; failures only if there are any."""
    rows = [
        ("visitors", f"{report.finished} of {expected}"),
        ("sessions", str(report.sessions)),
        ("mean length", show(report.mean_length, " s")),
        ("most at once", str(report.peak)),
        ("reconnects", str(report.reconnects)),
        ("new chats", str(report.new_chats)),
        ("messages", str(report.messages)),
        ("replies", str(report.replies)),
        *_answer_times(report.answer_times),
    ]
    failures = [
        ("no answer", report.unanswered),
        ("refused", report.refused),
        ("no connection", report.unreachable),
        ("errors", report.errors),
    ]
    rows += [(name, str(count)) for name, count in failures if count]
    lines = [f"{name:<14}{figure:>12}" for name, figure in rows]
    return "\n".join([*lines, *(f"  {example}" for example in report.failure_examples.values())])


def _answer_times(seconds: list[float]) -> list[tuple[str, str]]:
    """Median and slowest twentieth of the times between a message and the end of the answer."""
    if not seconds:
        return []
    p95 = statistics.quantiles(seconds, n=20, method="inclusive")[-1] if seconds[1:] else seconds[0]
    return [
        ("answer in", f"{statistics.median(seconds):.2f} s"),
        ("  95 % within", f"{p95:.2f} s"),
    ]


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(
            f"{text!r} is not of the form 'Name: value'", param_hint="--header"
        )
    return name.strip(), value.strip()


async def _visit(crowd: Crowd, headers: Mapping[str, str], visitors: int, quiet: bool) -> None:
    await check(crowd.url)
    await check_sign_in(crowd.url, headers)
    if quiet:
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
