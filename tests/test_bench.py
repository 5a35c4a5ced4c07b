"""The benchmark runs, and measures what it says. How long anything takes is not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUICK = [
    "--rounds",
    "1",
    "--turns",
    "3",
    "--warmup",
    "2",
    "--slice",
    "2",
    "--event-seconds",
    "0.01",
]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_benchmark_tells_what_each_variant_and_each_event_costs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *QUICK, "--markdown"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0

    turns, events, machine, method = done.stdout.strip().split("\n\n")
    rows = {cells(line)[0]: cells(line)[1:] for line in turns.splitlines()[2:]}
    assert list(rows) == [
        "Chainlit alone",
        "chainlit-otel, metrics",
        "chainlit-otel, metrics and traces",
        "FastAPIInstrumentor with its defaults",
    ]
    assert all(row[0].endswith(" ms") for row in rows.values())
    spans = [float(row[-1]) for row in rows.values()]
    assert spans[:2] == [0, 0]
    assert 1 <= spans[2] < 10
    assert spans[3] > 50
    assert all(cells(line)[1].endswith(" µs") for line in events.splitlines()[2:])
    assert "chainlit 2." in machine
    assert "1 rounds of 3 turns" in method
