"""Callbacks: the functions of the app that Chainlit keeps in `config.code`.

`wrap_user_function` swallows what a callback raises, so the error is only seen between it and
the function that it wraps. That function is in a cell of the wrapper's closure. Changing the
cell works for callbacks that were decorated before and for those that will be, whose wrappers
are looked for again when they can have changed: at the start of the server, and when a socket
connects. `config.code` itself is replaced when `chainlit run -w` reloads the app.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from types import CellType, CodeType
from typing import Any
from weakref import WeakKeyDictionary

from chainlit_otel import catalog
from chainlit_otel.core.labels import ClosedSet
from chainlit_otel.core.sessions import NS
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches, SeamMissing, wraps
from chainlit_otel.probes.access import Access
from chainlit_otel.probes.messages import Messages
from chainlit_otel.probes.sockets import Sockets
from chainlit_otel.telemetry import Telemetry
from chainlit_otel.tracing import Frame, Tracing, outcome_of

Function = Callable[..., Any]

_CELL = "user_function"


class Callbacks:
    """The callbacks that are observed, and those under way.

    Args:
        guard: Holds what goes wrong of ours.
        telemetry: Takes the durations.
        tracing: Opens the spans.
        sockets: Opens spans of sessions.
        messages: Learns of turns that failed.
        access: Learns of checks that failed.
    """

    def __init__(
        self,
        guard: Guard,
        telemetry: Telemetry,
        tracing: Tracing,
        sockets: Sockets,
        messages: Messages,
        access: Access,
    ) -> None:
        self.name = ClosedSet(catalog.CALLBACK_NAME.values)
        self.patches: Patches | None = None
        self._guard = guard
        self._telemetry = telemetry
        self._tracing = tracing
        self._sockets = sockets
        self._messages = messages
        self._access = access
        self._observed: WeakKeyDictionary[Function, Patches] = WeakKeyDictionary()
        self._names: WeakKeyDictionary[CodeType, str] = WeakKeyDictionary()

    def name_of(self, code: CodeType) -> str | None:
        """Return the name of the callback that a code object belongs to, if it is one."""
        return self._names.get(code)

    def sweep(self) -> None:
        """Observe the callbacks that are not observed yet."""
        patches = self.patches
        if patches is None or not patches.active:
            return
        for name, wrapper in _wrappers():
            if self._observed.get(wrapper) is patches:
                continue
            self._observed[wrapper] = patches
            cell = _cell(wrapper)
            if cell is not None:
                function = cell.cell_contents
                patches.fill(wrapper, cell, self._observing(patches, function, self.name(name)))
                self._name_code(function, name)

    def _name_code(self, function: Function, name: str) -> None:
        innermost = inspect.unwrap(function)
        if code := getattr(innermost, "__code__", None):
            self._names[code] = name

    def _observing(self, patches: Patches, function: Function, name: str) -> Function:
        """Return a function of the same kind and signature, since Chainlit asks for both."""
        guard = self._guard

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def observed(*args: Any, **kwargs: Any) -> Any:
                if not patches.active:
                    return await function(*args, **kwargs)
                call: _Call | None = None
                with guard:
                    call = self._begin(name)
                try:
                    result = await function(*args, **kwargs)
                except BaseException as error:
                    with guard:
                        self._end(call, error)
                    raise
                with guard:
                    self._end(call, None, result)
                return result

            return observed

        @wraps(function)
        def observed_sync(*args: Any, **kwargs: Any) -> Any:
            if not patches.active:
                return function(*args, **kwargs)
            call: _Call | None = None
            with guard:
                call = self._begin(name)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                with guard:
                    self._end(call, error)
                raise
            with guard:
                self._end(call, None, result)
            return result

        return observed_sync

    def _begin(self, name: str) -> _Call:
        span = f"{catalog.SPAN_CALLBACK} {name}"
        attributes = {catalog.CALLBACK_NAME.key: name}
        return _Call(name, time.monotonic_ns(), self._sockets.open(span, attributes))

    def _end(self, call: _Call | None, error: BaseException | None, result: Any = None) -> None:
        if call is None:
            return
        seconds = (time.monotonic_ns() - call.started) / NS
        outcome = outcome_of(error)
        self._telemetry.record(catalog.CALLBACK_DURATION, seconds, call.name, outcome)
        self._access.called_back(call.name, error)
        if call.name == "on_message" and error is not None:
            self._messages.failed(error)
        if call.name == "set_chat_profiles" and result:
            self._messages.profiles.learn(profile.name for profile in result)
        self._tracing.close(call.frame, outcome, error)


class _Call:
    """One callback under way."""

    __slots__ = ("frame", "name", "started")

    def __init__(self, name: str, started: int, frame: Frame) -> None:
        self.name = name
        self.started = started
        self.frame = frame


def _wrappers() -> Iterator[tuple[str, Function]]:
    """Give the name and the wrapper of every callback that is set now."""
    code = import_module("chainlit.config").config.code
    for name, value in vars(code).items():
        if name == "action_callbacks":
            for wrapper in value.values():
                yield name, wrapper
        elif callable(value) and name not in ("data_layer", "module"):
            yield name, value


def _cell(wrapper: Function) -> CellType | None:
    """Return the cell of a callback's wrapper that holds the app's own function."""
    code = getattr(wrapper, "__code__", None)
    closure = getattr(wrapper, "__closure__", None)
    if code is None or not closure or _CELL not in code.co_freevars:
        return None
    cell: CellType = closure[code.co_freevars.index(_CELL)]
    return cell


def install(patches: Patches, guard: Guard, telemetry: Telemetry, callbacks: Callbacks) -> None:
    """Observe the callbacks, now and whenever a socket connects.

    Raises:
        SeamMissing: This version of Chainlit keeps its callbacks elsewhere.
    """
    wrap_user_function = getattr(import_module("chainlit.utils"), "wrap_user_function", None)
    if wrap_user_function is None or _cell(wrap_user_function(lambda: None)) is None:
        raise SeamMissing("chainlit.utils.wrap_user_function")
    callbacks.patches = patches
    callbacks.sweep()
    handlers = import_module("chainlit.server").sio.handlers.get("/")
    patches.replace(handlers, "connect", functools.partial(_connecting, guard, callbacks))


def _connecting(guard: Guard, callbacks: Callbacks, original: Any) -> Any:
    @wraps(original)
    async def connect(*args: Any) -> Any:
        with guard:
            callbacks.sweep()
        return await original(*args)

    return connect
