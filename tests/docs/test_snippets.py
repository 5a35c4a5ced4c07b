"""Every command and snippet of the pages is run, or checked in the way that a table names.

A block of a language, or a command, that no rule here is for fails.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from compose_spec import PyCompose
from packaging.requirements import Requirement

from chainlit_otel import catalog
from chainlit_otel.cli import main
from chainlit_otel.prices import read_prices
from chainlit_otel.rules import render
from chainlit_otel.testing import Visitor
from tests.docs.pages import PAGES, ROOT, Block, blocks, name
from tests.support.model import WORDS, Model
from tests.support.monitor import Monitored
from tests.support.otlp import Receiver
from tests.support.population import Population
from tests.support.prometheus import Alertmanager
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

DEPLOYMENTS = ROOT / "examples" / "deployments"
BLOCKS = [block for page in PAGES for block in blocks(page)]
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
SERVE = "chainlit run app.py"
VISITORS = "docs/visitors.md"


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def each(found: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", found, ids=str)


def test_every_block_has_a_language_that_is_checked_here() -> None:
    known = {"console", "json", "promql", "python", "text", "yaml"}
    assert [str(block) for block in BLOCKS if block.language not in known] == []


# Commands


def commands(block: Block) -> Iterator[tuple[str, list[str]]]:
    """Each command of a block, without its comment, and what the page shows of its output."""
    entries: list[tuple[str, list[str]]] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            entries.append((re.sub(r"\s+# .*", "", line.removeprefix("$ ")), []))
        else:
            entries[-1][1].append(line)
    yield from entries


# The same command on several pages is run once.
COMMANDS = {
    (command, *shown): str(block)
    for block in reversed(of("console"))
    for command, shown in commands(block)
}


class Place:
    """Where commands are run: a server with the app of the README, and an empty directory.

    Args:
        server: The server.
        directory: The directory.
    """

    def __init__(self, server: ChainlitServer, directory: Path) -> None:
        self.server = server
        self.directory = directory

    def here(self, command: str) -> str:
        """The command with the addresses of this server for those of the page."""
        for theirs, ours in (
            ("localhost:9464", f"127.0.0.1:{self.server.admin_port}"),
            ("http://localhost:8000", self.server.url),
            ("https://chat.example", self.server.url),
        ):
            command = command.replace(theirs, ours)
        return command

    def run(self, command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
        """Run a command as a shell does, and return what it prints; it must succeed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.here(command)],
            cwd=cwd or self.directory,
            env={**os.environ, "PATH": PATH, "PYTHONPATH": str(ROOT), **(env or {})},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def server() -> Iterator[ChainlitServer]:
    """The app of the README, as a page runs it to see its spans where it runs."""
    variables, command = env_of("OTEL_TRACES_EXPORTER=console chainlit run app.py")
    with ChainlitServer(
        {"app.py": app_of("README.md")}, command=served(command), env=variables
    ) as server:
        yield server


@pytest.fixture
def place(server: ChainlitServer, tmp_path: Path) -> Place:
    (tmp_path / "app.py").write_text(app_of("README.md"), encoding="utf-8")
    for block in BLOCKS:
        if name(block.page) == VISITORS and block.title:
            (tmp_path / block.title).write_text(block.text, encoding="utf-8")
    return Place(server, tmp_path)


def app_of(page: str) -> str:
    """The `app.py` that a page shows."""
    (found,) = [b.text for b in BLOCKS if name(b.page) == page and b.title == "app.py"]
    return found


def env_of(command: str) -> tuple[dict[str, str], str]:
    """The variables before a command, and the command."""
    words = command.split()
    variables = {}
    while match := re.fullmatch(r"([A-Z_]+)=(\S+)", words[0]):
        variables[match.group(1)] = match.group(2)
        words.pop(0)
    return variables, " ".join(words)


def served(command: str) -> list[str]:
    """What `ChainlitServer` runs for a command that starts the app."""
    assert command == SERVE
    return [*command.split(), "--headless", "--port", "{port}"]


# How commands are checked


