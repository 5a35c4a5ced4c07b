"""One page at a time, for all who wait for it, of what is there when it is begun."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from threading import Event

import pytest
from prometheus_client import Metric as Family
from prometheus_client.registry import Collector

from chainlit_otel.server.rendering import Wanted
from chainlit_otel.server.sharing import SharedPages

TEXT, OPENMETRICS, ZIPPED = Wanted(), Wanted(openmetrics=True), Wanted(gzip=True)


class Counting(Collector):
    """Counts how often it was read; the first reading lasts until it is let go on."""

    def __init__(self) -> None:
        self.readings = 0
        self.reading = Event()
        self.goes_on = Event()
        self.error: BaseException | None = None

    def collect(self) -> Iterable[Family]:
        self.readings += 1
        self.reading.set()
        assert self.goes_on.wait(30)
        if self.error is not None:
            raise self.error
        family = Family("readings", "Readings so far.", "gauge")
        family.add_sample("readings", {}, self.readings)
        return [family]


async def first_of(pages: SharedPages, collector: Counting) -> asyncio.Task[object]:
    """Ask for a page and return when it is being made."""
    first = asyncio.ensure_future(pages.page(TEXT))
    await asyncio.to_thread(collector.reading.wait, 30)
    assert collector.readings == 1
    return first


async def test_those_who_wait_share_the_next_page() -> None:
    collector = Counting()
    pages = SharedPages(collector)
    first = await first_of(pages, collector)
    asked = [TEXT] * 100 + [OPENMETRICS] * 50 + [ZIPPED] * 50
    waiting = [asyncio.ensure_future(pages.page(wanted)) for wanted in asked]
    await asyncio.sleep(0)
    collector.goes_on.set()
    answers = await asyncio.gather(*waiting)

    assert b"\nreadings 1.0\n" in (await first).body  # type: ignore[attr-defined]
    # What came while the first was made may not be in it.
    assert collector.readings == 2
    assert {a.body for a in answers[:100]} == {answers[0].body}
    assert b"\nreadings 2.0\n" in answers[0].body
    assert answers[100].body.endswith(b"# EOF\n")
    assert answers[150].headers["Content-Encoding"] == "gzip"


async def test_one_who_goes_away_takes_nothing_from_the_others() -> None:
    collector = Counting()
    pages = SharedPages(collector)
    first = await first_of(pages, collector)
    impatient = asyncio.ensure_future(pages.page(TEXT))
    patient = asyncio.ensure_future(pages.page(TEXT))
    await asyncio.sleep(0)
    impatient.cancel()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await impatient
    collector.goes_on.set()
    assert b"\nreadings 2.0\n" in (await patient).body


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
async def test_a_reading_that_fails_fails_for_those_who_wait_and_stops_nothing(
    error: BaseException,
) -> None:
    collector = Counting()
    collector.error = error
    collector.goes_on.set()
    pages = SharedPages(collector)
    failed = await asyncio.gather(*(pages.page(TEXT) for _ in range(3)), return_exceptions=True)
    assert [str(f) for f in failed] == [
        f"the metrics could not be read: {type(error).__name__}"
    ] * 3
    collector.error = None
    # Those who come while one is failing wait for the next.
    failures = collector.readings
    assert 1 <= failures <= 3
    assert b"\nreadings %.1f\n" % (failures + 1) in (await pages.page(TEXT)).body


def test_pages_for_several_event_loops() -> None:
    collector = Counting()
    collector.goes_on.set()
    pages = SharedPages(collector)
    bodies = [asyncio.run(pages.page(TEXT)).body for _ in range(2)]
    assert [b"\nreadings 1.0\n" in bodies[0], b"\nreadings 2.0\n" in bodies[1]] == [True, True]
