-- How many turns an ended websocket session had.
SELECT
    period,
    least(chainlit_session_turns_started, 20) AS turns,
    count(*) AS sessions,
    CAST(sum(chainlit_session_turns_started) AS BIGINT) AS all_turns,
    quantile_cont(chainlit_session_time_to_first_turn, 0.5) AS first_turn_median
FROM sessions
WHERE chainlit_session_type = 'websocket' AND NOT is_open
GROUP BY period, turns
ORDER BY period, turns
