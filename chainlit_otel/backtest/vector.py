"""Series over a grid of evaluations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
"""A value for each evaluation; NaN where there is none."""

Labels = frozenset[tuple[str, str]]
"""The labels of a series, without its name."""

Vector = Mapping[Labels, Values]
"""Series by their labels."""


@dataclass(frozen=True)
class Grid:
    """The times of evaluation.

    Attributes:
        start: The first one, in seconds since 1970.
        step: Seconds from one to the next.
        size: How many there are.
    """

    start: float
    step: float
    size: int

    @property
    def times(self) -> Values:
        """All of them, in seconds since 1970."""
        return self.start + self.step * np.arange(self.size, dtype=np.float64)

    @property
    def end(self) -> float:
        """The last one, in seconds since 1970."""
        return self.start + self.step * (self.size - 1)


def labels(**names: str) -> Labels:
    """Return labels; one without a value is none."""
    return frozenset((name, value) for name, value in names.items() if value)


def grouped(of: Labels, names: frozenset[str], without: bool = False) -> Labels:
    """Return the labels of these names, or the labels without them."""
    return frozenset(pair for pair in of if (pair[0] in names) != without)
