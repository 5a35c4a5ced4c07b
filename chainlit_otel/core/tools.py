"""The ledger of tools: how often each was called, how long it took, and how that ended."""

from __future__ import annotations

from threading import Lock

ToolOutcome = tuple[str, str]
"""Name of a tool, as a bounded label, and outcome."""


class ToolLedger:
    """Calls of tools, and the time spent in them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._totals: dict[ToolOutcome, tuple[int, float]] = {}

    def add(self, name: str, outcome: str, seconds: float) -> None:
        """A call of a tool has ended.

        Args:
            name: Name of the tool, as a bounded label.
            outcome: `ok`, `error` or `cancelled`.
            seconds: How long it took.
        """
        key = name, outcome
        with self._lock:
            calls, time = self._totals.get(key, (0, 0.0))
            self._totals[key] = calls + 1, time + seconds

    def calls(self) -> dict[tuple[str, ...], int]:
        """Return how many calls have ended, by tool and outcome."""
        with self._lock:
            return {key: calls for key, (calls, _) in self._totals.items()}

    def time(self) -> dict[tuple[str, ...], float]:
        """Return how many seconds were spent in them, likewise."""
        with self._lock:
            return {key: time for key, (_, time) in self._totals.items()}