def it_is_run(place: Place, command: str, shown: list[str]) -> None:
    printed = place.run(command)
    assert printed
    check_output(printed, shown)


def check_output(printed: str, shown: list[str]) -> None:
    for line in shown:
        # `…` stands for what differs.
        pattern = ".*".join(re.escape(part) for part in line.split("…"))
        assert re.search(pattern, printed), f"{line}\nis not in\n{printed}"


def it_is_run_in_the_repository(place: Place, command: str, shown: list[str]) -> None:
    place.run(command, cwd=ROOT)


def it_is_run_among_the_deployments(place: Place, command: str, shown: list[str]) -> None:
    copy = place.directory / "deployments"
    shutil.copytree(DEPLOYMENTS, copy)
    (copy / "workers" / "rules.yml").write_text(render(), encoding="utf-8")
    place.run(command, cwd=copy)


def its_parser_takes_it(place: Place, command: str, shown: list[str]) -> None:
    """Run elsewhere, by the tests of the command, with what it takes more than a moment for."""
    _, command = env_of(command)
    program, sub, *arguments = shlex.split(command)
    assert program == "chainlit-otel"
    result = CliRunner().invoke(main, [sub, *arguments, "--help"])
    assert result.exit_code == 0, result.output
    for option in (word for word in arguments if word.startswith("-")):
        assert option in result.output


def it_installs_what_we_know(place: Place, command: str, shown: list[str]) -> None:
    install_known(command)


def install_known(command: str) -> None:
    """Nothing is installed here: that the package can be is for `make install-check`."""
    pinned = "".join(
        file.read_text(encoding="utf-8") for file in sorted(ROOT.glob("constraints*.txt"))
    )
    for word in shlex.split(command.removeprefix("pip install ")):
        requirement = Requirement(word).name
        assert requirement == "chainlit-otel" or f"\n{requirement}==" in pinned, requirement


def make_has_the_target(place: Place, command: str, shown: list[str]) -> None:
    place.run(f"{command} --dry-run", cwd=ROOT)


def compose_takes_its_file(place: Place, command: str, shown: list[str]) -> None:
    (file,) = re.findall(r"--file (\S+)", command)
    assert PyCompose.from_yaml((ROOT / file).read_text(encoding="utf-8")).service_names()


def kustomize_builds_it(place: Place, command: str, shown: list[str]) -> None:
    (directory,) = re.findall(r"-k (\S+)", command)
    place.run(f"kubectl kustomize {directory}", cwd=ROOT)


def its_files_are_there(place: Place, command: str, shown: list[str]) -> None:
    """The programs of a vendor, which need an account; `test_deployments` runs what they deploy."""
    files = re.findall(r"@?((?:cloud-run|app-service)/[\w.-]+)", command)
    assert all((DEPLOYMENTS / file).is_file() for file in files)
    place.run(f"bash -n <<'END'\n{command}\nEND")


def a_shell_takes_it(place: Place, command: str, shown: list[str]) -> None:
    """It asks what is not there in a test: a cluster, a journal, a repository of a host."""
    place.run(f"bash -n <<'END'\n{command}\nEND")


def it_looks_for_what_we_log(place: Place, command: str, shown: list[str]) -> None:
    (wanted,) = re.findall(r"'([^']+)' app\.log", command)
    sources = (ROOT / "chainlit_otel").rglob("*.py")
    assert any(wanted in source.read_text(encoding="utf-8") for source in sources), wanted
    (place.directory / "app.log").write_text(f"{wanted}: …\n", encoding="utf-8")
    assert wanted in place.run(command)


def a_monitor_answers_it(place: Place, command: str, shown: list[str]) -> None:
    monitored = Monitored.of(place.server.url, place.directory, {"hello": "dialog: [{say: hello}]"})
    try:
        wait_until(lambda: monitored.scrape().sum("probe_chat_probes_total"), 60, "a dialog")
        assert place.run(command.replace("localhost:9465", monitored.address))
    finally:
        monitored.end()


def alertmanager_takes_it(place: Place, command: str, shown: list[str]) -> None:
    with Alertmanager() as alertmanager:
        place.run(f"{command} --alertmanager.url={alertmanager.url}")


