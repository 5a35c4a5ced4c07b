"""Objectives: is what users ask for well often enough, and how much may still go wrong.

Of several deployments the worst is shown. All figures are recorded ones, over all replicas.
"""

from __future__ import annotations

from collections.abc import Callable

from chainlit_otel import catalog
from chainlit_otel.grafana.panels import (
    JOBS,
    Json,
    Levels,
    Query,
    Row,
    dashboard,
    stat,
    timeseries,
)
from chainlit_otel.rules.objectives import Objective, objectives
from chainlit_otel.rules.windows import HOUR, MINUTE
from chainlit_otel.thresholds import FAST_BURN, PERIOD_DAYS, SLOW_BURN, Thresholds


def build(limits: Thresholds) -> Json:
    """Return the dashboard, by the targets that the rules have."""
    every = objectives(limits)
    return dashboard(
        catalog.DASHBOARD_OBJECTIVES,
        "Chainlit / Objectives",
        f"Are users served well often enough, over {PERIOD_DAYS} days, and how much may still go "
        "wrong.",
        [
            Row(
                "At a glance",
                [*(budget_left(one) for one in every), *(runs_out(one) for one in every)],
            ),
            Row("Error budgets", [budgets_left(every), burn_rates(every, HOUR, "an hour")]),
            Row("Pace", [burn_rates(every, 6 * HOUR, "six hours"), good(every), events(every)]),
        ],
    )


def budget_left(objective: Objective) -> Json:
    return stat(
        f"Budget left, {objective.title}",
        f"The objective is that {100 * objective.target:g} % {objective.well}. This is what is "
        f"left of the rest, of {PERIOD_DAYS} days; below zero the objective is missed.",
        "percentunit",
        Query(f"min ({objective.budget_left}{{{JOBS}}})"),
        levels=Levels(0.25, 0, below=True),
    )


def runs_out(objective: Objective) -> Json:
    left = f"clamp_min({objective.budget_left}{{{JOBS}}}, 0)"
    return stat(
        f"Runs out, {objective.title}",
        "When the budget is used up at the pace of the last six hours. At a pace that can be kept "
        "up it never is.",
        "d",
        Query(f"min ({PERIOD_DAYS} * {left} / ({_burn(objective, 6 * HOUR)} > 1))"),
        levels=Levels(PERIOD_DAYS / SLOW_BURN, PERIOD_DAYS / FAST_BURN, below=True),
        nothing="not at this pace",
    )


def budgets_left(every: list[Objective]) -> Json:
    return timeseries(
        "Budget left",
        f"What is left of the error budget of {PERIOD_DAYS} days. Investigate a step down: the "
        "other dashboards show what failed then.",
        "percentunit",
        *_of_each(every, lambda one: f"min ({one.budget_left}{{{JOBS}}})"),
        lowest=None,
    )


def burn_rates(every: list[Objective], window: float, words: str) -> Json:
    return timeseries(
        f"Burn rate, {words}",
        f"How many times faster than in {PERIOD_DAYS} days the budget is used up, over {words}. "
        f"Investigate above 1 if it lasts; alerts fire at {FAST_BURN:g} for an hour and "
        f"{SLOW_BURN:g} for six.",
        "short",
        *_of_each(every, lambda one: f"max ({_burn(one, window)})"),
    )


def good(every: list[Objective]) -> Json:
    return timeseries(
        "Good events",
        "Share of the last five minutes that was as it should be. Investigate what falls below its "
        "objective: " + ", ".join(f"{one.title} {100 * one.target:g} %" for one in every) + ".",
        "percentunit",
        *_of_each(every, lambda one: f"min (1 - {one.errors(5 * MINUTE)}{{{JOBS}}})"),
    )


def events(every: list[Objective]) -> Json:
    return timeseries(
        "Events",
        "What objectives count, per minute. Investigate if there are none: then nothing is known.",
        "suffix:/min",
        *_of_each(every, lambda one: f"60 * sum ({one.total}{{{JOBS}}})"),
    )


def _burn(objective: Objective, window: float) -> str:
    return f"{objective.errors(window)}{{{JOBS}}} / {objective.budget:g}"


def _of_each(every: list[Objective], expr: Callable[[Objective], str]) -> list[Query]:
    return [Query(expr(one), one.title) for one in every]
