"""Every metric, attribute and closed label set that chainlit-otel emits. Data only.

Names are OpenTelemetry names. Their Prometheus form follows from the OpenTelemetry
rules and is what `Metric.prometheus_name` returns. Users, dashboards and alerts depend
on these names: a rename goes through one release that emits both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal

Kind = Literal["counter", "updowncounter", "gauge", "histogram"]
LabelSet = tuple[str, ...]

SCOPE = "chainlit_otel"
OTHER = "other"

# UCUM unit to the suffix of a Prometheus name; a unit in braces is an annotation and adds none.
# https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/
_UNIT_SUFFIXES = {
    "d": "days",
    "h": "hours",
    "min": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "By": "bytes",
    "KiBy": "kibibytes",
    "MiBy": "mebibytes",
    "GiBy": "gibibytes",
    "TiBy": "tibibytes",
    "KBy": "kilobytes",
    "MBy": "megabytes",
    "GBy": "gigabytes",
    "TBy": "terabytes",
    "m": "meters",
    "V": "volts",
    "A": "amperes",
    "J": "joules",
    "W": "watts",
    "g": "grams",
    "Cel": "celsius",
    "Hz": "hertz",
    "%": "percent",
}


def prometheus_name(name: str, unit: str, kind: Kind) -> str:
    """Return the Prometheus name of an OpenTelemetry metric.

    Args:
        name: The OpenTelemetry name, such as `chainlit.session.starts`.
        unit: The UCUM unit, such as `s`, `By` or `{session}`.
        kind: The kind of instrument.

    Returns:
        The name as the OpenTelemetry to Prometheus compatibility rules give it, with
        `_total` for a counter.
    """
    translated = _valid(name)
    for suffix in _suffixes(_ANNOTATION.sub("", unit), kind):
        if not translated.endswith("_" + suffix):
            translated = _valid(f"{translated}_{suffix}")
    return translated


_ANNOTATION = re.compile(r"\{[^}]*\}")


def _valid(name: str) -> str:
    valid = re.sub(r"[^a-zA-Z0-9:]+", "_", name)
    return "_" + valid if valid[:1].isdigit() else valid


def _suffixes(unit: str, kind: Kind) -> Iterable[str]:
    if unit == "1" and kind in ("gauge", "updowncounter"):
        yield "ratio"
    elif "/" in unit:
        quantity, per = (part.strip() for part in unit.split("/", 1))
        if quantity:
            yield _UNIT_SUFFIXES.get(quantity, quantity)
        if per:
            yield f"per_{_UNIT_SUFFIXES.get(per, per).removesuffix('s')}"
    elif unit and unit != "1":
        yield _UNIT_SUFFIXES.get(unit, unit)
    if kind == "counter":
        yield "total"


@dataclass(frozen=True)
class Attribute:
    """An attribute key and the closed set of its values."""

    key: str
    values: tuple[str, ...]

    @property
    def prometheus_label(self) -> str:
        """The Prometheus label of this attribute."""
        return self.key.replace(".", "_")


@dataclass(frozen=True)
class Metric:
    """One row of the catalogue.

    Attributes:
        name: OpenTelemetry name.
        kind: Kind of instrument.
        unit: UCUM unit; in braces what is counted.
        description: One sentence, shown as the help text.
        attributes: The attributes, in the order in which label values are given.
        bounds: Histogram bucket bounds, in `unit`.
        label_sets: Every combination of label values that can occur. All of them exist at
            zero from the start, because `rate()` loses the first event of a series that
            appears with it.
    """

    name: str
    kind: Kind
    unit: str
    description: str
    attributes: tuple[Attribute, ...] = ()
    bounds: tuple[float, ...] = ()
    label_sets: tuple[LabelSet, ...] = ((),)

    @property
    def prometheus_name(self) -> str:
        """The Prometheus name: the family of a histogram, the sample of anything else."""
        return prometheus_name(self.name, self.unit, self.kind)

    def labels(self, values: LabelSet) -> dict[str, str]:
        """Return the attributes of one label set, by their OpenTelemetry keys."""
        return {
            attribute.key: value for attribute, value in zip(self.attributes, values, strict=True)
        }


def _every(*attributes: Attribute) -> tuple[LabelSet, ...]:
    return tuple(product(*(attribute.values for attribute in attributes)))


PROBES = ("sessions", "sockets", "lifecycle")

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
        "shutdown",
        OTHER,
    ),
)
REFUSAL = Attribute(
    "error.type", ("authentication_failed", "authorization_failed", "missing_user_env", OTHER)
)
RETAINED_KIND = Attribute("chainlit.retained.kind", ("sessions",))
PROBE = Attribute("chainlit_otel.probe", (*PROBES, "server"))
INSTALLED_PROBE = Attribute("chainlit_otel.probe", PROBES)
FOLDED_ATTRIBUTE = Attribute("chainlit_otel.attribute", (CLIENT_TYPE.key,))

# An HTTP session has no socket to lose: nothing clears it and no grace time runs out.
_ENDS = tuple(
    (kind, client, reason)
    for kind, client, reason in _every(SESSION_TYPE, CLIENT_TYPE, END_REASON)
    if reason not in (("completed",) if kind == "websocket" else ("cleared", "timeout"))
)
# A live websocket session only; an HTTP session is never disconnected.
_STATES = tuple(
    labels
    for labels in _every(SESSION_TYPE, CLIENT_TYPE, SESSION_STATE)
    if (labels[0], labels[2]) != ("http", "disconnected")
)
_STARTS = tuple(
    labels
    for labels in _every(SESSION_TYPE, CLIENT_TYPE, SESSION_ORIGIN)
    if (labels[0], labels[2]) != ("http", "thread_resume")
)

# Sessions and connections, in seconds: from a bounce to a working day.
LIFETIME_BOUNDS = tuple(
    float(s) for s in (1, 5, 10, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800)
)

SESSION_STARTS = Metric(
    "chainlit.session.starts",
    "counter",
    "{session}",
    "Sessions started. A reconnect is not a start.",
    (SESSION_TYPE, CLIENT_TYPE, SESSION_ORIGIN),
    label_sets=_STARTS,
)
SESSION_ACTIVE = Metric(
    "chainlit.session.active",
    "updowncounter",
    "{session}",
    "Sessions that have started and not ended; disconnected ones wait for their user to come back.",
    (SESSION_TYPE, CLIENT_TYPE, SESSION_STATE),
    label_sets=_STATES,
)
SESSION_PEAK = Metric(
    "chainlit.session.peak",
    "gauge",
    "{session}",
    "Most websocket sessions connected at once, in the last closed and the current window.",
    (PEAK_WINDOW,),
    label_sets=_every(PEAK_WINDOW),
)
SESSION_ENDS = Metric(
    "chainlit.session.ends",
    "counter",
    "{session}",
    "Sessions ended.",
    (SESSION_TYPE, CLIENT_TYPE, END_REASON),
    label_sets=_ENDS,
)
SESSION_DURATION = Metric(
    "chainlit.session.duration",
    "histogram",
    "s",
    "Duration of ended sessions, from start to last disconnect.",
    (SESSION_TYPE, CLIENT_TYPE, END_REASON),
    LIFETIME_BOUNDS,
    _ENDS,
)
SESSION_TIME = Metric(
    "chainlit.session.time",
    "counter",
    "s",
    "Time spent in all sessions, open ones included; divided by the ends, the mean duration.",
    (SESSION_TYPE,),
    label_sets=_every(SESSION_TYPE),
)
SESSION_RECONNECTS = Metric(
    "chainlit.session.reconnects",
    "counter",
    "{reconnect}",
    "Sockets that took up a session that was already there.",
    (CLIENT_TYPE,),
    label_sets=_every(CLIENT_TYPE),
)
SESSION_OLDEST_AGE = Metric(
    "chainlit.session.oldest_age",
    "gauge",
    "s",
    "Age of the oldest session that has not ended; 0 when there is none.",
    (SESSION_TYPE,),
    label_sets=_every(SESSION_TYPE),
)
SESSION_LOOKUP_MISSES = Metric(
    "chainlit.session.lookup_misses",
    "counter",
    "{miss}",
    "Requests for a session that this process does not have: it is gone, or on another replica.",
    (LOOKUP_SITE,),
    label_sets=_every(LOOKUP_SITE),
)
CONNECTION_ACTIVE = Metric(
    "chainlit.connection.active",
    "updowncounter",
    "{connection}",
    "Socket.IO connections open.",
    (TRANSPORT,),
    label_sets=_every(TRANSPORT),
)
CONNECTION_DURATION = Metric(
    "chainlit.connection.duration",
    "histogram",
    "s",
    "Duration of closed Socket.IO connections.",
    (CLOSE_REASON,),
    LIFETIME_BOUNDS,
    _every(CLOSE_REASON),
)
CONNECTION_REJECTED = Metric(
    "chainlit.connection.rejected",
    "counter",
    "{connection}",
    "Socket.IO connections that Chainlit refused.",
    (REFUSAL,),
    label_sets=_every(REFUSAL),
)
RETAINED = Metric(
    "chainlit.retained",
    "gauge",
    "{object}",
    "Objects that Chainlit keeps for sessions that have ended.",
    (RETAINED_KIND,),
    label_sets=_every(RETAINED_KIND),
)
INTERNAL_ERRORS = Metric(
    "chainlit_otel.internal_errors",
    "counter",
    "{error}",
    "Errors of chainlit-otel itself, caught before they reached the application.",
    (PROBE,),
    label_sets=_every(PROBE),
)
PROBE_ENABLED = Metric(
    "chainlit_otel.probe.enabled",
    "gauge",
    "{probe}",
    "1 while the probe observes Chainlit, 0 when this version of Chainlit lacks its seam.",
    (INSTALLED_PROBE,),
    label_sets=_every(INSTALLED_PROBE),
)
LABEL_OVERFLOW = Metric(
    "chainlit_otel.label_overflow",
    "counter",
    "{value}",
    "Label values outside their set, recorded as `other`.",
    (FOLDED_ATTRIBUTE,),
    label_sets=_every(FOLDED_ATTRIBUTE),
)

METRICS: tuple[Metric, ...] = (
    SESSION_STARTS,
    SESSION_ACTIVE,
    SESSION_PEAK,
    SESSION_ENDS,
    SESSION_DURATION,
    SESSION_TIME,
    SESSION_RECONNECTS,
    SESSION_OLDEST_AGE,
    SESSION_LOOKUP_MISSES,
    CONNECTION_ACTIVE,
    CONNECTION_DURATION,
    CONNECTION_REJECTED,
    RETAINED,
    INTERNAL_ERRORS,
    PROBE_ENABLED,
    LABEL_OVERFLOW,
)
