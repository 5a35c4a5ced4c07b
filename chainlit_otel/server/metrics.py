"""`/metrics` as an ASGI application."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from chainlit_otel.catalog import LabelSet, Metric
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.reader import ScrapeReader
from chainlit_otel.server.access import has_bearer
from chainlit_otel.server.exposition import OpenTelemetryCollector
from chainlit_otel.server.rendering import Page, Wanted, wanted
from chainlit_otel.server.sharing import SharedPages

_ELSEWHERE = (
    "# chainlit-otel: the metrics of Chainlit go to the MeterProvider that the application set; "
    "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS=true serves them here too.\n"
)


_METHODS = ("GET", "HEAD")


class MetricsEndpoint:
    """Serves the metrics in the Prometheus text format or in OpenMetrics, as asked for.

    Args:
        reader: The metrics; None if they go to the application's provider, as a comment then says.
        token: Bearer token that must be sent, if any.
        guard: Holds what goes wrong with one metric.
        label_sets: Returns the label sets of a histogram that exist before their first value.
    """

    def __init__(
        self,
        reader: ScrapeReader | None,
        token: str | None,
        guard: Guard,
        label_sets: Callable[[Metric], Iterable[LabelSet]],
    ) -> None:
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._token = token
        self._guard = guard
        self._not_served_here = reader is None
        collector: Collector = registry
        if reader is not None:
            collector = OpenTelemetryCollector(reader, guard, registry, label_sets)
        self._pages = SharedPages(collector)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scrape."""
        request = Request(scope)
        if not self._admits(request):
            response = _unauthorized()
        elif request.method not in _METHODS:
            response = _not_allowed()
        else:
            response = _failed()
            with self._guard:
                page = await self._page(request)
                response = Response(page.body, headers=page.headers)
        await response(scope, receive, send)

    async def count_series(self) -> int:
        """Return how many series a scrape shows now."""
        page = await self._pages.page(Wanted())
        return sum(not line.startswith(b"#") for line in page.body.splitlines())

    async def _page(self, request: Request) -> Page:
        asked = wanted(request)
        if not self._not_served_here:
            return await self._pages.page(asked)
        page = await self._pages.page(asked._replace(openmetrics=False, gzip=False))
        return Page(_ELSEWHERE.encode() + page.body, page.headers)

    def _admits(self, request: Request) -> bool:
        return self._token is None or has_bearer(request.headers, self._token)


def _unauthorized() -> Response:
    return PlainTextResponse(
        "The metrics need a bearer token (CHAINLIT_OTEL_METRICS_TOKEN).\n",
        status_code=401,
        headers={"WWW-Authenticate": "Bearer"},
    )


def _failed() -> Response:
    return PlainTextResponse(
        "The metrics could not be read; the log of the app says why.\n", status_code=500
    )


def _not_allowed() -> Response:
    return PlainTextResponse(
        "The metrics are read by GET.\n", status_code=405, headers={"Allow": ", ".join(_METHODS)}
    )
