"""The examples that ask models: they start their stub, and what it tells is what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from chainlit_otel.testing.models import ModelAnswer
from tests.support.examples import dialogs, follow, started_by_script
from tests.support.http import fetch
from tests.support.scrape import Scrape, wait_until
from tests.support.server import free_port

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("example", "scripts"),
    [("openai", ("with_counts", "without_counts")), ("langgraph", ("hours",))],
)
def test_one_command_starts_the_api_too(
    example: str, scripts: tuple[str, ...], tmp_path: Path
) -> None:
    stub, metrics = free_port(), free_port()
    env = {"STUB_PORT": str(stub), "OTEL_EXPORTER_PROMETHEUS_PORT": str(metrics)}
    with started_by_script(example, tmp_path, env) as (url, _):
        assert dialogs(example) == sorted(scripts)
        for script in scripts:
            follow(url, example, script)
        ledger = [ModelAnswer(**row) for row in fetch(f"http://127.0.0.1:{stub}/").json()]
        # A call asks for the tool, and another answers.
        assert [answer.counted for answer in ledger] == [
            script != "without_counts" for script in scripts for _ in range(2)
        ]
        counted = [answer for answer in ledger if answer.counted]

        def scrape() -> Scrape:
            return Scrape(fetch(f"http://127.0.0.1:{metrics}/metrics").text)

        def inferences(state: str | None = None) -> float:
            labels = {} if state is None else {"chainlit_usage_state": state}
            return scrape().sum("chainlit_turn_inferences_total", **labels)

        wait_until(lambda: inferences() == len(ledger), 60, "the turns to be over")
        assert inferences("uncounted") == len(ledger) - len(counted)
        for kind in ("input", "output"):
            tokens = scrape().sum("chainlit_turn_tokens_total", chainlit_token_type=kind)
            assert tokens == sum(getattr(answer, f"{kind}_tokens") for answer in counted)
