"""Feedback: the `upsert_feedback` and `delete_feedback` of the data layer.

The feedback of the page and of Slack, Teams and Discord goes through these; `on_feedback` is called
after them, and for the page only. If the layer raises, the feedback is not stored and does not
count here: it is an error among the operations of the layer. `SQLAlchemyDataLayer` swallows the
errors of its database and returns a new id, so feedback that it failed to store counts.

A user who changes their mind, or adds a comment, gives feedback again. It may come days later, and
has the id of a message or a step only. That is known here for the last 10,000 of them, whatever
session the user has by then; what comes later, or about another process, is unlinked.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.core.counts import Counts
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.core.turns import TurnReference
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches, wraps
from chainlit_otel.probes.chainlit_types import ChainlitFeedback
from chainlit_otel.probes.data_layer.discovery import Discovery, wrap_method
from chainlit_otel.probes.evaluations import Evaluations
from chainlit_otel.probes.probe import Probe, ProbeContext


class Feedback(Probe):
    """The feedback of users, by its value, and the turns that it is about."""

    name = "feedback"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._discovery = context.get(Discovery)
        self._evaluations = context.get(Evaluations)
        self._given: Counts[tuple[str, ...]] = Counts()
        self._unlinked: Counts[tuple[str, ...]] = Counts()

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
        register = functools.partial(self.telemetry.register_observable, guard=self.guard)
        register(catalog.FEEDBACK, self.given)
        register(catalog.FEEDBACK_UNLINKED, self._unlinked.read)

    def overflows(self) -> Mapping[catalog.Attribute, EnumLabel | BoundedLabel]:
        """Return what bounds the names of scores, which the app gives as users give feedback."""
        return {catalog.SCORE_NAME: self._evaluations.names}

    def on_upserted(self, feedback_id: Any, feedback: ChainlitFeedback) -> None:
        """The data layer has stored feedback, and given it an id."""
        value = "positive" if feedback.value else "negative"
        message_id = str(feedback.forId)
        judgements = self._evaluations.judgements
        turn = judgements.turn_of(message_id)
        if not self._evaluations.is_synthetic(turn):
            judgements.feedback_given(message_id, str(feedback_id), value)
            self._count(value, turn)
        has_comment = bool(getattr(feedback, "comment", None))
        self._evaluations.on_feedback(turn, message_id, value, has_comment)

    def on_deleted(self, deleted: Any, feedback_id: Any) -> None:
        """The data layer has deleted feedback, unless it says that it has not."""
        # Layers that say nothing return None.
        if deleted is not False and not self._evaluations.is_synthetic(None):
            message_id, turn = self._evaluations.judgements.feedback_deleted(str(feedback_id))
            self._count("deleted", turn)
            self._evaluations.on_feedback(turn, message_id, "deleted", None)

    def _count(self, value: str, turn: TurnReference | None) -> None:
        self._given.add((value,))
        if turn is None:
            self._unlinked.add(())

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
