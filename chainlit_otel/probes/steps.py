"""Steps: `chainlit.step.Step`, by its context manager or by `send` and `update` alone.

`@cl.step` uses the context manager, too, in a coroutine or in a worker thread. The handlers for
LangChain and LlamaIndex never enter a step: they set its start time and send it, and set its end
time and send it again. Steps that they send in between may name it as their parent. So the span of
a step that is only sent has these two times, is never the current one, and is not exported if the
step never ends.

An app may set the final name and type of a step while that runs, so both are read when it ends.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib import import_module
from operator import itemgetter
from typing import Any
from weakref import ReferenceType, WeakValueDictionary, ref

from chainlit_otel import catalog
from chainlit_otel.core.identities import WeakIdentityDict
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.core.sessions import NS
from chainlit_otel.core.tools import ToolLedger
from chainlit_otel.core.turns import ToolCall, Turn
from chainlit_otel.patching import Patches, SeamMissing, wraps
from chainlit_otel.pipeline.spans import NOOP_SCOPE, SpanScope, utf8_safe
from chainlit_otel.probes.chainlit_types import ChainlitStep
from chainlit_otel.probes.messages import Messages, current_turn
from chainlit_otel.probes.model_calls import ModelCalls
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.session_spans import SessionSpans
from chainlit_otel.probes.sessions import Sessions

# An app has tens of steps; one that puts what it looks for into their names has any number.
_NAMES = 64

Method = Callable[..., Any]


class _StepState:
    """What is known of a step.

    Attributes:
        entered: Whether it was entered as a context manager; else it is only sent.
        started: Monotonic time at which it was entered, in nanoseconds.
        scope: Its span.
        named: Its type and name when its span was named by them.
        open: Whether it has started and not ended.
        task: The task that it runs in, while it does; None if it says no more than its callback.
    """

    __slots__ = ("entered", "named", "open", "scope", "started", "task")

    def __init__(self, entered: bool) -> None:
        self.entered = entered
        self.started = time.monotonic_ns()
        self.scope = NOOP_SCOPE
        self.named: tuple[object, object] | None = None
        self.open = not entered
        self.task: ReferenceType[asyncio.Task[Any]] | None = None


class Steps(Probe):
    """The steps that were entered or sent.

    Attributes:
        types: The types of steps.
        names: The names of steps, as they are in the names of spans.
        tools: The names of tools.
    """

    name = "steps"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self.types = EnumLabel(catalog.STEP_TYPE.values)
        self.names = BoundedLabel(_NAMES)
        self.tools = BoundedLabel(_NAMES)
        self._calls = ToolLedger()
        self._messages = context.get(Messages)
        self._sessions = context.get(Sessions)
        self._model_calls = context.get(ModelCalls)
        self._model_calls.on_tool = self.on_tool
        self._spans = context.get(SessionSpans)
        self._tracing = context.tracing
        self._capture = context.settings.capture_steps
        self._states: WeakIdentityDict[_StepState] = WeakIdentityDict()
        self._sent: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self._expected: set[str] = set()
        self._expected_tools: set[str] = set()

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
        self.telemetry.register_observable(catalog.TOOL_CALLS, self._calls.calls, self.guard)
        self.telemetry.register_observable(catalog.TOOL_TIME, self._calls.time, self.guard)

    def overflows(self) -> Mapping[catalog.Attribute, EnumLabel | BoundedLabel]:
        """Return what bounds the types and the names of steps."""
        return {
            catalog.STEP_TYPE: self.types,
            catalog.STEP_NAME: self.names,
            catalog.TOOL_NAME: self.tools,
        }

    def on_enter(self, step: ChainlitStep) -> _StepState:
        """A step is about to be entered, which sends it."""
        state = _StepState(True)
        self._states.put(step, state)
        return state

    def on_entered(self, step: ChainlitStep, state: _StepState) -> None:
        """A step was entered."""
        state.open = True
        # What Chainlit itself starts around a callback has the callback's name, and says no more.
        if step.type != "run" and (task := _current_task()) is not None:
            state.task = ref(task)
        if self._tracing.is_enabled():
            wall = time.time_ns() - (time.monotonic_ns() - state.started)
            self._start(step, state, wall)

    def on_exit(self, step: ChainlitStep, error: BaseException | None) -> None:
        """A step is left, by `error` if that is not None."""
        state = self._states.get(step)
        if state is None or not state.open:
            return
        state.task = None
        if error is None:
            outcome = "error" if step.is_error else "ok"
        else:
            outcome = self._messages.outcome_of(error)
        self._end(step, state, (time.monotonic_ns() - state.started) / NS, outcome, error)

    def running(self, task: asyncio.Task[Any] | None) -> tuple[str, str] | None:
        """Return type and name, as a label, of the step that a task is in; None without one."""
        # All steps are looked through: the loop is blocked less often than a step starts.
        running = [
            (state.started, step)
            for step, state in self._states.items()
            if task is not None and state.task is not None and state.task() is task
        ]
        if not running:
            return None
        _, step = max(running, key=itemgetter(0))
        return self.types(step.type), self.names.admit(utf8_safe(step.name))

    def on_send(self, step: ChainlitStep) -> None:
        """A step was sent or updated: for one that is not entered, its start or its end."""
        state = self._states.get(step)
        if not step.start or (state is not None and state.entered):
            return
        start = _nanoseconds(step.start)
        if state is None:
            state = _StepState(False)
            self._states.put(step, state)
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
        if not self._sessions.is_synthetic():
            self._record(step, seconds, outcome, end)
        if (generation := step.generation) is not None:
            self._model_calls.on_generation(generation)
        if state.scope is NOOP_SCOPE:
            return
        span = state.scope.span
        if span.is_recording():
            # The content of a step is the app's, and its `__str__` may raise.
            with self._tracing.guard:
                if state.named != (step.type, step.name):
                    name, attributes = self._describe(step)
                    span.update_name(name)
                    span.set_attributes(attributes)
                if self._capture:
                    span.set_attributes(_content(step))
        self._tracing.end(state.scope, outcome, error, end)

    def _record(self, step: ChainlitStep, seconds: float, outcome: str, end: int | None) -> None:
        kind = self.types(step.type)
        if kind not in self._expected:
            # From the first step of a type on, so that `rate()` does not lose the first that fails.
            self.telemetry.expect(catalog.STEP_DURATION, (kind, "error"))
            self._expected.add(kind)
        self.telemetry.record(catalog.STEP_DURATION, seconds, kind, outcome)
        turn = current_turn.get()
        if kind == "tool":
            ended = end or time.time_ns()
            started = ended - round(seconds * NS)
            self.on_tool(turn, catalog.SCOPE, step.name, started, ended, outcome)
        if turn is not None and not turn.ended:
            self._messages.ledger.record_step(turn)

    def on_tool(
        self, turn: Turn | None, source: str, tool: str, start: int, end: int, outcome: str
    ) -> None:
        """A call of a tool has ended, as a step or by what another instrumentation says.

        Args:
            turn: The turn that it is in; None outside of turns.
            source: Who shows it.
            tool: Name of the tool.
            start: When it began, by the wall clock, in nanoseconds since the epoch.
            end: When it ended, likewise.
            outcome: `ok`, `error` or `cancelled`.
        """
        if turn is not None and turn.is_synthetic:
            return
        tool = utf8_safe(tool)
        call = ToolCall(self.tools.admit(tool), max(0, end - start) / NS, outcome)
        ledger, name = self._messages.ledger, call.name
        if turn is not None and not ledger.record_tool(turn, source, tool, start, end, call):
            return
        if name not in self._expected_tools:
            # From the first call on, so that `rate()` does not lose the first that fails.
            for metric in (catalog.TOOL_CALLS, catalog.TOOL_TIME):
                self.telemetry.expect(metric, (name, "ok"), (name, "error"))
            self._expected_tools.add(name)
        self._calls.add(name, outcome, call.duration)

    def _describe(self, step: ChainlitStep) -> tuple[str, dict[str, str]]:
        """Return the name and the attributes of a step's span."""
        kind, name = self.types(step.type), utf8_safe(step.name)
        span = f"{catalog.SPAN_STEP} {kind} {self.names.admit(name)}"
        return span, {catalog.STEP_TYPE.key: kind, catalog.STEP_NAME.key: name}

    def _parent_of(self, step: ChainlitStep) -> SpanScope | None:
        parent = self._sent.get(step.parent_id or "")
        state = None if parent is None else self._states.get(parent)
        return None if state is None else state.scope


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        # A step that is no coroutine may run in a worker thread.
        return None


