"""The ledger of tools: how often each was called, how long it took, and how that ended."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

_RECENT = 200
"""With how many of the last calls of a turn a new one is compared."""

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


@dataclass(slots=True)
class _ShownCall:
    name: str
    start: int
    end: int
    sources: tuple[str, ...]


class ShownTools:
    """The calls of tools of one turn, each once, whoever shows it. Not thread-safe.

    The same call may be a step of Chainlit and a span of one or two instrumentations. Each of these
    is a source, which shows a call once. So what another source shows of the same tool at the same
    time is the same call, whether one of them is around the other or beside it.
    """

    # Small, since the live page keeps the last turns with all they have: a deque alone takes more.
    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: list[_ShownCall] = []

    def add(self, source: str, name: str, start: int, end: int) -> bool:
        """A source shows a call; return whether nobody has shown it before.

        Args:
            source: The source.
            name: Name of the tool.
            start: When the call began, in nanoseconds of any clock that is the same for all.
            end: When it ended, likewise.
        """
        longest, same = -1, None
        for known in self._known:
            if known.name == name and source not in known.sources:
                shared = min(end, known.end) - max(start, known.start)
                if shared > longest:
                    longest, same = shared, known
        if same is None:
            self._known.append(_ShownCall(name, start, end, (source,)))
            if len(self._known) > _RECENT:
                del self._known[0]
            return True
        same.sources += (source,)
        return False
