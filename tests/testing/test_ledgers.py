"""The figures of the visitors beside those of the app, from expositions that are written here."""

from __future__ import annotations

from itertools import chain, cycle, repeat

import pytest

from chainlit_otel.testing import ledgers
from chainlit_otel.testing.ledgers import (
    AppLedger,
    LedgerError,
    compare,
    read_final_ledger,
    read_ledger,
    remark,
)
from chainlit_otel.testing.results import AnsweredTurn, LoadReport
from tests.support.local import Handler, LocalServer


def exposition(starts: int = 0, ok: int = 0, failed: int = 0, seconds: float = 0.0) -> str:
    turn = "chainlit_turn_duration_seconds"
    return f"""\
# TYPE chainlit_session_starts_total counter
chainlit_session_starts_total{{chainlit_session_type="websocket"}} {starts}
chainlit_session_starts_total{{chainlit_session_type="http"}} 1000
# TYPE {turn} histogram
{turn}_bucket{{chainlit_outcome="ok",le="+Inf"}} {ok}
{turn}_count{{chainlit_outcome="ok"}} {ok}
{turn}_sum{{chainlit_outcome="ok"}} {seconds}
{turn}_bucket{{chainlit_outcome="error",le="+Inf"}} {failed}
{turn}_count{{chainlit_outcome="error"}} {failed}
{turn}_sum{{chainlit_outcome="error"}} 0
"""


def test_the_difference_is_that_of_the_run_and_only_of_what_both_have() -> None:
    report = LoadReport(sessions=3, reconnects=5, uploads=1)
    report.turns += [AnsweredTurn(1.0, None, False), AnsweredTurn(4.0, None, True)]
    before = AppLedger(exposition(starts=10, ok=7, failed=1, seconds=100.0))
    after = AppLedger(exposition(starts=14, ok=9, failed=2, seconds=106.0))
    rows = [(*row, row.difference) for row in compare(report, before, after)]
    assert rows == [
        ("sessions", "", 3, 4, 1),
        ("turns", "", 2, 3, 1),
        ("failed turns", "", 1, 1, 0),
        ("mean turn", "s", 2.5, 2.0, -0.5),
    ]


def synthetic(sessions: int, turns: int) -> AppLedger:
    own = f"""\
# TYPE chainlit_synthetic_sessions_total counter
chainlit_synthetic_sessions_total{{chainlit_outcome="ok"}} {sessions}
# TYPE chainlit_synthetic_turns_total counter
chainlit_synthetic_turns_total{{chainlit_outcome="ok"}} {turns}
chainlit_synthetic_turns_total{{chainlit_outcome="error"}} 1
"""
    return AppLedger(exposition() + own)


def test_of_synthetic_visitors_the_app_has_other_figures_and_that_is_told() -> None:
    report = LoadReport(sessions=3, ended=2)
    report.turns += [AnsweredTurn(1.0, None, False)] * 4
    rows = compare(report, synthetic(5, 7), synthetic(6, 11))
    assert [(row.figure, row.visitors, row.app) for row in rows] == [
        ("sessions", 3, 0),
        ("turns", 4, 0),
        ("failed turns", 0, 0),
        ("synthetic sessions", 2, 1),
        ("synthetic turns", 4, 4),
    ]
    assert "synthetic token" in remark(rows)
    # Those of a monitor that has nothing to do with the run, and is not there meanwhile.
    rows = compare(report, synthetic(5, 7), synthetic(5, 7))
    assert [row.figure for row in rows] == ["sessions", "turns", "failed turns"]
    assert remark(rows) == "If others use the app meanwhile, its figures are higher."
    with pytest.raises(LedgerError, match="began anew"):
        compare(report, synthetic(5, 7), synthetic(0, 0))


def test_without_a_turn_there_is_no_mean() -> None:
    ledger = AppLedger(exposition())
    assert [row.figure for row in compare(LoadReport(), ledger, ledger)] == [
        *("sessions", "turns", "failed turns"),
    ]


def test_an_app_that_was_started_anew_is_not_compared() -> None:
    before, after = AppLedger(exposition(starts=10)), AppLedger(exposition(starts=4, ok=9))
    with pytest.raises(LedgerError, match="began anew"):
        compare(LoadReport(), before, after)


def test_something_else_is_no_ledger() -> None:
    with pytest.raises(LedgerError, match="is no metrics"):
        AppLedger("<!doctype html>\n<title>Chainlit</title>")
    with pytest.raises(LedgerError, match="no chainlit_session_starts_total"):
        AppLedger("")


@pytest.mark.parametrize(
    ("counts", "last", "least"),
    [
        (chain([1, 2, 3], repeat(4)), 4, 5),
        (cycle([1, 2]), None, ledgers._MOST_SCRAPES + 1),
    ],
)
async def test_the_last_ledger_is_that_which_stands_still_or_the_last_in_time(
    counts: chain[int], last: int | None, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class App(Handler):
        def do_GET(self) -> None:
            asked.append(next(counts))
            self.answer(exposition(starts=asked[-1]).encode())

    monkeypatch.setattr(ledgers, "_PAUSE", 0.0)
    with LocalServer(App) as app:
        ledger = await read_final_ledger(f"{app.origin}/metrics")
    assert ledger.counts[0] == asked[-1]
    assert len(asked) == least
    assert last in (None, asked[-1])


@pytest.mark.parametrize("url", ["localhost:9464", "nonsense", "http://"])
async def test_what_is_no_address_is_one_line(url: str) -> None:
    with pytest.raises(LedgerError) as error:
        await read_ledger(url)
    assert url in str(error.value)
    assert len(str(error.value).splitlines()) == 1
