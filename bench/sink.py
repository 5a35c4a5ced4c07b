"""Where the spans go: an OTLP endpoint that answers at once and keeps only the bytes."""

from __future__ import annotations

from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from types import TracebackType

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Sink:
    """An OTLP/HTTP endpoint in a thread; senders are told apart by the path they post to."""

    def __init__(self) -> None:
        self._bodies: defaultdict[str, list[bytes]] = defaultdict(list)
        bodies = self._bodies

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Take in one export."""
                bodies[self.path].append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Sink:
        """Begin to listen."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()

    def endpoint(self, sender: str) -> str:
        """Return the address to which a sender posts its spans."""
        return f"http://127.0.0.1:{self._server.server_port}/{sender}"

    def take(self, sender: str) -> Counter[str]:
        """Return how many spans of each name came from a sender, and forget them."""
        names: Counter[str] = Counter()
        for body in self._bodies.pop(f"/{sender}", []):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    names.update(span.name for span in scope.spans)
        return names
