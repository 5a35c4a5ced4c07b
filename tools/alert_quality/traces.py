"""Real series as the traffic of a deployment: files of CSV, `time,sessions[,event]` in each line.

`time` is ISO 8601 or seconds since 1970, at steps of the same length; `sessions` is how many began
in that step; `event` is 1 where somebody who knows has said that something was unusual.
"""

from __future__ import annotations

import csv
from datetime import datetime, timezone
from pathlib import Path

import numpy as np

from chainlit_otel.backtest.vector import Grid, Values
from tools.alert_quality.traffic import STEP, Event, World, scrape

LABELLED = "labelled"
"""The kind of an event that a file has labelled."""


class BadTrace(ValueError):
    """A file is no trace; the message names it and the line."""


def read(directory: Path) -> list[World]:
    """Return a world for each CSV file in a directory.

    Raises:
        BadTrace: A file is no trace, or there is none.
    """
    files = sorted(directory.glob("*.csv"))
    if not files:
        raise BadTrace(f"{directory}: has no *.csv")
    return [_world(file) for file in files]


def _world(file: Path) -> World:
    times, values, labelled = _columns(file)
    between = np.diff(times)
    if len(times) < 3 or between.min() <= 0:
        raise BadTrace(f"{file}: needs three lines at least, in order of time")
    step = float(np.median(between))
    minutes = np.arange(times[0], times[-1] + step, STEP)
    at = np.searchsorted(times, minutes, side="right") - 1
    # What a step has is spread over its minutes; a gap longer than a step has nobody.
    known = minutes - times[at] < step
    per_minute = np.where(known, values[at] * STEP / step, 0.0)
    rng = np.random.default_rng(0)
    per_day = float(per_minute.mean() * 24 * 60)
    world = World(file.stem, per_day, Grid(float(minutes[0]), STEP, len(minutes)))
    marked = np.flatnonzero(np.diff(np.concatenate([[0], labelled[at], [0]])))
    for start, end in zip(marked[::2], marked[1::2], strict=True):
        world.events.append(Event(LABELLED, int(start), int(end)))
    scrape(world, rng, per_minute)
    return world


def _columns(file: Path) -> tuple[Values, Values, Values]:
    with file.open(newline="", encoding="utf-8") as lines:
        read = [_row(row) for row in csv.reader(lines)]
    for number, row in enumerate(read, 1):
        if row is None and number > 1:  # The first line may be a header.
            raise BadTrace(f"{file}:{number}: is not `time,sessions[,event]`")
    rows = [row for row in read if row is not None]
    if not rows:
        raise BadTrace(f"{file}: has no line of `time,sessions[,event]`")
    times, values, labelled = np.array(rows).T
    return times, values, labelled


def _row(row: list[str]) -> tuple[float, float, float] | None:
    try:
        event = float(row[2]) if len(row) > 2 and row[2] else 0.0
        return _seconds(row[0]), float(row[1]), float(event > 0)
    except (IndexError, ValueError):
        return None


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        time = datetime.fromisoformat(text.replace("Z", "+00:00"))
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
