"""What users and the app think of a turn: the feedback of users, and `record_score`.

Both are results of an evaluation as OpenTelemetry has it: an event on the span of the turn. Most of
them come when that has ended, and a span that has ended takes no event. Then a span of their own
has it, which is linked to that of the turn; as its child it would make the turn last for days.
"""

from __future__ import annotations

import math

from opentelemetry.trace import SpanContext, TraceFlags

from chainlit_otel import catalog
from chainlit_otel.core.judgements import Judgements
from chainlit_otel.core.labels import BoundedLabel
from chainlit_otel.core.turns import TurnReference
from chainlit_otel.pipeline.spans import utf8_safe
from chainlit_otel.probes.messages import Messages, current_turn
from chainlit_otel.probes.probe import ProbeContext
from chainlit_otel.probes.sessions import Sessions, current_session
from chainlit_otel.records import rows
from chainlit_otel.settings import warn

# An app has a handful of scores; each costs as many series as a histogram has buckets.
_NAMES = 16


class Evaluations:
    """The results of evaluations: where they are counted, shown in traces and kept.

    Args:
        context: What all probes share.

    Attributes:
        judgements: The turns that may be judged.
        names: The names of scores.
    """

    def __init__(self, context: ProbeContext) -> None:
        self._messages = context.get(Messages)
        self._sessions = context.get(Sessions)
        self._recorder = context.recorder
        self._telemetry = context.telemetry
        self._tracing = context.tracing
        self.judgements: Judgements = self._messages.judgements
        self.names = BoundedLabel(_NAMES)

    def is_synthetic(self, turn: TurnReference | None) -> bool:
        """Tell whether a synthetic visitor judges, or is answered in the turn that is judged."""
        return (turn is not None and turn.is_synthetic) or self._sessions.is_synthetic()

    def on_feedback(
        self, turn: TurnReference | None, message_id: str, value: str, has_comment: bool | None
    ) -> None:
        """Feedback was given, given again, or deleted.

        Args:
            turn: The turn that it is about; None if that is not known.
            message_id: Id of the message that it is about; empty if that is not known.
            value: `positive`, `negative` or `deleted`.
            has_comment: Whether there is a comment; None if it is deleted.
        """
        if value == "negative" and turn is not None:
            self._keep(turn)
        self._show(turn, catalog.USER_FEEDBACK, catalog.FEEDBACK_SCORES.get(value), value)
        if self.is_synthetic(turn):
            return
        with self._recorder.guard:
            self._recorder.feedback_given(turn, message_id, value, has_comment)

    def _keep(self, turn: TurnReference) -> None:
        """Have a turn that was judged badly keep its spans, if they still wait."""
        keeper = self._tracing.keeper
        if keeper is not None and turn.dropped is not None:
            with self._tracing.guard:
                if keeper.keep(int(turn.dropped[0], 16)):
                    turn.trace_id, turn.span_id = turn.dropped

    def on_score(self, name: str, value: float, label: str | None, message_id: str | None) -> None:
        """The app has given a score.

        Args:
            name: What was judged.
            value: The score.
            label: The score in a word, if it has one.
            message_id: Id of a message of the turn; None for the turn under way.
        """
        if not isinstance(name, str) or not name.strip():
            warn("record_score() keeps nothing: its name must be a text that is not empty")
            return
        named = self.names.admit(utf8_safe(name))
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number):
            warn(f"record_score({named!r}) keeps nothing: its value must be a finite number")
            return
        turn = self._judged(message_id)
        is_synthetic = self.is_synthetic(turn)
        if number >= 0 and not is_synthetic:
            self._telemetry.record(catalog.SCORE, number, named)
        elif number < 0:
            # The sum of a histogram never falls.
            warn(
                f"record_score({named!r}) does not count in {catalog.SCORE.name}, which takes no "
                "negative values; events and records have it"
            )
        word = None if label is None else rows.shortened(str(label))
        self._show(turn, rows.shortened(name), number, word)
        if is_synthetic:
            return
        with self._recorder.guard:
            self._recorder.score_given(turn, name, number, word)

    def _judged(self, message_id: str | None) -> TurnReference | None:
        if message_id is not None:
            return self.judgements.turn_of(str(message_id))
        if (turn := current_turn.get()) is not None:
            return turn.reference
        session = self._sessions.handle(current_session())
        return None if session is None else TurnReference(session, profile=session.profile)

    def _show(
        self, turn: TurnReference | None, name: str, value: float | None, label: str | None
    ) -> None:
        """Have the trace of a turn show the result of an evaluation, if it has a trace."""
        if turn is None:
            return
        with self._tracing.guard:
            result = rows.evaluation(name, value, label)
            attributes = {key: found for key, found in result.items() if found is not None}
            if (span := self._messages.span_of(turn)) is not None:
                span.add_event(catalog.EVENT_EVALUATION, attributes)
            elif turn.trace_id:
                described = {} if turn.session is None else {catalog.SESSION_ID: turn.session.hash}
                judged = SpanContext(
                    int(turn.trace_id, 16),
                    int(turn.span_id, 16),
                    is_remote=False,
                    trace_flags=TraceFlags(TraceFlags.SAMPLED),
                )
                scope = self._tracing.start_root(catalog.SPAN_EVALUATION, described, (judged,))
                scope.span.add_event(catalog.EVENT_EVALUATION, attributes)
                self._tracing.end(scope, "ok")
