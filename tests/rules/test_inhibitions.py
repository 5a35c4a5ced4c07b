"""The inhibitions by a real Alertmanager: an echo is not told, and nothing else is held back."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from chainlit_otel.cli import main
from chainlit_otel.rules import Thresholds, Windows, render
from chainlit_otel.rules.alerts import PREFIX, alerts
from chainlit_otel.rules.inhibitions import INHIBITIONS, Inhibition
from tests.support.http import fetch
from tests.support.prometheus import Alertmanager
from tests.support.scrape import wait_until

ROOT = Path(__file__).parents[2]
TEXT = render(format="alertmanager")

Labels = dict[str, str]


def test_the_committed_file_is_what_the_command_writes() -> None:
    file = ROOT / "dashboards" / "inhibitions.yml"
    assert file.read_text(encoding="utf-8") == TEXT, "run `make docs`"
    result = CliRunner().invoke(main, ["rules", "--format", "alertmanager"])
    assert (result.exit_code, result.output) == (0, TEXT)


def test_amtool_takes_them(tmp_path: Path) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(f"route: {{receiver: on-call}}\nreceivers: [{{name: on-call}}]\n{TEXT}")
    done = subprocess.run(
        ["amtool", "check-config", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(INHIBITIONS)} inhibit rules" in done.stdout


def labels_of(name: str) -> Iterator[Labels]:
    """The labels of each alert of a name, those of its expression with any value."""
    for alert in alerts(Thresholds(), Windows()):
        if alert.name == name:
            grouped = re.findall(r"by \(([^)]*)\)", alert.expr)
            of_series = {label.strip() for labels in grouped for label in labels.split(",")}
            yield {**dict.fromkeys(of_series, "any"), **alert.labels}


# A label that neither alert has is equal, too: the rule would hold back what is of another layer.
@pytest.mark.parametrize("one", INHIBITIONS, ids=lambda one: f"{one.source}-{one.targets[0]}")
def test_an_inhibition_names_alerts_and_labels_that_exist(one: Inhibition) -> None:
    wanted = {(one.source, one.of_source), *((target, one.of_targets) for target in one.targets)}
    for name, matchers in wanted:
        found = [labels for labels in labels_of(name) if set(matchers) <= labels.items()]
        assert found, name
        beyond = set(one.equal) - {"namespace", "job"}
        assert all(beyond <= set(labels) for labels in found)


def alert(name: str, **labels: str) -> Labels:
    return {"alertname": PREFIX + name, "namespace": "chat", "job": "chat", **labels}


def matching(one: Inhibition) -> tuple[Labels, list[Labels]]:
    """What would fire in the case of an inhibition: the source, and its echoes."""
    shared = {label: "same" for label in one.equal if label not in ("namespace", "job")}
    source = alert(one.source, **shared, **dict(one.of_source))
    return source, [alert(name, **shared, **dict(one.of_targets)) for name in one.targets]


@pytest.fixture(scope="module")
def alertmanager() -> Iterator[Alertmanager]:
    with Alertmanager(inhibitions=TEXT) as started:
        yield started


def held_back(alertmanager: Alertmanager, fired: list[Labels], case: str) -> set[tuple[str, str]]:
    """Name and job of those of which nobody is told."""
    # Alertmanager takes alerts in their order: once it holds this one back, it knows all others.
    last = [
        {**alert("EventLoopBlocked"), "job": "last"},
        {**alert("FirstTokenSlow"), "job": "last"},
    ]
    body = [{"labels": {**labels, "case": case}} for labels in (*fired, *last)]
    answer = httpx.post(f"{alertmanager.url}/api/v2/alerts", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    found: set[tuple[str, str]] = set()

    def are_known() -> bool:
        query = {"filter": f'case="{case}"'}
        alerts = fetch(f"{alertmanager.url}/api/v2/alerts", params=query).json()
        found.clear()
        found.update(
            (one["labels"]["alertname"].removeprefix(PREFIX), one["labels"]["job"])
            for one in alerts
            if one["status"]["inhibitedBy"]
        )
        return len(alerts) == len(body) and ("FirstTokenSlow", "last") in found

    wait_until(are_known, 60, "the alerts")
    return found - {("FirstTokenSlow", "last")}


@pytest.mark.parametrize("number", range(len(INHIBITIONS)))
def test_an_echo_is_held_back_and_nothing_of_another_job(
    alertmanager: Alertmanager, number: int
) -> None:
    one, job, case = INHIBITIONS[number], f"job{number}", f"case{number}"
    source, targets = matching(one)
    elsewhere = [{**target, "job": f"{job}-{n}"} for n, target in enumerate(targets)]
    fired = [{**labels, "job": job} for labels in (source, *targets)]
    expected = {(target, job) for target in one.targets}
    assert held_back(alertmanager, [*fired, *elsewhere], case) == expected


def test_what_an_inhibition_does_not_name_is_told(alertmanager: Alertmanager) -> None:
    layer = "chainlit_data_layer_name"
    fired = [
        # Slow is another layer than the one that fails.
        alert("DataLayerErrors", **{layer: "A"}),
        alert("DataLayerSlow", **{layer: "B"}),
        # New visitors have not lost a connection, and a fast burn is no echo of a slow one.
        alert("ReconnectStorm"),
        alert("SessionSpike", cause="new_visitors"),
        alert("TurnErrorBudgetBurn", burn="fast"),
        alert("SignInFailures", cause="denied"),
        alert("SignInFailures", cause="backend"),
    ]
    assert held_back(alertmanager, fired, "told") == set()
