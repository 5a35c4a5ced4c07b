"""The headline figures of an app, read from its `/metrics`. Pure: no clock, no I/O."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

NONE_YET = "\N{EN DASH}"
WINDOW = 60.0  # seconds over which sessions per minute are counted

_WEBSOCKET = {"chainlit_session_type": "websocket"}
_FIGURES: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("starts", "chainlit_session_starts_total", {}),
    ("left", "chainlit_session_ends_total", {}),
    # A session whose tab is closed has been left, and ends only after the grace time.
    ("left", "chainlit_session_active", {**_WEBSOCKET, "chainlit_session_state": "disconnected"}),
    ("seconds", "chainlit_session_time_seconds_total", {}),
    ("connected", "chainlit_session_active", {**_WEBSOCKET, "chainlit_session_state": "connected"}),
    ("peak", "chainlit_session_peak", {"chainlit_peak_window": "process"}),
)


@dataclass(frozen=True)
class Reading:
    """The session figures of one scrape.

    Attributes:
        starts: sessions started since the app was started.
        left: sessions that their visitor has left, ended or not.
        seconds: time spent in all of them, the open ones included.
        connected: sessions connected now.
        peak: the most that were connected at one time.
    """

    starts: float
    left: float
    seconds: float
    connected: float
    peak: float


def read(exposition: str) -> Reading:
    """Return the figures in the text of `/metrics`.

    Raises:
        LookupError: it has no session metrics.
    """
    sums = dict.fromkeys((figure for figure, _, _ in _FIGURES), 0.0)
    missing = {name for _, name, _ in _FIGURES}
    for family in text_string_to_metric_families(exposition):
        for name, labels, value, *_ in family.samples:
            missing.discard(name)
            for figure, series, wanted in _FIGURES:
                if name == series and wanted.items() <= labels.items():
                    sums[figure] += value
    if missing:
        raise LookupError(f"no {', '.join(sorted(missing))}")
    return Reading(**sums)


class Headline:
    """The figures of the last readings, as one line."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, Reading]] = deque()
        self._first: float | None = None

    def add(self, at: float, reading: Reading) -> None:
        """Add the reading that was taken `at` this second of a monotonic clock."""
        self._readings.append((at, reading))
        self._first = at if self._first is None else self._first
        while at - self._readings[0][0] > WINDOW:
            self._readings.popleft()

    @property
    def last(self) -> Reading | None:
        """The last reading, if there was one."""
        return self._readings[-1][1] if self._readings else None

    @property
    def starts_per_minute(self) -> float | None:
        """Sessions started per minute, during the last one; None before the second reading."""
        if len(self._readings) < 2:
            return None
        (earlier, first), (now, last) = self._readings[0], self._readings[-1]
        return (last.starts - first.starts) / (now - earlier) * 60

    @property
    def mean_duration(self) -> float | None:
        """Mean seconds of a session, by Little's law: the time of all by how many have left.

        None while there is no estimate: no session has been left yet, or so few that the mean is
        more than the time since the first reading, longer than any session can have lasted.
        """
        if self._first is None or not self._readings:
            return None
        at, reading = self._readings[-1]
        mean = reading.seconds / reading.left if reading.left else math.inf
        return mean if mean <= at - self._first else None

    def line(self) -> str:
        """All figures in one line."""
        reading = self.last
        connected = None if reading is None else reading.connected
        peak = None if reading is None else reading.peak
        return (
            f"sessions started {show(self.starts_per_minute)}/min"
            f"   mean duration {show(self.mean_duration, ' s')}"
            f"   connected now {show(connected, digits=0)}"
            f"   peak {show(peak, digits=0)}"
        )


def show(figure: float | None, unit: str = "", digits: int = 1) -> str:
    """A figure with its unit, or a dash while there is none."""
    return NONE_YET if figure is None else f"{figure:.{digits}f}{unit}"
