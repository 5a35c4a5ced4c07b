"""Starts the admin server with what the settings ask of it."""

from __future__ import annotations

import logging

from starlette.types import ASGIApp

from chainlit_otel.guard import Guard, log
from chainlit_otel.server.access import BelowPath, PageAccess
from chainlit_otel.server.admin import AdminServer
from chainlit_otel.server.app import Guarded, Health, admin_app
from chainlit_otel.server.live_page import LivePage
from chainlit_otel.settings import Settings


def start_admin_server(
    settings: Settings, metrics: ASGIApp, health: Health, page: LivePage | None, guard: Guard
) -> AdminServer | None:
    """Start the admin server.

    Args:
        settings: The settings in force.
        metrics: Answers scrapes.
        health: Returns what `/healthz` shows.
        page: The live page; None without one.
        guard: Holds what goes wrong in an answer.

    Returns:
        The server; None if none is wanted, or there is no port for it, which is logged.
    """
    if not settings.admin_server:
        return None
    allowed = (settings.allowed_hosts or "").split(",")
    guarded = background = None
    if page is not None:
        guarded = PageAccess(page.app, settings.host, settings.page_token, allowed)
        background = page.run
    app: ASGIApp = admin_app(metrics, health, guarded)
    if settings.page_base_path:
        app = BelowPath(app, settings.page_base_path)
    app = Guarded(app, guard)
    try:
        return AdminServer(app, settings.host, settings.port, allowed, background)
    except OSError as error:
        log(
            logging.WARNING,
            "no admin server on %s:%s (OTEL_EXPORTER_PROMETHEUS_HOST, _PORT): %s",
            settings.host,
            settings.port,
            error,
        )
        return None
