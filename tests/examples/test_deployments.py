"""The deployments run as their files say, each as its host would run it, and are observed."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml
from compose_spec import PyCompose
from opentelemetry.sdk import environment_variables

from chainlit_otel import settings
from chainlit_otel.testing import Visitor
from tests.support.http import fetch
from tests.support.nginx import nginx
from tests.support.otlp import Receiver
from tests.support.scrape import Scrape, wait_until
from tests.support.server import ChainlitServer, free_port, python_path

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = ROOT / "examples" / "deployments"
APP = (ROOT / "examples" / "quickstart" / "app.py").read_text(encoding="utf-8")
# What programs of the environment, such as `chainlit`, are found by.
PATH = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
TEMPORALITY = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
CUMULATIVE, DELTA = 2, 1


def text(name: str) -> str:
    return (DEPLOYMENTS / name).read_text(encoding="utf-8")


def env_file(name: str) -> dict[str, str]:
    lines = [line for line in text(name).splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


VENDORS = {path.stem: env_file(f"otlp/{path.name}") for path in (DEPLOYMENTS / "otlp").iterdir()}


def container_command() -> list[str]:
    """What the image runs."""
    (command,) = re.findall(r"^CMD (\[.*\])$", text("container/Dockerfile"), flags=re.MULTILINE)
    shell, option, script = json.loads(command)
    assert (shell, option) == ("sh", "-c")
    # A server of the tests listens on loopback.
    return [shell, option, script.replace("0.0.0.0", "127.0.0.1")]


class Hosted(ChainlitServer):
    """An app that a host starts by a command of its own, with nothing but its settings."""

    def __init__(self, command: list[str], env: dict[str, str]) -> None:
        super().__init__({"app.py": APP}, env={**PATH, **env})
        self.env["PORT"] = str(self.port)
        self._command = command


def talk(url: str) -> None:
    async def visit() -> None:
        visitor = Visitor(url)
        await visitor.connect()
        assert (await visitor.say("hello")).texts == ["You said: hello"]
        await visitor.leave()

    asyncio.run(visit())


def pointed_at(receiver: Receiver, env: dict[str, str]) -> dict[str, str]:
    """The environment with its endpoints on this machine, and their paths as they were."""
    return {
        name: receiver.endpoint + urlsplit(value).path.removesuffix("/otlp").removesuffix("/api/v2")
        if name.endswith("_ENDPOINT")
        else value
        for name, value in env.items()
    }


def started(scrape: Scrape) -> float:
    return scrape.sum("chainlit_session_starts_total", chainlit_session_type="websocket")


# A laptop


def test_compose_takes_the_file_for_a_laptop() -> None:
    compose = yaml.safe_load(text("laptop/compose.yaml"))
    services = PyCompose.from_yaml(text("laptop/compose.yaml")).service_names()
    assert services == list(compose["services"])
    for service in compose["services"].values():
        assert re.fullmatch(r"[a-z-]+/[a-z-]+:\d+\.\d+\.\d+", service["image"])
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


# Hosts with one port


def of_the_space() -> dict[str, str]:
    rows = re.findall(r"\| (?:variable|secret) \| `(\w+)` \| (.+) \|", text("spaces/README.md"))
    return {name: value.strip("`") if "`" in value else "secret" for name, value in rows}


def of_the_web_app() -> dict[str, str]:
    return {row["name"]: row["value"] for row in json.loads(text("app-service/settings.json"))}


@pytest.mark.e2e
@pytest.mark.parametrize("host", ["spaces", "app-service"])
def test_metrics_are_served_inside_the_app_to_whoever_has_the_token(host: str) -> None:
    env = of_the_space() if host == "spaces" else of_the_web_app()
    command = container_command()
    if host == "app-service":
        script = text("app-service/startup.sh").replace("0.0.0.0", "127.0.0.1")
        command = ["sh", "-c", script]
    with Hosted(command, env) as server:
        talk(server.url)
        metrics = f"{server.url}{env['CHAINLIT_OTEL_METRICS_PATH']}"
        assert fetch(metrics).status_code == 401
        token = env["CHAINLIT_OTEL_METRICS_TOKEN"]
        allowed = fetch(metrics, timeout=10, headers={"Authorization": f"Bearer {token}"})
        assert allowed.status_code == 200
        assert started(Scrape(allowed.text)) == 1
        with pytest.raises(httpx.ConnectError):
            fetch(server.metrics_url)


def test_a_space_is_served_where_it_is_looked_for() -> None:
    _, card, _ = text("spaces/README.md").split("---\n", 2)
    space = yaml.safe_load(card)
    assert space["sdk"] == "docker"
    assert f"${{PORT:-{space['app_port']}}}" in text("container/Dockerfile")


def test_a_space_and_a_web_app_name_nothing_but_settings() -> None:
    ours = {row["env"] for row in settings.describe()}
    assert set(of_the_space()) <= ours
    assert set(of_the_web_app()) - ours == {"SCM_DO_BUILD_DURING_DEPLOYMENT"}


def test_prometheus_takes_the_file_for_metrics_inside_the_app(tmp_path: Path) -> None:
    shutil.copy(DEPLOYMENTS / "one-port" / "prometheus.yml", tmp_path)
    (tmp_path / "token").write_text("secret")
    check_config(tmp_path)


def check_config(directory: Path) -> None:
    shutil.copy(ROOT / "dashboards" / "rules.yml", directory)
    command = ["promtool", "check", "config", str(directory / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "SUCCESS" in done.stdout


# Cloud Run


def of_cloud_run() -> tuple[dict[str, Any], dict[str, str], list[str]]:
    """The specification of an instance, its plain variables, and its secret ones."""
    spec = yaml.safe_load(text("cloud-run/service.yaml"))["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    plain = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    secret = [one["name"] for one in container["env"] if "valueFrom" in one]
    return spec, plain, secret


@pytest.mark.e2e
def test_an_instance_of_cloud_run_sends_all_of_it_to_the_vendor() -> None:
    spec, plain, secret = of_cloud_run()
    vendor = VENDORS["grafana-cloud"]
    assert secret == ["OTEL_EXPORTER_OTLP_HEADERS"]
    assert spec["timeoutSeconds"] == 3600
    with Receiver() as receiver:
        env = pointed_at(receiver, {**plain, **{name: vendor[name] for name in secret}})
        env["OTEL_METRIC_EXPORT_INTERVAL"] = "200"
        with Hosted(container_command(), env) as app:
            talk(app.url)
            receiver.wait_for(lambda: receiver.named("chainlit.turn"))
            receiver.wait_for(lambda: "chainlit.session.starts" in receiver.metrics)
            assert receiver.metrics["chainlit.turn.duration"].histogram.aggregation_temporality == (
                CUMULATIVE
            )
            with pytest.raises(httpx.ConnectError):
                fetch(app.metrics_url)
    for path in ("/v1/traces", "/v1/metrics"):
        assert receiver.headers[path]["authorization"] == "Basic BASE64_OF_ID_AND_TOKEN"


def test_cloud_run_keeps_browsers_with_their_instance_and_lets_it_export() -> None:
    template = yaml.safe_load(text("cloud-run/service.yaml"))["spec"]["template"]
    annotations = template["metadata"]["annotations"]
    assert annotations["run.googleapis.com/sessionAffinity"] == "true"
    assert annotations["run.googleapis.com/cpu-throttling"] == "false"
    _, plain, _ = of_cloud_run()
    known = {row["env"] for row in settings.describe()} | set(vars(environment_variables))
    assert set(plain) <= known
    assert "CHAINLIT_OTEL_METRICS_PATH" not in plain  # one of several instances would answer


# Vendors


@pytest.mark.e2e
def test_a_vendor_gets_its_headers_and_deltas() -> None:
    with Receiver() as receiver:
        env = pointed_at(receiver, VENDORS["datadog"])
        with Hosted(container_command(), {**env, "OTEL_METRIC_EXPORT_INTERVAL": "200"}) as app:
            talk(app.url)
            starts = receiver.wait_for(lambda: receiver.metrics.get("chainlit.session.starts"))
            assert starts.sum.aggregation_temporality == DELTA
            assert started(app.scrape()) == 1
    assert receiver.headers["/v1/metrics"]["dd-api-key"] == "API_KEY"
    assert not receiver.spans
    points = [
        point.as_int + point.as_double
        for export in receiver.metric_exports
        for resource in export.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == "chainlit.session.starts"
        for point in metric.sum.data_points
    ]
    assert sum(points) == 1


@pytest.mark.parametrize("vendor", sorted(VENDORS))
def test_an_environment_names_standard_variables_only(vendor: str) -> None:
    env = VENDORS[vendor]
    known = set(vars(environment_variables)) | {TEMPORALITY}
    assert set(env) <= known
    assert env[TEMPORALITY] in ("cumulative", "delta")
    endpoints = [value for name, value in env.items() if name.endswith("_ENDPOINT")]
    assert len(endpoints) == 1
    assert all(urlsplit(url).scheme == "https" for url in endpoints)
    for name, value in env.items():
        # A blank in a header would be refused: values are URL-encoded.
        assert not name.endswith("_HEADERS") or re.fullmatch(r"([\w-]+=[^\s,]+,?)+", value)


def test_the_page_says_of_each_vendor_what_its_file_has() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `otlp/([\w-]+)\.env` \|[^|]+\| (\w+) \|", page, re.MULTILINE))
    assert rows == {vendor: env[TEMPORALITY] for vendor, env in VENDORS.items()}


# Several workers


@contextmanager
def running(command: list[str], directory: Path, env: dict[str, str]) -> Iterator[Path]:
    """A program in a directory; gives its log, and ends it by SIGTERM."""
    log = directory / f"{Path(command[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **python_path(), **PATH, **env},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield log
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM), log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answers(url: str) -> bool:
    try:
        return fetch(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.e2e
def test_users_stay_with_their_worker_behind_nginx(tmp_path: Path) -> None:
    # Nobody is given the port after one of these: the second worker has it.
    chat, metrics = free_port(), free_port()
    (tmp_path / "app.py").write_text(APP)
    env = {
        "WORKERS": "2",
        "CHAT_PORT": str(chat),
        "METRICS_PORT": str(metrics),
    }
    with (
        running([str(DEPLOYMENTS / "workers" / "start.sh")], tmp_path, env) as log,
        nginx([chat, chat + 1]) as front,
    ):
        for worker in range(2):
            url = f"http://127.0.0.1:{chat + worker}/"
            wait_until(partial(answers, url), 60, f"{url} to answer\n{log.read_text()}")
        asyncio.run(_crowd(front))
        pages = [
            Scrape(fetch(f"http://127.0.0.1:{metrics + worker}/metrics").text)
            for worker in range(2)
        ]
        counts = [started(page) for page in pages]
        assert sum(counts) == 8
        assert all(counts), "all users are with one worker"
        assert sum(page.sum("chainlit_session_lookup_misses_total") for page in pages) == 0


async def _crowd(url: str) -> None:
    """Eight visitors, who begin by polling, and would lose their session on the other worker."""

    async def visit() -> None:
        visitor = Visitor(url)
        await visitor.connect()
        assert (await visitor.say("hello")).texts == ["You said: hello"]
        await visitor.drop()
        await visitor.reconnect()
        assert (await visitor.say("again")).texts == ["You said: again"]
        await visitor.leave()

    await asyncio.gather(*(visit() for _ in range(8)))


def test_prometheus_scrapes_every_worker(tmp_path: Path) -> None:
    shutil.copy(DEPLOYMENTS / "workers" / "prometheus.yml", tmp_path)
    check_config(tmp_path)
    config = yaml.safe_load(text("workers/prometheus.yml"))
    ((targets,),) = [job["static_configs"] for job in config["scrape_configs"]]
    assert targets["targets"] == ["127.0.0.1:9464", "127.0.0.1:9465"]


@pytest.mark.parametrize("script", ["app-service/startup.sh", "workers/start.sh"])
def test_a_script_can_be_run_and_has_no_slip(script: str) -> None:
    file = DEPLOYMENTS / script
    assert os.access(file, os.X_OK)
    assert subprocess.run(["sh", "-n", file], capture_output=True).returncode == 0
    assert shlex.split(text(script), comments=True)
