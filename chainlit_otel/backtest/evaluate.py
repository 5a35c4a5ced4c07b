"""Evaluates PromQL over a grid at once, as Prometheus does at each of its evaluations.

Series are known that were recorded, or that are given with a value for each evaluation. What has
none of them in it, such as the rate of a counter in a Prometheus, is a *leaf*: a question for
whoever has the samples, which is asked once. Arithmetic and comparisons are worked out here in any
case, so that other thresholds ask nothing new.

Semantics are those of the documentation of Prometheus:
https://prometheus.io/docs/prometheus/latest/querying/operators/
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import promql_parser as promql
from numpy.typing import NDArray

from chainlit_otel.backtest.vector import Grid, Labels, Values, Vector, grouped

Presence = NDArray[np.bool_]
"""Whether there is a value, at each evaluation."""

Leaf = Callable[[str], Vector]
"""Returns the answer to a query, for each evaluation."""

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
}
_SETS = ("and", "or", "unless")


class Unsupported(Exception):
    """An expression has something that no rule of ours has."""


def _selectors(node: promql.Expr) -> Iterator[promql.VectorSelector]:
    """Give every selector in an expression."""
    if isinstance(node, promql.VectorSelector):
        yield node
    for child in _children(node):
        yield from _selectors(child)


def _children(node: promql.Expr) -> Iterable[promql.Expr]:
    if isinstance(node, promql.MatrixSelector):
        return [node.vector_selector]
    if isinstance(node, promql.BinaryExpr):
        return [node.lhs, node.rhs]
    if isinstance(node, promql.Call):
        return list(node.args)
    if isinstance(node, (promql.AggregateExpr, promql.ParenExpr, promql.UnaryExpr)):
        return [node.expr]
    if isinstance(node, promql.SubqueryExpr):
        return [node.expr]
    return []


class Evaluation:
    """Evaluates the expressions of rules over one grid.

    Args:
        grid: The evaluations.
        leaf: Answers what is not made of known series.
        left_open: Whether a range leaves out the sample at its start, as from Prometheus 3 on.

    Attributes:
        known: Series by name: those that are given, and those that were recorded so far.
    """

    def __init__(self, grid: Grid, leaf: Leaf, left_open: bool = False) -> None:
        self.known: dict[str, Vector] = {}
        self._grid = grid
        self._leaf = leaf
        self._left_open = left_open
        self._answers: dict[str, Vector] = {}

    def record(self, name: str, expr: str) -> None:
        """Add a recording rule, after those that it uses."""
        self.known[name] = self.query(expr)

    def query(self, expr: str) -> Vector:
        """Evaluate an expression that gives a vector.

        Raises:
            Unsupported: It has something that no rule of ours has.
        """
        found = self._evaluate(promql.parse(expr))
        if isinstance(found, dict):
            return found
        raise Unsupported(f"{expr}: is no vector")

    def _evaluate(self, node: promql.Expr) -> Any:
        """Return a vector, or the values of a scalar."""
        if isinstance(node, promql.ParenExpr):
            return self._evaluate(node.expr)
        if isinstance(node, promql.NumberLiteral):
            return np.full(self._grid.size, node.val)
        if isinstance(node, promql.BinaryExpr):
            return self._binary(node)
        if isinstance(node, promql.Call) and node.func.name == "time":
            return self._grid.times
        if not self._is_known(node):
            return self._ask(str(node.prettify()))
        if isinstance(node, promql.VectorSelector):
            return self._selected(node)
        if isinstance(node, promql.AggregateExpr):
            return self._aggregate(node)
        if isinstance(node, promql.Call):
            return self._call(node)
        raise Unsupported(node.prettify())

    def _is_known(self, node: promql.Expr) -> bool:
        return any(s.name in self.known for s in _selectors(node))

    def _ask(self, query: str) -> Vector:
        if query not in self._answers:
            self._answers[query] = dict(self._leaf(query))
        return self._answers[query]

    def _selected(self, node: promql.VectorSelector) -> Vector:
        back = self._evaluations(node.offset.total_seconds() if node.offset else 0.0, node)
        return _present({of: _shifted(values, back) for of, values in self._matching(node).items()})

    def _evaluations(self, seconds: float, node: promql.Expr) -> int:
        """Return how many evaluations a time span has."""
        number = seconds / self._grid.step
        if abs(number - round(number)) > 1e-6:
            raise Unsupported(f"{node.prettify()}: no multiple of {self._grid.step:g} s")
        return round(number)

    def _matching(self, node: promql.VectorSelector) -> dict[Labels, Values]:
        wanted = []
        for matcher in node.matchers.matchers:
            kind = str(matcher.op).rpartition(".")[2]
            if kind not in ("Equal", "Re"):
                raise Unsupported(node.prettify())
            pattern = matcher.value if kind == "Re" else re.escape(matcher.value)
            wanted.append((matcher.name, re.compile(pattern)))
        return {
            of: values
            for of, values in self.known[node.name or ""].items()
            if all(pattern.fullmatch(dict(of).get(name, "")) for name, pattern in wanted)
        }

    def _call(self, node: promql.Call) -> Vector:
        name = node.func.name
        if name in _OF_A_RANGE:
            return self._of_a_range(_OF_A_RANGE[name], node.args[0])
        if name == "histogram_quantile":
            return _histogram_quantiles(node.args[0].val, self._evaluate(node.args[1]))
        if name == "label_replace":
            return self._label_replace(node)
        if name == "clamp_min":
            lowest = self._evaluate(node.args[1])
            return {of: np.maximum(v, lowest) for of, v in self._evaluate(node.args[0]).items()}
        raise Unsupported(node.prettify())

    def _label_replace(self, node: promql.Call) -> Vector:
        target, new, source, pattern = (argument.val for argument in node.args[1:])
        # Rules of ours only add a constant.
        if (source, pattern) != ("", ""):
            raise Unsupported(node.prettify())
        return {
            grouped(of, frozenset([target]), without=True) | {(target, new)}: values
            for of, values in self._evaluate(node.args[0]).items()
        }

    def _of_a_range(self, function: OfARange, node: promql.MatrixSelector) -> Vector:
        selector = node.vector_selector
        back = self._evaluations(selector.offset.total_seconds() if selector.offset else 0.0, node)
        width = self._evaluations(node.range.total_seconds(), node) + 1 - self._left_open
        found = {}
        for of, values in self._matching(selector).items():
            found[of] = function(_shifted(values, back), width, self._grid.step)
        return _present(found)

    def _aggregate(self, node: promql.AggregateExpr) -> Vector:
        modifier = node.modifier
        if modifier is None:
            names, without = frozenset[str](), False
        else:
            names = frozenset(modifier.labels)
            without = str(modifier.type).endswith("Without")
        groups: dict[Labels, list[Values]] = {}
        for of, values in self._evaluate(node.expr).items():
            groups.setdefault(grouped(of, names, without), []).append(values)
        kind = str(node.op)
        quantile = self._evaluate(node.param)[0] if node.param is not None else 0.0
        return {of: _aggregated(kind, np.stack(rows), quantile) for of, rows in groups.items()}

    def _binary(self, node: promql.BinaryExpr) -> Any:
        left, right = self._evaluate(node.lhs), self._evaluate(node.rhs)
        op, modifier = str(node.op), node.modifier
        if op in _SETS:
            return _set_operation(op, left, right, _signature(modifier))
        keeps_bool = modifier is not None and modifier.return_bool
        if not isinstance(left, dict) and not isinstance(right, dict):
            return _applied(op, left, right, left, keeps_bool)
        if not isinstance(right, dict):
            return _present({k: _applied(op, v, right, v, keeps_bool) for k, v in left.items()})
        if not isinstance(left, dict):
            return _present({k: _applied(op, left, v, v, keeps_bool) for k, v in right.items()})
        return self._matched(node, left, right, _signature(modifier), keeps_bool)

    def _matched(
        self,
        node: promql.BinaryExpr,
        left: Vector,
        right: Vector,
        signature: Callable[[Labels], Labels],
        keeps_bool: bool,
    ) -> Vector:
        partners: dict[Labels, Values] = {}
        for of, values in right.items():
            if signature(of) in partners:
                raise Unsupported(f"{node.prettify()}: is not one to one")
            partners[signature(of)] = values
        op, found = str(node.op), {}
        for of, values in left.items():
            partner = partners.get(signature(of))
            if partner is None:
                continue
            of = of if op in COMPARISONS and not keeps_bool else signature(of)
            if of in found:
                raise Unsupported(f"{node.prettify()}: is not one to one")
            found[of] = _applied(op, values, partner, values, keeps_bool)
        return _present(found)


def _signature(modifier: promql.BinModifier | None) -> Callable[[Labels], Labels]:
    """Return which labels of the two sides must be equal."""
    matching = modifier.matching if modifier is not None else None
    if matching is None:
        return lambda of: of
    names, without = frozenset(matching.labels), not str(matching.type).endswith("Include")
    return lambda of: grouped(of, names, without)


def _set_operation(
    op: str, left: Vector, right: Vector, signature: Callable[[Labels], Labels]
) -> Vector:
    def presence(of: Vector) -> dict[Labels, Presence]:
        found: dict[Labels, Presence] = {}
        for one, values in of.items():
            key, there = signature(one), ~np.isnan(values)
            found[key] = found[key] | there if key in found else there
        return found

    if op == "or":
        taken, found = presence(left), dict(left)
        for of, values in right.items():
            there = taken.get(signature(of))
            added = values if there is None else np.where(there, np.nan, values)
            found[of] = np.where(np.isnan(found[of]), added, found[of]) if of in found else added
        return _present(found)
    partners, result = presence(right), {}
    for of, values in left.items():
        there = partners.get(signature(of))
        if there is None:
            if op == "unless":
                result[of] = values
            continue
        result[of] = np.where(there if op == "and" else ~there, values, np.nan)
    return _present(result)


def _present(vector: dict[Labels, Values]) -> Vector:
    return {of: values for of, values in vector.items() if not np.isnan(values).all()}


def _applied(op: str, left: Values, right: Values, kept: Values, keeps_bool: bool) -> Values:
    with np.errstate(divide="ignore", invalid="ignore"):
        if op in _ARITHMETIC:
            result: Values = _ARITHMETIC[op](left, right)
            return result
        if op not in COMPARISONS:
            raise Unsupported(op)
        holds = COMPARISONS[op](left, right)
    if keeps_bool:
        return np.where(np.isnan(left) | np.isnan(right), np.nan, holds.astype(float))
    return np.where(holds, kept, np.nan)


def _shifted(values: Values, back: int) -> Values:
    """Return the values that many evaluations ago."""
    if not back:
        return values
    shifted = np.full(len(values), np.nan)
    shifted[back:] = values[:-back]
    return shifted


OfARange = Callable[[Values, int, float], Values]
"""A function of the last values at each evaluation: the values, how many, seconds between two."""


def _windows(values: Values, width: int, missing: float) -> Any:
    padded = np.concatenate([np.full(width - 1, np.nan), values])
    filled = np.where(np.isnan(padded), missing, padded)
    return np.lib.stride_tricks.sliding_window_view(filled, width)


def _counts(values: Values, width: int) -> Any:
    """Return how many values there are in each window."""
    there = np.concatenate([np.zeros(width, dtype=int), ~np.isnan(values)])
    sums = np.cumsum(there)
    return sums[width:] - sums[:-width]


def _sums(values: Values, width: int, step: float) -> Values:
    # Not as a difference of two sums so far: what is all zero has to be zero.
    sums = _windows(values, width, 0.0).sum(axis=-1)
    return np.where(_counts(values, width) > 0, sums, np.nan)


def _means(values: Values, width: int, step: float) -> Values:
    means: Values = _sums(values, width, step) / np.maximum(_counts(values, width), 1)
    return means


def _highest(values: Values, width: int, step: float) -> Values:
    highest = _windows(values, width, -np.inf).max(axis=-1)
    return np.where(_counts(values, width) > 0, highest, np.nan)


def _lowest(values: Values, width: int, step: float) -> Values:
    lowest = _windows(values, width, np.inf).min(axis=-1)
    return np.where(_counts(values, width) > 0, lowest, np.nan)


def _latest(values: Values, width: int, step: float) -> Values:
    _, last = _ends(values, width)
    return np.where(last >= 0, values[last], np.nan)


def _resets(values: Values, width: int, step: float) -> Values:
    there = np.flatnonzero(~np.isnan(values))
    fell = np.zeros(len(values))
    fell[there[1:]] = np.diff(values[there]) < 0
    # The first value of a window has fallen from one before it.
    first, last = _ends(values, width)
    so_far = np.cumsum(fell)
    return np.where(last >= 0, so_far[last] - so_far[first], np.nan)


def _ends(values: Values, width: int) -> tuple[Any, Any]:
    """Return where in `values` each window's first and last value are; -1 if it has none."""
    size = len(values)
    there, at = ~np.isnan(values), np.arange(size)
    last = np.maximum.accumulate(np.where(there, at, -1))
    following = np.minimum.accumulate(np.where(there, at, size)[::-1])[::-1]
    first = following[np.maximum(at - width + 1, 0)]
    none = last < at - width + 1
    return np.where(none, -1, first), np.where(none, -1, last)


