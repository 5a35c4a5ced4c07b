"""The ledger of tools against a plain list of the calls."""

from __future__ import annotations

import math
import sys
from concurrent.futures import ThreadPoolExecutor

from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.core.tools import ToolLedger

calls = st.tuples(
    st.sampled_from(["search", "look up", "other"]),
    st.sampled_from(["ok", "error", "cancelled"]),
    st.floats(0, 1e6),
)


@given(st.lists(calls))
def test_calls_and_time_add_up(made: list[tuple[str, str, float]]) -> None:
    ledger = ToolLedger()
    for call in made:
        ledger.add(*call)
    spent: dict[tuple[str, ...], list[float]] = {}
    for name, outcome, seconds in made:
        spent.setdefault((name, outcome), []).append(seconds)
    assert ledger.calls() == {key: len(times) for key, times in spent.items()}
    assert set(ledger.time()) == set(spent)
    for key, total in ledger.time().items():
        assert math.isclose(total, math.fsum(spent[key]), rel_tol=1e-9)


def test_no_call_is_lost_between_threads() -> None:
    def call() -> None:
        for _ in range(2000):
            ledger.add("search", "ok", 0.5)

    ledger, interval = ToolLedger(), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as threads:
            for _ in range(8):
                threads.submit(call)
    finally:
        sys.setswitchinterval(interval)
    assert ledger.calls() == {("search", "ok"): 16_000}
    assert ledger.time() == {("search", "ok"): 8_000.0}
