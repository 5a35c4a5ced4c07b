-- One row for each session: those that have ended and, with `is_open`, those that have not.
--
-- An open session has lasted until the last record of its process, so far. A session whose socket is
-- gone stays open for the grace time, so that of the last grace time of a running process nobody
-- knows yet which sessions are over. `seconds_known` is how long after the start that is known.
--
-- What has ended started at the time of its start: by that, in milliseconds, both rows are found to be
-- of one session, whatever the clock did meanwhile, and however often an id was used.
WITH starts AS (
    SELECT
        *,
        date_diff('millisecond', CAST('1970-01-01 00:00:00' AS TIMESTAMP), time) AS start_number
    FROM records
    WHERE kind = 'session.start'
),
ended AS (SELECT * FROM records WHERE kind = 'session.end'),
instances AS (
    SELECT service_instance_id, max(time) AS last_time
    FROM records
    GROUP BY service_instance_id
),
ends AS (
    SELECT DISTINCT
        service_instance_id,
        session_id,
        date_diff(
            'millisecond', CAST('1970-01-01 00:00:00' AS TIMESTAMP), chainlit_session_start
        ) AS start_number,
        true AS is_over
    FROM ended
),
started AS (
    SELECT
        starts.service_instance_id AS service_instance_id,
        starts.session_id AS session_id,
        starts.time AS start_time
    FROM starts
    LEFT JOIN ends
        ON ends.service_instance_id = starts.service_instance_id
        AND ends.session_id = starts.session_id
        AND ends.start_number = starts.start_number
    WHERE ends.is_over IS NULL
),
-- A session whose end was lost was over when its id was used again.
replaced AS (
    SELECT
        started.service_instance_id AS service_instance_id,
        started.session_id AS session_id,
        started.start_time AS start_time,
        min(starts.time) AS next_time
    FROM started
    INNER JOIN starts
        ON starts.service_instance_id = started.service_instance_id
        AND starts.session_id = started.session_id
    WHERE starts.time > started.start_time
    GROUP BY started.service_instance_id, started.session_id, started.start_time
),
open_ones AS (
    SELECT
        started.service_instance_id AS service_instance_id,
        started.session_id AS session_id,
        started.start_time AS start_time,
        replaced.next_time AS next_time
    FROM started
    LEFT JOIN replaced
        ON replaced.service_instance_id = started.service_instance_id
        AND replaced.session_id = started.session_id
        AND replaced.start_time = started.start_time
),
-- Who changes their mind gives feedback on the same message again; the last counts.
last_given AS (
    SELECT service_instance_id, chainlit_feedback_message, max(time) AS last_time
    FROM records
    WHERE kind = 'feedback' AND chainlit_feedback_message IS NOT NULL
    GROUP BY service_instance_id, chainlit_feedback_message
),
-- What an open session has had so far.
so_far AS (
    SELECT
        events.service_instance_id AS service_instance_id,
        events.session_id AS session_id,
        open_ones.start_time AS start_time,
        count(*) FILTER (WHERE events.kind = 'turn') AS turns,
        count(*) FILTER (WHERE events.chainlit_outcome = 'ok') AS ok,
        count(*) FILTER (WHERE events.chainlit_outcome = 'error') AS error,
        count(*) FILTER (WHERE events.chainlit_outcome = 'cancelled') AS cancelled,
        CAST(sum(events.chainlit_turn_undelivered) AS BIGINT) AS undelivered,
        count(*) FILTER (WHERE events.chainlit_feedback_value = 'positive') AS positive,
        count(*) FILTER (WHERE events.chainlit_feedback_value = 'negative') AS negative,
        CAST(sum(events.chainlit_turn_inferences) AS BIGINT) AS inferences,
        CAST(sum(events.chainlit_turn_uncounted) AS BIGINT) AS uncounted,
        CAST(sum(events.chainlit_turn_unpriced) AS BIGINT) AS unpriced,
        CAST(sum(events.chainlit_turn_input_tokens) AS BIGINT) AS input_tokens,
        CAST(sum(events.chainlit_turn_output_tokens) AS BIGINT) AS output_tokens,
        CAST(sum(events.chainlit_turn_cache_read_tokens) AS BIGINT) AS cache_read_tokens,
        CAST(sum(events.chainlit_turn_cache_write_tokens) AS BIGINT) AS cache_write_tokens,
        CAST(sum(events.chainlit_turn_reasoning_tokens) AS BIGINT) AS reasoning_tokens,
        sum(events.chainlit_turn_cost) AS cost,
        min(events.chainlit_turn_start) AS first_turn,
        max(events.gen_ai_conversation_id) AS conversation
    FROM open_ones
    INNER JOIN (SELECT * FROM records WHERE kind IN ('turn', 'feedback')) AS events
        ON events.service_instance_id = open_ones.service_instance_id
        AND events.session_id = open_ones.session_id
    LEFT JOIN last_given
        ON last_given.service_instance_id = events.service_instance_id
        AND last_given.chainlit_feedback_message = events.chainlit_feedback_message
    WHERE
        events.time >= open_ones.start_time
        AND (open_ones.next_time IS NULL OR events.time < open_ones.next_time)
        AND (last_given.last_time IS NULL OR events.time = last_given.last_time)
    GROUP BY events.service_instance_id, events.session_id, open_ones.start_time
),
running AS (SELECT DISTINCT service_instance_id, true AS has_open FROM started),
grace AS (
    SELECT
        quantile_cont(
            date_diff('millisecond', chainlit_session_start, time) / 1000.0
            - chainlit_session_duration,
            0.5
        ) AS seconds
    FROM ended
    WHERE chainlit_session_end_reason = 'timeout'
),
known AS (
    SELECT
        instances.service_instance_id AS service_instance_id,
        instances.last_time AS last_time,
        CASE WHEN running.has_open THEN coalesce(grace.seconds, 0) ELSE 0 END AS unknown_seconds
    FROM instances
    CROSS JOIN grace
    LEFT JOIN running ON running.service_instance_id = instances.service_instance_id
)
SELECT
    ended.time AS time,
    ended.service_name AS service_name,
    ended.service_version AS service_version,
    ended.service_instance_id AS service_instance_id,
    ended.session_id AS session_id,
    ended.chainlit_session_type AS chainlit_session_type,
    ended.chainlit_client_type AS chainlit_client_type,
    ended.chainlit_session_origin AS chainlit_session_origin,
    ended.user_hash AS user_hash,
    ended.chainlit_chat_profile AS chainlit_chat_profile,
    ended.gen_ai_conversation_id AS gen_ai_conversation_id,
    ended.chainlit_session_start AS chainlit_session_start,
    false AS is_open,
    ended.chainlit_session_duration AS chainlit_session_duration,
    ended.chainlit_session_connected AS chainlit_session_connected,
    ended.chainlit_session_end_reason AS chainlit_session_end_reason,
    ended.chainlit_connection_close_reason AS chainlit_connection_close_reason,
    ended.chainlit_session_turns_started AS chainlit_session_turns_started,
    ended.chainlit_session_turns_ok AS chainlit_session_turns_ok,
    ended.chainlit_session_turns_error AS chainlit_session_turns_error,
    ended.chainlit_session_turns_cancelled AS chainlit_session_turns_cancelled,
    ended.chainlit_session_reconnects AS chainlit_session_reconnects,
    ended.chainlit_session_longest_gap AS chainlit_session_longest_gap,
    ended.chainlit_session_time_to_first_turn AS chainlit_session_time_to_first_turn,
    ended.chainlit_session_undelivered AS chainlit_session_undelivered,
    ended.chainlit_session_feedback_positive AS chainlit_session_feedback_positive,
    ended.chainlit_session_feedback_negative AS chainlit_session_feedback_negative,
    ended.chainlit_session_inferences AS chainlit_session_inferences,
    ended.chainlit_session_uncounted AS chainlit_session_uncounted,
    ended.chainlit_session_unpriced AS chainlit_session_unpriced,
    ended.chainlit_session_input_tokens AS chainlit_session_input_tokens,
    ended.chainlit_session_output_tokens AS chainlit_session_output_tokens,
    ended.chainlit_session_cache_read_tokens AS chainlit_session_cache_read_tokens,
    ended.chainlit_session_cache_write_tokens AS chainlit_session_cache_write_tokens,
    ended.chainlit_session_reasoning_tokens AS chainlit_session_reasoning_tokens,
    ended.chainlit_session_cost AS chainlit_session_cost,
    date_diff('millisecond', ended.chainlit_session_start, known.last_time) / 1000.0
    - known.unknown_seconds AS seconds_known
