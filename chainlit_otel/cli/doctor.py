"""`chainlit-otel doctor`: what is observed, where it goes, and what to fix.

The examination (`diagnostics`) runs in a process of its own, since it imports Chainlit and the app:
neither must leave files behind or end this process.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from chainlit_otel.cli import instrumentors

_PACKAGE = "chainlit-otel"
_IMPORT_TIMEOUT = 120.0  # seconds that importing Chainlit and the app may take
# The path of this process, as that of `chainlit run` is; with `-c` the working directory is on it.
_CODE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from chainlit_otel.diagnostics import main
main(*sys.argv[2:])
"""

Rows = Iterable[tuple[str, ...]]


@dataclass(frozen=True)
class Version:
    """An installed version and what is supported.

    Attributes:
        name: What it is the version of.
        found: The version; None if it is not installed.
        supported: The supported range; None if it is not known.
    """

    name: str
    found: str | None
    supported: SpecifierSet | None

    @property
    def problem(self) -> str | None:
        """What is wrong with it."""
        wanted = f"{self.name}{self.supported or ''}"
        if self.found is None:
            return f"{self.name} is not installed: pip install '{wanted}'"
        if self.supported is None or self.supported.contains(self.found, prereleases=True):
            return None
        fix = "use another" if self.name == "python" else f"pip install '{wanted}'"
        return f"{self.name} {self.found} is not supported, {self.supported} is: {fix}"


def versions() -> list[Version]:
    """Return the versions that matter, with the ranges that the packages declare."""
    ranges = {"fastapi": _requirements("chainlit").get("fastapi"), **_requirements(_PACKAGE)}
    named = [
        "chainlit",
        "fastapi",
        "opentelemetry-api",
        "opentelemetry-sdk",
        "prometheus-client",
        "python-socketio",
        "wrapt",
    ]
    names = [*named, *(name for name in ranges if name not in named)]
    python = _about(_PACKAGE).get("Requires-Python")
    return [
        Version("python", platform.python_version(), SpecifierSet(python) if python else None),
        *(Version(name, _about(name).get("Version"), ranges.get(name)) for name in names),
    ]


def _about(package: str) -> Mapping[str, str]:
    """Return version and Python range of a package; nothing if it is not installed."""
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return {}
    return {name: about[name] for name in ("Version", "Requires-Python") if name in about}


def _requirements(package: str) -> dict[str, SpecifierSet]:
    try:
        lines = metadata.requires(package) or []
    except metadata.PackageNotFoundError:
        return {}
    wanted = map(Requirement, lines)
    return {r.name: r.specifier for r in wanted if r.marker is None or r.marker.evaluate()}


def examine(app: Path | None) -> dict[str, Any]:
    """Examine the environment, or an app, in a process of its own.

    Args:
        app: The file of the app; None to examine the environment alone.

    Returns:
        What `diagnostics` found.
    """
    with tempfile.TemporaryDirectory(
        prefix="chainlit-otel-doctor-", ignore_cleanup_errors=True
    ) as directory:
        root, report = Path(directory) / "root", Path(directory) / "report.json"
        root.mkdir()
        _copy_config(root)
        arguments = [json.dumps(sys.path), str(report), *([str(app)] if app else [])]
        try:
            done = subprocess.run(
                [sys.executable, "-c", _CODE, *arguments],
                env=_environment(root),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_IMPORT_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return _failed(f"{app or 'Chainlit'} was not imported within {_IMPORT_TIMEOUT:g} s")
        if not report.exists():
            return _failed(
                f"{app or 'Chainlit'} ended the examination with exit code {done.returncode}: "
                "it must be possible to import it without that"
            )
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found


def _copy_config(root: Path) -> None:
    """Copy the configuration of the app, since Chainlit may write to it."""
    config = Path(os.environ.get("CHAINLIT_APP_ROOT") or os.getcwd()) / ".chainlit"
    if config.is_dir():
        shutil.copytree(config, root / ".chainlit", ignore=shutil.ignore_patterns("*.db"))


def _environment(root: Path) -> dict[str, str]:
    # Temporary files, too, go where everything is removed afterwards.
    temporary = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(root))
    ours = {"CHAINLIT_APP_ROOT": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return {**os.environ, **temporary, **ours}


def _failed(problem: str) -> dict[str, Any]:
    return {"sections": {}, "problems": [problem]}


def _table(rows: Rows) -> Iterator[str]:
    rows = [tuple(map(str, row)) for row in rows]
    columns = max((len(row) for row in rows), default=0)
    widths = [
        max((len(row[n]) for row in rows if n < len(row) - 1), default=0) for n in range(columns)
    ]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False))
        yield "  " + "  ".join(cells).rstrip()


def _version_rows(found: list[Version]) -> Iterator[tuple[str, ...]]:
    for version in found:
        state = "" if version.problem is None else "  NOT SUPPORTED"
        supported = "" if version.supported is None else f"{version.supported}"
        yield version.name, version.found or "missing", supported + state
    if not _about(_PACKAGE):
        yield _PACKAGE, "not installed as a package: which versions it supports is not known"


@click.command("doctor")
@click.argument(
    "app",
    required=False,
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
)
def command(app: Path | None) -> None:
    """Examine this environment, or the app in APP, and say what to fix.

    It shows versions, settings, probes, ports, where metrics and traces go, with secrets masked,
    and which texts opentelemetry-instrument would record besides, with what stops it. APP is
    imported as `chainlit run APP` does it, but no server is started, and neither Chainlit nor this
    command leaves files behind. Without APP, the environment alone is examined.

    The exit code is 1 if something is wrong.
    """
    found = versions()
    examined = examine(app)
    sections = {"versions": list(_version_rows(found)), **examined["sections"]}
    if recorded := list(instrumentors.rows()):
        sections["opentelemetry-instrument would record"] = recorded
    for title, rows in sections.items():
        click.echo("\n".join([title, *_table(rows), ""]))
    problems = [*filter(None, (version.problem for version in found)), *examined["problems"]]
    if not problems:
        click.echo("everything is in order")
        return
    click.echo("\n".join(["problems", *(f"  {problem}" for problem in problems), ""]))
    click.echo("1 problem" if len(problems) == 1 else f"{len(problems)} problems")
    raise click.exceptions.Exit(1)
