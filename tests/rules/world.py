"""A deployment in which all is well, as series for promtool."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Series = dict[str, str]
Rate = Iterable[tuple[float, int]]
"""What a counter grows by in each step, and for how many steps."""


@dataclass(frozen=True)
class Replica:
    """A replica for some time.

    Attributes:
        name: Its `instance` label.
        sessions: Session starts in each step, and for how many steps.
        restart: The step at which it starts anew; never if None.
        until: The step after which it and its target are gone; never if None.
    """

    name: str
    sessions: tuple[tuple[float, int], ...]
    restart: int | None = None
    until: int | None = None

    @property
    def steps(self) -> int:
        return sum(steps for _, steps in self.sessions)


# Of each session start: what else happens, and how often.
_COUNTERS = {
    'chainlit_session_starts_total{chainlit_session_type="websocket",'
    'chainlit_session_origin="new"}': 0.8,
    'chainlit_session_starts_total{chainlit_session_type="websocket",'
    'chainlit_session_origin="thread_resume"}': 0.2,
    'chainlit_session_reconnects_total{chainlit_client_type="webapp"}': 0.1,
    'chainlit_connection_rejected_total{error_type="authentication_failed"}': 0.01,
    'chainlit_access_attempts_total{chainlit_access_method="password",'
    'chainlit_access_result="granted"}': 1.0,
    'chainlit_access_attempts_total{chainlit_access_method="password",'
    'chainlit_access_result="denied"}': 0.1,
    'chainlit_access_attempts_total{chainlit_access_method="password",'
    'chainlit_access_result="error"}': 0.0,
    'chainlit_turn_duration_seconds_count{chainlit_outcome="ok"}': 5.0,
    'chainlit_turn_duration_seconds_count{chainlit_outcome="error"}': 0.005,
    'chainlit_turn_time_to_first_token_seconds_bucket{le="1.28"}': 4.9,
    'chainlit_turn_time_to_first_token_seconds_bucket{le="10.24"}': 4.98,
    'chainlit_turn_time_to_first_token_seconds_bucket{le="20.48"}': 5.0,
    'chainlit_turn_time_to_first_token_seconds_bucket{le="+Inf"}': 5.0,
    "chainlit_turn_time_to_first_token_seconds_count": 5.0,
    # Most sockets are those of tabs that are closed, and some of browsers that come back.
    "chainlit_connection_duration_seconds_count{"
    'chainlit_connection_close_reason="transport_close"}': 1.1,
    'chainlit_messages_total{chainlit_message_direction="outbound"}': 5.0,
    'chainlit_emit_dropped_total{chainlit_emit_event="update_message"}': 0.05,
    "chainlit_turn_undelivered_total": 0.02,
    'chainlit_tool_calls_total{chainlit_tool_name="search",chainlit_outcome="ok"}': 4.9,
    'chainlit_tool_calls_total{chainlit_tool_name="search",chainlit_outcome="error"}': 0.1,
    'chainlit_data_layer_operations_total{chainlit_data_layer_operation="create_step",'
    'chainlit_data_layer_name="SQLAlchemyDataLayer",chainlit_outcome="ok"}': 20.0,
    'chainlit_data_layer_operations_total{chainlit_data_layer_operation="create_step",'
    'chainlit_data_layer_name="SQLAlchemyDataLayer",chainlit_outcome="error"}': 0.01,
    "chainlit_data_layer_operation_duration_seconds_bucket{"
    'chainlit_data_layer_operation="create_step",le="0.01"}': 20.0,
    "chainlit_data_layer_operation_duration_seconds_bucket{"
    'chainlit_data_layer_operation="create_step",le="+Inf"}': 20.0,
    "chainlit_data_layer_operation_duration_seconds_count{"
    'chainlit_data_layer_operation="create_step"}': 20.0,
    'chainlit_session_lookup_misses_total{chainlit_lookup_site="file_upload"}': 0.01,
    "chainlit_event_loop_blocked_total": 0.0,
    "chainlit_event_loop_blocked_time_seconds_total": 0.0,
    'chainlit_otel_internal_errors_total{chainlit_otel_probe="steps"}': 0.0,
    'chainlit_otel_label_overflow_total{chainlit_otel_attribute="chainlit.client.type"}': 0.01,
    'chainlit_otel_export_dropped_total{chainlit_otel_signal="spans",error_type="timeout"}': 0.0,
    'chainlit_otel_records_dropped_total{chainlit_otel_record_destination="file"}': 0.0,
}
# A session is connected for five steps.
_GAUGES = {
    'chainlit_session_active{chainlit_session_type="websocket",'
    'chainlit_session_state="connected"}': 5.0,
    'chainlit_session_active{chainlit_session_type="websocket",'
    'chainlit_session_state="disconnected"}': 5.0,
    # One turn takes so long that somebody always waits.
    "chainlit_turn_active": 1.0,
    "chainlit_turn_oldest_waiting_seconds": 15.0,
    'db_client_connection_count{db_client_connection_pool_name="db",'
    'db_client_connection_state="used"}': 0.1,
}
_CONSTANTS = {
    "up": 1,
    'db_client_connection_max{db_client_connection_pool_name="db"}': 10,
    'chainlit_session_oldest_age_seconds{chainlit_session_type="websocket"}': 600,
    'chainlit_retained{chainlit_retained_kind="sessions"}': 0,
    'chainlit_retained{chainlit_retained_kind="chat_contexts"}': 100,
}
# Of a monitor, which is another job: what goes up by so much with each dialog, and what stays.
MONITOR_COUNTERS = {
    "probe_chat_probes_total": 1,
    'probe_chat_failures_total{kind="CheckFailed"}': 0,
}
MONITOR_CONSTANTS = {
    "probe_success": 1,
    "probe_chat_consecutive_failures": 0,
    "probe_chat_interval_seconds": 60,
}
LAST_DIALOG = "probe_chat_last_timestamp_seconds"


def series(*replicas: Replica, step: int) -> list[Series]:
    """The series of some replicas of one job, and of a monitor; a step takes `step` seconds."""
    steps = max(replica.steps for replica in replicas)
    return [
        *(one for replica in replicas for one in _of(replica, step)),
        *_of_monitor(steps, step),
    ]


def _of_monitor(steps: int, step: int) -> Iterator[Series]:
    slopes = {
        **MONITOR_COUNTERS,
        **dict.fromkeys(MONITOR_CONSTANTS, 0),
        LAST_DIALOG: step,
    }
    for name, slope in slopes.items():
        family, _, more = name.rstrip("}").partition("{")
        labels = 'job="monitor",instance="here",target="https://chat.example",dialog="greeting"'
        matchers = ",".join(filter(None, [labels, more]))
        first = MONITOR_CONSTANTS.get(name, 0)
        yield {"series": f"{family}{{{matchers}}}", "values": f"{first}+{slope}x{steps}"}


def _of(replica: Replica, step: int) -> Iterator[Series]:
    for name, share in _COUNTERS.items():
        rates = [(rate * share, steps) for rate, steps in replica.sessions]
        yield _series(name, replica, _counter(rates, replica))
    for name, share in _GAUGES.items():
        levels = [rate * share for rate, steps in replica.sessions for _ in range(steps)]
        yield _series(name, replica, _shown(levels, replica))
    for name, value in _CONSTANTS.items():
        yield _series(name, replica, _shown([value] * replica.steps, replica))
    restart = replica.restart or 0
    born = [0.0] * restart + [float(restart * step)] * (replica.steps - restart)
    yield _series("process_start_time_seconds", replica, _shown(born, replica))


def _series(name: str, replica: Replica, values: str) -> Series:
    labels = f'job="chat",instance="{replica.name}"'
    family, _, more = name.rstrip("}").partition("{")
    return {"series": f"{family}{{{','.join(filter(None, [labels, more]))}}}", "values": values}


def _counter(rates: Rate, replica: Replica) -> str:
    values: list[float] = []
    total = 0.0
    for rate, steps in rates:
        for _ in range(steps):
            if len(values) == replica.restart:
                total = 0.0
            values.append(total)
            total += rate
    return _shown(values, replica)


def _shown(values: list[float], replica: Replica) -> str:
    return " ".join(f"{value:.6g}" for value in values[: replica.until])
