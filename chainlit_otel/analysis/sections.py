"""The sections of a report: each is made by one function of the answer to one question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from math import ceil, isnan, nan
from typing import Any, Literal

from chainlit_otel.analysis import charts
from chainlit_otel.analysis.source import counted
from chainlit_otel.analysis.statistics import Estimate, difference, mean, share
from chainlit_otel.analysis.tables import Periods, Row

Kind = Literal[
    "text",
    "code",
    "count",
    "share",
    "change",
    "points",
    "seconds",
    "number",
    "dollars",
    "time",
    "day",
]
"""How a column is written: `change` is relative, `points` a difference of shares."""


@dataclass(frozen=True)
class Figure:
    """A table, and the picture of it.

    Attributes:
        title: What it shows.
        columns: Name and kind of each column; the first one names the row.
        rows: Values: texts, numbers, times, estimates, or None for what is not known.
        chart: The picture; None if the table says it better.
        note: How to read it.
    """

    title: str
    columns: Sequence[tuple[str, Kind]]
    rows: Sequence[Sequence[Any]]
    chart: Any = None
    note: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        name: Of its question.
        title: Its heading.
        findings: What the operator has to know, in sentences.
        figures: What shows it.
    """

    name: str
    title: str
    findings: Sequence[str]
    figures: Sequence[Figure] = ()


Make = Callable[[list[Row], Periods], Section]

_NO_KEY = (
    "Users are not known: set user_hash_key, and records have a hash of the user who is signed in."
)

_NOT_BEFORE = "nothing to compare with in the period before"


def _of(rows: list[Row], period: str, **wanted: Any) -> list[Row]:
    return [
        row
        for row in rows
        if row["period"] == period and all(row[key] == value for key, value in wanted.items())
    ]


def _one(rows: list[Row], period: str, **wanted: Any) -> Row | None:
    found = _of(rows, period, **wanted)
    return found[0] if found else None


def _than_before(now: float | None, before: float | None) -> str:
    """Say how much more or less a figure is than in the period before."""
    if not before or now is None:
        return _NOT_BEFORE
    change = now / before - 1
    if abs(change) < 0.005:
        return "as before"
    return f"{abs(change):.0%} {'more' if change > 0 else 'less'} than before"


def _verdict(now: tuple[int, int], before: tuple[int, int], more_is: str, less_is: str) -> str:
    """Say whether a share differs from the one before by more than chance."""
    estimate = difference(*now, *before)
    if isnan(estimate.value):
        return "nothing to compare with"
    if estimate.low > 0:
        return more_is
    return less_is if estimate.high < 0 else "within chance"


def _share_and_before(
    says: str, now: tuple[int, int], before: tuple[int, int], more_is: str, less_is: str
) -> str:
    """Say what a share is and was, and whether it differs by more than chance.

    Args:
        says: Of what it is the share.
        now: The count and all, in this period.
        before: The same, in the period before.
        more_is: Verdict on more, such as `better`.
        less_is: Verdict on less.
    """
    if not before[1]:
        return f"{_percent(share(*now))} {says}; {_NOT_BEFORE}."
    share_now, share_before = _percents(share(*now), share(*before))
    verdict = _verdict(now, before, f"{more_is} than before", f"{less_is} than before")
    return f"{share_now} {says}; {share_before} before: {verdict}."


def _percent(estimate: Estimate) -> str:
    return "unknown" if isnan(estimate.value) else f"{estimate.value:.1%}"


def _percents(one: Estimate, other: Estimate) -> tuple[str, str]:
    """Write two shares with as many digits as it takes to tell them apart, three at most."""
    if isnan(one.value) or isnan(other.value):
        return _percent(one), _percent(other)
    for digits in (1, 2, 3):
        texts = f"{one.value:.{digits}%}", f"{other.value:.{digits}%}"
        if texts[0] != texts[1]:
            return texts
    return _percent(one), _percent(other)


def _span(seconds: float | None) -> str:
    """Say how long something took."""
    if seconds is None or isnan(seconds):
        return "unknown"
    if seconds < 120:
        return f"{seconds:.3g} s"
    if seconds < 7200:
        return f"{seconds / 60:.3g} min"
    return f"{seconds / 3600:.3g} h"


def dollars(amount: float) -> str:
    """Write an amount of US dollars; of less than ten cents, what there is of it."""
    return f"${amount:,.2f}" if amount >= 0.1 or not amount else f"${amount:.2g}"


