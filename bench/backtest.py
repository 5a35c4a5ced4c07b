"""Holds `chainlit-otel backtest` against the rule engine of Prometheus, over simulated weeks.

Usage: python -m bench.backtest [--days N] [--per-day N] [--seed N]

A Prometheus is filled with two deployments: the traffic of one has a rhythm and events, and in the
other something goes on with every metric that an alert reads. `backtest` asks it for the last days.
The rule engine, which needs the three weeks before as well, evaluates the same samples each minute;
what fires has to be the same at each evaluation of those days.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner

from bench.options import positive
from chainlit_otel.backtest.replay import Firing, needed
from chainlit_otel.backtest.trial import LOOK_BACK
from chainlit_otel.backtest.vector import Grid
from chainlit_otel.cli import main as command
from chainlit_otel.rules import Links, Thresholds, Windows, groups
from tests.backtest.engine import objections
from tests.backtest.past import Series, openmetrics, past
from tests.support.prometheus import Prometheus
from tools.alert_quality.traffic import STEP, World, simulate

_DAY = 86_400
_TIMEOUT = 3600.0


def scraped(world: World, grid: Grid, days: int, seed: int) -> Series:
    """Return the end of a world, and beside it for the days a deployment with every metric."""
    series: Series = {}
    for name, by_labels in world.series.items():
        series[name] = {of: values[-grid.size :] for of, values in by_labels.items()}
    before = np.full(grid.size - days * _DAY // STEP, np.nan)
    lasting = Grid(grid.end - days * _DAY + STEP, STEP, days * _DAY // STEP)
    for name, by_labels in past(seed, lasting).items():
        for of, values in by_labels.items():
            other = of - {("job", "chat")} | {("job", "other")}
            series.setdefault(name, {})[other] = np.concatenate([before, values])
    return series


def backtest(series: Series, grid: Grid) -> list[Firing]:
    """Return what the command says of a Prometheus that has these samples."""
    since = datetime.fromtimestamp(grid.start + LOOK_BACK, timezone.utc)
    until = datetime.fromtimestamp(grid.end, timezone.utc)
    period = ["--since", f"{since:%Y-%m-%dT%H:%M:%SZ}", "--until", f"{until:%Y-%m-%dT%H:%M:%SZ}"]
    rate = ["--step", str(STEP), "--scrape-interval", str(STEP)]
    began = time.perf_counter()
    with Prometheus([], history="".join(openmetrics(series, grid))) as prometheus:
        print(f"filled in {time.perf_counter() - began:.0f} s", flush=True)
        began = time.perf_counter()
        of = ["--prometheus", prometheus.url, "--json"]
        result = CliRunner().invoke(command, ["backtest", *of, *period, *rate])
    if result.exit_code:
        sys.exit(result.output)
    found: dict[str, Any] = json.loads(result.stdout)
    print(f"backtest: {time.perf_counter() - began:.0f} s, {found['asked']}", flush=True)
    return [
        Firing(
            one["alert"],
            frozenset(one["labels"].items()),
            one["pending"],
            one["start"],
            one["end"],
        )
        for one in found["firings"]
    ]


def engine(series: Series, grid: Grid, firings: list[Firing]) -> str:
    """Return where the rule engine says otherwise; nothing if it does not."""
    # Texts decide nothing.
    rules = [
        {key: value for key, value in rule.items() if key != "annotations"}
        for rule in needed(groups(Thresholds(), Windows(scrape=STEP), Links()))
    ]
    days = range(int(LOOK_BACK / STEP), grid.size)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="chainlit-otel-engine-") as directory:
        shipped = [{"name": "chainlit", "rules": rules}]
        said = objections(shipped, series, grid, firings, days, Path(directory), _TIMEOUT)
    seconds = time.perf_counter() - began
    print(
        f"engine: {grid.size:,} evaluations of {len(rules)} rules in {seconds:.0f} s, "
        f"the last {len(days):,} compared",
        flush=True,
    )
    return said


def main() -> None:
    """Run both and compare them."""
    parser = argparse.ArgumentParser(prog="python -m bench.backtest", description=__doc__)
    parser.add_argument("--days", type=positive, default=5, help="days that count, 26 at most")
    parser.add_argument("--per-day", type=positive, default=10_000, help="sessions a day")
    parser.add_argument("--seed", type=positive, default=54)
    options = parser.parse_args()
    size = (LOOK_BACK + options.days * _DAY) // STEP + 1
    world = simulate(options.per_day, True, options.seed)
    if size > world.grid.size:
        parser.error(f"--days {options.days}: must be 26 at most")
    grid = replace(world.grid, start=world.grid.end - (size - 1) * STEP, size=size)
    series = scraped(world, grid, options.days, options.seed)
    first = world.grid.size - options.days * _DAY // STEP
    events = Counter(event.kind for event in world.events if event.start >= first)
    print(f"events in {options.days} days: {dict(events)}", flush=True)
    firings = backtest(series, grid)
    print(f"{len(firings)} firings of {len({one.alert for one in firings})} alerts", flush=True)
    for name, number in sorted(Counter(one.alert for one in firings).items()):
        print(f"  {name} {number}", flush=True)
    if said := engine(series, grid, firings):
        sys.exit(said[:10_000])
    print("the same at each evaluation")


if __name__ == "__main__":
    main()
