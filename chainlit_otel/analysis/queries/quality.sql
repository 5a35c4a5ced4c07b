-- How turns went, over all and by chat profile.
WITH of_turns AS (
    SELECT
        period,
        coalesce(chainlit_chat_profile, '') AS profile,
        CASE WHEN chainlit_outcome = 'ok' THEN 1 ELSE 0 END AS answered,
        CASE WHEN chainlit_outcome = 'error' THEN 1 ELSE 0 END AS failed,
        CASE WHEN chainlit_outcome = 'cancelled' THEN 1 ELSE 0 END AS stopped,
        CASE WHEN chainlit_turn_source = 'edit' THEN 1 ELSE 0 END AS asked_again,
        CASE WHEN chainlit_turn_undelivered > 0 THEN 1 ELSE 0 END AS unseen,
        1 AS turn,
        0 AS positive,
        0 AS negative,
        chainlit_turn_time_to_first_token AS first_token
    FROM turns
),
of_feedback AS (
    SELECT
        period,
        coalesce(chainlit_chat_profile, '') AS profile,
        0 AS answered,
        0 AS failed,
        0 AS stopped,
        0 AS asked_again,
        0 AS unseen,
        0 AS turn,
        CASE WHEN chainlit_feedback_value = 'positive' THEN 1 ELSE 0 END AS positive,
        CASE WHEN chainlit_feedback_value = 'negative' THEN 1 ELSE 0 END AS negative,
        CAST(NULL AS DOUBLE) AS first_token
    FROM feedback
),
events AS (SELECT * FROM of_turns UNION ALL SELECT * FROM of_feedback)
SELECT
    period,
    'all' AS dimension,
    '' AS name,
    CAST(sum(turn) AS BIGINT) AS turns,
    CAST(sum(answered) AS BIGINT) AS answered,
    CAST(sum(failed) AS BIGINT) AS failed,
    CAST(sum(stopped) AS BIGINT) AS stopped,
    CAST(sum(asked_again) AS BIGINT) AS asked_again,
    CAST(sum(unseen) AS BIGINT) AS unseen,
    CAST(sum(positive) AS BIGINT) AS positive,
    CAST(sum(negative) AS BIGINT) AS negative,
    quantile_cont(first_token, 0.5) AS first_token_median,
    quantile_cont(first_token, 0.99) AS first_token_p99
FROM events
GROUP BY period
UNION ALL
SELECT
    period,
    'profile' AS dimension,
    profile AS name,
    CAST(sum(turn) AS BIGINT) AS turns,
    CAST(sum(answered) AS BIGINT) AS answered,
    CAST(sum(failed) AS BIGINT) AS failed,
    CAST(sum(stopped) AS BIGINT) AS stopped,
    CAST(sum(asked_again) AS BIGINT) AS asked_again,
    CAST(sum(unseen) AS BIGINT) AS unseen,
    CAST(sum(positive) AS BIGINT) AS positive,
    CAST(sum(negative) AS BIGINT) AS negative,
    quantile_cont(first_token, 0.5) AS first_token_median,
    quantile_cont(first_token, 0.99) AS first_token_p99
FROM events
GROUP BY period, profile
ORDER BY period, dimension, turns DESC, name
