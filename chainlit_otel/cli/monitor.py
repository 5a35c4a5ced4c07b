"""`chainlit-otel monitor`: dialogs that are repeated, and their metrics."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from datetime import datetime, timezone

import click
from prometheus_client import start_http_server

from chainlit_otel.cli.visitors import WrongAddress, header_option, parsed, transport_option
from chainlit_otel.testing.dialog import Dialog, seconds
from chainlit_otel.testing.http import Address
from chainlit_otel.testing.monitor import Attempt, Monitor
from chainlit_otel.testing.visit import Target


@click.command("monitor")
@click.argument("url")
@click.option(
    "--script",
    "scripts",
    callback=parsed(Dialog.load),
    multiple=True,
    required=True,
    metavar="FILE",
    help="A dialog in YAML. May be repeated.",
)
@click.option(
    "--every",
    callback=parsed(seconds),
    default="60s",
    show_default=True,
    metavar="TIME",
    help="From the start of a dialog to the start of its next.",
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Where the metrics are served; 0.0.0.0 for other machines, too.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=9465,
    show_default=True,
    help="Where the metrics are served.",
)
@transport_option
@header_option
def command(
    url: str,
    scripts: tuple[Dialog, ...],
    every: float,
    host: str,
    port: int,
    transport: list[str] | None,
    headers: dict[str, str],
) -> None:
    """Repeat dialogs with the app at URL and serve the outcome as metrics.

    The metrics have the names of blackbox_exporter: probe_success is 1 after a dialog that went as
    its script expects, and probe_duration_seconds is how long it took. probe_chat_duration_seconds
    has its phases: connect, first_token, turn, reconnect. What went wrong is printed, too.

    It goes on until it gets SIGTERM or SIGINT (Ctrl-C), also while the app is down.

    \b
    Example:
        chainlit-otel monitor https://chat.example.com --script greeting.yaml --every 60s
    """  # noqa: D301 - for click, \b keeps the line breaks of a paragraph
    twice = [
        name for name, count in Counter(script.name for script in scripts).items() if count > 1
    ]
    if twice:
        raise click.UsageError(f"two scripts have the name {twice[0]!r}: give one another 'name:'")
    if every <= 0:
        raise click.BadParameter("must be greater than 0", param_hint="--every")
    try:
        Address.parse(url)
    except ValueError as error:
        raise WrongAddress(str(error)) from None
    target = Target(url, transports=transport, headers=headers)
    monitor = Monitor(target, scripts, every, _show)
    try:
        server, _ = start_http_server(port, host, registry=monitor.registry)
    except OSError as error:
        raise click.ClickException(f"cannot serve metrics at {host}:{port}: {error}") from None
    click.echo(f"metrics at http://{host}:{port}/metrics", err=True)
    try:
        asyncio.run(_until_the_end(monitor))
    finally:
        server.shutdown()
        server.server_close()


async def _until_the_end(monitor: Monitor) -> None:
    running = asyncio.ensure_future(monitor.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, running.cancel)
    await asyncio.wait({running})
    if not running.cancelled():
        running.result()


def _show(script: Dialog, attempt: Attempt) -> None:
    at = datetime.fromtimestamp(attempt.at, timezone.utc).isoformat(timespec="seconds")
    for failure in attempt.report.failures:
        click.echo(f"{at} {script.name}: {failure.kind}: {failure.message}", err=True)
