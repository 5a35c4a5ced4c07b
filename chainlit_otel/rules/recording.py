"""Recording rules: expressions that several panels and alerts use.

They are named `level:metric:operation`. The level `job` is one deployment: all replicas of a job,
in their namespace, if there is one. Windows in names are those of scale 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from chainlit_otel import catalog
from chainlit_otel.catalog import Metric
from chainlit_otel.promql import Part, Where, duration, select
from chainlit_otel.rules.objectives import PERIOD, Objective, objectives, over
from chainlit_otel.rules.windows import DAY, HOUR, MINUTE, WEEK, Windows
from chainlit_otel.thresholds import Thresholds

BY_JOB = "by (namespace, job)"

_DURATIONS = "job:chainlit_session_duration_seconds_sum:rate5m"
_TIME = "job:chainlit_session_time_seconds:rate5m"
_ENDS = "job:chainlit_session_ends:rate5m"
_LEAVES = "job:chainlit_session_left:rate5m"

_WEBSOCKET: Where = {catalog.SESSION_TYPE: "websocket"}
_CONNECTED: Where = {**_WEBSOCKET, catalog.SESSION_STATE: "connected"}
_DISCONNECTED: Where = {**_WEBSOCKET, catalog.SESSION_STATE: "disconnected"}
BUDGET_INTERVAL = 2 * MINUTE
_PEAK_WINDOWS = (15.0, MINUTE, 5 * MINUTE)

STARTS = "job:chainlit_session_starts:rate5m"
STARTS_USUAL = "job:chainlit_session_starts:usual"
STARTS_BY_ORIGIN = "job_origin:chainlit_session_starts:rate5m"
RECONNECTS = "job:chainlit_session_reconnects:rate5m"
CONNECTED = "job:chainlit_session_active:sum"
CLOSED = "job:chainlit_connection_closed:ratio2m"
PEAK = "job:chainlit_session_peak:sum"
PEAK_AT_LEAST = "job:chainlit_session_active:max1h"
PEAK_AT_MOST = "job:chainlit_session_peak:max1h"
MEAN_COMPLETED = "job:chainlit_session_duration_seconds:mean1h"
MEAN_UNBIASED = "job:chainlit_session_time_seconds:mean1h"
COST = "job:chainlit_turn_cost:increase3h"
AGE = "job:process_age_seconds:min"
REPLACED = "job:process_replaced:ratio"
HELD = "job_instance:chainlit_session_active:held"
DISPLACED = "job:chainlit_session_displaced:sum7m"


@dataclass(frozen=True)
class Recording:
    """A recording rule.

    Attributes:
        name: Name of the series.
        expr: What it is.
    """

    name: str
    expr: str


def recordings(limits: Thresholds, window: Windows) -> list[Recording]:
    """Return the recording rules, each after those that it uses."""
    return [
        *_sessions(window),
        *_fleet_peak(window),
        *_mean_durations(window),
        Recording(AGE, f"min {BY_JOB} ({_AGES})"),
        _replaced(window),
        _held(window),
        Recording(DISPLACED, displaced(window, 7)),
        *_once(rule for one in objectives(limits) for rule in _objective(one, window)),
    ]


# Other exporters have a process, too, so only those with our metrics count.
_OF_CHAINLIT = f"on (namespace, job, instance) {select(catalog.SESSION_OLDEST_AGE, _WEBSOCKET)}"
_PROCESSES = f"process_start_time_seconds and {_OF_CHAINLIT}"
_AGES = f"time() - ({_PROCESSES})"


def _replaced(window: Windows) -> Recording:
    """Return the share of replicas that a restart or a rollout has replaced in 15 minutes.

    A new replica shows as a process that started lately as well: as many as there are more than
    before were added, by an autoscaler, and have replaced none. Whole numbers are divided once,
    since a mean of ones and zeros may be a little less than the half that it is.
    """
    quarter, literal = window.duration(15 * MINUTE), window.seconds_literal(15 * MINUTE)
    replicas = f"count {BY_JOB} ({_PROCESSES})"
    before = (
        f"count {BY_JOB} (process_start_time_seconds offset {quarter}"
        f" and {_OF_CHAINLIT} offset {quarter})"
    )
    added = f"(clamp_min({replicas} - {before}, 0) or 0 * {replicas})"
    young = f"sum {BY_JOB} ({_AGES} < bool {literal})"
    return Recording(REPLACED, f"clamp_min({young} - {added}, 0) / {replicas}")


def _held(window: Windows) -> Recording:
    """Return how many tabs a replica holds, once it has run for 15 minutes.

    Without a figure until then, its restart shows for long enough.
    """
    held = f"sum by (namespace, job, instance) ({select(catalog.SESSION_ACTIVE, _CONNECTED)})"
    grown = f"{_AGES} > {window.seconds_literal(15 * MINUTE)}"
    return Recording(HELD, f"{held} and on (namespace, job, instance) ({grown})")


def displaced(window: Windows, minutes: float) -> str:
    """Return how many tabs have lost their replica, to a restart or for good.

    Each of them comes back as a session of its own, and once more if the replica that took it in
    is the next one of a rollout.

    Args:
        window: the scale of time.
        minutes: how long ago at most.
    """
    lately = f"max_over_time({HELD}[{window.duration(minutes * MINUTE)}])"
    return f"sum {BY_JOB} ({lately} unless {HELD})"


def _sessions(window: Windows) -> list[Recording]:
    five_minutes = window.duration(5 * MINUTE)
    starts = f"rate({select(catalog.SESSION_STARTS, _WEBSOCKET)}[{five_minutes}])"
    origin = catalog.SESSION_ORIGIN.prometheus_label
    return [
        Recording(STARTS_BY_ORIGIN, f"sum by (namespace, job, {origin}) ({starts})"),
        Recording(STARTS, f"sum {BY_JOB} ({STARTS_BY_ORIGIN})"),
        Recording(STARTS_USUAL, _usual(window)),
        Recording(RECONNECTS, _rate(catalog.SESSION_RECONNECTS, {}, five_minutes)),
        Recording(CONNECTED, f"sum {BY_JOB} ({select(catalog.SESSION_ACTIVE, _CONNECTED)})"),
        _closed(window),
    ]


# Neither the browser nor the server closed these of its own accord; a tab that is closed is one of
# them, too.
_LOST: Where = {catalog.CLOSE_REASON: ("transport_close", "transport_error", "ping_timeout")}


def _closed(window: Windows) -> Recording:
    """Return how many sockets were lost at once, as a share of those that were there.

    Where visits are short, most sockets are lost within minutes as well: those of as many as came
    meanwhile do not count. At once is within two minutes, since a rate needs two scrapes.
    """
    two_minutes, literal = window.duration(2 * MINUTE), window.seconds_literal(2 * MINUTE)
    lost = select(catalog.CONNECTION_DURATION, _LOST, part="count")
    return Recording(
        CLOSED,
        f"clamp_min(sum {BY_JOB} (increase({lost}[{two_minutes}])) - {STARTS} * {literal}, 0) / "
        f"(max_over_time({CONNECTED}[{two_minutes}]) > 0)",
    )


def of_weeks(weeks: int, expr: Callable[[float], str]) -> str:
    """Return an expression for each of the last weeks, side by side.

    Args:
        weeks: How many weeks.
        expr: Given the seconds of some weeks, returns what to ask for with that offset.
    """
    return "\nor ".join(
        f'label_replace({expr(number * WEEK)}, "week", "{number}", "", "")'
        for number in range(1, weeks + 1)
    )


def _usual(window: Windows) -> str:
    """Return the most sessions that usually start at this time of the week.

    Usual is the median of three weeks, so that neither a holiday nor a flood of one of them counts;
    where no week is known, it is yesterday. The highest of half an hour before and after stands for
    the time, since mornings do not begin to the minute.
    """
    hour = window.duration(HOUR)

    def highest(seconds: float) -> str:
        before = window.duration(seconds - HOUR / 2)
        return f"max_over_time({STARTS}[{hour}] offset {before})"

    return f"quantile {BY_JOB} (0.5, {of_weeks(3, highest)})\nor {highest(DAY)}"


def _fleet_peak(window: Windows) -> list[Recording]:
    """Return a lower and an upper bound of the true peak of all replicas together.

    The replicas need not have their peaks at one moment, so the sum of these is at least the peak
    of all; the number of sessions connected at any moment is at most that peak.

    A replica shows a peak for at least one window. Replicas are scraped at different moments, so
    when the last of them shows the peak of an instant, the window of the first may be over: the sum
    takes the maximum of each replica's last two scrapes.
    """
    peak_window = next(seconds for seconds in _PEAK_WINDOWS if window.scrape <= seconds)
    mark = select(catalog.SESSION_PEAK, {catalog.PEAK_WINDOW: duration(peak_window)})
    latest = f"max_over_time({mark}[{duration(2 * window.scrape)}])"
    return [
        Recording(PEAK, f"sum {BY_JOB} ({latest})"),
        Recording(PEAK_AT_LEAST, f"max_over_time({CONNECTED}[{window.duration(HOUR)}])"),
        Recording(PEAK_AT_MOST, f"max_over_time({PEAK}[{window.duration(HOUR)}])"),
    ]


def _mean_durations(window: Windows) -> list[Recording]:
    five_minutes, seconds = window.duration(5 * MINUTE), window.seconds_literal(5 * MINUTE)
    waiting = select(catalog.SESSION_ACTIVE, _DISCONNECTED)
    # A session ends only when the grace time after its disconnect is over, so those that are
    # disconnected count as ended: without them, the ends would lag.
    left = f"{_ENDS} + sum {BY_JOB} (delta({waiting}[{five_minutes}])) / {seconds}"
    hour, in_an_hour = window.duration(HOUR), window.seconds_literal(HOUR)
    return [
        Recording(_DURATIONS, _rate(catalog.SESSION_DURATION, _WEBSOCKET, five_minutes, "sum")),
        Recording(_TIME, _rate(catalog.SESSION_TIME, _WEBSOCKET, five_minutes)),
        Recording(_ENDS, _rate(catalog.SESSION_ENDS, _WEBSOCKET, five_minutes)),
        Recording(_LEAVES, left),
        Recording(MEAN_COMPLETED, _ratio(_DURATIONS, _ENDS, hour)),
        Recording(
            MEAN_UNBIASED,
            f"avg_over_time({_TIME}[{hour}]) * {in_an_hour} / "
            # Ends and disconnects that cancel out leave the rounding error of a float: no divisor.
            f"(avg_over_time({_LEAVES}[{hour}]) * {in_an_hour} > 0.5)",
        ),
    ]


def _objective(objective: Objective, window: Windows) -> list[Recording]:
    rate = over("rate", window.duration(5 * MINUTE))
    # Of two counters, only one may have lost an event to a restart, or the one was scraped first.
    good = f"clamp_min({objective.total} - {objective.missed(rate)}, 0)"
    return [
        Recording(objective.total, objective.events(rate)),
        Recording(objective.good, good),
        Recording(objective.errors(5 * MINUTE), _share(objective.good, f"({objective.total} > 0)")),
        *(
            Recording(
                objective.errors(seconds),
                _errors(objective.good, objective.total, window.duration(seconds)),
            )
            for seconds in (30 * MINUTE, HOUR, 6 * HOUR, 3 * DAY)
        ),
    ]


def budgets(limits: Thresholds, window: Windows) -> list[Recording]:
    """Return the recording rules about weeks, each after those that it uses.

    They are for a group of their own, which is evaluated each `BUDGET_INTERVAL`: every 15 seconds
    of four weeks would be too many samples to add up.
    """
    return [
        *_once(rule for one in objectives(limits) for rule in _budget(one, window)),
        _cost(window),
    ]


def _once(rules: Iterable[Recording]) -> list[Recording]:
    """Return the rules of several objectives, some of which count the same events."""
    return list({rule.name: rule for rule in rules}.values())


def _budget(objective: Objective, window: Windows) -> list[Recording]:
    span = window.duration(BUDGET_INTERVAL)
    good, total = (name.replace(":rate5m", ":mean2m") for name in (objective.good, objective.total))
    return [
        Recording(good, f"avg_over_time({objective.good}[{span}])"),
        Recording(total, f"avg_over_time({objective.total}[{span}])"),
        Recording(objective.errors(PERIOD), _errors(good, total, window.duration(PERIOD))),
        Recording(objective.budget_left, f"1 - {objective.errors(PERIOD)} / {objective.budget:g}"),
    ]


def _cost(window: Windows) -> Recording:
    """Return what three hours have cost, of which a day is made."""
    span = window.duration(3 * HOUR)
    return Recording(COST, f"sum {BY_JOB} (increase({select(catalog.TURN_COST)}[{span}]))")


def _errors(good: str, total: str, span: str) -> str:
    """Return the share of the events of a span that were not good.

    The ratio of two sums of recorded rates is the same as that of all replicas over hours, whose
    evaluation would take the Prometheus of a large deployment seconds.
    """
    return _share(f"sum_over_time({good}[{span}])", f"(sum_over_time({total}[{span}]) > 0)")


def _share(good: str, total: str) -> str:
    return f"clamp_min(1 - {good} / {total}, 0)"


def _rate(metric: Metric, where: Where, span: str, part: Part = "") -> str:
    return f"sum {BY_JOB} (rate({select(metric, where, part=part)}[{span}]))"


def _ratio(part: str, whole: str, span: str) -> str:
    """Return the ratio of two recorded rates."""
    return f"avg_over_time({part}[{span}]) / (avg_over_time({whole}[{span}]) > 0)"
