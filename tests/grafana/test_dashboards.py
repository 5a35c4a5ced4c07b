"""The dashboards: held together with the catalogue, the rules, their files and each other."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chainlit_otel import catalog
from chainlit_otel.catalog import METRICS, MONITOR_METRICS
from chainlit_otel.cli import main
from chainlit_otel.grafana import files, record_files
from chainlit_otel.rules import Thresholds, Windows
from chainlit_otel.rules.alerts import alerts
from chainlit_otel.rules.recording import Recording, budgets, recordings

ROOT = Path(__file__).parents[2]
DASHBOARDS = {name: json.loads(text) for name, text in files().items()}
TYPES = {"bargauge", "heatmap", "row", "stat", "state-timeline", "table", "timeseries"}
WIDTH = 24

# Of Prometheus itself, of the process collector of its client, and of the HTTP instrumentation.
FOREIGN = {
    "up",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "target_info",
    "http_server_request_duration_seconds_bucket",
}

Json = dict[str, Any]


def panels(dashboard: Json) -> list[Json]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def every_panel() -> list[Any]:
    return [
        pytest.param(panel, id=f"{name.removesuffix('.json')}-{panel['title']}")
        for name, dashboard in DASHBOARDS.items()
        for panel in panels(dashboard)
    ]


def expressions() -> list[str]:
    return [
        target["expr"]
        for dashboard in DASHBOARDS.values()
        for panel in panels(dashboard)
        for target in panel["targets"]
    ]


def series_of(expression: str) -> set[str]:
    """The names of series in an expression: what is neither a function, a word nor a label."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]', "", expression)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left|group_right) ?\([^)]*\)", "", bare)
    names = set(re.findall(r"\b[a-z_][a-z0-9_:]*\b(?! ?\()", bare))
    words = {"and", "or", "unless", "offset", "bool", "sum", "max", "min", "count", "avg"}
    return names - words


def recorded() -> list[Recording]:
    return [rule for kind in (recordings, budgets) for rule in kind(Thresholds(), Windows())]


def known_series() -> set[str]:
    known = set(FOREIGN) | {rule.name for rule in recorded()}
    for metric in (*METRICS, *MONITOR_METRICS):
        parts = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        known |= {metric.prometheus_name + part for part in parts}
    return known


every_dashboard = pytest.mark.parametrize("name", DASHBOARDS)


def test_there_is_one_for_each_uid_of_the_catalogue() -> None:
    uids = {v for n, v in vars(catalog).items() if n.startswith("DASHBOARD_")}
    built = [*DASHBOARDS.values(), *map(json.loads, record_files().values())]
    assert {dashboard["uid"] for dashboard in built} == uids
    assert {*DASHBOARDS, *record_files()} == {f"{uid}.json" for uid in uids}
    assert len({dashboard["title"] for dashboard in built}) == len(uids)


@every_dashboard
def test_the_committed_file_is_what_would_be_written(name: str) -> None:
    committed = (ROOT / "dashboards" / name).read_text(encoding="utf-8")
    assert committed == files()[name], "run `chainlit-otel dashboards`"


@every_dashboard
def test_panels_have_stable_places_and_do_not_overlap(name: str) -> None:
    ids = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    assert ids == list(range(1, len(ids) + 1))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= WIDTH
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells


@every_dashboard
def test_the_first_row_is_a_glance_of_figures_in_one_line(name: str) -> None:
    rows = [p for p in DASHBOARDS[name]["panels"] if p["type"] == "row"]
    assert rows[0]["title"] == "At a glance"
    first = [p for p in panels(DASHBOARDS[name]) if p["gridPos"]["y"] == 1]
    assert {p["type"] for p in first} == {"stat"}
    assert sum(p["gridPos"]["w"] for p in first) == WIDTH


@every_dashboard
def test_links_variables_and_annotations(name: str) -> None:
    dashboard = DASHBOARDS[name]
    variables = [v["name"] for v in dashboard["templating"]["list"]]
    of_monitors = ["target"] if "$target" in json.dumps(dashboard["panels"]) else []
    assert variables == ["datasource", "job", "instance", *of_monitors]
    assert [link["tags"] for link in dashboard["links"]] == [["chainlit"]]
    assert "chainlit" in dashboard["tags"]
    assert [a["name"] for a in dashboard["annotations"]["list"]] == ["Restarts", "Deploys"]
    assert dashboard["schemaVersion"] == 42


@pytest.mark.parametrize("panel", every_panel())
def test_a_panel_says_what_it_shows_and_when_to_investigate(panel: Json) -> None:
    assert panel["type"] in TYPES
    assert re.search(r"Investigate|Yellow (from|below) ", panel["description"])
    assert panel["description"].endswith(".")
    assert "  " not in panel["description"]
    assert panel["title"]


@pytest.mark.parametrize("panel", every_panel())
def test_a_panel_has_a_unit_and_its_series_have_names(panel: Json) -> None:
    if panel["type"] == "heatmap":
        assert panel["options"]["yAxis"]["unit"]
    else:
        assert panel["fieldConfig"]["defaults"]["unit"]
    legends = [target["legendFormat"] for target in panel["targets"]]
    assert len(set(legends)) == len(legends) or panel["type"] == "table"
    if panel["type"] in ("timeseries", "state-timeline", "bargauge"):
        assert "__auto" not in legends
    assert [t["refId"] for t in panel["targets"]] == sorted({t["refId"] for t in panel["targets"]})


