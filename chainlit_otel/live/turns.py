"""The turns that are kept: the last ones, and longer than those what failed or was slow."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from threading import Lock
from typing import NamedTuple

from chainlit_otel.core.turns import Turn

LAST = 500
"""How many of the last turns are kept, whatever they were."""

FAILED = 250
"""How many turns are kept besides these that failed, or of which something was never seen."""

SLOW = 250
"""How many turns are kept besides these that were slow."""


class KeptTurn(NamedTuple):
    """A turn that is kept.

    Attributes:
        key: What tells it from all others of this process.
        turn: The turn, which has ended.
        seconds: Its duration.
        kept: Why it is kept: `last`, `failed` or `slow`.
    """

    key: int
    turn: Turn
    seconds: float
    kept: str


class TurnBoard:
    """Keeps turns. Thread-safe.

    Args:
        slow: Seconds to the first content from which on a turn is slow.
        forget: Called with the traces of turns that are not kept any longer.
    """

    def __init__(self, slow: float, forget: Callable[[list[int]], None]) -> None:
        self._slow = slow
        self._forget = forget
        self._lock = Lock()
        self._keys = count(1)
        self._totals: Counter[str] = Counter()
        self._kept: dict[str, deque[KeptTurn]] = {
            "last": deque(),
            "failed": deque(),
            "slow": deque(),
        }
        self._by_key: dict[int, KeptTurn] = {}

    def add(self, turn: Turn, seconds: float) -> None:
        """A turn has ended, after so many seconds."""
        dropped: list[KeptTurn] = []
        with self._lock:
            self._totals[turn.outcome_at_end] += 1
            kept = KeptTurn(next(self._keys), turn, seconds, "last")
            self._by_key[kept.key] = kept
            last = self._kept["last"]
            last.append(kept)
            while len(last) > LAST:
                dropped += self._move_on(last.popleft())
        if dropped:
            self._forget([old.turn.trace for old in dropped if old.turn.trace])

    def totals(self) -> Mapping[str, int]:
        """Return how many turns have ended so far, by outcome."""
        with self._lock:
            return dict(self._totals)

    def read(self, since: int = 0) -> list[KeptTurn]:
        """Return the turns that are kept, the oldest first.

        Args:
            since: The key after which they are wanted.
        """
        with self._lock:
            return [self._by_key[key] for key in sorted(k for k in self._by_key if k > since)]

    def find(self, key: int) -> KeptTurn | None:
        """Return a turn; None if it is not kept."""
        with self._lock:
            return self._by_key.get(key)

    def of_session(self, belongs: Callable[[Turn], bool]) -> list[KeptTurn]:
        """Return the turns that are kept of a session, the oldest first."""
        return [kept for kept in self.read() if belongs(kept.turn)]

    @property
    def last_key(self) -> int:
        """The key of the last turn; 0 if there was none."""
        with self._lock:
            return max(self._by_key, default=0)

    def _move_on(self, kept: KeptTurn) -> Iterator[KeptTurn]:
        """Keep an old turn that matters; give those that are not kept any longer."""
        why = self._why(kept)
        del self._by_key[kept.key]
        if why is None:
            yield kept
            return
        kept = self._by_key[kept.key] = kept._replace(kept=why)
        others = self._kept[why]
        others.append(kept)
        if len(others) > (FAILED if why == "failed" else SLOW):
            oldest = others.popleft()
            del self._by_key[oldest.key]
            yield oldest

    def _why(self, kept: KeptTurn) -> str | None:
        turn = kept.turn
        if turn.outcome_at_end == "error" or turn.undelivered or turn.data_layer_errors:
            return "failed"
        first = turn.time_to_first_token
        return "slow" if (kept.seconds if first is None else first) >= self._slow else None
