"""Writes the tables of the documents that come from the code, or checks that they are fresh.

Usage: python -m tools.docs [--check]
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

from chainlit_otel import catalog, settings
from chainlit_otel.cli import metrics
from tests.support.browser_table import browser_table

ROOT = Path(__file__).resolve().parent.parent


def labels_table() -> str:
    """Return every label and its values as a Markdown table."""
    values: dict[str, list[str]] = {}
    for metric in catalog.METRICS:
        for attribute in metric.attributes:
            known = values.setdefault(attribute.prometheus_label, [])
            known += [value for value in attribute.values if value not in known]
    rows = ["| label | values |", "|---|---|"]
    rows += [f"| `{label}` | {', '.join(values[label])} |" for label in sorted(values)]
    return "\n".join(rows)


def settings_table() -> str:
    """Return the settings as a Markdown table."""
    rows = ["| `Settings(…)` | environment | default | |", "|---|---|---|---|"]
    for row in settings.describe():
        default = "" if row["default"] is None else f"`{row['default']}`"
        rows.append(f"| `{row['name']}` | `{row['env']}` | {default} | {row['help']} |")
    return "\n".join(rows)


DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {
        "metrics": metrics.markdown,
        "labels": labels_table,
        "settings": settings_table,
        "browser": browser_table,
    },
    "docs/metrics.md": {"series": metrics.series},
}


def render(document: str, text: str) -> str:
    """Return the text of a document with every marked table written anew."""
    for name, table in DOCUMENTS[document].items():
        block = f"<!-- {name} -->\n{table()}\n<!-- /{name} -->"
        text, found = re.subn(
            rf"<!-- {name} -->.*?<!-- /{name} -->",
            block.replace("\\", r"\\"),
            text,
            flags=re.DOTALL,
        )
        if not found:
            raise SystemExit(f"{document} has no table marked <!-- {name} -->")
    return text


def main() -> None:
    """Write the documents, or exit with 1 if one is stale."""
    for document in DOCUMENTS:
        file = ROOT / document
        text = file.read_text(encoding="utf-8")
        fresh = render(document, text)
        if "--check" not in sys.argv[1:]:
            file.write_text(fresh, encoding="utf-8")
        elif fresh != text:
            raise SystemExit(f"{document} has stale tables: run `make docs`")


if __name__ == "__main__":
    main()