@pytest.mark.parametrize("panel", every_panel())
def test_a_query_asks_for_what_exists_and_what_the_dashboard_is_set_to(panel: Json) -> None:
    for target in panel["targets"]:
        found = series_of(target["expr"])
        assert found
        assert found <= known_series()
        selectors = re.findall(r"\{([^}]*)\}", target["expr"])
        assert len(selectors) >= len(found)
        of_monitors = found <= {metric.prometheus_name for metric in MONITOR_METRICS}
        chosen = 'target=~"$target"' if of_monitors else 'job=~"$job"'
        assert all(chosen in selector for selector in selectors)
        # Other probes have no dialog.
        if of_monitors and not all(name.startswith("probe_chat_") for name in found):
            assert all('dialog=~".+"' in selector for selector in selectors)
        assert not re.search(r"\bcount ?\(", target["expr"])


def test_every_metric_is_on_a_panel_or_in_a_rule() -> None:
    rules = [a.expr for a in alerts(Thresholds(), Windows())]
    rules += [rule.expr for rule in recorded()]
    used = set().union(*map(series_of, [*expressions(), *rules]))
    missing = {
        metric.name
        for metric in METRICS
        if not used & {metric.prometheus_name + p for p in ("", "_bucket", "_count", "_sum")}
    }
    assert missing == set()


@pytest.mark.parametrize(
    ("threshold", "value", "title", "red"),
    [
        ("reconnects", 0.4, "Reconnects", "40 %"),
        ("rejected", 0.1, "Refused", "10 %"),
        ("turn_objective", 0.95, "Failed turns", "28 %"),
        ("first_token_seconds", 4, "First token, p90", "4 s"),
        ("lost_ratio", 0.2, "Lost answers", "20 %"),
        ("data_layer_errors", 0.5, "Failed operations", "50 %"),
        ("data_layer_seconds", 0.5, "Operations, p95", "0.5 s"),
        ("cost_budget_day", 40, "Cost of a day", "40"),
        ("pool_ratio", 0.5, "Fullest pool", "50 %"),
        ("pool_ratio", 0.5, "Pools in use", "50 %"),
        ("sign_in_denied", 0.25, "Failed sign-ins", "25 %"),
        ("leaked_sessions", 100, "Retained sessions", "100"),
    ],
)
def test_a_figure_turns_red_where_its_alert_fires(
    threshold: str, value: float, title: str, red: str
) -> None:
    built = [json.loads(text) for text in files(Thresholds(**{threshold: value})).values()]
    every = [panel for dashboard in built for panel in panels(dashboard)]
    [panel] = [p for p in every if p["title"] == title and p["type"] in ("stat", "bargauge")]
    number, _, unit = red.partition(" ")
    level = float(number) / (100 if unit == "%" else 1)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert steps[-1] == {"color": "red", "value": pytest.approx(level)}
    assert steps[-2]["value"] < level
    assert panel["description"].endswith(f", red from {red}.")


def test_prometheus_takes_every_query(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:query:{n}", "expr": expr.replace("$__rate_interval", "1m")}
        for n, expr in enumerate(expressions())
    ]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(rules)} rules found" in done.stdout


def test_the_peak_of_several_jobs_lies_between_the_bounds_on_the_panels(tmp_path: Path) -> None:
    # A minute each: ten in `a` from 0:05, eight more in `b` from 0:25, three in `c` just then.
    connected = {"a": "0x20 10x4 0x200", "b": "2x100 10x4 2x120", "c": "0x100 3x4 0x120"}
    bounds = {"a|b|c": (13, 23), "a|b": (12, 20), "b|c": (13, 13), "a": (10, 10)}
    active = 'chainlit_session_type="websocket",chainlit_session_state="connected"'
    series = [
        {"series": f'{name}{{job="{job}",instance="1",{labels}}}', "values": values}
        for job, values in connected.items()
        for name, labels in (
            ("chainlit_session_active", active),
            ("chainlit_session_peak", 'chainlit_peak_window="15s"'),
        )
    ]
    asked = [
        {
            "expr": target["expr"].replace("$job", jobs),
            "eval_time": "50m",
            "exp_samples": [{"labels": "{}", "value": bounds[jobs][bound]}],
        }
        for panel in panels(DASHBOARDS["chainlit-sessions.json"])
        for target in panel["targets"]
        if (bound := {"at least": 0, "at most": 1}.get(target["legendFormat"])) is not None
        for jobs in bounds
    ]
    assert len(asked) == 2 * 2 * len(bounds)
    test = {
        "rule_files": [str(ROOT / "dashboards" / "rules.yml")],
        "evaluation_interval": "15s",
        "tests": [{"interval": "15s", "input_series": series, "promql_expr_test": asked}],
    }
    file = tmp_path / "test.json"
    file.write_text(json.dumps(test))
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr


# The command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["dashboards", *arguments])
    return result.exit_code, result.output
