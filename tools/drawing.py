"""Draws panels the way Grafana does: a page of HTML, with SVG for the charts."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from tests.support.grafana import Series

Json = dict[str, Any]
Shown = Mapping[str, Sequence[tuple[str, Series]]]
"""The series of a panel with their legends, by the letter of the query."""

WIDTH, MARGIN, GAP, CELL, COLUMNS = 1280, 12, 8, 30, 24
_TITLE, _LEGEND_ROW, _AXIS, _LEFT, _RIGHT = 28, 18, 18, 54, 14
_PALETTE = ("#73bf69", "#f2cc0c", "#8ab8ff", "#ff780a", "#f2495c", "#5794f2", "#b877d9")
_COLOURS = {"green": "#73bf69", "#EAB839": "#eab839", "red": "#f2495c"}
_GRID, _FAINT = "#2a2d33", "#8e8f98"

_STYLE = f"""
* {{ box-sizing: border-box; margin: 0; }}
body {{ background: #111217; color: #ccccdc; width: {WIDTH}px; padding: {MARGIN}px;
  font: 12px "Inter", "DejaVu Sans", "Liberation Sans", Helvetica, Arial, sans-serif; }}
h1 {{ font-size: 16px; font-weight: 500; padding: 2px 4px 10px; }}
main {{ display: grid; grid-template-columns: repeat({COLUMNS}, 1fr); gap: {GAP}px;
  grid-auto-rows: {CELL}px; }}
