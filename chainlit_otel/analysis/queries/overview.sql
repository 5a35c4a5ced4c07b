-- The figures of a period on one line.
WITH of_sessions AS (
    SELECT
        period,
        count(*) AS sessions,
        count(*) FILTER (WHERE is_open) AS open_sessions,
        count(*) FILTER (WHERE chainlit_session_type = 'http') AS http_sessions,
        count(DISTINCT user_hash) AS users,
        CAST(coalesce(sum(chainlit_session_reconnects), 0) AS BIGINT) AS reconnects
    FROM sessions
    GROUP BY period
),
of_turns AS (
    SELECT
        period,
        count(*) AS turns,
        count(*) FILTER (WHERE chainlit_outcome = 'ok') AS answered,
        count(*) FILTER (WHERE chainlit_outcome = 'error') AS failed,
        count(*) FILTER (WHERE chainlit_turn_undelivered > 0) AS unseen,
        quantile_cont(chainlit_turn_time_to_first_token, 0.5) AS first_token_median
    FROM turns
    GROUP BY period
)
SELECT
    coalesce(of_sessions.period, of_turns.period) AS period,
    coalesce(of_sessions.sessions, 0) AS sessions,
    coalesce(of_sessions.open_sessions, 0) AS open_sessions,
    coalesce(of_sessions.http_sessions, 0) AS http_sessions,
    coalesce(of_sessions.users, 0) AS users,
    coalesce(of_sessions.reconnects, 0) AS reconnects,
    coalesce(of_turns.turns, 0) AS turns,
    coalesce(of_turns.answered, 0) AS answered,
    coalesce(of_turns.failed, 0) AS failed,
    coalesce(of_turns.unseen, 0) AS unseen,
    of_turns.first_token_median AS first_token_median
FROM of_sessions
FULL JOIN of_turns ON of_turns.period = of_sessions.period
ORDER BY period
