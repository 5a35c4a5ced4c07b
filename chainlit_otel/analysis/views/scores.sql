-- One row for each score that the app has given.
SELECT
    time,
    service_name,
    service_version,
    service_instance_id,
    session_id,
    chainlit_turn_number,
    trace_id,
    span_id,
    gen_ai_evaluation_name,
    gen_ai_evaluation_score_value,
    gen_ai_evaluation_score_label,
    chainlit_client_type,
    user_hash,
    chainlit_chat_profile,
    gen_ai_request_model
FROM records
WHERE kind = 'score'
