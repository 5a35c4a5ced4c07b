"""Clocks that the tests of the domain set themselves."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

NS = 1_000_000_000


class Clock:
    """A monotonic and a wall clock that move together until somebody steps the second."""

    def __init__(self, now: int = 0, wall: int = 1_700_000_000 * NS) -> None:
        self.now = now
        self.wall = wall

    def advance(self, ns: int) -> None:
        self.now += ns
        self.wall += ns

    def step(self, ns: int) -> None:
        self.wall = max(0, self.wall + ns)


class SwitchingClock:
    """A monotonic clock that lets other threads go first, where they can do most harm."""

    def __call__(self) -> int:
        time.sleep(0)
        return time.monotonic_ns()


@contextmanager
def hurried_threads() -> Iterator[None]:
    """Let the interpreter change threads all the time."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
