"""From which values on something is wrong: for the alerts, the panels and the live page."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from chainlit_otel.catalog import CALLBACK_BOUNDS, TURN_BOUNDS

# Burn rates: how many times faster than sustainable the error budget is used up. 2 % of it in an
# hour, 5 % in six, as in the Site Reliability Workbook, chapter 5, and 15 % in three days: at its
# 10 %, which is less than what 28 days allow, an app that just meets its objective comes and goes.
# https://sre.google/workbook/alerting-on-slos/
PERIOD_DAYS = 28
FAST_BURN = 0.02 * PERIOD_DAYS * 24
SLOW_BURN = 0.05 * PERIOD_DAYS * 4
SUSTAINED_BURN = 0.15 * PERIOD_DAYS / 3


def _threshold(
    default: float,
    help: str,
    lowest: float = 0.0,
    highest: float = 1e9,
    choices: tuple[float, ...] = (),
) -> Any:
    metadata = {"help": help, "lowest": lowest, "highest": highest, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Thresholds:
    """When the alerts fire.

    Raises:
        ValueError: A value is out of its range.
    """

    spike_factor: float = _threshold(
        3.0, "Session starts, compared with the hour before, that are a spike.", 1.0
    )
    spike_usual_factor: float = _threshold(
        2.0, "Session starts, compared with what is usual at this time, that are a spike.", 1.0
    )
    spike_sessions: float = _threshold(15, "Fewer starts in 5 minutes are no spike.", 1)
    rise_factor: float = _threshold(
        2.5, "Session starts, compared with what is usual at this time, that are a rise.", 1.0
    )
    rise_sessions: float = _threshold(15, "Fewer starts in 30 minutes are no rise.", 1)
    drop_factor: float = _threshold(
        0.1, "Session starts, compared with the same time of last weeks, that are a drop.", 0, 1
    )
    drop_sessions: float = _threshold(
        6, "Fewer starts in the same 10 minutes of last weeks are no drop.", 1
    )
    reconnects: float = _threshold(
        0.2, "Reconnects in 5 minutes for each connected session that are a storm."
    )
    reconnects_least: float = _threshold(20, "Fewer reconnects are no storm.", 1)
    lost_at_once: float = _threshold(
        0.6, "Share of sockets lost within 2 minutes that were cut, not left.", 0, 1
    )
    lost_at_once_least: float = _threshold(
        5, "Fewer sockets that were lost within 2 minutes, and came back, are no storm.", 1
    )
    reconnects_of_session: float = _threshold(
        1.0, "Reconnects in 30 minutes for each session there was that are a storm."
    )
    rejected: float = _threshold(0.05, "Share of connections refused.", 0, 1)
    rejected_least: float = _threshold(10, "Fewer refusals in 15 minutes do not count.", 1)
    sign_in_denied: float = _threshold(0.5, "Share of sign-ins denied.", 0, 1)
    sign_in_denied_least: float = _threshold(20, "Fewer denials in 15 minutes do not count.", 1)
    sign_in_errors: float = _threshold(
        3, "Sign-ins in 15 minutes that the backend could not check.", 1
    )
    capacity_sessions: float = _threshold(500, "Connected sessions that one replica can hold.", 1)
    capacity_ratio: float = _threshold(0.8, "Part of the capacity that is near it.", 0, 1)
    leaked_sessions: float = _threshold(
        10, "Sessions that Chainlit keeps for an hour after their end.", 1
    )
    leaked_contexts: float = _threshold(
        10_000, "Chat contexts that Chainlit keeps for sessions that are gone.", 1
    )
    # The fast alert fires at 13.44 times the budget, which must not be more than all turns.
    turn_objective: float = _threshold(0.99, "Share of turns that should not fail.", 0.94, 0.9999)
    first_token_objective: float = _threshold(
        0.95, "Share of turns whose first token should come in time.", 0.94, 0.9999
    )
    # How many came in time is the count of a bucket.
    first_token_within: float = _threshold(
        10.24,
        "Seconds within which a first token is in time; a bound of its histogram.",
        choices=TURN_BOUNDS,
    )
    delivery_objective: float = _threshold(
        0.99, "Share of turns that should reach a browser.", 0.94, 0.9999
    )
    turn_errors_least: float = _threshold(
        30, "Fewer turns in an hour that miss an objective do not count.", 1
    )
    turn_errors_least_slow: float = _threshold(
        30, "Fewer turns in six hours that miss an objective do not count.", 1
    )
    # An estimated quantile is never above the last bound of its histogram.
    first_token_seconds: float = _threshold(
        10.0, "Seconds to the first token, 90th percentile.", 0, TURN_BOUNDS[-2]
    )
    first_token_turns: float = _threshold(10, "Fewer turns in 10 minutes do not count.", 1)
    waiting_turns: float = _threshold(
        5, "Fewer turns in 10 minutes without a first word do not count.", 1
    )
    stalls: float = _threshold(3, "Stalls of the event loop in 10 minutes.", 1)
    stalled: float = _threshold(
        0.05, "Share of 10 minutes for which the event loop stood still.", 0, 1
    )
    lost_ratio: float = _threshold(
        0.05, "Share of messages that were sent to a socket that is gone.", 0, 1
    )
    lost_least: float = _threshold(10, "Fewer lost messages in 15 minutes do not count.", 1)
    data_layer_errors: float = _threshold(0.01, "Share of data layer operations failed.", 0, 1)
    data_layer_errors_least: float = _threshold(5, "Fewer errors in 10 minutes do not count.", 1)
    data_layer_seconds: float = _threshold(
        1.0, "Seconds of a data layer operation, 95th percentile.", 0, CALLBACK_BOUNDS[-2]
    )
    data_layer_operations: float = _threshold(20, "Fewer operations in 10 minutes do not count.", 1)
    tool_errors: float = _threshold(0.2, "Share of the calls of a tool that failed.", 0, 1)
    tool_errors_least: float = _threshold(
        5, "Fewer failed calls of a tool in 15 minutes do not count.", 1
    )
    cost_budget_day: float = _threshold(
        0, "US dollars that the model calls of a day may cost; 0 is no budget, and no alert."
    )
    pool_ratio: float = _threshold(0.9, "Part of a connection pool in use.", 0, 1)
    lookup_misses: float = _threshold(
        10, "Sessions asked for in 10 minutes on a replica that does not have them.", 1
    )
    label_overflow: float = _threshold(
        1000, "Label values recorded as `other` in 15 minutes that hide something.", 1
    )
    dialogs_in_a_row: float = _threshold(
        3, "Dialogs of a monitor in a row that failed, from every place, that are an outage.", 1
    )
    dialog_failed: float = _threshold(
        0.2,
        "Share of an hour for which a dialog of a monitor that comes and goes has failed.",
        0,
        1,
    )
    dialog_failed_least: float = _threshold(
        3, "Fewer times in an hour that a dialog of a monitor began to fail do not count.", 1
    )
    monitor_late: float = _threshold(
        900, "Seconds by which the dialogs of a monitor that has stopped are late.", 1
    )

    def __post_init__(self) -> None:
        """Check every value."""
        for f in fields(self):
            lowest, highest = f.metadata["lowest"], f.metadata["highest"]
            choices, value = f.metadata["choices"], getattr(self, f.name)
            if choices and value not in choices:
                among = ", ".join(f"{choice:g}" for choice in choices)
                raise ValueError(f"threshold {f.name} is {value:g}: must be one of {among}")
            if not lowest <= value <= highest:
                raise ValueError(
                    f"threshold {f.name} is {value:g}: must be from {lowest:g} to {highest:g}"
                )
