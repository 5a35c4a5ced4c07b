-- How long websocket sessions last, as a Kaplan-Meier curve: a session that has not ended has lasted at
-- least as long as is known. With Greenwood's variance and limits on the log-log scale, at 95 %.
-- Of the curve, the first point of each step of half a percent is kept.
WITH lives AS (
    SELECT
        period,
        least(chainlit_session_duration, seconds_known) AS duration,
        NOT is_open AND chainlit_session_duration <= seconds_known AS is_over
    FROM sessions
    WHERE chainlit_session_type = 'websocket' AND seconds_known > 0
),
steps AS (
    SELECT
        period,
        duration,
        count(*) FILTER (WHERE is_over) AS ends,
        count(*) AS leaving
    FROM lives
    GROUP BY period, duration
),
at_risk AS (
    SELECT
        period,
        duration,
        ends,
        sum(leaving) OVER (PARTITION BY period ORDER BY duration DESC) AS n
    FROM steps
),
products AS (
    SELECT
        period,
        duration,
        ends,
        n,
        sum(CASE WHEN n > ends THEN ln(1 - ends / n) ELSE 0 END)
            OVER (PARTITION BY period ORDER BY duration) AS log_survival,
        sum(CASE WHEN n > ends THEN ends / (n * (n - ends)) ELSE 0 END)
            OVER (PARTITION BY period ORDER BY duration) AS variance
    FROM at_risk
),
curve AS (
    SELECT
        period,
        duration,
        n,
        CASE WHEN n > ends THEN round(exp(log_survival), 9) ELSE 0 END AS survival,
        CASE WHEN n > ends AND log_survival < 0 THEN
            round(exp(log_survival * exp(1.959963984540054 * sqrt(variance) / -log_survival)), 9)
        END AS lower_limit,
        CASE WHEN n > ends AND log_survival < 0 THEN
            round(exp(log_survival * exp(-1.959963984540054 * sqrt(variance) / -log_survival)), 9)
        END AS upper_limit
    FROM products
    WHERE ends > 0
)
SELECT
    period,
    min(duration) AS duration,
    max(n) AS at_risk,
    arg_min(survival, duration) AS survival,
    arg_min(lower_limit, duration) AS lower_limit,
    arg_min(upper_limit, duration) AS upper_limit
FROM curve
GROUP BY
    period,
    ceil(survival * 200),
    ceil(coalesce(lower_limit, 0) * 200),
    ceil(coalesce(upper_limit, 1) * 200)
ORDER BY period, min(duration)
