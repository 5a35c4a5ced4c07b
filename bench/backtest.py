"""Holds `chainlit-otel backtest` against the rule engine of Prometheus, over simulated weeks.

Usage: python -m bench.backtest [--days N] [--per-day N] [--seed N]

A Prometheus is filled with two deployments: the traffic of one has a rhythm and events for weeks;
in the other something goes on for a day with every metric that an alert reads. `backtest` asks it
for the last days. The rule engine, which needs the three weeks before as well, evaluates the same
samples each minute; what fires has to be the same at each evaluation of those days.
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
from chainlit_otel.rules.alerts import PREFIX
from tests.backtest.engine import objections
from tests.backtest.past import Series, openmetrics, past
from tests.support.prometheus import Prometheus
from tools.alert_quality.__main__ import ALERTS
from tools.alert_quality.traffic import STEP, simulate

_DAY = 86_400
_TIMEOUT = 3600.0


def backtest(series: Series, grid: Grid) -> list[Firing]:
    """Return what the command says of a Prometheus that has these samples."""
    since = datetime.fromtimestamp(grid.start + LOOK_BACK, timezone.utc)
    until = datetime.fromtimestamp(grid.end, timezone.utc)
    period = ["--since", f"{since:%Y-%m-%dT%H:%M:%SZ}", "--until", f"{until:%Y-%m-%dT%H:%M:%SZ}"]
    rate = ["--step", str(STEP), "--scrape-interval", str(STEP)]
    with Prometheus([], history="".join(openmetrics(series, grid))) as prometheus:
        began = time.perf_counter()
        of = ["--prometheus", prometheus.url, "--json"]
        result = CliRunner().invoke(command, ["backtest", *of, *period, *rate])
    if result.exit_code:
        sys.exit(result.output)
    found: dict[str, Any] = json.loads(result.stdout)
    print(f"backtest: {time.perf_counter() - began:.0f} s, {found['asked']}", flush=True)
    firings = []
    for one in found["firings"]:
        labels = frozenset(one["labels"].items())
        firings.append(Firing(one["alert"], labels, one["pending"], one["start"], one["end"]))
    return firings


def compare(series: Series, grid: Grid, days: int, found: list[Firing], alerts: set[str]) -> None:
    """Have the rule engine say what these alerts did in the last days, and stop if it differs."""
    # Texts decide nothing.
    rules = [
        {key: value for key, value in rule.items() if key != "annotations"}
        for group in groups(Thresholds(), Windows(scrape=STEP), Links())
        for rule in group["rules"]
        if "record" in rule or rule["alert"] in alerts
    ]
    shipped = [{"name": "chainlit", "rules": needed([{"rules": rules}])}]
    jobs = {dict(of)["job"] for by_labels in series.values() for of in by_labels}
    firings = [one for one in found if one.alert in alerts and dict(one.labels)["job"] in jobs]
    looked_at = range(grid.size - days * _DAY // STEP, grid.size)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="chainlit-otel-engine-") as directory:
        said = objections(
            shipped, series, grid, firings, looked_at, Path(directory), timeout=_TIMEOUT
        )
    print(
        f"engine: {grid.size:,} evaluations of {len(shipped[0]['rules'])} rules in "
        f"{time.perf_counter() - began:.0f} s; "
        f"{'others fire' if said else 'the same'} at each of the last {len(looked_at):,}:"
    )
    for name, number in sorted(Counter(one.alert for one in firings).items()):
        print(f"  {name} {number}")
    sys.stdout.flush()
    if said:
        sys.exit(said[:10_000])


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
    traffic: Series = {
        name: {of: values[-size:] for of, values in by_labels.items()}
        for name, by_labels in world.series.items()
    }
    first = world.grid.size - options.days * _DAY // STEP
    events = Counter(event.kind for event in world.events if event.start >= first)
    print(f"events in {options.days} days: {dict(events)}", flush=True)
    day = Grid(grid.end - _DAY + STEP, STEP, _DAY // STEP)
    everything: Series = {
        name: {
            of - {("job", "chat")} | {("job", "other")} if ("job", "chat") in of else of: values
            for of, values in by_labels.items()
        }
        for name, by_labels in past(options.seed, day).items()
    }
    before = np.full(size - day.size, np.nan)
    both = {name: dict(by_labels) for name, by_labels in traffic.items()}
    for name, by_labels in everything.items():
        for of, values in by_labels.items():
            both.setdefault(name, {})[of] = np.concatenate([before, values])
    firings = backtest(both, grid)
    compare(everything, day, 1, firings, {one.alert for one in firings})
    compare(traffic, grid, options.days, firings, {PREFIX + name for name in ALERTS})


if __name__ == "__main__":
    main()
