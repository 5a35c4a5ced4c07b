"""The doctor on apps that are well and on apps that are not, each in a real process."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import create_server
from threading import Event, Thread

import pytest
import tomli

from chainlit_otel import catalog
from chainlit_otel.settings import describe
from tests.support.server import free_port, python_path

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
HEALTHY = """
import chainlit as cl

import chainlit_otel

chainlit_otel.enable()


@cl.on_message
async def on_message(message):
    await cl.Message("hello").send()
"""
BARE = "import chainlit as cl\n"


@dataclass(frozen=True)
class Report:
    """What the doctor said."""

    exit_code: int
    text: str

    @property
    def problems(self) -> list[str]:
        _, _, reported = self.text.partition("\nproblems\n")
        return [line.strip() for line in reported.partition("\n\n")[0].splitlines()]

    def rows(self, section: str) -> dict[str, str]:
        """The rows of a section, by their first column."""
        block = re.search(rf"^{section}\n((?:  .*\n)+)", self.text, re.MULTILINE)
        assert block, f"no {section} in:\n{self.text}"
        rows = (line.split(maxsplit=1) for line in block[1].splitlines())
        return {row[0]: row[1] if len(row) > 1 else "" for row in rows}


class Patient:
    """An app in a directory, and a working directory that is another one."""

    def __init__(self, tmp_path: Path) -> None:
        self.here, self.there = tmp_path / "here", tmp_path / "there"
        self.site, self.temporary = tmp_path / "site", tmp_path / "tmp"
        for directory in (self.here, self.there, self.site, self.temporary):
            directory.mkdir()
        self.env = {"OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port())}
        project = tomli.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
        self.installed(project["requires-python"], project["dependencies"])

    def installed(self, python: str, requirements: list[str]) -> None:
        """Let the package declare what it supports, whether or not it is installed here."""
        lines = [
            *("Metadata-Version: 2.1", "Name: chainlit-otel", "Version: 0.1.0"),
            f"Requires-Python: {python}",
            *(f"Requires-Dist: {requirement}" for requirement in requirements),
        ]
        info = self.site / "chainlit_otel-0.1.0.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text("\n".join(lines) + "\n\n", encoding="utf-8")

    def app(self, text: str, name: str = "app.py") -> Path:
        file = self.there / name
        file.write_text(text, encoding="utf-8")
        return file

    def examine(self, *arguments: str | Path, **env: str) -> Report:
        """Let the doctor look, and see to it that no file came, went or changed."""
        before = [self.files(directory) for directory in (self.here, self.there)]
        path = os.pathsep.join([str(self.site), *filter(None, [python_path().get("PYTHONPATH")])])
        done = subprocess.run(
            [
                *(sys.executable, "-c", "from chainlit_otel.cli import main; main()", "doctor"),
                *map(str, arguments),
            ],
            cwd=self.here,
            env={
                **os.environ,
                **self.env,
                "PYTHONPATH": path,
                "TMPDIR": str(self.temporary),
                **env,
            },
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.stderr == "" or done.returncode == 2, done.stderr
        assert [self.files(directory) for directory in (self.here, self.there)] == before
        assert list(self.temporary.iterdir()) == []
        return Report(done.returncode, done.stdout)

    @staticmethod
    def files(directory: Path) -> dict[str, tuple[str, int]]:
        """Every file and directory below one, with its contents and when it was changed."""
        return {
            str(file.relative_to(directory)): (
                file.read_text(encoding="utf-8") if file.is_file() else "",
                file.stat().st_mtime_ns,
            )
            for file in [directory, *directory.rglob("*")]
        }


@pytest.fixture
def patient(tmp_path: Path) -> Patient:
    return Patient(tmp_path)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """What the doctor says of an environment in which nothing is set, without an app."""
    return Patient(tmp_path_factory.mktemp("bare")).examine()


class Collector:
    """Answers every export with one status, and keeps the headers and paths it saw."""

    def __init__(self, status: int = 200, location: str | None = None) -> None:
        self.seen: list[tuple[str, str | None]] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                collector.seen.append((self.path, self.headers.get("authorization")))
                self.send_response(status)
                if location is not None:
                    self.send_header("Location", location)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.place = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.place}"
        self.thread = Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05})
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


def assert_well(report: Report) -> None:
    assert report.text.endswith("\neverything is in order\n"), report.text
    assert report.exit_code == 0
    assert report.problems == []


def assert_one_problem(report: Report) -> str:
    assert report.exit_code == 1, report.text
    assert report.text.endswith("\n1 problem\n")
    (problem,) = report.problems
    return problem


# What is in order


def test_a_healthy_app_is_in_order_and_everything_is_shown(patient: Patient) -> None:
    port = patient.env["OTEL_EXPORTER_PROMETHEUS_PORT"]
    report = patient.examine(patient.app(HEALTHY))
    assert_well(report)
    assert report.rows("probes") == dict.fromkeys(catalog.INSTALLED_PROBE.values, "on")
    assert list(report.rows("settings")) == [row["name"] for row in describe()]
    assert report.rows("admin server") == {
        "metrics": f"http://127.0.0.1:{port}/metrics",
        "health": f"http://127.0.0.1:{port}/healthz",
        "port": f"{port} is free",
    }
    assert report.rows("metrics") == {"provider": "of chainlit-otel", "read": "at /metrics"}
    assert report.rows("traces")["provider"].startswith("none: no endpoint is named")
    assert report.rows("endpoints") == {"metrics": "none", "traces": "none"}
    assert list(report.rows("off")) == ["traces"]
    versions = report.rows("versions")
    assert {
        *("python", "chainlit", "opentelemetry-api", "opentelemetry-sdk", "fastapi"),
        *("python-socketio", "prometheus-client", "wrapt"),
    } <= set(versions)
    assert ">=2.6.1" in versions["chainlit"]


def test_columns_are_aligned(bare: Report) -> None:
    block = re.search(r"^settings\n((?:  .*\n)+)", bare.text, re.MULTILINE)
    assert block
    columns = {
        match.start()
        for line in block[1].splitlines()
        for match in re.finditer("[A-Z]+_[A-Z_]+$", line)
    }
    assert len(columns) == 1
    assert not [line for line in bare.text.splitlines() if line != line.rstrip()]


def test_without_an_app_the_environment_is_examined(bare: Report) -> None:
    assert_well(bare)
    assert set(bare.rows("probes").values()) == {"on"}


def test_the_settings_in_force_are_those_of_the_app_and_of_its_dotenv(patient: Patient) -> None:
    (patient.here / ".env").write_text("CHAINLIT_OTEL_CAPTURE_STEPS=true\n", encoding="utf-8")
    app = HEALTHY.replace("enable()", "enable(chainlit_otel.Settings(shutdown_timeout=7, port=0))")
    report = patient.examine(patient.app(app))
    assert_well(report)
    assert report.rows("settings")["shutdown_timeout"].startswith("7 ")
    assert report.rows("settings")["capture_steps"].startswith("true ")


def test_an_app_finds_its_own_modules_and_the_configuration_of_where_it_is_started(
    patient: Patient,
) -> None:
    (patient.there / "beside.py").write_text("ANSWER = 42\n", encoding="utf-8")
    (patient.here / ".chainlit").mkdir()
    (patient.here / ".chainlit" / "config.toml").write_text(
        '[meta]\ngenerated_by = "2.0.0"\n[project]\nsession_timeout = 1234\n[UI]\nname = "x"\n',
        encoding="utf-8",
    )
    checks = """
