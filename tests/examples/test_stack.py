"""The files of the container stack: each checked by its own program, and all against each other."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from chainlit_otel.cli.visit import command as visit
from chainlit_otel.grafana import files

ROOT = Path(__file__).parents[2]
STACK = ROOT / "examples" / "stack"
DOCKERFILE = (STACK / "Dockerfile").read_text(encoding="utf-8")


def load(name: str) -> Any:
    return yaml.safe_load((STACK / name).read_text(encoding="utf-8"))


COMPOSE = load("compose.yaml")
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
COLLECTOR = load("otel-collector.yaml")
DATASOURCES = {source["uid"]: source for source in load("grafana/datasources.yaml")["datasources"]}


def words(service: str) -> list[str]:
    command = SERVICES[service].get("command", [])
    return command.split() if isinstance(command, str) else list(command)


def mounts(service: str) -> dict[str, Path]:
    """What a service mounts: the path in its container, and the file here."""
    found = {}
    for volume in SERVICES[service].get("volumes", []):
        source, target, mode = volume.split(":")
        assert mode == "ro"
        found[target] = (STACK / source).resolve()
    return found


def listening() -> dict[str, set[int]]:
    """The ports on which the services listen, by what configures them, else by their defaults."""

    def port(address: str) -> int:
        return int(address.rpartition(":")[2])

    tempo = load("tempo.yaml")
    (chat,) = (word.partition("=")[2] for word in words("chat") if word.startswith("--port="))
    return {
        "chat": {int(chat), 9464},
        "otel-collector": {
            port(one["endpoint"]) for one in COLLECTOR["receivers"]["otlp"]["protocols"].values()
        },
        "tempo": {
            tempo["server"]["http_listen_port"],
            *(
                port(one["endpoint"])
                for one in tempo["distributor"]["receivers"]["otlp"]["protocols"].values()
            ),
        },
        "loki": {load("loki.yaml")["server"]["http_listen_port"]},
        "prometheus": {9090},
        "alertmanager": {9093},
        "grafana": {3000},
    }


def test_compose_takes_the_file() -> None:
    text = (STACK / "compose.yaml").read_text(encoding="utf-8")
    assert PyCompose.from_yaml(text).service_names() == list(SERVICES)
    with pytest.raises(ValueError, match="healthchek"):
        PyCompose.from_yaml(text.replace("healthcheck", "healthchek"))


def test_images_are_pinned_to_a_release() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if "image" in service}
    assert set(SERVICES) - set(images) == {"chat", "visitors"}
    for image in images.values():
        assert re.fullmatch(r"[a-z-]+/[a-z-]+:v?\d+\.\d+\.\d+", image)


def test_every_mount_is_there_and_every_config_is_mounted() -> None:
    for name in SERVICES:
        for source in mounts(name).values():
            assert source.exists(), source
            assert source.is_relative_to(ROOT)
        for word in words(name):
            if re.match(r"--?config(\.file)?=", word):
                assert word.partition("=")[2] in mounts(name)
    used = {source for name in SERVICES for source in mounts(name).values()}
    configs = {path for path in STACK.rglob("*.y*ml") if path.name != "compose.yaml"}
    assert configs <= used


def test_ports_are_open_on_this_machine_only() -> None:
    for name, service in SERVICES.items():
        for published in service.get("ports", []):
            address, _, inside = published.split(":")
            assert address == "127.0.0.1"
            assert int(inside) in listening()[name]


def test_every_address_is_that_of_a_service() -> None:
    texts = [path.read_text(encoding="utf-8") for path in STACK.rglob("*.y*ml")]
    names = "|".join(SERVICES)
    found = {
        (host, int(port))
        for text in texts
        for host, port in re.findall(r"(?:https?://|[ \[])([a-z][a-z0-9.-]*):(\d+)", text)
        if host not in ("localhost", "127.0.0.1")
    }
    for host, port in found:
        assert host in SERVICES, (host, names)
        assert port in listening()[host], (host, port)
    assert {host for host, _ in found} >= set(SERVICES) - {"grafana", "visitors"}


def test_services_wait_for_services() -> None:
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= set(SERVICES)
    assert "healthcheck" in SERVICES["chat"]


def test_the_visitors_come_for_days() -> None:
    program, command, *arguments = words("visitors")
    assert (program, command) == ("chainlit-otel", "visit")
    given = visit.make_context(command, arguments).params
    assert given["url"] == "http://chat:8000"
    assert given["visitors"] / given["rate"] > 7 * 24 * 3600


def test_prometheus_takes_its_files_where_they_are_mounted(tmp_path: Path) -> None:
    for target, source in mounts("prometheus").items():
        place = tmp_path / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, place)
    config = tmp_path / "etc" / "prometheus" / "prometheus.yml"
    done = subprocess.run(
        ["promtool", "check", "config", config], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    shipped = yaml.safe_load((ROOT / "dashboards" / "rules.yml").read_text(encoding="utf-8"))
    rules = sum(len(group["rules"]) for group in shipped["groups"])
    assert f"SUCCESS: {rules} rules found" in done.stdout
    assert "--enable-feature=exemplar-storage" in words("prometheus")


def test_alertmanager_takes_its_file() -> None:
    amtool = ["amtool", "check-config", str(STACK / "alertmanager.yml")]
    done = subprocess.run(amtool, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_collector_uses_what_it_defines_and_defines_what_it_uses() -> None:
    pipelines = COLLECTOR["service"]["pipelines"].values()
    for part in ("receivers", "processors", "exporters"):
        assert {one for pipeline in pipelines for one in pipeline[part]} == set(COLLECTOR[part])


def test_metrics_come_one_way_only() -> None:
    assert set(COLLECTOR["service"]["pipelines"]) == {"traces", "logs"}
    assert SERVICES["chat"]["environment"]["OTEL_METRICS_EXPORTER"] == "none"
    assert [job["job_name"] for job in load("prometheus.yml")["scrape_configs"]] == ["chat"]


def test_data_sources_lead_to_each_other() -> None:
    text = (STACK / "grafana" / "datasources.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"datasourceUid: (\S+)", text)) == {"tempo", "loki"} <= set(DATASOURCES)
    # Grafana would take a single one for a variable of the environment, and leave nothing.
    settings = re.sub(r"^#.*$", "", text, flags=re.M)
    assert "$$" in settings
    assert "$" not in settings.replace("$$", "")


def test_the_dashboards_find_their_data_source() -> None:
    default = [source for source in DATASOURCES.values() if source.get("isDefault")]
    assert [source["type"] for source in default] == ["prometheus"]
    for text in files().values():
        # Whichever it is called, a dashboard takes the default one of this type.
        assert set(re.findall(r'"uid": "(\$[^"]*)"', text)) == {"${datasource}"}
        assert '"query": "prometheus"' in text


def test_grafana_loads_the_dashboards_from_where_they_are_mounted() -> None:
    (provider,) = load("grafana/dashboards.yaml")["providers"]
    path = provider["options"]["path"]
    directory = mounts("grafana")[path]
    assert {file.name for file in directory.glob("*.json")} == set(files())
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(f"{path}/")
    assert (directory / home.removeprefix(f"{path}/")).is_file()


def test_the_image_is_made_of_files_that_are_there() -> None:
    copied = [
        source
        for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.M)
        for source in line.split()[:-1]
    ]
    ignored = (STACK / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    let_in = [line[1:] for line in ignored if line.startswith("!")]
    assert ignored[0] == "*"
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(Path(source).is_relative_to(name) for name in let_in), source
    for service in ("chat", "visitors"):
        build = SERVICES[service]["build"]
        context = (STACK / build["context"]).resolve()
        assert (context, context / build["dockerfile"]) == (ROOT, STACK / "Dockerfile")


def test_the_image_has_pinned_versions_only() -> None:
    (install,) = re.findall(r"pip install (.*?)\n\n", DOCKERFILE.replace("\\\n", ""), re.S)
    named = [word for word in install.split() if re.fullmatch(r"[a-z][a-z-]+", word)]
    assert "opentelemetry-distro" in named
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name in named:
        assert re.search(rf"^{name}==", pinned, re.M), name
