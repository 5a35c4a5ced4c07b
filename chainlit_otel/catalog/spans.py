"""Names of spans, of their attributes that are no labels of metrics, and of events."""

SPAN_CONNECT = "chainlit.connect"
SPAN_DISCONNECT = "chainlit.disconnect"
SPAN_TURN = "chainlit.turn"
SPAN_CALLBACK = "chainlit.callback"
SPAN_STEP = "chainlit.step"
SPAN_ASK = "chainlit.ask"
SPAN_DATA_LAYER = "chainlit.data_layer"
SPAN_EVALUATION = "chainlit.evaluation"

# Attributes

SESSION_ID = "session.id"
CONVERSATION_ID = "gen_ai.conversation.id"
ERROR_TYPE = "error.type"
USER_ID = "user.id"
SYNTHETIC = "chainlit.synthetic"
TURN_INPUT = "chainlit.turn.input"
TURN_OUTPUT = "chainlit.turn.output"
CODE_FILE = "code.file.path"
CODE_LINE = "code.line.number"
CODE_FUNCTION = "code.function.name"
CODE_INNERMOST = "chainlit.code.innermost"
USER_AGENT_NAME = "user_agent.name"
STEP_INPUT = "chainlit.step.input"
STEP_OUTPUT = "chainlit.step.output"

# Events

EVENT_ACCESS_DENIED = "chainlit.access.denied"
EVENT_FIRST_TOKEN = "chainlit.first_token"
EVENT_SOCKET_GONE = "chainlit.socket_gone"
EVENT_SOCKET_BACK = "chainlit.socket_back"
EVENT_EVALUATION = "gen_ai.evaluation.result"