import beside
from chainlit.config import config
assert beside.ANSWER == 42
assert config.project.session_timeout == 1234
"""
    assert_well(patient.examine(patient.app(HEALTHY + checks)))


def test_a_provider_of_the_application_is_named_with_its_exporters(patient: Patient) -> None:
    app = """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

class Mine(MeterProvider):
    pass

metrics.set_meter_provider(Mine([InMemoryMetricReader()]))
trace.set_tracer_provider(provider := TracerProvider())
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
"""
    report = patient.examine(patient.app(app + HEALTHY))
    assert_well(report)
    assert report.rows("metrics")["provider"].startswith("of the application: ")
    assert report.rows("metrics")["provider"].endswith(".Mine")
    assert "InMemoryMetricReader" in report.rows("metrics")
    assert "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS=true" in report.text
    assert report.rows("traces")["provider"] == (
        "of the application: opentelemetry.sdk.trace.TracerProvider"
    )
    assert "ConsoleSpanExporter" in report.rows("traces")


def test_a_port_that_is_taken_is_no_problem_and_the_one_that_is_used_instead_is_named(
    patient: Patient,
) -> None:
    with create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        report = patient.examine(OTEL_EXPORTER_PROMETHEUS_PORT=str(port))
    assert_well(report)
    found = re.fullmatch(
        rf"{port} is taken now: the next free one, (\d+), is used",
        report.rows("admin server")["port"],
    )
    assert found
    assert port < int(found[1]) < port + 16


def test_an_endpoint_that_answers_is_in_order(patient: Patient, collector: Collector) -> None:
    report = patient.examine(
        patient.app(HEALTHY),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20abc",
    )
    assert_well(report)
    assert set(collector.seen) == {("/v1/metrics", "Bearer abc"), ("/v1/traces", "Bearer abc")}
    assert report.rows("traces")["provider"] == "of chainlit-otel"
    assert report.rows("traces")["OTLPSpanExporter"] == f"to {collector.url}/v1/traces"
    assert report.rows("metrics")["OTLPMetricExporter"] == f"to {collector.url}/v1/metrics"
    assert report.rows("endpoints")["traces"].endswith("answers (200)")


def test_where_records_go_is_shown_and_asked(
    patient: Patient, collector: Collector, tmp_path: Path
) -> None:
    report = patient.examine(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        CHAINLIT_OTEL_EXPORT_RECORDS="true",
        CHAINLIT_OTEL_RECORDS_DIR=str(tmp_path / "not" / "yet"),
    )
    assert_well(report)
    assert report.rows("records") == {
        "files": f"{tmp_path}/not/yet  can be written",
        "logs": "of chainlit-otel",
    }
    assert report.rows("endpoints")["logs"].endswith("answers (200)")
    assert not (tmp_path / "not").exists()


def test_a_directory_of_records_that_cannot_be_is_a_problem(
    patient: Patient, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    report = patient.examine(CHAINLIT_OTEL_RECORDS_DIR=str(tmp_path / "file"))
    assert report.exit_code == 1
    assert f"records cannot be written (CHAINLIT_OTEL_RECORDS_DIR={tmp_path}/file)" in report.text
    assert "Not a directory" in report.text


def test_an_endpoint_of_grpc_is_in_order_if_it_takes_connections(patient: Patient) -> None:
    with create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        report = patient.examine(
            OTEL_EXPORTER_OTLP_ENDPOINT=place,
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"http://{place}",
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        )
    assert_well(report)
    assert report.rows("endpoints")["metrics"].endswith("answers")
    assert report.rows("endpoints")["traces"].endswith("answers")


# What is not


def test_an_app_without_enable_is_a_problem_with_its_fix(patient: Patient) -> None:
    problem = assert_one_problem(patient.examine(patient.app(BARE, "bare.py")))
    assert "bare.py does not call chainlit_otel.enable()" in problem


def test_an_endpoint_that_nobody_answers_at_is_named_with_its_variable(patient: Patient) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    report = patient.examine(patient.app(HEALTHY), OTEL_EXPORTER_OTLP_ENDPOINT=url)
    assert report.exit_code == 1
    assert report.text.endswith("\n2 problems\n")
    assert report.problems == [
        f"nobody answers at {url}/v1/{signal}, where {signal} go (OTEL_EXPORTER_OTLP_ENDPOINT): "
        "Connection refused; start the collector, or fix the variable"
        for signal in ("metrics", "traces")
    ]


def test_an_endpoint_of_grpc_that_nobody_answers_at_is_named(patient: Patient) -> None:
    problem = assert_one_problem(
        patient.examine(
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"http://127.0.0.1:{free_port()}",
            OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
        )
    )
    assert "nobody answers at" in problem
    assert "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" in problem


def test_a_refusal_says_what_to_fix(patient: Patient) -> None:
    fixes = {401: "OTEL_EXPORTER_OTLP_HEADERS", 404: "path", 503: "log of the collector"}
    for statuses in ((401, 404), (400, 503)):
        metrics, traces = map(Collector, statuses)
        try:
            report = patient.examine(
                OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=f"{metrics.url}/v1/metrics",
                OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{traces.url}/v1/traces",
            )
        finally:
            metrics.close()
            traces.close()
        reported = {
            status: f"answers ({status}) at {place}"
            for status, place in zip(
                statuses, (f"{metrics.url}/v1/metrics", f"{traces.url}/v1/traces"), strict=True
            )
            # A backend that is well may call an export without anything in it a bad request.
            if status in fixes
        }
        assert len(report.problems) == len(reported)
        for problem, (status, words) in zip(report.problems, reported.items(), strict=True):
            assert words in problem
            assert fixes[status] in problem


BAD_SETTINGS = {
    "CHAINLIT_OTEL_METRIC_PATH=/metrics": (
        "CHAINLIT_OTEL_METRIC_PATH is no setting and is ignored: "
        "did you mean CHAINLIT_OTEL_METRICS_PATH?"
    ),
    "CHAINLIT_OTEL_SHUTDOWN_TIMEOUT=soon": "must be a number",
    "OTEL_TRACES_EXPORTER=jaeger": "there is no exporter 'jaeger'",
    "CHAINLIT_OTEL_PORT=tcp://10.0.0.7:9464": "a Service named chainlit-otel",
}


@pytest.mark.parametrize("with_app", [True, False])
def test_a_bad_setting_is_one_line(patient: Patient, with_app: bool) -> None:
    arguments = [patient.app(HEALTHY)] if with_app else []
    env = dict(setting.split("=", 1) for setting in BAD_SETTINGS)
    report = patient.examine(*arguments, **env)
    assert report.exit_code == 1
    assert report.text.endswith(f"\n{len(BAD_SETTINGS)} problems\n")
    assert len(report.problems) == len(BAD_SETTINGS)
    for named in BAD_SETTINGS.values():
        assert len([problem for problem in report.problems if named in problem]) == 1, named


def test_a_bad_keyword_is_one_line(patient: Patient) -> None:
    app = patient.app("import chainlit_otel\nchainlit_otel.Settings(prot=9500)\n")
    problem = assert_one_problem(patient.examine(app))
    assert problem == "there is no setting prot: did you mean port?"


def test_a_version_out_of_its_range_is_named_with_what_to_install(patient: Patient) -> None:
    patient.installed(">=3.10", ["chainlit>=99", "wrapt>=1,<99", "no-such-thing>=1"])
    report = patient.examine()
    assert report.exit_code == 1
    chainlit, missing = report.problems
    assert re.fullmatch(
        r"chainlit \S+ is not supported, >=99 is: pip install 'chainlit>=99'", chainlit
    )
    assert missing == "no-such-thing is not installed: pip install 'no-such-thing>=1'"
    assert report.rows("versions")["chainlit"].endswith("NOT SUPPORTED")
    assert not report.rows("versions")["wrapt"].endswith("NOT SUPPORTED")


def test_a_python_out_of_its_range_is_named(patient: Patient) -> None:
    patient.installed(">=4", ["chainlit"])
    assert assert_one_problem(patient.examine()).startswith("python 3.")


@pytest.mark.parametrize(
    ("app", "reported"),
    [
        ("raise RuntimeError('first\\nsecond')", "RuntimeError: first second"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import no_such_module", "No module named 'no_such_module'"),
        ("def", "SyntaxError"),
        ("import os; os._exit(7)", "exit code 7"),
    ],
)
def test_an_app_that_cannot_be_loaded_is_one_line(
    patient: Patient, app: str, reported: str
) -> None:
    problem = assert_one_problem(patient.examine(patient.app(app)))
    assert "app.py" in problem
    assert reported in problem


def test_what_is_off_is_a_problem(patient: Patient) -> None:
    report = patient.examine(patient.app(HEALTHY), OTEL_SDK_DISABLED="true")
    assert "unset OTEL_SDK_DISABLED" in assert_one_problem(report)


def test_a_probe_without_its_seam_is_named(patient: Patient) -> None:
    gone = "import chainlit.step\ndel chainlit.step.Step.update\n".replace(
        "import chainlit.step\n",
        "import chainlit, sys\nchainlit.step\nmodule = sys.modules['chainlit.step']\n",
    ).replace("del chainlit.step.Step.update", "del module.Step.update")
    report = patient.examine(patient.app(gone + HEALTHY))
    problem = assert_one_problem(report)
    assert problem.startswith("the steps probe is off: no Step.update")
    assert report.rows("probes")["steps"].startswith("off: no Step.update")


def test_a_probe_that_older_versions_do_not_have_is_no_problem(patient: Patient) -> None:
    gone = "from chainlit import session\nvars(session).pop('McpSession', None)\n"
    report = patient.examine(patient.app(gone + HEALTHY))
    assert_well(report)
    assert report.rows("probes")["mcp"].startswith("off: no chainlit.session.McpSession")


def test_what_is_off_is_named_with_the_reason(patient: Patient) -> None:
    app = patient.app(
        """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider

