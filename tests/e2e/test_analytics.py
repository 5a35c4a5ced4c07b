"""The app of the analytics example: its records by OTLP, into ClickHouse, and asked there."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from chainlit_otel.cli import main
from chainlit_otel.grafana import record_files
from chainlit_otel.testing import Visitor
from tests.support.clickhouse import ClickHouseServer, exported_rows
from tests.support.grafana import panels
from tests.support.otlp import Receiver
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "examples" / "analytics" / "compose.yaml").read_text())


def chat(receiver: Receiver) -> ChainlitServer:
    """The service `chat`, with `receiver` in place of the collector."""
    env = dict(COMPOSE["services"]["chat"]["environment"])
    assert env.pop("OTEL_EXPORTER_OTLP_ENDPOINT") == "http://otel-collector:4318"
    app = ROOT / "chainlit_otel" / "cli" / "demo_app.py"
    return ChainlitServer({"app.py": app.read_text(encoding="utf-8")}, env={**receiver.env, **env})


async def test_what_visitors_did_is_what_the_report_and_the_dashboard_say(tmp_path: Path) -> None:
    with Receiver() as receiver, chat(receiver) as server:
        visitors = [Visitor(server.url) for _ in range(3)]
        for visitor in visitors:
            await visitor.connect()
        await visitors[0].say("What is the peak?")
        await visitors[0].say("What is the rate?")
        await visitors[1].say("/fail")
        for visitor in visitors:
            await visitor.leave(clear=visitor is not visitors[2])

        def kinds() -> list[str]:
            return sorted(log.name for log in receiver.logs)

        await asyncio.to_thread(receiver.wait_for, lambda: len(kinds()) == 3 + 2 + 3, "records")
        assert await asyncio.to_thread(server.stop) == 0
    # Nobody takes the other signals in the example.
    assert receiver.spans == []
    assert receiver.metric_exports == []
    with ClickHouseServer(tmp_path) as database:
        for export in receiver.log_exports:
            database.insert_rows(exported_rows(export))
        result = CliRunner().invoke(
            main, ["report", "--json", "--from", database.address, "--since", "1d"]
        )
        assert result.exit_code == 0, result.output
        sections = {one["name"]: one for one in json.loads(result.stdout)["sections"]}
        now = {row[0]: row[1] for row in sections["overview"]["figures"][0]["rows"]}
        assert (now["Sessions"], now["Turns"], now["Turns answered"]) == (3, 3, 2)
        assert sections["errors"]["figures"][0]["rows"][0][:3] == ["RuntimeError", "on_message", 1]
        assert [row[0] for row in sections["tools"]["figures"][0]["rows"]] == ["look up"]
        shown = {}
        (text,) = record_files().values()
        for panel in panels(json.loads(text)):
            sql = panel["targets"][0]["rawSql"]
            sql = sql.replace("$__fromTime_ms", "now64(3) - INTERVAL 1 DAY")
            answer = json.loads(database.run(sql.replace("$__toTime_ms", "now64(3)"), "grafana"))
            names = [column["name"] for column in answer["meta"]]
            shown[panel["title"]] = [dict(zip(names, row, strict=True)) for row in answer["data"]]
    (glance,) = shown["Sessions and turns"]
    assert [int(glance[name]) for name in ("sessions", "users", "turns")] == [3, 0, 3]
    assert glance["failed"] == pytest.approx(1 / 3)
    (steps,) = shown["The way through"]
    assert [int(steps[name]) for name in ("opened", "wrote", "was answered")] == [3, 2, 1]
    (profile,) = shown["Outcome and feedback by chat profile"]
    assert int(profile["turns"]) == 3
    (version,) = shown["Outcome and feedback by version"]
    assert version["version"] == "1.0.0"
    (tool,) = shown["Tools"]
    assert (tool["tool"], int(tool["calls"]), tool["failed"]) == ("look up", 2, 0)
    assert shown["Errors"][0]["error"] == "RuntimeError"
