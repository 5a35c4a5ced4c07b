"""Steps: `chainlit.step.Step`, by its context manager or by `send` and `update` alone.

The context manager is what `@cl.step` uses, too, in a coroutine or in a worker thread. The
handlers for LangChain and LlamaIndex never enter a step: they stamp its start and send it, and
stamp its end and send it again. What they send in between may name it as its parent, so its span
begins and ends with its stamps. It is never the current one; and one that never ends is not told.

An app may give a step its true name and type only while it runs, and those count: they are asked
for when it ends.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from chainlit_otel import catalog
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.core.sessions import NS
from chainlit_otel.patching import Patches, SeamMissing, wraps
from chainlit_otel.pipeline.spans import NOOP_SCOPE, SpanScope, utf8_safe
from chainlit_otel.probes.chainlit_types import ChainlitStep
from chainlit_otel.probes.messages import Messages
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.session_spans import SessionSpans

# An app has tens of steps; one that puts what it looks for into their names has any number.
_NAMES = 64

Method = Callable[..., Any]


class _StepState:
    """What is known of a step.

    Attributes:
        entered: Whether it is one that is entered; else it is one that is only sent.
        started: Monotonic time at which it was entered, in nanoseconds.
        scope: Its span.
        named: Its type and name, as its span was named by them.
        open: Whether it has started and not ended.
    """

    __slots__ = ("entered", "named", "open", "scope", "started")

    def __init__(self, entered: bool) -> None:
        self.entered = entered
        self.started = time.monotonic_ns()
        self.scope = NOOP_SCOPE
        self.named: tuple[object, object] | None = None
        self.open = not entered


class Steps(Probe):
    """The steps that were entered or sent.

    Attributes:
        types: The types of steps.
        names: The names of steps, as they are in the names of spans.
    """

    name = "steps"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self.types = EnumLabel(catalog.STEP_TYPE.values)
        self.names = BoundedLabel(_NAMES)
        self._messages = context.get(Messages)
        self._spans = context.get(SessionSpans)
        self._tracing = context.tracing
        self._capture = context.settings.capture_steps
        self._states: WeakKeyDictionary[Any, _StepState] = WeakKeyDictionary()
        self._sent: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def install(self, patches: Patches) -> None:
        """Wrap the step class."""
        # `chainlit.step` names the decorator in the package, and the module only here.
        step = getattr(import_module("chainlit.step"), "Step", None)
        if step is None:
            raise SeamMissing("chainlit.step.Step")
        for name, wrap in (
            ("__aenter__", _wrap_aenter),
            ("__aexit__", _wrap_aexit),
            ("__enter__", _wrap_enter),
            ("__exit__", _wrap_exit),
            ("send", _wrap_send),
            ("update", _wrap_send),
        ):
            patches.replace_attribute(step, name, functools.partial(wrap, patches, self))

    def overflows(self) -> Mapping[catalog.Attribute, EnumLabel | BoundedLabel]:
        """Return what bounds the types and the names of steps."""
        return {catalog.STEP_TYPE: self.types, catalog.STEP_NAME: self.names}

    def on_enter(self, step: ChainlitStep) -> _StepState:
        """A step is about to be entered, which sends it."""
        state = self._states[step] = _StepState(True)
        return state

    def on_entered(self, step: ChainlitStep, state: _StepState) -> None:
        """A step was entered."""
        state.open = True
        if self._tracing.is_enabled:
            wall = time.time_ns() - (time.monotonic_ns() - state.started)
            self._start(step, state, wall)

    def on_exit(self, step: ChainlitStep, error: BaseException | None) -> None:
        """A step is left, by `error` if that is not None."""
        state = self._states.get(step)
        if state is None or not state.open:
            return
        failed = error is None and step.is_error
        outcome = "error" if failed else self._messages.outcome_of(error)
        self._end(step, state, (time.monotonic_ns() - state.started) / NS, outcome, error)

    def on_send(self, step: ChainlitStep) -> None:
        """A step was sent or updated, which tells of one that is not entered."""
        state = self._states.get(step)
        if not step.start or (state is not None and state.entered):
            return
        start = _nanoseconds(step.start)
        if state is None:
            state = self._states[step] = _StepState(False)
            self._sent[step.id] = step
            self._start(step, state, start, self._parent_of(step))
            self._tracing.detach(state.scope)
        if not step.end or not state.open:
            return
        end = _nanoseconds(step.end)
        outcome = "error" if step.is_error else "ok"
        self._end(step, state, max(0, end - start) / NS, outcome, None, end)

    def _start(
        self, step: ChainlitStep, state: _StepState, start: int, parent: SpanScope | None = None
    ) -> None:
        name, attributes = self._describe(step)
        state.named = (step.type, step.name)
        state.scope = self._spans.start(name, attributes, start, parent)

    def _end(
        self,
        step: ChainlitStep,
        state: _StepState,
        seconds: float,
        outcome: str,
        error: BaseException | None,
        end: int | None = None,
    ) -> None:
        state.open = False
        kind = self.types(step.type)
        # The first step of a type that fails is told as soon as there was one that did not.
        self.telemetry.expect(catalog.STEP_DURATION, (kind, "error"))
        self.telemetry.record(catalog.STEP_DURATION, seconds, kind, outcome)
        span = state.scope.span
        if span.is_recording():
            # What a step holds is the app's, and may fail to become a text.
            with self._tracing.guard:
                if state.named != (step.type, step.name):
                    name, attributes = self._describe(step)
                    span.update_name(name)
                    span.set_attributes(attributes)
                if self._capture:
                    span.set_attributes(_content(step))
        self._tracing.end(state.scope, outcome, error, end)

    def _describe(self, step: ChainlitStep) -> tuple[str, dict[str, str]]:
        """Return the name and the attributes of a step's span."""
        kind, name = self.types(step.type), utf8_safe(step.name)
        span = f"{catalog.SPAN_STEP} {kind} {self.names.admit(name)}"
        return span, {catalog.STEP_TYPE.key: kind, catalog.STEP_NAME.key: name}

    def _parent_of(self, step: ChainlitStep) -> SpanScope | None:
        parent = self._sent.get(step.parent_id or "")
        state = None if parent is None else self._states.get(parent)
        return None if state is None else state.scope


