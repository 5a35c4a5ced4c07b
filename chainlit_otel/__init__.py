"""Observability for Chainlit: `import chainlit_otel; chainlit_otel.enable()`.

Importing this package imports neither Chainlit nor the OpenTelemetry SDK.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from chainlit_otel.settings import Settings, warn
from chainlit_otel.version import __version__

if TYPE_CHECKING:
    from chainlit_otel.api import access_denied, disable, enable, record_score, record_usage
    from chainlit_otel.resources.registry import watch_cache, watch_pool

__all__ = [
    "Settings",
    "__version__",
    "access_denied",
    "disable",
    "enable",
    "record_score",
    "record_usage",
    "watch_cache",
    "watch_pool",
]


def __getattr__(name: str) -> Any:
    if name in ("access_denied", "disable", "enable", "record_score", "record_usage"):
        try:
            from chainlit_otel import api
        except ValueError as error:
            # The SDK reads some variables when it is imported, and raises.
            warn(f"chainlit-otel is off, the OpenTelemetry SDK cannot be imported: {error}")
            return _off
        return getattr(api, name)
    if name in ("watch_cache", "watch_pool"):
        from chainlit_otel.resources import registry

        return getattr(registry, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _off(*_: Any, **__: Any) -> None:
    """Take the place of a function that cannot be imported in this environment."""
