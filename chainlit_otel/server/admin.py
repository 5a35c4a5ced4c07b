"""The admin server: a thread and an event loop of its own.

It answers while the application's event loop is blocked, when it is needed most.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from ipaddress import ip_address
from operator import attrgetter
from threading import Thread, get_ident
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from chainlit_otel.server.access import KnownHosts
from chainlit_otel.server.live_page import RENEW

_PORTS = 16
_MOST_CONNECTIONS = 48
_HEADER_TIMEOUT = 5.0  # seconds from the connection to the end of the first request's header
_ANSWER_TIMEOUT = 30.0  # seconds from there until the answer has been read
_GRACE = 1.0  # seconds in which a connection is not closed to make room for another
_END_TIMEOUT = 1.0  # seconds that a server which stops waits for answers to be read

_BUSY = b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

Background = Callable[[], Coroutine[Any, Any, None]]

_inherited: list[AdminServer] = []

# Who sends nonsense to this port must not write into the log of the app, where it would read as if
# the app had been asked. What fails here is counted by the guard of the application.
_silent = logging.getLogger("chainlit_otel.admin")
_silent.setLevel(logging.CRITICAL + 1)
_uvicorn = logging.getLogger("uvicorn.error")


class AdminServer:
    """Serves an ASGI application from a thread.

    Args:
        app: What to serve.
        host: Address to listen on.
        port: Port to listen on; the next free one of sixteen if it is taken, any if 0.
        allowed_hosts: More host names that requests may have, if it listens on loopback.
        background: Runs on the event loop of the server for as long as that serves. Answers that
            never end, such as streams of events, must end with it.

    Raises:
        OSError: None of the ports is free, or the address is wrong.
    """

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        allowed_hosts: Iterable[str] = (),
        background: Background | None = None,
    ) -> None:
        self._socket = _listen(host, port)
        self.host = host
        address, self.port = self._socket.getsockname()[:2]
        if ip_address(address).is_loopback:
            app = KnownHosts(app, allowed_hosts)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            date_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            http=_Connection,
        )
        # It imports modules here, and not in the thread: there it would race with Chainlit's
        # `load_module`, which changes `sys.path` meanwhile.
        config.load()
        self._server = _IdleServer(config, background)
        self._thread = Thread(target=self._run, name="chainlit-otel-admin", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """Where the server answers."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "") else self.host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    def stop(self) -> None:
        """Stop serving and free the port."""
        self._server.end()
        self._thread.join(timeout=5)
        self._socket.close()

    def close_in_child(self) -> None:
        """In a forked child, close the sockets that it shares with its parent.

        While the child has them open, the port is not free when the parent stops, and its clients
        do not see that it closes their connections.
        """
        # The child shares the file descriptor of the parent's event loop, which would be closed
        # with the last reference to that.
        _inherited.append(self)
        self._server.close_sockets()
        self._socket.close()

    def _run(self) -> None:
        # Not `asyncio.run`: Chainlit's command line patches it (nest_asyncio). And no other kind of
        # loop, whose sockets may not be closed in a forked child.
        loop = asyncio.SelectorEventLoop()
        # To the log of an app on uvicorn, "Started server process" is of that app.
        own = get_ident()

        def is_of_app(record: logging.LogRecord) -> bool:
            return record.thread != own or record.levelno > logging.INFO

        _uvicorn.addFilter(is_of_app)
        try:
            loop.run_until_complete(self._server.serve(sockets=[self._socket]))
        finally:
            _uvicorn.removeFilter(is_of_app)
            loop.close()


class _Connection(H11Protocol):
    """A connection with timeouts, of which only so many are open at a time."""

    connections: set[_Connection]  # type: ignore[assignment]
    _since = 0.0
    _timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _silent

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._start_timer(_HEADER_TIMEOUT)
        if len(self.connections) <= _MOST_CONNECTIONS:
            return
        idle = [other for other in self.connections if other._is_idle()]
        if idle:
            min(idle, key=attrgetter("_since")).abort()
        else:
            self.connections.discard(self)
            transport.write(_BUSY)
            transport.close()

    def data_received(self, data: bytes) -> None:
        answering = self.cycle
        super().data_received(data)
        if self.cycle is not answering:
            self._start_timer(_ANSWER_TIMEOUT)
            # An answer that never ends, such as a stream of events, asks for more time.
            scope = cast("dict[str, Any]", self.cycle.scope)
            scope[RENEW] = partial(self._start_timer, _ANSWER_TIMEOUT)

    def on_response_complete(self) -> None:
        answered = self.cycle
        super().on_response_complete()
        # The next request may have arrived already.
        if self.cycle is not answered:
            self._start_timer(_ANSWER_TIMEOUT)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def abort(self) -> None:
        """Close the connection, whether the answer has been read or not."""
        self._stop_timer()
        self.connections.discard(self)
        self.transport.abort()

    def _is_idle(self) -> bool:
        """Tell whether it has had the time to send a request, and has not."""
        no_request = self.cycle is None or self.cycle.response_complete
        return no_request and self.loop.time() - self._since > _GRACE

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _IdleServer(uvicorn.Server):
    """A server that sleeps until there is a request; uvicorn's own wakes ten times a second."""

    def __init__(self, config: uvicorn.Config, background: Background | None) -> None:
        super().__init__(config)
        self._background = background
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()

    async def main_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        background = self._background and asyncio.ensure_future(self._background())
        if not self.should_exit:
            await self._ended.wait()
        if background is not None:
            background.cancel()
            await asyncio.wait([background])
        # uvicorn waits for connections to close, whether anybody reads there or not.
        self._loop.call_later(_END_TIMEOUT, self._abort_all)

    def _abort_all(self) -> None:
        for connection in list(self.server_state.connections):
            cast("_Connection", connection).abort()

    def close_sockets(self) -> None:
        """Close the connections in this process only, without a packet to their clients."""
        for connection in list(self.server_state.connections):
            # Not by the transport, which would unregister it from the epoll instance of the parent.
            connection.transport._sock.close()  # type: ignore[attr-defined]

    def end(self) -> None:
        """Stop serving; called from another thread."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._ended.set)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, min(port + _PORTS, 65536)) if port else (0,):
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, candidate))
            listening.listen(128)
        except OSError as error:
            listening.close()
            if error.errno != errno.EADDRINUSE:
                raise
            continue
        return listening
    raise OSError(errno.EADDRINUSE, f"ports {port} to {port + _PORTS - 1} of {host} are taken")
