"""The figures as tables."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from bench.turns import VARIANTS, Plan, Round

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Heads of the columns, and rows. All columns but the first are figures."""


def turns_table(rounds: Sequence[Round]) -> Table:
    """Return what a turn costs in each variant, and how much more than without observation."""
    rows = []
    for name, variant in VARIANTS.items():
        runs = [each[name] for each in rounds]
        turns = sum(run.turns for run in runs)
        more = [run.more_than(each["bare"]) for run, each in zip(runs, rounds, strict=True)]
        spread = [_with_error(more), f"{min(more):+.1%} to {max(more):+.1%}"]
        rows.append(
            [
                variant.title,
                f"{statistics.median(run.seconds for run in runs) * 1e3:.2f} ms",
                *(["", ""] if name == "bare" else spread),
                f"{statistics.mean(run.full_share for run in runs) * 1e3:.2f} ms",
                f"{sum(run.spans.total() for run in runs) / turns:.1f}",
            ]
        )
    heads = ["a turn of 50 tokens", "CPU time", "more", "by round", "GC", "spans"]
    return heads, rows


def _with_error(more: Sequence[float]) -> str:
    median = f"{statistics.median(more):+.1%}"
    if len(more) == 1:
        return median
    return f"{median} ± {100 * statistics.stdev(more) / len(more) ** 0.5:.1f}"


def events_table(events: Iterable[tuple[str, float]], rounds: Sequence[Round]) -> Table:
    """Return what single events cost."""
    ours = [name for name, variant in VARIANTS.items() if variant.is_ours]
    scrapes = [each[name].scrape for each in rounds for name in ours]
    rows = [(name, f"{seconds * 1e6:.2f} µs") for name, seconds in events]
    rows.append(("one scrape of `/metrics`", f"{statistics.median(scrapes) * 1e6:.0f} µs"))
    return ("one event", "CPU time"), rows


def machine() -> str:
    """Say on what this runs."""
    packages = ("chainlit", "fastapi", "opentelemetry-sdk")
    versions = [f"{name} {version(name)}" for name in packages]
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return ", ".join([processor(), f"{os.cpu_count()} cores", python, *versions])


def processor() -> str:
    """Return the name of the processor."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def method(plan: Plan) -> str:
    """Say how it was measured."""
    who = "one visitor" if plan.visitors == 1 else f"{plan.visitors} visitors at once"
    return (
        f"Medians of {plan.rounds} rounds of {plan.turns} turns of {who}, {plan.slice} turns at a "
        f"time, after {plan.lead} that do not count; *more* is compared within each round, ± the "
        "standard error of its mean. Full garbage collections add at most the column *GC*."
    )


def text(table: Table) -> str:
    """Return a table for a terminal."""
    heads, rows = table
    widths = [max(len(cell) for cell in column) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(
            pad(width) for pad, width in zip(_pads(cells), widths, strict=True)
        ).rstrip()

    return "\n".join([line(heads), line(["-" * width for width in widths]), *map(line, rows)])


def _pads(cells: Sequence[str]) -> list[Callable[[int], str]]:
    return [cells[0].ljust, *(cell.rjust for cell in cells[1:])]


def markdown(table: Table) -> str:
    """Return a table in Markdown."""
    heads, rows = table
    rule = ["---", *["--:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