def _content(step: ChainlitStep) -> dict[str, str]:
    # The input of the step that Chainlit itself starts is the user's message.
    if step.type == "run" and step.name == "on_message":
        return {}
    return {catalog.STEP_INPUT: utf8_safe(step.input), catalog.STEP_OUTPUT: utf8_safe(step.output)}


def _nanoseconds(stamp: str) -> int:
    """Return a timestamp of Chainlit, which is in UTC, as nanoseconds since the epoch."""
    moment = datetime.fromisoformat(stamp.removesuffix("Z")).replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1e6) * 1000


def _wrap_aenter(patches: Patches, steps: Steps, original: Method) -> Method:
    @wraps(original)
    async def aenter(step: ChainlitStep) -> Any:
        state: _StepState | None = None
        if patches.active:
            try:
                state = steps.on_enter(step)
            except Exception as error:  # noqa: BLE001 - a guard
                steps.guard.on_error(error)
        result = await original(step)
        if state is not None:
            try:
                steps.on_entered(step, state)
            except Exception as error:  # noqa: BLE001 - a guard
                steps.guard.on_error(error)
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
        if patches.active:
            try:
                steps.on_exit(step, exc_val)
            except Exception as error:  # noqa: BLE001 - a guard
                steps.guard.on_error(error)
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
        if patches.active:
            try:
                steps.on_send(step)
            except Exception as error:  # noqa: BLE001 - a guard
                steps.guard.on_error(error)
        if args or kwargs:
            return await original(step, *args, **kwargs)
        return await original(step)

    return send
