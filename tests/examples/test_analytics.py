"""The files of the analytics example: each by its schema, and all against each other."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from chainlit_otel.cli.visit import command as visit
from chainlit_otel.grafana import record_files

EXAMPLE = Path(__file__).parents[2] / "examples" / "analytics"
STACK = EXAMPLE.parent / "stack"


def load(name: str, place: Path = EXAMPLE) -> Any:
    return yaml.safe_load((place / name).read_text(encoding="utf-8"))


SERVICES: dict[str, dict[str, Any]] = load("compose.yaml")["services"]
COLLECTOR = load("otel-collector.yaml")
(SOURCE,) = load("grafana/datasources.yaml")["datasources"]
LISTENING = {
    "chat": {8000},
    "otel-collector": {4318},
    "clickhouse": {8123, 9000},
    "grafana": {3000},
}


def mounts(service: str) -> dict[str, Path]:
    found = {}
    for volume in SERVICES[service].get("volumes", []):
        source, target, mode = volume.split(":")
        assert mode == "ro"
        found[target] = (EXAMPLE / source).resolve()
    return found


def test_compose_takes_the_file() -> None:
    text = (EXAMPLE / "compose.yaml").read_text(encoding="utf-8")
    assert PyCompose.from_yaml(text).service_names() == list(SERVICES)
    with pytest.raises(ValueError, match="healthchek"):
        PyCompose.from_yaml(text.replace("healthcheck", "healthchek"))


def test_images_are_pinned_and_those_of_the_stack() -> None:
    images = {name: service["image"] for name, service in SERVICES.items() if "image" in service}
    stack = load("compose.yaml", STACK)["services"]
    for name, image in images.items():
        assert re.fullmatch(r"[a-z-]+/[a-z-]+:\d+(\.\d+){2,3}", image)
        assert image == stack.get(name, {"image": image})["image"]
    for name in ("chat", "visitors"):
        assert SERVICES[name]["build"] == stack[name]["build"]


def test_every_mount_is_there_and_every_file_is_mounted() -> None:
    used = {source for name in SERVICES for source in mounts(name).values()}
    assert all(source.exists() for source in used)
    files = {path for path in EXAMPLE.rglob("*.*") if path.is_file()}
    files -= {EXAMPLE / "compose.yaml", EXAMPLE / "README.md"}
    assert {path for path in files if path not in used and path.parent not in used} == set()
    (config,) = re.findall(r"--config=(\S+)", SERVICES["otel-collector"]["command"])
    assert mounts("otel-collector")[config] == EXAMPLE / "otel-collector.yaml"


def test_ports_are_open_on_this_machine_only() -> None:
    for name, service in SERVICES.items():
        for published in service.get("ports", []):
            address, _, inside = published.split(":")
            assert address == "127.0.0.1"
            assert int(inside) in LISTENING[name]


def test_every_address_is_that_of_a_service() -> None:
    texts = [path.read_text(encoding="utf-8") for path in EXAMPLE.rglob("*.y*ml")]
    found = {
        (host, int(port))
        for text in texts
        for host, port in re.findall(r"(?:https?|tcp)://([a-z][a-z0-9.-]*):(\d+)", text)
    }
    assert found == {("otel-collector", 4318), ("chat", 8000), ("clickhouse", 9000)}
    assert SOURCE["jsonData"]["port"] in LISTENING[SOURCE["jsonData"]["host"]]
    for service in SERVICES.values():
        assert set(service.get("depends_on", ())) <= set(SERVICES)
        for name, how in dict.fromkeys(service.get("depends_on", ())).items():
            how = how or service["depends_on"]
            if isinstance(how, dict):
                assert "healthcheck" in SERVICES[name]


def test_the_visitors_come_for_days() -> None:
    program, command, *arguments = SERVICES["visitors"]["command"].split()
    assert (program, command) == ("chainlit-otel", "visit")
    given = visit.make_context(command, arguments).params
    assert given["visitors"] / given["rate"] > 7 * 24 * 3600


def test_the_collector_takes_log_events_and_gives_them_to_the_clickhouse_of_the_example() -> None:
    assert COLLECTOR["service"]["pipelines"] == {
        "logs": {"receivers": ["otlp"], "exporters": ["clickhouse"]}
    }
    assert (set(COLLECTOR["receivers"]), set(COLLECTOR["exporters"])) == ({"otlp"}, {"clickhouse"})
    exporter = COLLECTOR["exporters"]["clickhouse"]
    # As the exporter's own schema of its configuration has them.
    assert set(exporter) <= {
        *("endpoint", "database", "username", "password", "ttl", "logs_table_name"),
        *("create_schema", "async_insert", "compress", "timeout", "sending_queue", "tls"),
    }
    assert set(exporter["sending_queue"]["batch"]) <= {"flush_timeout", "min_size", "max_size"}
    environment = SERVICES["clickhouse"]["environment"]
    assert exporter["username"] == environment["CLICKHOUSE_USER"]
    assert exporter["password"] == environment["CLICKHOUSE_PASSWORD"]
    assert exporter["database"] == SOURCE["jsonData"]["defaultDatabase"]


def test_the_app_sends_records_and_nothing_else() -> None:
    environment = SERVICES["chat"]["environment"]
    assert environment["CHAINLIT_OTEL_EXPORT_RECORDS"] == "true"
    assert environment["OTEL_METRICS_EXPORTER"] == environment["OTEL_TRACES_EXPORTER"] == "none"


def test_grafana_has_the_data_source_and_the_dashboard() -> None:
    environment = SERVICES["grafana"]["environment"]
    plugin, _, version = environment["GF_PLUGINS_PREINSTALL_SYNC"].partition("@")
    assert plugin == SOURCE["type"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    ((name, text),) = record_files().items()
    assert f'"type": "{SOURCE["type"]}"' in text
    (provider,) = load("grafana/dashboards.yaml")["providers"]
    directory = mounts("grafana")[provider["options"]["path"]]
    assert [file.name for file in directory.iterdir()] == [name]
    home = environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{name}"


def test_the_reader_may_not_write_and_is_the_one_who_reads() -> None:
    tree = ElementTree.parse(EXAMPLE / "reader.xml")
    assert tree.findtext("profiles/reader/readonly") == "2"
    assert tree.findtext("users/reader/profile") == SOURCE["jsonData"]["username"] == "reader"
    password = tree.findtext("users/reader/password")
    assert password == SOURCE["secureJsonData"]["password"]
    readme = (EXAMPLE / "README.md").read_text(encoding="utf-8")
    database = SOURCE["jsonData"]["defaultDatabase"]
    assert f"clickhouse://reader:{password}@localhost:8123/{database}" in readme
