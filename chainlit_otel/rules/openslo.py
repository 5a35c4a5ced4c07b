"""The objectives as OpenSLO documents, for tools that read those.

https://github.com/OpenSLO/OpenSLO
"""

from __future__ import annotations

from typing import Any

from chainlit_otel.rules.objectives import Objective, objectives
from chainlit_otel.thresholds import PERIOD_DAYS, Thresholds

_VERSION = "openslo/v1"
_SERVICE = "chainlit"


def documents(limits: Thresholds) -> list[dict[str, Any]]:
    """Return a service and its objectives.

    Args:
        limits: The targets.
    """
    service = {
        "apiVersion": _VERSION,
        "kind": "Service",
        "metadata": {"name": _SERVICE, "displayName": "Chainlit"},
        "spec": {"description": "A Chainlit app, observed by chainlit-otel."},
    }
    return [service, *map(_objective, objectives(limits))]


def _objective(objective: Objective) -> dict[str, Any]:
    name = f"{_SERVICE}-{objective.name.replace('_', '-')}"
    says = f"{100 * objective.target:g} % {objective.well}."
    indicator = {
        "counter": True,
        "bad": _source(objective.missed(str)),
        "total": _source(objective.events(str)),
    }
    return {
        "apiVersion": _VERSION,
        "kind": "SLO",
        "metadata": {"name": name, "displayName": f"Chainlit: {objective.title}"},
        "spec": {
            "description": says,
            "service": _SERVICE,
            "indicator": {"metadata": {"name": name}, "spec": {"ratioMetric": indicator}},
            "timeWindow": [{"duration": f"{PERIOD_DAYS}d", "isRolling": True}],
            "budgetingMethod": "Occurrences",
            "objectives": [{"displayName": says, "target": objective.target}],
        },
    }


def _source(query: str) -> dict[str, Any]:
    return {"metricSource": {"type": "Prometheus", "spec": {"query": query}}}