section {{ background: #181b1f; border: 1px solid #25272d; border-radius: 3px; overflow: hidden; }}
section h2 {{ font-size: 13px; font-weight: 500; padding: 6px 8px 0; height: {_TITLE}px;
  white-space: nowrap; }}
h3 {{ font-size: 15px; font-weight: 500; align-self: center; padding-left: 4px; }}
h3::before {{ content: "⌄ "; color: {_FAINT}; }}
.figures {{ display: flex; position: relative; height: calc(100% - {_TITLE}px); }}
.figures div {{ flex: 1; text-align: center; font-size: 34px; font-weight: 500; padding-top: 14px;
  position: relative; white-space: nowrap; }}
.figures small {{ display: block; font-size: 12px; font-weight: 400; color: #ccccdc; }}
.figures svg {{ position: absolute; left: 0; bottom: 0; }}
.unit {{ font-size: 20px; }}
table {{ width: calc(100% - 16px); margin: 0 8px; border-collapse: collapse; font-size: 11px; }}
td, th {{ height: {_LEGEND_ROW}px; padding: 0; font-weight: 400; text-align: right; }}
th {{ color: #6e9fff; font-weight: 500; }}
td:first-child, th:first-child {{ text-align: left; }}
i {{ display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin-right: 6px;
  vertical-align: middle; }}
svg {{ display: block; }}
svg text {{ font-size: 11px; fill: {_FAINT}; }}
"""


def page(title: str, panels: Iterable[tuple[Json, Shown]]) -> str:
    """Return a page with the panels of a dashboard in their places.

    Args:
        title: Title of the dashboard.
        panels: The panels and the titles of rows, as the dashboard has them, each with its series.
    """
    placed = "".join(_placed(panel, shown) for panel, shown in panels)
    return (
        f"<!doctype html><meta charset=utf-8><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1><main>{placed}</main>"
    )


def _placed(panel: Json, shown: Shown) -> str:
    place = panel["gridPos"]
    where = (
        f"grid-column: {place['x'] + 1} / span {place['w']}; "
        f"grid-row: {place['y'] + 1} / span {place['h']}"
    )
    title = escape(panel["title"])
    if panel["type"] == "row":
        return f'<h3 style="{where}">{title}</h3>'
    column = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
    width = place["w"] * column + (place["w"] - 1) * GAP - 2
    height = place["h"] * CELL + (place["h"] - 1) * GAP - 2 - _TITLE
    drawn = _DRAWERS[panel["type"]](panel, shown, width, height)
    return f'<section style="{where}"><h2>{title}</h2>{drawn}</section>'


def _stat(panel: Json, shown: Shown, width: float, height: float) -> str:
    field = panel["fieldConfig"]["defaults"]
    series = [named for found in shown.values() for named in found]
    share = width / max(1, len(series))
    figures = []
    for legend, one in series:
        colour = _threshold(field["thresholds"]["steps"], one.last)
        number, unit = _number(one.last, field["unit"], field.get("decimals"))
        name = f"<small>{escape(legend)}</small>" if len(series) > 1 else ""
        figures.append(
            f'<div style="color: {colour}">{_spark(one, colour, share, height / 2.4)}'
            f'{name}{number}<span class="unit">{unit}</span></div>'
        )
    return f'<div class="figures">{"".join(figures)}</div>'


def _spark(series: Series, colour: str, width: float, height: float) -> str:
    most = max(series.values) or 1
    start, end = series.points[0][0], series.points[-1][0]
    points = [
        (width * (at - start) / max(1, end - start), height * (1 - 0.94 * value / most))
        for at, value in series.points
    ]
    return (
        f'<svg width="{width:.0f}" height="{height:.0f}">{_area(points, height, colour, 0.18)}'
        f"{_line(points, colour)}</svg>"
    )


def _timeseries(panel: Json, shown: Shown, width: float, height: float) -> str:
    field, overrides = panel["fieldConfig"]["defaults"], panel["fieldConfig"]["overrides"]
    dashed = {
        override["matcher"]["options"]
        for override in overrides
        if any(changed["id"] == "custom.lineStyle" for changed in override["properties"])
    }
    drawn = [(ref, legend, one) for ref, found in shown.items() for legend, one in found]
    stacked = field["custom"]["stacking"]["mode"] == "normal"
    opacity = field["custom"]["fillOpacity"] / 100
    height -= _LEGEND_ROW * (len(drawn) + 1) + 6
    lines = _stacked([one for _, _, one in drawn]) if stacked else [o.points for _, _, o in drawn]
    chart = _Chart(lines, width, height, field["unit"])
    shapes, rows = [], []
    for n, ((ref, legend, one), points) in enumerate(zip(drawn, lines, strict=True)):
        colour = _PALETTE[n % len(_PALETTE)]
        for piece in _pieces(points, one.step):
            at = [chart.at(*point) for point in piece]
            if ref not in dashed:
                shapes.append(_area(at, chart.bottom, colour, opacity))
            shapes.append(_line(at, colour, ref in dashed))
        rows.append(
            f'<tr><td><i style="background: {colour}"></i>{escape(legend)}'
            f"<td>{_text(one.last, field['unit'])}<td>{_text(max(one.values), field['unit'])}"
        )
    return (
        f"{chart.svg(''.join(reversed(shapes)) if stacked else ''.join(shapes))}"
        f"<table><tr><th>Name<th>Last *<th>Max{''.join(rows)}</table>"
    )


def _heatmap(panel: Json, shown: Shown, width: float, height: float) -> str:
    unit = panel["options"]["yAxis"]["unit"]
    buckets = sorted(
        ((float(legend), one) for found in shown.values() for legend, one in found),
        key=lambda bucket: bucket[0],
    )
    step = buckets[0][1].step
    lower: dict[float, float] = {}
    cells: list[tuple[int, float, float]] = []
    for row, (_, one) in enumerate(buckets):
        cells += [(row, at, value - lower.get(at, 0.0)) for at, value in one.points]
        lower = dict(one.points)
    cells = [cell for cell in cells if cell[2] > 1e-9]
    used = [row for row, _, _ in cells]
    first, rows = min(used), max(used) - min(used) + 1
    most = max(value for _, _, value in cells)
    ends = [one.points[0][0] for _, one in buckets] + [one.points[-1][0] for _, one in buckets]
    chart = _Chart([((min(ends), 0), (max(ends) + step, rows))], width, height - 8, unit, rows)
    shapes = []
    for row, at, value in cells:
        (left, bottom), (right, top) = (
            chart.at(at, row - first),
            chart.at(at + step, row - first + 1),
        )
        shade = 0.12 + 0.88 * (value / most) ** 0.5
        shapes.append(
            f'<rect x="{left:.1f}" y="{top + 0.5:.1f}" width="{right - left - 0.4:.1f}" '
            f'height="{bottom - top - 1:.1f}" fill="#ff9830" fill-opacity="{shade:.2f}"/>'
        )
    names = [_text(bound, unit) for bound, _ in buckets[first : first + rows]]
    return chart.svg("".join(shapes), names)


_DRAWERS = {"stat": _stat, "timeseries": _timeseries, "heatmap": _heatmap}


class _Chart:
    """Axes, and where a point is between them."""

    def __init__(
        self,
        lines: Sequence[Sequence[tuple[float, float]]],
        width: float,
        height: float,
        unit: str,
        most: float | None = None,
    ) -> None:
        self._width, self.bottom, self._unit = width, height - _AXIS, unit
        times = [at for points in lines for at, _ in points]
        self._start, self._end = min(times), max(times)
        highest = max((value for points in lines for _, value in points), default=0) or 1
        self._tick = _tick(highest, unit)
        self._most = most or highest * 1.06

    def at(self, when: float, value: float) -> tuple[float, float]:
        """Return the place of a point."""
        across = (when - self._start) / max(1, self._end - self._start)
        top = 6
        return (
            _LEFT + across * (self._width - _LEFT - _RIGHT),
            self.bottom - (self.bottom - top) * value / self._most,
        )

    def svg(self, shapes: str, rows: Sequence[str] | None = None) -> str:
        """Return the chart; with names of rows, these instead of a scale."""
        parts = []
        if rows is None:
            ticks = [n * self._tick for n in range(int(self._most / self._tick) + 1)]
            marks = [(value, _text(value, self._unit)) for value in ticks]
        else:
            marks = [(n + 0.5, name) for n, name in enumerate(rows)]
        for value, name in marks:
            _, y = self.at(self._start, value)
            parts.append(
                f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{escape(name)}</text>'
            )
            if rows is None:
                parts.append(_rule(_LEFT, y, self._width - _RIGHT, y))
        minute = 60 * math.ceil(self._start / 60)
        while minute <= self._end:
            x, _ = self.at(minute, 0)
            clock = time.strftime("%H:%M", time.localtime(minute))
            parts.append(_rule(x, 6, x, self.bottom))
            if _LEFT + 12 < x < self._width - 16:
                parts.append(
                    f'<text x="{x:.1f}" y="{self.bottom + 14:.1f}" '
                    f'text-anchor="middle">{clock}</text>'
                )
            minute += 60
        height = self.bottom + _AXIS
        return (
            f'<svg width="{self._width:.0f}" height="{height:.0f}">{"".join(parts)}{shapes}</svg>'
        )


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
        f'stroke="{_GRID}" shape-rendering="crispEdges"/>'
    )


def _line(points: Sequence[tuple[float, float]], colour: str, dashed: bool = False) -> str:
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="1.3"{dashes}/>'


def _area(points: Sequence[tuple[float, float]], floor: float, colour: str, opacity: float) -> str:
    corners = [(points[0][0], floor), *points, (points[-1][0], floor)]
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in corners)
    return f'<polygon points="{way}" fill="{colour}" fill-opacity="{opacity:.2f}"/>'


def _pieces(
    points: Sequence[tuple[float, float]], step: float
) -> Iterable[list[tuple[float, float]]]:
    """Cut a line where points are missing."""
    piece = list(points[:1])
    for before, after in pairwise(points):
        if after[0] - before[0] > 1.5 * step:
            yield piece
            piece = []
        piece.append(after)
    yield piece


def _stacked(series: Sequence[Series]) -> list[list[tuple[float, float]]]:
    below: dict[float, float] = {}
    lines = []
    for one in series:
        for at, value in one.points:
            below[at] = below.get(at, 0.0) + value
        lines.append([(at, below[at]) for at, _ in one.points])
    return lines


def _threshold(steps: Sequence[Json], value: float) -> str:
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return _COLOURS[reached[-1]]


def _tick(highest: float, unit: str) -> float:
    """Return a round distance of five marks or so."""
    scale = 60 if unit == "s" and highest > 120 else 1
    rough = highest / scale / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return scale * power * next(n for n in (1, 2, 5, 10) if n * power >= rough * 0.999)


def _text(value: float, unit: str) -> str:
    return "".join(_number(value, unit)).replace("&nbsp;", " ")


def _number(value: float, unit: str, decimals: int | None = None) -> tuple[str, str]:
    """Return a value as Grafana writes it: the number, and its unit."""
    if math.isinf(value):
        return "∞", ""
    if unit == "percentunit":
        return _digits(100 * value, decimals), "%"
    if unit.startswith("suffix:"):
        return _digits(value, decimals), unit.removeprefix("suffix:")
    if unit == "s":
        for size, name in ((3600, "hours"), (60, "mins"), (1, "s")):
            if value >= size or (size == 1 and value == 0):
                return _digits(value / size, decimals), f"&nbsp;{name}"
        return _digits(1000 * value, decimals), "&nbsp;ms"
    return _digits(value, decimals), ""


def _digits(value: float, decimals: int | None = None) -> str:
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.0f}" if value >= 100 else f"{float(f'{value:.3g}'):g}"
