"""The attributes, each with the closed set of its values, or open."""

from __future__ import annotations

from chainlit_otel.catalog.model import Attribute

SCOPE = "chainlit_otel"

# By which a synthetic visitor shows the token of the app. What records headers leaves out those
# with "token" in their name.
SYNTHETIC_HEADER = "Chainlit-Synthetic-Token"

OTHER = "other"
SESSION_TYPE = Attribute("chainlit.session.type", ("websocket", "http"))

CLIENT_TYPE = Attribute(
    "chainlit.client.type", ("webapp", "copilot", "teams", "slack", "discord", OTHER)
)
SESSION_ORIGIN = Attribute("chainlit.session.origin", ("new", "thread_resume"))
SESSION_STATE = Attribute("chainlit.session.state", ("connected", "disconnected"))

END_REASON = Attribute(
    "chainlit.session.end_reason", ("cleared", "timeout", "shutdown", "completed", OTHER)
)
PEAK_WINDOW = Attribute("chainlit.peak.window", ("15s", "1m", "5m", "1h", "process"))

LOOKUP_SITE = Attribute(
    "chainlit.lookup.site",
    ("action", "element", "feedback", "file_read", "file_upload", "mcp", "socket", OTHER),
)
TRANSPORT = Attribute("chainlit.connection.transport", ("websocket", "polling"))

CLOSE_REASON = Attribute(
    "chainlit.connection.close_reason",
    (
        "client_disconnect",
        "server_disconnect",
        "transport_close",
        "transport_error",
        "ping_timeout",
        "message_too_large",
        "shutdown",
        OTHER,
    ),
)
INBOUND_DROP_REASON = Attribute("error.type", ("too_large", "too_many", "malformed"))
OUTCOME = Attribute("chainlit.outcome", ("ok", "error", "cancelled"))
CHAT_PROFILE = Attribute("chainlit.chat_profile", is_open=True)
DIRECTION = Attribute("chainlit.message.direction", ("inbound", "outbound"))

CALLBACK_NAME = Attribute(
    "chainlit.callback.name",
    (
        "action_callbacks",
        "author_rename",
        "header_auth_callback",
        "oauth_callback",
        "on_app_shutdown",
        "on_app_startup",
        "on_audio_chunk",
        "on_audio_end",
        "on_audio_start",
        "on_chat_end",
        "on_chat_resume",
        "on_chat_start",
        "on_feedback",
        "on_logout",
        "on_mcp_connect",
        "on_mcp_disconnect",
        "on_message",
        "on_settings_edit",
        "on_settings_update",
        "on_shared_thread_view",
        "on_slack_reaction_added",
        "on_stop",
        "on_window_message",
        "password_auth_callback",
        "set_chat_profiles",
        "set_starter_categories",
        "set_starters",
        OTHER,
    ),
)
ACTION_NAME = Attribute("chainlit.action.name", is_open=True)

STEP_TYPE = Attribute(
    "chainlit.step.type",
    ("run", "tool", "llm", "embedding", "retrieval", "rerank", "undefined", OTHER),
)
STEP_NAME = Attribute("chainlit.step.name", is_open=True)
TOOL_NAME = Attribute("chainlit.tool.name", is_open=True)
REQUEST_MODEL = Attribute("gen_ai.request.model", is_open=True)
TOKEN_TYPE = Attribute(
    "chainlit.token.type", ("input", "output", "cache_read", "cache_write", "reasoning")
)
USAGE_STATE = Attribute("chainlit.usage.state", ("counted", "uncounted", "unpriced"))
WASTE = Attribute("chainlit.waste", ("error", "cancelled", "undelivered"))
ASK_TYPE = Attribute("chainlit.ask.type", ("text", "file", "action", "element", "call_fn", OTHER))
ASK_OUTCOME = Attribute("chainlit.outcome", ("answered", "timeout", "cancelled"))

EMIT_EVENT = Attribute(
    "chainlit.emit.event",
    (
        "new_message",
        "update_message",
        "step",
        "stream_start",
        "stream_token",
        "element",
        "ask",
        "call_fn",
        "audio",
    ),
)

