"""Which alerts are only the echo of another one: Alertmanager notifies nobody of these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from chainlit_otel import catalog
from chainlit_otel.rules.alerts import PREFIX

_JOB = ("namespace", "job")


@dataclass(frozen=True)
class Inhibition:
    """While one alert fires, others say nothing new.

    Attributes:
        source: Name of the alert that fires, without the prefix.
        targets: Names of those that are its echo.
        reason: Why they are.
        of_source: Labels that the source must have, besides its name.
        of_targets: Labels that the targets must have.
        equal: Labels that must be the same in both.
    """

    source: str
    targets: tuple[str, ...]
    reason: str
    of_source: tuple[tuple[str, str], ...] = ()
    of_targets: tuple[tuple[str, str], ...] = ()
    equal: tuple[str, ...] = _JOB


INHIBITIONS = (
    Inhibition(
        "EventLoopBlocked",
        ("ReconnectStorm", "AnswersLost", "FirstTokenSlow", "DataLayerSlow", "ToolFailing"),
        "While the event loop stands still nobody gets a token, browsers give their connections "
        "up, operations wait to go on, and tools time out.",
    ),
    Inhibition(
        "StickinessLost",
        ("ReconnectStorm", "AnswersLost"),
        "Sockets that reach another replica do not find their session, and try again; answers go "
        "to the sockets that they had before.",
    ),
    Inhibition(
        "ReconnectStorm",
        ("AnswersLost",),
        "What is sent while a socket is gone is lost.",
    ),
    Inhibition(
        "ReconnectStorm",
        ("SessionSpike",),
        "Those who come are those who lost their connection.",
        of_targets=(("cause", "reconnect_storm"),),
    ),
    Inhibition(
        "SessionSpike",
        ("SessionRise",),
        "The rise is that of the spike.",
    ),
    *(
        Inhibition(
            name,
            (name,),
            "What burns a budget faster burns it over longer windows, too.",
            of_source=(("burn", faster),),
            of_targets=(("burn", slower),),
        )
        for name in ("TurnErrorBudgetBurn", "FirstTokenBudgetBurn", "DeliveryBudgetBurn")
        for faster, slower in (("fast", "slow"), ("fast", "sustained"), ("slow", "sustained"))
    ),
    Inhibition(
        "DeliveryBudgetBurn",
        ("AnswersLost",),
        "The turns that did not reach a browser are those of the lost messages.",
    ),
    Inhibition(
        "DataLayerErrors",
        ("DataLayerSlow",),
        "Operations that time out are slow.",
        equal=(*_JOB, catalog.DATA_LAYER_NAME.prometheus_label),
    ),
    Inhibition(
        "DialogFailing",
        ("DialogFailing",),
        "A dialog that came and went, and now fails every time, is one fault.",
        of_source=(("cause", "outage"),),
        of_targets=(("cause", "intermittent"),),
        equal=(*_JOB, catalog.TARGET.prometheus_label, catalog.DIALOG.prometheus_label),
    ),
)


def render_inhibitions() -> str:
    """Return the inhibitions as YAML, for the configuration of Alertmanager."""
    return "inhibit_rules:\n" + "".join(line + "\n" for one in INHIBITIONS for line in _lines(one))


def _lines(one: Inhibition) -> Iterator[str]:
    names = "|".join(PREFIX + target for target in one.targets)
    yield f"# {one.reason}"
    yield "- source_matchers:"
    yield f'  - alertname="{PREFIX}{one.source}"'
    yield from (f'  - {label}="{value}"' for label, value in one.of_source)
    yield "  target_matchers:"
    yield f'  - alertname{"=~" if len(one.targets) > 1 else "="}"{names}"'
    yield from (f'  - {label}="{value}"' for label, value in one.of_targets)
    yield f"  equal: [{', '.join(one.equal)}]"