def overview(rows: list[Row], periods: Periods) -> Section:
    """Return the figures of both periods side by side."""
    now, before = _one(rows, "this"), _one(rows, "before")
    title = "At a glance"
    if now is None:
        return Section("overview", title, ["No session started in this period."])
    then = before or dict.fromkeys(now, 0)
    findings = [
        f"{counted(now['sessions'], 'session')} with {counted(now['turns'], 'turn')}; "
        f"{_than_before(now['sessions'], then['sessions'])}."
    ]
    if now["turns"]:
        failed = (now["failed"], now["turns"]), (then["failed"], then["turns"])
        findings.append(_share_and_before("of the turns failed", *failed, "worse", "better"))
    names: list[tuple[str, str, Kind]] = [
        ("Sessions", "sessions", "count"),
        ("of these still open", "open_sessions", "count"),
        ("of these by HTTP (bots, APIs)", "http_sessions", "count"),
        ("Users that are known", "users", "count"),
        ("Reconnects", "reconnects", "count"),
        ("Turns", "turns", "count"),
        ("Turns answered", "answered", "count"),
        ("Turns that failed", "failed", "count"),
        ("Turns not seen in full", "unseen", "count"),
    ]
    table = [
        [name, now[key], None if before is None else before[key], _change(now, before, key)]
        for name, key, _ in names
    ]
    columns: list[tuple[str, Kind]] = [
        ("figure", "text"),
        ("this period", "count"),
        ("the period before", "count"),
        ("change", "change"),
    ]
    return Section("overview", title, findings, [Figure("Both periods", columns, table)])


def _change(now: Row, before: Row | None, key: str) -> float | None:
    return None if before is None or not before[key] else now[key] / before[key] - 1


def days(rows: list[Row], periods: Periods) -> Section:
    """Return sessions, users and turns by day, over those of the period before."""
    length = periods.until - periods.since
    measures = ["sessions", "users", "turns"]
    drawn, table = [], []
    if not any(row["users"] for row in rows):
        measures.remove("users")
    found = {(row["period"], row["day"]): row for row in rows}
    first, last = periods.since.date(), (periods.until - timedelta(microseconds=1)).date()
    day = first
    while day <= last:
        now = found.get(("this", day), {})
        then = found.get(("before", day - length), {}) if length.days else {}
        table.append([day, *(value for m in measures for value in (now.get(m, 0), then.get(m, 0)))])
        for measure in measures:
            for period, row in (("this", now), ("before", then)):
                drawn.append(
                    {
                        "period": period,
                        "date": day.isoformat(),
                        "measure": measure,
                        "value": row.get(measure, 0),
                    }
                )
        day += timedelta(days=1)
    columns: list[tuple[str, Kind]] = [("day", "day")]
    for measure in measures:
        columns += [(measure, "count"), (f"{measure} before", "count")]
    findings = []
    if table:
        busiest = max(table, key=lambda row: row[1])
        findings.append(
            f"The busiest day was {busiest[0]:%A, %d %B}, with {counted(busiest[1], 'session')}."
            if busiest[1]
            else "No session started in this period."
        )
    if "users" not in measures:
        findings.append(_NO_KEY)
    chart = charts.lines(drawn, measures)
    note = "Days are in UTC. Beside each day is the one that is as far into the period before."
    return Section("days", "Day by day", findings, [Figure("By day", columns, table, chart, note)])


_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def hours(rows: list[Row], periods: Periods) -> Section:
    """Return sessions by hour and weekday."""
    count = {(row["period"], row["weekday"], row["hour"]): row["sessions"] for row in rows}
    drawn = [
        {"weekday": name, "hour": hour, "value": count.get(("this", number, hour), 0)}
        for number, name in enumerate(_WEEKDAYS, 1)
        for hour in range(24)
    ]
    table = [
        [
            f"{hour:02}:00",
            *(count.get(("this", day, hour), 0) for day in range(1, 8)),
            sum(count.get(("this", day, hour), 0) for day in range(1, 8)),
            sum(count.get(("before", day, hour), 0) for day in range(1, 8)),
        ]
        for hour in range(24)
    ]
    top = max(drawn, key=lambda cell: int(str(cell["value"])))
    columns: list[tuple[str, Kind]] = [("hour", "text")]
    columns += [(name, "count") for name in (*_WEEKDAYS, "all", "all before")]
    greatest = int(str(top["value"]))
    findings = [
        f"Most sessions start on {top['weekday']}s between {top['hour']}:00 and "
        f"{int(str(top['hour'])) + 1}:00 UTC."
        if greatest
        else "No session started in this period."
    ]
    chart = charts.heat(drawn, "hour", "weekday", "hour of the day (UTC)", "", greatest)
    figure = Figure("Sessions by hour and weekday", columns, table, chart)
    return Section("hours", "Hour by weekday", findings, [figure])


_DIMENSIONS = (
    ("client", "By client"),
    ("profile", "By chat profile"),
    ("origin", "By origin: new, or a stored thread that goes on"),
    ("type", "By type of session"),
)


