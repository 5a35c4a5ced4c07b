"""Finds the data layer, whichever it is.

Chainlit calls `get_data_layer` at every use, by a name that each of its modules has imported. So
each of these names is rebound, and the layer is found at its first use. Its methods are then
wrapped on the instance, since a layer of the app need not have a base class that could be wrapped.
"""

from __future__ import annotations

import functools
import inspect
import logging
import sys
import weakref
from collections.abc import Awaitable, Callable
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

from chainlit_otel.core.identities import WeakIdentitySet
from chainlit_otel.guard import Guard, log
from chainlit_otel.patching import Patches, SeamMissing, like, wraps
from chainlit_otel.probes.probe import ProbeContext

_NAME = "get_data_layer"
_warned: weakref.WeakSet[type] = weakref.WeakSet()

Method = Callable[..., Awaitable[Any]]


class _Listener(NamedTuple):
    """A function that is called with each data layer, once."""

    guard: Guard
    found: Callable[[Any], None]
    known: WeakIdentitySet


class Discovery:
    """Calls its listeners with each data layer, before its first use.

    Args:
        context: What all probes share.
    """

    def __init__(self, context: ProbeContext) -> None:
        self._listeners: list[_Listener] = []
        self._latest: Callable[[], Any] = type(None)
        self._uninstall: Callable[[], None] = type(None)

    def listen(self, patches: Patches, guard: Guard, found: Callable[[Any], None]) -> None:
        """Have `found` called with each data layer, once, until `patches` are undone.

        Args:
            patches: Their undoing ends it.
            guard: Holds what goes wrong in it.
            found: Called before the first use of a data layer.

        Raises:
            SeamMissing: This version of Chainlit gets its data layer elsewhere.
        """
        listener = _Listener(guard, found, WeakIdentitySet())
        if not self._listeners:
            self._install()
        self._listeners.append(listener)
        # So that it is called with the layer that the others know already.
        self._latest = type(None)
        patches.add_cleanup(functools.partial(self._forget, listener))

    def _forget(self, listener: _Listener) -> None:
        self._listeners.remove(listener)
        if not self._listeners:
            self._uninstall()

    def _install(self) -> None:
        original = vars(import_module("chainlit.data")).get(_NAME)
        if original is None:
            raise SeamMissing(f"chainlit.data.{_NAME}")

        @wraps(original)
        def calling(*args: Any, **kwargs: Any) -> Any:
            # It is called several times a turn, without arguments, and nearly always returns the
            # same layer.
            layer = original(*args, **kwargs) if args or kwargs else original()
            if layer is not None and layer is not self._latest():
                self._notify(layer)
            return layer

        get_data_layer = like(original, calling)
        _rebind_everywhere(original, get_data_layer)
        self._uninstall = functools.partial(_rebind_everywhere, get_data_layer, original)

    def _notify(self, layer: Any) -> None:
        for listener in list(self._listeners):
            with listener.guard:
                if is_instrumentable(layer):
                    self._latest = weakref.ref(layer)
                    if listener.known.add(layer):
                        listener.found(layer)


def _rebind_everywhere(old: Any, new: Any) -> None:
    """Rebind one function to another in every module that has imported it, the app's included."""
    # A copy first: the thread of the admin server may be importing.
    for module in list(sys.modules.values()):
        # By the type and by `object`: `__class__` may be faked, and any other attribute access
        # would load a lazy module.
        if issubclass(type(module), ModuleType):
            names = object.__getattribute__(module, "__dict__")
            if names.get(_NAME) is old:
                names[_NAME] = new


def is_instrumentable(layer: Any) -> bool:
    """Tell whether a data layer, or its storage, can be observed; if not, warn once."""
    kind = type(layer)
    if kind.__dictoffset__ and kind.__weakrefoffset__:
        return True
    if kind not in _warned:
        _warned.add(kind)
        log(logging.WARNING, "%s is not observed: it has __slots__", kind.__name__)
    return False


def wrap_method(patches: Patches, layer: Any, name: str, make: Callable[[Method], Method]) -> None:
    """Wrap a method of a data layer on the instance, if it has that method.

    Args:
        patches: Takes the change.
        layer: The data layer.
        name: Name of the method.
        make: Makes the method from the one that was there.
    """
    # A layer of the app may lack methods that the app does not use.
    method = getattr(layer, name, None)
    if callable(method) and _is_async(method):
        patches.wrap_on_instance(layer, name, make)


def _is_async(method: Callable[..., Any]) -> bool:
    # For a callable object, its class decides.
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(type(method).__call__)
