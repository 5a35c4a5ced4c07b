"""The application of the admin server: which path is what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from chainlit_otel.guard import Guard

Health = Callable[[], Mapping[str, Any]]
"""Returns the state of our own probes: `status` is `ok` or `degraded`."""

_INDEX = """\
<!doctype html>
<title>chainlit-otel</title>
<h1>chainlit-otel</h1>
<ul>
<li><a href="metrics">/metrics</a>: the metrics of this Chainlit app, for Prometheus</li>
<li><a href="healthz">/healthz</a>: what is observed, and what is off</li>
</ul>
"""


def admin_app(metrics: ASGIApp, health: Health, page: ASGIApp | None = None) -> Starlette:
    """Return the application of the admin server.

    Args:
        metrics: Answers scrapes.
        health: Returns what `/healthz` shows.
        page: The live page; in place of it there is a list of links.
    """

    async def index(_: Request) -> Response:
        return HTMLResponse(_INDEX)

    async def healthz(_: Request) -> Response:
        state = health()
        return JSONResponse(state, status_code=200 if state["status"] == "ok" else 503)

    routes: list[Route | Mount] = [Route("/metrics", metrics), Route("/healthz", healthz)]
    routes += [Route("/", index)] if page is None else [Mount("/", page)]
    return Starlette(routes=routes)


class Guarded:
    """Counts what an application raises, which has been answered with an error already.

    Args:
        app: What is served.
        guard: Holds what it raises.

    Attributes:
        app: What is served, by the name that ASGI middlewares have for it.
    """

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self.app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        with self._guard:
            await self.app(scope, receive, send)
