"""Both ledgers of a run side by side: what the visitors have counted, and what the app has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from chainlit_otel import catalog
from chainlit_otel.testing.http import reason_of
from chainlit_otel.testing.results import LoadReport

_TIMEOUT = 10.0
_PAUSE = 0.25
_MOST_SCRAPES = 40
_NEEDED = catalog.SESSION_STARTS.prometheus_name
_TURNS = catalog.TURN_DURATION.prometheus_name

# Of a figure: its name, the counter of the app, its labels, and what the visitors have.
_Count = tuple[str, str, Mapping[str, str], Callable[[LoadReport], int]]

_COUNTS: tuple[_Count, ...] = (
    (
        "sessions",
        _NEEDED,
        {catalog.SESSION_TYPE.prometheus_label: "websocket"},
        lambda report: report.sessions,
    ),
    (
        "reconnects",
        catalog.SESSION_RECONNECTS.prometheus_name,
        {},
        lambda report: report.reconnects,
    ),
    ("turns", f"{_TURNS}_count", {}, lambda report: len(report.turns)),
    (
        "failed turns",
        f"{_TURNS}_count",
        {catalog.OUTCOME.prometheus_label: "error"},
        lambda report: sum(turn.failed for turn in report.turns),
    ),
    (
        "uploads",
        f"{catalog.FILE_SIZE.prometheus_name}_count",
        {catalog.FILE_DIRECTION.prometheus_label: "upload"},
        lambda report: report.uploads,
    ),
)
_SYNTHETIC = "synthetic"
# The app counts a synthetic session when it has ended.
_SYNTHETIC_COUNTS: tuple[_Count, ...] = (
    (
        f"{_SYNTHETIC} sessions",
        catalog.SYNTHETIC_SESSIONS.prometheus_name,
        {},
        lambda report: report.ended,
    ),
    (
        f"{_SYNTHETIC} turns",
        catalog.SYNTHETIC_TURNS.prometheus_name,
        {},
        lambda report: len(report.turns),
    ),
)
# Of each figure: the histogram of the app, and the times that the visitors have.
_MEANS: tuple[tuple[str, str, Callable[[LoadReport], list[float]]], ...] = (
    ("mean turn", _TURNS, lambda report: [turn.seconds for turn in report.turns]),
    (
        "mean first token",
        catalog.TIME_TO_FIRST_TOKEN.prometheus_name,
        lambda report: [turn.first_token for turn in report.turns if turn.first_token is not None],
    ),
)


class LedgerError(Exception):
    """The figures of the app cannot be had; the message says why, in one line."""


class LedgerRow(NamedTuple):
    """One figure of both.

    Attributes:
        figure: what it is.
        unit: ``s``, or empty for a count.
        visitors: by the visitors.
        app: by the app.
    """

    figure: str
    unit: str
    visitors: float
    app: float

    @property
    def difference(self) -> float:
        """By how much the figure of the app is higher."""
        return self.app - self.visitors


class AppLedger:
    """The counters of an app at one moment, as its `/metrics` shows them.

    Args:
        exposition: the text of `/metrics`.

    Raises:
        LedgerError: it is not that of an app with chainlit-otel.
    """

    def __init__(self, exposition: str) -> None:
        self._samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        try:
            for family in text_string_to_metric_families(exposition):
                for name, labels, value, *_ in family.samples:
                    self._samples.setdefault(name, []).append((labels, value))
        except ValueError:
            raise LedgerError("what it answers is no metrics") from None
        if _NEEDED not in self._samples:
            raise LedgerError(f"it has no {_NEEDED}: is chainlit_otel.enable() called in the app?")

    def sum(self, name: str, labels: Mapping[str, str]) -> float:
        """Return the sum of the samples of this name that have these labels."""
        return sum(
            value for those, value in self._samples.get(name, ()) if labels.items() <= those.items()
        )

    def has(self, name: str) -> bool:
        """Whether there is a sample of this name."""
        return name in self._samples

    @property
    def counts(self) -> tuple[float, ...]:
        """Everything that the visitors count, too."""
        every = (*_COUNTS, *_SYNTHETIC_COUNTS)
        return tuple(self.sum(name, labels) for _, name, labels, _ in every)


async def read_ledger(url: str) -> AppLedger:
    """Scrape the `/metrics` of an app.

    Raises:
        LedgerError: it cannot be read.
    """
    limit = aiohttp.ClientTimeout(total=_TIMEOUT)
    try:
        async with aiohttp.ClientSession(timeout=limit) as http, http.get(url) as response:
            if response.status != 200:
                raise LedgerError(f"cannot read {url}: it answers {response.status}")
            text = await response.text()
    except aiohttp.InvalidURL:
        raise LedgerError(
            f"{url!r} is not an address such as http://localhost:9464/metrics"
        ) from None
    except asyncio.TimeoutError:
        raise LedgerError(f"cannot read {url}: no answer within {_TIMEOUT:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise LedgerError(f"cannot read {url}: {reason_of(error)}") from None
    try:
        return AppLedger(text)
    except LedgerError as error:
        raise LedgerError(f"cannot read {url}: {error}") from None


async def read_final_ledger(url: str) -> AppLedger:
    """Scrape until two scrapes show the same, for ten seconds at most: the app may be at work yet.

    Raises:
        LedgerError: it cannot be read.
    """
    last = await read_ledger(url)
    for _ in range(_MOST_SCRAPES):
        await asyncio.sleep(_PAUSE)
        before, last = last, await read_ledger(url)
        if last.counts == before.counts:
            break
    return last


def compare(report: LoadReport, before: AppLedger, after: AppLedger) -> Sequence[LedgerRow]:
    """Return the figures that both the visitors and the app have; pure.

    Args:
        report: of the visitors.
        before: the ledger of the app before the first of them.
        after: that after the last.

    Raises:
        LedgerError: the app was started anew meanwhile.
    """
    if any(now < then for then, now in zip(before.counts, after.counts, strict=True)):
        raise LedgerError("the counters of the app began anew during the run: no comparison")

    def counted(counts: Sequence[_Count]) -> list[LedgerRow]:
        return [
            LedgerRow(
                figure,
                "",
                by_visitors(report),
                after.sum(name, labels) - before.sum(name, labels),
            )
            for figure, name, labels, by_visitors in counts
            if after.has(name)
        ]

    rows = counted(_COUNTS)
    synthetic = counted(_SYNTHETIC_COUNTS)
    if any(row.app for row in synthetic):
        rows += synthetic
    for figure, histogram, times in _MEANS:
        total, count = (
            after.sum(name, {}) - before.sum(name, {})
            for name in (f"{histogram}_sum", f"{histogram}_count")
        )
        if count and (seconds := times(report)):
            rows.append(LedgerRow(figure, "s", sum(seconds) / len(seconds), total / count))
    return rows


def remark(rows: Sequence[LedgerRow]) -> str:
    """Return a line that says why the figures of the app may be others than the visitors'."""
    if any(row.figure.startswith(_SYNTHETIC) for row in rows):
        return (
            "The app has visitors with its synthetic token in its synthetic figures, and in no "
            "other."
        )
    return "If others use the app meanwhile, its figures are higher."
