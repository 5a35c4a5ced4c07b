-- Calls of tools: how many, how many failed, how long they took. What is added up is ordered, since
-- sums of floats in another order differ in their last digits.
WITH calls AS (SELECT period, unnest(chainlit_turn_tools) AS tool FROM turns)
SELECT
    period,
    tool.name AS name,
    count(*) AS calls,
    count(*) FILTER (WHERE tool.outcome = 'error') AS failed,
    quantile_cont(tool.duration, 0.5) AS median,
    quantile_cont(tool.duration, 0.99) AS p99,
    sum(tool.duration ORDER BY tool.duration) AS total
FROM calls
GROUP BY period, name
ORDER BY period, total DESC, name