def the_variables_are_set(place: Place, command: str, shown: list[str]) -> None:
    (file,) = re.findall(r"\. (\S+);", command)
    names = re.findall(r"^([A-Z_]+)=", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    env = place.run(f"{command}; env", cwd=ROOT)
    assert all(f"\n{variable}=" in f"\n{env}" for variable in names)


def a_test_below_serves_it(place: Place, command: str, shown: list[str]) -> None:
    variables, _ = env_of(command)
    assert (set(variables), command.startswith("opentelemetry-instrument")) in SERVED


def it_is_run_on_records(place: Place, command: str, shown: list[str]) -> None:
    Population(sessions=40).write(place.directory / "records")
    check_output(place.run(f"{command} 2>&1"), shown)


RULES: list[tuple[str, Callable[[Place, str, list[str]], None]]] = [
    (r"pip install .*", it_installs_what_we_know),
    (r"([A-Z_]+=\S+ |opentelemetry-instrument )*chainlit run app\.py", a_test_below_serves_it),
    (r"export .*", a_test_below_serves_it),
    (r"curl -sS localhost:9465/.*", a_monitor_answers_it),
    (r"curl -s .*localhost.*|curl -sS .*", it_is_run),
    (r"chainlit-otel visit .* --find-limit .*", its_parser_takes_it),
    (r"chainlit-otel (visit|doctor|metrics)\b.*", it_is_run),
    (r"chainlit-otel (export|report) .*", it_is_run_on_records),
    (r"chainlit-otel (rules|dashboards) (?!.*--push).*", it_is_run),
    (
        r"(GRAFANA_TOKEN=\S+ )?chainlit-otel (backtest|demo|monitor|dashboards --push) .*",
        its_parser_takes_it,
    ),
    (r"make .*", make_has_the_target),
    (r"promtool check rules dashboards/.*", it_is_run_in_the_repository),
    (r"promtool check config workers/.*", it_is_run_among_the_deployments),
    (r"docker compose .*", compose_takes_its_file),
    (r"kubectl apply -k .*", kustomize_builds_it),
    (r"(gcloud|az) .*|WORKERS=2 workers/start\.sh", its_files_are_there),
    (r"git push|journalctl .*|kubectl (describe|create secret) .*", a_shell_takes_it),
    (r"grep .* app\.log .*", it_looks_for_what_we_log),
    (r"amtool silence add .*", alertmanager_takes_it),
    (r"set -a; \. .*", the_variables_are_set),
]
# What the tests below start an app with: variables, and whether it is `opentelemetry-instrument`.
SERVED = [
    (set(), False),
    (set(), True),
    ({"OTEL_TRACES_EXPORTER"}, False),
    ({"OTEL_EXPORTER_OTLP_ENDPOINT"}, False),
    ({"OTEL_EXPORTER_PROMETHEUS_PORT"}, False),
]


@pytest.mark.e2e
@pytest.mark.parametrize("entry", COMMANDS, ids=COMMANDS.values())
def test_a_command_does_what_the_page_says(place: Place, entry: tuple[str, ...]) -> None:
    command, *shown = entry
    for pattern, check in RULES:
        if re.fullmatch(pattern, command):
            check(place, command, shown)
            return
    pytest.fail(f"no rule for: {command}")


# The guides of the examples, which have tests of their own: that these are there, and that a shell
# takes each command.


EXAMPLES = {
    (guide.parent.name, command): str(block)
    for guide in sorted((ROOT / "examples").rglob("README.md"))
    for block in blocks(guide)
    for command, _ in commands(block)
}
TESTED_BY = {
    "analytics": "tests/e2e/test_analytics.py",
    "fastapi_mount": "tests/e2e/test_examples.py",
    "langgraph": "tests/models/test_examples.py",
    "openai": "tests/models/test_examples.py",
    "kubernetes": "tests/examples/test_kubernetes.py",
    "postgres": "tests/e2e/test_examples.py",
    "quickstart": "tests/e2e/test_examples.py",
    "redis_sessions": "tests/e2e/test_examples.py",
    "stack": "tests/examples/test_stack.py",
    "support_desk": "tests/e2e/test_support_desk.py",
}


@pytest.mark.parametrize("entry", EXAMPLES, ids=EXAMPLES.values())
def test_a_command_of_an_example_can_be_given(entry: tuple[str, str]) -> None:
    example, command = entry
    assert example in (ROOT / TESTED_BY[example]).read_text(encoding="utf-8")
    if command.startswith("pip install "):
        install_known(command)
    for file in re.findall(r"(?:--file|apply -k) (\S+)", command):
        assert (ROOT / file).exists(), file
    assert subprocess.run(["bash", "-n", "-c", command], capture_output=True).returncode == 0


# Apps


async def talk(url: str, answer: str) -> None:
    visitor = Visitor(url)
    await visitor.connect()
    assert (await visitor.say("hello")).texts == [answer]
    await visitor.leave()


@each([block for block in of("python") if block.title == "app.py"])
def test_an_app_is_one_that_is_run_here(block: Block) -> None:
    assert block.text in (app_of("README.md"), app_of("docs/turns-and-traces.md"))


@pytest.mark.e2e
async def test_the_two_lines_count_a_session_and_print_a_trace(server: ChainlitServer) -> None:
    await talk(server.url, "You said: hello")
    starts = server.scrape().sum("chainlit_session_starts_total", chainlit_session_type="websocket")
    assert starts >= 1
    wait_until(lambda: '"name": "chainlit.turn"' in server.log, 60, "the span to be printed")


@pytest.mark.e2e
async def test_a_model_call_is_in_the_trace_of_its_turn() -> None:
    variables, command = env_of(
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 chainlit run app.py"
    )
    with Receiver() as receiver, Model() as model:
        assert list(variables) == ["OTEL_EXPORTER_OTLP_ENDPOINT"]
        env = {**receiver.env, "OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "none"}
        files = {"app.py": app_of("docs/turns-and-traces.md")}
        with ChainlitServer(files, command=served(command), env=env) as server:
            await talk(server.url, "".join(WORDS))
            receiver.wait_for(lambda: receiver.named("openai.chat"))
            receiver.wait_for(lambda: receiver.named("chainlit.turn"))
        (call,) = receiver.named("openai.chat")
        (turn,) = receiver.named("chainlit.turn")
        assert call.trace == turn.trace
        assert call.attributes["gen_ai.request.model"] == "gpt-4o-mini"


@pytest.mark.e2e
async def test_an_app_that_is_not_changed_is_observed() -> None:
    (block,) = [b for b in of("console") if "opentelemetry-instrument chainlit" in b.text]
    variables: dict[str, str] = {}
    for command, _ in commands(block):
        if command.startswith("export "):
            variables |= dict(word.split("=") for word in shlex.split(command)[1:])
    unchanged = app_of("README.md").replace("chainlit_otel.enable()", "")
    unchanged = unchanged.replace("import chainlit_otel", "")
    script = "from opentelemetry.instrumentation.auto_instrumentation import run\n\nrun()\n"
    nowhere = {f"OTEL_{signal}_EXPORTER": "none" for signal in ("TRACES", "METRICS", "LOGS")}
    with ChainlitServer(
        {"app.py": unchanged, "instrument.py": script},
        command=["instrument", *served(SERVE)],
        env={**variables, **nowhere, "PATH": PATH},
    ) as server:
        await talk(server.url, "You said: hello")
        assert server.scrape().sum("chainlit_session_starts_total") == 1


PRELUDE = """
import functools

import chainlit as cl
import chainlit_otel
import redis.asyncio as redis

pool = redis.ConnectionPool(max_connections=7)


@functools.lru_cache(maxsize=3)
def cache(key):
    return key


cache(1)
"""
ANSWER = """

@cl.on_message
async def answer(message):
    await cl.Message("You said: " + message.content).send()
"""


@pytest.mark.e2e
async def test_the_pieces_of_python_work_in_one_app() -> None:
    pieces = [block.text for block in of("python") if not block.title]
    pieces.sort(key=lambda piece: "enable(" not in piece)
    (ports,) = {port for piece in pieces for port in re.findall(r"port=(\d+)", piece)}
    (command,) = [
        command
        for block in of("console")
        for command, _ in commands(block)
        if command.startswith("OTEL_EXPORTER_PROMETHEUS_PORT=")
    ]
    assert env_of(command)[0] == {"OTEL_EXPORTER_PROMETHEUS_PORT": ports}
    server = ChainlitServer({})
    app = "".join([PRELUDE, *pieces, ANSWER]).replace(ports, str(server.admin_port))
    server.files["app.py"] = app
    with server:
        await talk(server.url, "You said: hello")
        scrape = server.scrape()
        assert scrape.value("db_client_connection_max", db_client_connection_pool_name="redis") == 7
        assert scrape.sum("chainlit_data_layer_cache_lookups_total", chainlit_cache_name="threads")
        denied = {"chainlit_access_method": "rate_limit", "error_type": "too many messages"}
        assert scrape.value("chainlit_access_denials_total", **denied) == 1
        for name, score in (("relevance", 0.9), ("tone", 4)):
            assert scrape.value("chainlit_score_sum", chainlit_score_name=name) == score


# Prices


@each(of("json"))
def test_a_file_of_prices_is_one(block: Block, tmp_path: Path) -> None:
    file = tmp_path / "prices.json"
    file.write_text(block.text)
    assert set(read_prices(str(file))) == set(json.loads(block.text))


# Queries


RECORDED = set(re.findall(r"record: (\S+)", render()))


def test_prometheus_takes_every_query(tmp_path: Path) -> None:
    queries = [
        {"record": f"docs:query:{n}", "expr": block.text} for n, block in enumerate(of("promql"))
    ]
    file = tmp_path / "queries.json"
    file.write_text(json.dumps({"groups": [{"name": "docs", "rules": queries}]}))
    done = subprocess.run(["promtool", "check", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert f"{len(queries)} rules found" in done.stdout


@each(of("promql"))
def test_a_query_asks_for_what_exists(block: Block) -> None:
    known = {metric.prometheus_name for metric in catalog.METRICS}
    labels = {a.prometheus_label for metric in catalog.METRICS for a in metric.attributes}
    for found in re.findall(r"(?<![\w:])(?:[a-z]+:)?(?:chainlit|db)_[\w:]+", block.text):
        base = re.sub(r"_(bucket|count|sum)$", "", found)
        assert found in known | labels | RECORDED or base in known, found


# The rest


def test_the_tests_of_the_page_pass(place: Place) -> None:
    """The files of the page are in the directory, beside the app of the README."""
    (place.directory / "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")
    assert "1 passed" in place.run("python -m pytest -q -p no:cacheprovider")


@each([block for block in of("yaml") if not block.title])
def test_yaml_is_part_of_a_file_that_is_shipped(block: Block) -> None:
    said: dict[str, Any] = yaml.safe_load(block.text)
    shipped = [yaml.safe_load(file.read_text("utf-8")) for file in DEPLOYMENTS.rglob("*.yml")]
    assert any(said.items() <= document.items() for document in shipped)


@each([block for block in of("text") if "chainlit.turn" in block.text])
def test_a_trace_has_the_names_of_spans(block: Block) -> None:
    spans = {value for key, value in vars(catalog).items() if key.startswith("SPAN_")}
    keys = {a.key for a in vars(catalog).values() if isinstance(a, catalog.Attribute)}
    for found in re.findall(r"\bchainlit\.[a-z_.]+", block.text):
        assert found in spans | keys, found


@each([block for block in of("text") if block.text.startswith("chainlit_otel/\n")])
def test_a_tour_names_what_is_there(block: Block) -> None:
    directory = ROOT
    for line in block.text.splitlines():
        entry = line.split()[0]
        if not line.startswith(" "):
            directory = ROOT
        assert (directory / entry).exists(), entry
        if not line.startswith(" ") and line == entry:
            directory = ROOT / entry
