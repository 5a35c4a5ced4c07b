"""How good the alerts that read traffic are, over simulated weeks or real series.

Usage: python -m tools.alert_quality [--help]
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import yaml

from chainlit_otel.backtest.evaluate import Evaluation
from chainlit_otel.backtest.replay import Firing, replay
from chainlit_otel.cli.analysis import progress
from chainlit_otel.rules import Windows, render
from tools.alert_quality.score import Score, scored
from tools.alert_quality.traces import LABELLED, BadTrace, read
from tools.alert_quality.traffic import KINDS, STEP, World, simulate

LEVELS = (10, 100, 1_000, 10_000, 100_000)
ALERTS = tuple(dict.fromkeys(kind.alert for kind in KINDS.values()))
RHYTHMS = ("office", "evening")

Played = tuple[World, list[Firing]]


def play(world: World, rules: Sequence[dict[str, Any]]) -> list[Firing]:
    """Return what the rules would have fired in a world."""
    # Metrics that are about something else have no series.
    evaluation = Evaluation(world.grid, leaf=lambda _: {})
    evaluation.known.update(world.known())
    return replay(rules, evaluation, world.grid)


def shipped() -> list[dict[str, Any]]:
    """Return the groups of the rules as they are shipped, for scrapes of a minute."""
    groups: list[dict[str, Any]] = yaml.safe_load(render(window=Windows(scrape=STEP)))["groups"]
    return groups


def _simulated(job: tuple[float, bool, int, str, list[dict[str, Any]]]) -> Played:
    per_day, busy, seed, rhythm, rules = job
    world = simulate(per_day, busy, seed, rhythm)
    firings = play(world, rules)
    world.series.clear()
    return world, firings


def _rows(played: dict[tuple[float, bool], list[Played]]) -> Iterator[dict[str, Any]]:
    for alert in ALERTS:
        for level in dict.fromkeys(level for level, _ in played):
            quiet, busy = (scored(played[level, is_busy], alert) for is_busy in (False, True))
            yield {
                "alert": alert,
                "per_day": level,
                "false_in_four_weeks": round(quiet.false_in_four_weeks, 2),
                "false_pages": quiet.pages + busy.pages,
                "first_week": round(quiet.first_week / quiet.worlds, 2),
                "false_in_four_busy_weeks": round(busy.false_in_four_weeks, 2),
                "echoes_in_four_busy_weeks": round(4 * busy.echoes / busy.weeks, 2),
                "fires_an_event": round(busy.fires / max(1, sum(busy.found.values())), 2),
                "events": {kind: _event(busy, kind) for kind in busy.events},
            }


def _event(score: Score, kind: str) -> dict[str, Any]:
    return {
        "events": score.events[kind],
        "found": score.found.get(kind, 0),
        "right_cause": score.rightly.get(kind, 0),
        "minutes": score.delay(kind),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return rows as a table of Markdown."""
    lines = [
        "| alert | sessions a day | false in 4 weeks | in the first week | found | after |",
        "|---|--:|--:|--:|---|---|",
    ]
    for row in rows:
        found = ", ".join(
            f"{kind} {one['found']}/{one['events']}" for kind, one in sorted(row["events"].items())
        )
        after = ", ".join(
            f"{kind} {one['minutes']:.0f} min"
            for kind, one in sorted(row["events"].items())
            if one["minutes"] is not None
        )
        lines.append(
            f"| {row['alert']} | {row['per_day']:,g} | {row['false_in_four_weeks']:g} "
            f"| {row['first_week']:g} | {found} | {after} |"
        )
    return "\n".join(lines)


@click.command("alert-quality")
@click.option("--seed", "seeds", type=int, multiple=True, default=(1, 2), show_default=True)
@click.option("--level", "levels", type=float, multiple=True, default=LEVELS, show_default=True)
@click.option(
    "--traces",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Take the CSV files in this directory (`time,sessions[,event]`) instead.",
)
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def command(
    seeds: tuple[int, ...], levels: tuple[float, ...], traces: Path | None, as_json: bool
) -> None:
    """Show how good the alerts that read traffic are, by the rules as they are shipped."""
    rules = shipped()
    if traces is not None:
        _of_traces(traces, rules, as_json)
        return
    jobs = [
        (level, busy, seed, rhythm, rules)
        for level in levels
        for busy in (False, True)
        for seed in seeds
        for rhythm in RHYTHMS
    ]
    played: dict[tuple[float, bool], list[Played]] = {}
    with ProcessPoolExecutor() as processes, progress("weeks") as show:
        for number, result in enumerate(processes.map(_simulated, jobs)):
            level, busy, *_ = jobs[number]
            played.setdefault((level, busy), []).append(result)
            show((number + 1) / len(jobs))
    rows = list(_rows(played))
    click.echo(json.dumps(rows, indent=2) if as_json else table(rows))


def _of_traces(directory: Path, rules: list[dict[str, Any]], as_json: bool) -> None:
    try:
        worlds = read(directory)
    except BadTrace as error:
        raise click.ClickException(str(error)) from error
    for world in worlds:
        firings = play(world, rules)
        events = [event for event in world.events if event.kind == LABELLED]
        found = [
            any(event.start <= (one.start - world.grid.start) / STEP < event.end for one in firings)
            for event in events
        ]
        weeks = world.grid.size * STEP / (7 * 86_400)
        fired = {name: sum(one.alert == name for one in firings) for name in _names(firings)}
        row = {
            "trace": world.name,
            "weeks": round(weeks, 2),
            "sessions_a_day": round(world.per_day, 1),
            "fired": fired,
            "labelled": len(events),
            "labelled_and_found": sum(found),
        }
        if as_json:
            click.echo(json.dumps({**row, "firings": [_shown(one) for one in firings]}))
        else:
            click.echo(
                f"{world.name}: {weeks:.1f} weeks, {world.per_day:,.0f} sessions a day; "
                f"found {sum(found)} of {len(events)} labelled; fired "
                + (", ".join(f"{name} {number}" for name, number in fired.items()) or "nothing")
            )


def _names(firings: Sequence[Firing]) -> list[str]:
    return sorted({one.alert for one in firings})


def _shown(firing: Firing) -> dict[str, Any]:
    return {**asdict(firing), "labels": dict(firing.labels)}


if __name__ == "__main__":
    command()
