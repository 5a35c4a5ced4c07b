"""axe, which finds what a page makes hard for people with a screen reader or without a mouse."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

from playwright.async_api import Page

_PACKAGE = Path(__file__).parent / "axe-core" / "package.json"
_TIMEOUT = 240.0
_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def install_axe(directory: Path) -> str:
    """Install axe into a directory, and return its script."""
    shutil.copy(_PACKAGE, directory)
    quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--silent")
    install = ["npm", "install", "--prefer-offline", "--ignore-scripts", *quiet]
    subprocess.run(install, cwd=directory, check=True, timeout=_TIMEOUT)
    return (directory / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")


async def violations(page: Page, script: str) -> list[str]:
    """Return what axe objects to: the rule, and the elements."""
    await page.evaluate(script)
    options: dict[str, Any] = {
        "resultTypes": ["violations"],
        "runOnly": {"type": "tag", "values": _TAGS},
    }
    found = await page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{violation['id']}: {[node['target'] for node in violation['nodes']]}"
        for violation in found["violations"]
    ]
