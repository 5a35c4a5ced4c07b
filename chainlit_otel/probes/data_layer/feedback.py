"""Feedback: the `upsert_feedback` and `delete_feedback` of the data layer.

The feedback of the page and of Slack, Teams and Discord goes through these; `on_feedback` is called
after them, and for the page only. If the layer raises, the feedback is not stored and does not
count here: it is an error among the operations of the layer. `SQLAlchemyDataLayer` swallows the
errors of its database and returns a new id, so feedback that it failed to store counts.

A user who changes their mind, or adds a comment, gives feedback again. No metric links it to its
turn: it may come days later, to another process, and has the id of a step only. A record does,
while that id is known here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.core.counts import Counts
from chainlit_otel.guard import Guard
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
        self._recorder = context.recorder
        self._given: Counts[tuple[str, ...]] = Counts()

    def install(self, patches: Patches) -> None:
        """Observe the data layer."""

        def found(layer: Any) -> None:
            for name, stored in (
                ("upsert_feedback", self.on_upserted),
                ("delete_feedback", self.on_deleted),
            ):
                wrap = functools.partial(_wrap_store, patches, self.guard, stored)
                wrap_method(patches, layer, name, wrap)

        self._discovery.listen(patches, self.guard, found)
        self.telemetry.register_observable(catalog.FEEDBACK, self.given, self.guard)

    def on_upserted(self, feedback_id: Any, feedback: ChainlitFeedback) -> None:
        """The data layer has stored feedback, and given it an id."""
        value = "positive" if feedback.value else "negative"
        self._given.add((value,))
        self._recorder.feedback_given(
            feedback.forId, feedback_id, value, bool(getattr(feedback, "comment", None))
        )

    def on_deleted(self, deleted: Any, feedback_id: Any) -> None:
        """The data layer has deleted feedback, unless it says that it has not."""
        # Layers that say nothing return None.
        if deleted is not False:
            self._given.add(("deleted",))
            self._recorder.feedback_deleted(feedback_id)

    def given(self) -> dict[tuple[str, ...], int]:
        """Return how much feedback there was, by value."""
        return self._given.read()


def _wrap_store(patches: Patches, guard: Guard, stored: Callable[..., None], original: Any) -> Any:
    @wraps(original)
    async def store(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        with guard:
            if patches.active:
                stored(result, *args, **kwargs)
        return result

    return store
