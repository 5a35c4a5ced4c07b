"""The plan is a pure function of its numbers; the report adds up."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.testing import ConnectionLost, NoAnswer, Refused, Unreachable
from chainlit_otel.testing.load import Plan, VisitPlan
from chainlit_otel.testing.results import CheckFailed, LoadReport

probabilities = st.floats(0, 1)
plans = st.builds(
    Plan,
    visitors=st.integers(1, 30),
    rate=st.floats(0.01, 1000),
    length=st.floats(0.01, 10_000),
    seed=st.integers(),
    drops=probabilities,
    new_chats=probabilities,
    closes=probabilities,
)


def everybody(plan: Plan) -> list[VisitPlan]:
    return list(plan.visits())


@given(plans)
def test_the_same_numbers_make_the_same_visit(plan: Plan) -> None:
    assert everybody(plan) == everybody(replace(plan))


@given(plans, st.integers(1, 30))
def test_the_first_visitors_do_not_depend_on_how_many_follow(plan: Plan, more: int) -> None:
    assert plan.visitors is not None
    larger = everybody(replace(plan, visitors=plan.visitors + more))
    assert larger[: plan.visitors] == everybody(plan)


@given(plans)
def test_a_plan_without_end_begins_like_one_with_an_end(plan: Plan) -> None:
    endless = replace(plan, visitors=None).visits()
    assert list(itertools.islice(endless, plan.visitors)) == everybody(plan)


@given(plans, probabilities, st.floats(0.01, 1000))
def test_other_odds_change_only_what_they_are_about(plan: Plan, odds: float, rate: float) -> None:
    def rest(plan: VisitPlan) -> object:
        talks = [action for action in plan.actions if action.kind == "talk"]
        return plan.length, talks

    other = replace(plan, drops=odds, new_chats=1 - odds, closes=odds, rate=rate)
    assert [rest(i) for i in everybody(other)] == [rest(i) for i in everybody(plan)]


@given(plans)
def test_visits_are_possible(plan: Plan) -> None:
    visits = everybody(plan)
    assert len(visits) == plan.visitors
    arrivals = [visit.arrival for visit in visits]
    assert arrivals == sorted(arrivals)
    for visit in visits:
        times = [action.at for action in visit.actions]
        assert times == sorted(times)
        assert all(0 <= at <= visit.length for at in times)
        kinds = [action.kind for action in visit.actions]
        assert "talk" in kinds
        assert kinds.count("drop") <= 1
        assert kinds.count("new_chat") <= 1
        assert all(bool(action.text) == (action.kind == "talk") for action in visit.actions)


@pytest.mark.parametrize("certain", [True, False])
def test_what_is_certain_happens_to_everybody(certain: bool) -> None:
    odds = float(certain)
    for visit in everybody(Plan(50, 10, 10, drops=odds, new_chats=odds, closes=odds)):
        kinds = [action.kind for action in visit.actions]
        assert ("drop" in kinds) == ("new_chat" in kinds) == visit.closes == certain


def test_the_averages_are_those_asked_for() -> None:
    visits = everybody(Plan(20_000, rate=4, length=30, seed=1, drops=0.25, closes=0.5))
    assert visits[-1].arrival == pytest.approx(20_000 / 4, rel=0.03)
    assert sum(visit.length for visit in visits) / 20_000 == pytest.approx(30, rel=0.03)
    drops = sum(any(action.kind == "drop" for action in visit.actions) for visit in visits)
    assert drops / 20_000 == pytest.approx(0.25, rel=0.05)
    assert sum(visit.closes for visit in visits) / 20_000 == pytest.approx(0.5, rel=0.05)


def test_a_seed_means_the_same_everywhere() -> None:
    """Whoever reports "it happens with seed 7" is understood on another machine and Python."""
    first, second = everybody(Plan(2, rate=1, length=10, seed=7))
    assert (round(first.arrival, 6), round(second.arrival, 6)) == (0.391315, 0.554833)
    assert (round(first.length, 6), round(second.length, 6)) == (12.239507, 0.566541)
    assert [action.text for action in first.actions] == [
        "How does that work?",
        "Thank you, that helps.",
        "Thank you, that helps.",
    ]
    assert (first.closes, second.closes) == (False, True)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"visitors": 0}, "visitors"),
        ({"rate": 0.0}, "rate"),
        ({"rate": float("inf")}, "rate"),
        ({"length": -1.0}, "length"),
        ({"length": float("nan")}, "length"),
        ({"drops": 1.1}, "drops"),
        ({"new_chats": -0.1}, "new_chats"),
        ({"closes": float("nan")}, "closes"),
    ],
)
def test_impossible_numbers_are_named(change: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        replace(Plan(1, 1, 1), **change)  # type: ignore[arg-type]


def test_the_peak_is_the_most_that_stood_at_one_time() -> None:
    report = LoadReport()
    for at, step in enumerate((1, 1, -1, 1, 1, -1, -1)):
        if step > 0:
            report.enter(at)
        else:
            report.exit(at)
    assert (report.peak, report.connected) == (3, 1)
    assert [connected for _, connected in report.changes] == [1, 2, 1, 2, 3, 2, 1]


def test_the_mean_needs_an_ended_session() -> None:
    assert LoadReport(sessions=3).mean_length is None
    assert LoadReport(sessions=3, ended=2, seconds=30).mean_length == 15


def test_failures_are_told_apart_and_one_of_each_kind_is_kept() -> None:
    report = LoadReport()
    assert report.succeeded
    failures = [
        Refused("full"),
        Refused("full"),
        Unreachable("full"),
        NoAnswer("waited 30 s"),
        NoAnswer("waited 0.5 s"),
        CheckFailed("say 'tea': no 'milk', it is 'black'"),
        CheckFailed("""say "it's": no 'su\\'gar', it is ''"""),
        CheckFailed("say 'tea': the answer took 1.25 s"),
        ConnectionLost("over"),
    ]
    for error in failures:
        report.add_failure(error, at=0, visitor=0)
        assert not report.succeeded
    assert (report.refused, report.unreachable, report.unanswered, report.errors) == (2, 1, 2, 1)
    assert report.failure_examples == [str(failures[n]) for n in (0, 2, 3, 5, 7, 8)]
    for number in range(30):
        report.add_failure(CheckFailed("?" * number), at=0, visitor=0)
    assert len(report.failure_examples) == 20
