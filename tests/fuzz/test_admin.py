"""Whatever is asked of the admin server, it answers, keeps its token, and goes on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from chainlit_otel.core.sessions import SessionLedger
from chainlit_otel.guard import Guard
from chainlit_otel.live.page import Live
from chainlit_otel.server.access import BelowPath, KnownHosts, PageAccess
from chainlit_otel.server.admin import AdminServer
from chainlit_otel.server.app import admin_app
from chainlit_otel.server.live_page import LivePage
from chainlit_otel.server.metrics import MetricsEndpoint

TOKEN = "the token of this test, äπ"
NAMES = (
    *(b"host", b"accept", b"accept-encoding", b"authorization", b"cookie", b"origin", b"via"),
    *(b"if-none-match", b"forwarded", b"sec-fetch-site", b"sec-fetch-mode", b"x-forwarded-proto"),
)
VALUES = (
    *(b"localhost", b"127.0.0.1:1", b"[::1]", b"[", b"Bearer ", b"bearer \xff", b"gzip;q=0"),
    *(b"application/openmetrics-text;version=1.0.0", b"text/plain;q=x", b"*/*", b"none"),
    *(b"a=b; chainlit_otel_page_1", b"chainlit_otel_page_9464=\xe4", b"navigate"),
    b'chainlit_otel_page_9464="\\777"',
)
PATHS = (
    *("/", "/metrics", "/healthz", "/live/assets/page.js", "/live/data/history"),
    *("/live/data/sessions", "/live/data/sessions/x", "/live/data/turns", "/live/data/turns/1"),
    *("/live/data/health", "/chat-admin", "/chat-admin/", "/chat-admin/metrics"),
)
QUERIES = (
    *(b"step=1&since=5", b"step=60&since=inf", b"name[]=a", b"name[]=%ff", b"token=%ff&token="),
)
REQUESTS = st.tuples(
    st.sampled_from(["GET", "HEAD", "POST", "", "\xff"]),
    st.sampled_from(PATHS) | st.text(max_size=30).map(lambda path: "/" + path),
    st.sampled_from(QUERIES) | st.binary(max_size=40),
    st.lists(
        st.tuples(
            st.sampled_from(NAMES) | st.binary(min_size=1, max_size=10),
            st.sampled_from(VALUES) | st.binary(max_size=40),
        ),
        max_size=5,
    ),
)

Request = tuple[str, str, bytes, list[tuple[bytes, bytes]]]


async def health() -> Mapping[str, Any]:
    return {"status": "ok"}


def application(token: str | None) -> Any:
    """All of the admin server, as the runtime puts it together."""
    live = Live()
    sessions = SessionLedger(live.sessions.ended, journal=live.journal)
    live._open_sessions = sessions.open
    guard = Guard("server")
    page = LivePage(live, health, guard).app
    metrics = MetricsEndpoint(None, token, guard, lambda _: ())
    access = PageAccess(page, "127.0.0.1", token)
    app = admin_app(metrics, lambda: {"status": "ok"}, access)
    return KnownHosts(BelowPath(app, "/chat-admin"))


def from_here(request: Request) -> Request:
    """The request under a name of this machine, without which there is no other answer."""
    method, path, query, headers = request
    return method, path, query, [(b"host", b"localhost"), *headers]


def answer(app: Any, request: Request) -> tuple[int, bytes]:
    method, path, query, headers = request
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"),
        "root_path": "",
        "query_string": query,
        "headers": headers,
        "server": ("127.0.0.1", 9464),
        "scheme": "http",
        "http_version": "1.1",
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@given(REQUESTS)
@example(("GET", "/live/data/sessions", b"\x80", []))
@example(("GET", "/live/data/history", b"step=1&since=nan", []))
@example(("GET", "/metrics", b"", [(b"accept", b"text/plain;q=nan")]))
@example(("GET", "/live/data/turns/" + "9" * 5000, b"", []))
def test_any_request(request: Request) -> None:
    status, _ = answer(application(None), from_here(request))
    assert status < 500


@given(REQUESTS)
@example(("GET", "/", b"token=%ed%a0%80", []))
@example(("GET", "/metrics", b"", [(b"authorization", b"Bearer \xff")]))
def test_nobody_guesses_the_token(request: Request) -> None:
    path = request[1]
    status, body = answer(application(TOKEN), from_here(request))
    if path.removeprefix("/chat-admin") not in ("", "/healthz"):
        assert status in (303, 401, 403, 404, 405), (status, body)
        assert b"chainlit_" not in body
        assert b"<html" not in body


@cache
def server() -> AdminServer:
    """Serves as long as the process; its thread is a daemon."""
    return AdminServer(application(None), "127.0.0.1", 0)


def exchange(content: bytes) -> bytes:
    """Send this and no more, and return all that comes until the other side closes."""
    received = bytearray()
    address = ("127.0.0.1", server().port)
    with socket.create_connection(address, timeout=60) as connection, suppress(ConnectionError):
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        while data := connection.recv(65536):
            received += data
    return bytes(received)


@given(
    st.binary(max_size=200)
    | st.tuples(st.binary(max_size=60), st.binary(max_size=60)).map(
        lambda parts: b"GET /%b HTTP/1.1\r\nHost: localhost\r\n%b\r\n\r\n" % parts
    )
)
@example(b"GET /healthz HTTP/1.1\r\nHost: \xff\r\n\r\n")
@example(b"GET /%ff%00?%ff HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
def test_any_bytes_on_the_port(content: bytes) -> None:
    received = exchange(content)
    assert not received.startswith(b"HTTP/1.1 5"), received
    alive = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert exchange(alive).startswith(b"HTTP/1.1 200")
