"""The rules by promtool: each alert fires, does not on the near miss, and resolves; all stay silent
where nothing is wrong; and rules, file, runbook and catalogue agree."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from chainlit_otel import catalog
from chainlit_otel.catalog import Metric
from chainlit_otel.cli import main
from chainlit_otel.rules import Thresholds, Windows, render
from chainlit_otel.rules.alerts import PREFIX, Alert, alerts
from chainlit_otel.rules.recording import budgets, recordings
from tests.rules.world import Replica, Series, series

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
RULES = ROOT / "dashboards" / "rules.yml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
NAMES = sorted({PREFIX + alert.name for alert in alerts(Thresholds(), Windows())})
WITH_BUDGET = Thresholds(cost_budget_day=100)
ASKED_FOR = {
    "SessionSpike",
    "SessionRise",
    "SessionDrop",
    "ReconnectStorm",
    "ConnectionsRejected",
    "SignInFailures",
    "CapacityNear",
    "SessionLeak",
    "TurnErrorBudgetBurn",
    "FirstTokenBudgetBurn",
    "DeliveryBudgetBurn",
    "FirstTokenSlow",
    "EventLoopBlocked",
    "AnswersLost",
    "ToolFailing",
    "DataLayerErrors",
    "DataLayerSlow",
    "PoolExhausted",
    "StickinessLost",
    "TelemetryDropping",
    "InstanceDown",
    "DialogFailing",
    "MonitorStopped",
}


def promtool(*arguments: str) -> str:
    """What promtool says, which must not be an objection."""
    done = subprocess.run(
        ["promtool", *arguments],
        cwd=HERE,
        # A fifth less of a CPU, for 300 MB more of memory.
        env={**os.environ, "GOGC": "400"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules(text: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def test_every_alert_is_there() -> None:
    assert {name.removeprefix(PREFIX) for name in NAMES} == ASKED_FOR


def test_prometheus_takes_the_rules() -> None:
    found = len(alerts(Thresholds(), Windows())) + len(RECORDED)
    assert f"{found} rules found" in promtool("check", "rules", str(RULES))


def test_the_committed_files_are_what_would_be_written() -> None:
    assert RULES.read_text(encoding="utf-8") == render(), "run `chainlit-otel rules`"


# Each alert by itself


@pytest.mark.parametrize("file", sorted(HERE.glob("*.yml")), ids=lambda file: file.stem)
def test_an_alert_fires_misses_nearly_and_resolves(file: Path) -> None:
    promtool("test", "rules", file.name)


@pytest.mark.parametrize("name", NAMES)
def test_each_alert_has_tests_in_which_it_fires_resolves_and_stays_silent(name: str) -> None:
    file = HERE / (re.sub(r"(?<!^)(?=[A-Z])", "_", name.removeprefix(PREFIX)).lower() + ".yml")
    tests = yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]
    fired, resolved, waited, silent = set(), set(), set(), False
    for test in tests:
        assert {check["alertname"] for check in test["alert_rule_test"]} == {name}
        outcomes = [check["exp_alerts"] for check in test["alert_rule_test"]]
        for before, after in pairwise(outcomes):
            was, now = set(map(_cause, before)), set(map(_cause, after))
            resolved |= was - now
            waited |= now - was
        fired |= {_cause(alert) for outcome in outcomes for alert in outcome}
        # Of several deployments in one test, some may be the near miss.
        jobs = {
            job for s in test["input_series"] for job in re.findall(r'job="(\w+)"', s["series"])
        }
        firing = {alert["exp_labels"]["job"] for outcome in outcomes for alert in outcome}
        silent = silent or bool(jobs - firing)
    wanted = {
        _cause_of(a.labels) for a in alerts(Thresholds(), Windows()) if PREFIX + a.name == name
    }
    waiting = {
        _cause_of(a.labels)
        for a in alerts(Thresholds(), Windows())
        if PREFIX + a.name == name and a.wait
    }
    assert fired == wanted
    assert waited >= waiting
    assert resolved == wanted
    assert silent


@pytest.mark.parametrize("alert", alerts(Thresholds(), Windows()), ids=lambda alert: alert.name)
def test_what_an_alert_says_of_the_cause_is_said_in_its_tests(alert: Alert) -> None:
    asked = re.findall(r"\| query \}\} ([^{]+?) ?\{\{ (?:range|\.)", alert.description)
    assert len(asked) == alert.description.count("query")
    file = HERE / (re.sub(r"(?<!^)(?=[A-Z])", "_", alert.name).lower() + ".yml")
    said = [
        one["exp_annotations"]["description"]
        for test in yaml.safe_load(file.read_text(encoding="utf-8"))["tests"]
        for check in test["alert_rule_test"]
        for one in check["exp_alerts"]
        if alert.labels.items() <= one["exp_labels"].items()
    ]
    assert [says for says in asked if not any(says in text for text in said)] == []


def _cause(alert: dict[str, Any]) -> str:
    return _cause_of(alert["exp_labels"])


def _cause_of(labels: Any) -> str:
    reported = [labels[key] for key in ("cause", "burn", "kind") if key in labels]
    return reported[0] if reported else ""


# All of them, where nothing is wrong


def silent(
    tmp_path: Path, found: list[Series], step: str, minutes: list[int], every: str = "1m"
) -> None:
    """Run every alert over the series, and see that none fires at any of these minutes.

    Args:
        tmp_path: where the file for promtool is written.
        found: the series.
        step: the time between two of their samples.
        minutes: when to look.
        every: how often Prometheus evaluates the rules.
    """
    check = [
        {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": []}
        for minute in minutes
        for name in NAMES
    ]
    test = {"interval": step, "input_series": found, "alert_rule_test": check}
    file = tmp_path / "silent.json"
    test_of_all = {
        "rule_files": [str(RULES)],
        # Else promtool evaluates them in an order that changes from run to run.
        "group_eval_order": ["chainlit.recording", "chainlit.objectives", "chainlit.alerts"],
        "evaluation_interval": every,
        "tests": [test],
    }
    file.write_text(json.dumps(test_of_all))
    promtool("test", "rules", str(file))


HOURS = ((4.0, 480),)
_SELECTOR = re.compile(
    r"\b(up|(?:chainlit|probe|db_client|process|job|job_origin)[a-z0-9_:]*[_:][a-z0-9_:]+)"
    r"(?:\{([^}]*)\})?(?![a-z0-9_:(])"
)
RECORDED = {
    rule.name: rule.expr for kind in (recordings, budgets) for rule in kind(Thresholds(), Windows())
}


def read(expression: str) -> set[tuple[str, str]]:
    """The scraped series that an expression reads, by way of recorded ones too."""
    grouped = re.sub(r"\b(by|on) \([^)]*\)", "", expression)
    found: set[tuple[str, str]] = set()
    for name, matchers in _SELECTOR.findall(grouped):
        found |= read(RECORDED[name]) if name in RECORDED else {(name, matchers)}
    return found


def has(world: list[dict[str, str]], name: str, matchers: str) -> bool:
    wanted = re.findall(r'(\w+)(=~?)"([^"]*)"', matchers)
    return any(
        one["__name__"] == name
        and all(
            re.fullmatch(value if operator == "=~" else re.escape(value), one.get(label, ""))
            for label, operator, value in wanted
        )
        for one in world
    )


# Silence over series that an alert does not read proves nothing.
@pytest.mark.parametrize("alert", alerts(Thresholds(), Windows()), ids=lambda alert: alert.name)
def test_where_all_are_silent_there_is_what_each_alert_reads(alert: Alert) -> None:
    world = []
    for one in series(Replica("a", ((1.0, 1),)), step=60):
        name, _, labels = one["series"].partition("{")
        world.append({"__name__": name, **dict(re.findall(r'(\w+)="([^"]*)"', labels))})
    wanted = read(alert.expr)
    assert wanted
    assert {selector for selector in wanted if not has(world, *selector)} == set()
    # A quantile needs the bounds of its histogram, and any series of which a ratio is a share.
    for name, _ in wanted:
        if name.endswith("_bucket"):
            bounds = {one["le"] for one in world if one["__name__"] == name}
            assert "+Inf" in bounds
            assert len(bounds) > 1


def test_all_are_silent_over_a_day_like_any_other(tmp_path: Path) -> None:
    found = series(Replica("a", HOURS), Replica("b", HOURS), step=60)
    silent(tmp_path, found, "1m", [*range(10, 480, 10)])


def test_all_are_silent_over_a_counter_reset(tmp_path: Path) -> None:
    found = series(Replica("a", HOURS, restart=240), Replica("b", HOURS, restart=242), step=60)
    silent(tmp_path, found, "1m", [*range(230, 280), 300, 360, 470])


def test_all_are_silent_without_any_data(tmp_path: Path) -> None:
    silent(tmp_path, [], "1m", [0, 60, 400])
    ends = series(Replica("a", HOURS, until=120), step=60)
    silent(tmp_path, ends, "1m", [*range(115, 150), 200, 400])


def test_all_are_silent_when_one_replica_of_three_is_taken_away(tmp_path: Path) -> None:
    found = series(
        Replica("a", HOURS), Replica("b", HOURS), Replica("c", HOURS, until=240), step=60
    )
    silent(tmp_path, found, "1m", [*range(230, 280), 300, 360, 470])


def test_all_are_silent_at_one_session_an_hour(tmp_path: Path) -> None:
    one_an_hour = ((1.0, 1), (0.0, 59)) * 10
    found = series(Replica("a", one_an_hour), step=60)
    silent(tmp_path, found, "1m", [*range(5, 600, 5)])


def test_all_are_silent_over_a_week_with_a_peak_each_day(tmp_path: Path) -> None:
    # In steps of 2.5 minutes: a night, a steep morning, the peak, the afternoon, the evening.
    day = ((1.0, 168), (6.0, 12), (18.0, 12), (40.0, 120), (25.0, 144), (10.0, 60), (3.0, 60))
    assert sum(steps for _, steps in day) * 150 == 24 * 60 * 60
    found = series(Replica("a", day * 9), step=150)
    # What is usual at this time of the week is known from the second week on.
    silent(tmp_path, found, "150s", [7 * 1440 + minute for minute in range(0, 2880, 20)], "5m")


# With a budget


def test_without_a_budget_no_alert_looks_at_the_cost() -> None:
    assert {PREFIX + alert.name for alert in alerts(WITH_BUDGET, Windows())} == {
        *(PREFIX + name for name in ASKED_FOR),
        "ChainlitCostBudget",
    }


def test_a_budget_is_guarded_against_what_runs_away(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(render(WITH_BUDGET))
    tests = tmp_path / "cost_budget.yml"
    tests.write_text((HERE / "with_budget" / tests.name).read_text())
    promtool("test", "rules", str(tests))


# Whom they point to


def test_every_alert_has_what_an_operator_needs() -> None:
    for rule in rules(render()):
        if "alert" not in rule:
            assert set(rule) == {"record", "expr"}
            assert re.fullmatch(r"[a-z_]+:[a-z0-9_]+:[a-z0-9]+", rule["record"])
            continue
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert set(rule["annotations"]) == {
            "summary",
            "description",
            "runbook_url",
            "dashboard_url",
        }
        uid = rule["annotations"]["dashboard_url"].removeprefix("/d/")
        assert uid in vars(catalog).values()


def test_every_alert_has_its_section_of_the_runbook() -> None:
    sections = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]
    assert [section.splitlines()[0] for section in sections] == list(
        dict.fromkeys(PREFIX + alert.name for alert in alerts(WITH_BUDGET, Windows()))
    )
    for section in sections:
        for part in ("What it means", "Look first", "What to do"):
            assert f"**{part}.**" in section


def queries_of_the_runbook() -> list[str]:
    return re.findall(r"^```promql\n(.*?)^```", RUNBOOK, flags=re.MULTILINE | re.DOTALL)


def test_prometheus_takes_every_query_of_the_runbook(tmp_path: Path) -> None:
    queries = [
        {"record": f"runbook:query:{n}", "expr": query}
        for n, query in enumerate(queries_of_the_runbook())
    ]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "runbook", "rules": queries}]}))
    assert f"{len(queries)} rules found" in promtool("check", "rules", str(file))
    assert len(queries) > len(ASKED_FOR) / 2


# A query at 3 a.m. that names what is not there shows nothing, which looks like all is well.
@pytest.mark.parametrize("query", queries_of_the_runbook())
def test_a_query_of_the_runbook_asks_for_what_exists(query: str) -> None:
    metrics: dict[str, Metric] = {}
    for metric in (*catalog.METRICS, *catalog.MONITOR_METRICS):
        parts = ("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",)
        metrics |= {metric.prometheus_name + part: metric for part in parts}
    grouped = re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
    found = [
        (name, matchers)
        for name, matchers in _SELECTOR.findall(re.sub(r"\b(by|on) \([^)]*\)", "", query))
        if name != "up" and not name.startswith("process_") and name not in RECORDED
    ]
    assert found or "process_" in query or any(name in query for name in RECORDED)
    for name, matchers in found:
        labels = {a.prometheus_label: a.values for a in metrics[name].attributes}
        for label, value in re.findall(r'(\w+)="([^"]*)"', matchers):
            assert value in labels[label]
        wanted = {label.strip() for group in grouped for label in group.split(",")}
        assert wanted <= {*labels, "job", "instance", "le"}


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(#(\w+)\)", RUNBOOK))))
def test_a_link_of_the_runbook_leads_somewhere(link: str) -> None:
    assert link in {name.lower() for name in NAMES}


# The command


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["rules", *arguments])
    return result.exit_code, result.output


def test_a_threshold_is_an_option(tmp_path: Path) -> None:
    _, usual = run()
    code, changed = run("--spike-factor", "5")
    assert code == 0
    differing = {(a["alert"]) for a, b in zip(rules(usual), rules(changed), strict=True) if a != b}
    assert differing == {"ChainlitSessionSpike"}
    assert "> 5 * avg_over_time" in changed


def test_windows_can_be_scaled_so_that_tests_take_seconds(tmp_path: Path) -> None:
    _, scaled = run("--scale", "0.01")
    file = tmp_path / "rules.yml"
    file.write_text(scaled)
    promtool("check", "rules", str(file))
    assert "[3s]" in scaled  # of 5 minutes
    assert "offset 100m12s" not in scaled
    assert {rule.get("record") for rule in rules(scaled)} == {
        rule.get("record") for rule in rules(render())
    }


@pytest.mark.parametrize(
    ("scrape", "mark"),
    [
        ("5", '{chainlit_peak_window="15s"}[10s]'),
        ("15", '{chainlit_peak_window="15s"}[30s]'),
        ("30", '{chainlit_peak_window="1m"}[1m]'),
        ("61", '{chainlit_peak_window="5m"}[122s]'),
    ],
)
def test_a_peak_is_kept_until_it_is_scraped(scrape: str, mark: str) -> None:
    changed = [
        (usual, reported)
        for usual, reported in zip(
            rules(render()), rules(run("--scrape-interval", scrape)[1]), strict=True
        )
        if usual != reported
    ]
    assert mark in run("--scrape-interval", scrape)[1]
    assert [rule["record"] for _, rule in changed] == ["job:chainlit_session_peak:sum"] * (
        scrape != "15"
    )


def test_a_prometheusrule_has_the_same_groups() -> None:
    _, text = run("--format", "prometheusrule")
    document = yaml.safe_load(text)
    assert document["kind"] == "PrometheusRule"
    assert document["spec"] == yaml.safe_load(render())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--spike-factor", "0.5"], "spike_factor"),
        (["--scale", "0"], "scale"),
        (["--scrape-interval", "0"], "scrape interval"),
        (["--scrape-interval", "301"], "scrape interval"),
        (["--scrape-interval", "nan"], "scrape interval"),
        (["--capacity-sessions", "nan"], "capacity_sessions"),
        (["--turn-objective", "1"], "turn_objective"),
        (["--turn-objective", "0.9"], "turn_objective"),
        (["--first-token-within", "5"], "must be one of 0.01, 0.02, 0.04"),
        (["--first-token-seconds", "400"], "first_token_seconds"),
        (["--data-layer-seconds", "10"], "data_layer_seconds"),
        (["--runbook-url", "docs/runbook.md"], "https://"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: list[str], named: str) -> None:
    code, output = run(*arguments)
    assert code == 1
    assert named in output
    assert len(output.splitlines()) == 1


def test_the_runbook_is_where_the_operator_says() -> None:
    wiki = "http://wiki.example/runbook"
    urls = {
        rule["annotations"]["runbook_url"]
        for rule in rules(run("--runbook-url", wiki)[1])
        if "alert" in rule
    }
    assert urls == {f"{wiki}#{name.lower()}" for name in NAMES}


@pytest.mark.parametrize("command", ["rules", "dashboards"])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, command: str) -> None:
    (tmp_path / "file").touch()
    result = CliRunner().invoke(main, [command, "--output", str(tmp_path / "file" / "below")])
    assert result.exit_code == 1
    assert "cannot write" in result.output
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize("threshold", fields(Thresholds), ids=lambda threshold: threshold.name)
def test_every_threshold_changes_some_alert_that_prometheus_takes(threshold: Any) -> None:
    # Halfway to a bound is another value, whatever the bounds are.
    value = (threshold.default + threshold.metadata["lowest"]) / 2
    if threshold.metadata["choices"]:
        value = threshold.metadata["choices"][0]
    if value == threshold.default:
        value = threshold.default + 1
    text = render(Thresholds(**{threshold.name: value}))
    before = rules(render())
    changed = [rule for rule in rules(text) if rule not in before]
    assert any("alert" in rule for rule in changed)
    # What is recorded of a budget, or of what is in time, changes with the objective.
    recorded = {rule["record"] for rule in changed if "record" in rule}
    assert not recorded or "objective" in threshold.name or threshold.metadata["choices"]
    help = CliRunner().invoke(main, ["rules", "--help"]).output
    assert f"--{threshold.name.replace('_', '-')}" in help


def test_the_objectives_are_openslo_documents(tmp_path: Path) -> None:
    _, text = run("--format", "openslo", "--turn-objective", "0.98", "--first-token-within", "5.12")
    service, *found = yaml.safe_load_all(text)
    assert service["kind"] == "Service"
    queries = []
    for one, target in zip(found, (0.98, 0.95, 0.99), strict=True):
        assert (one["apiVersion"], one["kind"]) == ("openslo/v1", "SLO")
        assert set(one) == {"apiVersion", "kind", "metadata", "spec"}
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", one["metadata"]["name"])
        spec = one["spec"]
        assert spec["service"] == service["metadata"]["name"]
        assert 0 < len(spec["description"]) <= 1050
        assert {*spec} == {
            *("description", "service", "indicator"),
            *("timeWindow", "budgetingMethod", "objectives"),
        }
        assert spec["budgetingMethod"] == "Occurrences"
        assert spec["timeWindow"] == [{"duration": "28d", "isRolling": True}]
        assert [objective["target"] for objective in spec["objectives"]] == [target]
        ratio = spec["indicator"]["spec"]["ratioMetric"]
        assert set(ratio) == {"counter", "bad", "total"}
        assert ratio["counter"] is True
        for side in ("bad", "total"):
            assert ratio[side]["metricSource"]["type"] == "Prometheus"
            queries.append(ratio[side]["metricSource"]["spec"]["query"])
    assert 'le="5.12"' in "".join(queries)
    known = {name for rule in RECORDED.values() for name, _ in read(rule)}
    assert {name for query in queries for name, _ in read(query)} <= known
    rule_file = tmp_path / "queries.json"
    recorded = [{"record": f"slo:{n}", "expr": query} for n, query in enumerate(queries)]
    rule_file.write_text(json.dumps({"groups": [{"name": "slo", "rules": recorded}]}))
    promtool("check", "rules", str(rule_file))


# Grafana's own alerting

DURATION = r"\d+(ms|s|m|h|d|w)"


def grafana_rules(*arguments: str) -> list[dict[str, Any]]:
    document = yaml.safe_load(run("--format", "grafana", *arguments)[1])
    assert document["apiVersion"] == 1
    (group,) = document["groups"]
    assert set(group) == {"orgId", "name", "folder", "interval", "rules"}
    # Its scheduler looks each ten seconds.
    assert re.fullmatch(r"\d*0s|\d+m", group["interval"])
    found: list[dict[str, Any]] = group["rules"]
    return found


def test_grafana_is_given_every_alert_as_its_provisioning_wants_it() -> None:
    found = grafana_rules("--datasource-uid", "mine")
    every = alerts(Thresholds(), Windows())
    assert len(found) == len(every)
    for key in ("uid", "title"):
        assert len({rule[key] for rule in found}) == len(every)
    for rule, alert in zip(found, every, strict=True):
        assert set(rule) - {"keepFiringFor"} == {
            *("uid", "title", "condition", "data", "noDataState", "execErrState", "for"),
            *("annotations", "labels", "isPaused"),
        }
        assert re.fullmatch(r"[a-z0-9-]{1,40}", rule["uid"])
        assert rule["title"].startswith(PREFIX + alert.name)
        assert len(rule["title"]) <= 190
        # Grafana puts variables of its environment in the place of these.
        assert "$" not in rule["title"] + str(rule["labels"])
        assert "${" not in str(rule["annotations"])
        assert rule["labels"] == {"severity": alert.severity, **alert.labels}
        assert re.fullmatch(DURATION, rule["for"])
        assert re.fullmatch(DURATION, rule.get("keepFiringFor", "1m"))
        assert ("keepFiringFor" in rule) == bool(alert.keep)
        assert (rule["noDataState"], rule["execErrState"]) == ("OK", "Error")
        query, condition = rule["data"]
        assert (query["refId"], query["datasourceUid"]) == ("A", "mine")
        assert (condition["refId"], condition["datasourceUid"]) == ("B", "__expr__")
        assert rule["condition"] == "B"
        assert condition["model"]["type"] == "math"
        for one in (query, condition):
            assert set(one) == {"refId", "relativeTimeRange", "datasourceUid", "model"}
            assert one["relativeTimeRange"]["from"] > one["relativeTimeRange"]["to"] == 0
        assert set(rule["annotations"]) == {
            *("summary", "description", "runbook_url", "dashboard_url")
        }
        # There `$value` is a text that describes all queries.
        assert not re.search(r"\$value\b", str(rule["annotations"]))


def test_where_nothing_is_recorded_no_alert_reads_what_is() -> None:
    for rule in grafana_rules():
        expr = rule["data"][0]["model"]["expr"]
        assert not re.search(r"\bjob\w*:", expr), rule["title"]


# One with a range and an offset, and one over days. Some texts ask for what is recorded.
@pytest.mark.parametrize("file", ["stickiness_lost", "delivery_budget_burn"])
def test_without_recordings_the_alerts_do_the_same(file: str, tmp_path: Path) -> None:
    given = [
        {
            "alert": PREFIX + alert.name,
            "expr": rule["data"][0]["model"]["expr"],
            "for": rule["for"],
            "keep_firing_for": rule.get("keepFiringFor", "0s"),
            "labels": rule["labels"],
            "annotations": {
                name: text.replace("$values.A.Value", "$value")
                for name, text in rule["annotations"].items()
            },
        }
        for rule, alert in zip(grafana_rules(), alerts(Thresholds(), Windows()), strict=True)
        if file == re.sub(r"(?<!^)(?=[A-Z])", "_", alert.name).lower()
    ]
    assert given
    (tmp_path / "rules.json").write_text(
        json.dumps({"groups": [{"name": "chainlit.alerts", "rules": given}]})
    )
    # As text: to YAML, `0x60` is a number.
    tests = (HERE / f"{file}.yml").read_text(encoding="utf-8")
    assert "../../dashboards/rules.yml" in tests
    (tmp_path / "test.yml").write_text(tests.replace("../../dashboards/rules.yml", "rules.json"))
    promtool("test", "rules", str(tmp_path / "test.yml"))
