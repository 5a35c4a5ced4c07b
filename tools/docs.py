"""Writes the tables of the documents that come from the code, or checks that they are fresh.

Usage: python -m tools.docs [--check]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import yaml

from chainlit_otel import catalog, rules, settings
from chainlit_otel.cli import metrics
from chainlit_otel.grafana import files
from tests.support.browser_table import browser_table
from tools import compat

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


def monitor_table() -> str:
    """Return the metrics of the monitor as a Markdown table."""
    rows = ["| metric | what it says | labels of its own |", "|---|---|---|"]
    for metric in catalog.MONITOR_METRICS:
        own = [
            f"`{attribute.prometheus_label}`: {', '.join(attribute.values)}"
            for attribute in metric.attributes
            if attribute.values
        ]
        rows.append(f"| `{metric.prometheus_name}` | {metric.description} | {''.join(own)} |")
    return "\n".join(rows)


def settings_table() -> str:
    """Return the settings as a Markdown table."""
    rows = ["| `Settings(…)` | environment | default | |", "|---|---|---|---|"]
    for row in settings.describe():
        default = "" if row["default"] is None else f"`{row['default']}`"
        rows.append(f"| `{row['name']}` | `{row['env']}` | {default} | {row['help']} |")
    return "\n".join(rows)


# Prometheus alone knows these, of what it scrapes.
_SCRAPED = re.compile(r"\b(up|process_\w+)\b")
# What becomes of the alerts that ask for one of them, where there is none.
_WITHOUT_SCRAPE = {
    ("SessionSpike", "new_visitors"): "fires over a restart, too",
    ("SessionSpike", "reconnect_storm"): "fires over a restart, too",
    ("SessionSpike", "rollout"): "never fires",
    ("StickinessLost", ""): "fires over a restart, too",
    ("InstanceDown", ""): "never fires",
}


def alerts_table() -> str:
    """Return the alerts as a Markdown table, with what holds where nothing is scraped."""
    groups = yaml.safe_load(rules.render())["groups"]
    recorded = {
        rule["record"]: rule["expr"]
        for group in groups
        for rule in group["rules"]
        if "record" in rule
    }
    rows = ["| alert | severity | after | says | by OTLP |", "|---|---|---|---|---|"]
    for rule in (rule for group in groups for rule in group["rules"] if "alert" in rule):
        labels = rule["labels"]
        variant = "".join(value for key, value in labels.items() if key != "severity")
        name = rule["alert"].removeprefix("Chainlit")
        key = (name, variant)
        if asks_for_scraped(rule["expr"], recorded) != (key in _WITHOUT_SCRAPE):
            raise SystemExit(f"{key}: say in tools/docs.py what becomes of it by OTLP")
        suffix = f" ({variant})" if variant else ""
        summary = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"*\1*", rule["annotations"]["summary"])
        link = f"[{name}](runbook.md#{rule['alert'].lower()}){suffix}"
        row = (
            link,
            labels["severity"],
            rule.get("for", "at once"),
            summary,
            _WITHOUT_SCRAPE.get(key, "holds"),
        )
        rows.append("| " + " | ".join(row) + " |")
    return "\n".join(rows)


def asks_for_scraped(expr: str, recorded: dict[str, str]) -> bool:
    """Tell whether an expression, or a recorded series in it, asks for what is scraped."""
    return bool(_SCRAPED.search(expr)) or any(
        name in expr and asks_for_scraped(formula, recorded) for name, formula in recorded.items()
    )


def scrape_panels() -> str:
    """Return the panels that are empty where nothing is scraped, as a Markdown list."""
    rows = []
    for text in files().values():
        dashboard = json.loads(text)
        for panel in dashboard["panels"]:
            queries = [target["expr"] for target in panel.get("targets", [])]
            if any(map(_SCRAPED.search, queries)):
                rows.append(f"- {panel['title']}")
    return "\n".join(dict.fromkeys(rows))


def records_table() -> str:
    """Return the kinds of records and their fields as Markdown."""
    common = ["| column | type | |", "|---|---|---|"]
    common += [_field_row(field) for field in catalog.COMMON_FIELDS]
    parts = ["### All records", *common]
    for kind in catalog.RECORDS:
        rows = [_field_row(field) for field in kind.fields]
        parts += ["", f"### `{kind.name}`", "", kind.description, "", *common[:2], *rows]
    parts.insert(1, "")
    return "\n".join(parts)


def _field_row(field: catalog.RecordField) -> str:
    return f"| `{field.column}` | {field.type} | {field.description} |"


def compat_table() -> str:
    """Return what held with each Chainlit as a Markdown table."""
    heads = ["Chainlit", "beside it", "Python", *compat.BESIDE, "tests", "probes that are off"]
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for held in json.loads(compat.RESULTS.read_text(encoding="utf-8")):
        tests = f"{held['passed']} passed"
        if held["rerun"]:
            tests += f" ({held['rerun']} at the second try)"
        if held["failed"]:
            tests += f", {len(held['failed'])} failed"
        beside = [held["beside"][name] for name in compat.BESIDE]
        off = ", ".join(f"`{name}`" for name in held["off"]) or "none"
        cells = [held["chainlit"], held["which"], held["python"], *beside, tests, off]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "docs/alerts.md": {"alerts": alerts_table},
    "docs/compatibility.md": {"compat": compat_table},
    "docs/deployment.md": {"scrape-panels": scrape_panels},
    "docs/metrics.md": {
        "metrics": metrics.markdown,
        "labels": labels_table,
        "series": metrics.series,
    },
    "docs/records.md": {"records": records_table},
    "docs/sessions.md": {"browser": browser_table},
    "docs/settings.md": {"settings": settings_table},
    "docs/visitors.md": {"monitor": monitor_table},
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
