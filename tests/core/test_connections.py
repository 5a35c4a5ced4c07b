from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.core.connections import Connection, ConnectionLedger
from tests.core.clocks import NS, SwitchingClock, hurried_threads

Closed = list[tuple[str, float]]


class Socket:
    """Stands for an Engine.IO socket: it begins by polling and may be upgraded."""

    def __init__(self) -> None:
        self.upgraded = False
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.upgraded


class Recorded:
    def __init__(self) -> None:
        self.now = 0
        self.closed: Closed = []
        self.ledger = ConnectionLedger(
            lambda reason, seconds: self.closed.append((reason, seconds)), lambda: self.now
        )

    @property
    def active(self) -> dict[str, int]:
        return {transport: n for (transport,), n in self.ledger.active().items()}


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_before_anything_happens_both_transports_are_there_at_zero(recorded: Recorded) -> None:
    assert recorded.active == {"polling": 0, "websocket": 0}
    assert recorded.ledger.rejected() == {}


def test_a_connection_polls_until_it_is_upgraded(recorded: Recorded) -> None:
    first, second = Socket(), Socket()
    recorded.ledger.open(first)
    recorded.ledger.open(second)
    assert recorded.active == {"polling": 2, "websocket": 0}
    second.upgraded = True
    assert recorded.active == {"polling": 1, "websocket": 1}
    first.upgraded = True
    assert recorded.active == {"polling": 0, "websocket": 2}


def test_an_upgraded_connection_is_not_asked_again(recorded: Recorded) -> None:
    socket = Socket()
    socket.upgraded = True
    recorded.ledger.open(socket)
    assert recorded.active == {"polling": 0, "websocket": 1}
    assert recorded.active == {"polling": 0, "websocket": 1}
    assert socket.asked == 1


def test_a_close_has_reason_and_duration(recorded: Recorded) -> None:
    recorded.now = 5 * NS
    connection = recorded.ledger.open(Socket())
    recorded.now += 90 * NS + 250_000_000
    recorded.ledger.close(connection, "transport_close")
    assert recorded.closed == [("transport_close", 90.25)]
    assert recorded.active == {"polling": 0, "websocket": 0}


def test_a_second_close_changes_nothing(recorded: Recorded) -> None:
    connection, other = recorded.ledger.open(Socket()), recorded.ledger.open(Socket())
    recorded.ledger.close(connection, "client_disconnect")
    recorded.now += NS
    recorded.ledger.close(connection, "ping_timeout")
    assert recorded.closed == [("client_disconnect", 0.0)]
    assert recorded.active == {"polling": 1, "websocket": 0}
    recorded.ledger.close(other, "client_disconnect")
    assert recorded.active == {"polling": 0, "websocket": 0}


def test_a_connection_closes_from_either_transport(recorded: Recorded) -> None:
    polling, websocket = Socket(), Socket()
    websocket.upgraded = True
    connections = [recorded.ledger.open(polling), recorded.ledger.open(websocket)]
    assert recorded.active == {"polling": 1, "websocket": 1}
    for connection in connections:
        recorded.ledger.close(connection, "transport_close")
    assert recorded.active == {"polling": 0, "websocket": 0}


def test_refusals_are_counted_by_reason(recorded: Recorded) -> None:
    for reason in ("authentication_failed", "other", "authentication_failed"):
        recorded.ledger.reject(reason)
    assert recorded.ledger.rejected() == {("authentication_failed",): 2, ("other",): 1}
    assert recorded.active == {"polling": 0, "websocket": 0}


def test_a_reading_is_a_copy(recorded: Recorded) -> None:
    recorded.ledger.reject("other")
    reading = recorded.ledger.rejected()
    reading[("other",)] = 7
    assert recorded.ledger.rejected() == {("other",): 1}


def test_at_shutdown_every_open_connection_closes_once(recorded: Recorded) -> None:
    gone = recorded.ledger.open(Socket())
    recorded.ledger.open(Socket())
    recorded.now += NS
    recorded.ledger.open(Socket())
    recorded.ledger.close(gone, "client_disconnect")
    recorded.now += NS
    recorded.ledger.close_all("shutdown")
    recorded.ledger.close_all("shutdown")
    assert sorted(recorded.closed) == [
        ("client_disconnect", 1.0),
        ("shutdown", 1.0),
        ("shutdown", 2.0),
    ]
    assert recorded.active == {"polling": 0, "websocket": 0}


@pytest.mark.timeout(60)
def test_what_is_called_at_a_close_may_read_the_ledger() -> None:
    readings: list[int] = []
    ledger = ConnectionLedger(lambda *_: readings.append(sum(ledger.active().values())))
    ledger.close(ledger.open(Socket()), "other")
    assert readings == [0]


def test_a_socket_that_cannot_be_asked_does_not_hold_the_ledger(recorded: Recorded) -> None:
    def broken() -> bool:
        raise RuntimeError("gone")

    connection = recorded.ledger.open(broken)
    with pytest.raises(RuntimeError, match="gone"):
        recorded.ledger.active()
    recorded.ledger.close(connection, "other")
    assert recorded.active == {"polling": 0, "websocket": 0}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["open", "upgrade", "close", "shutdown", "wait"]), st.integers(0, 9)
        ),
        max_size=60,
    )
)
def test_the_ledger_agrees_with_the_list_of_what_happened(events: list[tuple[str, int]]) -> None:
    recorded = Recorded()
    sockets: list[Socket] = []
    connections: list[Connection] = []
    opened: list[int] = []
    ends: dict[int, tuple[str, int]] = {}

    def still_open() -> Iterator[int]:
        return (n for n in range(len(opened)) if n not in ends)

    for what, which in events:
        if what == "wait":
            recorded.now += which * NS // 7
        elif what == "open":
            sockets.append(Socket())
            connections.append(recorded.ledger.open(sockets[-1]))
            opened.append(recorded.now)
        elif what == "shutdown":
            ends.update(dict.fromkeys(list(still_open()), ("shutdown", recorded.now)))
            recorded.ledger.close_all("shutdown")
        elif which < len(sockets) and what == "upgrade":
            sockets[which].upgraded = True
        elif which < len(sockets):
            ends.setdefault(which, ("other", recorded.now))
            recorded.ledger.close(connections[which], "other")
        websockets = sum(sockets[n].upgraded for n in still_open())
        assert recorded.active == {
            "websocket": websockets,
            "polling": sum(1 for _ in still_open()) - websockets,
        }
    assert sorted(recorded.closed) == sorted(
        (reason, (at - opened[n]) / NS) for n, (reason, at) in ends.items()
    )


def test_threads_lose_nothing() -> None:
    rounds, workers = 500, 4
    closed: Closed = []
    clock = SwitchingClock()
    ledger = ConnectionLedger(lambda reason, seconds: closed.append((reason, seconds)), clock)

    def work(seed: int) -> None:
        shuffled = random.Random(seed)
        mine: list[Connection] = []
        for _ in range(rounds):
            mine.append(ledger.open(lambda: True))
            ledger.reject("other")
            ledger.active()
            if shuffled.random() < 0.5:
                ledger.close(mine.pop(), "other")
        for connection in mine:
            ledger.close(connection, "other")
            ledger.close(connection, "other")

    with hurried_threads(), ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(work, seed) for seed in range(workers)]:
            future.result()
    assert len(closed) == rounds * workers
    assert ledger.rejected() == {("other",): rounds * workers}
    assert sum(ledger.active().values()) == 0
