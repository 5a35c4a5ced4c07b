"""The Grafana dashboards: a module each, a function for each panel, queries from the catalogue."""

from __future__ import annotations

from chainlit_otel.grafana import conversations, data_layer, objectives, runtime, sessions, usage
from chainlit_otel.grafana.panels import render
from chainlit_otel.thresholds import Thresholds

_MODULES = (sessions, conversations, data_layer, usage, runtime, objectives)


def files(limits: Thresholds | None = None) -> dict[str, str]:
    """Return the text of each dashboard by the name of its file, which is its uid.

    Args:
        limits: The thresholds of the alerts, by which figures are coloured; the defaults if None.
    """
    built = [module.build(limits or Thresholds()) for module in _MODULES]
    return {f"{dashboard['uid']}.json": render(dashboard) for dashboard in built}


def record_files() -> dict[str, str]:
    """Return the same of the dashboards about records, which need the extra `analysis`."""
    from chainlit_otel.grafana import behaviour

    built = behaviour.build()
    return {f"{built['uid']}.json": render(built)}
