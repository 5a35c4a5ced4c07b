"""The PromQL of the panels, restricted to the jobs and instances that the dashboard shows."""

from __future__ import annotations

from chainlit_otel.catalog import Attribute, Metric
from chainlit_otel.grafana.panels import SCOPE
from chainlit_otel.promql import Part, Where, select

INTERVAL = "$__rate_interval"


def sum_of(metric: Metric, where: Where | None = None, by: str = "") -> str:
    """Return the sum of a gauge over all replicas."""
    return f"sum{_by(by)} ({select(metric, where, SCOPE)})"


def sum_of_max(metric: Metric, where: Where | None = None) -> str:
    """Return an upper bound of the peak of all replicas together, from their high-water marks.

    The replicas are scraped one after the other: when the last one shows the peak of an instant,
    the window of the first may be over. So the maximum of each is taken before the sum.
    """
    return f"sum (max_over_time({select(metric, where, SCOPE)}[{INTERVAL}]))"


def per_minute(
    metric: Metric,
    where: Where | None = None,
    by: str = "",
    span: str = INTERVAL,
    part: Part = "",
) -> str:
    """Return how often something happens in a minute."""
    return f"60 * {per_second(metric, where, by, span, part)}"


def per_second(
    metric: Metric,
    where: Where | None = None,
    by: str = "",
    span: str = INTERVAL,
    part: Part = "",
) -> str:
    """Return how often something happens in a second, or how much of it there is."""
    return f"sum{_by(by)} (rate({select(metric, where, SCOPE, part)}[{span}]))"


def increase(
    metric: Metric, span: str, where: Where | None = None, by: str = "", part: Part = ""
) -> str:
    """Return how often something has happened in a span of time."""
    return f"sum{_by(by)} (increase({select(metric, where, SCOPE, part)}[{span}]))"


def ratio(part: str, total: str) -> str:
    """Return the ratio of a part to its total, and nothing where the total is zero."""
    return f"{part} / ({total} > 0)"


def quantile(
    q: float, metric: Metric, where: Where | None = None, by: str = "", span: str = INTERVAL
) -> str:
    """Return an estimate of a quantile from the buckets of a histogram."""
    return f"histogram_quantile({q:g}, {buckets(metric, where, by, span)})"


def buckets(metric: Metric, where: Where | None = None, by: str = "", span: str = INTERVAL) -> str:
    """Return the rate of each bucket of a histogram."""
    return per_second(metric, where, f"le,{by}" if by else "le", span, "bucket")


def legend(attribute: Attribute) -> str:
    """Return the legend that names the value of an attribute."""
    return f"{{{{{attribute.prometheus_label}}}}}"


def label(*attributes: Attribute) -> str:
    """Return attributes to group by."""
    return ",".join(attribute.prometheus_label for attribute in attributes)


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
