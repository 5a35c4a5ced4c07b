"""Measures what observing Chainlit costs the server.

Usage: python -m bench [--rounds N] [--visitors N] [--turns N] [--markdown]
"""

from __future__ import annotations

import argparse
import os
import sys

from bench import events, report, turns
from bench.options import positive
from bench.sink import Sink
from bench.turns import BenchError, Plan, Round


def main() -> int:
    """Measure, print the tables and return the exit code."""
    arguments = _parser().parse_args()
    if not sys.platform.startswith("linux"):
        _say("error: the CPU clock of another process can be read on Linux only")
        return 1
    plan = Plan(
        arguments.rounds,
        arguments.visitors,
        arguments.turns,
        arguments.warmup,
        arguments.slice,
        arguments.lead,
    )
    _say(
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores: what else runs blurs the figures"
    )
    singles = events.measure(arguments.event_seconds)
    try:
        with Sink() as sink:
            rounds = turns.measure(plan, sink, _progress)
    except (BenchError, OSError, RuntimeError) as error:
        _say(f"error: {error}")
        return 1
    show = report.markdown if arguments.markdown else report.text
    tables = report.turns_table(rounds), report.events_table(singles, rounds)
    print(*map(show, tables), report.machine(), report.method(plan), sep="\n\n")
    return 0


def _progress(number: int, figures: Round) -> None:
    shown = ", ".join(f"{variant} {run.seconds * 1e3:.2f} ms" for variant, run in figures.items())
    _say(f"round {number}: {shown}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    rows = (
        ("--rounds", 10, "rounds, each with new server processes in a memory layout of its own"),
        ("--visitors", 1, "visitors who talk at once"),
        ("--turns", 400, "turns of each variant in a round"),
        ("--warmup", 100, "turns before them that do not count"),
        ("--slice", 50, "turns of one variant, then an export, before it is the next one's turn"),
        ("--lead", 10, "turns at the beginning of each slice that do not count"),
    )
    for name, default, text in rows:
        parser.add_argument(name, type=positive, default=default, help=f"{text} ({default})")
    parser.add_argument(
        "--event-seconds", type=float, default=1.0, help="time for each single event (1)"
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