def audience(rows: list[Row], periods: Periods) -> Section:
    """Return clients, profiles, origins and types."""
    figures = []
    columns: list[tuple[str, Kind]] = [
        ("name", "text"),
        ("sessions", "count"),
        ("share", "share"),
        ("sessions before", "count"),
        ("share before", "share"),
        ("turns", "count"),
        ("turns before", "count"),
    ]
    for dimension, title in _DIMENSIONS:
        now, before = (
            _of(rows, "this", dimension=dimension),
            _of(rows, "before", dimension=dimension),
        )
        then = {row["name"]: row for row in before}
        all_now, all_then = sum(r["sessions"] for r in now), sum(r["sessions"] for r in before)
        names = dict.fromkeys(row["name"] for row in (*now, *before))
        found = {row["name"]: row for row in now}
        table, drawn = [], []
        for name in names:
            one, other = found.get(name, {}), then.get(name, {})
            sessions, sessions_then = one.get("sessions", 0), other.get("sessions", 0)
            shares = share(sessions, all_now), share(sessions_then, all_then)
            shown = name or "(none)"
            table.append(
                [
                    *(shown, sessions, shares[0], sessions_then, shares[1]),
                    *(one.get("turns", 0), other.get("turns", 0)),
                ]
            )
            for period, value in (("this", shares[0].value), ("before", shares[1].value)):
                drawn.append({"period": period, "name": shown, "value": value})
        if table:
            chart = None
            if len(table) > 1:
                order = [str(row[0]) for row in table]
                chart = charts.bars(drawn, order, "share of sessions", "%")
            figures.append(Figure(title, columns, table, chart))
    return Section("audience", "Who comes, and from where", [], figures)


QUANTILES = ((0.5, "median"), (0.9, "90%"), (0.99, "99%"))


def quantile(curve: list[Row], q: float) -> Estimate:
    """Return a quantile of a survival curve with the interval of Brookmeyer and Crowley.

    R. Brookmeyer and J. Crowley, A confidence interval for the median survival time, Biometrics 38
    (1982): the times at which the limits of the curve reach what it reaches at the quantile.
    """

    def reached(column: str) -> float:
        below = (r["duration"] for r in curve if r[column] is not None and r[column] <= 1 - q)
        return next(below, nan)

    return Estimate(reached("survival"), reached("lower_limit"), reached("upper_limit"))


def survival(rows: list[Row], periods: Periods) -> Section:
    """Return how long sessions last, those that have not ended as well."""
    title = "How long sessions last"
    now, before = _of(rows, "this"), _of(rows, "before")
    if not now:
        return Section("survival", title, ["No websocket session has ended in this period."])
    quantiles = {name: (quantile(now, q), quantile(before, q)) for q, name in QUANTILES}
    table = [[name, *estimates] for name, estimates in quantiles.items()]
    columns: list[tuple[str, Kind]] = [
        ("quantile", "text"),
        ("this period", "seconds"),
        ("the period before", "seconds"),
    ]
    middle, then = quantiles["median"]
    if isnan(middle.value):
        half = "Half of the sessions last longer than can be said yet"
    else:
        half = f"Half of the sessions last longer than {_span(middle.value)}"
    if isnan(middle.value) or isnan(then.value):
        findings = [f"{half}; {_NOT_BEFORE}."]
    elif isnan(middle.low) or isnan(then.low):
        findings = [f"{half}; before, {_span(then.value)}. They are too few to be compared."]
    else:
        apart = middle.low > then.high or middle.high < then.low
        says = "It has changed." if apart else "The intervals of the two meet: it may be chance."
        findings = [f"{half}; before, {_span(then.value)}. {says}"]
    shown = [row for row in rows if row["duration"] > 0]
    shortest = max(1.0, min((row["duration"] for row in shown), default=1.0))
    chart = charts.survival([row for row in shown if row["duration"] >= shortest], shortest)
    note = (
        "Kaplan-Meier: a session that has not ended has lasted at least as long as is known. "
        "Intervals at 95%: Greenwood's variance on the log-log scale, for the quantiles after "
        "Brookmeyer and Crowley."
    )
    points: list[tuple[str, Kind]] = [
        ("longer than", "seconds"),
        ("share of sessions", "share"),
        ("sessions at risk", "count"),
    ]
    curve = [
        [
            row["duration"],
            Estimate(row["survival"], _known(row["lower_limit"]), _known(row["upper_limit"])),
            row["at_risk"],
        ]
        for row in _thinned(now)
    ]
    return Section(
        "survival",
        title,
        findings,
        [
            Figure("Median and long sessions", columns, table, None, note),
            Figure("Share of sessions that last longer", points, curve, chart),
        ],
    )


def _known(value: float | None) -> float:
    return nan if value is None else value


def _thinned(curve: list[Row]) -> list[Row]:
    """Return about twenty points of a curve, the first after each step of five percent."""
    kept, level = [], 21
    for row in curve:
        step = ceil(row["survival"] * 20)
        if step < level:
            kept.append(row)
            level = step
    return kept


