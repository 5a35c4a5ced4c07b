"""A crowd of visitors, and while it is there, its figures on the terminal."""

from __future__ import annotations

import asyncio
import sys

import click

from chainlit_otel.cli.headline import show
from chainlit_otel.testing.load import Crowd
from chainlit_otel.testing.results import LoadReport, Phase, percentile

_REFRESH = 0.2
# To sort all turns of a long run five times a second would make the visitors late.
_LATEST = 500


async def run_crowd(crowd: Crowd, visitors: int, *, quiet: bool, label: str = "visitors") -> None:
    """Let all of them come and go, with a progress bar if somebody looks at standard error.

    Args:
        crowd: the visitors.
        visitors: how many there are in all.
        quiet: no progress bar.
        label: stands before the bar.
    """
    if quiet or not sys.stderr.isatty():
        await crowd.run()
        return
    with click.progressbar(
        range(visitors),
        label=label,
        file=sys.stderr,
        width=0,
        show_pos=True,
        show_eta=False,
        # The figures change while nobody leaves, too.
        update_min_steps=0,
        item_show_func=lambda _: live_figures(crowd.report),
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


def live_figures(report: LoadReport) -> str:
    """What goes on now, in one line of a terminal; the times are of the latest 500."""
    return (
        f"{report.connected} now, {len(report.failures)} failed, "
        f"p95 first token {_p95(report, 'first_token')}, turn {_p95(report, 'turn')}"
    )


def _p95(report: LoadReport, phase: Phase) -> str:
    latest = [timing.seconds for timing in report.timings[phase][-_LATEST:]]
    return show(percentile(latest, 0.95), " s", 2)
