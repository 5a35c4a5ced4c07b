"""The dashboard Behaviour: what users did and how it went, from records in ClickHouse."""

from __future__ import annotations

from chainlit_otel.analysis.clickhouse import one_query, tables_of
from chainlit_otel.catalog import DASHBOARD_BEHAVIOUR
from chainlit_otel.grafana.panels import (
    Json,
    Row,
    SqlQuery,
    bar_gauge,
    dashboard,
    figures,
    rows,
    timeseries,
)

_TABLE = "otel_logs"
# Macros of the data source. A parser of SQL takes no dollar, so names stand for them meanwhile.
_MACROS = {"shown_from": "$__fromTime_ms", "shown_to": "$__toTime_ms"}
_BEFORE = (
    "fromUnixTimestamp64Milli("
    "2 * toUnixTimestamp64Milli(shown_from) - toUnixTimestamp64Milli(shown_to))"
)
_BOUNDS = f"SELECT {_BEFORE} AS from_time, shown_from AS since_time, shown_to AS until_time"
_WEEKS = range(1, 8)  # after the first, of the eight that two periods of four weeks have
_SHARE = "percentunit"
_SECONDS = "s"


def build() -> Json:
    """Return the dashboard."""
    return dashboard(
        DASHBOARD_BEHAVIOUR,
        "Chainlit / Behaviour",
        "Who came, what they did and how good it was, from the records of sessions and turns.",
        [
            Row("At a glance", [at_a_glance(), session_length(), bounces()]),
            Row("Who comes", [days(), way_through(), retention()]),
            Row("How good it was", [profiles(), versions(), errors(), tools()]),
        ],
        of_records=True,
    )


def _asked(name: str, select: str) -> SqlQuery:
    """Return a query about the answer to a question of the report."""
    sql = one_query(name, select, tables_of(_TABLE, _BOUNDS, _BEFORE))
    for placeholder, macro in _MACROS.items():
        sql = sql.replace(placeholder, macro)
    return SqlQuery(sql)


def at_a_glance() -> Json:
    return figures(
        "Sessions and turns",
        "What started in the time shown. Users are those with a hash. Investigate if turns fail, "
        "or if there are fewer users than sessions explain.",
        {"answered": _SHARE, "failed": _SHARE, "first token, median": _SECONDS},
        _asked(
            "overview",
            """
            SELECT
                sessions,
                users,
                turns,
                answered / nullif(turns, 0) AS answered,
                failed / nullif(turns, 0) AS failed,
                first_token_median AS "first token, median"
            FROM answer
            WHERE period = 'this'
            """,
        ),
        width=14,
    )


def session_length() -> Json:
    return figures(
        "Session length",
        "How long websocket sessions last, after Kaplan and Meier: those that have not ended count "
        "as well. No figure: too few have ended. Investigate if it falls.",
        {"median": _SECONDS, "p99": _SECONDS},
        _asked(
            "survival",
            """
            SELECT
                min(duration) FILTER (WHERE survival <= 0.5) AS median,
                min(duration) FILTER (WHERE survival <= 0.01) AS p99
            FROM answer
            WHERE period = 'this'
            """,
        ),
        width=6,
    )


def bounces() -> Json:
    return figures(
        "Bounces",
        "Share of ended websocket sessions in which nobody wrote. Investigate if it rises.",
        {"bounced": _SHARE},
        _asked(
            "engagement",
            """
            SELECT sum(sessions) FILTER (WHERE turns = 0) / nullif(sum(sessions), 0) AS bounced
            FROM answer
            WHERE period = 'this'
            """,
        ),
        width=4,
    )


def days() -> Json:
    return timeseries(
        "Sessions, users and turns by day",
        "By day, in UTC. Investigate a day that is far from the same weekday before.",
        "short",
        _asked(
            "days",
            """
            SELECT CAST(day AS TIMESTAMP) AS time, sessions, users, turns
            FROM answer
            WHERE period = 'this'
            ORDER BY time
            """,
        ),
        decimals=0,
    )


