-- How far websocket sessions come. Each step is counted among those that took the one before it. To
-- come back is to start another session within a week; it is known of users with a hash alone, and
-- of sessions that started a week ago or earlier.
WITH followed AS (
    SELECT
        sessions.period AS period,
        sessions.chainlit_session_turns_started >= 1 AS has_written,
        sessions.chainlit_session_turns_ok >= 1 AS was_answered,
        sessions.chainlit_session_turns_ok >= 1
        AND sessions.chainlit_session_turns_started >= 2 AS has_written_again,
        sessions.user_hash IS NOT NULL
        AND date_diff('second', sessions.chainlit_session_start, bounds.until_time) >= 7 * 24 * 3600
            AS is_known,
        date_diff(
            'second',
            sessions.chainlit_session_start,
            min(sessions.chainlit_session_start) OVER (
                PARTITION BY sessions.user_hash
                ORDER BY sessions.chainlit_session_start
                ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING
            )
        ) < 7 * 24 * 3600 AS has_come_back
    FROM sessions
    CROSS JOIN bounds
    WHERE sessions.chainlit_session_type = 'websocket'
)
SELECT
    period,
    count(*) AS opened,
    count(*) FILTER (WHERE has_written) AS wrote,
    count(*) FILTER (WHERE was_answered) AS answered,
    count(*) FILTER (WHERE has_written_again) AS wrote_again,
    count(*) FILTER (WHERE has_written_again AND is_known) AS known,
    count(*) FILTER (WHERE has_written_again AND is_known AND has_come_back) AS came_back
FROM followed
GROUP BY period
ORDER BY period
