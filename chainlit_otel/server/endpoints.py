"""`/metrics` and `/healthz` as ASGI applications."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chainlit_otel.guard import Guard
from chainlit_otel.server.exposition import OpenTelemetryCollector, ScrapeReader
from chainlit_otel.server.rendering import Page, render, wanted

Health = Callable[[], Mapping[str, Any]]
"""Tells the state of our own probes: `status` is `ok` or `degraded`."""

_ELSEWHERE = (
    "# chainlit-otel: the metrics of Chainlit go to the MeterProvider that the application set; "
    "CHAINLIT_OTEL_ALWAYS_SERVE_METRICS=true serves them here too.\n"
)


_METHODS = ("GET", "HEAD")


class MetricsEndpoint:
    """Serves the metrics in the Prometheus text format or in OpenMetrics, as asked for.

    Args:
        reader: The metrics; None if they go elsewhere, which is then said in a comment.
        token: Bearer token that must be sent, if any.
        guard: Holds what goes wrong with one metric.
    """

    def __init__(self, reader: ScrapeReader | None, token: str | None, guard: Guard) -> None:
        registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        self._token = token
        self._elsewhere = reader is None
        self._collector: Collector = registry
        if reader is not None:
            self._collector = OpenTelemetryCollector(reader, guard, registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one scrape."""
        request = Request(scope)
        if not self._admits(request):
            response = _unauthorized()
        elif request.method not in _METHODS:
            response = _not_allowed()
        else:
            page = self._page(request)
            response = Response(page.body, headers=page.headers)
        await response(scope, receive, send)

    def _page(self, request: Request) -> Page:
        asked = wanted(request)
        if not self._elsewhere:
            return render(self._collector, asked)
        page = render(self._collector, asked._replace(openmetrics=False, gzip=False))
        return Page(_ELSEWHERE.encode() + page.body, page.headers)

    def _admits(self, request: Request) -> bool:
        if self._token is None:
            return True
        sent = request.headers.get("authorization", "")
        return hmac.compare_digest(sent.encode(), f"Bearer {self._token}".encode())


def _unauthorized() -> Response:
    return PlainTextResponse(
        "The metrics need a bearer token (CHAINLIT_OTEL_METRICS_TOKEN).\n",
        status_code=401,
        headers={"WWW-Authenticate": "Bearer"},
    )


def _not_allowed() -> Response:
    return PlainTextResponse(
        "The metrics are read by GET.\n", status_code=405, headers={"Allow": ", ".join(_METHODS)}
    )


_INDEX = """\
<!doctype html>
<title>chainlit-otel</title>
<h1>chainlit-otel</h1>
<ul>
<li><a href="metrics">/metrics</a>: the metrics of this Chainlit app, for Prometheus</li>
<li><a href="healthz">/healthz</a>: what is observed, and what is off</li>
</ul>
"""


def admin_app(metrics: ASGIApp, health: Health) -> Starlette:
    """Return the application of the admin server."""

    async def index(_: Request) -> Response:
        return HTMLResponse(_INDEX)

    async def healthz(_: Request) -> Response:
        state = health()
        return JSONResponse(state, status_code=200 if state["status"] == "ok" else 503)

    return Starlette(
        routes=[Route("/", index), Route("/metrics", metrics), Route("/healthz", healthz)]
    )
