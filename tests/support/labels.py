"""Label values to try a metric with."""

from __future__ import annotations

from chainlit_otel.catalog import LabelSet, Metric


def some_labels(metric: Metric) -> tuple[LabelSet, ...]:
    """The label sets that a metric shows from the start, or one of what the app could name."""
    named = tuple(a.values[0] if a.values else "named" for a in metric.attributes)
    return metric.label_sets or (named,)
