"""Panels and dashboards as current Grafana has them.

The only module that imports grafanalib, which builds them. Its panels are those of several
generations of Grafana, so the options of a panel are given here, and keys that Grafana no longer
knows are left out of the JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from grafanalib import core
from grafanalib._gen import DashboardEncoder

from chainlit_otel import catalog
from chainlit_otel.promql import select

# As in @grafana/schema 13.
SCHEMA_VERSION = 42
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CLICKHOUSE = {"type": "grafana-clickhouse-datasource", "uid": "${datasource}"}
SCOPE = 'job=~"$job",instance=~"$instance"'
JOBS = 'job=~"$job"'
TARGETS = 'target=~"$target"'
TAG = "chainlit"

_WIDTH = 24
_GREEN, _YELLOW, _RED = "green", "#EAB839", "red"

Json = dict[str, Any]


@dataclass(frozen=True)
class Query:
    """A query of a panel.

    Attributes:
        expr: PromQL.
        legend: What a series is called; a label in double braces.
        instant: Whether only the last value counts.
        exemplar: Whether to query exemplars, too, which link to traces.
        dashed: Whether its line is for comparison only.
        unit: Its unit, if it is not that of the panel.
    """

    expr: str
    legend: str = ""
    instant: bool = False
    exemplar: bool = False
    dashed: bool = False
    unit: str = ""


@dataclass(frozen=True)
class SqlQuery:
    """A query of a panel about records.

    Attributes:
        sql: SQL of ClickHouse; each column of its answer has the name that the panel shows.
    """

    sql: str


@dataclass(frozen=True)
class Levels:
    """From which values on a figure is coloured; red is where its alert fires, if it has one.

    Attributes:
        yellow: From here on somebody should look at it.
        red: From here on somebody should act.
        below: Whether low values are the bad ones.
    """

    yellow: float
    red: float
    below: bool = False

    def words(self, unit: str) -> str:
        """Return a sentence with both levels, for a description.

        Args:
            unit: Grafana's name of the unit of the figure.
        """
        factor, suffix = {"percentunit": (100, " %"), "s": (1, " s"), "d": (1, " days")}.get(
            unit, (1, "")
        )
        yellow, red = (f"{factor * level:.3g}{suffix}" for level in (self.yellow, self.red))
        side = "below" if self.below else "from"
        return f"Yellow {side} {yellow}, red {side} {red}."


@dataclass(frozen=True)
class Row:
    """A row of panels below a title."""

    title: str
    panels: Sequence[Json]


def stat(
    title: str,
    description: str,
    unit: str,
    *queries: Query | SqlQuery,
    levels: Levels | None = None,
    decimals: int | None = None,
    nothing: str = "",
) -> Json:
    """Return a single figure, with a sparkline behind it.

    Args:
        title: Title.
        description: What it shows.
        unit: Unit.
        queries: The queries.
        levels: From where on it is coloured, which is added to its description.
        decimals: Decimals; 0 for a number of events, since `increase()` of 2 events is not quite 2.
        nothing: What stands there if there is no figure, and that is as it should be.
    """
    options = {
        "colorMode": "value",
        "graphMode": "area",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "auto",
        "wideLayout": True,
    }
    if levels is not None:
        description += " " + levels.words(unit)
    field = _field(unit, levels, decimals)
    if nothing:
        field["noValue"] = nothing
    return _panel(core.Stat, title, description, queries, field, options, 4, 4)


def timeseries(
    title: str,
    description: str,
    unit: str,
    *queries: Query | SqlQuery,
    stacked: bool = False,
    decimals: int | None = None,
    width: int = 12,
    lowest: float | None = 0,
) -> Json:
    """Return lines over time.

    Args:
        title: Title.
        description: What it shows.
        unit: Unit.
        queries: The queries.
        stacked: Whether the lines add up.
        decimals: Decimals; 0 for numbers of events, since `increase()` of 2 events is not quite 2.
        width: Width, of 24.
        lowest: Where the axis begins; by the values if None.
    """
    field = _field(unit, decimals=decimals)
    field["color"] = {"mode": "palette-classic"}
    if lowest is not None:
        field["min"] = lowest
    field["custom"] = {
        "drawStyle": "line",
        "fillOpacity": 30 if stacked else 8,
        "lineWidth": 1,
        "showPoints": "never",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
    }
    options = {
        "legend": {
            "calcs": ["lastNotNull", "max"],
            "displayMode": "table",
            "placement": "bottom",
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    overrides = [
        _override(_letter(n), query)
        for n, query in enumerate(queries)
        if isinstance(query, Query) and (query.dashed or query.unit)
    ]
    if any(_names_values(query) for query in queries if isinstance(query, Query)):
        overrides.append(_without_zeros())
    return _panel(core.TimeSeries, title, description, queries, field, options, width, 8, overrides)


def heatmap(title: str, description: str, unit: str, query: Query, width: int = 12) -> Json:
    """Return the buckets of a histogram over time."""
    options = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "exponent": 0.5,
            "fill": "dark-orange",
            "mode": "scheme",
            "reverse": False,
            "scale": "exponential",
            "scheme": "Oranges",
            "steps": 64,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": True},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit},
    }
    return _panel(core.Heatmap, title, description, [query], {}, options, width, 8)


def table(
    title: str,
    description: str,
    columns: Mapping[str, tuple[Query, str]],
    by: str,
    width: int = 24,
) -> Json:
    """Return a table with a line for each value of a label.

    Args:
        title: Title.
        description: What it shows.
        columns: The query and the unit of each column, by its head.
        by: The label.
        width: Width, of 24.
    """
    queries = [query for query, _ in columns.values()]
    heads = {f"Value #{_letter(n)}": head for n, head in enumerate(columns)}
    overrides = _units({head: unit for head, (_, unit) in columns.items()})
    shown = {by, *heads}
    transformations: list[Json] = [
        {"id": "joinByField", "options": {"byField": by, "mode": "outer"}},
        {
            "id": "filterFieldsByName",
            "options": {"include": {"names": sorted(shown)}},
        },
        {"id": "organize", "options": {"renameByName": heads}},
    ]
    options = {"cellHeight": "sm", "showHeader": True}
    return _panel(
        core.Table,
        title,
        description,
        queries,
        _field("short"),
        options,
        width,
        8,
        overrides,
        transformations,
    )


def figures(
    title: str, description: str, units: Mapping[str, str], query: SqlQuery, width: int = 24
) -> Json:
    """Return the columns of a single row as figures side by side.

    Args:
        title: Title.
        description: What they show.
        units: The unit of each column.
        query: The query.
        width: Width, of 24.
    """
    panel = stat(title, description, "short", query)
    panel["fieldConfig"]["overrides"] = _units(units)
    panel["gridPos"]["w"] = width
    return panel


def rows(
    title: str, description: str, units: Mapping[str, str], query: SqlQuery, width: int = 12
) -> Json:
    """Return the rows of an answer as a table.

    Args:
        title: Title.
        description: What it shows.
        units: The unit of each column that is not a plain number or text.
        query: The query.
        width: Width, of 24.
    """
    options = {"cellHeight": "sm", "showHeader": True}
    field = _field("short")
    return _panel(core.Table, title, description, [query], field, options, width, 8, _units(units))


def state_timeline(
    title: str,
    description: str,
    *queries: Query,
    states: Mapping[str, tuple[str, str]],
    width: int = 12,
) -> Json:
    """Return states over time.

    Args:
        title: Title.
        description: What it shows.
        queries: The queries.
        states: Text and colour of each value.
        width: Width, of 24.
    """
    mapped = {
        value: {"text": text, "color": colour, "index": n}
        for n, (value, (text, colour)) in enumerate(states.items())
    }
    field = _field("short")
    field["mappings"] = [{"type": "value", "options": mapped}]
    field["custom"] = {"fillOpacity": 70, "lineWidth": 0}
    options = {
        "alignValue": "left",
        "legend": {
            "calcs": [],
            "displayMode": "list",
            "placement": "bottom",
            "showLegend": True,
        },
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return _panel(core.StateTimeline, title, description, queries, field, options, width, 8)


def bar_gauge(
    title: str,
    description: str,
    unit: str,
    *queries: Query | SqlQuery,
    levels: Levels | None = None,
    width: int = 12,
) -> Json:
    """Return a bar for each series, as it is now."""
    options = {
        "displayMode": "gradient",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "maxVizHeight": 300,
        "minVizHeight": 16,
        "minVizWidth": 8,
        "namePlacement": "auto",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    }
    if levels is not None:
        description += " " + levels.words(unit)
    field = _field(unit, levels)
    field["min"] = 0
    return _panel(core.BarGauge, title, description, queries, field, options, width, 8)


def dashboard(
    uid: str,
    title: str,
    description: str,
    rows: Iterable[Row],
    *,
    of_records: bool = False,
    of_monitors: bool = False,
) -> Json:
    """Return a dashboard as Grafana imports it.

    Args:
        uid: Its stable name in addresses.
        title: Title.
        description: What it is for.
        rows: The rows, from the top.
        of_records: Whether it is about records in ClickHouse, which are looked at by the week, and
            whose days are in UTC.
        of_monitors: Whether it is about monitors as well, which are other jobs, and are chosen by
            what they watch.
    """
    built = core.Dashboard(
        uid=uid,
        title=title,
        description=description,
        tags=[TAG],
        schemaVersion=SCHEMA_VERSION,
        refresh="" if of_records else "30s",
        time=core.Time("now-28d" if of_records else "now-6h", "now"),
        timezone="utc" if of_records else "browser",
        graphTooltip=core.GRAPH_TOOLTIP_MODE_SHARED_CROSSHAIR,
        panels=list(_laid_out(rows)),
        templating=core.Templating(
            [_sources(CLICKHOUSE["type"])] if of_records else list(_variables(of_monitors))
        ),
        links=[
            core.DashboardLink(
                title="Chainlit", tags=[TAG], asDropdown=True, includeVars=True, keepTime=True
            )
        ],
        annotations=core.Annotations([] if of_records else [_restarts(), _deploys()]),
    )
    return _with_keys(_DASHBOARD_KEYS, built)


def render(built: Json) -> str:
    """Return a dashboard as the text of its file."""
    return json.dumps(built, indent=2, sort_keys=True) + "\n"


def _number(level: float) -> float:
    """Return a level without the rounding error of a float, since it may be part of a threshold."""
    rounded = round(float(level), 9)
    return int(rounded) if rounded.is_integer() else rounded


def _field(unit: str, levels: Levels | None = None, decimals: int | None = None) -> Json:
    steps: list[Json] = [{"color": _GREEN, "value": None}]
    if levels is not None and levels.below:
        steps = [
            {"color": _RED, "value": None},
            {"color": _YELLOW, "value": _number(levels.red)},
            {"color": _GREEN, "value": _number(levels.yellow)},
        ]
    elif levels is not None:
        steps += [
            {"color": _YELLOW, "value": _number(levels.yellow)},
            {"color": _RED, "value": _number(levels.red)},
        ]
    return {
        "color": {"mode": "thresholds"},
        "mappings": [],
        "thresholds": {"mode": "absolute", "steps": steps},
        "unit": unit,
        **({} if decimals is None else {"decimals": decimals}),
    }


def _override(ref: str, query: Query) -> Json:
    properties: list[Json] = []
    if query.dashed:
        line = {"dash": [6, 6], "fill": "dash"}
        properties.append({"id": "custom.lineStyle", "value": line})
        properties.append({"id": "custom.fillOpacity", "value": 0})
    if query.unit:
        properties.append({"id": "unit", "value": query.unit})
    return {"matcher": {"id": "byFrameRefID", "options": ref}, "properties": properties}


def _names_values(query: Query) -> bool:
    """Tell whether a query has a series for each value of a label; a replica is no such value."""
    return "{{" in query.legend.replace("{{instance}}", "")


def _without_zeros() -> Json:
    """Return what leaves series that are zero all the time out of the legend.

    Most values of a label never occur: their names would fill the panel and hide the one that does.
    """
    return {
        "matcher": {
            "id": "byValue",
            "options": {"op": "gte", "reducer": "allIsZero", "value": 0},
        },
        "properties": [
            {
                "id": "custom.hideFrom",
                "value": {"legend": True, "tooltip": True, "viz": False},
            }
        ],
    }


def _units(units: Mapping[str, str]) -> list[Json]:
    return [
        {
            "matcher": {"id": "byName", "options": name},
            "properties": [{"id": "unit", "value": unit}],
        }
        for name, unit in units.items()
    ]


def _letter(n: int) -> str:
    return chr(ord("A") + n)


def _panel(
    kind: type[core.Panel],
    title: str,
    description: str,
    queries: Sequence[Query | SqlQuery],
    field: Json,
    options: Json,
    width: int,
    height: int,
    overrides: Sequence[Json] = (),
    transformations: Sequence[Json] = (),
) -> Json:
    targets = [_target(_letter(n), query, kind) for n, query in enumerate(queries)]
    built = kind(
        title=title,
        description=description,
        targets=targets,
        gridPos=core.GridPos(h=height, w=width, x=0, y=0),
        transformations=list(transformations),
    )
    # The field options of grafanalib are in part those of older panels.
    return {
        **_with_keys(_PANEL_KEYS, built),
        "datasource": targets[0]["datasource"],
        "fieldConfig": {"defaults": field, "overrides": list(overrides)},
        "options": options,
    }


def _target(ref: str, query: Query | SqlQuery, kind: type[core.Panel]) -> Json:
    if isinstance(query, SqlQuery):
        return {
            "datasource": CLICKHOUSE,
            "editorType": "sql",
            "format": 1,  # a table, which has a line for each column if the first is a time
            "queryType": "table",
            "rawSql": query.sql,
            "refId": ref,
        }
    forms = {core.Heatmap: "heatmap", core.Table: "table"}
    return {
        "datasource": DATASOURCE,
        "editorMode": "code",
        "exemplar": query.exemplar,
        "expr": query.expr,
        "format": forms.get(kind, "time_series"),
        "instant": query.instant or kind is core.Table,
        "legendFormat": query.legend or "__auto",
        "range": not (query.instant or kind is core.Table),
        "refId": ref,
    }


def _laid_out(rows: Iterable[Row]) -> Iterable[Json]:
    """Number the panels and put them side by side, as many as fit."""
    ids, y = count(1), 0
    for row in rows:
        title = core.RowPanel(title=row.title, id=next(ids), gridPos=core.GridPos(1, _WIDTH, 0, y))
        yield _with_keys(_ROW_KEYS, title)
        x, y, lowest = 0, y + 1, y + 1
        for panel in row.panels:
            place = panel["gridPos"]
            if x + place["w"] > _WIDTH:
                x, y = 0, lowest
            yield {**panel, "id": next(ids), "gridPos": {**place, "x": x, "y": y}}
            x, lowest = x + place["w"], max(lowest, y + place["h"])
        y = lowest


# What every process that runs chainlit-otel shows.
_PRESENT = "chainlit_otel_probe_enabled"


def _variables(of_monitors: bool) -> Iterable[Json]:
    yield _sources("prometheus")
    yield _values_of("job", _PRESENT, "Job")
    yield _values_of("instance", f"{_PRESENT}{{{JOBS}}}", "Instance")
    if of_monitors:
        yield _values_of("target", select(catalog.MONITOR_PROBES), "Target of monitors")


def _sources(kind: str) -> Json:
    built = core.Template("datasource", kind, type="datasource", label="Data source")
    return _with_keys(_VARIABLE_KEYS, built)


def _values_of(label: str, series: str, title: str) -> Json:
    query = f"label_values({series}, {label})"
    built = core.Template(
        label,
        query,
        label=title,
        includeAll=True,
        multi=True,
        refresh=core.REFRESH_ON_TIME_RANGE_CHANGE,
    )
    return {
        **_with_keys(_VARIABLE_KEYS, built),
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": label},
    }


def _restarts() -> Json:
    return {
        "datasource": DATASOURCE,
        "enable": True,
        # The value is the time of the start: a change of it would not show across a gap of scrapes.
        "expr": f"1000 * process_start_time_seconds{{{SCOPE}}}",
        "iconColor": "purple",
        "name": "Restarts",
        "step": "30s",
        "tagKeys": "instance",
        "titleFormat": "{{instance}} started",
        "useValueForTime": True,
    }


# The resource of each process, with `service.version` if the app says which it is.
RESOURCES = f'target_info{{{SCOPE},service_version!=""}}'
VERSION = "service_version"
OF_VERSION = f"* on (namespace, job, instance) group_left ({VERSION}) {RESOURCES}"


def _deploys() -> Json:
    """Return a mark where the first replica of a version has started.

    A version is new for as long as it was nowhere five minutes ago, so a replica that starts later,
    or again, is no deploy.
    """
    started = f"min by (job, {VERSION}) (process_start_time_seconds{{{SCOPE}}} {OF_VERSION})"
    return {
        "datasource": DATASOURCE,
        "enable": True,
        "expr": f"1000 * {started} unless on (job, {VERSION}) ({RESOURCES} offset 5m)",
        "iconColor": "blue",
        "name": "Deploys",
        "step": "30s",
        "tagKeys": VERSION,
        "titleFormat": f"{{{{{VERSION}}}}} deployed",
        "useValueForTime": True,
    }


_DASHBOARD_KEYS = (
    "annotations",
    "description",
    "editable",
    "graphTooltip",
    "links",
    "panels",
    "refresh",
    "schemaVersion",
    "tags",
    "templating",
    "time",
    "timezone",
    "title",
    "uid",
)
_PANEL_KEYS = ("description", "gridPos", "targets", "title", "transformations", "type")
_ROW_KEYS = ("collapsed", "gridPos", "id", "panels", "title", "type")
_VARIABLE_KEYS = ("includeAll", "label", "multi", "name", "query", "refresh", "sort", "type")


def _with_keys(keys: Iterable[str], built: Any) -> Json:
    """Return what grafanalib has built, without the keys that Grafana no longer knows."""
    encoded: Json = json.loads(json.dumps(built.to_json_data(), cls=DashboardEncoder))
    return {key: encoded[key] for key in keys}
