"""What a package index shows of the project."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import tomli

from chainlit_otel.rules import RUNBOOK
from chainlit_otel.version import REPOSITORY

ROOT = Path(__file__).parents[1]
PYPROJECT: dict[str, Any] = tomli.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
RAW = REPOSITORY.replace("github.com", "raw.githubusercontent.com")


def readme() -> str:
    """The README as the build rewrites it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for one in PYPROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"][
        "substitutions"
    ]:
        text = re.sub(one["pattern"], one["replacement"], text)
    return text


def test_the_project_is_at_home_in_one_place() -> None:
    urls = PYPROJECT["project"]["urls"]
    assert urls["Source"] == REPOSITORY
    assert urls["Runbook"] == RUNBOOK
    assert all(url.startswith(REPOSITORY) for url in urls.values())


def test_links_and_pictures_of_the_readme_lead_somewhere_from_a_package_index() -> None:
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", readme())
    places = {True: f"{RAW}/main/", False: f"{REPOSITORY}/blob/main/"}
    ours = [(bool(picture), url) for picture, url in links if "/chainlit-otel/" in url]
    assert [url for picture, url in links if not re.match(r"https?://|#", url)] == []
    assert [url for picture, url in ours if not url.startswith(places[picture])] == []
    files = {url.removeprefix(places[picture]).partition("#")[0] for picture, url in ours}
    assert {"docs/sessions.png", "docs/runbook.md", "examples/stack", "SECURITY.md"} <= files
    assert [file for file in files if not (ROOT / file).exists()] == []
