"""Has people talk to an app with chainlit-otel and to one without it, while something goes wrong.

Usage: python -m bench.faults [--turns N] [--visitors N] [--only NAME ...] [--markdown]

Each of them says the same to both apps, a few turns here and a few there. All answers have to be
the same, and no turn may be lost. How long people wait for an answer is compared turn by turn, on
their side: without a fault, that is what chainlit-otel costs, and what else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from bench import report
from bench.options import positive
from chainlit_otel.testing import Visitor
from tests.support import LAYER
from tests.support.faults import APP, ENABLE, FAULTS, Fault, Heard, answer_to
from tests.support.scrape import wait_until
from tests.support.server import ChainlitServer

KINDS = ("stream", "short", "fail")
_SLICE = 10
_TOGETHER = 30  # turns of all kinds


@dataclass(frozen=True)
class Turn:
    """What somebody got for what he said.

    Attributes:
        said: What he said.
        texts: Of the messages of the answer.
        steps: Names of its steps.
        failed: Whether the app showed a failure.
        seconds: From the message to the end of the answer.
    """

    said: str
    texts: tuple[str, ...]
    steps: tuple[str, ...]
    failed: bool
    seconds: float

    @property
    def heard(self) -> Heard:
        """What has to be the same in both apps."""
        return self.texts, self.steps, self.failed


@dataclass(frozen=True)
class Outcome:
    """What came of one fault.

    Attributes:
        bare: The turns of the app that is not observed.
        observed: Those of the other, in the same order.
        was_there: Whether the fault showed.
        internal_errors: Errors of chainlit-otel itself; None where nothing says so.
    """

    bare: Sequence[Turn]
    observed: Sequence[Turn]
    was_there: bool
    internal_errors: int | None

    @property
    def different(self) -> int:
        """How many answers are not the same, or not what the app has to answer."""
        pairs = zip(self.bare, self.observed, strict=True)
        # A fault under which the app itself fails would show nothing.
        return sum(not one.heard == other.heard == answer_to(one.said) for one, other in pairs)


async def endure(fault: Fault, turns: int, visitors: int) -> Outcome:
    """Let people talk to both apps under a fault.

    Args:
        fault: What goes wrong.
        turns: Turns of each app.
        visitors: How many talk at once.

    Raises:
        VisitError: An answer does not come, or a connection is lost.
    """
    with fault.around() as env:
        bare = ChainlitServer({"app.py": APP + fault.app, "layer.py": LAYER})
        ours = ENABLE + APP + fault.app + fault.ours
        observed = ChainlitServer({"app.py": ours, "layer.py": LAYER}, env=env)
        try:
            await asyncio.gather(*(asyncio.to_thread(s.start) for s in (bare, observed)))
            with fault.beside(observed):
                heard = await _talk_to([bare, observed], turns, visitors)
            was_there = await asyncio.to_thread(_shows, fault, observed)
            return Outcome(heard[0], heard[1], was_there, _internal_errors(observed))
        finally:
            await asyncio.gather(*(asyncio.to_thread(s.close) for s in (bare, observed)))


async def _talk_to(
    servers: Sequence[ChainlitServer], turns: int, visitors: int
) -> list[list[Turn]]:
    people = [
        [Visitor(server.url, transports=["websocket"]) for _ in range(visitors)]
        for server in servers
    ]
    for those in people:
        await asyncio.gather(*(visitor.connect() for visitor in those))
    heard: list[list[Turn]] = [[] for _ in servers]
    order = list(range(len(servers)))
    for begin in range(0, turns, _SLICE * visitors):
        end = min(turns, begin + _SLICE * visitors)
        for number in order:
            shares = await asyncio.gather(
                *(
                    _say(visitor, range(begin + which, end, visitors))
                    for which, visitor in enumerate(people[number])
                )
            )
            heard[number] += [turn for share in shares for turn in share]
        order.reverse()
    for those in people:
        await asyncio.gather(*(visitor.leave(clear=True) for visitor in those))
    return heard


async def _say(visitor: Visitor, numbers: range) -> list[Turn]:
    turns = []
    for number in numbers:
        said = f"{KINDS[number % len(KINDS)]} number {number}"
        answer = await visitor.say(said)
        steps = tuple(step.name for step in answer.steps)
        failed = answer.error is not None
        turns.append(Turn(said, tuple(answer.texts), steps, failed, answer.duration or 0.0))
    return turns


def _shows(fault: Fault, server: ChainlitServer) -> bool:
    try:
        wait_until(lambda: fault.shows(server), 60, f"{fault.title} to show")
    except TimeoutError:
        return False
    return True


def _internal_errors(server: ChainlitServer) -> int | None:
    def errors() -> list[int]:
        with contextlib.suppress(httpx.TransportError):
            return [int(server.scrape().sum("chainlit_otel_internal_errors_total"))]
        return []

    try:
        # It may be off for a moment.
        (found,) = wait_until(errors, 2, "the metrics to be served")
        return found
    except TimeoutError:
        return None


def _more(without: Sequence[float], seconds: Sequence[float]) -> float:
    """Return how much longer one waits, as the median of what some turns at a time say."""
    ratios = [
        statistics.median(seconds[at : at + _TOGETHER])
        / statistics.median(without[at : at + _TOGETHER])
        for at in range(0, len(seconds), _TOGETHER)
    ]
    return statistics.median(ratios) - 1


def table(outcomes: dict[str, Outcome]) -> report.Table:
    """Return what came of each fault."""
    heads = (
        "while",
        "turns",
        "different answers",
        "median wait",
        "more",
        "longest, without and with",
    )
    rows = []
    for name, outcome in outcomes.items():
        without, seconds = (
            [turn.seconds for turn in each] for each in (outcome.bare, outcome.observed)
        )
        median = statistics.median(seconds)
        rows.append(
            (
                FAULTS[name].title,
                f"{len(seconds):,}",
                f"{outcome.different}",
                f"{median * 1e3:.1f} ms",
                f"{_more(without, seconds):+.1%}",
                f"{max(without) * 1e3:.0f} and {max(seconds) * 1e3:.0f} ms",
            )
        )
    return heads, rows


def main() -> int:
    """Endure the faults, print the table, and return the exit code: 1 if a difference was seen."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.faults", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--turns", type=positive, default=1000, help="of each app (1000)")
    parser.add_argument("--visitors", type=positive, default=1, help="who talk at once (1)")
    parser.add_argument(
        "--only", nargs="+", choices=FAULTS, default=list(FAULTS), help="these faults"
    )
    parser.add_argument("--markdown", action="store_true", help="print the table in Markdown")
    arguments = parser.parse_args()
    outcomes = {}
    for name in arguments.only:
        outcome = asyncio.run(endure(FAULTS[name], arguments.turns, arguments.visitors))
        print(
            f"{name}: {outcome.different} different, there: {outcome.was_there},"
            f" errors of ours: {outcome.internal_errors}",
            file=sys.stderr,
            flush=True,
        )
        outcomes[name] = outcome
    show = report.markdown if arguments.markdown else report.text
    print(show(table(outcomes)), report.machine(), sep="\n\n")
    return int(any(each.different or not each.was_there for each in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
