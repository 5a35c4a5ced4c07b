"""What visitors have done, by their own count: times, failures, sums."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

from chainlit_otel.testing.errors import NoAnswer, Refused, Unreachable, VisitError

Phase = Literal["connect", "first_token", "turn", "reconnect"]
PHASES: tuple[Phase, ...] = get_args(Phase)
_FIGURES_AND_QUOTES = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\d+(?:\.\d+)?""")
_MOST_EXAMPLES = 20


class CheckFailed(VisitError):
    """The app has answered something else than the script expects."""


class Timing(NamedTuple):
    """How long something took.

    Attributes:
        at: seconds from the start of the run to its end.
        seconds: its length.
    """

    at: float
    seconds: float


class AnsweredTurn(NamedTuple):
    """A message that was answered; what the app counts as a turn.

    Attributes:
        seconds: from the message to the end of its answer, or to a question of the app.
        first_token: seconds to its first text; None if it has none.
        failed: whether the app has shown a failure.
    """

    seconds: float
    first_token: float | None
    failed: bool


class Failure(NamedTuple):
    """Something that went wrong for one visitor.

    Attributes:
        at: seconds from the start of the run.
        visitor: number of the visitor, from 0.
        kind: the class of the error, e.g. ``NoAnswer`` or ``CheckFailed``.
        message: what went wrong, in one line.
        transcript: what was said by both before, oldest first.
    """

    at: float
    visitor: int
    kind: str
    message: str
    transcript: tuple[str, ...]


@dataclass
class LoadReport:
    """What the visitors have done, by their own count.

    Attributes:
        arrived: visitors that have come.
        finished: visitors that have left again, for whatever reason.
        sessions: sessions started.
        ended: sessions whose visitor has left them.
        seconds: their lengths together, from the connection to the last disconnection.
        reconnects: connections restored.
        new_chats: times *New Chat* was pressed.
        messages: messages sent.
        replies: messages of the app received in answer.
        uploads: files sent.
        checks: expectations of a script that were looked at.
        unanswered: messages to which nothing came.
        unexpected: expectations that were not met.
        refused: connections the app refused.
        unreachable: connections that could not be made.
        errors: other failures: lost connections, and what the app showed as failed.
        connected: connections that stand now.
        peak: the most of them that stood at one time. Counted from when the app has greeted the
            visitor until the visitor begins to disconnect, so that the app's own peak is never
            lower.
        arrivals: the second of the run at which each visitor came, in order of time.
        changes: the second of each change of `connected`, and what it was from then on.
        timings: of each phase, in order of time.
        turns: messages that were answered; not the answers to questions of the app, nor buttons.
        failures: what went wrong, in order of time.
        visits: seconds that each visitor stayed, by its number from 0.
        length: seconds of the run; 0 while it lasts.
        lags: how many seconds the event loop of the visitors was late, looked at in intervals.
    """

    arrived: int = 0
    finished: int = 0
    sessions: int = 0
    ended: int = 0
    seconds: float = 0.0
    reconnects: int = 0
    new_chats: int = 0
    messages: int = 0
    replies: int = 0
    uploads: int = 0
    checks: int = 0
    unanswered: int = 0
    unexpected: int = 0
    refused: int = 0
    unreachable: int = 0
    errors: int = 0
    connected: int = 0
    peak: int = 0
    arrivals: list[float] = field(default_factory=list, repr=False)
    changes: list[tuple[float, int]] = field(default_factory=list, repr=False)
    timings: dict[Phase, list[Timing]] = field(
        default_factory=lambda: {phase: [] for phase in PHASES}, repr=False
    )
    turns: list[AnsweredTurn] = field(default_factory=list, repr=False)
    failures: list[Failure] = field(default_factory=list, repr=False)
    visits: dict[int, float] = field(default_factory=dict, repr=False)
    length: float = 0.0
    lags: list[float] = field(default_factory=list, repr=False)

    @property
    def mean_length(self) -> float | None:
        """Mean seconds of an ended session; None while there is none."""
        return self.seconds / self.ended if self.ended else None

    @property
    def succeeded(self) -> bool:
        """Whether everybody got in, and got the answers that were expected."""
        return not (
            self.unanswered or self.unexpected or self.refused or self.unreachable or self.errors
        )

    @property
    def failed(self) -> int:
        """Visitors for whom anything went wrong."""
        return len({failure.visitor for failure in self.failures})

    @property
    def failure_examples(self) -> list[str]:
        """The first failure of each kind, of twenty kinds at most."""
        first: dict[tuple[str, str], str] = {}
        for failure in self.failures:
            # What was said, what came and how long it took differ with each visitor.
            shape = _FIGURES_AND_QUOTES.sub("", failure.message)
            first.setdefault((failure.kind, shape), failure.message)
        return list(first.values())[:_MOST_EXAMPLES]

    def seconds_of(self, phase: Phase) -> list[float]:
        """Return how long each of a phase took, in order of time."""
        return [timing.seconds for timing in self.timings[phase]]

    def arrive(self, at: float) -> None:
        """Count a visitor who comes at this second of the run."""
        self.arrived += 1
        self.arrivals.append(at)

    def enter(self, at: float) -> None:
        """Count a connection that stands from this second of the run on."""
        self._change(at, 1)

    def exit(self, at: float) -> None:
        """Count a connection that stands until this second of the run."""
        self._change(at, -1)

    def add_failure(
        self, error: VisitError, *, at: float, visitor: int, transcript: Sequence[str] = ()
    ) -> None:
        """Count a failure and keep it."""
        if isinstance(error, Refused):
            self.refused += 1
        elif isinstance(error, Unreachable):
            self.unreachable += 1
        elif isinstance(error, NoAnswer):
            self.unanswered += 1
        elif isinstance(error, CheckFailed):
            self.unexpected += 1
        else:
            self.errors += 1
        kind = type(error).__name__
        self.failures.append(Failure(at, visitor, kind, str(error), tuple(transcript)))

    def _change(self, at: float, by: int) -> None:
        self.connected += by
        self.peak = max(self.peak, self.connected)
        self.changes.append((at, self.connected))


def percentile(values: Sequence[float], share: float) -> float | None:
    """Return the value that a share of all does not exceed (the nearest rank); None of nothing.

    Args:
        values: in any order.
        share: from 0 to 1, e.g. 0.95.
    """
    if not values:
        return None
    rank = max(1, math.ceil(share * len(values)))
    return sorted(values)[rank - 1]
