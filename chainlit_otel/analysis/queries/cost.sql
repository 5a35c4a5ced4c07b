-- What turns used of models, over all, by chat profile, by what became of the turn, and by model. What
-- is added up is ordered, since sums of floats in another order differ in their last digits.
WITH of_turns AS (
    SELECT
        period,
        coalesce(chainlit_chat_profile, '') AS profile,
        CASE
            WHEN chainlit_outcome = 'error' THEN 'failed'
            WHEN chainlit_outcome = 'cancelled' THEN 'stopped'
            WHEN chainlit_turn_undelivered > 0 THEN 'not seen in full'
            ELSE 'answered'
        END AS became,
        coalesce(chainlit_turn_inferences, 0) AS calls,
        coalesce(chainlit_turn_uncounted, 0) AS uncounted,
        coalesce(chainlit_turn_unpriced, 0) AS unpriced,
        coalesce(chainlit_turn_input_tokens, 0) AS input,
        coalesce(chainlit_turn_output_tokens, 0) AS output,
        coalesce(chainlit_turn_cost, 0) AS amount
    FROM turns
),
used AS (SELECT period, unnest(chainlit_turn_models) AS model FROM turns),
of_models AS (
    SELECT
        period,
        model.name AS name,
        coalesce(model.inferences, 0) AS calls,
        coalesce(model.uncounted, 0) AS uncounted,
        coalesce(model.unpriced, 0) AS unpriced,
        coalesce(model.input_tokens, 0) AS input,
        coalesce(model.output_tokens, 0) AS output,
        coalesce(model.cost, 0) AS amount
    FROM used
),
rows_of_all AS (
    SELECT period, 'all' AS dimension, '' AS name, calls, uncounted, unpriced, input, output, amount
    FROM of_turns
    UNION ALL
    SELECT period, 'profile', profile, calls, uncounted, unpriced, input, output, amount FROM of_turns
    UNION ALL
    SELECT period, 'became', became, calls, uncounted, unpriced, input, output, amount FROM of_turns
    UNION ALL
    SELECT period, 'model', name, calls, uncounted, unpriced, input, output, amount FROM of_models
)
SELECT
    period,
    dimension,
    name,
    count(*) AS turns,
    count(*) FILTER (WHERE calls > 0) AS with_calls,
    CAST(sum(calls) AS BIGINT) AS calls,
    CAST(sum(uncounted) AS BIGINT) AS uncounted,
    CAST(sum(unpriced) AS BIGINT) AS unpriced,
    CAST(sum(input) AS BIGINT) AS input,
    CAST(sum(output) AS BIGINT) AS output,
    sum(amount ORDER BY amount) AS cost
FROM rows_of_all
GROUP BY period, dimension, name
ORDER BY period, dimension, cost DESC, name
