"""The page of a run, from reports that are made up here."""

from __future__ import annotations

import random
import re

import pytest

from chainlit_otel.testing.criteria import Criterion
from chainlit_otel.testing.errors import NoAnswer, VisitError
from chainlit_otel.testing.ledgers import LedgerRow
from chainlit_otel.testing.results import CheckFailed, LoadReport, Timing
from chainlit_otel.testing.run_page import MOST_FAILURES, as_html, split
from chainlit_otel.testing.written import FinishedRun


def run(length: float, visitors: int, failures: int = 0) -> LoadReport:
    """A run whose visitors come evenly and stay for a tenth of it."""
    rng = random.Random(7)
    report = LoadReport(length=length)
    moments: list[tuple[float, bool]] = []
    for number in range(visitors):
        at = 0.9 * length * number / visitors
        report.arrive(at)
        moments += [(at, True), (at + length / 10, False)]
        report.visits[number] = length / 10
    for at, comes in sorted(moments):
        (report.enter if comes else report.exit)(at)
    for number in range(visitors * 3):
        at = length * number / (visitors * 3)
        slow = 1 + 4 * (at > 0.7 * length)
        first = rng.lognormvariate(-1.6, 0.5) * slow
        report.timings["first_token"].append(Timing(at, first))
        report.timings["turn"].append(Timing(at, first + rng.lognormvariate(0, 0.4)))
        if number % 3 == 0:
            report.timings["connect"].append(Timing(at, rng.lognormvariate(-4, 0.3)))
        if number % 9 == 0:
            report.timings["reconnect"].append(Timing(at, rng.lognormvariate(-3.4, 0.3)))
    for number in range(failures):
        error = (NoAnswer, CheckFailed, VisitError)[number % 3]("the app said nothing to 'tea'")
        said = ("> tea, please", "< One moment. " + "I am looking into it. " * 20, "! failed")
        at = length * (0.7 + 0.3 * number / failures)
        report.add_failure(error, at=at, visitor=number, transcript=said[: number % 4])
    report.messages = report.replies = report.finished = visitors * 3
    report.lags = [rng.expovariate(1000) for _ in range(int(length * 20))]
    return report


LEDGERS = (
    LedgerRow("sessions", "", 400, 403),
    LedgerRow("turns", "", 1200, 1200),
    LedgerRow("mean turn", "s", 1.25, 1.2471),
)


@pytest.mark.parametrize(
    ("length", "number", "width"),
    [(0.0, 1, 0.001), (0.4, 1, 0.4), (7.5, 7, 1), (60, 60, 1), (61, 30, 2), (86_400, 48, 1800)],
)
def test_a_run_is_split_into_sixty_intervals_at_most(
    length: float, number: int, width: float
) -> None:
    intervals = split(run(length, 20))
    assert len(intervals) == number
    assert intervals[0].end == pytest.approx(width)
    assert [each.end for each in intervals[:-1]] == [each.start for each in intervals[1:]]
    assert (intervals[0].start, intervals[-1].end) == (0, max(length, 0.001))


@pytest.mark.parametrize("length", [0.5, 10, 100.5, 5000])
def test_the_intervals_have_everybody_and_every_failure_once(length: float) -> None:
    report = run(length, 40, failures=30)
    intervals = split(report)
    came = sum(each.arrivals * (each.end - each.start) for each in intervals)
    assert came == pytest.approx(40)
    assert sum(each.failures for each in intervals) == 30
    assert max(each.connected for each in intervals) == report.peak


def test_who_stays_is_in_each_interval_and_who_comes_and_goes_within_one_in_that() -> None:
    report = LoadReport(length=5.0)
    for at in (0.5, 2.2, 2.4):
        report.enter(at)
    for at in (2.6, 2.8):
        report.exit(at)
    report.timings["turn"] += [Timing(0.5, 1.0), Timing(2.1, 3.0), Timing(5.0, 2.0)]
    intervals = split(report)
    assert [each.connected for each in intervals] == [1, 1, 3, 1, 1]
    nothing = (None, None)
    turns = [each.times["turn"] for each in intervals]
    assert turns == [(1.0, 1.0), nothing, (3.0, 3.0), nothing, (2.0, 2.0)]


def test_a_hundred_failures_are_shown_and_how_many_more_there_are() -> None:
    page = as_html(FinishedRun("tea", "http://x", run(60, 50, failures=MOST_FAILURES + 7)))
    assert page.count("<article>") == MOST_FAILURES
    assert "7 more failures are not shown" in page
    assert "107" in page


def test_what_an_app_says_is_text_and_half_of_a_pair_is_no_obstacle() -> None:
    report = run(5, 2)
    report.add_failure(
        VisitError("<script>alert(1)</script>"), at=1, visitor=0, transcript=["< \ud800<i>&"]
    )
    page = as_html(FinishedRun("<u>", "http://x/?a=<s>", report))
    assert "<dt>app</dt><dd>?&lt;i&gt;&amp;</dd>" in page
    assert not re.search("<(script|i|u|s)>", page)
    page.encode("utf-8")


def test_a_run_in_which_nothing_happened_is_a_page() -> None:
    judgement = Criterion("p95(turn) < 1s").look_at(run(0, 0))
    page = as_html(FinishedRun("tea", "http://x", LoadReport(), [judgement]))
    assert "1 of 1 thresholds was not reached." in page
    assert "There were none." in page


def test_both_ledgers_stand_side_by_side() -> None:
    page = as_html(FinishedRun("tea", "http://x", run(5, 2), ledgers=LEDGERS))
    cells = [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in page.split("<tr>")]
    assert ["sessions", "400", "403", "+3"] in cells
    assert ["turns", "1200", "1200", "0"] in cells
    assert ["mean turn", "1.250 s", "1.247 s", "-3 ms"] in cells
    assert "If others use the app meanwhile, its figures are higher." in page
