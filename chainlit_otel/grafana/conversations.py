"""Conversations: do users get answers, how long do they wait, and what fails inside."""

from __future__ import annotations

from chainlit_otel import catalog
from chainlit_otel.grafana.panels import (
    OF_VERSION,
    SCOPE,
    VERSION,
    Json,
    Levels,
    Query,
    Row,
    dashboard,
    heatmap,
    stat,
    timeseries,
)
from chainlit_otel.grafana.queries import (
    INTERVAL,
    buckets,
    increase,
    label,
    legend,
    per_minute,
    per_second,
    quantile,
    ratio,
    sum_of,
    sum_of_max,
)
from chainlit_otel.promql import Where, select
from chainlit_otel.thresholds import SLOW_BURN, Thresholds

_FAILED: Where = {catalog.OUTCOME: "error"}
_OUTBOUND: Where = {catalog.DIRECTION: "outbound"}
_LOST: Where = {catalog.EMIT_EVENT: catalog.MESSAGE_EVENTS}
_QUANTILES = (0.5, 0.9, 0.99)
# All quantiles of a histogram have the same exemplars: queried with each, they are drawn thrice.
_WITH_EXEMPLARS = 0.99


def build(limits: Thresholds) -> Json:
    """Return the dashboard, its figures coloured by the thresholds of the alerts."""
    return dashboard(
        catalog.DASHBOARD_CONVERSATIONS,
        "Chainlit / Conversations",
        "Do users get answers, how long do they wait for them, and what fails inside.",
        [
            Row(
                "At a glance",
                [
                    turn_rate(),
                    failed_turns(limits),
                    first_token_p90(limits),
                    turns_under_way(),
                    lost_answers(limits),
                    liked(),
                ],
            ),
            Row(
                "Turns",
                [
                    *(turns(), failed_turns_of_profiles(), concurrent_turns(), oldest_waiting()),
                    *(turn_durations(), turn_duration_buckets()),
                ],
            ),
            Row(
                "The first word, and those that follow",
                [first_tokens(), first_token_buckets(), chunk_gaps(), chunks()],
            ),
            Row(
                "Inside",
                [callbacks(), callback_errors(), steps(), stalled(), step_errors(), asks(), mcp()],
            ),
            Row(
                "Old and new version",
                [turns_of_versions(), failed_turns_of_versions(), first_tokens_of_versions()],
            ),
            Row("What reaches users", [messages(), dropped(), undelivered(), feedback(), files()]),
        ],
    )


def turn_rate() -> Json:
    return stat(
        "Turns",
        "Turns per minute, over 5 minutes. Investigate if users are connected and it is zero.",
        "suffix:/min",
        Query(per_minute(catalog.TURN_DURATION, span="5m", part="count")),
    )


def failed_turns(limits: Thresholds) -> Json:
    return stat(
        "Failed turns",
        "Share of the turns that failed in an hour, which Chainlit hides: yellow "
        "is more than the objective has room for, red where the slow alert fires.",
        "percentunit",
        Query(
            ratio(
                increase(catalog.TURN_DURATION, "1h", _FAILED, part="count"),
                increase(catalog.TURN_DURATION, "1h", part="count"),
            )
        ),
        levels=Levels(1 - limits.turn_objective, SLOW_BURN * (1 - limits.turn_objective)),
    )


def first_token_p90(limits: Thresholds) -> Json:
    return stat(
        "First token, p90",
        "Nine turns in ten show their first word within this time. Later users leave.",
        "s",
        Query(quantile(0.9, catalog.TIME_TO_FIRST_TOKEN, span="1h")),
        levels=Levels(0.5 * limits.first_token_seconds, limits.first_token_seconds),
    )


def turns_under_way() -> Json:
    return stat(
        "Turns under way",
        "Turns that are being answered at this moment. Investigate if it only grows: answers hang.",
        "short",
        Query(sum_of(catalog.TURN_ACTIVE)),
    )


