"""Pictures as SVG whose colours are those of the page that they stand in, light or dark."""

from __future__ import annotations

import io
import re
from typing import Any

import altair as alt

# Variables of the style sheet: one SVG serves light, dark and print.
NOW, BEFORE = "var(--now)", "var(--before)"
_TEXT, _GRID = "var(--muted)", "var(--grid)"
WIDTH = 640


def svg(chart: alt.TopLevelMixin, number: int) -> str:
    """Return a chart as SVG to stand within a page.

    Args:
        chart: The chart.
        number: Of the figure in the page; it keeps the ids apart.
    """
    text = io.StringIO()
    chart.save(text, format="svg")
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r'(id="|url\(#)(?=[a-z]+\d)', rf"\1f{number}-", drawn)
    # To a screen reader the table says it better.
    return re.sub(r"<svg ", '<svg aria-hidden="true" focusable="false" ', drawn, count=1)


def styled(chart: Any) -> alt.TopLevelMixin:
    """Return a chart in the style of the page."""
    plain: alt.TopLevelMixin = (
        chart.configure(
            background="transparent",
            # Arial, or what has its widths: that is what the labels have been measured with.
            font="Arial, Liberation Sans, Helvetica, sans-serif",
            padding={"left": 24, "right": 12, "top": 4, "bottom": 4},
        )
        .configure_view(stroke=None)
        .configure_axis(
            labelColor=_TEXT,
            titleColor=_TEXT,
            gridColor=_GRID,
            domainColor=_GRID,
            tickColor=_GRID,
            labelFontSize=12,
            titleFontSize=12,
            titleFontWeight="normal",
            labelLimit=220,
        )
        .configure_legend(labelColor=_TEXT, labelFontSize=12, symbolStrokeWidth=2)
        .configure_header(labelColor=_TEXT, labelFontSize=12, title=None)
    )
    return plain
