"""The entry point of `opentelemetry-instrument`, for an app that is not changed at all."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import (  # type: ignore[attr-defined]
    BaseInstrumentor,
)

from chainlit_otel.api import disable, enable


class ChainlitInstrumentor(BaseInstrumentor):  # type: ignore[misc]  # it has no types
    """Calls `enable()` and `disable()`.

    It runs before the app, and imports nothing of Chainlit, which reads `--root-path` when it is
    imported. The probes are installed once the app imports it.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return the package that is instrumented."""
        return ("chainlit >= 2.6.1, < 3",)

    def _instrument(self, **kwargs: Any) -> None:
        enable(
            tracer_provider=kwargs.get("tracer_provider"),
            meter_provider=kwargs.get("meter_provider"),
        )

    def _uninstrument(self, **kwargs: Any) -> None:
        disable()
