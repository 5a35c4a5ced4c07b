"""`chainlit-otel metrics`: the catalogue, for people, documents and programs."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable
from typing import TypedDict

import click

from chainlit_otel import catalog


class Row(TypedDict):
    """One metric.

    `name` is the Prometheus name, `opentelemetry_name` the other one; `labels` maps each Prometheus
    label to its values; `bounds` are the buckets of a histogram, in `unit`.
    """

    name: str
    opentelemetry_name: str
    kind: str
    unit: str
    description: str
    labels: dict[str, list[str]]
    bounds: list[float]


def rows() -> list[Row]:
    """The catalogue in its own order."""
    return [
        Row(
            name=metric.prometheus_name,
            opentelemetry_name=metric.name,
            kind=metric.kind,
            unit=metric.unit,
            description=metric.description,
            labels={a.prometheus_label: list(a.values or ()) for a in metric.attributes},
            bounds=list(metric.bounds),
        )
        for metric in catalog.METRICS
    ]


def table() -> str:
    """The catalogue for a terminal: one aligned line a metric, and below it what it says."""
    width = max(len(row["name"]) for row in rows())
    fill = textwrap.TextWrapper(
        width=max(60, shutil.get_terminal_size(fallback=(100, 0)).columns),
        initial_indent="    ",
        subsequent_indent="    ",
        break_long_words=False,
    ).fill
    blocks = []
    for row in rows():
        lines = [f"{row['name']:<{width}}  {row['kind']:<13}  {row['unit']}"]
        lines.append(fill(row["description"]))
        if row["labels"]:
            lines.append(fill("by " + ", ".join(row["labels"])))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def markdown() -> str:
    """The catalogue as a Markdown table."""
    lines = ["| metric | kind | what it says | labels |", "|---|---|---|---|"]
    for row in rows():
        labels = ", ".join(f"`{label}`" for label in row["labels"])
        lines.append(f"| `{row['name']}` | {row['kind']} | {row['description']} | {labels} |")
    return "\n".join(lines)


def as_json() -> str:
    """The catalogue with everything in it, as a JSON array."""
    return json.dumps(rows(), indent=2, ensure_ascii=False)


_FORMATS: dict[str, Callable[[], str]] = {"table": table, "markdown": markdown, "json": as_json}


@click.command("metrics")
@click.option(
    "--format",
    "style",
    type=click.Choice(list(_FORMATS)),
    default="table",
    show_default=True,
    help="table: to read here. markdown: to paste into a document. json: for programs, with the "
    "values of every label and the buckets of every histogram.",
)
def command(style: str) -> None:
    """List every metric: name, meaning, labels.

    The names are those under which Prometheus sees them.
    """
    click.echo(_FORMATS[style]())
