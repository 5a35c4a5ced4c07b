"""The alerts as a provisioning file of Grafana's own alerting, where nothing evaluates rules.

https://grafana.com/docs/grafana/latest/alerting/set-up/provision-alerting-resources/file-provisioning/

Without a rule engine nothing is recorded, so what an alert reads of recorded series is put into its
query, as a subquery where it reads a range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from chainlit_otel.promql import duration
from chainlit_otel.rules.alerts import PREFIX, Alert
from chainlit_otel.rules.recording import Recording
from chainlit_otel.rules.windows import HOUR, MINUTE, Windows

_FOLDER = "Chainlit"
# Grafana looks at series of the last minutes; what a query reads further back is in its ranges.
_FROM = 600
_EXPRESSION = "__expr__"

_RECORDED = re.compile(
    r"(?P<name>\bjob\w*:\w+:\w+)(?:\{(?P<matchers>[^}]*)\})?"
    r"(?:\[(?P<span>\w+)\])?(?P<offset> offset \w+)?"
)
_MATCHER = re.compile(r'(\w+)="([^"]*)"')
_UNITS = {"ms": 0.001, "s": 1.0, "m": MINUTE, "h": HOUR, "d": 24 * HOUR, "w": 168 * HOUR}


def provisioning(
    alerts: Iterable[Alert],
    recordings: Iterable[Recording],
    window: Windows,
    links: Callable[[Alert], dict[str, str]],
    datasource: str,
) -> dict[str, Any]:
    """Return the file.

    Args:
        alerts: What to alert on.
        recordings: What they may read, each after those that it uses.
        window: How long the windows are.
        links: Returns the annotations of an alert that are links.
        datasource: The uid of the Prometheus data source.
    """
    known: dict[str, str] = {}
    for rule in recordings:
        known[rule.name] = inlined(rule.expr, known)
    rules = [_rule(one, known, window, links(one), datasource) for one in alerts]
    group = {
        "orgId": 1,
        "name": "chainlit.alerts",
        "folder": _FOLDER,
        "interval": window.duration(MINUTE),
        "rules": rules,
    }
    return {"apiVersion": 1, "groups": [group]}


def inlined(expr: str, known: dict[str, str]) -> str:
    """Return an expression without recorded series.

    Args:
        expr: The expression.
        known: The expression of each recorded series, itself without any.
    """
    return _RECORDED.sub(lambda found: _in_place(found, known), expr)


def _in_place(found: re.Match[str], known: dict[str, str]) -> str:
    expr = f"({known[found['name']]})"
    for label, value in _MATCHER.findall(found["matchers"] or ""):
        # What has been worked out has no selector, so it is held to a series with that label.
        one = f'label_replace(vector(1), "{label}", "{value}", "", "")'
        expr = f"({expr} and on ({label}) {one})"
    offset = found["offset"] or ""
    if found["span"]:
        return f"{expr}[{found['span']}:{_resolution(found['span'])}]{offset}"
    return f"last_over_time({expr}[1m:1m]{offset})" if offset else expr


def _resolution(span: str) -> str:
    """Return how often to look in a span: at least each time that the rate of 5 minutes is new."""
    number = span.rstrip("mshdw")
    seconds = float(number) * _UNITS[span[len(number) :]]
    return duration(min(seconds, MINUTE if seconds <= HOUR else 5 * MINUTE))


def _rule(
    alert: Alert, known: dict[str, str], window: Windows, links: dict[str, str], datasource: str
) -> dict[str, Any]:
    told_apart = "-".join(alert.labels.values())
    title = PREFIX + alert.name + (f" ({told_apart})" if told_apart else "")
    keep = {"keepFiringFor": window.duration(alert.keep)} if alert.keep else {}
    return {
        "uid": re.sub(r"[^a-z0-9]+", "-", f"chainlit-{alert.name}-{told_apart}".lower()).strip("-"),
        "title": title,
        "condition": "B",
        "data": [_query(inlined(alert.expr, known), datasource), _condition()],
        # The query has an answer only while its condition holds.
        "noDataState": "OK",
        "execErrState": "Error",
        "for": window.duration(alert.wait) if alert.wait else "0s",
        **keep,
        "annotations": {
            "summary": _template(alert.summary),
            "description": _template(alert.description),
            **links,
        },
        "labels": {"severity": alert.severity, **alert.labels},
        "isPaused": False,
    }


def _query(expr: str, datasource: str) -> dict[str, Any]:
    return {
        "refId": "A",
        "relativeTimeRange": {"from": _FROM, "to": 0},
        "datasourceUid": datasource,
        "model": {
            "refId": "A",
            "expr": expr,
            "instant": True,
            "range": False,
            "intervalMs": 1000,
            "maxDataPoints": 43_200,
        },
    }


def _condition() -> dict[str, Any]:
    """Return what makes an alert of each series, whatever its value: a share may be 0."""
    return {
        "refId": "B",
        "relativeTimeRange": {"from": _FROM, "to": 0},
        "datasourceUid": _EXPRESSION,
        "model": {
            "refId": "B",
            "type": "math",
            "expression": "is_number($A) || is_inf($A)",
            "datasource": {"type": _EXPRESSION, "uid": _EXPRESSION},
        },
    }


def _template(text: str) -> str:
    # In Grafana `$value` is a text that describes all queries.
    return text.replace("$value", "$values.A.Value")
