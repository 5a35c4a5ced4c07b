-- How turns went by version of the service, in both periods together.
WITH of_turns AS (
    SELECT
        coalesce(service_version, '') AS version,
        min(chainlit_turn_start) AS first_seen,
        count(*) AS turns,
        count(*) FILTER (WHERE chainlit_outcome = 'error') AS failed,
        count(*) FILTER (WHERE chainlit_outcome = 'cancelled') AS stopped,
        count(*) FILTER (WHERE chainlit_turn_source = 'edit') AS asked_again,
        count(*) FILTER (WHERE chainlit_turn_undelivered > 0) AS unseen,
        quantile_cont(chainlit_turn_time_to_first_token, 0.5) AS first_token_median
    FROM turns
    GROUP BY version
),
of_feedback AS (
    SELECT
        coalesce(service_version, '') AS version,
        count(*) FILTER (WHERE chainlit_feedback_value = 'positive') AS positive,
        count(*) FILTER (WHERE chainlit_feedback_value = 'negative') AS negative
    FROM feedback
    GROUP BY version
)
SELECT
    of_turns.version AS version,
    of_turns.first_seen AS first_seen,
    of_turns.turns AS turns,
    of_turns.failed AS failed,
    of_turns.stopped AS stopped,
    of_turns.asked_again AS asked_again,
    of_turns.unseen AS unseen,
    coalesce(of_feedback.positive, 0) AS positive,
    coalesce(of_feedback.negative, 0) AS negative,
    of_turns.first_token_median AS first_token_median
FROM of_turns
LEFT JOIN of_feedback ON of_feedback.version = of_turns.version
ORDER BY first_seen, version
