"""OpenTelemetry names of metrics as Prometheus has them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

Kind = Literal["counter", "updowncounter", "gauge", "histogram"]

# UCUM unit to the suffix of a Prometheus name; a unit in braces is an annotation and adds none.
# https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
_UNIT_SUFFIXES = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tibibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
}


def prometheus_name(name: str, unit: str, kind: Kind) -> str:
    """Return the Prometheus name of an OpenTelemetry metric.

    Args:
        name: The OpenTelemetry name, such as `chainlit.session.starts`.
        unit: The UCUM unit, such as `s`, `By` or `{session}`.
        kind: The kind of instrument.

    Returns:
        The name as the OpenTelemetry to Prometheus compatibility rules give it, with
        `_total` for a counter.
    """
    translated = _valid(name)
    for suffix in _suffixes(_ANNOTATION.sub("", unit), kind):
        if not translated.endswith("_" + suffix):
            translated = _valid(f"{translated}_{suffix}")
    return translated


_ANNOTATION = re.compile(r"\{[^}]*\}")


def _valid(name: str) -> str:
    valid = re.sub(r"[^a-zA-Z0-9:]+", "_", name)
    return "_" + valid if valid[:1].isdigit() else valid


def _suffixes(unit: str, kind: Kind) -> Iterable[str]:
    if unit == "1" and kind in ("gauge", "updowncounter"):
        yield "ratio"
    elif "/" in unit:
        quantity, per = (part.strip() for part in unit.split("/", 1))
        if quantity:
            yield _UNIT_SUFFIXES.get(quantity, quantity)
        if per:
            yield f"per_{_UNIT_SUFFIXES.get(per, per).removesuffix('s')}"
    elif unit and unit != "1":
        yield _UNIT_SUFFIXES.get(unit, unit)
    if kind == "counter":
        yield "total"
