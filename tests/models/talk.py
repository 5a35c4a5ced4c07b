"""Chats that ask the stub of the models' APIs, and what was counted of each turn."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.testing import Visitor
from chainlit_otel.testing.models import ModelAnswer, ModelApi
from tests.support.otlp import Receiver, hashed
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer, python_path

CHAT = Path(__file__).parent / "chat"
FILES = {file.name: file.read_text(encoding="utf-8") for file in CHAT.glob("*.py")}
# OpenTelemetry's older instrumentation of OpenAI, which cannot be installed beside the newer ones.
OPENAI_V2 = Path(__file__).parents[2] / ".venv-models" / "openai-v2"
AT_ONCE = 8


COUNTS = (
    "inferences",
    "uncounted",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
)


@dataclass(frozen=True)
class Turn:
    """A turn: the way that it asked, what the API reported of it, and what its record says.

    Attributes:
        way: the way.
        answers: what the API's ledger has of it.
        record: the record of the turn.
    """

    way: str
    answers: tuple[ModelAnswer, ...]
    record: dict[str, Any]

    @property
    def counted(self) -> dict[str, int]:
        """What the record says was counted."""
        columns = {name: catalog.column_of(f"{catalog.TURN_USAGE}{name}") for name in COUNTS}
        return {name: int(self.record.get(column, 0)) for name, column in columns.items()}

    @property
    def tools(self) -> list[str]:
        """The tools that the record says were called."""
        listed = self.record.get(catalog.column_of(catalog.TURN_TOOLS), [])
        return sorted(tool["name"] for tool in listed)

    @property
    def models(self) -> dict[str, dict[str, int]]:
        """What the record says was counted, by model."""
        listed = self.record.get(catalog.column_of(catalog.TURN_MODELS), [])
        return {
            model["name"]: {name: int(model.get(name, 0)) for name in COUNTS} for model in listed
        }


def reported(answers: Iterable[ModelAnswer]) -> dict[str, int]:
    """What answers of the API add up to, by the names of the records."""
    sums = Counter(dict.fromkeys(COUNTS, 0))
    for answer in answers:
        sums["inferences"] += 1
        if answer.counted:
            sums.update({name: getattr(answer, name) for name in COUNTS[2:]})
        else:
            sums["uncounted"] += 1
    return dict(sums)


class Chat:
    """An app that is watched by some sources, and the API that it asks.

    Attributes:
        api: the API.
        server: the app.
        sources: the sources.
    """

    def __init__(self, api: ModelApi, server: ChainlitServer, sources: tuple[str, ...]) -> None:
        self.api = api
        self.server = server
        self.sources = sources
        self._turns = 0

    def ask(self, ways: Iterable[str]) -> list[Turn]:
        """Have a visitor for each way, some of them at once, and return their turns."""
        ways = list(ways)
        first = self._turns
        self._turns += len(ways)
        sessions = asyncio.run(self._visit(ways, first))
        wait_until(lambda: len(self._records()) == self._turns, 60, "the records of the turns")
        records = self._records()
        return [
            Turn(way, tuple(self.api.of(f"turn-{first + number}")), records[session])
            for number, (way, session) in enumerate(zip(ways, sessions, strict=True))
        ]

    async def _visit(self, ways: list[str], first: int) -> list[str]:
        room = asyncio.Semaphore(AT_ONCE)

        async def visit(number: int, way: str) -> str:
            async with room:
                visitor = Visitor(self.server.url, timeout=120)
                await visitor.connect()
                answers = (await visitor.say(f"{way} #turn-{first + number}")).texts
                assert answers[-1:] == ["done"], (way, answers, self.server.tail())
                await visitor.leave()
                return hashed(visitor.session_id)

        return await asyncio.gather(*(visit(*entry) for entry in enumerate(ways)))

    def _records(self) -> dict[str, dict[str, Any]]:
        """The records of turns, by session."""
        lines = [
            json.loads(line)
            for file in (self.server.directory / "records").glob("*.jsonl")
            for line in file.read_text(encoding="utf-8").splitlines()
        ]
        turns = [line for line in lines if line["kind"] == "turn"]
        return {turn[catalog.column_of(catalog.SESSION_ID)]: turn for turn in turns}


@contextmanager
def chat(*sources: str) -> Iterator[Chat]:
    """Run the app, watched by these sources."""
    paths = [str(OPENAI_V2)] if "openai-v2" in sources else []
    paths += filter(None, [python_path().get("PYTHONPATH"), os.environ.get("PYTHONPATH")])
    # Without anywhere to send spans to, nobody would make any.
    with ModelApi(pause=0.002) as api, Receiver() as receiver:
        env = {
            "ANTHROPIC_API_KEY": "none",
            "ANTHROPIC_BASE_URL": api.origin,
            "AZURE_OPENAI_API_KEY": "none",
            "AZURE_OPENAI_ENDPOINT": api.origin,
            # Logfire has metrics go elsewhere.
            "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS": "true",
            "CHAINLIT_OTEL_RECORDS_DIR": "records",
            "LANGSMITH_TRACING": "false",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "MISTRAL_BASE_URL": api.origin,
            "OPENAI_API_KEY": "none",
            "OPENAI_BASE_URL": api.openai_url,
            "PYTHONPATH": os.pathsep.join(paths),
            "SOURCES": " ".join(sources),
            "USE_OTEL_LITELLM_REQUEST_SPAN": "true",
            **receiver.env,
        }
        with ChainlitServer(FILES, env=env) as server:
            yield Chat(api, server, sources)
