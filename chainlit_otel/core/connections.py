"""The ledger of the Socket.IO connections of this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from threading import Lock
from typing import Literal

from chainlit_otel.core.sessions import NS, Clock

Transport = Literal["websocket", "polling"]
OnClose = Callable[[str, float], None]
"""Called with the close reason and the duration in seconds."""


class Connection:
    """A handle on one connection; its fields belong to the ledger."""

    __slots__ = ("opened", "upgraded")

    def __init__(self, opened: int, upgraded: Callable[[], bool]) -> None:
        self.opened = opened
        self.upgraded = upgraded


class ConnectionLedger:
    """The ledger of all connections. Thread-safe.

    A connection of Socket.IO starts by polling and upgrades to a websocket a moment later. Nothing
    is called then, so each connection that still polls is checked at each reading.

    Args:
        on_close: Called for each connection that closed, after it was recorded.
        clock: Monotonic clock, in nanoseconds.
    """

    def __init__(self, on_close: OnClose, clock: Clock = time.monotonic_ns) -> None:
        self._on_close = on_close
        self._clock = clock
        self._lock = Lock()
        self._open: set[Connection] = set()
        self._polling: set[Connection] = set()
        self._rejected: Counter[tuple[str, ...]] = Counter()
        self._dropped: Counter[tuple[str, ...]] = Counter()

    def open(self, upgraded: Callable[[], bool]) -> Connection:
        """Open a connection and return its handle.

        Args:
            upgraded: Returns whether the connection is a websocket by now.
        """
        connection = Connection(self._clock(), upgraded)
        with self._lock:
            self._open.add(connection)
            self._polling.add(connection)
        return connection

    def close(self, connection: Connection, reason: str) -> None:
        """The connection is closed; closing it again changes nothing."""
        with self._lock:
            if connection not in self._open:
                return
            self._open.discard(connection)
            self._polling.discard(connection)
        self._on_close(reason, (self._clock() - connection.opened) / NS)

    def reject(self, reason: str) -> None:
        """A connection was refused."""
        with self._lock:
            self._rejected[(reason,)] += 1

    def drop(self, reason: str, packets: int = 1) -> None:
        """Packets that a browser sent were dropped before Chainlit got them."""
        with self._lock:
            self._dropped[(reason,)] += packets

    def close_all(self, reason: str) -> None:
        """Close every open connection."""
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            self.close(connection, reason)

    def active(self) -> dict[tuple[str, ...], int]:
        """Open connections, by transport."""
        with self._lock:
            self._polling = {c for c in self._polling if not c.upgraded()}
            polling = len(self._polling)
            return {("polling",): polling, ("websocket",): len(self._open) - polling}

    def rejected(self) -> dict[tuple[str, ...], int]:
        """Connections refused, by reason."""
        with self._lock:
            return dict(self._rejected)

    def dropped(self) -> dict[tuple[str, ...], int]:
        """Packets dropped, by reason."""
        with self._lock:
            return dict(self._dropped)
