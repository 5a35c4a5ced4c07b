"""What a run is compared with, and what is written of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.testing import NoAnswer
from chainlit_otel.testing.criteria import Criterion
from chainlit_otel.testing.limit import TriedRate, find_limit
from chainlit_otel.testing.results import CheckFailed, LoadReport, Timing, percentile
from chainlit_otel.testing.written import as_json, as_junit


def report(turns: Sequence[float] = (), **counts: int) -> LoadReport:
    made = LoadReport(**counts)  # type: ignore[arg-type]
    made.timings["turn"] = [Timing(0.0, value) for value in turns]
    return made


@given(st.lists(st.floats(0, 100), min_size=1), st.floats(0.001, 1))
def test_a_percentile_is_the_least_value_that_the_share_does_not_exceed(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found is not None
    assert sum(value <= found for value in values) >= share * len(values) - 1e-6
    smaller = [value for value in values if value < found]
    assert len(smaller) < share * len(values) + 1e-6


def test_criteria() -> None:
    turns = report([0.1 * n for n in range(1, 101)], arrived=50, checks=200, unexpected=3)
    for visitor in (1, 1, 2):
        turns.add_failure(NoAnswer("late"), at=0, visitor=visitor)
    looked = {
        "p95(turn) < 9.6s": (9.5, True),
        "p95(turn)<9500ms": (9.5, False),
        "p95(turn) <= 9.5s": (9.5, True),
        "mean(turn) > 5s": (5.05, True),
        "max(turn) < 10": (10.0, False),
        "min(turn) >= 0.1s": (0.1, True),
        "p99.9(turn) < 1m": (10.0, True),
        "failed < 4%": (0.04, False),
        "failed <= 0.04": (0.04, True),
        "unmet < 2%": (0.015, True),
        # What was never measured is not reached.
        "p95(first_token) < 1s": (None, False),
    }
    found = {text: Criterion(text).look_at(turns) for text in looked}
    for text, (value, met) in looked.items():
        assert found[text].value == (None if value is None else pytest.approx(value)), text
        assert found[text].met == met, text
    assert found["failed < 4%"].shown == "4.00%"
    assert found["p95(turn) < 9.6s"].shown == "9.500 s"
    assert Criterion("failed < 1%").look_at(LoadReport()).met


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("p95(turn)", "is not of the form 'p95"),
        ("p95(turns) < 1s", "'turns' is no phase of a visit; there are connect, first_token"),
        ("p100(turn) < 1s", "'p100' is no aggregate; there are mean, min, max and percentiles"),
        ("median(turn) < 1s", "'median' is no aggregate"),
        ("p95(turn) < soon", "'soon' is not a duration"),
        ("broken < 1%", "'broken' is no figure; there are failed, unmet"),
        ("failed < few", "'few' is not a share such as 1% or 0.01"),
        ("failed == 1%", "is not of the form"),
    ],
)
def test_what_is_no_criterion(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Criterion(text)


@given(st.floats(0.02, 500), st.floats(0.1, 100))
async def test_the_limit_is_found_within_its_precision(limit: float, first: float) -> None:
    tried: list[TriedRate] = []

    async def attempt(rate: float) -> bool:
        return rate <= limit

    succeeded, failed = await find_limit(attempt, first, tried.append)
    assert succeeded <= limit < failed
    assert failed / succeeded <= 1.05 * (1 + 1e-9)
    assert len({each.rate for each in tried}) == len(tried)


async def test_a_limit_that_is_not_there() -> None:
    async def never(_: float) -> bool:
        return False

    async def always(_: float) -> bool:
        return True

    assert (await find_limit(never, 1))[0] == 0
    assert (await find_limit(always, 1))[1] == math.inf


def test_what_is_written() -> None:
    done = report([1.0, 3.0], arrived=2, finished=2, checks=4)
    done.visits = {0: 1.5, 1: 2.5}
    done.length = 4.0
    talk = ("> hello \x00", "< 1 < 2 & ümlaut")
    done.add_failure(CheckFailed("no \x1b tea"), at=2.0, visitor=1, transcript=talk)
    judged = [Criterion(text).look_at(done) for text in ("failed < 10%", "max(turn) < 5s")]
    document = json.loads(as_json(done, "tea", "http://x", judged))
    assert document["counts"]["unexpected"] == document["counts"]["failed"] == 1
    assert document["timings"]["turn"] | {"p50": 1.0, "p99": 3.0} == document["timings"]["turn"]
    assert document["timings"]["connect"] == {"count": 0}
    assert [each["met"] for each in document["thresholds"]] == [False, True]
    assert document["failures"][0]["transcript"] == list(talk)

    root = ElementTree.fromstring(as_junit(done, "tea", judged))
    (suite,) = root
    assert (suite.get("tests"), suite.get("failures"), suite.get("time")) == ("4", "2", "4.000")
    cases = {case.get("name"): case for case in suite}
    assert cases["visitor 0"].get("time") == "1.500"
    assert len(cases["visitor 0"]) == 0
    (failure,) = cases["visitor 1"]
    assert failure.get("message") == "no \N{REPLACEMENT CHARACTER} tea"
    assert failure.text == "> hello \N{REPLACEMENT CHARACTER}\n< 1 < 2 & ümlaut"
    assert len(cases["failed < 10%"]) == 1
    assert len(cases["max(turn) < 5s"]) == 0
