-- Sessions and turns by client, by chat profile, by origin and by type.
WITH counted AS (
    SELECT
        period,
        coalesce(chainlit_client_type, '') AS client,
        coalesce(chainlit_chat_profile, '') AS profile,
        coalesce(chainlit_session_origin, '') AS origin,
        coalesce(chainlit_session_type, '') AS type,
        count(*) AS sessions,
        sum(chainlit_session_turns_started) AS turns
    FROM sessions
    GROUP BY period, client, profile, origin, type
),
named AS (
    SELECT period, 'client' AS dimension, client AS name, sessions, turns FROM counted
    UNION ALL
    SELECT period, 'profile' AS dimension, profile AS name, sessions, turns FROM counted
    UNION ALL
    SELECT period, 'origin' AS dimension, origin AS name, sessions, turns FROM counted
    UNION ALL
    SELECT period, 'type' AS dimension, type AS name, sessions, turns FROM counted
)
SELECT
    period,
    dimension,
    name,
    CAST(sum(sessions) AS BIGINT) AS sessions,
    CAST(coalesce(sum(turns), 0) AS BIGINT) AS turns
FROM named
GROUP BY period, dimension, name
ORDER BY period, dimension, sum(sessions) DESC, name