def engagement(rows: list[Row], periods: Periods) -> Section:
    """Return turns per session and bounces."""
    title = "Turns in a session"
    totals = {p: sum(r["sessions"] for r in _of(rows, p)) for p in ("this", "before")}
    if not totals["this"]:
        return Section("engagement", title, ["No websocket session has ended in this period."])
    silent = {p: sum(r["sessions"] for r in _of(rows, p, turns=0)) for p in totals}
    turns = {p: sum(r["all_turns"] for r in _of(rows, p)) for p in totals}
    bounced = (silent["this"], totals["this"]), (silent["before"], totals["before"])
    findings = [
        _share_and_before(
            "of the sessions bounced: nobody wrote anything", *bounced, "worse", "better"
        ),
        f"A session had {turns['this'] / totals['this']:.3g} turns on average"
        + (f", {turns['before'] / totals['before']:.3g} before." if totals["before"] else "."),
    ]
    table, drawn = [], []
    for number in sorted({row["turns"] for row in rows}):
        name = f"{number}" if number < 20 else "20 and more"
        line: list[Any] = [name]
        for period in ("this", "before"):
            row = _one(rows, period, turns=number)
            count = 0 if row is None else row["sessions"]
            line += [count, share(count, totals[period])]
            drawn.append(
                {"period": period, "name": name, "value": share(count, totals[period]).value}
            )
        table.append(line)
    columns: list[tuple[str, Kind]] = [
        ("turns", "text"),
        ("sessions", "count"),
        ("share", "share"),
        ("sessions before", "count"),
        ("share before", "share"),
    ]
    chart = charts.bars(drawn, [str(row[0]) for row in table], "share of sessions", "%")
    figure = Figure("Sessions by their number of turns", columns, table, chart)
    return Section("engagement", title, findings, [figure])


_STEPS = (
    ("opened", "opened the chat", ""),
    ("wrote", "wrote", "opened"),
    ("answered", "was answered", "wrote"),
    ("wrote_again", "wrote again", "answered"),
    ("came_back", "came back within a week", "known"),
)


def funnel(rows: list[Row], periods: Periods) -> Section:
    """Return how far sessions come."""
    title = "The way through"
    now, before = _one(rows, "this"), _one(rows, "before")
    if now is None:
        return Section("funnel", title, ["No websocket session started in this period."])
    nothing = dict.fromkeys(now, 0)
    then = before or nothing
    table, drawn = [], []
    for key, name, of in _STEPS:
        if of == "known" and not now["known"]:
            continue
        line: list[Any] = [name]
        for period, row in (("this", now), ("before", then)):
            line += [row[key], share(row[key], row[of]) if of else None]
            drawn.append(
                {"period": period, "name": name, "value": share(row[key], row[of or key]).value}
            )
        table.append(line)
    columns: list[tuple[str, Kind]] = [
        ("step", "text"),
        ("sessions", "count"),
        ("of the step before", "share"),
        ("sessions before", "count"),
        ("of the step before, before", "share"),
    ]
    losses = [(1 - line[2].value, line[0]) for line in table[1:4] if not isnan(line[2].value)]
    findings = []
    lost, step = max(losses, default=(0.0, ""))
    if lost > 0:
        findings.append(f"Most are lost at “{step}”: {lost:.0%} of those that came to it.")
    note = ""
    if now["known"]:
        note = (
            f"Who came back is known of {counted(now['known'], 'session')} that wrote again: those "
            "of users with a hash that started a week ago or earlier."
        )
    else:
        findings.append(
            "Who came back is not known: it takes user_hash_key, and sessions that are a week old."
        )
    chart = charts.bars(drawn, [s[1] for s in _STEPS], "share of the step before", "%")
    return Section("funnel", title, findings, [Figure("Steps", columns, table, chart, note)])


_WAITS = {
    0: "below 0.5 s",
    1: "0.5 to 1 s",
    2: "1 to 2 s",
    3: "2 to 4 s",
    4: "4 to 8 s",
    5: "8 to 16 s",
    6: "16 s and more",
    99: "no token at all",
}


