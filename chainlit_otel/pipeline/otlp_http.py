"""Sessions of `requests` for OTLP backends that cannot be trusted.

With a plain session, as the SDK has it, the timeout starts again at every byte, an answer of any
size is read into memory, and a redirect is followed with all headers, or counts as a success. With
a session of this module an export has one deadline for all of it, no more than a few KB of an
answer are read, and a redirect is a failure.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer
from time import monotonic
from typing import Any

import requests
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool

from chainlit_otel import catalog

_LONGEST_ANSWER = 8 * 1024  # bytes; an answer of OTLP has a few dozen
_DEFAULT_TIMEOUT = 10.0  # seconds, as the specification has it
# OTEL_EXPORTER_OTLP_TIMEOUT has milliseconds in the specification, and seconds in this SDK.
_LONGEST_TIMEOUT = 60.0
_TOO_LATE = "the deadline of the export has passed"


class ExportRefused(requests.RequestException):
    """The backend has answered, and has not accepted what was sent."""


class ExportSession(requests.Session):
    """A session for one exporter, which exports one thing at a time, as the specification says.

    Attributes:
        reason: Why the last export failed, as `error.type` of the metric; None if it is not known.
        detail: The same for the log, without any text that the backend has sent.
    """

    def __init__(self) -> None:
        super().__init__()
        adapter = _Adapter(self)
        self.mount("https://", adapter)
        self.mount("http://", adapter)
        self.begin()

    def begin(self) -> None:
        """Start an export: all its attempts have one deadline."""
        self.reason: str | None = None
        self.detail = ""
        self._answer = b""
        self._allowed: float | None = None
        self._began = 0.0

    def accepted(self, answer: bytes) -> None:
        """Note the answer to an export that the backend has accepted."""
        self._answer = answer

    def refused(self) -> int:
        """Return how many items of an accepted export the backend has rejected."""
        # The answers for other signals have the same form.
        response = ExportTraceServiceResponse()
        # Some backends answer in a form of their own, and have accepted all.
        with suppress(Exception):
            response.ParseFromString(self._answer)
            return max(0, int(response.partial_success.rejected_spans))
        return 0

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request; what is wrong with the address itself is noted, too."""
        try:
            return super().request(*args, **kwargs)
        except Exception as error:
            if self.reason is None:
                self.failed(catalog.OTHER, f"cannot be sent to ({type(error).__name__})")
            raise

    def seconds_left(self, timeout: Any) -> float:
        """Return the seconds that an attempt may take.

        Args:
            timeout: The timeout of the exporter; that of the first attempt is the deadline of all.
        """
        asked = timeout if isinstance(timeout, (int, float)) else _DEFAULT_TIMEOUT
        if self._allowed is None:
            self._allowed, self._began = min(asked, _LONGEST_TIMEOUT), monotonic()
        return min(asked, self._began + self._allowed - monotonic())

    def is_half_over(self) -> bool:
        """Tell whether half of the time is over."""
        return self._allowed is not None and monotonic() - self._began > self._allowed / 2

    def failed(self, reason: str, detail: str) -> None:
        """Note why an attempt failed."""
        self.reason, self.detail = reason, detail


class _Adapter(HTTPAdapter):
    def __init__(self, session: ExportSession) -> None:
        self._session = session
        self._sockets: set[socket.socket] = set()
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._keep_handles(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        # A SOCKS proxy has connections of its own kind: these keep the timeout of each read.
        if not proxy.lower().startswith("socks"):
            self._keep_handles(manager)
        return manager

    def _keep_handles(self, manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            "http": _with_handles(HTTPConnectionPool, self._sockets),
            "https": _with_handles(HTTPSConnectionPool, self._sockets),
        }

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        left = self._session.seconds_left(timeout)
        if left <= 0:
            # The failure of an earlier attempt stays the reason.
            raise requests.ReadTimeout(_TOO_LATE)
        response = None
        try:
            with self._deadline(left):
                response = super().send(request, True, left, verify, cert, proxies)
                answer = response.raw.read(_LONGEST_ANSWER + 1, decode_content=False)
                if len(answer) > _LONGEST_ANSWER:
                    response.close()
        except Exception as error:
            reason = "timeout" if isinstance(error, requests.Timeout) else "unreachable"
            self._session.failed(reason, _in_words(error))
            if response is not None:
                response.close()
            raise
        # No one may read on, which could take for ever.
        response._content = answer
        response._content_consumed = True
        self._check(response, answer)
        return response

    def _check(self, response: requests.Response, answer: bytes) -> None:
        status = response.status_code
        if 300 <= status < 400:
            self._refuse("redirect", f"answers with a redirect ({status})")
        if status >= 400:
            self._session.failed("rejected", f"answers {status}")
            # Old exporters double the pause between attempts and know no deadline.
            if self._session.is_half_over():
                raise ExportRefused(self._session.detail)
        elif len(answer) > _LONGEST_ANSWER:
            self._refuse(
                catalog.OTHER, "answers with more than OTLP has to say, so the address may be wrong"
            )
        else:
            self._session.accepted(answer)

    def _refuse(self, reason: str, detail: str) -> None:
        self._session.failed(reason, detail)
        raise ExportRefused(detail)

    @contextmanager
    def _deadline(self, seconds: float) -> Iterator[None]:
        """Shut the connections down after some seconds, in whichever state they are."""
        passed: list[bool] = []

        def shut_down() -> None:
            passed.append(True)
            for connected in tuple(self._sockets):
                with suppress(OSError):
                    connected.shutdown(socket.SHUT_RDWR)

        timer = Timer(seconds, shut_down)
        timer.daemon = True
        # A process that exits starts no thread; then there is only the timeout of each read.
        with suppress(RuntimeError):
            timer.start()
        try:
            yield
        except Exception as error:
            if passed:
                raise requests.ReadTimeout(_TOO_LATE) from error
            raise
        finally:
            timer.cancel()
        if passed:
            raise requests.ReadTimeout(_TOO_LATE)


def _with_handles(pool: Any, sockets: set[socket.socket]) -> Any:
    """Return a class of connection pools that keeps a second handle of each socket.

    With it another thread can shut the connection down, even in the middle of a TLS handshake, in
    which the socket itself belongs to the handshake.
    """

    class ConnectionWithHandle(pool.ConnectionCls):  # type: ignore[misc]  # the class is only known here
        def _new_conn(self) -> socket.socket:
            connected: socket.socket = super()._new_conn()
            self._release()
            self._handle = connected.dup()
            sockets.add(self._handle)
            return connected

        def close(self) -> None:
            self._release()
            super().close()

        def _release(self) -> None:
            handle = getattr(self, "_handle", None)
            if handle is not None:
                sockets.discard(handle)
                handle.close()

    return type("WithHandles" + pool.__name__, (pool,), {"ConnectionCls": ConnectionWithHandle})


def _in_words(error: BaseException) -> str:
    """Return the cause of a connection error in words, without the address that it quotes."""
    root: BaseException = error
    while (cause := root.__cause__ or root.__context__) is not None:
        root = cause
    if isinstance(error, requests.Timeout):
        return "does not answer in time"
    words = getattr(root, "strerror", None) or type(root).__name__
    return f"cannot be reached ({words})"
