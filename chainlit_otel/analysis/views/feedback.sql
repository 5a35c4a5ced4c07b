-- One row for each message with feedback: as it was given last, and none if it was deleted. Of feedback
-- whose message is not known, each is a row.
WITH numbered AS (
    SELECT
        *,
        row_number() OVER (
            PARTITION BY service_instance_id, chainlit_feedback_message
            ORDER BY time DESC
        ) AS nth_last
    FROM records
    WHERE kind = 'feedback'
)
SELECT
    time,
    service_name,
    service_version,
    service_instance_id,
    session_id,
    chainlit_turn_number,
    trace_id,
    span_id,
    chainlit_feedback_message,
    chainlit_feedback_value,
    chainlit_feedback_has_comment,
    chainlit_client_type,
    user_hash,
    chainlit_chat_profile,
    gen_ai_request_model,
    gen_ai_evaluation_name,
    gen_ai_evaluation_score_value,
    gen_ai_evaluation_score_label
FROM numbered
WHERE
    chainlit_feedback_message IS NULL
    OR (nth_last = 1 AND chainlit_feedback_value <> 'deleted')
