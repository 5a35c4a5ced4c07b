"""The dashboards against the types that Grafana publishes, checked by the TypeScript compiler."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chainlit_otel.grafana import files, record_files
from tests.support.typescript import type_check

SCHEMA = Path(__file__).with_name("schema")
Check = Callable[[str], str]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """What the compiler objects to in a dashboard's JSON; empty if nothing."""
    against = type_check(SCHEMA, tmp_path_factory.mktemp("schema"), "AnyDashboard")
    return functools.partial(against, "AnyDashboard")


DASHBOARDS = {**files(), **record_files()}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_what_grafana_says_a_dashboard_is(check: Check, name: str) -> None:
    assert check(DASHBOARDS[name]) == ""
    key = "rawSql" if name in record_files() else "expr"
    assert "TS2" in check(DASHBOARDS[name].replace(f'"{key}":', '"query":'))


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"schemaVersion": 42', '"schemaVersion": "42"'),
        ('"timezone": "browser"', '"timezone": "browser", "rows": []'),
        ('"textMode": "auto"', '"textMode": "loud"'),
        ('"justifyMode": "auto"', '"justifyMode": "auto", "gauge": {}'),
        ('"drawStyle": "line"', '"drawStyle": "line", "bars": true'),
        ('"type": "stat"', '"type": "singlestat"'),
        ('"graphTooltip": 1', '"graphTooltip": 7'),
        ('"cellGap": 1', '"cellGap": "1"'),
        ('"unit": "short"', '"unit": 1'),
        ('"expr":', '"query":'),
    ],
)
def test_the_check_sees_what_is_wrong(check: Check, right: str, wrong: str) -> None:
    text = files()["chainlit-sessions.json"]
    assert right in text
    assert "TS2" in check(text.replace(right, wrong))


@pytest.mark.parametrize(
    "kind", ["bargauge", "heatmap", "stat", "state-timeline", "table", "timeseries"]
)
def test_the_check_looks_into_every_type_of_panel(check: Check, kind: str) -> None:
    dashboard = next(
        dashboard
        for dashboard in map(json.loads, files().values())
        if any(panel["type"] == kind for panel in dashboard["panels"])
    )
    panel = next(panel for panel in dashboard["panels"] if panel["type"] == kind)
    panel["options"]["madeUp"] = 1
    assert "TS2" in check(json.dumps(dashboard))
