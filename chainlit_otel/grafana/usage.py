"""Usage and cost: what turns take, tools among it, and whether they are any good."""

from __future__ import annotations

from chainlit_otel import catalog
from chainlit_otel.grafana.panels import Json, Query, Row, dashboard, stat, timeseries
from chainlit_otel.grafana.queries import (
    increase,
    label,
    legend,
    per_minute,
    per_second,
    quantile,
    ratio,
)
from chainlit_otel.promql import Where
from chainlit_otel.thresholds import Thresholds

_FAILED: Where = {catalog.OUTCOME: "error"}
_GIVEN: Where = {catalog.FEEDBACK_VALUE: ("positive", "negative")}
_TOOL = label(catalog.TOOL_NAME)
_SCORE = label(catalog.SCORE_NAME)


def build(limits: Thresholds) -> Json:
    """Return the dashboard, its figures coloured by the thresholds of the alerts."""
    return dashboard(
        catalog.DASHBOARD_USAGE,
        "Chainlit / Usage and cost",
        "What turns take, which tools they call, and whether their answers are any good.",
        [
            Row(
                "At a glance",
                [
                    *(tool_rate(), failed_calls(), tool_duration()),
                    *(judged_turns(), scores_given(), unlinked_feedback()),
                ],
            ),
            Row("Tools", [tools(), failed_tools(), tool_durations(), tool_time()]),
            Row("Quality", [mean_scores(), low_scores(), scores()]),
        ],
    )


def tool_rate() -> Json:
    return stat(
        "Tool calls",
        "Calls of tools per minute, over 5 minutes. Investigate if there are turns and it is zero.",
        "suffix:/min",
        Query(per_minute(catalog.TOOL_CALLS, span="5m")),
    )


def failed_calls() -> Json:
    return stat(
        "Failed tool calls",
        "Share of the calls of tools that failed in an hour, whatever became of their turns. "
        "Investigate which tool it is, below.",
        "percentunit",
        Query(
            ratio(increase(catalog.TOOL_CALLS, "1h", _FAILED), increase(catalog.TOOL_CALLS, "1h"))
        ),
    )


def tool_duration() -> Json:
    return stat(
        "Time of a call",
        "How long a call of a tool takes, in the mean of an hour. Investigate if it grows: the "
        "first word of an answer waits for it.",
        "s",
        Query(ratio(increase(catalog.TOOL_TIME, "1h"), increase(catalog.TOOL_CALLS, "1h"))),
    )


def judged_turns() -> Json:
    return stat(
        "Feedback per turn",
        "How much feedback there was in a day for each turn; who changes their mind counts twice. "
        "Investigate if it falls to zero: users may not see the buttons.",
        "percentunit",
        Query(
            ratio(
                increase(catalog.FEEDBACK, "1d", _GIVEN),
                increase(catalog.TURN_DURATION, "1d", part="count"),
            )
        ),
    )


def scores_given() -> Json:
    return stat(
        "Scores",
        "Scores that the app gave to its turns in an hour. Investigate if there are none any more.",
        "short",
        Query(increase(catalog.SCORE, "1h", part="count")),
        decimals=0,
    )


def unlinked_feedback() -> Json:
    return stat(
        "Unlinked feedback",
        "Share of the feedback of a day on messages whose turn is not known: it was long ago, or "
        "in another process. Investigate if it is much: users come back to another replica.",
        "percentunit",
        Query(
            ratio(increase(catalog.FEEDBACK_UNLINKED, "1d"), increase(catalog.FEEDBACK, "1d")),
        ),
    )


def tools() -> Json:
    return timeseries(
        "Calls of tools",
        "Calls per minute, by tool. Investigate a tool that is called far more often than there "
        "are turns: an agent goes round in circles.",
        "suffix:/min",
        Query(per_minute(catalog.TOOL_CALLS, by=_TOOL), legend(catalog.TOOL_NAME)),
        stacked=True,
    )


def failed_tools() -> Json:
    failed = ratio(
        increase(catalog.TOOL_CALLS, "10m", _FAILED, _TOOL),
        increase(catalog.TOOL_CALLS, "10m", by=_TOOL),
    )
    return timeseries(
        "Failed calls of tools",
        "Share of the calls of ten minutes that failed, by tool. Investigate any that lasts: the "
        "model goes on without what it asked for.",
        "percentunit",
        Query(failed, legend(catalog.TOOL_NAME)),
    )


def tool_durations() -> Json:
    return timeseries(
        "Time of a call, mean",
        "How long a call takes, by tool. Investigate the one that has become slower.",
        "s",
        Query(
            ratio(
                per_second(catalog.TOOL_TIME, by=_TOOL), per_second(catalog.TOOL_CALLS, by=_TOOL)
            ),
            legend(catalog.TOOL_NAME),
        ),
    )


def tool_time() -> Json:
    return timeseries(
        "Tools at work",
        "How many calls are under way in the mean: the seconds spent in tools in each second. "
        "Investigate which tool has most of it, since users wait for that.",
        "short",
        Query(per_second(catalog.TOOL_TIME, by=_TOOL), legend(catalog.TOOL_NAME)),
        stacked=True,
    )


def mean_scores() -> Json:
    mean = ratio(
        increase(catalog.SCORE, "1h", by=_SCORE, part="sum"),
        increase(catalog.SCORE, "1h", by=_SCORE, part="count"),
    )
    return timeseries(
        "Scores, mean",
        "Mean of the scores of an hour, by name; each name has a scale of its own. Investigate if "
        "one falls after a release.",
        "short",
        Query(mean, legend(catalog.SCORE_NAME)),
        width=8,
    )


def low_scores() -> Json:
    return timeseries(
        "Scores, lowest tenth",
        "One in ten scores of an hour is this or lower, as well as the buckets tell. Investigate "
        "if it falls and the mean does not: some kind of question has gone bad.",
        "short",
        Query(
            quantile(0.1, catalog.SCORE, by=_SCORE, span="1h"),
            legend(catalog.SCORE_NAME),
        ),
        width=8,
    )


def scores() -> Json:
    return timeseries(
        "Scores given",
        "Scores per minute, by name. Investigate if an evaluator gives none any more.",
        "suffix:/min",
        Query(per_minute(catalog.SCORE, by=_SCORE, part="count"), legend(catalog.SCORE_NAME)),
        stacked=True,
        width=8,
    )
