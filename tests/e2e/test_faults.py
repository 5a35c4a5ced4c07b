"""Whatever goes wrong beside the app, people get the same answers as without chainlit-otel."""

from __future__ import annotations

import pytest

from bench.faults import Outcome, Turn, endure
from tests.support.faults import FAULTS

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("name", FAULTS)
async def test_answers_are_the_same_under_a_fault(name: str) -> None:
    outcome = await endure(FAULTS[name], turns=24, visitors=2)
    assert len(outcome.bare) == 24
    assert outcome.different == 0
    assert outcome.was_there
    # Without a port nothing is served that could say so.
    assert outcome.internal_errors == (None if name == "ports" else 0)


def test_the_same_failure_of_both_apps_is_not_the_right_answer() -> None:
    right = Turn("short word", ("You said: word",), ("on_message",), False, 0.1)
    failed = Turn("short word", (), ("on_message",), True, 0.1)
    assert Outcome([right], [right], True, 0).different == 0
    assert Outcome([failed], [failed], True, 0).different == 1
