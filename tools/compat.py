"""Runs the core of the tests with each supported Chainlit, and keeps for the docs what held.

Each Chainlit has two environments for each Python that is here: with the oldest FastAPI,
OpenTelemetry SDK, wrapt, prometheus-client and python-socketio that it and chainlit-otel allow, and
with the newest.

Usage: python -m tools.compat [--help]
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree

import click

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "tools" / "compat.json"
_PINNED = re.search(
    r"^chainlit==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
)
# The last of each that changed something for us, and the newest that is tried.
RELEASES = ("2.6.9", "2.8.5", "2.9.6", "2.10.1", "2.11.1", *(_PINNED.groups() if _PINNED else ()))
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
BESIDE = ("fastapi", "opentelemetry-sdk", "wrapt", "prometheus-client", "python-socketio")
# What the tests are run by is the same everywhere.
_TOOLS = re.compile(
    r"^(aiosqlite|hypothesis|httpx|pytest|execnet|pluggy|iniconfig|sniffio)\b.*$", re.M
)
# In the order of their names, as `make test` has them. Real servers and visitors on a busy machine:
# a test that fails is run once more, and counted.
_OPTIONS = shlex.split("-W default -q -n 2 --dist loadfile --no-loadscope-reorder --reruns 1 -rRfE")
_RERUN = re.compile(r"^RERUN (.+?)(?: - |$)", re.MULTILINE)
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", re.MULTILINE)
_INSTALL_TIMEOUT = 600.0
_TESTS_TIMEOUT = 1800.0

_VERSIONS = """
import importlib.metadata, json, sys
print(json.dumps({name: importlib.metadata.version(name) for name in sys.argv[1:]}))
"""
_OFF = """
import json, os
os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"] = "0"
import chainlit_otel
chainlit_otel.enable()
import chainlit.server
from chainlit_otel import api
print(json.dumps([name for name, state in api._active.health()["probes"].items() if state != "on"]))
"""


class CannotRun(Exception):
    """An environment cannot be made, or its tests have not run."""


@dataclass(frozen=True)
class Held:
    """What held in one environment.

    Attributes:
        chainlit: Release of Chainlit.
        python: Release of Python.
        which: ``oldest`` or ``newest`` of what is beside it.
        beside: The versions of that.
        off: Probes that find no seam there, or nothing to observe.
        passed: How many tests passed.
        rerun: How many of those only when they were run once more.
        failed: Names of those that failed.
    """

    chainlit: str
    python: str
    which: str
    beside: dict[str, str]
    off: list[str]
    passed: int
    rerun: int
    failed: list[str]


def _run(command: Sequence[str], timeout: float, cwd: Path = ROOT) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise CannotRun(f"{shlex.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def _pins() -> str:
    """Return the lines of the constraints that are about what runs the tests."""
    constraints = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    return "".join(f"{pin[0]}\n" for pin in _TOOLS.finditer(constraints))


def make(environment: Path, chainlit: str, python: str, which: str, uv: Path) -> Path:
    """Make an environment, and return its interpreter.

    Args:
        environment: Where.
        chainlit: Release of Chainlit.
        python: The interpreter, as `uv` finds it.
        which: ``oldest`` or ``newest`` of what is beside Chainlit.
        uv: The program.

    Raises:
        CannotRun: There is no such Python, or nothing that fits together.
    """
    _run([str(uv), "venv", "-q", "--clear", "--python", python, str(environment)], _INSTALL_TIMEOUT)
    interpreter = environment / "bin" / "python"
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.write(_pins())
        pins.flush()
        install = [str(uv), "pip", "install", "-q", "--python", str(interpreter), "-c", pins.name]
        # Any FastAPI wants a Starlette that is not much newer than itself.
        beside = [*BESIDE, "starlette"]
        wanted = ["-e", ".", "--group", "oldest-test", f"chainlit=={chainlit}", *beside]
        lowest = ["--resolution", "lowest-direct"] if which == "oldest" else []
        _run([*install, *lowest, *wanted], _INSTALL_TIMEOUT)
    return interpreter


def test(python: Path, chainlit: str, which: str, log: Path) -> Held:
    """Run the core of the tests in an environment, and return what held.

    Args:
        python: Its interpreter.
        chainlit: Release of Chainlit.
        which: ``oldest`` or ``newest`` of what is beside it.
        log: Where what the tests say is left.

    Raises:
        CannotRun: The tests have not run.
    """
    with tempfile.TemporaryDirectory(prefix="chainlit-otel-compat-") as directory:
        beside = json.loads(_run([str(python), "-c", _VERSIONS, *BESIDE], 60, Path(directory)))
        off = json.loads(_run([str(python), "-c", _OFF], 120, Path(directory)).splitlines()[-1])
        results = Path(directory, "results.xml")
        tests = shlex.split(_run(["make", "-s", "core-tests"], 60))
        command = [str(python), "-m", "pytest", *_OPTIONS, f"--junitxml={results}", *tests]
        with log.open("w", encoding="utf-8") as output:
            subprocess.run(
                command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, timeout=_TESTS_TIMEOUT
            )
        said = log.read_text(encoding="utf-8", errors="replace")
        if not results.exists():
            raise CannotRun(f"{shlex.join(command)}\n{said[-4000:]}")
        passed, rerun, failed = count(results.read_text(encoding="utf-8"), said)
    version = _run([str(python), "-c", "import platform; print(platform.python_version())"], 60)
    return Held(chainlit, version.strip(), which, beside, off, passed, rerun, failed)


def count(results: str, said: str) -> tuple[int, int, list[str]]:
    """Return how many tests passed, how many only at the second try, and which failed.

    Args:
        results: What pytest wrote as JUnit.
        said: What it printed.
    """
    # What was run twice is there twice, without its failure where the second run passed.
    said_of: dict[str, set[str]] = {}
    for case in ElementTree.fromstring(results).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        said_of.setdefault(name, set()).update(child.tag for child in case)
    failed = [name for name, tags in said_of.items() if tags & {"failure", "error"}]
    skipped = sum("skipped" in tags for tags in said_of.values())
    rerun = len(set(_RERUN.findall(said)) - set(_FAILED.findall(said)))
    return len(said_of) - len(failed) - skipped, rerun, failed


def _pythons(uv: Path) -> list[str]:
    """Return those that are here."""

    def found(version: str) -> bool:
        find = [str(uv), "python", "find", "--no-python-downloads", version]
        return subprocess.run(find, capture_output=True, timeout=60).returncode == 0

    return [version for version in PYTHONS if found(version)]


def _uv(directory: Path) -> Path:
    tool = directory / "tool"
    if not (tool / "bin" / "uv").exists():
        venv.create(tool, with_pip=True)
        _run([str(tool / "bin" / "python"), "-m", "pip", "install", "-qq", "uv"], _INSTALL_TIMEOUT)
    return tool / "bin" / "uv"


def written(held: Sequence[Held]) -> str:
    """Return the results as they are kept, from which the docs are generated."""
    return json.dumps([asdict(each) for each in held], indent=1) + "\n"


@click.command()
@click.option("--chainlit", "releases", multiple=True, default=RELEASES, help="These releases.")
@click.option(
    "--which", type=click.Choice(["oldest", "newest"]), multiple=True, default=("oldest", "newest")
)
@click.option("--keep", is_flag=True, help="Leave the environments in .venv-compat.")
def main(releases: tuple[str, ...], which: tuple[str, ...], keep: bool) -> None:
    """Run the core of the tests with each supported Chainlit."""
    directory = ROOT / ".venv-compat"
    uv = _uv(directory)
    known = {
        (one["chainlit"], one["python"].rpartition(".")[0], one["which"]): Held(**one)
        for one in (json.loads(RESULTS.read_text()) if RESULTS.exists() else [])
    }
    pythons = _pythons(uv)
    if missing := [version for version in PYTHONS if version not in pythons]:
        click.echo(f"not tried, because it is not here: Python {', '.join(missing)}")
    held_all = True
    for python, release, each in itertools.product(pythons, releases, which):
        environment = directory / f"{release}-{each}-{python}"
        name = f"Chainlit {release}, {each}, Python {python}"
        try:
            interpreter = make(environment, release, python, each, uv)
            held = test(interpreter, release, each, directory / f"{environment.name}.log")
        except (CannotRun, subprocess.TimeoutExpired) as error:
            # The others say more than nothing.
            click.echo(f"{name}: not run: {error}", err=True)
            held_all = False
            continue
        known[release, python, each] = held
        click.echo(f"{name}: {held.passed} passed, {held.rerun} of them at the second try")
        for test_name in held.failed:
            click.echo(f"  failed: {test_name}")
        held_all = held_all and not held.failed
        RESULTS.write_text(written(sorted(known.values(), key=_order)), encoding="utf-8")
        if not keep:
            shutil.rmtree(environment)
    if not held_all:
        sys.exit(1)


def _order(held: Held) -> tuple[list[int], list[int], str]:
    numbers = ([int(part) for part in text.split(".")] for text in (held.chainlit, held.python))
    return (*numbers, held.which)  # type: ignore[return-value]


if __name__ == "__main__":
    main()
