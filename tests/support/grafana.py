"""What Grafana would ask Prometheus for a dashboard, and what its panels would be given."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx

from chainlit_otel.grafana import files

Json = dict[str, Any]

DASHBOARDS: dict[str, Json] = {Path(name).stem: json.loads(text) for name, text in files().items()}
_SPECIAL = re.compile(r"[$^*{}\[\]'+?.()|\\]")
_LABEL_VALUES = re.compile(r"label_values\((?P<selector>.+), (?P<label>\w+)\)")


@dataclass(frozen=True)
class Series:
    """One series that a panel draws.

    Attributes:
        labels: its labels.
        points: time and value; without those that are no numbers, which Grafana leaves out.
        step: seconds between two of them.
        unit: what the panel shows it in.
    """

    labels: Mapping[str, str]
    points: tuple[tuple[float, float], ...]
    step: float
    unit: str = ""

    @property
    def values(self) -> list[float]:
        return [value for _, value in self.points]

    @property
    def last(self) -> float:
        return self.points[-1][1]

    @property
    def area(self) -> float:
        """What a rate has added up to."""
        return sum(self.values) * self.step


class Grafana:
    """Grafana on one Prometheus, showing a span of time, with everything selected.

    Args:
        url: address of Prometheus.
        start: beginning of what is shown, in seconds.
        end: its end.
        scrape: what the data source is set to as scrape interval, in seconds.
        points: how many points a panel asks for at most; as many as it is wide.
    """

    def __init__(
        self, url: str, start: float, end: float, *, scrape: int = 15, points: int = 1000
    ) -> None:
        self._http = httpx.Client(base_url=url, timeout=60)
        self.start, self.end = start, end
        self.interval = max(scrape, math.ceil((end - start) / points))
        self._variables = {
            "$__rate_interval": f"{max(self.interval + scrape, 4 * scrape)}s",
            "$__interval": f"{self.interval}s",
            "$__range": f"{math.ceil(end - start)}s",
        }

    def __enter__(self) -> Grafana:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def choose_all(self, dashboard: Json) -> dict[str, list[str]]:
        """Ask for the values of the dashboard's variables and select all, in their order."""
        chosen: dict[str, list[str]] = {}
        for variable in dashboard["templating"]["list"]:
            if variable["type"] != "query":
                continue
            asked = _LABEL_VALUES.fullmatch(self.replace(variable["query"]["query"]))
            assert asked, variable
            values = self._get(
                f"label/{asked['label']}/values",
                {"match[]": asked["selector"], "start": self.start, "end": self.end},
            )
            escaped = [_SPECIAL.sub(r"\\\\\g<0>", value) for value in values]
            joined = "|".join(escaped)
            self._variables[f"${variable['name']}"] = f"({joined})" if len(values) > 1 else joined
            chosen[variable["name"]] = values
        return chosen

    def replace(self, text: str) -> str:
        """Put the values of the variables in.

        Raises:
            ValueError: there is one that is not known.
        """
        for name in sorted(self._variables, key=len, reverse=True):
            text = text.replace(name, self._variables[name])
        if "$" in text:
            raise ValueError(f"a variable is not known: {text}")
        return text

    def target(self, target: Json) -> Iterator[tuple[str, Series]]:
        """The series of one query, each with its legend."""
        query = self.replace(target["expr"])
        if target["instant"]:
            found = self._get("query", {"query": query, "time": self.end})["result"]
            given = [(one["metric"], [one["value"]]) for one in found]
        else:
            found = self._get(
                "query_range",
                {"query": query, "start": self.start, "end": self.end, "step": self.interval},
            )["result"]
            given = [(one["metric"], one["values"]) for one in found]
        for labels, values in given:
            points = [(float(at), float(value)) for at, value in values]
            numbers = tuple((at, value) for at, value in points if not math.isnan(value))
            if numbers:
                yield (
                    _legend(target["legendFormat"], labels),
                    Series(labels, numbers, self.interval),
                )

    def panel(self, panel: Json) -> list[tuple[str, Series]]:
        """The series of all queries of a panel, each with its legend; in a table, its column."""
        columns = panel["type"] == "table"
        return [
            (
                f"{target['refId']} {legend}" if columns else legend,
                replace(series, unit=_unit(panel, target)),
            )
            for target in panel["targets"]
            for legend, series in self.target(target)
        ]

    def annotations(self, dashboard: Json) -> set[tuple[str, float]]:
        """The dashboard's annotations: title and time, in seconds."""
        found: set[tuple[str, float]] = set()
        for annotation in dashboard["annotations"]["list"]:
            target = {**annotation, "instant": False, "legendFormat": annotation["titleFormat"]}
            for title, series in self.target(target):
                times = (
                    [value / 1000 for value in series.values]
                    if annotation["useValueForTime"]
                    else [at for at, value in series.points if value > 0]
                )
                found |= {(title, at) for at in times}
        return found

    def exemplars(self, target: Json) -> list[Json]:
        """The exemplars of a query."""
        query = self.replace(target["expr"])
        asked = {"query": query, "start": self.start, "end": self.end}
        return [
            exemplar
            for series in self._get("query_exemplars", asked)
            for exemplar in series["exemplars"]
        ]

    def _get(self, path: str, parameters: Json) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=parameters).json()
        if answer["status"] != "success":
            raise ValueError(f"{parameters}: {answer['error']}")
        return answer["data"]


def panels(dashboard: Json) -> list[Json]:
    """The panels of a dashboard, without the titles of its rows."""
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def _unit(panel: Json, target: Json) -> str:
    """The unit of a query's series: its own, or that of the panel."""
    if panel["type"] == "heatmap":
        return ""  # it counts; the unit is that of the buckets
    field = panel["fieldConfig"]
    own = [
        changed["value"]
        for override in field["overrides"]
        if override["matcher"] == {"id": "byFrameRefID", "options": target["refId"]}
        for changed in override["properties"]
        if changed["id"] == "unit"
    ]
    return str(own[0] if own else field["defaults"]["unit"])


def _legend(form: str, labels: Mapping[str, str]) -> str:
    """Name a series as Grafana does.

    Raises:
        KeyError: it names a label that is not there, for which Grafana would show nothing.
    """
    if form == "__auto":
        return ", ".join(value for name, value in sorted(labels.items()) if name != "__name__")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels[found[1]], form)
