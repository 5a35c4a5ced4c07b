"""Simulated weeks of a deployment, as a Prometheus would have scraped them.

One that is quiet has a rhythm, holidays, deploys and an autoscaler, and nothing that anybody needs
to know. One that is busy has events on top of it, whose times are known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chainlit_otel import catalog
from chainlit_otel.backtest.vector import Grid, Values, Vector, labels
from chainlit_otel.catalog import Attribute, Metric

STEP = 60
"""Seconds from one scrape to the next."""

WEEKS = 7
KNOWN = 3
"""Weeks after which three weeks before are known."""

MONDAY = 1_767_571_200.0
"""The first moment of the simulation: a Monday, 0:00 UTC."""

_MINUTE = 1
_HOUR = 60
_DAY = 24 * _HOUR
_WEEK = 7 * _DAY

STAY = 12
"""Minutes for which a session is connected, on average."""

_HELD = 400
"""Connected sessions for which the autoscaler wants another replica."""

_MOST = 12
"""Replicas at most."""

Rng = np.random.Generator


@dataclass(frozen=True)
class Event:
    """Something that has happened.

    Attributes:
        kind: What, by `KINDS`.
        start: Minute of its start.
        end: The minute after it.
    """

    kind: str
    start: int
    end: int


@dataclass
class World:
    """A deployment over some weeks.

    Attributes:
        name: What it is called in tables.
        per_day: Sessions a day, on average.
        grid: The scrapes, which are the evaluations.
        events: What has happened, in order.
        series: What was scraped, by name.
    """

    name: str
    per_day: float
    grid: Grid
    events: list[Event] = field(default_factory=list)
    series: dict[str, dict[Any, Values]] = field(default_factory=dict)

    def add(self, name: str, values: Values, **names: str) -> None:
        """Add a series."""
        self.series.setdefault(name, {})[labels(job="chat", **names)] = values

    def known(self) -> dict[str, Vector]:
        """Return all series, for an evaluation."""
        return dict(self.series)


@dataclass
class _Course:
    """What happens, minute by minute, before it is dealt out to replicas."""

    arrivals: Values
    bots: Values
    refused: Values
    failing: Values
    cut: Values
    down: Values


def _ramp(size: int, start: int, rise: int, hold: int, fall: int) -> Values:
    """Return a shape from 0 to 1 and back: minutes of its rise, its top, and its decay to 1/e."""
    time = np.arange(size) - start
    up = np.clip(time / max(rise, 1), 0, 1)
    later = np.maximum(time - rise - hold, 0)
    shape: Values = np.where(time < 0, 0.0, up * np.exp(-later / max(fall, 1)))
    return shape


def _more(factor: float, rise: int, hold: int, fall: int) -> Callable[[_Course, int, int], None]:
    def happen(course: _Course, start: int, end: int) -> None:
        course.arrivals *= 1 + (factor - 1) * _ramp(len(course.arrivals), start, rise, hold, fall)

    return happen


def _set(name: str, value: float) -> Callable[[_Course, int, int], None]:
    def happen(course: _Course, start: int, end: int) -> None:
        getattr(course, name)[start:end] = value

    return happen


def _flood(course: _Course, start: int, end: int) -> None:
    course.bots[start:end] = max(30.0, 10 * course.arrivals.mean())


def _outage(course: _Course, start: int, end: int) -> None:
    course.arrivals[start:end] = 0
    course.down[start:end] = 1
    # Who found it down tries again.
    course.arrivals[end : end + 5] *= 2


@dataclass(frozen=True)
class Kind:
    """A kind of event.

    Attributes:
        alert: The alert that has to find it.
        lasts: Minutes during which it is there.
        happen: Makes it so.
        by_day: Whether it is looked for in working hours only.
        factor: How many times the usual number of visitors come; 1 if as many as ever.
    """

    alert: str
    lasts: int
    happen: Callable[[_Course, int, int], None]
    by_day: bool = True
    factor: float = 1.0


KINDS: dict[str, Kind] = {
    "launch": Kind("SessionSpike", 110, _more(5, 10, 60, 40), factor=5),
    "rush": Kind("SessionSpike", 20, _more(10, 2, 12, 3), factor=10),
    "surge": Kind("SessionSpike", 55, _more(3, 8, 40, 10), factor=3),
    "doubling": Kind("SessionSpike", 70, _more(2, 5, 60, 10), factor=2),
    "creep": Kind("SessionRise", 300, _more(4, 180, 60, 60), factor=4),
    "flood": Kind("SessionSpike", 20, _flood, by_day=False),
    "outage of 20 min": Kind("SessionDrop", 20, _outage),
    "outage of 2 h": Kind("SessionDrop", 120, _outage),
    "cut": Kind("ReconnectStorm", 2, _set("cut", 1)),
    "refusals": Kind("ConnectionsRejected", 20, _set("refused", 0.5)),
    "half fail": Kind("TurnErrorBudgetBurn", 30, _set("failing", 0.5)),
    "one in ten fails": Kind("TurnErrorBudgetBurn", 480, _set("failing", 0.1)),
}


def _rhythm(kind: str, size: int) -> Values:
    """Return arrivals relative to their mean, minute by minute."""
    if kind == "office":
        hours = [0, 5, 7, 8.5, 9.25, 11.5, 12.5, 13.5, 16, 17.5, 20, 24]
        level = [0.03, 0.02, 0.08, 0.7, 1.0, 0.95, 0.55, 0.95, 0.9, 0.5, 0.15, 0.03]
        weekend = 0.1
    else:
        hours = [0, 2, 6, 8, 12, 15, 19, 21, 23, 24]
        level = [0.4, 0.12, 0.08, 0.35, 0.6, 0.5, 0.95, 1.0, 0.65, 0.4]
        weekend = 1.25
    day = np.interp(np.arange(_DAY) / _HOUR, hours, level)
    days = [day * (weekend if number % 7 >= 5 else 1.0) for number in range(size // _DAY + 1)]
    rhythm = np.concatenate(days)[:size]
    relative: Values = rhythm / rhythm[:_WEEK].mean()
    return relative


def _wander(rng: Rng, size: int, spread: float) -> Values:
    """Return a factor that wanders about 1 with the memory of an hour."""
    keep = np.exp(-1 / _HOUR)
    steps = rng.standard_normal(size) * np.sqrt(1 - keep * keep)
    wandered, now = np.empty(size), 0.0
    for at, step in enumerate(steps):
        now = keep * now + step
        wandered[at] = now
    factor: Values = np.exp(spread * wandered - spread * spread / 2)
    return factor


def simulate(
    per_day: float, busy: bool, seed: int, rhythm: str = "office", weeks: int = WEEKS
) -> World:
    """Simulate a deployment.

    Args:
        per_day: Sessions a day, on average.
        busy: Whether there are events, from the fourth week on.
        seed: Of everything that is random.
        rhythm: `office` or `evening`.
        weeks: How many weeks.
    """
    rng = np.random.default_rng([seed, int(per_day), busy, len(rhythm)])
    size = weeks * _WEEK
    world = World(
        f"{'busy' if busy else 'quiet'} {rhythm} {per_day:g} #{seed}",
        per_day,
        Grid(MONDAY, STEP, size),
    )
    arrivals = _rhythm(rhythm, size) * per_day / _DAY
    arrivals *= 1.15 ** (np.arange(size) / (30 * _DAY)) * _wander(rng, size, 0.15)
    zeros = np.zeros(size)
    course = _Course(
        arrivals, zeros.copy(), np.full(size, 0.004), zeros.copy(), zeros.copy(), zeros.copy()
    )
    if busy:
        for event in sorted(_plan(rng, weeks), key=lambda one: one.start):
            KINDS[event.kind].happen(course, event.start, event.end)
            world.events.append(event)
    else:
        for day in rng.choice(np.arange(_WEEK * KNOWN // _DAY, weeks * 7), 2, replace=False):
            course.arrivals[day * _DAY : (day + 1) * _DAY] *= 0.15
            world.events.append(Event("holiday", int(day) * _DAY, int(day + 1) * _DAY))
    _scrape(world, rng, course)
    return world


def scrape(world: World, rng: Rng, arrivals: Values) -> None:
    """Add what a deployment shows that so many come to in each minute, and nothing else happens."""
    zeros = np.zeros(len(arrivals))
    _scrape(world, rng, _Course(arrivals, zeros, zeros, zeros, zeros, zeros))


def _plan(rng: Rng, weeks: int) -> Iterator[Event]:
    """Give events on different days, at any time of the working day, so that none hides another."""
    days = [day for day in range(KNOWN * 7, weeks * 7) if day % 7 < 5]
    slots = [(day, part) for day in days for part in ("morning", "afternoon")]
    kinds = [kind for kind in KINDS for _ in range(len(slots) // len(KINDS))]
    for kind, at in zip(kinds, rng.permutation(len(slots)), strict=False):
        day, part = slots[int(at)]
        earliest, latest = (9.0, 11.0) if part == "morning" else (14.0, 16.0)
        hour = rng.uniform(earliest, latest) if KINDS[kind].by_day else rng.uniform(1, 5)
        start = int(day * _DAY + hour * _HOUR)
        yield Event(kind, start, start + KINDS[kind].lasts)


def _scrape(world: World, rng: Rng, course: _Course) -> None:
    """Deal out what happens to replicas, and add the series of each."""
    size = world.grid.size
    visitors = rng.poisson(course.arrivals).astype(float)
    bots = rng.poisson(course.bots).astype(float)
    connected = _connected(visitors, 1 / STAY) + _connected(bots, 1.0)
    connected = np.where(course.down > 0, connected * 0.1, connected)
    live, born = _replicas(world, connected)
    slots, running = len(live), live.sum(axis=0)
    # The tabs of a replica that goes away come back to another within two minutes, as new sessions.
    gone = ((live[:, :-1] > live[:, 1:]) | (born[:, 1:] != born[:, :-1]) & (live[:, :-1] > 0)).sum(
        axis=0
    )
    share = np.concatenate([gone / np.maximum(running[:-1], 1), [0.0]])
    tabs = rng.poisson(connected * share * 0.9).astype(float)
    back = np.zeros(size)
    back[1:] += np.round(tabs[:-1] * 0.6)
    back[2:] += tabs[:-2] - np.round(tabs[:-2] * 0.6)
    resumed = rng.binomial(back.astype(int), 0.7).astype(float)
    reconnects = rng.poisson(connected / 120).astype(float)
    cut = connected * course.cut
    reconnects[1:] += np.round(cut[:-1] * 0.7)
    reconnects[2:] += np.round(cut[:-2] * 0.3)
    # One visitor in 200 has a network that loses the socket again and again.
    flaky = np.zeros(size)
    for at in np.flatnonzero(rng.random(size) < np.minimum(0.005 * visitors, 0.9)):
        drops = at + np.cumsum(rng.integers(1, 4, rng.integers(3, 9)))
        np.add.at(flaky, drops[drops < size], 1)
    reconnects += flaky
    # Each socket is closed once: that of a tab when its visitor leaves.
    closed = rng.poisson(connected / STAY) + flaky + cut
    closed[:-1] += rng.poisson(connected[1:] / 120)
    turns, failed = _turns(rng, course, visitors, connected)
    attempts = visitors + bots + back + reconnects
    refused = rng.binomial(attempts.astype(int), course.refused).astype(float)
    websocket = {catalog.SESSION_TYPE: "websocket"}
    new = {**websocket, catalog.SESSION_ORIGIN: "new"}
    resuming = {**websocket, catalog.SESSION_ORIGIN: "thread_resume"}
    counters: list[tuple[Metric, dict[Attribute, str], Values, str]] = [
        (catalog.SESSION_STARTS, new, visitors + bots + back - resumed, ""),
        (catalog.SESSION_STARTS, resuming, resumed, ""),
        (catalog.SESSION_RECONNECTS, {catalog.CLIENT_TYPE: "webapp"}, reconnects, ""),
        (
            catalog.CONNECTION_DURATION,
            {catalog.CLOSE_REASON: "transport_close"},
            closed,
            "_count",
        ),
        (catalog.CONNECTION_REJECTED, {catalog.REFUSAL: "authentication_failed"}, refused, ""),
        (catalog.TURN_DURATION, {catalog.OUTCOME: "ok"}, turns - failed, "_count"),
        (catalog.TURN_DURATION, {catalog.OUTCOME: "error"}, failed, "_count"),
    ]
    for metric, attributes, increments, part in counters:
        for slot, dealt in enumerate(_dealt(rng, increments.astype(int), live)):
            counted = _counted(dealt, born[slot], live[slot])
            _add(world, metric, attributes, counted, slot, part)
    for slot in range(slots):
        held = np.where(live[slot] > 0, connected / np.maximum(running, 1), np.nan)
        connected_here = {**websocket, catalog.SESSION_STATE: "connected"}
        _add(world, catalog.SESSION_ACTIVE, connected_here, np.round(held).astype(np.float64), slot)
        oldest = np.where(live[slot] > 0, 600.0, np.nan)
        _add(world, catalog.SESSION_OLDEST_AGE, websocket, oldest, slot)
        started = np.where(live[slot] > 0, world.grid.start + born[slot] * STEP, np.nan)
        world.add("process_start_time_seconds", started, instance=f"{slot}")
        world.add("up", np.where(live[slot] > 0, 1.0, np.nan), instance=f"{slot}")


def _add(
    world: World,
    metric: Metric,
    attributes: dict[Attribute, str],
    values: Values,
    slot: int,
    part: str = "",
) -> None:
    names = {attribute.prometheus_label: value for attribute, value in attributes.items()}
    world.add(metric.prometheus_name + part, values, instance=f"{slot}", **names)


def _connected(starts: Values, leave: float) -> Values:
    """Return how many are connected, if each leaves in a minute with this chance."""
    connected, now = np.empty(len(starts)), 0.0
    for at, started in enumerate(starts):
        now = now * (1 - leave) + started
        connected[at] = now
    return connected


def _replicas(world: World, connected: Values) -> tuple[Values, Values]:
    """Return which replicas run at each minute, and the minute in which each has started.

    An autoscaler wants as many as the last 15 minutes needed, and what it starts runs three minutes
    later. On each working day a deploy replaces them one by one.
    """
    size = len(connected)
    least = 1 if world.per_day < 1000 else 2
    wanted = np.clip(np.ceil(connected / _HELD), least, _MOST)
    padded = np.concatenate([np.full(17, wanted[0]), wanted])
    windows = np.lib.stride_tricks.sliding_window_view(padded, 15)[:size]
    running = windows.max(axis=-1).astype(int)
    slots = int(running.max())
    live = (np.arange(slots)[:, None] < running[None, :]).astype(float)
    born = np.zeros((slots, size))
    deploys = [day * _DAY + 10 * _HOUR + 30 for day in range(size // _DAY) if day % 7 < 5]
    for slot in range(slots):
        starts = np.flatnonzero(np.diff(np.concatenate([[0.0], live[slot]])) > 0)
        marks = np.full(size, -_DAY)
        for at in starts:
            marks[at] = at if at else -_DAY
        for deploy in deploys:
            moment = deploy + 2 * slot
            if moment < size and live[slot, moment]:
                marks[moment] = moment
        born[slot] = np.maximum.accumulate(marks)
    return live, born


def _turns(rng: Rng, course: _Course, visitors: Values, connected: Values) -> tuple[Values, Values]:
    """Return turns and failed turns: five turns a session, one in 500 fails.

    One visitor in 200 meets an error that stays, and tries again and again.
    """
    size = len(visitors)
    turns = rng.poisson(connected * 5 / STAY)
    failed = rng.binomial(turns, 0.002)
    for at in np.flatnonzero(rng.random(size) < np.minimum(0.005 * visitors, 0.9)):
        tries = at + np.cumsum(rng.integers(1, 3, rng.integers(3, 13)))
        tries = tries[tries < size]
        np.add.at(turns, tries, 1)
        np.add.at(failed, tries, 1)
    failed = np.maximum(failed, rng.binomial(turns, course.failing))
    return turns.astype(float), failed.astype(float)


def _dealt(rng: Rng, events: Any, live: Values) -> Iterator[Any]:
    """Give the part of each replica, each event falling on any that runs."""
    left, replicas = events.copy(), live.sum(axis=0)
    for here in live:
        chance = np.where(here > 0, 1 / np.maximum(replicas, 1), 0.0)
        part = rng.binomial(left, np.minimum(chance, 1.0))
        yield part
        left, replicas = left - part, replicas - here


def _counted(increments: Any, born: Values, live: Values) -> Values:
    """Return a counter that starts at 0 with each process."""
    total = np.cumsum(increments).astype(float)
    began = np.flatnonzero(np.diff(np.concatenate([[-1.0], born])) != 0)
    base = np.zeros(len(total))
    for at in began:
        base[at:] = total[at - 1] if at else 0.0
    return np.where(live > 0, total - base, np.nan)
