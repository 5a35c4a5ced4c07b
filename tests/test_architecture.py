"""Who may import whom, read from the source, and what importing the package leaves alone."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import chainlit_otel

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "chainlit_otel"


@dataclass(frozen=True)
class Import:
    """One import, or one call of `import_module` with a name that the source spells out."""

    by: str
    name: str
    line: int
    at_top: bool
    for_types: bool

    def of(self, *packages: str) -> bool:
        return any(self.name == p or self.name.startswith(p + ".") for p in packages)

    def __str__(self) -> str:
        return f"{self.by}:{self.line} imports {self.name}"


def sources() -> dict[str, ast.Module]:
    """Every module of the package, by its name."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(file.read_text(encoding="utf-8"), str(file))
    return found


SOURCES = sources()


def imports_of(module: str) -> Iterator[Import]:
    yield from _visit(module, SOURCES[module], at_top=True, for_types=False)


def _visit(module: str, node: ast.AST, at_top: bool, for_types: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        typing = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        for name in _names(child):
            yield Import(module, name, getattr(child, "lineno", 0), at_top, for_types)
        yield from _visit(module, child, at_top and not inside, for_types or typing)


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, "relative imports are not used here"
        for alias in node.names:
            full = f"{node.module}.{alias.name}"
            yield full if full in SOURCES else str(node.module)
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        first = node.args[0] if node.args else None
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value


IMPORTS = [found for module in SOURCES for found in imports_of(module)]


def within(module: str, *packages: str) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def ours(*names: str) -> tuple[str, ...]:
    return tuple(f"chainlit_otel.{name}" for name in names)


def test_the_source_is_found_and_read() -> None:
    assert {*ours("core.sessions", "probes.sessions", "runtime"), "chainlit_otel"} <= set(SOURCES)
    assert any(i.by.endswith("runtime") and i.of(*ours("probes")) for i in IMPORTS)
    assert any(i.of("chainlit") and not i.at_top for i in IMPORTS)


# Which of our modules each may use. What is not listed uses whatever it likes.
USES: dict[str, tuple[str, ...]] = {
    "settings": (),
    "catalog": ("catalog",),
    "version": (),
    "guard": (),
    "announcement": ("guard",),
    "patching": (),
    "privacy": (),
    "core": ("core",),
    "prices": ("core", "guard", "settings"),
    "pipeline": ("catalog", "guard", "pipeline", "privacy", "settings", "version"),
    "records": ("catalog", "core", "guard", "pipeline", "records", "settings", "version"),
    "probes": (
        *("catalog", "core", "guard", "live", "patching", "pipeline", "privacy", "probes"),
        *("prices", "records", "settings", "version"),
    ),
    "resources": ("catalog", "core", "guard", "pipeline", "resources"),
    "server": ("catalog", "guard", "live", "pipeline", "server", "settings", "version"),
    "document": ("document",),
    "analysis": ("analysis", "catalog", "document"),
    "backtest": ("backtest", "document", "rules", "thresholds"),
    "testing": ("catalog", "document", "privacy", "testing"),
    "promql": ("catalog",),
    "thresholds": ("catalog",),
    "grafana": (
        "analysis.clickhouse",
        "catalog",
        "grafana",
        "promql",
        *("rules.objectives", "rules.recording", "rules.windows"),
        "thresholds",
    ),
    "rules": ("catalog", "promql", "rules", "thresholds", "version"),
    "live": (
        *("catalog", "core", "guard", "live", "pipeline", "privacy", "settings", "thresholds"),
        "version",
    ),
}


@pytest.mark.parametrize("part", USES)
def test_imports_go_one_way(part: str) -> None:
    allowed = ours(*USES[part])
    wrong = [
        str(i)
        for i in IMPORTS
        if within(i.by, *ours(part)) and i.of("chainlit_otel") and not i.of(*allowed)
    ]
    assert wrong == []


@pytest.mark.parametrize("part", ["core", "settings", "catalog", "guard"])
def test_the_domain_and_the_data_need_the_standard_library_only(part: str) -> None:
    wrong = [
        str(i)
        for i in IMPORTS
        if within(i.by, *ours(part))
        and not i.of("chainlit_otel")
        and i.name.partition(".")[0] not in sys.stdlib_module_names
    ]
    assert wrong == []


def test_chainlit_is_named_by_the_probes_and_the_commands_that_run_it_alone() -> None:
    named = [i for i in IMPORTS if i.of("chainlit")]
    assert [
        str(i) for i in named if not within(i.by, *ours("probes", "diagnostics", "cli.demo_app"))
    ] == []


def test_chainlit_is_never_imported_at_the_top_of_a_module_but_of_an_app() -> None:
    (app,) = ours("cli.demo_app")
    assert [str(i) for i in IMPORTS if i.of("chainlit") and i.at_top and i.by != app] == []
    assert [str(i) for i in IMPORTS if i.of(app)] == []


def test_a_command_imports_chainlit_in_a_process_of_its_own_alone() -> None:
    assert [str(i) for i in IMPORTS if i.of(*ours("cli.demo_app", "diagnostics"))] == []


def test_nobody_imports_the_probes_but_what_composes_and_what_examines_them() -> None:
    those = ours("probes", "runtime", "internal_metrics", "diagnostics")
    wrong = [str(i) for i in IMPORTS if i.of(*ours("probes")) and not within(i.by, *those)]
    assert wrong == []


def test_nobody_imports_what_an_app_calls_but_the_front_doors() -> None:
    doors = {"chainlit_otel", *ours("api", "diagnostics", "instrumentor")}
    wrong = [str(i) for i in IMPORTS if i.of(*ours("api", "runtime")) and i.by not in doors]
    assert wrong == []


def test_opentelemetry_is_left_to_those_that_emit() -> None:
    emitters = ours(
        "api", "pipeline", "runtime", "server", "probes", "instrumentor", "diagnostics", "cli"
    )
    emitters += ours("records.log_events", "live.traces")
    wrong = [str(i) for i in IMPORTS if i.of("opentelemetry") and not within(i.by, *emitters)]
    assert wrong == []


def test_the_front_door_holds_the_public_names_and_loads_the_rest_when_asked() -> None:
    assert set(chainlit_otel.__all__) == {
        "Settings",
        "__version__",
        "access_denied",
        "disable",
        "enable",
        "record_score",
        "record_usage",
        "watch_cache",
        "watch_pool",
    }
    loaded = {
        i.name
        for i in IMPORTS
        if i.by == "chainlit_otel" and i.at_top and not i.for_types and i.of("chainlit_otel")
    }
    assert loaded == set(ours("settings", "version"))
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        chainlit_otel.nonsense  # noqa: B018


IMPORTED = """
import json, os, sys
import chainlit_otel
print(json.dumps({"modules": sorted(sys.modules), "files": os.listdir()}))
"""
ENABLED = """
import json, os, sys
import chainlit_otel
chainlit_otel.enable(chainlit_otel.Settings(port=0))
chainlit_otel.enable()
chainlit_otel.disable()
chainlit_otel.disable()
print(json.dumps({"modules": sorted(sys.modules), "files": os.listdir()}))
"""


def facts(code: str, directory: Path) -> tuple[set[str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return set(found["modules"]), found["files"]


def test_the_import_leaves_chainlit_and_the_sdk_unimported_and_writes_no_file(
    tmp_path: Path,
) -> None:
    modules, files = facts(IMPORTED, tmp_path)
    assert {"chainlit", "opentelemetry", "opentelemetry.sdk", "starlette"} & modules == set()
    assert {"chainlit_otel", "chainlit_otel.settings"} <= modules
    assert files == []


def test_enabling_leaves_chainlit_to_the_application_and_writes_no_file(tmp_path: Path) -> None:
    modules, files = facts(ENABLED, tmp_path)
    assert "chainlit" not in modules
    assert "chainlit_otel.runtime" in modules
    assert files == []


# One language: what a name of the source means


def test_no_two_classes_of_the_package_share_a_name() -> None:
    classes: dict[str, list[str]] = {}
    for module, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(module)
    assert {name: where for name, where in classes.items() if len(where) > 1} == {}


# Names that were replaced by a term of OpenTelemetry, of Prometheus or of Python.
RETIRED = frozenset(
    [
        *("Beside", "Book", "ClosedSet", "FOLDED_ATTRIBUTE", "Frame", "Held", "Identities"),
        *("LASTED", "LearnedSet", "MENDS", "OURS", "OfThisProcess", "PATIENCE", "Pulse"),
        *("Questions", "ReaderOfOneProcess", "Seen", "StayHere", "Tally", "Together", "UNHEARD"),
        *("Watch", "Witness", "YOUNG", "abandon", "add_kept", "asking", "be_let_in"),
        *("called_back", "cleaned_up", "come_in", "complain", "dice", "dormant", "exchange"),
        *("fall_silent", "folded", "gave", "give_up", "goes_on", "hold_back", "holding"),
        *("holds_back", "is_at_home", "last_words", "looks_at", "mend", "nobody", "noting"),
        *("on_undo", "open_child", "open_root", "owner_of", "presented", "printable", "said"),
        *("say_goodbye", "sent_back", "settle", "shadow", "step_back", "strayed", "suits"),
        *("surviving", "sweep", "tell", "throw_away", "thrown_away", "together", "told"),
        *("took_a_turn", "turn_to_go", "unseen", "untold", "witness", "witnessed"),
    ]
)
PROSE = re.compile(
    r"\b(the books|tall(y|ies)|mend(s|ed)?|frames? of ours|worr(y|ies)|folded|thrown? away"
    r"|held back|holds? back|(is|are|was|were|be|been) told(?! (apart|from|that))|sa(y|ys|id) so"
    r"|watchers?)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("module", SOURCES)
def test_no_retired_name_comes_back(module: str) -> None:
    names = set()
    for node in ast.walk(SOURCES[module]):
        for field in ("id", "attr", "name", "arg"):
            if isinstance(name := getattr(node, field, None), str):
                names.add(name.strip("_"))
    assert names & RETIRED == set()


def test_no_retired_word_comes_back_in_prose() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if PROSE.search(line)
    ]
    assert found == []
