"""Our own health, as the page shows it."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from chainlit_otel.pipeline.losses import Losses
from chainlit_otel.pipeline.providers import Pipeline, resource_of
from chainlit_otel.privacy import mask_url
from chainlit_otel.settings import Settings
from chainlit_otel.version import DOCS

_SECRET = "***"
_LINKS = (
    ("Metrics", "metrics"),
    ("Health as JSON", "healthz"),
    ("Dashboards", f"{DOCS}/dashboards.md"),
    ("Runbook of the alerts", f"{DOCS}/runbook.md"),
)


def describe_process(settings: Settings) -> dict[str, Any]:
    """Return what the page shows of this process, which never changes, without a secret.

    It reads the metadata of packages, which imports modules: the thread of the admin server must
    not call it.

    Args:
        settings: The settings in force.
    """
    resource = resource_of(settings).attributes
    return {
        "started": time.time(),
        "chainlit": _version("chainlit"),
        "python": platform.python_version(),
        "opentelemetry": _version("opentelemetry-sdk"),
        "service": {
            "name": resource.get("service.name", ""),
            "version": resource.get("service.version", ""),
            "instance": resource.get("service.instance.id", ""),
        },
        "settings": [
            {
                "name": f.name,
                "env": f.metadata["env"],
                "value": _shown(getattr(settings, f.name), f.metadata["secret"]),
                "is_default": getattr(settings, f.name) == f.metadata["default"],
            }
            for f in fields(settings)
        ],
        "links": [{"title": title, "url": url} for title, url in _LINKS],
    }


def describe_health(state: Mapping[str, Any], pipeline: Pipeline, losses: Losses) -> dict[str, Any]:
    """Return what the page shows of how our own parts are, without a secret.

    Args:
        state: What `/healthz` shows.
        pipeline: Where metrics and spans go.
        losses: What exporters have lost.
    """
    return {
        "status": state["status"],
        "version": state["version"],
        "probes": {
            name: _probe(name, probe, state["internal_errors"])
            for name, probe in state["probes"].items()
        },
        "off": state["off"],
        "exporters": list(_exporters(pipeline, losses)),
    }


def _probe(name: str, state: str, errors: Mapping[str, int]) -> dict[str, str]:
    if errors.get(name):
        return {"state": "failing", "reason": f"it failed {errors[name]} times; see the log"}
    if state == "on":
        return {"state": "on", "reason": ""}
    return {"state": "off", "reason": state.removeprefix("off: ")}


def _exporters(pipeline: Pipeline, losses: Losses) -> Any:
    lost: dict[str, dict[str, float]] = {}
    for (signal, reason), count in losses.read().items():
        lost.setdefault(signal, {})[reason] = count
    names = {"records": "logs"}
    for signal, destinations in pipeline.destinations().items():
        reasons = lost.get(names.get(signal, signal), {})
        yield {
            "signal": signal,
            "destination": ", ".join(destinations),
            "lost": sum(reasons.values()),
            "reasons": reasons,
        }


def _shown(value: object, secret: bool) -> str:
    if value is None:
        return ""
    if secret:
        return _SECRET
    return str(value).lower() if isinstance(value, bool) else mask_url(str(value), _SECRET)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
