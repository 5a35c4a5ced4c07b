"""What the page shows of our own health: what is in force, and no secret."""

from __future__ import annotations

import json
from typing import Any

from chainlit_otel.live.health import describe_health, describe_process
from chainlit_otel.pipeline.losses import Losses
from chainlit_otel.pipeline.providers import Pipeline
from chainlit_otel.settings import Settings, describe

SECRET = "a-secret-of-these-tests"


def test_every_setting_is_there_and_secrets_are_masked() -> None:
    secrets: dict[str, Any] = {row["name"]: SECRET for row in describe() if row["secret"]}
    address = f"https://user:{SECRET}@traces.example/{{trace_id}}"
    shown = describe_process(Settings(**secrets, trace_url=address, port=7, live_page=False))
    rows = {row["name"]: row for row in shown["settings"]}
    assert list(rows) == [row["name"] for row in describe()]
    assert SECRET not in json.dumps(shown)
    assert {rows[name]["value"] for name in secrets} == {"***"}
    assert (rows["port"]["value"], rows["port"]["is_default"]) == ("7", False)
    assert (rows["live_page"]["value"], rows["live_page"]["env"]) == (
        "false",
        "CHAINLIT_OTEL_LIVE_PAGE",
    )
    assert (rows["host"]["value"], rows["host"]["is_default"]) == ("127.0.0.1", True)
    assert shown["python"].startswith("3.")
    assert shown["chainlit"].startswith("2.")
    assert [link["url"].rpartition("/")[2] for link in shown["links"]] == [
        "metrics",
        "healthz",
        "dashboards.md",
        "runbook.md",
    ]


def test_a_probe_is_on_off_or_failing_with_the_reason() -> None:
    losses = Losses()
    losses.add("spans", "connection", 7, "refused")
    state = {
        "status": "degraded",
        "version": "1",
        "probes": {"sessions": "on", "mcp": "off: no chainlit.mcp", "steps": "on"},
        "off": {},
        "internal_errors": {"steps": 3, "sessions": 0},
    }
    shown = describe_health(state, Pipeline((), None, None), losses)
    assert shown["probes"] == {
        "sessions": {"state": "on", "reason": ""},
        "mcp": {"state": "off", "reason": "no chainlit.mcp"},
        "steps": {"state": "failing", "reason": "it failed 3 times; see the log"},
    }
    lost = {row["signal"]: (row["lost"], row["reasons"]) for row in shown["exporters"]}
    assert lost["spans"] == (7, {"connection": 7})
