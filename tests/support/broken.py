"""OTLP backends that nobody would wish for, on the loopback interface."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from threading import Event, Lock, Thread

_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\n"
_HOLD_TIMEOUT = 60.0


class BrokenBackend:
    """A backend that is broken in one way.

    Args:
        mode: how. `blackhole` takes the connection and says nothing; `drip` answers a byte every
            tenth of a second, `slow_header` does so within the header; `endless` never stops;
            `redirect` sends to itself; `garbage` speaks no HTTP; `reset` resets the connection;
            `handshake` begins as TLS and goes on as `drip`; a number answers with that status;
            anything else is the body of an answer with the status 200.

    Attributes:
        endpoint: what `OTEL_EXPORTER_OTLP_ENDPOINT` has to say.
        requests: the head of each request that came.
    """

    def __init__(self, mode: str | bytes) -> None:
        self._mode = mode
        self._ended = Event()
        self._lock = Lock()
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        port = self._listening.getsockname()[1]
        scheme = "https" if mode == "handshake" else "http"
        self.endpoint = f"{scheme}://127.0.0.1:{port}"
        self.requests: list[bytes] = []
        self._thread = Thread(target=self._accept, daemon=True)

    def __enter__(self) -> BrokenBackend:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        # Closing alone would not wake the thread that accepts.
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            for connection in self._open:
                connection.close()
        self._thread.join()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            with self._lock:
                self._open.append(connection)
            Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(_HOLD_TIMEOUT)
            if self._mode == "handshake":
                # The beginning of an answer in TLS, and then the longest record there is.
                connection.sendall(b"\x16\x03\x03\x40\x00")
                self._drip(connection)
            if self._mode == "blackhole":
                self._ended.wait(_HOLD_TIMEOUT)
                return
            while self._request(connection):
                self._answer(connection)

    def _request(self, connection: socket.socket) -> bool:
        got = b""
        while b"\r\n\r\n" not in got:
            more = connection.recv(65536)
            if not more:
                return False
            got += more
        head, _, body = got.partition(b"\r\n\r\n")
        self.requests.append(head)
        (length,) = (
            int(line.split(b":")[1])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        while len(body) < length:
            body += connection.recv(65536)
        return True

    def _answer(self, connection: socket.socket) -> None:
        mode = self._mode
        if mode == "drip":
            connection.sendall(_OK + b"content-length: 100000\r\n\r\n")
            self._drip(connection)
        elif mode == "slow_header":
            connection.sendall(b"HTTP/1.1 200 OK\r\nx-long: ")
            self._drip(connection)
        elif mode == "endless":
            connection.sendall(_OK + b"\r\n")
            while not self._ended.is_set():
                connection.sendall(b"x" * 1_000_000)
        elif mode == "redirect":
            self._say(connection, b"307 X", b"", b"location: /elsewhere\r\n")
        elif mode == "garbage":
            connection.sendall(os.urandom(100))
            connection.close()
        elif mode == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        elif isinstance(mode, bytes):
            self._say(connection, b"200 OK", mode)
        else:
            self._say(connection, mode.encode() + b" X", b"no")

    def _say(
        self, connection: socket.socket, status: bytes, body: bytes, header: bytes = b""
    ) -> None:
        connection.sendall(
            b"HTTP/1.1 %b\r\ncontent-length: %d\r\n%b\r\n%b" % (status, len(body), header, body)
        )

    def _drip(self, connection: socket.socket) -> None:
        while not self._ended.wait(0.1):
            connection.sendall(b"x")
