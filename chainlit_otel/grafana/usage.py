"""Usage and cost: models, tools, and whether the answers are any good."""

from __future__ import annotations

from chainlit_otel import catalog
from chainlit_otel.grafana.panels import Json, Levels, Query, Row, dashboard, stat, timeseries
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
_NOT_KNOWN: Where = {catalog.USAGE_STATE: ("uncounted", "unpriced")}
_WHOLE: Where = {catalog.TOKEN_TYPE: ("input", "output")}
_TOOL = label(catalog.TOOL_NAME)
_SCORE = label(catalog.SCORE_NAME)


def build(limits: Thresholds) -> Json:
    """Return the dashboard, its figures coloured by the thresholds of the alerts."""
    return dashboard(
        catalog.DASHBOARD_USAGE,
        "Chainlit / Usage and cost",
        "What turns use of models and what that costs, which tools they call, and whether their "
        "answers are any good.",
        [
            Row(
                "At a glance",
                [
                    *(cost_of_day(limits), cost_of_turn(), wasted(), not_known()),
                    *(failed_calls(), unlinked_feedback()),
                ],
            ),
            Row("Cost", [cost_by_model(), cost_by_outcome(), mean_costs(), wasted_cost()]),
            Row("Model calls", [tokens_by_type(), tokens_by_model(), coverage()]),
            Row("Tools", [tools(), failed_tools(), tool_durations(), tool_time()]),
            Row("Quality", [mean_scores(), low_scores(), scores()]),
        ],
    )


def cost_of_day(limits: Thresholds) -> Json:
    budget = limits.cost_budget_day
    return stat(
        "Cost of a day",
        "US dollars that the model calls of 24 hours have cost, as far as their price is known. "
        "Investigate if it grows and the turns do not.",
        "currencyUSD",
        Query(increase(catalog.TURN_COST, "1d")),
        levels=Levels(0.8 * budget, budget) if budget else None,
    )


def cost_of_turn() -> Json:
    return stat(
        "Cost of a turn",
        "US dollars for each turn, in the mean of an hour. Investigate a step up: another model, a "
        "longer prompt, or an agent that goes round in circles.",
        "currencyUSD",
        Query(
            ratio(
                increase(catalog.TURN_COST, "1h"),
                increase(catalog.TURN_DURATION, "1h", part="count"),
            )
        ),
    )


def wasted() -> Json:
    # Of a series that begins with its first dollar, `increase()` does not see that.
    share = ratio(increase(catalog.WASTED_COST, "1d"), increase(catalog.TURN_COST, "1d"))
    return stat(
        "Wasted",
        "Share of the cost of a day that went to turns that failed, were stopped, or did not reach "
        "a browser as a whole. Investigate which of these, below.",
        "percentunit",
        Query(f"clamp_max({share}, 1)"),
    )


def not_known() -> Json:
    return stat(
        "Cost not known",
        "Share of the model calls of a day without tokens or without a price: by so much the sums "
        "are too low. Investigate if it is much: streams without `include_usage`, or a model that "
        "the price list lacks.",
        "percentunit",
        Query(
            ratio(
                increase(catalog.TURN_INFERENCES, "1d", _NOT_KNOWN),
                increase(catalog.TURN_INFERENCES, "1d"),
            )
        ),
    )


def cost_by_model() -> Json:
    return timeseries(
        "Cost by model",
        "US dollars in an hour. Investigate the model that has grown.",
        "currencyUSD",
        Query(
            increase(catalog.TURN_COST, "1h", by=label(catalog.REQUEST_MODEL)),
            legend(catalog.REQUEST_MODEL),
        ),
        stacked=True,
    )


def cost_by_outcome() -> Json:
    return timeseries(
        "Cost by outcome",
        "US dollars in an hour, by what became of the turn. Investigate if `error` has a part of "
        "it: who asks again pays again. By chat profile, too, it is in the records: section *Cost* "
        "of `chainlit-otel report`.",
        "currencyUSD",
        Query(
            increase(catalog.TURN_COST, "1h", by=label(catalog.OUTCOME)), legend(catalog.OUTCOME)
        ),
        stacked=True,
    )


def mean_costs() -> Json:
    cost = increase(catalog.TURN_COST, "1h")
    return timeseries(
        "Cost of a turn and of a session, mean",
        "US dollars of an hour for each turn that ended in it, and for each session that started. "
        "Investigate a step: it came with a release, or with another kind of question.",
        "currencyUSD",
        Query(ratio(cost, increase(catalog.TURN_DURATION, "1h", part="count")), "turn"),
        Query(ratio(cost, increase(catalog.SESSION_STARTS, "1h")), "session"),
    )


def wasted_cost() -> Json:
    return timeseries(
        "Wasted cost",
        "US dollars in an hour for turns that failed (`error`), were stopped (`cancelled`), or did "
        "not reach a browser as a whole (`undelivered`). Investigate if it grows faster than the "
        "cost.",
        "currencyUSD",
        Query(increase(catalog.WASTED_COST, "1h", by=label(catalog.WASTE)), legend(catalog.WASTE)),
        stacked=True,
    )


def tokens_by_type() -> Json:
    return timeseries(
        "Tokens by type",
        "Tokens per minute; those of caches are part of the input, and the reasoning is of the "
        "output. Investigate if the input grows and the turns do not: histories grow.",
        "suffix:/min",
        Query(
            per_minute(catalog.TURN_TOKENS, by=label(catalog.TOKEN_TYPE)),
            legend(catalog.TOKEN_TYPE),
        ),
        width=8,
    )


def tokens_by_model() -> Json:
    return timeseries(
        "Tokens by model",
        "Tokens per minute, sent and answered. Investigate a model that should not be there.",
        "suffix:/min",
        Query(
            per_minute(catalog.TURN_TOKENS, _WHOLE, label(catalog.REQUEST_MODEL)),
            legend(catalog.REQUEST_MODEL),
        ),
        stacked=True,
        width=8,
    )


def coverage() -> Json:
    return timeseries(
        "Model calls, what is known of them",
        "Model calls per minute: with tokens and a price (`counted`), without a price, without "
        "tokens, or outside of turns, which is in no sum. Investigate if not all are counted.",
        "suffix:/min",
        Query(
            per_minute(catalog.TURN_INFERENCES, by=label(catalog.USAGE_STATE)),
            legend(catalog.USAGE_STATE),
        ),
        Query(per_minute(catalog.UNLINKED_USAGE), "outside of turns"),
        stacked=True,
        width=8,
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
