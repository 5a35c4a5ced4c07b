"""The rule engine of Prometheus, as promtool has it, over a past."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from chainlit_otel.backtest.replay import Firing
from chainlit_otel.backtest.vector import Grid
from tests.backtest.past import Series, promtool_series


def objections(
    groups: Sequence[Mapping[str, Any]],
    series: Series,
    grid: Grid,
    firings: Sequence[Firing],
    at: Iterable[int],
    directory: Path,
    timeout: float,
) -> str:
    """What promtool says where other alerts fire than these; nothing if none does.

    Args:
        groups: The rules, all evaluated at each time of the grid.
        series: What was scraped at each time of it.
        grid: The evaluations.
        firings: What should have fired.
        at: Which evaluations are looked at.
        directory: For its files.
        timeout: Seconds after which it is given up.
    """
    test = {
        "rule_files": ["rules.json"],
        "evaluation_interval": f"{grid.step:g}s",
        "group_eval_order": [group["name"] for group in groups],
        "tests": [
            {
                "interval": f"{grid.step:g}s",
                "input_series": promtool_series(series, grid),
                "promql_expr_test": [_expected(firings, grid, one) for one in at],
            }
        ],
    }
    (directory / "rules.json").write_text(json.dumps({"groups": groups}))
    (directory / "test.json").write_text(json.dumps(test))
    done = subprocess.run(
        ["promtool", "test", "rules", "test.json"],
        cwd=directory,
        env={**os.environ, "GOGC": "400"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    return done.stdout + done.stderr if done.returncode else ""


def _expected(firings: Sequence[Firing], grid: Grid, at: int) -> dict[str, Any]:
    time = grid.start + at * grid.step
    firing = [one for one in firings if one.start <= time and (one.end is None or time < one.end)]
    samples = []
    for one in firing:
        names = {**dict(one.labels), "alertname": one.alert, "alertstate": "firing"}
        written = ",".join(f'{name}="{value}"' for name, value in sorted(names.items()))
        samples.append({"labels": f"ALERTS{{{written}}}", "value": 1})
    return {
        "expr": 'ALERTS{alertstate="firing"}',
        "eval_time": f"{at * grid.step:.0f}s",
        "exp_samples": samples,
    }