# The events that send one message each; a token, an element or a part of a voice is no message.
MESSAGE_EVENTS = ("new_message", "update_message", "ask")

REFUSAL = Attribute(
    "error.type", ("authentication_failed", "authorization_failed", "missing_user_env", OTHER)
)

OPERATION = Attribute(
    "chainlit.data_layer.operation",
    (
        "create_element",
        "create_step",
        "create_user",
        "delete_element",
        "delete_feedback",
        "delete_step",
        "delete_thread",
        "get_element",
        "get_favorite_steps",
        "get_thread",
        "get_thread_author",
        "get_user",
        "list_threads",
        "set_step_favorite",
        "update_step",
        "update_thread",
        "upsert_feedback",
        OTHER,
    ),
)
DATA_LAYER_NAME = Attribute("chainlit.data_layer.name", is_open=True)

QUEUED_OPERATION = Attribute(
    OPERATION.key,
    ("create_element", "create_step", "delete_element", "delete_step", "update_step", OTHER),
)
CACHE_NAME = Attribute("chainlit.cache.name", is_open=True)
CACHE_RESULT = Attribute("chainlit.cache.result", ("hit", "miss"))
POOL_NAME = Attribute("db.client.connection.pool.name", is_open=True)
POOL_STATE = Attribute("db.client.connection.state", ("idle", "used"))

ACCESS_METHOD = Attribute(
    "chainlit.access.method",
    ("password", "header", "oauth", "jwt", "websocket", "thread", "rate_limit", OTHER),
)
ACCESS_RESULT = Attribute("chainlit.access.result", ("granted", "denied", "error"))
DENIAL_REASON = Attribute("error.type", is_open=True)
FEEDBACK_VALUE = Attribute("chainlit.feedback.value", ("positive", "negative", "deleted"))
SCORE_NAME = Attribute("chainlit.score.name", is_open=True)
FILE_DIRECTION = Attribute("chainlit.file.direction", ("upload", "element"))

RETAINED_KIND = Attribute(
    "chainlit.retained.kind", ("chat_contexts", "user_sessions", "sessions", "files")
)

INSTALLED_PROBE = Attribute(
    "chainlit_otel.probe",
    (
        "sessions",
        "sockets",
        "messages",
        "bots",
        "callbacks",
        "model_calls",
        "steps",
        "mcp",
        "data_layer",
        "access",
        "feedback",
        "files",
        "http",
        "event_loop",
        "lifecycle",
    ),
)

PROBE = Attribute(
    INSTALLED_PROBE.key,
    (*INSTALLED_PROBE.values, "pools", "caches", "records", "tracing", "server"),
)

OVERFLOW_ATTRIBUTE = Attribute(
    "chainlit_otel.attribute",
    (
        CLIENT_TYPE.key,
        CHAT_PROFILE.key,
        CALLBACK_NAME.key,
        ACTION_NAME.key,
        STEP_TYPE.key,
        STEP_NAME.key,
        TOOL_NAME.key,
        REQUEST_MODEL.key,
        OPERATION.key,
        DATA_LAYER_NAME.key,
        CACHE_NAME.key,
        POOL_NAME.key,
        ACCESS_METHOD.key,
        DENIAL_REASON.key,
        SCORE_NAME.key,
    ),
)
DROP_REASON = Attribute("chainlit_otel.drop_reason", ("name", "buckets", "value", "unsupported"))
EXPORT_SIGNAL = Attribute("chainlit_otel.signal", ("spans", "metrics", "logs"))

RECORD_KIND_ATTRIBUTE = Attribute(
    "chainlit_otel.record.kind", ("session.start", "session.end", "turn", "feedback", "score")
)
RECORD_DESTINATION = Attribute("chainlit_otel.record.destination", ("file", "log"))

LOSS = Attribute(
    "error.type", ("queue_full", "rejected", "redirect", "timeout", "unreachable", OTHER)
)
BOTS = ("slack", "teams", "discord")
