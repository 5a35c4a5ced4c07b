"""Model calls of turns: spans of other instrumentations, `step.generation`, and what the app says.

An instrumentation of a model's client ends a span for each call, somewhere below the span of the
turn, and be it in another task or thread. That is seen by a span processor at the tracer provider,
so without a provider, or where a trace is not sampled, there is nothing to be seen of it.
Chainlit's own integrations set `generation` of a step instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import StatusCode

from chainlit_otel import catalog
from chainlit_otel.catalog import gen_ai
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.core.turns import Turn
from chainlit_otel.core.usage import APP, ModelCall, UsageLedger, answering, counts
from chainlit_otel.patching import Patches
from chainlit_otel.pipeline.attached import Attached
from chainlit_otel.pipeline.spans import utf8_safe
from chainlit_otel.prices import build_prices
from chainlit_otel.probes.chainlit_types import ChainlitGeneration
from chainlit_otel.probes.messages import Messages, current_turn
from chainlit_otel.probes.model_spans import call_of, litellm_call_of, source_of, tool_of
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.sessions import Sessions
from chainlit_otel.settings import warn

# Each is up to eleven series.
_MODELS = 32
_GENERATION = "chainlit"  # as a source

OnTool = Callable[["Turn | None", str, str, int, int, str], None]


class ModelCalls(Probe):
    """The model calls of turns, and what they cost.

    Attributes:
        models: The models, by the name that was asked for.
        ledger: What they have used, without those of synthetic visitors.
        on_tool: Called with the turn, who shows it, the name, start and end in nanoseconds, and the
            outcome of each call of a tool in a turn that another instrumentation shows.
    """

    name = "model_calls"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self.models = BoundedLabel(_MODELS)
        self._prices = build_prices(context.settings, self.guard)
        self.ledger = UsageLedger(self._prices.cost_of, self._label)
        self._synthetic_ledger = UsageLedger(self._prices.cost_of, self._label)
        self._messages = context.get(Messages)
        self._sessions = context.get(Sessions)
        self._messages.on_usage = self.on_turn_end
        self._pipeline = context.pipeline
        self.on_tool: OnTool | None = None
        self._seen: set[str] = set()
        self._priced: set[str] = set()

    def install(self, patches: Patches) -> None:
        """Attach to the tracer provider there is, and register the observable instruments."""
        self._prices.load_list()
        self._attach()
        for metric, reading in (
            (catalog.TURN_TOKENS, self.ledger.tokens),
            (catalog.TURN_COST, self.ledger.cost),
            (catalog.TURN_INFERENCES, self.ledger.inferences),
            (catalog.WASTED_COST, self.ledger.wasted_cost),
            (catalog.UNLINKED_USAGE, self.ledger.unlinked),
        ):
            self.telemetry.register_observable(metric, reading, self.guard)

    def overflows(self) -> Mapping[catalog.Attribute, EnumLabel | BoundedLabel]:
        """Return what bounds the names of models."""
        return {catalog.REQUEST_MODEL: self.models}

    def on_startup(self) -> None:
        """Attach to the provider that the app has set since."""
        self._attach()

    def end(self, reason: str) -> None:
        """Look at no span any more; what has ended is in the ledger."""
        if (processor := _processors.to(self._provider())) is not None:
            processor.model_calls = None

    def on_turn_end(self, turn: Turn) -> None:
        """A turn is over that had model calls."""
        try:
            self._ledger_of(turn).close(turn)
            if spent := turn.spent:
                turn.reference.model = answering(spent)
        except Exception as error:  # noqa: BLE001 - a guard
            self.guard.on_error(error)

    def on_generation(self, generation: ChainlitGeneration) -> None:
        """A step has ended that says it was a model call."""
        call = ModelCall(
            # Some of Chainlit's integrations take it from the answer, some from the request.
            responded=utf8_safe(generation.model or ""),
            provider=utf8_safe(generation.provider or ""),
            tokens=counts(input=generation.input_token_count, output=generation.output_token_count),
        )
        if call.is_counted or not generation.error:
            self._record(_GENERATION, call)

    def on_span_end(self, span: ReadableSpan) -> None:
        """A span has ended, whoever has started it."""
        context, scope = span.context, span.instrumentation_scope
        if context is None or scope is None:
            return
        source, call = scope.name, None
        turn = self._messages.by_trace.get(context.trace_id) or current_turn.get()
        if source == catalog.SCOPE and (turn is None or turn.usage is None):
            return
        attributes = span.attributes or {}
        if span.name == gen_ai.LITELLM_SPAN:
            # There may be another span of LiteLLM of this call, so this is a source of its own.
            source, call = span.name, litellm_call_of(attributes)
        elif source != catalog.SCOPE:
            source = source_of(source, attributes)
            call = call_of(attributes, span.status.status_code is StatusCode.ERROR)
        if turn is not None and source != catalog.SCOPE:
            self._show_tool(turn, source, span)
        if call is None and (turn is None or turn.usage is None):
            return
        if call is not None and turn is not None:
            self._expect(call, turn)
        parent = 0 if span.parent is None else span.parent.span_id
        self._ledger_of(turn).end_span(turn, source, call, context.span_id, parent)

    def _show_tool(self, turn: Turn, source: str, span: ReadableSpan) -> None:
        tool = tool_of(span.name, span.attributes or {})
        if not tool or self.on_tool is None or span.start_time is None or span.end_time is None:
            return
        failed = span.status.status_code is StatusCode.ERROR
        # What a stop has interrupted does not look as if it had failed.
        outcome = "cancelled" if turn.cancelled else "error" if failed else "ok"
        self.on_tool(turn, source, tool, span.start_time, span.end_time, outcome)

    def record_usage(
        self,
        model: str | None,
        provider: str | None,
        tokens: Mapping[str, int | None],
        cost: float | None,
    ) -> None:
        """The app says what a model call has used; see `chainlit_otel.record_usage`."""
        name = utf8_safe(model or "")
        given = {kind: n for kind, n in tokens.items() if n is not None}
        wrong = [f"{kind}_tokens" for kind, n in given.items() if not _is_count(n)]
        if cost is not None and not _is_cost(cost):
            wrong.append("cost")
        if wrong:
            warn(
                f"record_usage(model={name[:64]!r}) counts nothing: {wrong[0]} must be a number "
                "that is not negative"
            )
            return
        provider = utf8_safe(provider or "")
        self._record(APP, ModelCall(name, provider=provider, tokens=given, cost=cost))

    def _record(self, source: str, call: ModelCall) -> None:
        turn = current_turn.get()
        if turn is not None:
            self._expect(call, turn)
        self._ledger_of(turn).record(turn, source, call)

    def _ledger_of(self, turn: Turn | None) -> UsageLedger:
        is_synthetic = self._sessions.is_synthetic() if turn is None else turn.is_synthetic
        return self._synthetic_ledger if is_synthetic else self.ledger

    def _expect(self, call: ModelCall, turn: Turn) -> None:
        """Show the series of a model at zero, as its first turn is not over yet."""
        if turn.is_synthetic:
            return
        model = self._label(call.model)
        if model not in self._seen:
            self._seen.add(model)
            self.telemetry.expect(catalog.WASTED_COST, *zip(catalog.WASTE.values))
            self.telemetry.expect(catalog.UNLINKED_USAGE, ())
            self.telemetry.expect(
                catalog.TURN_TOKENS, *((model, kind) for kind in ("input", "output"))
            )
            self.telemetry.expect(
                catalog.TURN_INFERENCES,
                *((model, state) for state in catalog.USAGE_STATE.values),
            )
        if model not in self._priced and self._is_priced(call):
            self._priced.add(model)
            outcomes = ((model, outcome) for outcome in catalog.OUTCOME.values)
            self.telemetry.expect(catalog.TURN_COST, *outcomes)

    def _is_priced(self, call: ModelCall) -> bool:
        if call.cost is not None:
            return True
        return call.is_counted and self._prices.cost_of(call) is not None

    def _label(self, model: str) -> str:
        return self.models.admit(utf8_safe(model or "unknown"))

    def _provider(self) -> object:
        return self._pipeline.tracer_provider or trace.get_tracer_provider()

    def _attach(self) -> None:
        with self.guard:
            if (processor := _processors.to(self._provider())) is not None:
                processor.model_calls = self


class _Processor(SpanProcessor):
    """Shows the spans of a provider to the probe, for as long as there is one."""

    takes_light_spans = True

    def __init__(self) -> None:
        self.model_calls: ModelCalls | None = None

    def on_end(self, span: ReadableSpan) -> None:
        model_calls = self.model_calls
        if model_calls is None:
            return
        try:
            model_calls.on_span_end(span)
        except Exception as error:  # noqa: BLE001 - a guard: the app ends spans of its own
            model_calls.guard.on_error(error)


_processors = Attached(_Processor)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_cost(value: object) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return math.isfinite(value) and value >= 0
