"""What an alert looked at, and the limit that it compared it with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import promql_parser as promql

from chainlit_otel.backtest.evaluate import COMPARISONS, Evaluation
from chainlit_otel.backtest.replay import Firing
from chainlit_otel.backtest.vector import Grid, Labels, Values

_POINTS = 500


@dataclass(frozen=True)
class Curve:
    """What one alert looked at.

    Attributes:
        alert: Name of the alert.
        labels: Of the firings that it is drawn for: those that lasted longest.
        condition: The comparison, as PromQL.
        times: Seconds since 1970.
        values: What was compared; of several evaluations, the one that was nearest to firing.
        limits: With what, at the same time.
    """

    alert: str
    labels: Labels
    condition: str
    times: Values
    values: Values
    limits: Values


def curve(
    alert: str, expr: str, firings: Sequence[Firing], evaluation: Evaluation, grid: Grid
) -> Curve | None:
    """Return the curve of an alert; None if its condition compares nothing.

    Args:
        alert: Name of the alert.
        expr: Of its rule.
        firings: Of that rule, at least one.
        evaluation: Knows the past, and what was recorded of it.
        grid: The evaluations to show, the last ones of those that it knows.
    """
    lasted: dict[Labels, float] = {}
    for one in firings:
        end = grid.end if one.end is None else one.end
        lasted[one.labels] = lasted.get(one.labels, 0.0) + end - one.start
    labels = max(lasted, key=lambda of: (lasted[of], sorted(of)))
    waited = np.zeros(grid.size, dtype=bool)
    for one in firings:
        if one.labels == labels:
            waited |= (grid.times >= one.pending) & (grid.times <= one.start)
    found: tuple[float, promql.BinaryExpr, Values, Values] | None = None
    for node in _comparisons(_inner(promql.parse(expr))):
        left, right = (_side(side, labels, evaluation, grid) for side in (node.lhs, node.rhs))
        held = float(COMPARISONS[str(node.op)](left, right)[waited].sum())
        # A limit that follows the traffic says more than the least number that goes with it.
        if not isinstance(_inner(node.rhs), promql.NumberLiteral):
            held += 0.5
        if found is None or held > found[0]:
            found = held, node, left, right
    if found is None:
        return None
    _, node, left, right = found
    times, values, limits = _thinned(grid.times, left, right, str(node.op))
    return Curve(alert, labels, node.prettify(), times, values, limits)


def _inner(node: promql.Expr) -> promql.Expr:
    while isinstance(node, promql.ParenExpr):
        node = node.expr
    return node


def _comparisons(node: promql.Expr) -> Iterator[promql.BinaryExpr]:
    """Give the comparisons for which an alert may fire; what it is not about is none."""
    if not isinstance(node, promql.BinaryExpr):
        return
    if str(node.op) in COMPARISONS:
        yield node
    elif str(node.op) in ("and", "or", "unless"):
        yield from _comparisons(_inner(node.lhs))
        if str(node.op) != "unless":
            yield from _comparisons(_inner(node.rhs))


def _side(node: promql.Expr, labels: Labels, evaluation: Evaluation, grid: Grid) -> Values:
    """Return the values of one side of a comparison for an alert with these labels."""
    inner = _inner(node)
    if isinstance(inner, promql.NumberLiteral):
        return np.full(grid.size, inner.val)
    vector = evaluation.query(node.prettify())
    # An alert may have labels of its own, and one side of a comparison fewer than the other.
    own = max((of for of in vector if of <= labels), key=len, default=None)
    return np.full(grid.size, np.nan) if own is None else vector[own][-grid.size :]


def _thinned(
    times: Values, values: Values, limits: Values, op: str
) -> tuple[Values, Values, Values]:
    """Return about as many points as can be seen, each that of its neighbours nearest to firing."""
    width = -(-len(times) // _POINTS)
    margin = limits - values if op.startswith("<") else values - limits
    margin = np.where(np.isnan(margin), -np.inf, margin)
    starts = range(0, len(times), width)
    at = np.array([first + int(np.argmax(margin[first : first + width])) for first in starts])
    return times[at], values[at], limits[at]