def _content(step: ChainlitStep) -> dict[str, str]:
    # The input of this one, which Chainlit opens itself, is the user's message.
    if step.type == "run" and step.name == "on_message":
        return {}
    return {catalog.STEP_INPUT: utf8_safe(step.input), catalog.STEP_OUTPUT: utf8_safe(step.output)}


def _nanoseconds(stamp: str) -> int:
    """Return the time since the epoch of a stamp of Chainlit's, which is in UTC."""
    moment = datetime.fromisoformat(stamp.removesuffix("Z")).replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1e6) * 1000


def _wrap_aenter(patches: Patches, steps: Steps, original: Method) -> Method:
    @wraps(original)
    async def aenter(step: ChainlitStep) -> Any:
        state: _StepState | None = None
        with steps.guard:
            state = steps.on_enter(step) if patches.active else None
        result = await original(step)
        with steps.guard:
            if state is not None:
                steps.on_entered(step, state)
        return result

    return aenter


def _wrap_enter(patches: Patches, steps: Steps, original: Method) -> Method:
    @wraps(original)
    def enter(step: ChainlitStep) -> Any:
        state: _StepState | None = None
        with steps.guard:
            state = steps.on_enter(step) if patches.active else None
        result = original(step)
        with steps.guard:
            if state is not None:
                steps.on_entered(step, state)
        return result

    return enter


def _wrap_aexit(patches: Patches, steps: Steps, original: Method) -> Method:
    @wraps(original)
    async def aexit(step: ChainlitStep, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        with steps.guard:
            if patches.active:
                steps.on_exit(step, exc_val)
        return await original(step, exc_type, exc_val, exc_tb)

    return aexit


def _wrap_exit(patches: Patches, steps: Steps, original: Method) -> Method:
    @wraps(original)
    def exit(step: ChainlitStep, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        with steps.guard:
            if patches.active:
                steps.on_exit(step, exc_val)
        return original(step, exc_type, exc_val, exc_tb)

    return exit


def _wrap_send(patches: Patches, steps: Steps, original: Method) -> Method:
    @wraps(original)
    async def send(step: ChainlitStep, *args: Any, **kwargs: Any) -> Any:
        with steps.guard:
            if patches.active:
                steps.on_send(step)
        return await original(step, *args, **kwargs)

    return send
