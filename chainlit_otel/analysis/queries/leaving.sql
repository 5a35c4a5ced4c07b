-- After which turn users leave, and how that depends on the time to the first token. A turn was the
-- last one if its session has ended without another; sessions that the server ended are left out.
WITH followed AS (
    SELECT
        turns.period AS period,
        turns.chainlit_turn_number AS number,
        turns.chainlit_turn_time_to_first_token AS first_token,
        turns.chainlit_turn_number >= sessions.chainlit_session_turns_started AS was_last
    FROM turns
    INNER JOIN sessions
        ON sessions.service_instance_id = turns.service_instance_id
        AND sessions.session_id = turns.session_id
    WHERE
        NOT sessions.is_open
        AND sessions.chainlit_session_type = 'websocket'
        AND sessions.chainlit_session_end_reason <> 'shutdown'
        AND turns.chainlit_turn_start >= sessions.chainlit_session_start
        AND turns.chainlit_turn_start <= sessions.time
),
counted AS (
    SELECT
        period,
        least(number, 10) AS turn,
        CASE
            WHEN first_token IS NULL THEN 99
            WHEN first_token < 0.5 THEN 0
            WHEN first_token < 1 THEN 1
            WHEN first_token < 2 THEN 2
            WHEN first_token < 4 THEN 3
            WHEN first_token < 8 THEN 4
            WHEN first_token < 16 THEN 5
            ELSE 6
        END AS wait,
        count(*) AS turns,
        count(*) FILTER (WHERE was_last) AS last_turns
    FROM followed
    GROUP BY period, turn, wait
),
named AS (
    SELECT period, 'turn' AS dimension, turn AS position, turns, last_turns FROM counted
    UNION ALL
    SELECT period, 'first_token' AS dimension, wait AS position, turns, last_turns FROM counted
)
SELECT
    period,
    dimension,
    position,
    CAST(sum(turns) AS BIGINT) AS turns,
    CAST(sum(last_turns) AS BIGINT) AS last_turns
FROM named
GROUP BY period, dimension, position
ORDER BY period, dimension, position
