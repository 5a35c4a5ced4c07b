"""The figures of the page, and from which values on they are coloured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest

from chainlit_otel import catalog
from chainlit_otel.catalog import LabelSet, Metric
from chainlit_otel.live.figures import FIGURES, WATCHED, HeadlineFigure, LoopState, Sampler
from chainlit_otel.thresholds import Thresholds

LIMITS = Thresholds()
WEBAPP = ("websocket", "webapp")


class Measured:
    """What is measured, as a test says."""

    def __init__(self) -> None:
        self.numbers: dict[Metric, dict[LabelSet, float]] = {}
        self.buckets = {metric: [0] * (len(metric.bounds) + 1) for metric in WATCHED}
        self.turns: Counter[str] = Counter()
        self.flushes = 0
        self.second = 1000
        self.loop = LoopState(lag=0.0)
        self.sampler = Sampler(self, lambda: self.turns, LIMITS)

    def read(self, metric: Metric) -> Mapping[LabelSet, float]:
        return self.numbers.get(metric, {})

    def counts(self, metric: Metric) -> list[int]:
        return list(self.buckets[metric])

    def flush(self) -> None:
        self.flushes += 1

    def add(self, metric: Metric, number: float, *labels: str) -> None:
        series = self.numbers.setdefault(metric, {})
        series[labels] = series.get(labels, 0) + number

    def sample(self, seconds: int = 1) -> dict[str, float | None]:
        for _ in range(seconds):
            self.second += 1
            figures = self.sampler.sample(self.second, self.loop)
        return figures

    def headline(self, name: str) -> HeadlineFigure:
        (found,) = [figure for figure in self.sampler.headline if figure.name == name]
        return found


@pytest.fixture
def measured() -> Measured:
    return Measured()


def test_every_figure_is_there_and_each_curve_is_one_of_them(measured: Measured) -> None:
    figures = measured.sample()
    assert figures.keys() == FIGURES.keys()
    assert {figure.curve for figure in measured.sampler.headline} <= FIGURES.keys()
    assert measured.flushes == 1


def test_what_was_counted_in_a_second_is_in_that_second_alone(measured: Measured) -> None:
    measured.add(catalog.SESSION_STARTS, 3, *WEBAPP, "new")
    measured.add(catalog.SESSION_STARTS, 2, *WEBAPP, "thread_resume")
    measured.add(catalog.SESSION_STARTS, 5, "http", "slack", "new")
    measured.add(catalog.DATA_LAYER_OPERATIONS, 4, "get_thread", "sql", "ok")
    measured.add(catalog.DATA_LAYER_OPERATIONS, 1, "get_thread", "sql", "error")
    measured.add(catalog.ACCESS_ATTEMPTS, 7, "password", "granted")
    measured.add(catalog.ACCESS_ATTEMPTS, 2, "password", "denied")
    measured.turns["ok"] += 6
    first, then = measured.sample(), measured.sample()
    expected = {
        "starts": 5,
        "data_layer_operations": 5,
        "data_layer_errors": 1,
        "access_attempts": 9,
        "access_denied": 2,
        "turns_ok": 6,
        "turns_error": 0,
    }
    assert {name: first[name] for name in expected} == expected
    assert {name: then[name] for name in expected} == dict.fromkeys(expected, 0)


def test_what_was_there_before_the_page_is_not_counted_again() -> None:
    before = Measured()
    before.add(catalog.SESSION_STARTS, 100, *WEBAPP, "new")
    sampler = Sampler(before, lambda: before.turns, LIMITS)
    assert sampler.sample(1, LoopState())["starts"] == 0


def test_sessions_of_bots_are_not_among_those_connected(measured: Measured) -> None:
    for state, n in (("connected", 4), ("disconnected", 2)):
        measured.add(catalog.SESSION_ACTIVE, n, *WEBAPP, state)
        measured.add(catalog.SESSION_ACTIVE, 50, "http", "slack", state)
    figures = measured.sample()
    assert (figures["connected"], figures["disconnected"]) == (4, 2)


def test_the_mean_duration_counts_open_sessions_too(measured: Measured) -> None:
    measured.sample()
    assert measured.headline("duration").value is None
    measured.add(catalog.SESSION_TIME, 1200, "websocket")
    measured.add(catalog.SESSION_TIME, 9999, "http")
    measured.add(catalog.SESSION_ENDS, 3, *WEBAPP, "cleared")
    measured.add(catalog.SESSION_ACTIVE, 1, *WEBAPP, "disconnected")
    measured.sample()
    assert measured.headline("duration").value == 300


def test_rates_are_a_minute_and_over_the_time_there_was(measured: Measured) -> None:
    measured.add(catalog.SESSION_STARTS, 10, *WEBAPP, "new")
    measured.sample(60)
    assert measured.headline("starts").value == pytest.approx(10)
    measured.sample(239)
    assert measured.headline("starts").value == pytest.approx(10 / 5, rel=0.01)
    measured.sample(2)
    assert measured.headline("starts").value == 0


@pytest.mark.parametrize(
    ("before", "lately", "level"), [(1, 40, "warning"), (20, 40, "ok"), (0, 14, "ok")]
)
def test_a_spike_is_told_by_the_hour_before(
    measured: Measured, before: int, lately: int, level: str
) -> None:
    for _ in range(12):
        measured.add(catalog.SESSION_STARTS, before, *WEBAPP, "new")
        measured.sample(300)
    measured.add(catalog.SESSION_STARTS, lately, *WEBAPP, "new")
    measured.sample(300)
    assert measured.headline("starts").level == level


def test_without_an_hour_before_nothing_is_a_spike(measured: Measured) -> None:
    measured.add(catalog.SESSION_STARTS, 10_000, *WEBAPP, "new")
    measured.sample(300)
    assert measured.headline("starts").level == "ok"


@pytest.mark.parametrize(
    ("connected", "level"), [(399, "ok"), (400, "warning"), (499, "warning"), (500, "critical")]
)
def test_a_replica_is_full_where_the_alert_says(
    measured: Measured, connected: int, level: str
) -> None:
    assert (LIMITS.capacity_sessions, LIMITS.capacity_ratio) == (500, 0.8)
    measured.add(catalog.SESSION_ACTIVE, connected, *WEBAPP, "connected")
    measured.sample()
    assert (measured.headline("connected").level, measured.headline("connected").value) == (
        level,
        connected,
    )


@pytest.mark.parametrize(
    ("failed", "answered", "level"),
    [(0, 100, "ok"), (29, 0, "ok"), (30, 570, "ok"), (30, 370, "warning"), (30, 170, "critical")],
)
def test_failures_burn_the_budget_of_the_alerts(
    measured: Measured, failed: int, answered: int, level: str
) -> None:
    assert LIMITS.turn_errors_least == 30
    measured.turns.update(error=failed, ok=answered)
    measured.sample()
    figure = measured.headline("errors")
    assert (figure.level, figure.value) == (level, failed / (failed + answered))
    measured.sample(300)
    assert (measured.headline("errors").level, measured.headline("errors").value) == ("ok", None)


@pytest.mark.parametrize(
    ("bound", "turns", "level"), [(20, 10, "warning"), (20, 9, "ok"), (5, 10, "ok")]
)
def test_a_slow_first_token(measured: Measured, bound: float, turns: int, level: str) -> None:
    metric = catalog.TIME_TO_FIRST_TOKEN
    measured.sample()
    bucket = next(n for n, upper in enumerate(metric.bounds) if upper >= bound)
    measured.buckets[metric][bucket] += turns
    measured.turns["ok"] += turns
    measured.sample()
    figure = measured.headline("first_token")
    assert figure.value is not None
    assert metric.bounds[bucket - 1] < figure.value <= metric.bounds[bucket]
    assert figure.level == level


def test_a_blocked_loop_is_critical_and_many_stalls_are_a_warning(measured: Measured) -> None:
    measured.loop = LoopState(True, 2.5, "app.py:1 in slow", 0.1)
    assert measured.sample()["loop_lag"] == 0.1
    figure = measured.headline("loop_lag")
    assert (figure.level, figure.value) == ("critical", 2.5)
    measured.loop = LoopState(lag=0.0)
    measured.add(catalog.EVENT_LOOP_BLOCKED, LIMITS.stalls)
    measured.sample(61)
    assert (measured.headline("loop_lag").level, measured.headline("loop_lag").value) == (
        "warning",
        0,
    )
    measured.sample(600)
    assert measured.headline("loop_lag").level == "ok"
