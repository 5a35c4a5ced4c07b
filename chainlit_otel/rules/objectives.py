"""Objectives: which share of what users ask for should be well, and what is left of the rest.

An objective counts events and those that were good. The share that may be bad is its error budget,
for 28 days. Burn rates, but for the lowest, and their windows are those of the Site Reliability
Workbook, chapter 5, for that period: https://sre.google/workbook/alerting-on-slos/
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chainlit_otel import catalog
from chainlit_otel.catalog import Metric
from chainlit_otel.promql import Part, Where, select
from chainlit_otel.rules.windows import DAY, HOUR, MINUTE
from chainlit_otel.thresholds import FAST_BURN, PERIOD_DAYS, SLOW_BURN, SUSTAINED_BURN, Thresholds

PERIOD = PERIOD_DAYS * DAY
_TURNS = "job:chainlit_turns:rate5m"
_WINDOWS = {
    5 * MINUTE: "5m",
    30 * MINUTE: "30m",
    HOUR: "1h",
    6 * HOUR: "6h",
    3 * DAY: "3d",
    PERIOD: f"{PERIOD_DAYS}d",
}

Events = Callable[[Callable[[str], str]], str]
"""Returns how many events a job has, given what is asked of each counter, such as its rate."""


@dataclass(frozen=True)
class Objective:
    """What users should get.

    Attributes:
        name: Its name.
        title: The same for people.
        well: What is good, with a share before it, as a part of a sentence.
        target: Share of the events that should be good.
        alert: Name of its alerts, without the prefix that all of them have.
        summary: What is wrong when they fire, in one line.
        bad: What is not good, with a share before it.
        total: Name of the series of all events a second.
        good: Name of the series of the good ones.
        stem: What the names of the other series have in common.
        events: All events.
        missed: Those that were not good.
    """

    name: str
    title: str
    well: str
    target: float
    alert: str
    summary: str
    bad: str
    total: str
    good: str
    stem: str
    events: Events
    missed: Events

    @property
    def budget(self) -> float:
        """Share of the events that may be bad."""
        return 1 - self.target

    @property
    def budget_left(self) -> str:
        """Name of the series of what is left of the budget, as a part; negative if overdrawn."""
        return f"job:chainlit_{self.stem}_budget:left{_WINDOWS[PERIOD]}"

    def errors(self, window: float) -> str:
        """Return the name of the series of the share of bad events.

        Args:
            window: Over how many seconds; 5 minutes, or one of a burn rate, or `PERIOD`.
        """
        return f"job:chainlit_{self.stem}s:ratio{_WINDOWS[window]}"


@dataclass(frozen=True)
class Burn:
    """A rate at which a budget is used up, over two windows.

    The long window avoids false alarms, the short one lets the alert resolve soon.

    Attributes:
        name: What alerts at this rate are told apart by.
        factor: How many times faster than sustainable.
        long: Seconds of the long window.
        short: Seconds of the short one.
        wait: Seconds for which it has to hold.
        severity: How soon somebody should look.
    """

    name: str
    factor: float
    long: float
    short: float
    wait: float
    severity: str


BURNS = (
    Burn("fast", FAST_BURN, HOUR, 5 * MINUTE, 2 * MINUTE, "critical"),
    Burn("slow", SLOW_BURN, 6 * HOUR, 30 * MINUTE, 15 * MINUTE, "warning"),
    Burn("sustained", SUSTAINED_BURN, 3 * DAY, 6 * HOUR, HOUR, "info"),
)


def objectives(limits: Thresholds) -> list[Objective]:
    """Return all objectives."""
    in_time = f"{limits.first_token_within:g} s"
    return [
        Objective(
            "answered",
            "answered",
            "of the turns do not fail",
            limits.turn_objective,
            "TurnErrorBudgetBurn",
            "Turns fail on {{ $labels.job }}.",
            "of the turns fail",
            _TURNS,
            "job:chainlit_turns_answered:rate5m",
            "turn_error",
            _events(catalog.TURN_DURATION, part="count"),
            _events(catalog.TURN_DURATION, {catalog.OUTCOME: "error"}, part="count"),
        ),
        Objective(
            "first_token",
            "first token",
            f"of the turns show their first word within {in_time}",
            limits.first_token_objective,
            "FirstTokenBudgetBurn",
            "First words come late on {{ $labels.job }}.",
            f"of the turns take longer than {in_time} to their first word",
            "job:chainlit_first_tokens:rate5m",
            "job:chainlit_first_tokens_in_time:rate5m",
            "late_first_token",
            _events(catalog.TIME_TO_FIRST_TOKEN, part="count"),
            _late_first_tokens(limits.first_token_within),
        ),
        Objective(
            "delivered",
            "delivered",
            "of the turns reach a browser as a whole",
            limits.delivery_objective,
            "DeliveryBudgetBurn",
            "Answers of {{ $labels.job }} do not reach their users.",
            "of the turns have something that was sent to a socket that is gone",
            _TURNS,
            "job:chainlit_turns_delivered:rate5m",
            "undelivered_turn",
            _events(catalog.TURN_DURATION, part="count"),
            _events(catalog.UNDELIVERED_TURNS),
        ),
    ]


def over(function: str, span: str) -> Callable[[str], str]:
    """Return what asks `rate` or `increase` of a counter.

    Args:
        function: Which of them.
        span: Over which time.
    """
    return lambda selector: f"{function}({selector}[{span}])"


def _events(metric: Metric, where: Where | None = None, part: Part = "", scope: str = "") -> Events:
    selector = select(metric, where, scope, part)
    return lambda asked: f"sum by (namespace, job) ({asked(selector)})"


def _late_first_tokens(seconds: float) -> Events:
    every = _events(catalog.TIME_TO_FIRST_TOKEN, part="count")
    in_time = _events(catalog.TIME_TO_FIRST_TOKEN, part="bucket", scope=f'le="{seconds:g}"')
    return lambda asked: f"({every(asked)} - {in_time(asked)})"
