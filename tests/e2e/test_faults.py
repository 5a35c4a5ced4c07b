"""Whatever goes wrong beside the app, people get the same answers as without chainlit-otel."""

from __future__ import annotations

import pytest

from bench.faults import endure
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
