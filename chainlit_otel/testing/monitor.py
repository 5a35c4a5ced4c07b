"""A dialog that is repeated day and night, and what came of it as metrics.

The names are those of Prometheus' blackbox_exporter, so that alerts and dashboards made for it work
(https://github.com/prometheus/blackbox_exporter).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from chainlit_otel.privacy import mask_url
from chainlit_otel.testing.dialog import Dialog
from chainlit_otel.testing.errors import (
    ConnectionLost,
    NoAnswer,
    Refused,
    Unreachable,
    VisitError,
)
from chainlit_otel.testing.load import Crowd, scripted
from chainlit_otel.testing.results import PHASES, CheckFailed, LoadReport
from chainlit_otel.testing.visit import Target

_LABELS = ("target", "dialog")
# A rate sees the first failure only of a series that was there before.
_KINDS = tuple(
    kind.__name__
    for kind in (CheckFailed, ConnectionLost, NoAnswer, Refused, Unreachable, VisitError)
)


@dataclass(frozen=True)
class Attempt:
    """One time that a dialog was tried.

    Attributes:
        at: when it ended, as seconds of the epoch.
        report: of its one visitor.
    """

    at: float
    report: LoadReport


class Monitor(Collector):
    """Repeats dialogs, each in an interval, and collects the metrics of the last of each.

    Args:
        target: where the visitors go.
        scripts: what they do; the names differ.
        interval: seconds from the start of a dialog to the start of the next of the same script. A
            longer one is followed by the next at once.
        on_probe: called with each dialog that has ended.
    """

    def __init__(
        self,
        target: Target,
        scripts: Iterable[Dialog],
        interval: float,
        on_probe: Callable[[Dialog, Attempt], None] = lambda script, attempt: None,
    ) -> None:
        self._target = target
        # An address may have the name and the password of a proxy in it.
        self._url = mask_url(target.url)
        self._scripts = tuple(scripts)
        self._interval = interval
        self._on_probe = on_probe
        self._last: dict[str, Attempt] = {}
        self._failures: Counter[tuple[str, str]] = Counter()
        self._probes = {script.name: 0 for script in self._scripts}
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    async def run(self) -> None:
        """Go on until it is cancelled."""
        await asyncio.gather(*(self._repeat(script) for script in self._scripts))

    async def probe(self, script: Dialog) -> Attempt:
        """Try a dialog once."""
        crowd = Crowd(self._target, scripted(script, [0.0], seed=self._probes[script.name]))
        try:
            await crowd.run()
        except Exception as error:  # noqa: BLE001 - a monitor that has ended sees nothing
            crowd.report.add_failure(VisitError(repr(error)), at=crowd.report.length, visitor=0)
        attempt = Attempt(time.time(), crowd.report)
        self._probes[script.name] += 1
        for failure in attempt.report.failures:
            self._failures[script.name, failure.kind] += 1
        self._last[script.name] = attempt
        self._on_probe(script, attempt)
        return attempt

    def collect(self) -> Iterator[Metric]:
        """Give the metrics, of the last probe of each dialog."""
        success = GaugeMetricFamily(
            "probe_success", "Whether the last dialog went as expected.", labels=_LABELS
        )
        duration = GaugeMetricFamily(
            "probe_duration_seconds", "How long the last dialog took.", labels=_LABELS
        )
        phases = GaugeMetricFamily(
            "probe_chat_duration_seconds",
            "The longest of each phase in the last dialog: connect, first_token, turn, reconnect.",
            labels=(*_LABELS, "phase"),
        )
        ended = GaugeMetricFamily(
            "probe_chat_last_timestamp_seconds", "When the last dialog ended.", labels=_LABELS
        )
        probes = CounterMetricFamily(
            "probe_chat_probes", "How many dialogs have ended.", labels=_LABELS
        )
        failures = CounterMetricFamily(
            "probe_chat_failures", "What went wrong, by kind.", labels=(*_LABELS, "kind")
        )
        for name, count in self._probes.items():
            probes.add_metric((self._url, name), count)
            for kind in _KINDS:
                failures.add_metric((self._url, name, kind), self._failures[name, kind])
        for name, last in self._last.items():
            labels = (self._url, name)
            success.add_metric(labels, float(last.report.succeeded))
            duration.add_metric(labels, last.report.length)
            ended.add_metric(labels, last.at)
            for phase in PHASES:
                if values := last.report.seconds_of(phase):
                    phases.add_metric((*labels, phase), max(values))
        yield from (success, duration, phases, ended, probes, failures)

    async def _repeat(self, script: Dialog) -> None:
        due = time.monotonic()
        while True:
            await self.probe(script)
            due = max(due + self._interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())
