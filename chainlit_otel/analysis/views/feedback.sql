-- One row for each time that feedback was given, changed or deleted.
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
    chainlit_chat_profile
FROM records
WHERE kind = 'feedback'