def lost_answers(limits: Thresholds) -> Json:
    lost = increase(catalog.EMIT_DROPPED, "1h", _LOST)
    sent = increase(catalog.MESSAGES, "1h", _OUTBOUND)
    return stat(
        "Lost answers",
        "Share of the messages of an hour that were sent to a socket that is gone. If they are "
        "many, connections break while users wait.",
        "percentunit",
        Query(ratio(lost, f"({lost} + {sent})")),
        levels=Levels(0.4 * limits.lost_ratio, limits.lost_ratio),
    )


def liked() -> Json:
    positive = increase(catalog.FEEDBACK, "1d", {catalog.FEEDBACK_VALUE: "positive"})
    judged = increase(catalog.FEEDBACK, "1d", {catalog.FEEDBACK_VALUE: ("positive", "negative")})
    return stat(
        "Positive feedback",
        "Share of the feedback of a day that is positive. Investigate if it falls after a release.",
        "percentunit",
        Query(ratio(positive, judged)),
        levels=Levels(0.8, 0.5, below=True),
    )


def turns() -> Json:
    return timeseries(
        "Turns by outcome",
        "Turns per minute: `cancelled` were stopped by their user. Investigate any `error` that "
        "lasts.",
        "suffix:/min",
        Query(
            per_minute(catalog.TURN_DURATION, by=label(catalog.OUTCOME), part="count"),
            legend(catalog.OUTCOME),
        ),
        stacked=True,
    )


def failed_turns_of_profiles() -> Json:
    by = label(catalog.CHAT_PROFILE)
    failed = ratio(
        increase(catalog.TURN_DURATION, "10m", _FAILED, by, part="count"),
        increase(catalog.TURN_DURATION, "10m", by=by, part="count"),
    )
    return timeseries(
        "Failed turns by chat profile",
        "Share of the turns of each chat profile that failed in 10 minutes. Investigate one that "
        "is far above the others: its model or its tools fail.",
        "percentunit",
        # An app without profiles has turns without that label.
        Query(f'label_replace({failed}, "{by}", "none", "{by}", "")', legend(catalog.CHAT_PROFILE)),
    )


def oldest_waiting() -> Json:
    return timeseries(
        "Oldest turn without a word",
        "How long the user has waited who waits longest for the first word. Investigate if it "
        "only grows: a model or a tool hangs, and no duration shows it before it ends.",
        "s",
        Query(f"max ({select(catalog.TURN_OLDEST_WAITING, scope=SCOPE)})", "oldest"),
    )


def concurrent_turns() -> Json:
    return timeseries(
        "Concurrent turns",
        "Turns under way; dashed, the true peak between the scrapes. Investigate if turns pile up.",
        "short",
        Query(sum_of(catalog.TURN_ACTIVE), "under way"),
        Query(sum_of_max(catalog.TURN_PEAK, {catalog.PEAK_WINDOW: "15s"}), "peak", dashed=True),
    )


def turn_durations() -> Json:
    return timeseries(
        "Duration of turns",
        "From the arrival of a message until the app is done with it. Investigate if p99 runs "
        "away; its exemplars lead to traces.",
        "s",
        *(
            Query(
                quantile(q, catalog.TURN_DURATION), f"p{q * 100:g}", exemplar=q == _WITH_EXEMPLARS
            )
            for q in _QUANTILES
        ),
    )


def turn_duration_buckets() -> Json:
    return heatmap(
        "Duration of turns, spread",
        "How long turns took. Investigate if a second band appears above the usual one.",
        "s",
        Query(buckets(catalog.TURN_DURATION), "{{le}}", exemplar=True),
    )


def first_tokens() -> Json:
    return timeseries(
        "Time to first token",
        "From the arrival of a message to the first token or message sent. Investigate if it rises "
        "while turns do not get longer; its exemplars lead to traces.",
        "s",
        *(
            Query(
                quantile(q, catalog.TIME_TO_FIRST_TOKEN),
                f"p{q * 100:g}",
                exemplar=q == _WITH_EXEMPLARS,
            )
            for q in _QUANTILES
        ),
    )


