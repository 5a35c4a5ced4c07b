"""The past that a Prometheus has, asked for over its HTTP API by `query_range` alone.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import numpy as np

from chainlit_otel.backtest.vector import Grid, Labels, Values, Vector

POINTS = 10_000
"""Evaluations in one question at most; a Prometheus answers 11,000."""

_TIMEOUT = 120.0


class HistoryError(Exception):
    """A Prometheus cannot be asked; the message says what to change."""


class PrometheusHistory:
    """Asks a Prometheus what a query has been.

    Args:
        url: Its address.
        grid: The evaluations.
        headers: Sent with each question, such as an `Authorization`.
        progress: Called after each question.

    Attributes:
        questions: How many questions were asked.
        samples: How many samples came back.
    """

    def __init__(
        self,
        url: str,
        grid: Grid,
        headers: Mapping[str, str] | None = None,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        self.questions = 0
        self.samples = 0
        self._grid = grid
        self._progress = progress
        self._url = url.rstrip("/")
        self._client = httpx.Client(headers=dict(headers or {}), timeout=_TIMEOUT)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def is_left_open(self) -> bool:
        """Tell whether a range leaves out the sample at its start, as from Prometheus 3 on.

        Raises:
            HistoryError: It cannot be asked.
        """
        version = self._get("status/buildinfo", {}).get("version", "")
        return not version.startswith(("1.", "2."))

    def __call__(self, query: str) -> Vector:
        """Return what a query has been at each evaluation.

        Raises:
            HistoryError: It cannot be asked.
        """
        grid, found = self._grid, dict[Labels, Values]()
        for first in range(0, grid.size, POINTS):
            last = min(first + POINTS, grid.size) - 1
            answer = self._get(
                "query_range",
                {
                    "query": query,
                    "start": grid.start + first * grid.step,
                    "end": grid.start + last * grid.step,
                    "step": grid.step,
                },
            )
            for series in answer["result"]:
                of = frozenset((k, v) for k, v in series["metric"].items() if k != "__name__")
                values = found.setdefault(of, np.full(grid.size, np.nan))
                times, texts = zip(*series["values"], strict=True)
                at = np.rint((np.array(times, dtype=float) - grid.start) / grid.step).astype(int)
                values[at] = np.array([float(text) for text in texts])
                self.samples += len(times)
            self._progress()
        return found

    def _get(self, path: str, parameters: Mapping[str, Any]) -> Any:
        self.questions += 1
        address = f"{self._url}/api/v1/{path}"
        try:
            response = self._client.get(address, params=dict(parameters))
            answer = response.json()
        except httpx.HTTPError as error:
            raise HistoryError(
                f"{self._url}: cannot be asked ({type(error).__name__}); give --prometheus the "
                "address under which `/api/v1/query_range` answers"
            ) from error
        except ValueError as error:
            raise HistoryError(
                f"{self._url}: answers {response.status_code} and no JSON; give --prometheus the "
                "address under which `/api/v1/query_range` answers, and --header what it wants"
            ) from error
        if answer.get("status") != "success":
            raise HistoryError(f"{self._url}: {answer.get('error', response.status_code)}")
        return answer["data"]
