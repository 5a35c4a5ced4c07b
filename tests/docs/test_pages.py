"""The pages hang together: links lead somewhere, each is found, and what they count is right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chainlit_otel.grafana import files
from chainlit_otel.version import REPOSITORY
from tests.docs.pages import DOCS, PAGES, ROOT, anchors, links, name

README = ROOT / "README.md"
OF_OURS = re.compile(rf"{re.escape(REPOSITORY)}/blob/main/([^#]+)(?:#(.+))?")
WORDS = ["no", "one", "two", "three", "four", "five", "six"]

every_page = pytest.mark.parametrize("page", PAGES, ids=name)


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 150


@every_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in links(page):
        ours = OF_OURS.fullmatch(link)
        if ours is not None:
            target, anchor = ROOT / ours.group(1), ours.group(2)
        elif re.match(r"https?://|mailto:", link):
            continue
        else:
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            # The site has the pages alone: they name what is beside them by its address.
            assert page.parent != DOCS or target.parent == DOCS, link
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=name)
def test_a_page_is_found_from_the_readme_and_from_the_index(page: Path) -> None:
    assert page.name == "index.md" or f"docs/{page.name}" in links(README)
    assert page.name == "index.md" or page.name in links(DOCS / "index.md")


@pytest.mark.parametrize("page", [README, DOCS / "dashboards.md"], ids=name)
def test_the_number_of_dashboards_is_right(page: Path) -> None:
    text = page.read_text(encoding="utf-8").lower()
    assert f"{WORDS[len(files())]} dashboards" in text.replace("grafana ", "")
