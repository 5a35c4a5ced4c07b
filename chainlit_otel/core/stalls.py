"""The heartbeat of an event loop: how late each beat is, and whether one is missing."""

from __future__ import annotations

import time
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple

from chainlit_otel.core.sessions import NS, Clock

INTERVAL = 0.1
"""Seconds between two beats. A stall is measured from the beat that is due next, so its length may
be up to this much too short, and never too long. A beat wakes an idle process, which uvicorn does
ten times a second anyway, at the same moments."""

THRESHOLD = 1.0
"""Seconds that a beat must be late to make a stall."""


class Source(NamedTuple):
    """A line of source code that was being executed."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


@dataclass(frozen=True)
class Stall:
    """What has blocked the loop.

    Attributes:
        callback: Name of the callback under way, if there was one.
        source: The line of the app that was being executed, if it is known.
        seen_late: Whether the watchdog could not run before, as when a call in C lets no thread
            run: the loop may have gone on from the line that blocked it.
        step: Type and name of the step under way, if there was one.
        innermost: The innermost line that was being executed, if that is not `source`.
    """

    callback: str | None = None
    source: Source | None = None
    seen_late: bool = False
    step: tuple[str, str] | None = None
    innermost: Source | None = None

    def __str__(self) -> str:
        where = f"by {self.callback}" if self.callback else ""
        if self.step is not None:
            where += f" in {' '.join(self.step)}"
        if self.source is not None:
            where += f" {'at or just before' if self.seen_late else 'at'} {self.source}"
        if self.innermost is not None:
            where += f", inside {self.innermost}"
        return where.strip() or "by unknown code"


class Beat(NamedTuple):
    """One beat.

    Attributes:
        lag: Seconds that it was late.
        late_detection: Whether it ended a stall that the watchdog had not detected.
    """

    lag: float
    late_detection: bool


class Check(NamedTuple):
    """The result of a check by the watchdog.

    Attributes:
        began: Whether a stall began that was not reported yet.
        wait: Seconds until the next check.
    """

    began: bool
    wait: float


class Heartbeat:
    """Takes the beats of the loop, and is checked for a missing one by another thread.

    A stall starts when the watchdog finds a beat missing, and ends with that beat, whose lag is the
    length of the stall. If the watchdog itself was delayed, the beat counts it. Thread-safe.

    Args:
        clock: Monotonic clock, in nanoseconds.

    Attributes:
        stalls: Stalls so far, each counted once, and while it lasts.
        stalled_time: Seconds of the stalls that are over.
        stalled: Whether a stall that has been counted goes on.
    """

    def __init__(self, clock: Clock = time.monotonic_ns) -> None:
        self._clock = clock
        self._lock = Lock()
        self._due: int | None = None
        self._worst = 0.0
        self.stalls = 0
        self.stalled_time = 0.0
        self.stalled = False

    def beat(self) -> Beat | None:
        """A beat came, and the next one is due after the interval.

        Returns:
            The beat; None for the first one, which was not due at any time.
        """
        with self._lock:
            now = self._clock()
            due, self._due = self._due, now + int(INTERVAL * NS)
            reported, self.stalled = self.stalled, False
            if due is None:
                return None
            lag = max(0, now - due) / NS
            late_detection = lag >= THRESHOLD and not reported
            self._worst = max(self._worst, lag)
            self.stalls += late_detection
            if reported or late_detection:
                self.stalled_time += lag
        return Beat(lag, late_detection)

    def check(self) -> Check:
        """Check whether a beat is missing."""
        with self._lock:
            if self._due is None or self.stalled:
                return Check(False, THRESHOLD)
            overdue = self._overdue()
            self.stalled = overdue >= THRESHOLD
            self.stalls += self.stalled
            return Check(self.stalled, THRESHOLD if self.stalled else THRESHOLD - overdue)

    def take_worst(self) -> float | None:
        """Return the largest lag since the last call, in seconds; None if no beat is expected.

        A beat that is missing counts with how late it is by now.
        """
        with self._lock:
            worst, self._worst = self._worst, 0.0
            if self._due is None:
                return worst or None
            return max(worst, self._overdue())

    def blocked_for(self) -> float:
        """Return for how many seconds a stall has lasted that goes on; 0 if there is none."""
        with self._lock:
            return self._overdue() if self.stalled and self._due is not None else 0.0

    def pause(self) -> None:
        """Expect no beat until there is one again, because the loop does not run."""
        with self._lock:
            if self.stalled:
                self.stalled_time += self._overdue()
            self._due = None
            self.stalled = False

    def _overdue(self) -> float:
        return 0.0 if self._due is None else max(0, self._clock() - self._due) / NS

    def blocked(self) -> dict[tuple[str, ...], int]:
        """Stalls so far."""
        return {(): self.stalls}

    def blocked_time(self) -> dict[tuple[str, ...], float]:
        """Seconds of all stalls so far, with one that goes on."""
        with self._lock:
            return {(): self.stalled_time + (self._overdue() if self.stalled else 0.0)}
