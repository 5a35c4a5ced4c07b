"""What an app's `/metrics` said at one moment, and waiting for what it will say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from chainlit_otel import catalog

T = TypeVar("T")

POLL = 0.05

_OURS = {
    metric.prometheus_name + part
    for metric in catalog.METRICS
    for part in (("_bucket", "_count", "_sum") if metric.kind == "histogram" else ("",))
}


class Scrape:
    """The samples of one exposition in the Prometheus text format.

    They are read one after the other: what happens meanwhile may be in some of them only. So wait
    by one scrape for what has to have happened, and compare by another.

    Args:
        text: the body of the answer.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.families: dict[str, Metric] = {
            family.name: family for family in text_string_to_metric_families(text)
        }
        self._samples: dict[str, list[Sample]] = {}
        for family in self.families.values():
            for sample in family.samples:
                self._samples.setdefault(sample.name, []).append(sample)

    @property
    def series(self) -> frozenset[tuple[str, frozenset[tuple[str, str]]]]:
        """The identity of every series: name and labels."""
        return frozenset(
            (sample.name, frozenset(sample.labels.items()))
            for samples in self._samples.values()
            for sample in samples
        )

    def value(self, name: str, **labels: str) -> float:
        """The value of the one sample with exactly these labels.

        Raises:
            KeyError: there is none. A missing sample is not a zero.
        """
        for sample in self._samples.get(name, []):
            if sample.labels == labels:
                return float(sample.value)
        raise KeyError(f"{name}{labels}; there are: {self._known(name)}")

    def sum(self, name: str, **labels: str) -> float:
        """The sum over the samples of this name whose labels include these.

        Raises:
            KeyError: there is no sample of this name at all, and no metric of ours has it, which
                may be one that is there from its first event on.
        """
        if name not in self._samples and name not in _OURS:
            raise KeyError(f"{name}; there are: {sorted(self._samples)}")
        return sum(
            float(sample.value)
            for sample in self._samples.get(name, ())
            if labels.items() <= sample.labels.items()
        )

    def _known(self, name: str) -> list[dict[str, str]] | list[str]:
        return [sample.labels for sample in self._samples.get(name, [])] or sorted(self._samples)


def wait_until(condition: Callable[[], T], timeout: float, message: str, poll: float = POLL) -> T:
    """Ask `condition` again and again until it returns something true; return that.

    Args:
        condition: asked without arguments. A KeyError (a sample that is not there yet) is a no.
        timeout: seconds until giving up.
        message: says what was awaited.
        poll: seconds between two questions.

    Raises:
        TimeoutError: it was not true in time; the last answer is in the message.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer, said = _ask(condition)
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {message}; last: {said!r}")
        time.sleep(poll)


async def wait_until_async(
    condition: Callable[[], Awaitable[T]], timeout: float, message: str
) -> T:
    """Like `wait_until` for a coroutine function, leaving the event loop free meanwhile."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            answer: T | None = await condition()
            said: object = answer
        except KeyError as error:
            answer, said = None, error
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g} s for {message}; last: {said!r}")
        await asyncio.sleep(POLL)


def _ask(condition: Callable[[], T]) -> tuple[T | None, object]:
    try:
        answer = condition()
    except KeyError as error:
        return None, error
    return answer, answer
