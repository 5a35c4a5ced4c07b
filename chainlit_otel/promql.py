"""PromQL built from the catalogue, so that no query has an unknown name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from chainlit_otel.catalog import DIALOG, Attribute, Metric

Part = Literal["", "bucket", "count", "sum"]
Where = Mapping[Attribute, "str | tuple[str, ...]"]

# blackbox_exporter has metrics of these names about anything else, and no dialog.
OF_A_DIALOG = f'{DIALOG.prometheus_label}=~".+"'


def select(metric: Metric, where: Where | None = None, scope: str = "", part: Part = "") -> str:
    """Return the selector of a metric's series.

    Args:
        metric: The metric.
        where: The values of attributes to match; a tuple matches any of its values.
        scope: Further matchers, such as `job="chat"`.
        part: Which series of a histogram.

    Raises:
        ValueError: The metric has no such attribute, the attribute no such value, or the part is
            not one of this kind of metric.
    """
    if (metric.kind == "histogram") != bool(part):
        raise ValueError(f"{metric.name} is a {metric.kind}: part {part!r}")
    matchers = [scope] if scope else []
    for attribute, value in (where or {}).items():
        _check(metric, attribute, value)
        values = (value,) if isinstance(value, str) else value
        operator = "=" if len(values) == 1 else "=~"
        matchers.append(f'{attribute.prometheus_label}{operator}"{"|".join(values)}"')
    name = f"{metric.prometheus_name}_{part}" if part else metric.prometheus_name
    return f"{name}{{{','.join(matchers)}}}" if matchers else name


def _check(metric: Metric, attribute: Attribute, value: str | tuple[str, ...]) -> None:
    if attribute not in metric.attributes:
        raise ValueError(f"{metric.name} has no attribute {attribute.key}")
    unknown = set((value,) if isinstance(value, str) else value) - set(attribute.values)
    if attribute.values and unknown:
        raise ValueError(f"{attribute.key} has no value {', '.join(sorted(unknown))}")


def duration(seconds: float) -> str:
    """Return a time span as PromQL writes it, in the largest unit that fits.

    Args:
        seconds: Seconds; rounded to milliseconds, and at least one of them.
    """
    left = max(1, round(seconds * 1000))
    for unit, size in (("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000)):
        if left % size == 0:
            return f"{left // size}{unit}"
    return f"{left // 1000}s" if left % 1000 == 0 else f"{left}ms"
