-- The ten sessions of this period with the most trouble: each failed turn and each bad feedback is
-- three points, each stopped turn one, and one more if some content was never seen.
WITH worst AS (
    SELECT
        service_instance_id,
        session_id,
        gen_ai_conversation_id AS conversation,
        user_hash,
        chainlit_session_start AS start,
        time AS end_time,
        is_open,
        chainlit_session_duration AS duration,
        chainlit_session_turns_started AS turns,
        chainlit_session_turns_error AS failed,
        chainlit_session_turns_cancelled AS stopped,
        chainlit_session_undelivered AS undelivered,
        chainlit_session_feedback_negative AS negative,
        3 * chainlit_session_turns_error
        + 3 * chainlit_session_feedback_negative
        + chainlit_session_turns_cancelled
        + CASE WHEN chainlit_session_undelivered > 0 THEN 1 ELSE 0 END AS points
    FROM sessions
    WHERE period = 'this'
    ORDER BY points DESC, chainlit_session_start, session_id
    LIMIT 10
),
-- An id may come back: what another session under it did is not of this one.
traces AS (
    SELECT
        turns.service_instance_id AS service_instance_id,
        turns.session_id AS session_id,
        worst.start AS start,
        arg_min(turns.trace_id, turns.chainlit_turn_start) AS trace_id
    FROM turns
    INNER JOIN worst
        ON worst.service_instance_id = turns.service_instance_id
        AND worst.session_id = turns.session_id
    WHERE
        (turns.chainlit_outcome <> 'ok' OR turns.chainlit_turn_undelivered > 0)
        AND turns.chainlit_turn_start >= worst.start
        AND CASE
            WHEN worst.is_open
                THEN date_diff('millisecond', worst.start, turns.chainlit_turn_start) / 1000.0
                <= worst.duration
            ELSE turns.chainlit_turn_start <= worst.end_time
        END
    GROUP BY turns.service_instance_id, turns.session_id, worst.start
)
SELECT
    worst.session_id AS session_id,
    worst.conversation AS conversation,
    traces.trace_id AS trace_id,
    worst.user_hash AS user_hash,
    worst.start AS start,
    worst.duration AS duration,
    worst.turns AS turns,
    worst.failed AS failed,
    worst.stopped AS stopped,
    worst.undelivered AS undelivered,
    worst.negative AS negative,
    worst.points AS points
FROM worst
LEFT JOIN traces
    ON traces.service_instance_id = worst.service_instance_id
    AND traces.session_id = worst.session_id
    AND traces.start = worst.start
WHERE worst.points > 0
ORDER BY worst.points DESC, worst.start, worst.session_id
