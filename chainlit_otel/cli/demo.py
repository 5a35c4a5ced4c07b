"""`chainlit-otel demo`: a chat, visitors that come and go, and the figures they make."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from chainlit_otel.analysis.tables import Periods
from chainlit_otel.cli.analysis import check_output, check_packages
from chainlit_otel.cli.demo_server import DemoServer
from chainlit_otel.cli.headline import Headline, show
from chainlit_otel.cli.report import write_report
from chainlit_otel.testing.app import AppEnded
from chainlit_otel.testing.load import Crowd, Plan
from chainlit_otel.testing.results import LoadReport
from chainlit_otel.testing.visit import Target

_LENGTH = 15.0  # mean seconds of a visit
_CLOSES = 0.3  # most say goodbye: the session of a closed tab ends only later
_REFRESH = 1.0  # seconds between two looks at the metrics
_LINE_EVERY = 5.0  # seconds between two lines where a line cannot be written over
_STARTUP = 120.0  # seconds the app may take; its imports alone take 3 on a fast machine

Companion = Callable[[DemoServer], AbstractContextManager[Mapping[str, str]]]
"""Starts what runs next to the app once that is ready; yields more addresses by their names."""


@contextlib.contextmanager
def _no_companion(_: DemoServer) -> Iterator[Mapping[str, str]]:
    yield {}


@click.command("demo")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End after this time, counted from when the app is ready.  [default: at Ctrl-C]",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Port of the chat.  [default: 8000, or the next free one]",
)
@click.option(
    "--visitors-rate",
    type=click.FloatRange(min=0, min_open=True),
    default=0.5,
    show_default=True,
    metavar="PER_SECOND",
    help="How many visitors arrive per second, on average.",
)
@click.option(
    "--report",
    "report",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="In the end, write a report of what the visitors did to this file.",
)
def command(
    seconds: float | None, port: int | None, visitors_rate: float, report: Path | None
) -> None:
    """Start a small chat with visitors in it and watch its figures.

    The chat runs on this machine and needs neither a key nor the network. Visitors come and go by
    themselves; open the page and you are one more. One line shows what the app's own /metrics says:
    sessions started per minute, mean session duration, sessions connected now, and the most that
    were ever connected at one time.

    Ctrl-C ends it. Nothing is left behind but the records of the visits; the last line says where
    they are, and how to make a report of them. With --report it is made, and nothing is left.
    """
    if report is not None:
        check_packages()
        check_output(report)
    began = datetime.now(timezone.utc)
    records = Path(tempfile.mkdtemp(prefix="chainlit-otel-records-"))
    is_wanted = False
    try:
        run(seconds, port, visitors_rate, records=records)
        is_wanted = any(records.glob("*.jsonl"))
        if is_wanted and report is not None:
            write_report(str(records), Periods(began, datetime.now(timezone.utc)), report)
            is_wanted = False
    finally:
        if not is_wanted:
            shutil.rmtree(records, ignore_errors=True)
    if is_wanted:
        click.echo(f"\na report of it: chainlit-otel report --from {records} -o report.html")


def run(
    seconds: float | None,
    port: int | None,
    visitors_rate: float,
    companion: Companion = _no_companion,
    records: Path | None = None,
) -> None:
    """Run the demo until its time is over or a signal ends it.

    Args:
        seconds: counted from when the app is ready; None for no end.
        port: of the chat; None for 8000 or the next free one.
        visitors_rate: how many arrive per second.
        companion: starts what runs next to the app.
        records: directory in which the app keeps records; None for no records.

    Raises:
        click.ClickException: the app could not be started, or ended by itself.
    """
    plan = Plan(None, visitors_rate, _LENGTH, closes=_CLOSES)
    try:
        asyncio.run(_demo(seconds, DemoServer(port, records), plan, companion))
    except AppEnded as error:
        raise click.ClickException(str(error)) from None


async def _demo(
    seconds: float | None, server: DemoServer, plan: Plan, companion: Companion
) -> None:
    stop = asyncio.Event()
    with _set_by_signals(stop):
        async with server:
            click.echo("starting the app (Ctrl-C ends it) ...")
            if not await _before(stop, server.wait_until_ready(_STARTUP)):
                click.echo("ended before the app was ready")
                return
            with companion(server) as more:
                click.echo(_places(server, more))
                click.echo(await _visits(server, plan, stop, seconds))


async def _visits(
    server: DemoServer, plan: Plan, stop: asyncio.Event, seconds: float | None
) -> str:
    """Send visitors until the time is over or `stop` is set; return the summary."""
    crowd, headline = Crowd(Target(server.chat_url), plan.visits()), Headline()
    ready = time.monotonic()
    visitors = asyncio.create_task(crowd.run())
    try:
        await _before(stop, _watch(server, visitors, headline, seconds))
        # The report first: the app has then counted everything that is in it.
        report = dataclasses.replace(crowd.report)
        await _look(server, headline)
    finally:
        _Line.end()
        visitors.cancel()
        await asyncio.wait({visitors})
    return _summary(time.monotonic() - ready, headline, report)


async def _watch(
    server: DemoServer,
    visitors: asyncio.Task[LoadReport],
    headline: Headline,
    seconds: float | None,
) -> None:
    """Show the figures until the time is over."""
    deadline = time.monotonic() + seconds if seconds else float("inf")
    line = _Line()
    while True:
        server.check_alive()
        if visitors.done():
            visitors.result()
        await _look(server, headline)
        line.write(headline.line())
        left = deadline - time.monotonic()
        if left <= 0:
            return
        await asyncio.sleep(min(_REFRESH, left))


async def _look(server: DemoServer, headline: Headline) -> None:
    reading = await server.scrape()
    if reading is not None:
        headline.add(time.monotonic(), reading)


class _Line:
    """One line that is overwritten; without a terminal, a new line every few seconds."""

    def __init__(self) -> None:
        self._due = 0.0

    def write(self, text: str) -> None:
        if sys.stdout.isatty():
            width = shutil.get_terminal_size().columns - 1
            click.echo("\r" + text[:width].ljust(width), nl=False)
        elif time.monotonic() >= self._due:
            self._due = time.monotonic() + _LINE_EVERY
            click.echo(text)

    @staticmethod
    def end() -> None:
        if sys.stdout.isatty():
            click.echo()


def _places(server: DemoServer, more: Mapping[str, str]) -> str:
    places = {
        "live page": server.live_url,
        "chat": server.chat_url,
        "metrics": server.metrics_url,
        "health": server.health_url,
        **more,
    }
    width = max(map(len, places)) + 3
    return "".join(f"\n  {name:<{width}}{url}" for name, url in places.items()) + "\n"


def _summary(seconds: float, headline: Headline, report: LoadReport) -> str:
    """Return the last figures of the app, and those that the visitors have counted."""
    last = headline.last
    starts = None if last is None else last.starts
    peak = None if last is None else last.peak
    rows = [
        (f"after {seconds:.0f} s", "by /metrics", "by the visitors"),
        ("sessions started", show(starts, digits=0), str(report.sessions)),
        ("  per minute", show(headline.starts_per_minute), ""),
        ("mean duration", show(headline.mean_duration, " s"), ""),
        ("most at one time", show(peak, digits=0), str(report.peak)),
        ("messages", "", str(report.messages)),
        ("replies", "", str(report.replies)),
    ]
    lines = [f"{name:<18}{ours:>12}{theirs:>18}".rstrip() for name, ours, theirs in rows]
    return "\n".join(["", *lines, *report.failure_examples])


async def _before(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work unless `stop` comes first; return whether it was done."""
    task, stopped = asyncio.create_task(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
            return True
        return False
    finally:
        for each in (task, stopped):
            each.cancel()
        await asyncio.wait({task, stopped})


@contextlib.contextmanager
def _set_by_signals(stop: asyncio.Event) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP set `stop` instead of tearing everything down."""
    loop = asyncio.get_running_loop()
    signals = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP"):
        # A terminal that is closed; the app would outlive it, being in a session of its own.
        signals.append(signal.SIGHUP)
    # Windows has no such handlers; there Ctrl-C cancels, which ends the app as well.
    with contextlib.suppress(NotImplementedError):
        for number in signals:
            loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        with contextlib.suppress(NotImplementedError):
            for number in signals:
                loop.remove_signal_handler(number)
