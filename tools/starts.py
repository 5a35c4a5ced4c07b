"""Starts the quickstart again and again: its chat and its admin port must answer each time.

A race between threads at the start shows itself once in some hundred starts.

Usage: python -m tools.starts [--help]
"""

from __future__ import annotations

import sys

import click

from tools.quickstart import Failed, quickstart


@click.command("starts")
@click.option("--count", type=click.IntRange(min=1), default=300, show_default=True)
@click.option("--python", default=sys.executable, help="Interpreter that runs the app.")
def main(count: int, python: str) -> None:
    """Start the quickstart COUNT times, and fail if an answer was missing once."""
    failed = 0
    for number in range(1, count + 1):
        try:
            with quickstart(python) as app:
                app.get(f"{app.admin_url}/healthz")
                if "chainlit_session_starts_total" not in app.get(f"{app.admin_url}/metrics"):
                    raise Failed(f"no metrics of sessions\n{app.tail()}")
        except Failed as error:
            failed += 1
            print(f"start {number}: {error}", flush=True)
        if number % 10 == 0 or number == count:
            print(f"{number} starts, {failed} failed", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
