"""The examples that ask models: they start their stub, and what it tells is what is counted."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from chainlit_otel.testing import Visitor
from chainlit_otel.testing.models import WORDS, ModelAnswer
from tests.support.examples import started_by_script
from tests.support.http import fetch
from tests.support.scrape import Scrape, wait_until
from tests.support.server import free_port

pytestmark = pytest.mark.e2e


def talk(url: str, profiles: tuple[str, ...]) -> None:
    async def visit() -> None:
        for profile in profiles:
            visitor = Visitor(url, chat_profile=profile)
            await visitor.connect()
            answers = (await visitor.say("When are you open?")).texts
            assert answers[-1] == "".join(WORDS)
            await visitor.leave()

    asyncio.run(visit())


@pytest.mark.parametrize(
    ("example", "profiles"),
    [("openai", ("With counts", "Without counts")), ("langgraph", ("",))],
)
def test_one_command_starts_the_api_too(
    example: str, profiles: tuple[str, ...], tmp_path: Path
) -> None:
    stub, metrics = free_port(), free_port()
    env = {"STUB_PORT": str(stub), "OTEL_EXPORTER_PROMETHEUS_PORT": str(metrics)}
    with started_by_script(example, tmp_path, env) as (url, _):
        talk(url, profiles)
        ledger = [ModelAnswer(**row) for row in fetch(f"http://127.0.0.1:{stub}/").json()]
        # A call asks for the tool, and another answers.
        assert [answer.counted for answer in ledger] == [
            profile != "Without counts" for profile in profiles for _ in range(2)
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
