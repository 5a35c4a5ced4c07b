"""Many visitors: what each is going to do, doing it, and the report of it."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from chainlit_otel.testing.client import TIMEOUT, Visitor
from chainlit_otel.testing.errors import NoAnswer, Refused, Unreachable, VisitError

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
    """All that one visitor is going to do, decided before the arrival.

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

    def visits(self) -> Iterator[VisitPlan]:
        """The visitors in order of arrival: a pure function of the plan.

        Each visitor has a random generator of its own, so that another number of visitors, rate or
        probability changes nothing else about them.
        """
        arrivals = random.Random(self.seed)
        arrival = 0.0
        numbers = itertools.count() if self.visitors is None else range(self.visitors)
        for number in numbers:
            arrival += arrivals.expovariate(self.rate)
            yield self._visit_plan(random.Random(f"{self.seed}/{number}"), arrival)

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


@dataclass
class LoadReport:
    """What the visitors have done, by their own count.

    Attributes:
        arrived: visitors that have come.
        finished: visitors that have left again, for whatever reason.
        sessions: sessions started.
        ended: sessions whose visitor has left them.
        seconds: their lengths together, from the connection to the last disconnection.
        reconnects: connections restored.
        new_chats: times *New Chat* was pressed.
        messages: messages sent.
        replies: messages of the app received in answer.
        unanswered: messages to which nothing came.
        refused: connections the app refused.
        unreachable: connections that could not be made.
        errors: other failures: lost connections, and what the app showed as failed.
        connected: connections that stand now.
        peak: the most of them that stood at one time. Counted from when the app has greeted the
            visitor until the visitor begins to disconnect, so that the app's own peak is never
            lower.
        answer_times: seconds from each message to the end of its answer.
        failure_examples: one example of each kind of failure, by its class.
    """

    arrived: int = 0
    finished: int = 0
    sessions: int = 0
    ended: int = 0
    seconds: float = 0.0
    reconnects: int = 0
    new_chats: int = 0
    messages: int = 0
    replies: int = 0
    unanswered: int = 0
    refused: int = 0
    unreachable: int = 0
    errors: int = 0
    connected: int = 0
    peak: int = 0
    answer_times: list[float] = field(default_factory=list, repr=False)
    failure_examples: dict[str, str] = field(default_factory=dict)

    @property
    def mean_length(self) -> float | None:
        """Mean seconds of an ended session; None while there is none."""
        return self.seconds / self.ended if self.ended else None

    @property
    def succeeded(self) -> bool:
        """Whether everybody got in and every message was answered."""
        return not (self.unanswered or self.refused or self.unreachable or self.errors)

    def enter(self) -> None:
        """Count a connection that stands."""
        self.connected += 1
        self.peak = max(self.peak, self.connected)

    def add_failure(self, error: VisitError) -> None:
        """Count a failure and keep the first of its kind."""
        if isinstance(error, Refused):
            self.refused += 1
        elif isinstance(error, Unreachable):
            self.unreachable += 1
        elif isinstance(error, NoAnswer):
            self.unanswered += 1
        else:
            self.errors += 1
        self.failure_examples.setdefault(type(error).__name__, str(error))


class Crowd:
    """Sends the visitors of a plan to an app.

    Args:
        url: address of the chat page.
        plan: what they do.
        client_type, transports, headers, timeout: of every `Visitor`.

    Attributes:
        report: what they have done, up to date at any time.
    """

    def __init__(
        self,
        url: str,
        plan: Plan,
        *,
        client_type: str = "webapp",
        transports: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.url = url
        self.plan = plan
        self.report = LoadReport()
        self._client_type = client_type
        self._transports = transports
        self._headers = headers
        self._timeout = timeout

    async def run(self) -> LoadReport:
        """Let all of them come and go; a cancellation disconnects all of them at once."""
        start = time.monotonic()
        present: set[asyncio.Task[None]] = set()
        try:
            for plan in self.plan.visits():
                await _sleep_until(start + plan.arrival)
                task = asyncio.create_task(self._visit(plan))
                present.add(task)
                task.add_done_callback(lambda done: _unless_failed(done, present))
            if present:
                await asyncio.gather(*present)
        finally:
            for task in present:
                task.cancel()
            if present:
                await asyncio.wait(present)
        return self.report

    async def _visit(self, plan: VisitPlan) -> None:
        visitor = Visitor(
            self.url,
            client_type=self._client_type,
            transports=self._transports,
            headers=self._headers,
            timeout=self._timeout,
        )
        visit = _Visit(visitor, self.report)
        self.report.arrived += 1
        try:
            await visit.follow(plan)
        except VisitError as error:
            self.report.add_failure(error)
        finally:
            await visit.leave(clear=False)
            self.report.errors += visitor.failures
            self.report.finished += 1


class _Visit:
    """One visitor who follows a plan and reports what was done."""

    def __init__(self, visitor: Visitor, report: LoadReport) -> None:
        self._visitor = visitor
        self._report = report
        self._inside = False
        self._session_start: float | None = None
        self._last_seen = 0.0

    async def follow(self, plan: VisitPlan) -> None:
        arrival = time.monotonic()
        await self._visitor.connect()
        self._start_session()
        for action in plan.actions:
            await _sleep_until(arrival + action.at)
            await self._do(action)
        await _sleep_until(arrival + plan.length)
        await self.leave(clear=not plan.closes)

    async def leave(self, *, clear: bool) -> None:
        self._before_disconnect()
        try:
            await self._visitor.leave(clear=clear)
        finally:
            self._end_session()

    async def _do(self, action: PlannedAction) -> None:
        if action.kind == "talk":
            await self._talk(action.text)
        elif action.kind == "drop":
            self._before_disconnect()
            await self._visitor.drop()
            await asyncio.sleep(action.absence)
            await self._visitor.reconnect()
            self._report.reconnects += 1
            self._after_connect()
        else:
            self._before_disconnect()
            await self._visitor.new_chat()
            self._end_session()
            self._report.new_chats += 1
            self._start_session()

    async def _talk(self, text: str) -> None:
        self._report.messages += 1
        sent = time.monotonic()
        replies = (await self._visitor.say(text)).texts
        self._report.answer_times.append(time.monotonic() - sent)
        self._report.replies += len(replies)
        if not replies:
            self._report.add_failure(NoAnswer(f"the app said nothing to {text!r}"))

    def _start_session(self) -> None:
        self._report.sessions += 1
        self._session_start = time.monotonic()
        self._after_connect()

    def _after_connect(self) -> None:
        self._inside = True
        self._report.enter()

    def _before_disconnect(self) -> None:
        if self._inside:
            self._inside = False
            self._report.connected -= 1
            self._last_seen = time.monotonic()

    def _end_session(self) -> None:
        if self._session_start is not None:
            self._report.ended += 1
            self._report.seconds += self._last_seen - self._session_start
            self._session_start = None


def _unless_failed(task: asyncio.Task[None], present: set[asyncio.Task[None]]) -> None:
    # A task that failed stays in the set, so that the crowd ends with its exception.
    if task.cancelled() or task.exception() is None:
        present.discard(task)


async def _sleep_until(due: float) -> None:
    await asyncio.sleep(max(0.0, due - time.monotonic()))
