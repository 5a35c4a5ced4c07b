"""Scores that an app gives, right and wrong ones."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from chainlit_otel import catalog, settings
from chainlit_otel.pipeline.histograms import Histograms
from chainlit_otel.probes.evaluations import Evaluations
from chainlit_otel.probes.messages import current_turn
from tests.support.probes import probe_context

NAME = {catalog.SCORE_NAME.key: "relevance"}


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(settings, "_problems", {})
    histograms = Histograms()
    context = probe_context(histograms=histograms)
    evaluations = context.get(Evaluations)

    def give(name: Any, value: Any, label: Any = None, message_id: Any = None) -> None:
        evaluations.on_score(name, value, label, message_id)

    def read() -> dict[str, tuple[int, float]]:
        context.telemetry.flush()
        return {
            labels[0]: (sum(series.counts), series.sum)
            for metric, labels, series in histograms.read()
            if metric is catalog.SCORE
        }

    assert current_turn.get() is None
    return give, read


def test_scores_add_up_by_name(kept: Any) -> None:
    give, read = kept
    for value in (0, 0.5, True, 7):
        give("relevance", value)
    give("tone", 0.25, "rude", "of yesterday")
    assert read() == {"relevance": (4, 8.5), "tone": (1, 0.25)}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "good", None, 10**400, [1]])
def test_what_is_no_number_is_said_once_and_keeps_nothing(
    kept: Any, value: Any, caplog: pytest.LogCaptureFixture
) -> None:
    give, read = kept
    with caplog.at_level(logging.WARNING, "chainlit_otel"):
        give("relevance", value)
        give("relevance", value)
    assert caplog.messages == [
        "record_score('relevance') keeps nothing: its value must be a finite number"
    ]
    assert read() == {}


@pytest.mark.parametrize("name", ["", "  ", None, 3])
def test_what_has_no_name_is_said_once_and_keeps_nothing(
    kept: Any, name: Any, caplog: pytest.LogCaptureFixture
) -> None:
    give, read = kept
    with caplog.at_level(logging.WARNING, "chainlit_otel"):
        give(name, 1)
        give(name, 1)
    assert caplog.messages == [
        "record_score() keeps nothing: its name must be a text that is not empty"
    ]
    assert read() == {}


def test_a_score_below_zero_is_not_in_the_histogram(
    kept: Any, caplog: pytest.LogCaptureFixture
) -> None:
    give, read = kept
    with caplog.at_level(logging.WARNING, "chainlit_otel"):
        give("mood", -0.5)
        give("mood", 0.5)
        give("mood", -1)
    assert read() == {"mood": (1, 0.5)}
    assert caplog.messages == [
        "record_score('mood') does not count in chainlit.score, which takes no negative values; "
        "events and records have it"
    ]


def test_names_and_lines_are_few_whatever_an_app_names(
    kept: Any, caplog: pytest.LogCaptureFixture
) -> None:
    give, read = kept
    with caplog.at_level(logging.WARNING, "chainlit_otel"):
        for n in range(100_000):
            give(f"name {n}", 1 if n % 2 else math.nan)
    assert sum(count for count, _ in read().values()) == 50_000
    assert set(read()) == {f"name {n}" for n in range(1, 16, 2)} | {"other"}
    assert len(caplog.messages) == 9
