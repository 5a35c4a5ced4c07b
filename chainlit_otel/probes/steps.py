"""Steps: `chainlit.step.Step`, by its context manager or by `send` and `update` alone.

The context manager is what `@cl.step` uses, too, in a coroutine or in a worker thread. The
handlers for LangChain and LlamaIndex never enter a step: they stamp its start and send it, and
stamp its end and send it again. What they send in between may name it as its parent, so its span
begins and ends with its stamps. It is never the current one; and one that never ends is not told.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from datetime import datetime, timezone
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

from chainlit_otel import catalog
from chainlit_otel.core.labels import ClosedSet
from chainlit_otel.core.sessions import NS
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches, SeamMissing, wraps
from chainlit_otel.probes.sockets import Sockets
from chainlit_otel.telemetry import Telemetry
from chainlit_otel.tracing import UNHEARD, Frame, Tracing, outcome_of, printable

Method = Callable[..., Any]


class _Seen:
    """What is known of a step.

    Attributes:
        entered: Whether it is one that is entered; else it is one that is only sent.
        started: Monotonic time at which it was entered, in nanoseconds.
        frame: Its span.
        open: Whether it has begun and not ended.
    """

    __slots__ = ("entered", "frame", "open", "started")

    def __init__(self, entered: bool, frame: Frame) -> None:
        self.entered = entered
        self.started = time.monotonic_ns()
        self.frame = frame
        self.open = not entered


class Steps:
    """The steps that were entered or seen.

    Args:
        telemetry: Takes the durations.
        tracing: Ends the spans.
        sockets: Opens the spans.
        capture: Whether input and output of steps are recorded in spans.
    """

    def __init__(
        self, telemetry: Telemetry, tracing: Tracing, sockets: Sockets, capture: bool
    ) -> None:
        self.type = ClosedSet(catalog.STEP_TYPE.values)
        self._telemetry = telemetry
        self._tracing = tracing
        self._sockets = sockets
        self._capture = capture
        self._seen: WeakKeyDictionary[Any, _Seen] = WeakKeyDictionary()
        self._sent: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def entering(self, step: Any) -> _Seen:
        """A step is about to be entered, which sends it."""
        seen = self._seen[step] = _Seen(True, UNHEARD)
        return seen

    def entered(self, step: Any, seen: _Seen) -> None:
        """A step was entered."""
        seen.open = True
        if not self._tracing.idle:
            wall = time.time_ns() - (time.monotonic_ns() - seen.started)
            seen.frame = self._open(step, wall)

    def exited(self, step: Any, error: BaseException | None) -> None:
        """A step is left, by `error` if that is not None."""
        seen = self._seen.get(step)
        if seen is None or not seen.open:
            return
        seen.open = False
        outcome = "error" if error is None and step.is_error else outcome_of(error)
        seconds = (time.monotonic_ns() - seen.started) / NS
        self._telemetry.record(catalog.STEP_DURATION, seconds, self.type(step.type), outcome)
        self._record_content(step, seen)
        self._tracing.close(seen.frame, outcome, error)

    def sent(self, step: Any) -> None:
        """A step was sent or updated, which tells of one that is not entered."""
        seen = self._seen.get(step)
        if not step.start or (seen is not None and seen.entered):
            return
        start = _nanoseconds(step.start)
        if seen is None:
            frame = self._open(step, start, self._above(step))
            self._tracing.leave(frame)
            seen = self._seen[step] = _Seen(False, frame)
            self._sent[step.id] = step
        if not step.end or not seen.open:
            return
        seen.open = False
        end = _nanoseconds(step.end)
        outcome = "error" if step.is_error else "ok"
        seconds = max(0, end - start) / NS
        self._telemetry.record(catalog.STEP_DURATION, seconds, self.type(step.type), outcome)
        self._record_content(step, seen)
        self._tracing.close(seen.frame, outcome, end=end)

    def _record_content(self, step: Any, seen: _Seen) -> None:
        if self._capture and seen.frame.span.is_recording():
            # What a step holds is the app's, and may fail to become a text.
            with self._tracing.guard:
                seen.frame.span.set_attributes(_content(step))

    def _open(self, step: Any, start: int, above: Frame | None = None) -> Frame:
        kind = self.type(step.type)
        return self._sockets.open(
            f"{catalog.SPAN_STEP} {kind}", _attributes(step, kind), start, above
        )

    def _above(self, step: Any) -> Frame | None:
        parent = self._sent.get(step.parent_id)
        seen = None if parent is None else self._seen.get(parent)
        return None if seen is None else seen.frame


def _attributes(step: Any, kind: str) -> dict[str, str]:
    return {catalog.STEP_TYPE.key: kind, catalog.STEP_NAME: printable(step.name)}


def _content(step: Any) -> dict[str, str]:
    # The input of this one, which Chainlit opens itself, is the user's message.
    if step.type == "run" and step.name == "on_message":
        return {}
    return {catalog.STEP_INPUT: printable(step.input), catalog.STEP_OUTPUT: printable(step.output)}


def _nanoseconds(stamp: str) -> int:
    """Return the time since the epoch of a stamp of Chainlit's, which is in UTC."""
    moment = datetime.fromisoformat(stamp.removesuffix("Z")).replace(tzinfo=timezone.utc)
    return int(moment.timestamp() * 1e6) * 1000


