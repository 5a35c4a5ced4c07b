"""What a forked child inherits and must not use: held locks, connections to a backend, figures.

The SDK starts the threads of its processors and readers in every child, with the figures of the
parent still in them, and with exporters that share the connections of the parent.
"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

_PACKAGE = "chainlit_otel"


def renew_locks(roots: Iterable[Any]) -> None:
    """Release every lock of our objects, whichever thread of the parent held it.

    Args:
        roots: The objects to start from; all that they refer to is searched.
    """
    visited: set[int] = set()
    found = list(roots)
    while found:
        thing = found.pop()
        if id(thing) in visited:
            continue
        visited.add(id(thing))
        kind = type(thing)
        if kind.__module__ in ("_thread", "threading") and hasattr(thing, "_at_fork_reinit"):
            thing._at_fork_reinit()
        elif isinstance(thing, dict):
            found += thing.values()
        elif isinstance(thing, (list, tuple)):
            found += thing
        elif str(kind.__module__).startswith(_PACKAGE):
            found += getattr(thing, "__dict__", {}).values()
            names = (n for base in kind.__mro__ for n in getattr(base, "__slots__", ()))
            found += [getattr(thing, name, None) for name in names]


class RenewableReader(PeriodicExportingMetricReader):
    """Reads the metrics at intervals; in a forked child it has no thread until it is renewed."""

    def _at_fork_reinit(self) -> None:
        pass

    def renew(self) -> None:
        """Start to read, in a child that has inherited this."""
        self._export_lock = Lock()
        super()._at_fork_reinit()  # type: ignore[no-untyped-call]


def forget(provider: MeterProvider) -> None:
    """Clear what the parent has measured from a provider that a child has inherited.

    Its instruments stay, since the code that made them goes on to use them.
    """
    consumer: Any = provider._measurement_consumer
    consumer._lock = Lock()
    consumer._reader_storages = {
        reader: type(storage)(
            provider._sdk_config,
            reader._instrument_class_temporality,
            reader._instrument_class_aggregation,
        )
        for reader, storage in consumer._reader_storages.items()
    }