def leaving(rows: list[Row], periods: Periods) -> Section:
    """Return after which turn users leave, and after which time to the first token."""
    figures, findings = [], []
    for dimension, title, first in (
        ("first_token", "Left after a turn, by its time to the first token", "first token after"),
        ("turn", "Left after a turn, by its number", "turn"),
    ):
        table, drawn = [], []
        for position in sorted({r["position"] for r in rows if r["dimension"] == dimension}):
            name = _WAITS[position] if first != "turn" else str(position)
            name = "10 and later" if first == "turn" and position == 10 else name
            line: list[Any] = [name]
            for period in ("this", "before"):
                row = _one(rows, period, dimension=dimension, position=position)
                part, whole = (0, 0) if row is None else (row["last_turns"], row["turns"])
                estimate = share(part, whole)
                line += [whole, estimate]
                drawn.append({"period": period, "name": name, **estimate.known()})
            table.append(line)
        columns: list[tuple[str, Kind]] = [
            (first, "text"),
            ("turns", "count"),
            ("left after it", "share"),
            ("turns before", "count"),
            ("left after it before", "share"),
        ]
        if table:
            order = [str(line[0]) for line in table]
            figures.append(
                Figure(
                    title,
                    columns,
                    table,
                    charts.dots(drawn, order, "share of turns after which the user left", "%"),
                    "Sessions that are open, or that the server ended, are left out. The bars are "
                    "Wilson's intervals at 95%.",
                )
            )
    waits = {r["position"]: r for r in _of(rows, "this", dimension="first_token")}
    slow, fast = _sums(waits, (4, 5, 6)), _sums(waits, (0, 1, 2))
    if slow[1] and fast[1]:
        apart = difference(*slow, *fast)
        says = (
            "slow answers cost users"
            if apart.low > 0
            else "slow answers go with staying"
            if apart.high < 0
            else "within chance"
        )
        findings.append(
            f"After a first token that took 4 s or more, {_percent(share(*slow))} left; below 2 s, "
            f"{_percent(share(*fast))}. The difference is {apart.value * 100:.1f} points "
            f"({apart.low * 100:.1f} to {apart.high * 100:.1f}): {says}."
        )
    elif not figures:
        findings.append("No session with turns has ended in this period.")
    return Section("leaving", "Where users leave", findings, figures)


def _sums(rows: dict[int, Row], positions: Sequence[int]) -> tuple[int, int]:
    found = [rows[position] for position in positions if position in rows]
    return sum(r["last_turns"] for r in found), sum(r["turns"] for r in found)


def users(rows: list[Row], periods: Periods) -> Section:
    """Return how often users were there."""
    title = "Users who come back"
    total = {p: sum(r["users"] for r in _of(rows, p)) for p in ("this", "before")}
    if not total["this"]:
        return Section("users", title, [_NO_KEY])
    often = {p: sum(r["users"] for r in _of(rows, p) if r["days"] > 1) for p in total}
    back = sum(r["seen_before"] for r in _of(rows, "this"))
    shares = (often["this"], total["this"]), (often["before"], total["before"])
    findings = [
        f"{counted(total['this'], 'user')}, {_than_before(total['this'], total['before'])}"
        + (f"; {back:,} of them were there in the period before." if total["before"] else "."),
        _share_and_before("were there on more than one day", *shares, "better", "worse"),
    ]
    table, drawn = [], []
    for number in sorted({row["days"] for row in rows}):
        name = f"{number}" if number < 7 else "7 and more"
        line: list[Any] = [name]
        for period in ("this", "before"):
            row = _one(rows, period, days=number)
            count = 0 if row is None else row["users"]
            line += [count, share(count, total[period])]
            drawn.append(
                {"period": period, "name": name, "value": share(count, total[period]).value}
            )
        table.append(line)
    columns: list[tuple[str, Kind]] = [
        ("days", "text"),
        ("users", "count"),
        ("share", "share"),
        ("users before", "count"),
        ("share before", "share"),
    ]
    chart = charts.bars(drawn, [str(line[0]) for line in table], "share of users", "%")
    figure = Figure("Users by the number of days on which they were there", columns, table, chart)
    return Section("users", title, findings, [figure])


def retention(rows: list[Row], periods: Periods) -> Section:
    """Return which share of the users of a week was there in each week after it."""
    title = "Retention by week"
    if not rows:
        return Section(
            "retention",
            title,
            ["It takes users with a hash (user_hash_key) and whole weeks from Monday to Monday."],
        )
    size = {row["cohort"]: row["users"] for row in rows if row["weeks_later"] == 0}
    found = {(row["cohort"], row["weeks_later"]): row["users"] for row in rows}
    newest = max(size)
    table, drawn = [], []
    most = max(row["weeks_later"] for row in rows)
    for cohort, count in sorted(size.items()):
        line: list[Any] = [cohort, count]
        for later in range(1, most + 1):
            if cohort + timedelta(weeks=later) > newest:
                line.append(None)
                continue
            estimate = share(found.get((cohort, later), 0), count)
            line.append(estimate)
            drawn.append({"week": f"{cohort:%d %b}", "later": f"+{later}", "value": estimate.value})
        table.append(line)
    columns: list[tuple[str, Kind]] = [("first week from", "day"), ("users", "count")]
    columns += [(f"week +{later}", "share") for later in range(1, most + 1)]
    first = [(found.get((c, 1), 0), n) for c, n in size.items() if c + timedelta(weeks=1) <= newest]
    findings = []
    if first:
        all_first = share(sum(part for part, _ in first), sum(whole for _, whole in first))
        findings.append(
            f"{_percent(all_first)} of new users were there in the week after their first."
        )
    chart = None
    if drawn:
        top = max(float(str(cell["value"])) for cell in drawn)
        title_of_x = "weeks after the first, by first week"
        chart = charts.heat(drawn, "later", "week", title_of_x, ".0%", top)
    note = "Users are new if they were not there earlier in the two periods of this report."
    return Section("retention", title, findings, [Figure("Cohorts", columns, table, chart, note)])


