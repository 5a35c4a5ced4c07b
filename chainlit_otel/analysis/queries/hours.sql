-- Sessions by weekday (1 is Monday) and hour of the day, in UTC.
SELECT
    period,
    isodow(chainlit_session_start) AS weekday,
    hour(chainlit_session_start) AS hour,
    count(*) AS sessions
FROM sessions
GROUP BY period, weekday, hour
ORDER BY period, weekday, hour
