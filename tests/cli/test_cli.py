"""The console script itself: what it offers, and that it does not import what it does not need."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from chainlit_otel import catalog
from chainlit_otel.cli import COMMANDS, main
from chainlit_otel.version import __version__
from tests.support.server import python_path

SLOW = ("chainlit", "aiohttp", "socketio", "prometheus_client", "opentelemetry.sdk")


def run(*arguments: str) -> str:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        ("", ()),
        ("dashboards", ()),
        ("doctor", ()),
        ("metrics", ()),
        ("export", ()),
        ("report", ()),
        ("rules", ()),
        ("visit", SLOW[1:]),
    ],
)
def test_help_imports_nothing_slow(command: str, needed: tuple[str, ...]) -> None:
    script = f"""
import sys
from chainlit_otel.cli import main
try:
    main([*{command!r}.split(), "--help"])
finally:
    print("IMPORTED", *(name for name in {SLOW!r} if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    imported = done.stdout.splitlines()[-1].split()[1:]
    # python-socketio imports redis where it is installed, and that imports the SDK.
    assert set(imported) <= set(needed)


def test_help_lists_every_command_with_the_words_it_uses_itself() -> None:
    output = run("--help")
    for name, words in COMMANDS.items():
        assert f"  {name} " in output
        assert words in run(name, "--help")


def test_version() -> None:
    assert __version__ in run("--version")


def test_an_unknown_command_is_named() -> None:
    result = CliRunner().invoke(main, ["dmeo"])
    assert result.exit_code == 2
    assert "dmeo" in result.output


def test_metrics_as_json_has_everything() -> None:
    rows = json.loads(run("metrics", "--format", "json"))
    assert [row["opentelemetry_name"] for row in rows] == [m.name for m in catalog.METRICS]
    starts = rows[0]
    assert starts["name"] == "chainlit_session_starts_total"
    assert starts["labels"]["chainlit_session_type"] == ["websocket", "http"]


@pytest.mark.parametrize("style", ["table", "markdown"])
def test_metrics_for_people_name_every_metric_and_label(style: str) -> None:
    output = run("metrics", "--format", style)
    for metric in catalog.METRICS:
        assert metric.prometheus_name in output
        for attribute in metric.attributes:
            assert attribute.prometheus_label in output


def test_the_markdown_is_a_table() -> None:
    lines = run("metrics", "--format", "markdown").strip().splitlines()
    assert len(lines) == len(catalog.METRICS) + 2
    assert {line.count("|") for line in lines} == {5}