def way_through() -> Json:
    return bar_gauge(
        "The way through",
        "How many websocket sessions came to each step; `came back` is of those that are known to "
        "have come back within a week. Investigate the step at which most are lost.",
        "short",
        _asked(
            "funnel",
            """
            SELECT
                opened,
                wrote,
                answered AS "was answered",
                wrote_again AS "wrote again",
                came_back AS "came back"
            FROM answer
            WHERE period = 'this'
            """,
        ),
    )


def retention() -> Json:
    counts = ", ".join(
        f"sum(CASE WHEN weeks_later = {n} THEN users ELSE 0 END) AS later_{n}" for n in (0, *_WEEKS)
    )
    shares = ", ".join(
        f"CASE WHEN date_diff('day', cohort, newest) >= {7 * n} THEN later_{n} / later_0 END "
        f'AS "+{n}"'
        for n in _WEEKS
    )
    return rows(
        "Retention by week",
        "Of the users who were new in a week, the share that was there in each week after it. "
        "Weeks begin on Monday; users need a hash. Investigate if a younger week keeps fewer.",
        {f"+{n}": _SHARE for n in _WEEKS},
        _asked(
            "retention",
            f"""
            SELECT cohort AS week, later_0 AS users, {shares}
            FROM (
                SELECT *, max(cohort) OVER () AS newest
                FROM (SELECT cohort, {counts} FROM answer GROUP BY cohort) AS counted
            ) AS cohorts
            ORDER BY week
            """,
        ),
        width=24,
    )


_OUTCOMES = """
    turns,
    failed / nullif(turns, 0) AS failed,
    stopped / nullif(turns, 0) AS stopped,
    asked_again / nullif(turns, 0) AS "asked again",
    unseen / nullif(turns, 0) AS "not seen in full",
    positive + negative AS feedback,
    negative / nullif(positive + negative, 0) AS "bad feedback",
    first_token_median AS "first token, median"
"""
_OUTCOME_UNITS = {
    **dict.fromkeys(("failed", "stopped", "asked again", "not seen in full"), _SHARE),
    "bad feedback": _SHARE,
    "first token, median": _SECONDS,
}


def profiles() -> Json:
    return rows(
        "Outcome and feedback by chat profile",
        "How turns went and what users thought of them. Investigate a profile that is worse than "
        "the others; `chainlit-otel report` says whether that may be chance.",
        {**_OUTCOME_UNITS, "first token, p99": _SECONDS},
        _asked(
            "quality",
            f"""
            SELECT
                name AS profile, {_OUTCOMES}, first_token_p99 AS "first token, p99"
            FROM answer
            WHERE period = 'this' AND dimension = 'profile'
            ORDER BY turns DESC, profile
            """,
        ),
        width=24,
    )


def versions() -> Json:
    return rows(
        "Outcome and feedback by version",
        "The same by version of the service, in the order in which they were first seen, over the "
        "time shown and as much before it. Investigate a version that is worse than the one above.",
        _OUTCOME_UNITS,
        _asked(
            "versions",
            f"""
            SELECT version, first_seen AS "first seen", {_OUTCOMES}
            FROM answer
            ORDER BY first_seen, version
            """,
        ),
        width=24,
    )


def errors() -> Json:
    return rows(
        "Errors",
        "Turns that failed, by exception and callback. Investigate one that is new.",
        {},
        _asked(
            "errors",
            """
            SELECT error, callback, turns, sessions
            FROM answer
            WHERE period = 'this'
            ORDER BY turns DESC, error, callback
            """,
        ),
    )


def tools() -> Json:
    return rows(
        "Tools",
        "Calls of tools, the share that failed, and how long they took. Investigate the one that "
        "fails most, and the one that takes most time in all.",
        {"failed": _SHARE, **dict.fromkeys(("median", "p99", "in all"), _SECONDS)},
        _asked(
            "tools",
            """
            SELECT name AS tool, calls, failed / calls AS failed, median, p99, total AS "in all"
            FROM answer
            WHERE period = 'this'
            ORDER BY total DESC, tool
            """,
        ),
    )
