"""The metrics of `chainlit-otel monitor`, which no app has.

Success and duration have the names of Prometheus' blackbox_exporter, whose probes have no `dialog`.
"""

from __future__ import annotations

from chainlit_otel.catalog.model import Attribute, Metric

TARGET = Attribute("target", is_open=True)
DIALOG = Attribute("dialog", is_open=True)
PHASE = Attribute("phase", ("connect", "first_token", "turn", "reconnect"))
FAILURE_KIND = Attribute(
    "kind",
    ("CheckFailed", "ConnectionLost", "NoAnswer", "Refused", "Unreachable", "VisitError"),
)

MONITOR_SUCCESS = Metric(
    "probe.success",
    "gauge",
    "{dialog}",
    "Whether the last dialog went as expected: 1, else 0.",
    (TARGET, DIALOG),
)

MONITOR_DURATION = Metric(
    "probe.duration",
    "gauge",
    "s",
    "How long the last dialog took.",
    (TARGET, DIALOG),
)

MONITOR_PHASE_DURATION = Metric(
    "probe.chat.duration",
    "gauge",
    "s",
    "The longest of each phase in the last dialog.",
    (TARGET, DIALOG, PHASE),
)

MONITOR_CONSECUTIVE_FAILURES = Metric(
    "probe.chat.consecutive_failures",
    "gauge",
    "{dialog}",
    "How many dialogs have failed since the last that went as expected.",
    (TARGET, DIALOG),
)

MONITOR_LAST_TIMESTAMP = Metric(
    "probe.chat.last_timestamp",
    "gauge",
    "s",
    "When the last dialog ended.",
    (TARGET, DIALOG),
)

MONITOR_INTERVAL = Metric(
    "probe.chat.interval",
    "gauge",
    "s",
    "From the start of a dialog to the start of its next.",
    (TARGET, DIALOG),
)

MONITOR_PROBES = Metric(
    "probe.chat.probes",
    "counter",
    "{dialog}",
    "How many dialogs have ended.",
    (TARGET, DIALOG),
)

MONITOR_FAILURES = Metric(
    "probe.chat.failures",
    "counter",
    "{failure}",
    "What went wrong, by kind; a dialog may have several.",
    (TARGET, DIALOG, FAILURE_KIND),
)

MONITOR_METRICS = tuple(row for row in list(vars().values()) if isinstance(row, Metric))
"""Every row, in the order in which they stand here."""
