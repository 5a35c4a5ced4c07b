"""Runs the demo beside a Prometheus that has the shipped rules, and an Alertmanager.

Usage: python -m tools.stack [--help]
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import click

from chainlit_otel.cli import demo
from chainlit_otel.cli.demo_server import DemoServer, free_port, is_free
from chainlit_otel.rules import Windows, render
from tests.support.prometheus import Alertmanager, Prometheus

_PORT = click.IntRange(1, 65535)


@click.command("stack", params=[p for p in demo.command.params if p.name != "report"])
@click.option(
    "--prometheus-port",
    type=_PORT,
    metavar="PORT",
    help="Port of Prometheus.  [default: 9090, or the next free one]",
)
@click.option(
    "--alertmanager-port",
    type=_PORT,
    metavar="PORT",
    help="Port of Alertmanager.  [default: 9093, or the next free one]",
)
@click.option(
    "--scale",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Make all time spans of the rules longer or shorter: 0.02 makes 5 minutes 6 seconds.",
)
def main(
    seconds: float | None,
    port: int | None,
    visitors_rate: float,
    prometheus_port: int | None,
    alertmanager_port: int | None,
    scale: float,
) -> None:
    """Run the demo beside a Prometheus that has the shipped rules, and an Alertmanager.

    All of it listens on this machine only and keeps its data in temporary directories. Ctrl-C ends
    it, and nothing is left behind.
    """
    try:
        rules = render(window=Windows(scale))
    except ValueError as error:
        raise click.ClickException(str(error)) from None

    @contextlib.contextmanager
    def servers(server: DemoServer) -> Iterator[Mapping[str, str]]:
        target = f"127.0.0.1:{server.admin_port}"
        with (
            Alertmanager(port=_free(alertmanager_port, 9093)) as alertmanager,
            Prometheus(
                [target],
                rules,
                alertmanager=alertmanager.address,
                port=_free(prometheus_port, 9090),
            ) as prometheus,
        ):
            yield {"prometheus": prometheus.url, "alertmanager": alertmanager.url}

    for asked in (prometheus_port, alertmanager_port):
        _refuse_taken(asked)
    try:
        demo.run(seconds, port, visitors_rate, servers)
    except (OSError, RuntimeError, TimeoutError) as error:
        raise click.ClickException(str(error)) from None


def _refuse_taken(asked: int | None) -> None:
    if asked is not None and not is_free(asked):
        raise click.ClickException(f"port {asked} is taken")


def _free(asked: int | None, preferred: int) -> int:
    return free_port(preferred) if asked is None else asked


if __name__ == "__main__":
    main()