_MEASURES = (
    ("answered", "answered", "turns"),
    ("failed", "failed", "turns"),
    ("stopped", "stopped by the user", "turns"),
    ("asked_again", "asked again (edited)", "turns"),
    ("unseen", "not seen in full", "turns"),
    ("negative", "bad feedback, of all feedback", "feedback"),
)
_GOOD = {"answered"}


def quality(rows: list[Row], periods: Periods) -> Section:
    """Return how turns went, over all and by profile."""
    title = "Were the answers any good"
    for row in rows:
        row["feedback"] = row["positive"] + row["negative"]
    now, before = _one(rows, "this", dimension="all"), _one(rows, "before", dimension="all")
    if now is None or not now["turns"]:
        return Section("quality", title, ["There was no turn in this period."])
    then = before or dict.fromkeys(now, 0)
    table, drawn, findings = [], [], []
    for key, name, of in _MEASURES:
        parts = (now[key], now[of]), (then[key], then[of])
        estimates = share(*parts[0]), share(*parts[1])
        words = ("better", "worse") if key in _GOOD else ("worse", "better")
        verdict = _verdict(*parts, *words)
        table.append([name, now[key], estimates[0], then[key], estimates[1], verdict])
        for period, estimate in zip(("this", "before"), estimates, strict=True):
            if key not in _GOOD:
                drawn.append({"period": period, "name": name, **estimate.known()})
        if verdict in ("better", "worse"):
            share_now, share_before = _percents(*estimates)
            findings.append(
                f"{name[0].upper()}{name[1:]}: {share_now}, and {share_before} before. "
                f"That is {verdict}."
            )
    if not then["turns"]:
        findings.insert(0, f"There is {_NOT_BEFORE}.")
    elif not findings:
        findings.append("Nothing differs from the period before by more than chance.")
    if now["first_token_median"] is not None:
        says = (
            f"The first token came after {_span(now['first_token_median'])} in the median and "
            f"within {_span(now['first_token_p99'])} in 99 of 100 turns"
        )
        if then["first_token_median"]:
            says += (
                f"; before, {_span(then['first_token_median'])} and "
                f"{_span(then['first_token_p99'])}"
            )
        findings.append(f"{says}.")
    columns: list[tuple[str, Kind]] = [
        ("turns", "text"),
        ("number", "count"),
        ("share", "share"),
        ("number before", "count"),
        ("share before", "share"),
        ("compared", "text"),
    ]
    order = [name for key, name, _ in _MEASURES if key not in _GOOD]
    chart = charts.dots(drawn, order, "share", "%")
    note = (
        "Better and worse by Newcombe's interval of the difference at 95%; else it may be chance."
    )
    by_profile: list[list[Any]] = []
    for row in _of(rows, "this", dimension="profile"):
        other = _one(rows, "before", dimension="profile", name=row["name"]) or then
        by_profile.append(
            [
                row["name"] or "(none)",
                row["turns"],
                share(row["failed"], row["turns"]),
                share(other["failed"], other["turns"]),
                share(row["stopped"], row["turns"]),
                share(row["unseen"], row["turns"]),
                share(row["negative"], row["feedback"]),
                row["first_token_median"],
            ]
        )
    profiles: list[tuple[str, Kind]] = [
        ("chat profile", "text"),
        ("turns", "count"),
        ("failed", "share"),
        ("failed before", "share"),
        ("stopped", "share"),
        ("not seen in full", "share"),
        ("bad feedback", "share"),
        ("median first token", "seconds"),
    ]
    return Section(
        "quality",
        title,
        findings,
        [
            Figure("How turns went", columns, table, chart, note),
            Figure("How turns went, by chat profile", profiles, by_profile),
        ],
    )


def errors(rows: list[Row], periods: Periods) -> Section:
    """Return what made turns fail."""
    title = "What made turns fail"
    if not rows:
        return Section("errors", title, ["No turn failed in either period."])
    then = {(row["error"], row["callback"]): row for row in _of(rows, "before")}
    table = []
    for row in _of(rows, "this"):
        other = then.pop((row["error"], row["callback"]), {})
        table.append(
            [
                row["error"] or "(unknown)",
                row["callback"] or "(unknown)",
                row["turns"],
                other.get("turns", 0),
                row["sessions"],
                "" if other else "new",
            ]
        )
    table += [
        [row["error"] or "(unknown)", row["callback"] or "(unknown)", 0, row["turns"], 0, "gone"]
        for row in then.values()
    ]
    new = [str(line[0]) for line in table if line[5] == "new"]
    columns: list[tuple[str, Kind]] = [
        ("exception", "code"),
        ("callback", "code"),
        ("turns", "count"),
        ("turns before", "count"),
        ("sessions", "count"),
        ("compared", "text"),
    ]
    if not any(row["period"] == "before" for row in rows):
        findings = [f"No turn failed in the period before; in this one, of {', '.join(new)}."]
    else:
        findings = [f"New in this period: {', '.join(new)}." if new else "No new kind of error."]
    return Section("errors", title, findings, [Figure("Errors", columns, table)])


