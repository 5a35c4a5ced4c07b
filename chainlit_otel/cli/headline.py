"""The headline figures of an app, taken from what its `/metrics` says. Pure: no clock, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

NONE_YET = "\N{EN DASH}"
WINDOW = 60.0  # seconds over which sessions per minute are counted

_CONNECTED = {
    "chainlit_session_type": "websocket",
    "chainlit_session_state": "connected",
}
_WHOLE_PROCESS = {"chainlit_peak_window": "process"}


@dataclass(frozen=True)
class Reading:
    """What one look at the metrics shows.

    Attributes:
        starts: sessions started since the app runs.
        ends: sessions ended.
        seconds: time spent in all of them, the open ones included.
        connected: sessions connected now.
        peak: the most that were connected at one time.
    """

    starts: float
    ends: float
    seconds: float
    connected: float
    peak: float

    @property
    def mean_duration(self) -> float | None:
        """Mean seconds of a session; None while none has ended."""
        return self.seconds / self.ends if self.ends else None


def read(exposition: str) -> Reading:
    """Take the figures out of the text of `/metrics`.

    Raises:
        LookupError: it has no session metrics.
    """
    sums: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for name, labels, value, *_ in family.samples:
            if _is_wanted(name, labels):
                sums[name] = sums.get(name, 0.0) + value
    return Reading(
        starts=sums["chainlit_session_starts_total"],
        ends=sums["chainlit_session_ends_total"],
        seconds=sums["chainlit_session_time_seconds_total"],
        connected=sums["chainlit_session_active"],
        peak=sums["chainlit_session_peak"],
    )


def _is_wanted(name: str, labels: Mapping[str, str]) -> bool:
    if name == "chainlit_session_active":
        return _CONNECTED.items() <= labels.items()
    if name == "chainlit_session_peak":
        return _WHOLE_PROCESS.items() <= labels.items()
    return True


class Headline:
    """The figures of the last readings, as one line."""

    def __init__(self) -> None:
        self._readings: deque[tuple[float, Reading]] = deque()

    def add(self, at: float, reading: Reading) -> None:
        """Take in the reading made `at` this second of any steady clock."""
        self._readings.append((at, reading))
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

    def line(self) -> str:
        """All figures in one line."""
        reading = self.last
        connected = None if reading is None else reading.connected
        peak = None if reading is None else reading.peak
        mean = None if reading is None else reading.mean_duration
        return (
            f"sessions started {show(self.starts_per_minute)}/min"
            f"   mean duration {show(mean, ' s')}"
            f"   connected now {show(connected, digits=0)}"
            f"   peak {show(peak, digits=0)}"
        )


def show(figure: float | None, unit: str = "", digits: int = 1) -> str:
    """A figure with its unit, or a dash while there is none."""
    return NONE_YET if figure is None else f"{figure:.{digits}f}{unit}"
