"""`chainlit-otel metrics`: the catalogue, for people, documents and programs."""

from __future__ import annotations

import json
import shutil
import textwrap
from collections.abc import Callable
from typing import TypedDict

import click

from chainlit_otel import catalog


class MetricRow(TypedDict):
    """One metric.

    `name` is the Prometheus name, `opentelemetry_name` that of OpenTelemetry; `labels` maps each
    Prometheus label to its values; `bounds` are the buckets of a histogram, in `unit`.
    `idle_series` are the series of an app that nobody has used yet, and `series` those of each
    combination of labels.
    """

    name: str
    opentelemetry_name: str
    kind: str
    unit: str
    description: str
    labels: dict[str, list[str]]
    bounds: list[float]
    idle_series: int
    series: int


def rows() -> list[MetricRow]:
    """Return the catalogue, in its own order."""
    return [
        MetricRow(
            name=metric.prometheus_name,
            opentelemetry_name=metric.name,
            kind=metric.kind,
            unit=metric.unit,
            description=metric.description,
            labels={a.prometheus_label: list(a.values or ()) for a in metric.attributes},
            bounds=list(metric.bounds),
            idle_series=len(metric.label_sets) * metric.series,
            series=metric.series,
        )
        for metric in catalog.METRICS
    ]


def table() -> str:
    """Return the catalogue for a terminal: one aligned line a metric, its description below."""
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
    """Return the catalogue as a Markdown table."""
    lines = ["| metric | kind | what it says | labels |", "|---|---|---|---|"]
    for row in rows():
        labels = ", ".join(f"`{label}`" for label in row["labels"])
        lines.append(f"| `{row['name']}` | {row['kind']} | {row['description']} | {labels} |")
    return "\n".join(lines)


def series() -> str:
    """Return how many series each metric has, as a Markdown table, the most first."""
    lines = ["| metric | idle | each combination of | costs |", "|---|--:|---|--:|"]
    for row in sorted(rows(), key=lambda row: (-row["idle_series"], -row["series"])):
        labels = ", ".join(f"`{label}`" for label in row["labels"])
        lines.append(f"| `{row['name']}` | {row['idle_series']} | {labels} | {row['series']} |")
    lines.append(f"| all of these | {sum(row['idle_series'] for row in rows())} | | |")
    return "\n".join(lines)


def as_json() -> str:
    """Return the whole catalogue as a JSON array."""
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
@click.option(
    "--series",
    "costs",
    is_flag=True,
    help="Show instead how many series each metric costs: in an app that nobody has used yet, and "
    "for each combination of labels that occurs.",
)
def command(style: str, costs: bool) -> None:
    """List every metric: name, meaning, labels.

    The names are those under which Prometheus sees them.
    """
    click.echo(series() if costs else _FORMATS[style]())