def first_token_buckets() -> Json:
    return heatmap(
        "Time to first token, spread",
        "How long users waited for the first word. Investigate if it spreads upwards.",
        "s",
        Query(buckets(catalog.TIME_TO_FIRST_TOKEN), "{{le}}", exemplar=True),
    )


def chunk_gaps() -> Json:
    return timeseries(
        "Gap between chunks",
        "Mean time between the streamed chunks of a turn. Investigate above 0.2 s: the text "
        "stutters.",
        "s",
        *(Query(quantile(q, catalog.TIME_PER_OUTPUT_CHUNK), f"p{q * 100:g}") for q in _QUANTILES),
    )


def chunks() -> Json:
    return timeseries(
        "Chunks streamed",
        "Chunks sent to browsers per second. Investigate if turns go on and it is zero.",
        "suffix:/s",
        Query(per_second(catalog.OUTPUT_CHUNKS), "chunks"),
    )


def turns_of_versions() -> Json:
    return timeseries(
        "Turns by version",
        "Turns per minute of each version of the app, by `service.version`: set it in "
        "`OTEL_RESOURCE_ATTRIBUTES`. Investigate if a new one gets none.",
        "suffix:/min",
        Query(f"60 * {_by_version(_turns())}", f"{{{{{VERSION}}}}}"),
        stacked=True,
        width=8,
    )


def failed_turns_of_versions() -> Json:
    return timeseries(
        "Failed turns by version",
        "Share of the turns of each version that failed. Investigate a new one that is above the "
        "old one beside it.",
        "percentunit",
        Query(ratio(_by_version(_turns(_FAILED)), _by_version(_turns())), f"{{{{{VERSION}}}}}"),
        width=8,
    )


def first_tokens_of_versions() -> Json:
    buckets = f"rate({select(catalog.TIME_TO_FIRST_TOKEN, scope=SCOPE, part='bucket')}[{INTERVAL}])"
    return timeseries(
        "First token by version, p90",
        "Nine turns in ten of each version show their first word within this time. Investigate a "
        "new one that is slower than the old one beside it.",
        "s",
        Query(
            f"histogram_quantile(0.9, {_by_version(buckets, f'{VERSION},le')})",
            f"{{{{{VERSION}}}}}",
        ),
        width=8,
    )


def _turns(where: Where | None = None) -> str:
    return f"rate({select(catalog.TURN_DURATION, where, SCOPE, 'count')}[{INTERVAL}])"


def _by_version(expr: str, by: str = VERSION) -> str:
    return f"sum by ({by}) ({expr} {OF_VERSION})"


def callbacks() -> Json:
    return timeseries(
        "Callbacks, p90",
        "Nine in ten runs of each callback were shorter. Investigate if one that is not "
        "`on_message` takes seconds.",
        "s",
        Query(
            quantile(0.9, catalog.CALLBACK_DURATION, by=label(catalog.CALLBACK_NAME)),
            legend(catalog.CALLBACK_NAME),
        ),
    )


def callback_errors() -> Json:
    return timeseries(
        "Errors in callbacks",
        "Exceptions per minute that callbacks raised and Chainlit swallowed. Investigate any.",
        "suffix:/min",
        Query(
            per_minute(
                catalog.CALLBACK_DURATION, _FAILED, label(catalog.CALLBACK_NAME), part="count"
            ),
            legend(catalog.CALLBACK_NAME),
        ),
        stacked=True,
    )


def steps() -> Json:
    return timeseries(
        "Steps, p90",
        "Nine in ten steps of each type were shorter. Investigate the one that grew when turns "
        "did.",
        "s",
        Query(
            quantile(0.9, catalog.STEP_DURATION, by=label(catalog.STEP_TYPE)),
            legend(catalog.STEP_TYPE),
        ),
    )