metrics.set_meter_provider(MeterProvider())
trace.set_tracer_provider(TracerProvider())
"""
        "from chainlit import session\nvars(session).pop('McpSession', None)\n" + HEALTHY
    )
    off = patient.examine(app, CHAINLIT_OTEL_ADMIN_SERVER="false").rows("off")
    # Without quotes around a name with a blank in it, its second word is in the reason.
    assert {part: reason.split()[-1] for part, reason in off.items()} == {
        "mcp": "chainlit.session.McpSession",
        "admin": "false",
        "/metrics": "too",
    }
    assert "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS=true" in off["/metrics"]


def test_no_port_at_all_is_a_problem(patient: Patient) -> None:
    # An address that is not of this machine (RFC 5737).
    report = patient.examine(OTEL_EXPORTER_PROMETHEUS_HOST="192.0.2.1")
    assert report.exit_code == 1
    refused, silent = report.problems
    assert refused.startswith("no admin server on 192.0.2.1:")
    assert "OTEL_EXPORTER_PROMETHEUS_HOST" in refused
    assert silent.startswith("nothing is served or sent anywhere: set ")


def test_an_app_that_is_not_there_is_a_wrong_argument(patient: Patient) -> None:
    assert patient.examine("absent.py").exit_code == 2


# Secrets and files


def test_no_secret_is_ever_printed(patient: Patient, collector: Collector) -> None:
    secrets = ["tok3n-one", "tok3n-two", "tok3n-three", "passw0rd"]
    env = {
        "CHAINLIT_OTEL_METRICS_TOKEN": "tok3n-one",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20tok3n-two,x-key=tok3n-three",
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"http://user:passw0rd@{collector.place}/v1/metrics",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://user:passw0rd@127.0.0.1:1/v1/traces",
    }
    talkative = """