FROM ended
INNER JOIN known ON known.service_instance_id = ended.service_instance_id
UNION ALL
SELECT
    starts.time AS time,
    starts.service_name AS service_name,
    starts.service_version AS service_version,
    starts.service_instance_id AS service_instance_id,
    starts.session_id AS session_id,
    starts.chainlit_session_type AS chainlit_session_type,
    starts.chainlit_client_type AS chainlit_client_type,
    starts.chainlit_session_origin AS chainlit_session_origin,
    starts.user_hash AS user_hash,
    starts.chainlit_chat_profile AS chainlit_chat_profile,
    so_far.conversation AS gen_ai_conversation_id,
    starts.time AS chainlit_session_start,
    true AS is_open,
    date_diff(
        'millisecond', starts.time, coalesce(open_ones.next_time, known.last_time)
    ) / 1000.0 AS chainlit_session_duration,
    CAST(NULL AS DOUBLE) AS chainlit_session_connected,
    CAST(NULL AS VARCHAR) AS chainlit_session_end_reason,
    CAST(NULL AS VARCHAR) AS chainlit_connection_close_reason,
    CAST(coalesce(so_far.turns, 0) AS BIGINT) AS chainlit_session_turns_started,
    CAST(coalesce(so_far.ok, 0) AS BIGINT) AS chainlit_session_turns_ok,
    CAST(coalesce(so_far.error, 0) AS BIGINT) AS chainlit_session_turns_error,
    CAST(coalesce(so_far.cancelled, 0) AS BIGINT) AS chainlit_session_turns_cancelled,
    CAST(NULL AS BIGINT) AS chainlit_session_reconnects,
    CAST(NULL AS DOUBLE) AS chainlit_session_longest_gap,
    date_diff('millisecond', starts.time, so_far.first_turn) / 1000.0
        AS chainlit_session_time_to_first_turn,
    CAST(coalesce(so_far.undelivered, 0) AS BIGINT) AS chainlit_session_undelivered,
    CAST(coalesce(so_far.positive, 0) AS BIGINT) AS chainlit_session_feedback_positive,
    CAST(coalesce(so_far.negative, 0) AS BIGINT) AS chainlit_session_feedback_negative,
    so_far.inferences AS chainlit_session_inferences,
    so_far.uncounted AS chainlit_session_uncounted,
    so_far.unpriced AS chainlit_session_unpriced,
    so_far.input_tokens AS chainlit_session_input_tokens,
    so_far.output_tokens AS chainlit_session_output_tokens,
    so_far.cache_read_tokens AS chainlit_session_cache_read_tokens,
    so_far.cache_write_tokens AS chainlit_session_cache_write_tokens,
    so_far.reasoning_tokens AS chainlit_session_reasoning_tokens,
    so_far.cost AS chainlit_session_cost,
    date_diff('millisecond', starts.time, coalesce(open_ones.next_time, known.last_time)) / 1000.0
    - known.unknown_seconds AS seconds_known
FROM starts
INNER JOIN open_ones
    ON open_ones.service_instance_id = starts.service_instance_id
    AND open_ones.session_id = starts.session_id
    AND open_ones.start_time = starts.time
INNER JOIN known ON known.service_instance_id = starts.service_instance_id
LEFT JOIN so_far
    ON so_far.service_instance_id = starts.service_instance_id
    AND so_far.session_id = starts.session_id
    AND so_far.start_time = starts.time
