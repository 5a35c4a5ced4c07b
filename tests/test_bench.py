"""The benchmark runs, and measures what it says. How long anything takes is not tested."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from chainlit_otel.rules import Windows
from chainlit_otel.rules.recording import recordings

pytestmark = pytest.mark.e2e

QUICK = [
    "--rounds",
    "1",
    "--visitors",
    "2",
    "--turns",
    "3",
    "--warmup",
    "2",
    "--slice",
    "2",
    "--event-seconds",
    "0.01",
]
QUICK_RULES = ["--replicas", "2", "--rounds", "1", "--interval", "2"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_benchmark_shows_what_each_variant_and_each_event_costs() -> None:
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
        "chainlit-otel, metrics and records in files",
        "chainlit-otel, metrics and traces",
        "the SDK alone, as many spans",
        "FastAPIInstrumentor with its defaults",
    ]
    assert all(row[0].endswith(" ms") for row in rows.values())
    spans = [float(row[-1]) for row in rows.values()]
    assert spans[:3] == [0, 0, 0]
    assert 1 <= spans[3] < 10
    assert spans[4] == spans[3]
    assert spans[5] > 50
    assert all(cells(line)[1].endswith(" µs") for line in events.splitlines()[2:])
    assert "chainlit 2." in machine
    assert "1 rounds of 3 turns of 2 visitors at once" in method


def test_the_benchmark_of_the_rules_shows_how_long_each_of_them_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.rules", *QUICK_RULES, "--markdown"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0

    recorded, others, machine, method = done.stdout.strip().split("\n\n")
    names = [cells(line)[0].strip("`") for line in recorded.splitlines()[2:]]
    assert names == [rule.name for rule in recordings(Windows())]
    rows = [cells(line) for line in [*recorded.splitlines()[2:], *others.splitlines()[2:]]]
    assert all(cell.endswith(" ms") for row in rows for cell in row[1:])
    reported = {row[0].strip("`").split()[0] for row in rows}
    assert {"chainlit.recording", "chainlit.alerts", "ChainlitInstanceDown"} <= reported
    assert "2 replicas with" in method
    assert "Prometheus 2." in machine
