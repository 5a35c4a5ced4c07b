"""Callbacks: the functions of the app that Chainlit keeps in `config.code`.

`wrap_user_function` swallows the exceptions of a callback, so an error can only be seen between it
and the function that it wraps. That function is in a cell of the wrapper's closure. The cell is
replaced for callbacks that are registered already, and for each that is registered later, such as
when `chainlit run -w` loads the app again: every decorator calls `wrap_user_function`. A decorator
registers the wrapper under its name only afterwards, so the name is looked up at the first call.

`on_audio_chunk` is called for every frame of a voice, so only its errors are recorded, without a
span.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from itertools import product
from types import CellType, CodeType
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

from chainlit_otel import catalog
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.core.sessions import NS
from chainlit_otel.patching import Patches, SeamMissing, wraps
from chainlit_otel.pipeline.spans import NOOP_SCOPE, SpanScope, utf8_safe
from chainlit_otel.probes.access import SIGN_INS, Access
from chainlit_otel.probes.messages import Messages
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.session_spans import SessionSpans
from chainlit_otel.probes.sessions import Sessions

Function = Callable[..., Any]

_CELL = "user_function"
_ACTIONS = 64
# The callbacks whose error makes the turn fail.
_ANSWERS = ("on_message", "on_audio_end")


class _Callback:
    """A function of the app that Chainlit may call.

    Attributes:
        wrapper: Chainlit's wrapper of it.
        name: Its name, as in `config.code`; None before its first call, or if it is not there.
        action: The name of the action that it handles, if it does.
    """

    __slots__ = ("action", "name", "wrapper")

    def __init__(self, wrapper: Function) -> None:
        self.wrapper: ReferenceType[Function] = ref(wrapper)
        self.name: str | None = None
        self.action = ""


class Callbacks(Probe):
    """The callbacks that are observed, and those under way.

    Attributes:
        names: The names of callbacks.
        actions: The names of actions.
        patches: What has put the wrappers in place; None before that.
    """

    name = "callbacks"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self.names = EnumLabel(catalog.CALLBACK_NAME.values)
        self.actions = BoundedLabel(_ACTIONS)
        self.patches: Patches | None = None
        self._tracing = context.tracing
        self._spans = context.get(SessionSpans)
        self._messages = context.get(Messages)
        self._sessions = context.get(Sessions)
        self._access = context.get(Access)
        self._instrumented: WeakKeyDictionary[Function, Patches] = WeakKeyDictionary()
        # By identity: code that is compiled again is equal to what it replaces, and outlives it.
        self._names: dict[int, tuple[ReferenceType[CodeType], str]] = {}

    def install(self, patches: Patches) -> None:
        """Observe the callbacks that are registered now, and those that will be."""
        decorators, utils = import_module("chainlit.callbacks"), import_module("chainlit.utils")
        wrap_user_function = getattr(utils, "wrap_user_function", None)
        if wrap_user_function is None or _cell(wrap_user_function(lambda: None)) is None:
            raise SeamMissing("chainlit.utils.wrap_user_function")
        self.patches = patches
        wrap = functools.partial(_wrap_wrap_user_function, self)
        for module in (decorators, utils):
            patches.replace_attribute(module, "wrap_user_function", wrap)
        self.instrument_all()

    def overflows(self) -> Mapping[catalog.Attribute, EnumLabel | BoundedLabel]:
        """Return what bounds the names of callbacks and of actions."""
        return {catalog.CALLBACK_NAME: self.names, catalog.ACTION_NAME: self.actions}

    def on_startup(self) -> None:
        """Observe the callbacks of an app that imported `wrap_user_function` before."""
        self.instrument_all()

    def name_of(self, code: CodeType) -> str | None:
        """Return the name of the callback that a code object belongs to, if it is one."""
        known = self._names.get(id(code))
        return None if known is None else known[1]

    def _remember(self, code: CodeType, name: str) -> None:
        key = id(code)
        # Removed before another object can have this id.
        self._names[key] = ref(code, lambda _: self._names.pop(key, None)), name

    def instrument(self, wrapper: Function) -> None:
        """Observe the callback that Chainlit has wrapped, unless it is observed."""
        patches = self.patches
        if patches is None or not patches.active or self._instrumented.get(wrapper) is patches:
            return
        self._instrumented[wrapper] = patches
        cell = _cell(wrapper)
        if cell is not None:
            function = cell.cell_contents
            patches.set_closure_cell(
                wrapper, cell, self._wrap_callback(patches, function, _Callback(wrapper))
            )

    def instrument_all(self) -> None:
        """Observe the callbacks that are registered now."""
        for name, _, wrapper in _registered():
            self.instrument(wrapper)
            self._expect(name)

    def _expect(self, name: str) -> None:
        """Show the series of what the app can do at zero, before it does it."""
        if name in catalog.CALLBACK_NAME.values:
            outcomes = product((name,), ("ok", "error"))
            self.telemetry.expect(catalog.CALLBACK_DURATION, *outcomes)
        if method := SIGN_INS.get(name):
            checks = product((method, "jwt"), catalog.ACCESS_RESULT.values)
            self.telemetry.expect(catalog.ACCESS_ATTEMPTS, *checks)

    def _find(self, callback: _Callback, function: Function) -> None:
        """Look up the name of a callback."""
        wrapper = callback.wrapper()
        for name, action, registered in _registered():
            # The wrapper may have been wrapped by the app since.
            if inspect.unwrap(registered, stop=lambda f: f is wrapper) is wrapper:
                callback.name = self.names(name)
                self._expect(name)
                callback.action = action and self.actions.admit(utf8_safe(action))
                if code := getattr(inspect.unwrap(function), "__code__", None):
                    self._remember(code, name)
                return

    def _wrap_callback(self, patches: Patches, function: Function, callback: _Callback) -> Function:
        """Return a function of the same kind and signature: Chainlit depends on both."""
        guard = self.guard

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def wrapped(*args: Any, **kwargs: Any) -> Any:
                if not patches.active:
                    return await function(*args, **kwargs)
                call: _CallbackCall | None = None
                try:
                    call = self._start_call(callback, function)
                except Exception as ours:  # noqa: BLE001 - a guard
                    guard.on_error(ours)
                try:
                    result = await function(*args, **kwargs)
                except BaseException as error:
                    with guard:
                        self._end_call(call, error)
                    raise
                try:
                    self._end_call(call, None, result)
                except Exception as ours:  # noqa: BLE001 - a guard
                    guard.on_error(ours)
                return result

            # Chainlit asks for it at each call, and would find it behind the wrapper, made anew.
            with suppress(TypeError, ValueError):
                wrapped.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
            return wrapped

        @wraps(function)
        def wrapped_sync(*args: Any, **kwargs: Any) -> Any:
            if not patches.active:
                return function(*args, **kwargs)
            call: _CallbackCall | None = None
            with guard:
                call = self._start_call(callback, function)
            try:
                result = function(*args, **kwargs)
            except BaseException as error:
                with guard:
                    self._end_call(call, error)
                raise
            with guard:
                self._end_call(call, None, result)
            return result

        return wrapped_sync

    def _start_call(self, callback: _Callback, function: Function) -> _CallbackCall | None:
        if callback.name is None:
            self._find(callback, function)
        name = callback.name
        if name is None:
            return None
        started = time.monotonic_ns()
        if name == "on_audio_chunk":
            return _CallbackCall(name, started, NOOP_SCOPE)
        if not self._tracing.is_enabled():
            return _CallbackCall(name, started, NOOP_SCOPE)
        attributes = {catalog.CALLBACK_NAME.key: name}
        if callback.action:
            attributes[catalog.ACTION_NAME.key] = callback.action
        scope = self._spans.start(f"{catalog.SPAN_CALLBACK} {name}", attributes)
        return _CallbackCall(name, started, scope)

    def _end_call(
        self, call: _CallbackCall | None, error: BaseException | None, result: Any = None
    ) -> None:
        if call is None or (call.name == "on_audio_chunk" and error is None):
            return
        seconds = (time.monotonic_ns() - call.started) / NS
        outcome = "ok" if error is None else self._messages.outcome_of(error)
        if not self._sessions.is_synthetic():
            self.telemetry.record(catalog.CALLBACK_DURATION, seconds, call.name, outcome)
        self._access.on_callback_end(call.name, error)
        if outcome == "error":
            detail = f"{call.name}: {type(error).__qualname__}"
            self._sessions.record_event("callback_error", detail)
        if call.name in _ANSWERS and error is not None:
            self._messages.on_error(error, call.name)
        if call.name == "set_chat_profiles" and result:
            self._sessions.profiles.add(profile.name for profile in result)
        self._tracing.end(call.scope, outcome, error)


class _CallbackCall:
    """One callback under way."""

    __slots__ = ("name", "scope", "started")

    def __init__(self, name: str, started: int, scope: SpanScope) -> None:
        self.name = name
        self.started = started
        self.scope = scope


def _registered() -> Iterator[tuple[str, str, Function]]:
    """Give the name, the action and the wrapper of every callback that is set now."""
    code = import_module("chainlit.config").config.code
    for name, value in list(vars(code).items()):
        if name == "action_callbacks":
            for action, wrapper in list(value.items()):
                yield name, action, wrapper
        elif callable(value) and name not in ("data_layer", "module"):
            yield name, "", value


def _cell(wrapper: Function) -> CellType | None:
    """Return the cell of a callback's wrapper that holds the app's own function."""
    code = getattr(wrapper, "__code__", None)
    closure = getattr(wrapper, "__closure__", None)
    if code is None or not closure or _CELL not in code.co_freevars:
        return None
    cell: CellType = closure[code.co_freevars.index(_CELL)]
    return cell


def _wrap_wrap_user_function(callbacks: Callbacks, original: Function) -> Function:
    @wraps(original)
    def wrap_user_function(*args: Any, **kwargs: Any) -> Any:
        wrapper = original(*args, **kwargs)
        with callbacks.guard:
            callbacks.instrument(wrapper)
        return wrapper

    return wrap_user_function
