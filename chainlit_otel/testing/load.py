"""Many visitors: what each is going to do, and doing it."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from chainlit_otel.testing.arrivals import Stage, staged, steady
from chainlit_otel.testing.client import Visitor
from chainlit_otel.testing.dialog import Dialog
from chainlit_otel.testing.errors import VisitError
from chainlit_otel.testing.player import Player, visitor_of
from chainlit_otel.testing.results import LoadReport
from chainlit_otel.testing.visit import Target, Visit

_LAG_INTERVAL = 0.05  # seconds
_PACE = 5.0  # mean seconds between two messages of a person
_MOST_MESSAGES = 50
_MOST_ABSENCE = 2.0  # seconds until the page has reconnected

_TOPICS = (
    "Hello!",
    "What can you do?",
    "Tell me something about the weather.",
    "Can you say that in other words?",
    "How does that work?",
    "Please give me an example.",
    "Is that always so?",
    "And what if it fails?",
    "Where can I read more?",
    "Thank you, that helps.",
)


@dataclass(frozen=True)
class PlannedAction:
    """One thing a visitor does.

    Attributes:
        at: seconds after the arrival at which it is due.
        kind: a message, a lost and restored connection, or *New Chat*.
        text: the message.
        absence: seconds without a connection.
    """

    at: float
    kind: Literal["talk", "drop", "new_chat"]
    text: str = ""
    absence: float = 0.0


@dataclass(frozen=True)
class VisitPlan:
    """All that one visitor is going to do, decided before the arrival: small talk.

    Attributes:
        arrival: seconds after the start of the crowd.
        actions: in order of time; at least one message.
        length: seconds between arrival and leaving.
        closes: leaves by closing the tab, else ends the session first.
    """

    arrival: float
    actions: tuple[PlannedAction, ...]
    length: float
    closes: bool

    def visitor(self, target: Target) -> Visitor:
        """Return the visitor, who has not come yet."""
        return Visitor(
            target.url,
            client_type=target.client_type,
            headers=target.headers,
            transports=target.transports,
            timeout=target.timeout,
        )

    async def play(self, visit: Visit) -> None:
        """Do it all."""
        arrival = time.monotonic()
        await visit.connect()
        for action in self.actions:
            await _sleep_until(arrival + action.at)
            if action.kind == "talk":
                visit.expect_an_answer(action.text, await visit.say(action.text))
            elif action.kind == "drop":
                await visit.drop(action.absence)
            else:
                await visit.new_chat()
        await _sleep_until(arrival + self.length)
        await visit.leave(clear=not self.closes)


@dataclass(frozen=True)
class Plan:
    """How many come, how often, for how long, and what they do.

    Args:
        visitors: how many come; None for no end.
        rate: mean arrivals per second; they are a Poisson process.
        length: mean seconds of a visit; exponentially distributed.
        seed: fixes every random choice.
        drops: probability that a visitor loses the connection once and comes back.
        new_chats: probability that a visitor starts a new chat once.
        closes: probability of leaving by closing the tab.
        stages: they come in stages, in place of `rate`, and until the end of the last at most.

    Raises:
        ValueError: a number is out of its range; the message names it.
    """

    visitors: int | None
    rate: float
    length: float
    seed: int = 0
    drops: float = 0.1
    new_chats: float = 0.2
    closes: float = 0.6
    stages: tuple[Stage, ...] = ()

    def __post_init__(self) -> None:
        if self.visitors is not None and self.visitors < 1:
            raise ValueError(f"visitors must be at least 1, not {self.visitors}")
        for name in ("rate", "length"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be greater than 0, not {value:g}")
        for name in ("drops", "new_chats", "closes"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name):g}")

    def visits(self, arrivals: Iterable[float] | None = None) -> Iterator[VisitPlan]:
        """The visitors in order of arrival: a pure function of the plan.

        Each visitor has a random generator of its own, so that another number of visitors, rate or
        probability changes nothing else about them.

        Args:
            arrivals: the second of each arrival, in order; None for those of the plan.
        """
        for number, arrival in enumerate(self.arrivals() if arrivals is None else arrivals):
            yield self._visit_plan(random.Random(f"{self.seed}/{number}"), arrival)

    def arrivals(self) -> Iterator[float]:
        """The second of each arrival, in order."""
        rng = random.Random(self.seed)
        arrivals = staged(self.stages, rng) if self.stages else steady(self.rate, rng)
        return islice(arrivals, self.visitors)

    def _visit_plan(self, rng: random.Random, arrival: float) -> VisitPlan:
        length = rng.expovariate(1 / self.length)
        closes = rng.random() < self.closes
        drops, drop_at, absence = rng.random() < self.drops, rng.random(), rng.random()
        renews, renew_at = rng.random() < self.new_chats, rng.random()
        messages = min(1 + int(length / _PACE), _MOST_MESSAGES)
        actions = [
            PlannedAction(length * rng.random(), "talk", text=rng.choice(_TOPICS))
            for _ in range(messages)
        ]
        if drops:
            actions.append(
                PlannedAction(
                    length * drop_at, "drop", absence=absence * min(length, _MOST_ABSENCE)
                )
            )
        if renews:
            actions.append(PlannedAction(length * renew_at, "new_chat"))
        actions.sort(key=lambda action: action.at)
        return VisitPlan(arrival, tuple(actions), length, closes)


class ScriptedVisit:
    """A visitor who follows a script.

    Args:
        script: what is done.
        arrival: seconds after the start of the crowd.
        number: of the visitor, from 0.
        seed: with the number, fixes every random choice.
    """

    def __init__(self, script: Dialog, arrival: float, number: int, seed: int) -> None:
        self.arrival = arrival
        self._script = script
        self._number = number
        self._seed = seed

    def visitor(self, target: Target) -> Visitor:
        """Return the visitor, who has not come yet; how long it waits is in the script."""
        return visitor_of(self._script, target, self._number)

    async def play(self, visit: Visit) -> None:
        """Do it all."""
        await visit.connect()
        rng = random.Random(f"{self._seed}/{self._number}")
        await Player(self._script, visit, self._number, rng).play()
        await visit.leave(clear=True)


def scripted(script: Dialog, arrivals: Iterable[float], seed: int) -> Iterator[ScriptedVisit]:
    """Give the visitors who follow a script.

    Args:
        script: what they do.
        arrivals: the second of each arrival, in order.
        seed: fixes every random choice.
    """
    for number, arrival in enumerate(arrivals):
        yield ScriptedVisit(script, arrival, number, seed)


class PlannedVisit(Protocol):
    """One visitor of a crowd, before it comes."""

    @property
    def arrival(self) -> float:
        """Seconds after the start of the crowd."""

    def visitor(self, target: Target) -> Visitor:
        """Return the visitor, who has not come yet."""

    async def play(self, visit: Visit) -> None:
        """Do it all."""


class Crowd:
    """Sends visitors to an app.

    Args:
        target: where they go.
        visits: the visitors in order of arrival.

    Attributes:
        report: what they have done, up to date at any time.
    """

    def __init__(self, target: Target, visits: Iterable[PlannedVisit]) -> None:
        self.report = LoadReport()
        self._target = target
        self._visits = visits

    async def run(self) -> LoadReport:
        """Let all of them come and go; a cancellation disconnects all of them at once."""
        start = time.perf_counter()
        present: set[asyncio.Task[None]] = set()
        lag = asyncio.create_task(self._watch_lag())
        try:
            for number, plan in enumerate(self._visits):
                await asyncio.sleep(max(0.0, start + plan.arrival - time.perf_counter()))
                task = asyncio.create_task(self._visit(plan, number, start))
                present.add(task)
                task.add_done_callback(lambda done: _unless_failed(done, present))
            if present:
                await asyncio.gather(*present)
        finally:
            for task in present:
                task.cancel()
            if present:
                await asyncio.wait(present)
            lag.cancel()
            self.report.length = time.perf_counter() - start
        return self.report

    async def _visit(self, plan: PlannedVisit, number: int, start: float) -> None:
        visit = Visit(plan.visitor(self._target), self.report, number, start)
        arrival = time.perf_counter()
        self.report.arrive(arrival - start)
        try:
            await plan.play(visit)
        except VisitError as error:
            visit.fail(error)
        finally:
            await visit.leave(clear=False)
            self.report.finished += 1
            self.report.visits[number] = time.perf_counter() - arrival

    async def _watch_lag(self) -> None:
        """Note how late this process is, so that its own slowness is not taken for the app's."""
        while True:
            due = time.perf_counter() + _LAG_INTERVAL
            await asyncio.sleep(_LAG_INTERVAL)
            self.report.lags.append(max(0.0, time.perf_counter() - due))


def _unless_failed(task: asyncio.Task[None], present: set[asyncio.Task[None]]) -> None:
    # A task that failed stays in the set, so that the crowd ends with its exception.
    if task.cancelled() or task.exception() is None:
        present.discard(task)


async def _sleep_until(due: float) -> None:
    await asyncio.sleep(max(0.0, due - time.monotonic()))
