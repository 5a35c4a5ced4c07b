"""The site of the pages is built, and a link that leads nowhere fails it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tomli

from tests.docs.pages import DOCS, ROOT

CONFIG = ROOT / "zensical.toml"


def build(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("zensical"), "build", "--strict", "--clean"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture
def site(tmp_path: Path) -> Path:
    shutil.copy(CONFIG, tmp_path)
    shutil.copytree(DOCS, tmp_path / "docs")
    return tmp_path


def test_every_page_is_built(site: Path) -> None:
    done = build(site)
    assert done.returncode == 0, done.stdout + done.stderr
    for page in DOCS.glob("*.md"):
        built = "index.html" if page.stem == "index" else f"{page.stem}/index.html"
        assert "<h1" in (site / "site" / built).read_text(encoding="utf-8")


@pytest.mark.parametrize("link", ["nowhere.md", "sessions.md#nowhere"])
def test_a_link_that_leads_nowhere_fails(site: Path, link: str) -> None:
    with (site / "docs" / "index.md").open("a", encoding="utf-8") as index:
        index.write(f"\n[broken]({link})\n")
    assert build(site).returncode != 0


def test_every_page_is_in_the_navigation() -> None:
    named: list[str] = []
    for entry in tomli.loads(CONFIG.read_text(encoding="utf-8"))["project"]["nav"]:
        for target in entry.values():
            named += [target] if isinstance(target, str) else target
    assert sorted(named) == sorted(page.name for page in DOCS.glob("*.md"))
