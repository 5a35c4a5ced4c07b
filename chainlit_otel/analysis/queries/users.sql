-- Users with a hash, by the number of days on which they were there, and how many of them were
-- there in the period before as well.
WITH by_user AS (
    SELECT
        period,
        user_hash,
        count(*) AS sessions,
        count(DISTINCT date_trunc('day', chainlit_session_start)) AS days
    FROM sessions
    WHERE user_hash IS NOT NULL
    GROUP BY period, user_hash
),
earlier AS (SELECT user_hash, true AS was_there FROM by_user WHERE period = 'before')
SELECT
    by_user.period AS period,
    least(by_user.days, 7) AS days,
    count(*) AS users,
    CAST(sum(by_user.sessions) AS BIGINT) AS sessions,
    count(*) FILTER (WHERE by_user.period = 'this' AND earlier.was_there) AS seen_before
FROM by_user
LEFT JOIN earlier ON earlier.user_hash = by_user.user_hash
GROUP BY by_user.period, least(by_user.days, 7)
ORDER BY by_user.period, least(by_user.days, 7)
