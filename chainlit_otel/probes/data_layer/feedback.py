"""Feedback: the `upsert_feedback` and `delete_feedback` of the data layer.

The feedback of the page and of Slack, Teams and Discord goes through these; `on_feedback` is called
after them, and for the page only. If the layer raises, the feedback is not stored and does not
count here: it is an error among the operations of the layer. `SQLAlchemyDataLayer` swallows the
errors of its database and returns a new id, so feedback that it failed to store counts.

A user who changes their mind, or adds a comment, gives feedback again. It is not linked to its
turn: it may come days later, to another process, and has the id of a step only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.core.counts import Counts
from chainlit_otel.patching import Patches, wraps
from chainlit_otel.probes.chainlit_types import ChainlitFeedback
from chainlit_otel.probes.data_layer.discovery import Discovery, wrap_method
from chainlit_otel.probes.probe import Probe, ProbeContext


class Feedback(Probe):
    """The feedback of users, by its value."""

    name = "feedback"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._discovery = context.get(Discovery)
        self._given: Counts[tuple[str, ...]] = Counts()

    def install(self, patches: Patches) -> None:
        """Observe the data layer."""

        def found(layer: Any) -> None:
            for name, describe in (("upsert_feedback", _value), ("delete_feedback", _deletion)):
                wrap = functools.partial(_wrap_store, patches, self, describe)
                wrap_method(patches, layer, name, wrap)

        self._discovery.listen(patches, self.guard, found)
        self.telemetry.register_observable(catalog.FEEDBACK, self.given, self.guard)

    def record(self, value: str | None) -> None:
        """The data layer has stored or deleted feedback; None is neither."""
        if value is not None:
            self._given.add((value,))

    def given(self) -> dict[tuple[str, ...], int]:
        """Return how much feedback there was, by value."""
        return self._given.read()


def _value(_: Any, feedback: ChainlitFeedback) -> str:
    return "positive" if feedback.value else "negative"


def _deletion(deleted: Any, feedback_id: Any) -> str | None:
    # A layer that does not report whether it has deleted anything returns None.
    return None if deleted is False else "deleted"


def _wrap_store(
    patches: Patches, feedback: Feedback, describe: Callable[..., str | None], original: Any
) -> Any:
    @wraps(original)
    async def store(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        with feedback.guard:
            if patches.active:
                feedback.record(describe(result, *args, **kwargs))
        return result

    return store
