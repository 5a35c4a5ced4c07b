"""What the app's functions do when they are asked for figures harms nobody else."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, current_thread
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.instruments import Telemetry
from chainlit_otel.resources import caches as caches_probe
from chainlit_otel.resources import pools as pools_probe
from chainlit_otel.resources import readings
from chainlit_otel.resources.caches import Caches
from chainlit_otel.resources.pools import Pools
from tests.conftest import InternalErrors

SHORT = 0.2


class Scraper:
    """Reads pools and caches as a provider of metrics does."""

    def __init__(self, pools: Pools | None = None, caches: Caches | None = None) -> None:
        self.pools, self.caches = pools or Pools(), caches or Caches()
        self.guards = {name: Guard(name) for name in ("server", "pools", "caches")}
        self._reader = InMemoryMetricReader()
        telemetry = Telemetry([MeterProvider([self._reader])], self.guards["server"])
        pools_probe.register_observables(telemetry, self.guards["pools"], self.pools)
        caches_probe.register_observables(telemetry, self.guards["caches"], self.caches)

    def scrape(self) -> dict[tuple[str, ...], int]:
        """Hits and misses, by cache and result."""
        data: Any = self._reader.get_metrics_data()
        points = [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == catalog.CACHE_LOOKUPS.name
            for point in metric.data.data_points
        ]
        return {tuple(point.attributes.values()): point.value for point in points}


def counted(calls: list[str], name: str, value: int = 1) -> Callable[[], int]:
    def count() -> int:
        calls.append(name)
        assert current_thread().name == "chainlit-otel-poller"
        return value

    return count


def test_each_function_is_called_once_a_reading() -> None:
    scraper = Scraper()
    calls: list[str] = []
    scraper.pools.watch("db", counted(calls, "pool"))
    scraper.caches.watch("own", (counted(calls, "hits", 3), counted(calls, "misses")))
    for reading in (1, 2, 3):
        assert scraper.scrape() == {("own", "hit"): 3, ("own", "miss"): 1}
        assert sorted(calls) == ["hits"] * reading + ["misses"] * reading + ["pool"] * reading


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), ValueError("of the app")])
def test_whatever_one_raises_stops_nothing(
    error: BaseException, expected_internal_errors: InternalErrors
) -> None:
    scraper = Scraper()

    def broken() -> int:
        raise error

    scraper.caches.watch("broken", (broken, broken))
    scraper.caches.watch("own", (lambda: 3, lambda: 1))
    assert scraper.scrape()["own", "hit"] == 3
    assert scraper.guards["caches"].errors == len(expected_internal_errors) == 1
    # Not even the app that gives another cache the same name.
    scraper.caches.watch("broken", (lambda: 2, lambda: 0))
    assert scraper.scrape()["broken", "hit"] == 2


def test_one_that_does_not_answer_is_left_alone_until_it_does(
    monkeypatch: pytest.MonkeyPatch, expected_internal_errors: InternalErrors
) -> None:
    monkeypatch.setattr(readings, "TIMEOUT", SHORT)
    scraper = Scraper()
    asked, goes_on, answered = [], Event(), Event()

    def slow() -> int:
        asked.append(1)
        goes_on.wait(30)
        return 7

    def last() -> int:
        answered.set()
        return 0

    scraper.caches.watch("slow", (slow, last))
    scraper.caches.watch("own", (lambda: 3, lambda: 1))
    scraper.scrape()
    (_, error) = expected_internal_errors[0]
    assert str(error) == "watch_cache('slow', …) did not answer within 0.2 s"
    for _ in range(3):
        assert scraper.scrape() == {
            ("own", "hit"): 3,
            ("own", "miss"): 1,
            ("slow", "hit"): 0,
            ("slow", "miss"): 0,
        }
    assert len(asked) == scraper.guards["caches"].errors == 1
    goes_on.set()
    answered.wait(30)
    while scraper.scrape()["slow", "hit"] != 7:
        pass
    assert scraper.guards["caches"].errors == 1


def test_the_connections_of_a_pool_that_does_not_answer_are_not_known(
    monkeypatch: pytest.MonkeyPatch, expected_internal_errors: InternalErrors
) -> None:
    class QueuePool:
        _max_overflow = 0

        def size(self) -> int:
            return 5

        def checkedin(self) -> int:
            return 2

        def checkedout(self) -> int:
            return 3

    QueuePool.__module__ = "sqlalchemy.pool"
    pool, goes_on, stuck = QueuePool(), Event(), Event()
    goes_on.set()
    guard, pools = Guard("pools"), Pools()

    def get() -> QueuePool:
        stuck.set()
        goes_on.wait(30)
        return pool

    pools.watch("db", get)
    pools.read(guard)
    assert pools.connections() == {("db", "used"): 3, ("db", "idle"): 2}
    monkeypatch.setattr(readings, "TIMEOUT", SHORT)
    goes_on.clear()
    pools.read(guard)
    assert (pools.connections(), pools.limits()) == ({}, {})
    goes_on.set()
    while not pools.connections():
        pools.read(guard)
    assert pools.limits() == {("db",): 5}
    assert len(expected_internal_errors) == 1


def test_what_goes_wrong_in_a_reading_is_of_the_probe_that_is_read(
    monkeypatch: pytest.MonkeyPatch, expected_internal_errors: InternalErrors
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    scraper = Scraper()
    monkeypatch.setattr(scraper.pools, "connections", fail)
    monkeypatch.setattr(scraper.caches, "read", fail)
    scraper = Scraper(scraper.pools, scraper.caches)
    scraper.scrape()
    assert {probe for probe, _ in expected_internal_errors} == {"pools", "caches"}
    assert scraper.guards["server"].errors == 0


def test_the_log_names_what_raised_and_not_what_it_said(
    caplog: pytest.LogCaptureFixture, expected_internal_errors: InternalErrors
) -> None:
    def broken() -> int:
        raise ValueError("what a user wrote")

    scraper = Scraper()
    scraper.caches.watch("own", (broken, broken))
    scraper.scrape()
    assert len(expected_internal_errors) == 1
    assert "watch_cache('own', …) raised ValueError" in caplog.text
    assert ", in broken" in caplog.text
    assert "what a user wrote" not in caplog.text
