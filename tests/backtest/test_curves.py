"""A curve shows what an alert compared, and crosses its limit where the alert fired."""

from __future__ import annotations

from typing import Any

import numpy as np
import promql_parser as promql
import pytest

from chainlit_otel.backtest.curves import Curve
from chainlit_otel.backtest.evaluate import COMPARISONS, Evaluation
from chainlit_otel.backtest.replay import Firing
from chainlit_otel.backtest.trial import Trial
from chainlit_otel.rules import Windows
from chainlit_otel.thresholds import Thresholds
from tests.backtest.past import GRID, STEP, past

# They fire for one of several reasons, and the curve is that of the most frequent.
OF_SEVERAL = {"ChainlitReconnectStorm", "ChainlitFirstTokenSlow", "ChainlitEventLoopBlocked"}


@pytest.fixture(scope="module")
def trial() -> Trial:
    evaluation = Evaluation(GRID, lambda _: {})
    evaluation.known.update(past(3))
    return Trial(evaluation, GRID, GRID.start, Windows(scrape=STEP))


@pytest.fixture(scope="module")
def fired(trial: Trial) -> list[tuple[Curve, list[Firing]]]:
    firings = trial.firings(Thresholds())
    return [
        (one, [f for f in firings if f.alert == one.alert and f.labels == one.labels])
        for one in trial.curves(Thresholds())
    ]


def test_every_alert_that_fired_has_one(trial: Trial, fired: list[tuple[Curve, Any]]) -> None:
    names = sorted({one.alert for one in trial.firings(Thresholds())})
    assert len(names) > 5
    assert [one.alert for one, _ in fired] == names


def test_it_is_beyond_its_limit_where_the_alert_waited_to_fire(
    fired: list[tuple[Curve, list[Firing]]],
) -> None:
    for one, firings in fired:
        assert firings
        assert len(one.times) == len(one.values) == len(one.limits) == 500
        condition = promql.parse(one.condition)
        assert isinstance(condition, promql.BinaryExpr)
        holds = COMPARISONS[str(condition.op)](one.values, one.limits)
        waited = np.zeros(len(one.times), dtype=bool)
        for firing in firings:
            waited |= (one.times >= firing.pending) & (one.times <= firing.start)
        assert waited.any()
        assert holds[waited].mean() > (0.5 if one.alert in OF_SEVERAL else 0.999), one.alert
    assert not all(holds.all() for holds in [one.values > one.limits for one, _ in fired])


def test_a_limit_that_follows_the_traffic_is_shown_rather_than_a_least_number(
    fired: list[tuple[Curve, list[Firing]]],
) -> None:
    (rise,) = [one for one, _ in fired if one.alert == "ChainlitSessionSpike"]
    assert len(set(rise.limits)) > 10
