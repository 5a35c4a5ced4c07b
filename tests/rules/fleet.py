"""A fleet with the ledger of the package in each replica: what scrapes read, and the truth."""

from __future__ import annotations

import heapq
import itertools
import random
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from chainlit_otel.core.sessions import Session, SessionLedger
from tests.core.clocks import NS, Clock

EPOCH = 1_700_000_100
SCRAPE = 15.0
assert EPOCH % SCRAPE == 0

Reading = tuple[float, int]


class Replica:
    """One process after another with the same name; both clocks are set by the fleet."""

    def __init__(self, number: int) -> None:
        # A golden ratio spreads the moments of the scrapes as evenly as a hash does.
        self.offset = number * 0.618034 % 1 * SCRAPE
        self.active: list[Reading] = []
        self.peak: list[Reading] = []
        self.sessions: dict[int, Session] = {}
        self._clock = Clock(0, EPOCH * NS)
        self.restart()

    def restart(self) -> None:
        self.sessions.clear()
        self.ledger = SessionLedger(
            lambda *_: None, lambda: self._clock.now, lambda: self._clock.wall
        )

    def at(self, time: float) -> None:
        self._clock.advance(round(time * NS) - self._clock.now)

    def scrape(self, time: float) -> None:
        connected = self.ledger.active().get(("websocket", "webapp", "connected"), 0)
        self.active.append((time, connected))
        self.peak.append((time, self.ledger.peaks()["15s",]))


@dataclass
class Fleet:
    """Visitors of `replicas` replicas for some hours, the same for the same seed.

    They come one by one, and in bursts that hit all replicas at once, some of them shorter than
    the time between two scrapes. A rollout takes one replica after the other; its visitors are
    back on another one a few seconds later.

    Attributes:
        truth: How many are connected in the whole fleet, after each change.
    """

    seed: int
    hours: float
    rollout: float | None = None
    replicas: list[Replica] = field(default_factory=lambda: [Replica(n) for n in range(100)])
    truth: list[Reading] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._ids = itertools.count()
        self._end = self.hours * 3600
        self._total = 0
        self._left: dict[int, float] = {}
        order = itertools.count()
        self._events = [(time, next(order), what, who) for time, what, who in self._plan()]
        heapq.heapify(self._events)
        while self._events:
            time, _, what, who = heapq.heappop(self._events)
            for later in self._happens(time, what, who):
                heapq.heappush(self._events, (later[0], next(order), *later[1:]))
        self._times = [time for time, _ in self.truth]

    def peak(self, start: float, end: float) -> int:
        """The most connected at once between two moments, both included."""
        first, last = bisect_left(self._times, start), bisect_right(self._times, end)
        return max(level for _, level in self.truth[max(0, first - 1) : last])

    def openmetrics(self, job: str) -> Iterator[str]:
        """The lines of a text with all that the scrapes have read."""
        kinds = (
            ('chainlit_session_active{chainlit_session_type="websocket",', "active"),
            ('chainlit_session_peak{chainlit_peak_window="15s",', "peak"),
        )
        for name, kind in kinds:
            state = 'chainlit_session_state="connected",' if kind == "active" else ""
            for number, replica in enumerate(self.replicas):
                labels = f'{name}{state}job="{job}",instance="{number}"}}'
                for time, value in getattr(replica, kind):
                    yield f"{labels} {value} {EPOCH + time:.3f}\n"

    def _plan(self) -> Iterator[tuple[float, str, tuple[int, float]]]:
        chance = self._random
        for number, replica in enumerate(self.replicas):
            for turn in range(int(self._end / SCRAPE)):
                yield turn * SCRAPE + replica.offset, "scrape", (number, 0)
            time = 0.0
            while (time := time + chance.expovariate(1 / 120)) < self._end:
                yield time, "come", (number, chance.expovariate(1 / 600))
            if self.rollout is not None:
                yield self.rollout + number * 5, "restart", (number, 0)
        time = 0.0
        while (time := time + chance.expovariate(1 / 240)) < self._end:
            size, width, stay = chance.choice((2, 4, 16)), chance.choice((0.5, 3, 20)), 0.0
            stay = chance.choice((2, 5, 40))
            for number in range(len(self.replicas)):
                for _ in range(chance.randint(0, size)):
                    yield time + chance.random() * width, "come", (number, stay * chance.random())

    def _happens(
        self, time: float, what: str, who: tuple[int, float]
    ) -> Iterator[tuple[float, str, tuple[int, float]]]:
        number, value = who
        replica = self.replicas[number]
        if time >= self._end:
            return
        replica.at(time)
        if what == "scrape":
            replica.scrape(time)
        elif what == "come":
            session = next(self._ids)
            replica.sessions[session] = replica.ledger.start("websocket", "webapp", "new")
            self._left[session] = time + value
            self._count(time, +1)
            yield time + value, "go", (number, session)
        elif what == "go" and (gone := replica.sessions.pop(int(value), None)):
            replica.ledger.end(gone, "cleared")
            self._count(time, -1)
        elif what == "restart":
            for session in replica.sessions:
                self._count(time, -1)
                back = time + 1 + 2 * self._random.random()
                other = (number + self._random.randrange(1, 100)) % 100
                if (stay := self._left[session] - back) > 0:
                    yield back, "come", (other, stay)
            replica.restart()

    def _count(self, time: float, change: int) -> None:
        self._total += change
        self.truth.append((time, self._total))
