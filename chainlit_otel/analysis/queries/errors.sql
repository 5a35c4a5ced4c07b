-- Turns that failed, by exception and callback.
SELECT
    period,
    coalesce(error_type, '') AS error,
    coalesce(chainlit_callback_name, '') AS callback,
    count(*) AS turns,
    count(DISTINCT session_id) AS sessions
FROM turns
WHERE chainlit_outcome = 'error'
GROUP BY period, error, callback
ORDER BY period, turns DESC, error, callback