def stalled() -> Json:
    return timeseries(
        "Event loop blocked",
        "Share of the time for which the event loop of each replica stood still, in stalls of more "
        "than 1 s. Investigate any: then all steps seem to be slow, and the log names the line.",
        "percentunit",
        # A scrape may come a little later than the clock of Prometheus has it.
        Query(
            f"clamp_max({per_second(catalog.EVENT_LOOP_BLOCKED_TIME, by='instance')}, 1)",
            "{{instance}}",
        ),
    )


def step_errors() -> Json:
    return timeseries(
        "Errors in steps",
        "Steps per minute that failed. Investigate if tools fail: the model answers without them.",
        "suffix:/min",
        Query(
            per_minute(catalog.STEP_DURATION, _FAILED, label(catalog.STEP_TYPE), part="count"),
            legend(catalog.STEP_TYPE),
        ),
        stacked=True,
        width=8,
    )


def asks() -> Json:
    return timeseries(
        "Questions to users",
        "Questions of the app per minute, by what became of them. Investigate if most time out.",
        "suffix:/min",
        Query(
            per_minute(catalog.ASK_DURATION, by=label(catalog.ASK_OUTCOME), part="count"),
            legend(catalog.ASK_OUTCOME),
        ),
        stacked=True,
        width=8,
    )


def mcp() -> Json:
    return timeseries(
        "MCP connections",
        "Connections to MCP servers that are open. Investigate if they only grow.",
        "short",
        Query(sum_of(catalog.MCP_CONNECTIONS), "open"),
        width=8,
    )


def messages() -> Json:
    return timeseries(
        "Messages",
        "Messages from users and to them per minute. Investigate if users write and nothing comes "
        "back.",
        "suffix:/min",
        Query(
            per_minute(catalog.MESSAGES, by=label(catalog.DIRECTION)),
            legend(catalog.DIRECTION),
        ),
    )


def dropped() -> Json:
    return timeseries(
        "Lost on the way",
        "Content per minute that was sent to a socket that is gone, so nobody saw it; and packets "
        "of browsers that were dropped, so Chainlit never saw them. Investigate bursts: "
        "connections break while users wait, or a message was too large.",
        "suffix:/min",
        Query(
            per_minute(catalog.EMIT_DROPPED, by=label(catalog.EMIT_EVENT)),
            legend(catalog.EMIT_EVENT),
        ),
        Query(
            per_minute(catalog.INBOUND_DROPPED, by=label(catalog.INBOUND_DROP_REASON)),
            f"from a browser, {legend(catalog.INBOUND_DROP_REASON)}",
        ),
        stacked=True,
    )


def undelivered() -> Json:
    return timeseries(
        "Turns not delivered",
        "Turns per minute of which something was sent to a socket that was gone, whatever their "
        "outcome. Investigate if `ok` turns are among them: nobody saw that answer as a whole.",
        "suffix:/min",
        Query(per_minute(catalog.UNDELIVERED_TURNS), "not delivered"),
        width=8,
    )


def feedback() -> Json:
    return timeseries(
        "Feedback",
        "Feedback of users in an hour. Investigate if the negative grows after a release.",
        "short",
        Query(
            increase(catalog.FEEDBACK, "1h", by=label(catalog.FEEDBACK_VALUE)),
            legend(catalog.FEEDBACK_VALUE),
        ),
        stacked=True,
        decimals=0,
        width=8,
    )


def files() -> Json:
    return timeseries(
        "Files",
        "Bytes per second of uploads and of elements that the app sends. Investigate what the disk "
        "cannot hold.",
        "Bps",
        Query(
            per_second(catalog.FILE_SIZE, by=label(catalog.FILE_DIRECTION), part="sum"),
            legend(catalog.FILE_DIRECTION),
        ),
        stacked=True,
        width=8,
    )
