"""The dashboards against the types that Grafana publishes, checked by the TypeScript compiler."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from chainlit_otel.grafana import files

SCHEMA = Path(__file__).with_name("schema")
OPTIONS = (
    "--noEmit",
    "--strict",
    "--skipLibCheck",
    "--module",
    "nodenext",
    "--moduleResolution",
    "nodenext",
)

Check = Callable[[str], str]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """What the compiler says of a dashboard's JSON; nothing if it has no objection."""
    directory = tmp_path_factory.mktemp("schema")
    for name in ("package.json", "types.ts"):
        shutil.copy(SCHEMA / name, directory)
    quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--silent")
    install = ["npm", "install", "--prefer-offline", *quiet]
    subprocess.run(install, cwd=directory, check=True, timeout=240)

    def compile(text: str) -> str:
        source = "import type { AnyDashboard } from './types.js';\n"
        (directory / "dashboard.ts").write_text(
            f"{source}export const dashboard: AnyDashboard = {text}", encoding="utf-8"
        )
        compiler = directory / "node_modules" / ".bin" / "tsc"
        done = subprocess.run(
            [compiler, *OPTIONS, "dashboard.ts"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert (done.returncode == 0) is not bool(done.stdout), done.stderr
        return done.stdout

    return compile


@pytest.mark.parametrize("name", files())
def test_a_dashboard_is_what_grafana_says_a_dashboard_is(check: Check, name: str) -> None:
    assert check(files()[name]) == ""


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