import os
print(os.environ)
raise RuntimeError(" ".join(value for name, value in os.environ.items() if "OTEL" in name))
"""
    reports = [
        patient.examine(patient.app(HEALTHY), **env),
        patient.examine(patient.app(HEALTHY + talkative), **env),
        patient.examine(patient.app("print('tok3n-one')\nimport os\nos._exit(1)"), **env),
        patient.examine(patient.app(HEALTHY), **{**env, "OTEL_EXPORTER_OTLP_PROTOCOL": "passw0rd"}),
    ]
    healthy = reports[0]
    assert healthy.rows("settings")["metrics_token"].startswith("***")
    assert healthy.rows("settings")["OTEL_EXPORTER_OTLP_HEADERS"] == "***"
    assert f"http://***@{collector.place}/v1/metrics" in healthy.text
    assert len(healthy.problems) == 1
    for report in reports:
        assert [secret for secret in secrets if secret in report.text] == []


def test_a_token_that_the_app_sets_is_masked_and_its_temporary_files_are_removed(
    patient: Patient,
) -> None:
    app = HEALTHY.replace("enable()", "enable(chainlit_otel.Settings(metrics_token='tok3n-one'))")
    # What it writes to temporary files is removed: `examine` sees to it.
    writes = "\nimport tempfile\nopen(tempfile.mkstemp()[1], 'w').write('x')\n"
    report = patient.examine(patient.app(app + writes))
    assert_well(report)
    assert report.rows("settings")["metrics_token"].startswith("***")
    assert "tok3n" not in report.text


# Redirects, and what others would record


def test_a_redirect_is_named_and_not_followed(patient: Patient, collector: Collector) -> None:
    first = Collector(302, f"http://me:passw0rd@{collector.place}/sign-in?key=tok3n-one\x1b[2J")
    try:
        report = patient.examine(
            OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{first.url}/v1/traces",
            OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20tok3n-two",
        )
    finally:
        first.close()
    problem = assert_one_problem(report)
    assert f"a redirect (302) to http://***@{collector.place}/sign-in?key=***" in problem
    assert f"at {first.url}/v1/traces, where traces go" in problem
    assert collector.seen == []
    assert first.seen == [("/v1/traces", "Bearer tok3n-two")]
    assert "passw0rd" not in report.text
    assert "tok3n" not in report.text
    assert "\x1b" not in report.text


def test_the_query_of_an_endpoint_is_masked(patient: Patient, collector: Collector) -> None:
    url = f"{collector.url}/v1/traces?api_key=tok3n-one"
    report = patient.examine(
        OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=url,
        OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=url.replace(collector.place, "tok3n-two@127.0.0.1:1"),
    )
    assert "tok3n" not in report.text
    assert report.rows("traces")["OTLPSpanExporter"].endswith("/v1/traces?api_key=***")
    assert report.rows("settings")["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].endswith("?api_key=***")
    assert collector.seen == [("/v1/traces?api_key=tok3n-one", None)]
    assert "***@127.0.0.1:1/v1/traces?api_key=***" in assert_one_problem(report)


def test_secrets_of_the_environment_that_an_app_quotes_are_masked(patient: Patient) -> None:
    app = "import os\nraise ValueError(os.environ['MY_API_KEY'] + os.environ['DATABASE_URL'])"
    report = patient.examine(
        patient.app(app),
        MY_API_KEY="sk-tok3n-one",
        DATABASE_URL="postgresql://me:tok3n-two@localhost/db",
    )
    assert "ValueError: ***postgresql://me:***@localhost/db" in assert_one_problem(report)


def test_an_endpoint_that_sends_nothing_or_a_byte_at_a_time_is_no_endpoint(
    patient: Patient,
) -> None:
    with create_server(("127.0.0.1", 0)) as silent, create_server(("127.0.0.1", 0)) as slow:
        over = Event()

        def drip() -> None:
            connection, _ = slow.accept()
            with connection, contextlib.suppress(OSError):
                while not over.wait(0.2):
                    connection.sendall(b"H")

        dripping = Thread(target=drip)
        dripping.start()
        places = [f"http://127.0.0.1:{server.getsockname()[1]}" for server in (silent, slow)]
        try:
            report = patient.examine(
                OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=places[0],
                OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=places[1],
            )
        finally:
            over.set()
            dripping.join()
    said_nothing, dripped = report.problems
    assert f"nobody answers at {places[0]}" in said_nothing
    assert "timed out" in said_nothing
    assert f"nobody answers at {places[1]}" in dripped


def test_what_opentelemetry_instrument_would_record_is_shown_with_what_stops_it(
    patient: Patient, bare: Report
) -> None:
    section = "opentelemetry-instrument would record"
    reported = bare.text.partition(section)[2].partition("\n\n")[0]
    prompts = next(line for line in reported.splitlines() if "prompts and answers" in line)
    assert "openai" in prompts
    assert prompts.endswith("TRACELOOP_TRACE_CONTENT=false")
    (disabled,) = set(re.findall("OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=[^ \n]+", reported))
    assert "fastapi" in disabled
    variables = [disabled, *re.findall(r"\w+=false", reported)]
    stopped = dict(variable.split("=") for variable in variables)
    assert section not in patient.examine(**stopped).text


@pytest.mark.parametrize(("probe", "state"), [("off", "off: "), ("on", "on")])
def test_an_instrumentation_that_fails_beside_this_fastapi_is_a_problem(
    patient: Patient, probe: str, state: str
) -> None:
    breaks = f"""
from opentelemetry.instrumentation import fastapi

def details(scope):
    raise AttributeError("'_IncludedRouter' object has no attribute 'path'")

if {probe == "off"}:
    fastapi._get_default_span_details = details
"""
    report = patient.examine(patient.app(breaks + HEALTHY))
    assert report.rows("probes")["http"].startswith(state)
    if probe == "off":
        problem = assert_one_problem(report)
        assert problem.startswith("the http probe is off: opentelemetry-instrumentation-fastapi ")
        assert "AttributeError): pip install -U opentelemetry-instrumentation-fastapi" in problem
    else:
        assert_well(report)