def install(patches: Patches, guard: Guard, telemetry: Telemetry, steps: Steps) -> None:
    """Wrap the step class.

    Raises:
        SeamMissing: This version of Chainlit has no such class or method.
    """
    # `chainlit.step` names the decorator in the package, and the module only here.
    step = getattr(import_module("chainlit.step"), "Step", None)
    if step is None:
        raise SeamMissing("chainlit.step.Step")
    for name, make in (
        ("__aenter__", _entering_async),
        ("__aexit__", _exiting_async),
        ("__enter__", _entering),
        ("__exit__", _exiting),
        ("send", _sending),
        ("update", _sending),
    ):
        patches.override(step, name, functools.partial(make, patches, guard, steps))


def _entering_async(patches: Patches, guard: Guard, steps: Steps, original: Method) -> Method:
    @wraps(original)
    async def aenter(step: Any) -> Any:
        seen: _Seen | None = None
        with guard:
            seen = steps.entering(step) if patches.active else None
        result = await original(step)
        with guard:
            if seen is not None:
                steps.entered(step, seen)
        return result

    return aenter


def _entering(patches: Patches, guard: Guard, steps: Steps, original: Method) -> Method:
    @wraps(original)
    def enter(step: Any) -> Any:
        seen: _Seen | None = None
        with guard:
            seen = steps.entering(step) if patches.active else None
        result = original(step)
        with guard:
            if seen is not None:
                steps.entered(step, seen)
        return result

    return enter


def _exiting_async(patches: Patches, guard: Guard, steps: Steps, original: Method) -> Method:
    @wraps(original)
    async def aexit(step: Any, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        with guard:
            if patches.active:
                steps.exited(step, exc_val)
        return await original(step, exc_type, exc_val, exc_tb)

    return aexit


def _exiting(patches: Patches, guard: Guard, steps: Steps, original: Method) -> Method:
    @wraps(original)
    def leave(step: Any, exc_type: Any, exc_val: Any, exc_tb: Any) -> Any:
        with guard:
            if patches.active:
                steps.exited(step, exc_val)
        return original(step, exc_type, exc_val, exc_tb)

    return leave


def _sending(patches: Patches, guard: Guard, steps: Steps, original: Method) -> Method:
    @wraps(original)
    async def send(step: Any, *args: Any, **kwargs: Any) -> Any:
        with guard:
            if patches.active:
                steps.sent(step)
        return await original(step, *args, **kwargs)

    return send
