"""Where the spans go: an OTLP endpoint that answers at once and keeps only the bytes."""

from __future__ import annotations

from collections import Counter, defaultdict

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.local import Handler, LocalServer


class Sink(LocalServer):
    """An OTLP/HTTP endpoint in a thread; senders are told apart by the path they post to."""

    def __init__(self) -> None:
        self._bodies: defaultdict[str, list[bytes]] = defaultdict(list)
        bodies = self._bodies

        class Answering(Handler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                """Take in one export."""
                bodies[self.path].append(self.body())
                self.answer()

        super().__init__(Answering)

    def endpoint(self, sender: str) -> str:
        """Return the address to which a sender posts its spans."""
        return f"{self.origin}/{sender}"

    def take(self, sender: str) -> Counter[str]:
        """Return how many spans of each name came from a sender, and forget them."""
        names: Counter[str] = Counter()
        for body in self._bodies.pop(f"/{sender}", []):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    names.update(span.name for span in scope.spans)
        return names
