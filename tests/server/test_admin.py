"""The admin server answers those who ask, whoever keeps it busy, and nobody by a foreign name."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager, suppress

import pytest
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from chainlit_otel.server import admin
from chainlit_otel.server.admin import AdminServer
from tests.support.scrape import wait_until

NEVER = 1000.0
SOON = 0.2


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Few connections, none of which is given up by itself."""
    monkeypatch.setattr(admin, "_MOST_CONNECTIONS", 3)
    monkeypatch.setattr(admin, "_HEADER_TIMEOUT", NEVER)
    monkeypatch.setattr(admin, "_ANSWER_TIMEOUT", NEVER)
    monkeypatch.setattr(admin, "_GRACE", NEVER)
    monkeypatch.setattr(admin, "_END_TIMEOUT", SOON)
    return monkeypatch


@contextmanager
def serving(app: ASGIApp, host: str = "127.0.0.1", **kwargs: object) -> Iterator[AdminServer]:
    server = AdminServer(app, host, 0, **kwargs)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.stop()
        assert not server._thread.is_alive()


def connect(server: AdminServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def open_connections(server: AdminServer) -> int:
    return len(server._server.server_state.connections)


def answer(connection: socket.socket) -> bytes:
    """All that is sent until the other side closes."""
    received = bytearray()
    with suppress(ConnectionResetError):
        while data := connection.recv(65536):
            received += data
    return bytes(received)


def ask(server: AdminServer, host: str | None = "localhost", version: str = "1.1") -> bytes:
    with connect(server) as connection:
        name = "" if host is None else f"Host: {host}\r\n"
        connection.sendall(f"GET / HTTP/{version}\r\n{name}Connection: close\r\n\r\n".encode())
        return answer(connection)


HELLO = PlainTextResponse("hello")


def half_sent(server: AdminServer, stack: ExitStack) -> socket.socket:
    before = open_connections(server)
    connection = stack.enter_context(connect(server))
    connection.sendall(b"GET / HTTP/1.1\r\nHost: local")
    wait_until(lambda: open_connections(server) > before, 60, "the connection")
    return connection


def test_half_sent_requests_make_room(patient: pytest.MonkeyPatch) -> None:
    patient.setattr(admin, "_GRACE", -1.0)
    with serving(HELLO) as server, ExitStack() as stack:
        silent = [half_sent(server, stack) for _ in range(3)]
        assert ask(server).endswith(b"hello")
        assert answer(silent[0]) == b"", "the oldest one is closed"
        assert open_connections(server) == 2


def test_one_too_many_is_answered_with_an_error(patient: pytest.MonkeyPatch) -> None:
    with serving(HELLO) as server, ExitStack() as stack:
        silent = [half_sent(server, stack) for _ in range(3)]
        with connect(server) as refused:
            assert answer(refused).startswith(b"HTTP/1.1 503 ")
        silent[0].sendall(b"host\r\nConnection: close\r\n\r\n")
        assert answer(silent[0]).endswith(b"hello"), "it was not closed for the sake of another"
        wait_until(lambda: open_connections(server) == 2, 60, "the end of that one")
        assert ask(server).endswith(b"hello")


def test_a_header_that_does_not_come_is_not_waited_for(patient: pytest.MonkeyPatch) -> None:
    patient.setattr(admin, "_HEADER_TIMEOUT", SOON)
    with serving(HELLO) as server, ExitStack() as stack:
        assert answer(half_sent(server, stack)) == b""
        with connect(server) as silent:
            assert answer(silent) == b""
        assert open_connections(server) == 0


def test_an_answer_that_nobody_reads_is_given_up(patient: pytest.MonkeyPatch) -> None:
    patient.setattr(admin, "_ANSWER_TIMEOUT", SOON)
    huge = Response(b"x" * 50_000_000)
    with serving(huge) as server, connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2)
        wait_until(lambda: open_connections(server) == 1, 60, "the connection")
        wait_until(lambda: open_connections(server) == 0, 60, "the server to give up")


def test_an_answer_may_take_longer_than_a_header(patient: pytest.MonkeyPatch) -> None:
    patient.setattr(admin, "_HEADER_TIMEOUT", SOON)
    body = b"x" * 20_000_000
    with serving(Response(body)) as server, connect(server) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert connection.recv(1) == b"H"
        # Until somebody with half a header, who came later, has been given up.
        with connect(server) as silent:
            assert answer(silent) == b""
        assert answer(connection).endswith(body)


OWN = socket.gethostname()


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:9464",
        "localhost.",
        "127.0.0.1:9464",
        "127.8.8.8",
        "[::1]:9464",
        "[::1]",
        OWN,
        f"{OWN}:80",
        "host.docker.internal:9464",
        "host.containers.internal",
        "metrics.example",
        "Other.Example:9464",
    ],
)
def test_names_of_this_machine(host: str) -> None:
    with serving(HELLO, allowed_hosts=["metrics.example", " other.example"]) as server:
        assert ask(server, host).endswith(b"hello")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9464",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example:localhost",
        "localhost:9464:9464",
        "localhost@evil.example",
        "[evil]localhost",
        "0.0.0.0:9464",
        "[::]",
        "192.168.0.1",
        "169.254.169.254",
        "metrics.example",
        ":9464",
        "",
        None,
    ],
)
def test_foreign_names(host: str | None) -> None:
    with serving(HELLO, allowed_hosts=[""]) as server:
        refused = ask(server, host, "1.0" if host is None else "1.1")
        assert refused.startswith(b"HTTP/1.1 403 ")
        assert b"CHAINLIT_OTEL_ALLOWED_HOSTS" in refused
        assert b"hello" not in refused


def test_on_other_addresses_any_name_will_do() -> None:
    with serving(HELLO, "0.0.0.0") as server:
        assert ask(server, "pod-1.monitoring.svc").endswith(b"hello")


def test_who_sends_nonsense_writes_nothing_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    with serving(HELLO) as server:
        with connect(server) as connection:
            connection.sendall(b"\x16\x03\x01\x00\xff")
            assert answer(connection).startswith(b"HTTP/1.1 400 ")
        with connect(server) as connection:
            connection.sendall(
                b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            )
            assert connection.recv(1) == b"H"
    assert caplog.messages == []


def test_a_server_that_stops_waits_for_nobody_who_does_not_read(
    patient: pytest.MonkeyPatch,
) -> None:
    with ExitStack() as stack, serving(Response(b"x" * 50_000_000)) as server:
        connection = stack.enter_context(connect(server))
        connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(1) == b"H"


def test_streams_end_with_what_feeds_them(patient: pytest.MonkeyPatch) -> None:
    patient.setattr(admin, "_END_TIMEOUT", NEVER)
    ended = asyncio.Event()

    async def feed() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async def stream() -> AsyncIterator[bytes]:
        yield b"first"
        await ended.wait()
        yield b"last"

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StreamingResponse(stream())(scope, receive, send)

    with ExitStack() as stack:
        with serving(app, background=feed) as server:
            connection = stack.enter_context(connect(server))
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while b"first" not in received:
                received += connection.recv(65536)
        assert b"last" in answer(connection)


def test_nothing_of_this_server_stands_in_the_log_of_the_app(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.getLogger("uvicorn.error")
    filters = list(logger.filters)
    with caplog.at_level(logging.INFO, logger.name), serving(HELLO) as server:
        assert ask(server).endswith(b"hello")
        # The same words of a server of the app are its own.
        logger.info("Started server process [%d]", 1)
    assert [record.getMessage() for record in caplog.records] == ["Started server process [1]"]
    assert logger.filters == filters
