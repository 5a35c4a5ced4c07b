-- Scores by their name. What is added up is ordered, since sums of floats in another order differ in
-- their last digits.
SELECT
    period,
    gen_ai_evaluation_name AS name,
    count(*) AS scores,
    avg(gen_ai_evaluation_score_value ORDER BY gen_ai_evaluation_score_value) AS mean,
    stddev_samp(gen_ai_evaluation_score_value ORDER BY gen_ai_evaluation_score_value)
        AS deviation
FROM scores
WHERE gen_ai_evaluation_score_value IS NOT NULL
GROUP BY period, name
ORDER BY period, name
