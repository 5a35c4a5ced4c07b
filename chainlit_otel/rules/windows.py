"""How long the windows of the rules are."""

from __future__ import annotations

from dataclasses import dataclass

from chainlit_otel.promql import duration

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
WEEK = 7 * DAY


@dataclass(frozen=True)
class Windows:
    """Time spans of the rules, all longer or shorter by the same factor.

    Attributes:
        scale: The factor; at 1 the windows are those in the names of the recorded series.
        scrape: Seconds between two scrapes, and at most between two evaluations; not scaled.

    Raises:
        ValueError: The factor is not more than 0 and at most 10, or the seconds are not from 1 to
            300.
    """

    scale: float = 1.0
    scrape: float = 15.0

    def __post_init__(self) -> None:
        """Check both."""
        if not 0 < self.scale <= 10:
            raise ValueError(f"scale is {self.scale:g}: must be more than 0 and at most 10")
        # Prometheus takes a series for gone that has no sample for five minutes.
        if not 1 <= self.scrape <= 5 * MINUTE:
            raise ValueError(f"scrape interval is {self.scrape:g}: must be from 1 to 300")

    def duration(self, seconds: float) -> str:
        """Return a time span, scaled, as a PromQL duration such as `5m`."""
        return duration(seconds * self.scale)

    def seconds_literal(self, seconds: float) -> str:
        """Return a time span, scaled, as a PromQL number of seconds such as `300`."""
        return f"{seconds * self.scale:g}"
