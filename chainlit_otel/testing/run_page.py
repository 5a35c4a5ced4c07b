"""The page of a run of visitors: curves, distributions, and each failure with its dialog."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
from markupsafe import Markup

from chainlit_otel.document import rendered
from chainlit_otel.document.pictures import BEFORE, NOW, WIDTH, styled, svg
from chainlit_otel.testing.ledgers import LedgerRow, remark
from chainlit_otel.testing.results import PHASES, Failure, LoadReport, Phase, percentile
from chainlit_otel.testing.written import FinishedRun, distribution

MOST_FAILURES = 100
PHASE_TITLES: dict[Phase, str] = {
    "connect": "connect",
    "first_token": "first token",
    "turn": "turn",
    "reconnect": "reconnect",
}
_MOST_INTERVALS = 60
_WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600)  # seconds
_BINS_PER_DECADE = 10
_SHORTEST = 0.001
_DURATION = (
    "datum.value == 0 ? '0' : datum.value < 1 ? format(datum.value * 1000, '.3~r') + ' ms' : "
    "format(datum.value, ',.3~f') + ' s'"
)
_SPEAKERS = {">": "visitor", "<": "app", "!": "failure"}


@dataclass(frozen=True)
class RunInterval:
    """A part of a run.

    Attributes:
        start, end: seconds from the start of the run.
        arrivals: visitors who came in it, per second.
        connected: the most connections that stood in it at one time.
        failures: what went wrong in it.
        times: median and 95th percentile of each phase that ended in it, in seconds.
    """

    start: float
    end: float
    arrivals: float
    connected: int
    failures: int
    times: dict[Phase, tuple[float | None, float | None]]


@dataclass(frozen=True)
class FailureKind:
    """The failures of one kind.

    Attributes:
        kind: the class of the error.
        failures: in order of time.
    """

    kind: str
    failures: Sequence[Failure]

    @property
    def visitors(self) -> int:
        """How many visitors had one."""
        return len({failure.visitor for failure in self.failures})


def as_html(run: FinishedRun) -> str:
    """Return a page of a run that needs neither a script nor a network."""
    report = run.report
    intervals = split(report)
    measured = [phase for phase in PHASES if report.timings[phase]]
    pictures = {"visitors": _visitors(intervals)}
    if measured:
        pictures |= {"times": _times(intervals, measured), "lengths": _lengths(report, measured)}
    page = rendered(
        "chainlit_otel.testing",
        "run.html",
        {"time": _time, "speaker": _speaker, "signed": _signed, "remark": remark},
        report=report,
        dialog=run.dialog,
        url=run.url,
        judgements=run.judgements,
        ledgers=run.ledgers,
        intervals=intervals,
        titles={phase: PHASE_TITLES[phase] for phase in measured},
        distributions={phase: distribution(report.seconds_of(phase)) for phase in measured},
        lag=distribution(report.lags),
        kinds=_kinds(report.failures),
        shown=report.failures[:MOST_FAILURES],
        pictures={
            key: Markup(svg(picture, number))
            for number, (key, picture) in enumerate(pictures.items(), 1)
        },
    )
    # An app may send half of a surrogate pair, which no file can hold.
    return page.encode("utf-8", "replace").decode("utf-8")


def split(report: LoadReport) -> list[RunInterval]:
    """Return a run in intervals of the same length, a second at least, sixty at most; pure."""
    width = next(
        (each for each in _WIDTHS if report.length <= each * _MOST_INTERVALS),
        math.ceil(report.length / _MOST_INTERVALS),
    )
    # The last one is longer by what is left over: a rate of a moment would say nothing.
    starts = range(0, max(1, int(report.length // width)) * width, width)
    ends = [*map(float, starts[1:]), max(report.length, _SHORTEST)]
    failed_at = [failure.at for failure in report.failures]
    changed_at = [at for at, _ in report.changes]
    intervals = []
    for start, end in zip(starts, ends, strict=True):
        # What comes at the very end of the run is part of it.
        until = math.inf if end == ends[-1] else end

        def within(times: Sequence[float], start: float = start, until: float = until) -> slice:
            return slice(bisect_left(times, start), bisect_left(times, until))

        changes = within(changed_at)
        first = max(0, changes.start - 1)  # that which was in force when the interval began
        connected = [number for _, number in report.changes[first : changes.stop]]
        times = {}
        for phase, timings in report.timings.items():
            seconds = [each.seconds for each in timings[within([each.at for each in timings])]]
            times[phase] = (percentile(seconds, 0.5), percentile(seconds, 0.95))
        intervals.append(
            RunInterval(
                float(start),
                end,
                len(report.arrivals[within(report.arrivals)]) / (end - start),
                max(connected, default=0),
                len(failed_at[within(failed_at)]),
                times,
            )
        )
    return intervals


def _kinds(failures: Sequence[Failure]) -> list[FailureKind]:
    kinds: dict[str, list[Failure]] = {}
    for failure in failures:
        kinds.setdefault(failure.kind, []).append(failure)
    return [FailureKind(*each) for each in sorted(kinds.items(), key=lambda each: -len(each[1]))]


def _chart(rows: Iterable[dict[str, Any]]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=list(rows)))


def _seconds_axis(intervals: Sequence[RunInterval], field: str) -> alt.X:
    return alt.X(
        f"{field}:Q",
        title="seconds of the run",
        scale=alt.Scale(domain=[0, intervals[-1].end], nice=False),
        axis=alt.Axis(grid=False, tickCount=8),
    )


def _stacked(chart: alt.Chart, order: Sequence[str], height: int) -> alt.TopLevelMixin:
    """Draw a chart for each measure, one above the other, on the same axis of time."""
    return styled(
        chart.properties(width=WIDTH, height=height)
        .facet(row=alt.Row("measure:N", sort=list(order), header=alt.Header(labelOrient="top")))
        .resolve_scale(y="independent")
    )


def _visitors(intervals: Sequence[RunInterval]) -> alt.TopLevelMixin:
    """Draw how many came and were there, and what went wrong."""
    arrivals = _over_time(intervals, "arrivals per second", lambda each: each.arrivals, NOW)
    connected = _over_time(intervals, "most connected at once", lambda each: each.connected, NOW)
    failures = _over_time(intervals, "failures", lambda each: each.failures, BEFORE)
    return styled(alt.vconcat(arrivals, connected, failures))


def _over_time(
    intervals: Sequence[RunInterval],
    title: str,
    read: Callable[[RunInterval], float],
    color: str,
) -> alt.Chart:
    rows = [{"from": each.start, "to": each.end, "value": read(each)} for each in intervals]
    top = max(read(each) for each in intervals)
    # A tick between two whole numbers of visitors would say nothing.
    axis = alt.Axis(
        values=[0, top or 1] if top <= 1 else alt.Undefined,
        tickCount=min(3, math.ceil(top)),
        labelExpr="format(datum.value, ',.3~f')",
    )
    chart: alt.Chart = (
        _chart(rows)
        .mark_rect(color=color, stroke="var(--paper)", strokeWidth=0.5)
        .encode(
            x=_seconds_axis(intervals, "from"),
            x2="to:Q",
            y=alt.Y("value:Q", title=None, axis=axis, scale=alt.Scale(domain=[0, top or 1])),
            y2=alt.datum(0),
        )
        .properties(
            width=WIDTH,
            height=80,
            title=alt.Title(title, fontSize=12, fontWeight="normal", color="var(--muted)"),
        )
    )
    return chart


def _times(intervals: Sequence[RunInterval], phases: Sequence[Phase]) -> alt.TopLevelMixin:
    """Draw how long each phase took over the run."""
    which = ("median", "95 % within")
    rows = (
        {
            "measure": PHASE_TITLES[phase],
            "at": (each.start + each.end) / 2,
            "which": name,
            "value": value,
        }
        for phase in phases
        for each in intervals
        for name, value in zip(which, each.times[phase], strict=True)
    )
    lines = _chart(rows).mark_line(
        strokeWidth=2,
        invalid="break-paths-show-domains",
        point={"size": 20, "filled": True},
    )
    return _stacked(
        lines.encode(
            x=_seconds_axis(intervals, "at"),
            y=alt.Y(
                "value:Q",
                title=None,
                axis=alt.Axis(tickCount=3, labelExpr=_DURATION),
                scale=alt.Scale(zero=True),
            ),
            color=alt.Color(
                "which:N",
                scale=alt.Scale(domain=which, range=[NOW, BEFORE]),
                legend=alt.Legend(orient="top", title=None),
            ),
            strokeDash=alt.StrokeDash(
                "which:N", scale=alt.Scale(domain=which, range=[[1, 0], [4, 3]]), legend=None
            ),
        ),
        [PHASE_TITLES[phase] for phase in phases],
        90,
    )


def _lengths(report: LoadReport, phases: Sequence[Phase]) -> alt.TopLevelMixin:
    """Draw how many of each phase took how long, on an axis of equal ratios."""
    rows: list[dict[str, Any]] = []
    for phase in phases:
        bins: dict[int, int] = {}
        for seconds in report.seconds_of(phase):
            number = math.floor(math.log10(max(seconds, _SHORTEST)) * _BINS_PER_DECADE)
            bins[number] = bins.get(number, 0) + 1
        rows += [
            {
                "measure": PHASE_TITLES[phase],
                "from": 10 ** (number / _BINS_PER_DECADE),
                "to": 10 ** ((number + 1) / _BINS_PER_DECADE),
                "value": count,
            }
            for number, count in bins.items()
        ]
    ends = [min(row["from"] for row in rows), max(row["to"] for row in rows)]
    exponents = range(math.floor(math.log10(ends[0])), math.ceil(math.log10(ends[1])) + 1)
    marks = [part * 10.0**exponent for exponent in exponents for part in (1, 2, 5)]
    bars = _chart(rows).mark_rect(color=NOW, stroke="var(--paper)", strokeWidth=0.5)
    return _stacked(
        bars.encode(
            x=alt.X(
                "from:Q",
                title=None,
                scale=alt.Scale(type="log", domain=ends, nice=False),
                axis=alt.Axis(grid=False, values=marks, labelExpr=_DURATION),
            ),
            x2="to:Q",
            y=alt.Y("value:Q", title=None, axis=alt.Axis(tickCount=3, format="d")),
            y2=alt.datum(0),
        ),
        [PHASE_TITLES[phase] for phase in phases],
        70,
    )


def _time(seconds: float | None) -> str:
    """Write a time: below a second in milliseconds."""
    if seconds is None:
        return "\N{EN DASH}"
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 0.9995 else f"{seconds:.2f} s"


def _signed(row: LedgerRow) -> str:
    """Write a difference with its sign."""
    if row.unit:
        return f"{row.difference * 1000:+.0f} ms"
    return f"{row.difference:+.0f}" if row.difference else "0"


def _speaker(line: str) -> tuple[str, str]:
    """Return who says a line of a transcript, and what."""
    return _SPEAKERS.get(line[:1], ""), line[2:]
