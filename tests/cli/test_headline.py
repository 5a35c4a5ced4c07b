"""The headline figures, from the text of an exposition."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chainlit_otel.cli.headline import NONE_YET, Headline, Reading, read

EXPOSITION = """\
# TYPE chainlit_session_starts_total counter
chainlit_session_starts_total{chainlit_client_type="webapp",chainlit_session_origin="new"} 7
chainlit_session_starts_total{chainlit_client_type="copilot",chainlit_session_origin="new"} 3
# TYPE chainlit_session_ends_total counter
chainlit_session_ends_total{chainlit_session_end_reason="cleared"} 3
chainlit_session_ends_total{chainlit_session_end_reason="timeout"} 1
# TYPE chainlit_session_time_seconds_total counter
chainlit_session_time_seconds_total{chainlit_session_type="websocket"} 90
chainlit_session_time_seconds_total{chainlit_session_type="http"} 0
# TYPE chainlit_session_active gauge
chainlit_session_active{chainlit_session_type="websocket",chainlit_session_state="connected"} 4
chainlit_session_active{chainlit_session_type="websocket",chainlit_session_state="disconnected"} 2
chainlit_session_active{chainlit_session_type="http",chainlit_session_state="connected"} 9
# TYPE chainlit_session_peak gauge
chainlit_session_peak{chainlit_peak_window="1m"} 5
chainlit_session_peak{chainlit_peak_window="process"} 6
"""

READING = Reading(starts=10, left=6, seconds=90, connected=4, peak=6)


def test_read_takes_each_figure_over_its_own_labels() -> None:
    assert read(EXPOSITION) == READING


def test_the_mean_is_all_the_time_by_the_sessions_that_were_left() -> None:
    headline = Headline()
    headline.add(0, replace(READING, starts=0, left=0, seconds=0))
    headline.add(100, READING)
    assert headline.mean_duration == 15
    headline.add(200, replace(READING, left=0))
    assert headline.mean_duration is None


def test_no_mean_is_longer_than_the_run() -> None:
    headline = Headline()
    assert headline.mean_duration is None
    headline.add(1000, READING)
    assert headline.mean_duration is None
    headline.add(1014, READING)
    assert headline.mean_duration is None
    # The readings of the beginning are gone by then, and when they were made is not.
    headline.add(1080, replace(READING, left=2))
    assert headline.mean_duration == 45
    headline.add(1081, replace(READING, left=1))
    assert headline.mean_duration is None


@pytest.mark.parametrize("name", ["starts_total", "ends_total", "time_seconds", "active", "peak"])
def test_a_figure_that_is_missing_is_not_a_zero(name: str) -> None:
    rest = [line for line in EXPOSITION.splitlines() if f"chainlit_session_{name}" not in line]
    assert len(rest) < len(EXPOSITION.splitlines())
    with pytest.raises(LookupError, match=name):
        read("\n".join(rest) + "\n")


def test_sessions_per_minute_are_those_of_the_last_minute() -> None:
    headline = Headline()
    headline.add(1000, replace(READING, starts=100))
    assert headline.starts_per_minute is None
    headline.add(1030, replace(READING, starts=110))
    assert headline.starts_per_minute == 20
    headline.add(1061, replace(READING, starts=112))
    assert headline.starts_per_minute == pytest.approx(2 / 31 * 60)
    headline.add(5000, replace(READING, starts=112))
    assert headline.starts_per_minute is None


def test_the_line_has_a_dash_for_what_is_not_there_yet() -> None:
    headline = Headline()
    assert headline.line().count(NONE_YET) == 4
    headline.add(0, READING)
    assert headline.line().count(NONE_YET) == 2
    headline.add(30, replace(READING, starts=15))
    assert headline.line() == (
        "sessions started 10.0/min   mean duration 15.0 s   connected now 4   peak 6"
    )
