-- Sessions, distinct users and turns of each day.
WITH events AS (
    SELECT period, date_trunc('day', chainlit_session_start) AS day, user_hash, 1 AS is_session
    FROM sessions
    UNION ALL
    SELECT period, date_trunc('day', chainlit_turn_start) AS day, NULL AS user_hash, 0 AS is_session
    FROM turns
)
SELECT
    period,
    CAST(day AS DATE) AS day,
    count(*) FILTER (WHERE is_session = 1) AS sessions,
    count(DISTINCT user_hash) AS users,
    count(*) FILTER (WHERE is_session = 0) AS turns
FROM events
GROUP BY period, day
ORDER BY period, day