def _extrapolated(is_counter: bool, is_rate: bool) -> OfARange:
    """Return `rate`, `increase` or `delta`, with the extrapolation of Prometheus.

    https://github.com/prometheus/prometheus/blob/main/promql/functions.go, `extrapolatedRate`
    """

    def function(values: Values, width: int, step: float) -> Values:
        first, last = _ends(values, width)
        count = _counts(values, width)
        enough = count >= 2
        lowest = values[first]
        if is_counter:
            values = _without_resets(values)
        difference = values[last] - values[first]
        sampled = (last - first) * step
        between = sampled / np.maximum(count - 1, 1)
        seconds, at = (width - 1) * step, np.arange(len(values))
        to_end = (at - last) * step
        to_start = seconds - sampled - to_end
        if is_counter:
            with np.errstate(divide="ignore", invalid="ignore"):
                to_zero = sampled * (lowest / difference)
            to_start = np.where((difference > 0) & (to_zero < to_start), to_zero, to_start)
        covered = sampled.astype(float)
        for gap in (to_start, to_end):
            covered = covered + np.where(gap < 1.1 * between, gap, between / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = covered / sampled
            result = difference * (factor / seconds if is_rate else factor)
        return np.where(enough, result, np.nan)

    return function


def _without_resets(values: Values) -> Values:
    """Return a counter that goes on where it began anew."""
    there = np.flatnonzero(~np.isnan(values))
    known = values[there]
    before = np.concatenate([[0.0], known[:-1]])
    result = values.copy()
    result[there] = known + np.cumsum(np.where(known < before, before, 0.0))
    return result


_OF_A_RANGE: dict[str, OfARange] = {
    "avg_over_time": _means,
    "max_over_time": _highest,
    "min_over_time": _lowest,
    "sum_over_time": _sums,
    "last_over_time": _latest,
    "resets": _resets,
    "rate": _extrapolated(is_counter=True, is_rate=True),
    "increase": _extrapolated(is_counter=True, is_rate=False),
    "delta": _extrapolated(is_counter=False, is_rate=False),
}


def _histogram_quantiles(quantile: float, buckets: Vector) -> Vector:
    """Return a quantile of each histogram, between the bounds of its bucket.

    https://github.com/prometheus/prometheus/blob/main/promql/quantile.go, `bucketQuantile`
    """
    histograms: dict[Labels, dict[float, Values]] = {}
    for of, values in buckets.items():
        bound = float(dict(of).get("le", "nan").replace("+Inf", "inf"))
        histograms.setdefault(grouped(of, frozenset(["le"]), without=True), {})[bound] = values
    found = {}
    for of, by_bound in histograms.items():
        bounds = np.array(sorted(by_bound))
        if len(bounds) < 2 or not np.isinf(bounds[-1]):
            continue
        rows = np.maximum.accumulate(np.stack([by_bound[bound] for bound in bounds]), axis=0)
        rank = quantile * rows[-1]
        # The first bucket that holds the rank; if only the last does, its lower bound is all that
        # is known.
        at = np.minimum((rows[:-1] < rank).sum(axis=0), len(bounds) - 1)
        every = np.arange(rows.shape[1])
        low = np.where(at > 0, bounds[np.maximum(at - 1, 0)], 0.0)
        below = np.where(at > 0, rows[np.maximum(at - 1, 0), every], 0.0)
        inside = np.where(at < len(bounds) - 1, rows[at, every] - below, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = low + (bounds[at] - low) * ((rank - below) / inside)
        value = np.where(at == len(bounds) - 1, bounds[-2], value)
        found[of] = np.where(rows[-1] > 0, value, np.nan)
    return _present(found)


def _aggregated(kind: str, rows: Values, quantile: float) -> Values:
    there = ~np.isnan(rows)
    count = there.sum(axis=0)
    if kind == "sum":
        result = np.where(there, rows, 0).sum(axis=0)
    elif kind == "avg":
        result = np.where(there, rows, 0).sum(axis=0) / np.maximum(count, 1)
    elif kind == "max":
        result = np.where(there, rows, -np.inf).max(axis=0)
    elif kind == "min":
        result = np.where(there, rows, np.inf).min(axis=0)
    elif kind == "count":
        result = count.astype(float)
    elif kind == "quantile":
        result = _quantile(rows, count, quantile)
    else:
        raise Unsupported(kind)
    return np.where(count > 0, result, np.nan)


def _quantile(rows: Values, count: Any, quantile: float) -> Values:
    """Return a quantile between the nearest ranks, as Prometheus does."""
    ordered = np.sort(rows, axis=0)  # NaN comes last.
    rank = quantile * np.maximum(count - 1, 0)
    low = np.floor(rank).astype(int)
    high = np.minimum(low + 1, np.maximum(count - 1, 0))
    at = np.arange(rows.shape[1])
    weight = rank - low
    result: Values = ordered[low, at] * (1 - weight) + ordered[high, at] * weight
    return result
