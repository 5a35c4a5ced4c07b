"""Renders pages one at a time, in a thread, each for all requests that wait for one.

So no event loop is blocked by it, and a hundred scrapers cost little more than one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable
from concurrent.futures import Future
from threading import Lock, Thread

from prometheus_client import Metric as Family
from prometheus_client.registry import Collector

from chainlit_otel.server.rendering import Page, Wanted, render

# Seconds of pause for each second of work: requests in the pause share the next page.
_PAUSE = 2.0


class SharedPages:
    """Makes pages from what a collector has.

    Args:
        collector: A registry, or anything else that collects families.
    """

    def __init__(self, collector: Collector) -> None:
        self._collector = collector
        self._lock = Lock()
        self._queued: dict[Wanted, Future[Page]] = {}
        self._busy = False
        self._paused_until = 0.0

    async def page(self, wanted: Wanted) -> Page:
        """Return a page of what is there now.

        It is never one that is being rendered already, which may lack what has happened since.

        Args:
            wanted: What is wanted of it.

        Raises:
            RuntimeError: The collector has failed, or no thread can be started any more.
        """
        with self._lock:
            future = self._queued.setdefault(wanted, Future())
            if not self._busy:
                Thread(target=self._make, name="chainlit-otel-pages", daemon=True).start()
                self._busy = True
        # A request that is cancelled must not cancel the page of the others.
        return await asyncio.shield(asyncio.wrap_future(future))

    def _make(self) -> None:
        while True:
            # Where clocks are stepped this may raise, and without the thread nobody gets a page.
            with contextlib.suppress(OSError, OverflowError):
                time.sleep(max(0.0, self._paused_until - time.monotonic()))
            with self._lock:
                batch, self._queued = self._queued, {}
                if not batch:
                    self._busy = False
                    return
            began = time.monotonic()
            self._make_all(batch)
            now = time.monotonic()
            self._paused_until = now + _PAUSE * (now - began)

    def _make_all(self, batch: dict[Wanted, Future[Page]]) -> None:
        try:
            # One reading for all of them.
            collected = _Collected(self._collector.collect())
            pages = {wanted: render(collected, wanted) for wanted in batch}
        except BaseException as error:  # noqa: BLE001 - a collector may raise anything, SystemExit too
            for future in batch.values():
                failed = RuntimeError(f"the metrics could not be read: {type(error).__name__}")
                failed.__cause__ = error
                future.set_exception(failed)
        else:
            for wanted, future in batch.items():
                future.set_result(pages[wanted])


class _Collected(Collector):
    """Families that were collected already."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Family]:
        """Return the families."""
        return self._families
