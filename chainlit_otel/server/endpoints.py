"""`/metrics` and `/healthz` as ASGI applications."""

from __future__ import annotations

import hmac
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Any

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chainlit_otel.catalog import LabelSet, Metric
from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.reader import ScrapeReader
from chainlit_otel.server.exposition import OpenTelemetryCollector
from chainlit_otel.server.rendering import Page, wanted
from chainlit_otel.server.sharing import SharedPages

Health = Callable[[], Mapping[str, Any]]
"""Returns the state of our own probes: `status` is `ok` or `degraded`."""

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

    async def _page(self, request: Request) -> Page:
        asked = wanted(request)
        if not self._not_served_here:
            return await self._pages.page(asked)
        page = await self._pages.page(asked._replace(openmetrics=False, gzip=False))
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


def _failed() -> Response:
    return PlainTextResponse(
        "The metrics could not be read; the log of the app says why.\n", status_code=500
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


class KnownHosts:
    """Accepts only requests whose `Host` is a name of this machine.

    It stops DNS rebinding: a web page whose own host name resolves to loopback by now could else
    have a browser read the metrics. Such a request has the host name of that page.

    Args:
        app: What is served.
        others: More names that are accepted.

    Attributes:
        app: What is served, by the name that ASGI middlewares have for it.
    """

    def __init__(self, app: ASGIApp, others: Iterable[str] = ()) -> None:
        self.app = app
        names = ("localhost", socket.gethostname(), *_HOSTS_OF_CONTAINERS, *others)
        self._names = frozenset(filter(None, map(_host, names)))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        host = _host(Headers(scope=scope).get("host", ""))
        app = self.app if host in self._names or _is_loopback(host) else _foreign()
        await app(scope, receive, send)


# The names of the host inside a container.
_HOSTS_OF_CONTAINERS = ("host.docker.internal", "host.containers.internal")


def _host(header: str) -> str:
    """Return the host of a `Host` header, without its port and in lower case."""
    found = re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", header.strip())
    return found[1].strip("[]").rstrip(".").lower() if found else ""


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _foreign() -> Response:
    return PlainTextResponse(
        "This server listens on loopback and is not known by this host name "
        "(CHAINLIT_OTEL_ALLOWED_HOSTS).\n",
        status_code=403,
    )


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
