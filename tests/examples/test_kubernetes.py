"""The manifests of the Kubernetes example, as `kubectl apply -k` would send them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from chainlit_otel.grafana import files
from chainlit_otel.rules import render
from tests.support.monitor import Monitored
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer
from tests.support.typescript import type_check

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "kubernetes"
MONITOR = EXAMPLE / "monitor"
DASHBOARDS = ROOT / "dashboards"
SCHEMA = Path(__file__).with_name("schema")
# `kubectl apply` keeps a copy of an object in an annotation, and there is no room for more.
MOST_BYTES = 262144
PRE_STOP = 5
LONG_POLL = 25
LAST_EXPORT = 3

Manifest = dict[str, Any]
Check = Callable[[Manifest], str]


def build(directory: Path) -> list[Manifest]:
    kubectl = ["kubectl", "kustomize", str(directory)]
    done = subprocess.run(kubectl, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # it warns of what is deprecated
    return list(yaml.safe_load_all(done.stdout))


@pytest.fixture(scope="module")
def manifests() -> list[Manifest]:
    return [*build(EXAMPLE), *build(DASHBOARDS)]


@pytest.fixture(scope="module")
def monitor() -> list[Manifest]:
    return build(MONITOR)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def one(manifests: list[Manifest], kind: str) -> Manifest:
    (manifest,) = of_kind(manifests, kind)
    return manifest


def container(manifests: list[Manifest]) -> Manifest:
    (found,) = one(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def selected(manifests: list[Manifest], kind: str, labels: dict[str, str]) -> list[Manifest]:
    return [
        manifest
        for manifest in of_kind(manifests, kind)
        if labels.items() <= manifest["metadata"].get("labels", {}).items()
    ]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """What the compiler objects to in a manifest; empty if nothing."""
    against = type_check(SCHEMA, tmp_path_factory.mktemp("schema"), "Kinds")
    return lambda manifest: against(f"Kinds['{manifest['kind']}']", json.dumps(manifest))


def test_every_manifest_is_what_kubernetes_and_the_operator_take(
    check: Check, manifests: list[Manifest], monitor: list[Manifest]
) -> None:
    for manifest in monitor:
        assert check(manifest) == "", manifest["kind"]
    seen = set()
    for manifest in manifests:
        # Five dashboards say no more of a ConfigMap than one.
        if manifest["kind"] not in seen or manifest["kind"] != "ConfigMap":
            assert check(manifest) == "", manifest["metadata"]["name"]
        seen.add(manifest["kind"])
    kinds = {"ConfigMap", "Deployment", "Ingress", "PrometheusRule", "Service", "ServiceMonitor"}
    assert seen == kinds


@pytest.mark.parametrize(
    ("kind", "path", "key"),
    [
        ("Deployment", ["spec", "template", "spec", "containers", 0], "imagePullpolicy"),
        ("ServiceMonitor", ["spec", "endpoints", 0], "scrapeIntervall"),
        ("PrometheusRule", ["spec", "groups", 1, "rules", 0], "severity"),
    ],
)
def test_the_schema_notices_a_slip(
    check: Check, manifests: list[Manifest], kind: str, path: list[Any], key: str
) -> None:
    manifest = json.loads(json.dumps(one(manifests, kind)))
    place = manifest
    for step in path:
        place = place[step]
    place[key] = "15s"
    assert key in check(manifest)


def test_the_config_maps_are_the_dashboards(manifests: list[Manifest]) -> None:
    maps = of_kind(manifests, "ConfigMap")
    assert {name: text for one in maps for name, text in one["data"].items()} == files()
    for config in maps:
        assert config["metadata"]["labels"] == {"grafana_dashboard": "1"}
        assert [f"{config['metadata']['name']}.json"] == list(config["data"])
        assert len(json.dumps(config)) < MOST_BYTES


def test_the_rules_are_the_generated_ones(manifests: list[Manifest]) -> None:
    text = render(format="prometheusrule")
    assert (EXAMPLE / "prometheusrule.yaml").read_text(encoding="utf-8") == text
    assert one(manifests, "PrometheusRule") == yaml.safe_load(text)


def test_the_pods_are_found_by_their_services(manifests: list[Manifest]) -> None:
    deployment = one(manifests, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in container(manifests)["ports"]}
    assert ports == {"http": 8000, "metrics": 9464}
    for service in of_kind(manifests, "Service"):
        assert service["spec"]["selector"].items() <= labels.items()
        for port in service["spec"]["ports"]:
            assert port["targetPort"] in ports


def test_prometheus_finds_the_metrics_and_no_ingress_does(manifests: list[Manifest]) -> None:
    monitor = one(manifests, "ServiceMonitor")
    (service,) = selected(manifests, "Service", monitor["spec"]["selector"]["matchLabels"])
    (endpoint,) = monitor["spec"]["endpoints"]
    assert [port["name"] for port in service["spec"]["ports"]] == [endpoint["port"]]
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "chat"
    (rule,) = one(manifests, "Ingress")["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    backend = path["backend"]["service"]
    (chat,) = (s for s in of_kind(manifests, "Service") if s["metadata"]["name"] == backend["name"])
    assert [port["name"] for port in chat["spec"]["ports"]] == [backend["port"]["name"]] == ["http"]
    env = {one["name"]: one.get("value") for one in container(manifests)["env"]}
    assert env["OTEL_EXPORTER_PROMETHEUS_HOST"] == "0.0.0.0"


def test_prometheus_finds_the_monitor_and_nothing_else_does(
    manifests: list[Manifest], monitor: list[Manifest]
) -> None:
    labels = one(monitor, "Deployment")["spec"]["template"]["metadata"]["labels"]
    service, scraped = one(monitor, "Service"), one(monitor, "ServiceMonitor")
    assert service["spec"]["selector"].items() <= labels.items()
    for others in of_kind(manifests, "Service"):
        assert not others["spec"]["selector"].items() <= labels.items()
    assert selected([*manifests, *monitor], "Service", scraped["spec"]["selector"]["matchLabels"])
    (endpoint,), (port,) = scraped["spec"]["endpoints"], service["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    assert {"name": port["targetPort"], "containerPort": 9465} in container(monitor)["ports"]
    assert service["metadata"]["labels"][scraped["spec"]["jobLabel"]] == "chat-monitor"


def test_the_monitor_has_its_dialogs_and_the_token_of_the_app(
    manifests: list[Manifest], monitor: list[Manifest]
) -> None:
    dialogs = one(monitor, "ConfigMap")
    (volume,) = one(monitor, "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert volume["configMap"]["name"] == dialogs["metadata"]["name"]
    watching, chat = container(monitor), container(manifests)
    (mount,) = watching["volumeMounts"]
    scripts = [word for word in watching["command"] if word.startswith("--script=")]
    assert scripts == [f"--script={mount['mountPath']}/{name}" for name in dialogs["data"]]
    tokens = [
        each["valueFrom"]["secretKeyRef"]
        for of in (watching, chat)
        for each in of["env"]
        if each["name"] == "CHAINLIT_OTEL_SYNTHETIC_TOKEN"
    ]
    # Without the secret there is no monitor, and the app goes on.
    assert tokens[1] == {**tokens[0], "optional": True}
    assert watching["image"] == chat["image"]


@pytest.mark.e2e
def test_what_the_pod_of_the_monitor_runs_watches_the_app(monitor: list[Manifest]) -> None:
    token = {"CHAINLIT_OTEL_SYNTHETIC_TOKEN": "the-token-of-both-of-them"}
    app = (ROOT / "chainlit_otel" / "cli" / "demo_app.py").read_text(encoding="utf-8")
    watching = container(monitor)
    program, name, target, *options = watching["command"]
    assert (program, name, target) == ("chainlit-otel", "monitor", "http://chat")
    (mount,) = watching["volumeMounts"]
    given = [option.replace(f"{mount['mountPath']}/", f"{MONITOR}/") for option in options]
    with ChainlitServer({"app.py": app}, env=token) as server:
        monitored = Monitored(server.url, *given, env=token)
        try:
            wait_until(
                lambda: monitored.scrape().sum("probe_chat_probes_total", dialog="greeting"),
                120,
                "a dialog",
            )
            success = monitored.scrape().sum("probe_success", dialog="greeting")
            wait_until(
                lambda: server.scrape().sum("chainlit_synthetic_turns_total") >= 2,
                60,
                "the turns of the dialog",
            )
            assert server.scrape().sum("chainlit_session_starts_total") == 0
        finally:
            code, errors = monitored.end()
    assert (code, success) == (0, 1), errors


def test_visitors_stay_with_their_replica(manifests: list[Manifest]) -> None:
    assert one(manifests, "Deployment")["spec"]["replicas"] > 1
    affinity = {s["metadata"]["name"]: s["spec"] for s in of_kind(manifests, "Service")}["chat"]
    assert affinity["sessionAffinity"] == "ClientIP"
    annotations = one(manifests, "Ingress")["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/affinity"] == "cookie"


def test_a_pod_has_the_time_to_end_in_good_order(manifests: list[Manifest]) -> None:
    pod = one(manifests, "Deployment")["spec"]["template"]["spec"]
    assert container(manifests)["lifecycle"]["preStop"]["exec"]["command"] == [
        "sleep",
        f"{PRE_STOP}",
    ]
    assert pod["terminationGracePeriodSeconds"] > PRE_STOP + LONG_POLL + LAST_EXPORT


def test_the_probes_ask_the_app_and_not_chainlit_otel(manifests: list[Manifest]) -> None:
    chat = container(manifests)
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert chat[name]["httpGet"] == {"path": "/health", "port": "http"}
    liveness = chat["livenessProbe"]
    assert liveness["periodSeconds"] * liveness["failureThreshold"] >= 60
