"""HTTP servers of a few lines, for what the real servers talk to."""

from __future__ import annotations

import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TypeVar

_Server = TypeVar("_Server", bound="LocalServer")


class Handler(BaseHTTPRequestHandler):
    """Answers one request, and logs nothing."""

    def body(self) -> bytes:
        """What was sent."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, body: bytes = b"", kind: str = "text/plain", status: int = 200) -> None:
        """Answer with `body`, which is of this kind."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class LocalServer:
    """A server on a free port of the loopback interface, which answers while it is entered.

    Args:
        handler: answers each request.
        address: where it listens; empty for each address of the machine.
        tls: the certificate that it shows; without one it speaks plain HTTP.

    Attributes:
        port: the port.
        origin: where it answers, without a slash at the end.
    """

    def __init__(
        self,
        handler: type[Handler],
        address: str = "127.0.0.1",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._server = ThreadingHTTPServer((address, 0), handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_port
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.origin = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self: _Server) -> _Server:
        """Begin to answer."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Answer no longer."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
