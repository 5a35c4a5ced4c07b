"""The lines at the start of a server: where the metrics are, and where telemetry is sent."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from chainlit_otel.guard import log

logger = logging.getLogger("chainlit_otel")


def announce(level: int, text: str) -> None:
    """Show a line, whether or not logging is set up.

    Args:
        level: Its level, as `logging` has it.
        text: The line.
    """
    # Without any handler, `logging` itself prints warnings, and nothing below.
    if logger.hasHandlers() or level >= logging.WARNING:
        log(level, "%s", text)
        return
    with suppress(Exception):
        sys.stderr.write(f"chainlit-otel: {text}\n")


def served(host: str | None, port: int, asked: int, in_app: str | None) -> tuple[int, str]:
    """Return level and text of the line about where the metrics are.

    Args:
        host: The address that the admin server listens on; None if it does not run.
        port: The port that it listens on.
        asked: The port that it should have listened on.
        in_app: The path of the metrics inside the app, from the root of the server on; None if
            they are not there.
    """
    places = []
    if host is not None:
        shown = f"[{host}]" if ":" in host else host
        places.append(f"http://{shown}:{port}/metrics")
    if in_app is not None:
        places.append(f"{in_app} of the app")
    if not places:
        return logging.INFO, (
            "metrics are served nowhere (CHAINLIT_OTEL_ADMIN_SERVER, CHAINLIT_OTEL_METRICS_PATH)"
        )
    moved = host is not None and asked not in (0, port)
    why = f", because port {asked} is taken" if moved else ""
    return logging.WARNING if moved else logging.INFO, f"metrics at {' and '.join(places)}{why}"


def shown(host: str | None, port: int, needs_token: bool, has_token: bool) -> str:
    """Return the line about where the live page is.

    Args:
        host: The address that the admin server listens on; None if it does not run.
        port: The port that it listens on.
        needs_token: Whether it is shown to nobody without a token.
        has_token: Whether there is one.
    """
    if host is None:
        return "no live page, which is on the admin server alone (CHAINLIT_OTEL_ADMIN_SERVER)"
    if needs_token and not has_token:
        return f"no live page on {host} without a token (CHAINLIT_OTEL_PAGE_TOKEN)"
    link = "/?token=…" if has_token else "/"
    return f"live page at http://{f'[{host}]' if ':' in host else host}:{port}{link}"


def sent(destinations: Mapping[str, Sequence[str]]) -> str:
    """Return the line about where telemetry is sent.

    Args:
        destinations: Where each signal goes.
    """
    if not any(destinations.values()):
        return "nothing is sent anywhere (OTEL_EXPORTER_OTLP_ENDPOINT names no endpoint)"
    signals = (f"{name} to {' and '.join(to) or 'nobody'}" for name, to in destinations.items())
    return f"sent: {', '.join(signals)}"