_COMPARED = (
    ("failed", "failed", "turns"),
    ("stopped", "stopped", "turns"),
    ("asked_again", "asked again", "turns"),
    ("unseen", "not seen in full", "turns"),
    ("negative", "bad feedback", "feedback"),
)


def versions(rows: list[Row], periods: Periods) -> Section:
    """Return each version of the service against the one before it."""
    title = "Before and after a release"
    if len(rows) < 2:
        only = rows[0]["version"] if rows else ""
        says = f"Only one version was there: {only or 'without a name (set service.version)'}."
        return Section("versions", title, [says if rows else "There was no turn."])
    table, findings = [], []
    for old, new in pairwise(rows):
        for row in (old, new):
            row["feedback"] = row["positive"] + row["negative"]
        for key, name, of in _COMPARED:
            parts = (new[key], new[of]), (old[key], old[of])
            apart = difference(*parts[0], *parts[1])
            verdict = _verdict(*parts, "worse", "better")
            table.append(
                [
                    f"{old['version'] or '(none)'} → {new['version'] or '(none)'}",
                    name,
                    share(*parts[1]),
                    share(*parts[0]),
                    apart,
                    verdict,
                ]
            )
            if verdict in ("better", "worse"):
                after, before = _percents(share(*parts[0]), share(*parts[1]))
                findings.append(
                    f"{new['version']}: {name} {after}, with {old['version']} {before}. "
                    f"That is {verdict}."
                )
    if not findings:
        findings.append("No version differs from the one before it by more than chance.")
    columns: list[tuple[str, Kind]] = [
        ("versions", "text"),
        ("turns", "text"),
        ("before", "share"),
        ("after", "share"),
        ("difference in points", "points"),
        ("compared", "text"),
    ]
    note = (
        "All of both periods, in the order in which versions were first seen. Newcombe's interval "
        "of the difference at 95%; of twenty comparisons, one differs by chance."
    )
    return Section("versions", title, findings, [Figure("Releases", columns, table, None, note)])


def tools(rows: list[Row], periods: Periods) -> Section:
    """Return the tools that fail, and those that are slow."""
    title = "Tools"
    now = _of(rows, "this")
    if not now:
        return Section("tools", title, ["No tool was called in this period."])
    table, drawn, findings = [], [], []
    for row in now:
        other = _one(rows, "before", name=row["name"]) or {"failed": 0, "calls": 0, "p99": None}
        parts = (row["failed"], row["calls"]), (other["failed"], other["calls"])
        verdict = _verdict(*parts, "worse", "better")
        table.append(
            [
                *(row["name"], row["calls"], share(*parts[0]), share(*parts[1]), verdict),
                *(row["median"], row["p99"], other["p99"], row["total"]),
            ]
        )
        for period, estimate in (("this", share(*parts[0])), ("before", share(*parts[1]))):
            drawn.append({"period": period, "name": row["name"], **estimate.known()})
        if verdict == "worse":
            findings.append(
                f"{row['name']} fails more often: {_percent(share(*parts[0]))}, "
                f"{_percent(share(*parts[1]))} before."
            )
    fails = max(table, key=lambda line: line[2].value)
    findings.insert(
        0,
        f"{fails[0]} fails most often, {_percent(fails[2])} of its calls."
        if fails[2].value
        else "No call of a tool failed.",
    )
    findings.insert(1, f"Most time goes to {table[0][0]}: {_span(table[0][8])} in all.")
    columns: list[tuple[str, Kind]] = [
        ("tool", "code"),
        ("calls", "count"),
        ("failed", "share"),
        ("failed before", "share"),
        ("compared", "text"),
        ("median", "seconds"),
        ("99%", "seconds"),
        ("99% before", "seconds"),
        ("in all", "seconds"),
    ]
    shown = [line[0] for line in table][:20]
    chart = charts.dots([d for d in drawn if d["name"] in shown], shown, "share that failed", "%")
    return Section("tools", title, findings, [Figure("Calls of tools", columns, table, chart)])


def scores(rows: list[Row], periods: Periods) -> Section:
    """Return the scores that the app has given."""
    title = "Scores"
    now = _of(rows, "this")
    if not now:
        return Section("scores", title, ["The app gave no score in this period."])
    table = []
    for row in now:
        other = _one(rows, "before", name=row["name"])
        estimate = mean(row["mean"], row["deviation"], row["scores"])
        then = other and mean(other["mean"], other["deviation"], other["scores"])
        table.append([row["name"], row["scores"], estimate, other and other["scores"], then])
    columns: list[tuple[str, Kind]] = [
        ("score", "text"),
        ("number", "count"),
        ("mean", "number"),
        ("number before", "count"),
        ("mean before", "number"),
    ]
    return Section("scores", title, [], [Figure("Scores by name", columns, table)])


