"""The report: all sections as one page without a script, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timezone
from math import isfinite
from typing import Any

from markupsafe import Markup

from chainlit_otel.analysis.sections import SECTIONS, Kind, Section, day_of, dollars
from chainlit_otel.analysis.source import RecordSource
from chainlit_otel.analysis.statistics import Estimate
from chainlit_otel.analysis.tables import Periods
from chainlit_otel.document import rendered
from chainlit_otel.document.pictures import svg

_NOTHING = "\N{EN DASH}"
_UNKNOWN = "?"


@dataclass(frozen=True)
class Report:
    """What a report holds.

    Attributes:
        periods: What it is about.
        made: When it was made.
        source: What was read for it.
        sections: Its sections.
    """

    periods: Periods
    made: datetime
    source: str
    sections: tuple[Section, ...]


def make(source: RecordSource, periods: Periods) -> Iterator[Section]:
    """Yield each section once its question is answered."""
    source.prepare(periods)
    for section in SECTIONS:
        yield section(source.ask(section.__name__), periods)


def as_json(report: Report) -> str:
    """Return the figures of a report as JSON."""
    sections = [
        {
            "name": section.name,
            "title": section.title,
            "findings": section.findings,
            "figures": [
                {
                    "title": figure.title,
                    "columns": [name for name, _ in figure.columns],
                    "rows": figure.rows,
                    "note": figure.note,
                }
                for figure in section.figures
            ],
        }
        for section in report.sections
    ]
    document = {
        "since": report.periods.since,
        "until": report.periods.until,
        "since_before": report.periods.before,
        "made": report.made,
        "source": report.source,
        "sections": sections,
    }
    return json.dumps(_as_json(document), indent=1, ensure_ascii=False, allow_nan=False)


def _as_json(value: Any) -> Any:
    """Return a value as JSON has it, which knows no number that is not finite."""
    if isinstance(value, dict):
        return {name: _as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, Estimate):
        return value.known()
    if isinstance(value, datetime):
        return value.astimezone(timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    number = float(value)  # or a decimal
    return number if isfinite(number) else None


def as_html(report: Report) -> str:
    """Return a report as one page that needs nothing else."""
    numbers = iter(range(1, 1000))
    pictures = {
        (m, n): Markup(svg(figure.chart, next(numbers)))
        for m, section in enumerate(report.sections, 1)
        for n, figure in enumerate(section.figures, 1)
        if figure.chart is not None
    }
    return rendered(
        "chainlit_otel.analysis",
        "report.html",
        {"cell": cell, "day": day_of},
        report=report,
        pictures=pictures,
        is_number=is_number,
    )


def is_number(kind: Kind) -> bool:
    """Tell whether a column of this kind is aligned as numbers are."""
    return kind not in ("text", "code", "time", "day")


def cell(value: Any, kind: Kind) -> str:
    """Return a value as the page writes it."""
    if not isinstance(value, Estimate):
        return _NOTHING if value is None else _written(value, kind)
    parts = {
        name: _UNKNOWN if part is None else _written(part, kind)
        for name, part in value.known().items()
    }
    if parts["value"] == _UNKNOWN:
        return _NOTHING
    if parts["low"] == parts["high"] == _UNKNOWN:
        return parts["value"]
    # Said once, the unit is that of all three.
    low = parts["low"].removesuffix("%")
    return f"{parts['value']} ({low} to {parts['high'].removesuffix('%')})"


def _written(value: Any, kind: Kind) -> str:
    if kind == "count":
        return f"{value:,}"
    if kind == "share":
        return f"{value:.1%}"
    if kind == "change":
        return f"{value:+.1%}"
    if kind == "points":
        return f"{value * 100:+.1f}"
    if kind == "seconds":
        return _duration(value)
    if kind == "dollars":
        return dollars(value)
    if kind == "number":
        return f"{value:.4g}"
    if kind == "time":
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if kind == "day":
        return day_of(value)
    return str(value)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g}\u202fs"
    if seconds < 7200:
        return f"{seconds / 60:.1f}\u202fmin"
    return f"{seconds / 3600:,.1f}\u202fh"
