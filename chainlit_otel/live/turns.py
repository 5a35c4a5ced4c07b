"""The turns that are kept: the last ones, and longer than those what failed or was slow."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from threading import Lock
from typing import NamedTuple

from chainlit_otel.core.turns import Turn
from chainlit_otel.live.rows import EndedTurn

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
        turn: What is known of it.
        kept: Why it is kept: `last`, `failed` or `slow`.
        trace: Its trace in this process; 0 without one.
    """

    key: int
    turn: EndedTurn
    kept: str
    trace: int


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
        row = EndedTurn.of(turn, seconds)
        dropped: list[KeptTurn] = []
        with self._lock:
            self._totals[row.outcome] += 1
            kept = KeptTurn(next(self._keys), row, "last", turn.trace)
            self._by_key[kept.key] = kept
            last = self._kept["last"]
            last.append(kept)
            while len(last) > LAST:
                dropped += self._move_on(last.popleft())
        if dropped:
            self._forget([old.trace for old in dropped if old.trace])

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

    def of_session(self, belongs: Callable[[EndedTurn], bool]) -> list[KeptTurn]:
        """Return the turns that are kept of a session, the oldest first."""
        return [kept for kept in self.read() if belongs(kept.turn)]

    @property
    def last_key(self) -> int:
        """The key of the last turn; 0 if there was none."""
        with self._lock:
            return max(self._by_key, default=0)

    def _move_on(self, kept: KeptTurn) -> Iterator[KeptTurn]:
        """Keep an old turn that matters; give those that are not kept any longer."""
        why = self._why(kept.turn)
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

    def _why(self, turn: EndedTurn) -> str | None:
        if turn.outcome == "error" or turn.undelivered or turn.data_layer_errors:
            return "failed"
        waited = turn.seconds if turn.first_token is None else turn.first_token
        return "slow" if waited >= self._slow else None
