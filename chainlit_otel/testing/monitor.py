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

from chainlit_otel import catalog
from chainlit_otel.privacy import mask_url
from chainlit_otel.testing.dialog import Dialog
from chainlit_otel.testing.errors import VisitError
from chainlit_otel.testing.load import Crowd, scripted
from chainlit_otel.testing.results import PHASES, LoadReport
from chainlit_otel.testing.visit import Target


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
        self._consecutive_failures: Counter[str] = Counter()
        self._probes: Counter[str] = Counter()
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
        if attempt.report.succeeded:
            self._consecutive_failures[script.name] = 0
        else:
            self._consecutive_failures[script.name] += 1
        for failure in attempt.report.failures:
            self._failures[script.name, failure.kind] += 1
        self._last[script.name] = attempt
        self._on_probe(script, attempt)
        return attempt

    def collect(self) -> Iterator[Metric]:
        """Give the metrics, of the last probe of each dialog."""
        families = {row: _family(row) for row in catalog.MONITOR_METRICS}
        for script in self._scripts:
            labels = self._url, script.name
            families[catalog.MONITOR_PROBES].add_metric(labels, self._probes[script.name])
            # A rate sees the first failure only of a series that was there before.
            for kind in catalog.FAILURE_KIND.values:
                failures = self._failures[script.name, kind]
                families[catalog.MONITOR_FAILURES].add_metric((*labels, kind), failures)
            if last := self._last.get(script.name):
                for row, value in (
                    (catalog.MONITOR_SUCCESS, float(last.report.succeeded)),
                    (catalog.MONITOR_DURATION, last.report.length),
                    (catalog.MONITOR_CONSECUTIVE_FAILURES, self._consecutive_failures[script.name]),
                    (catalog.MONITOR_LAST_TIMESTAMP, last.at),
                    (catalog.MONITOR_INTERVAL, self._interval),
                ):
                    families[row].add_metric(labels, value)
                for phase in PHASES:
                    if values := last.report.seconds_of(phase):
                        longest = families[catalog.MONITOR_PHASE_DURATION]
                        longest.add_metric((*labels, phase), max(values))
        yield from families.values()

    async def _repeat(self, script: Dialog) -> None:
        due = time.monotonic()
        while True:
            await self.probe(script)
            due = max(due + self._interval, time.monotonic())
            await asyncio.sleep(due - time.monotonic())


def _family(row: catalog.Metric) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
    labels = [attribute.prometheus_label for attribute in row.attributes]
    return kind(row.prometheus_name, row.description, labels=labels)