_BECAME_OF_NO_USE = ("failed", "stopped", "not seen in full")


def cost(rows: list[Row], periods: Periods) -> Section:
    """Return what turns used of models, and what that cost."""
    title = "Cost"
    now, then = _one(rows, "this", dimension="all"), _one(rows, "before", dimension="all")
    if now is None or not now["calls"]:
        return Section("cost", title, ["No model call is known of in this period."])
    before = then if then is not None and then["calls"] else None
    tokens = f"{now['input']:,} tokens were sent, and {now['output']:,} answered."
    findings = [f"{counted(now['calls'], 'model call')}; {tokens}"]
    if _known_cost(now) is not None:
        change = _than_before(now["cost"], None if before is None else before["cost"])
        findings = [
            f"{dollars(now['cost'])} for {counted(now['calls'], 'model call')}, {change}; {tokens}",
            f"A turn with model calls cost {dollars(now['cost'] / now['with_calls'])} in the mean"
            + (f", {dollars(before['cost'] / before['with_calls'])} before." if before else "."),
        ]
    spent = {row["name"]: row["cost"] for row in _of(rows, "this", dimension="became")}
    wasted = {name: spent[name] for name in _BECAME_OF_NO_USE if spent.get(name)}
    if wasted:
        parts = ", ".join(f"{dollars(amount)} {name}" for name, amount in wasted.items())
        findings.append(
            f"{sum(wasted.values()) / now['cost']:.0%} of it went to turns that were of no use: "
            f"{parts}."
        )
    if unknown := now["uncounted"] + now["unpriced"]:
        findings.append(
            f"What {counted(unknown, 'model call')} cost is not known ({now['uncounted']:,} "
            f"without tokens, {now['unpriced']:,} without a price): the sum is too low."
        )
    return Section(
        "cost",
        title,
        findings,
        [
            _spent_by(rows, now, "model", "Model calls and their cost, by model"),
            _spent_by(rows, now, "profile", "Cost by chat profile"),
            _spent_by(rows, now, "became", "Cost by what became of the turn"),
        ],
    )


def _known_cost(row: Row) -> float | None:
    """Return what model calls have cost; None if nothing is known of any, which is not nothing."""
    is_known = row["cost"] or row["calls"] > row["uncounted"] + row["unpriced"]
    return row["cost"] if is_known else None


def _spent_by(rows: list[Row], all_of_it: Row, dimension: str, title: str) -> Figure:
    table = []
    for row in _of(rows, "this", dimension=dimension):
        other = _one(rows, "before", dimension=dimension, name=row["name"])
        table.append(
            [
                *(row["name"] or "(none)", row["turns"], row["calls"], row["uncounted"]),
                *(row["unpriced"], row["input"], row["output"], _known_cost(row)),
                row["cost"] / all_of_it["cost"] if all_of_it["cost"] else None,
                other and _known_cost(other),
            ]
        )
    columns: list[tuple[str, Kind]] = [
        ({"profile": "chat profile", "became": "turns that"}.get(dimension, dimension), "text"),
        ("turns", "count"),
        ("model calls", "count"),
        ("without tokens", "count"),
        ("without a price", "count"),
        ("input tokens", "count"),
        ("output tokens", "count"),
        ("cost", "dollars"),
        ("of all", "share"),
        ("cost before", "dollars"),
    ]
    return Figure(title, columns, table)


def trouble(rows: list[Row], periods: Periods) -> Section:
    """Return the sessions with the most trouble."""
    title = "Sessions worth reading"
    if not rows:
        return Section("trouble", title, ["No session of this period had any trouble."])
    columns: list[tuple[str, Kind]] = [
        ("session", "code"),
        ("started", "time"),
        ("lasted", "seconds"),
        ("turns", "count"),
        ("failed", "count"),
        ("stopped", "count"),
        ("items never seen", "count"),
        ("bad feedback", "count"),
        ("thread", "code"),
        ("trace", "code"),
        ("user", "code"),
    ]
    table = [
        [
            *(row["session_id"], row["start"], row["duration"], row["turns"], row["failed"]),
            *(row["stopped"], row["undelivered"], row["negative"], row["conversation"]),
            *(row["trace_id"], row["user_hash"]),
        ]
        for row in rows
    ]
    note = (
        "Three points for each turn that failed and each bad feedback, one for each turn that was "
        "stopped, and one if any item (a message, step, chunk, file or question) was never seen. "
        "The trace is that of the first such turn."
    )
    return Section("trouble", title, [], [Figure("The worst ten", columns, table, None, note)])


SECTIONS: tuple[Make, ...] = (
    *(overview, days, hours, audience, survival, engagement, funnel, leaving, users, retention),
    *(quality, errors, versions, tools, cost, scores, trouble),
)
"""All sections in their order; the name of each is that of its question."""


def day_of(value: date) -> str:
    """Return a day as a report writes it."""
    return f"{value:%a %d %b %Y}"
