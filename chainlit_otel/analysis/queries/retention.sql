-- Of the users who were there first in a week, how many were there in each week after it. Whole weeks
-- alone count, from Monday to Monday.
WITH weeks AS (
    SELECT DISTINCT user_hash, date_trunc('week', chainlit_session_start) AS week
    FROM sessions
    WHERE user_hash IS NOT NULL
),
cohorts AS (SELECT user_hash, min(week) AS cohort FROM weeks GROUP BY user_hash)
SELECT
    CAST(cohorts.cohort AS DATE) AS cohort,
    CAST(round(date_diff('day', cohorts.cohort, weeks.week) / 7) AS BIGINT) AS weeks_later,
    count(*) AS users
FROM weeks
INNER JOIN cohorts ON cohorts.user_hash = weeks.user_hash
CROSS JOIN bounds
WHERE
    cohorts.cohort >= bounds.from_time
    AND date_diff('second', weeks.week, bounds.until_time) >= 7 * 24 * 3600
GROUP BY cohorts.cohort, weeks_later
ORDER BY cohort, weeks_later
