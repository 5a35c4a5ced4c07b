"""The dashboards, by their uid in Grafana."""

DASHBOARD_SESSIONS = "chainlit-sessions"
DASHBOARD_CONVERSATIONS = "chainlit-conversations"
DASHBOARD_DATA_LAYER = "chainlit-data-layer"
DASHBOARD_BEHAVIOUR = "chainlit-behaviour"
DASHBOARD_RUNTIME = "chainlit-runtime"
DASHBOARD_USAGE = "chainlit-usage"
DASHBOARD_OBJECTIVES = "chainlit-objectives"
