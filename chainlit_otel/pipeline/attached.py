"""Span processors of ours at the tracer provider there is, the app's or ours, each once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import ReferenceType, ref

from opentelemetry.sdk.trace import SpanProcessor

P = TypeVar("P", bound=SpanProcessor)


class Attached(Generic[P]):
    """The processors of one kind, one for each provider: none can be removed from it again.

    Args:
        make: Makes one.
    """

    def __init__(self, make: Callable[[], P]) -> None:
        self._make = make
        # By identity, since a provider need not be hashable.
        self._known: list[tuple[ReferenceType[Any], P]] = []

    def to(self, provider: Any) -> P | None:
        """Return the processor of a provider, which is attached if it is not yet.

        Args:
            provider: The provider.

        Returns:
            The processor; None if the provider takes none.
        """
        if not hasattr(provider, "add_span_processor"):
            return None
        self._known[:] = [known for known in self._known if known[0]() is not None]
        for reference, processor in self._known:
            if reference() is provider:
                return processor
        processor = self._make()
        self._known.append((ref(provider), processor))
        provider.add_span_processor(processor)
        return processor
