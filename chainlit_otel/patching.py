"""Wrapping what belongs to the application, and undoing it. Nothing else changes Chainlit."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import weakref
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from types import CellType, FunctionType, MethodType
from typing import Any

import wrapt

Wrapper = Callable[[Callable[..., Any], Any, tuple[Any, ...], dict[str, Any]], Any]
"""Called with what is wrapped, the instance, and the arguments of the call."""


class SeamMissing(Exception):
    """This version of Chainlit does not have what a probe wraps."""


class Unavailable(Exception):
    """A package that a probe needs is missing or does not work; the message has the fix."""


class _Wrapper(wrapt.FunctionWrapper):  # type: ignore[type-arg]  # not generic before wrapt 2
    """A wrapper with a reference to its patches."""

    def __init__(self, wrapped: Any, wrapper: Wrapper, patches: Patches) -> None:
        super().__init__(wrapped, wrapper, enabled=lambda: patches.active)
        self._self_patches = patches


class _CallProxy(wrapt.ObjectProxy):  # type: ignore[type-arg]  # not generic before wrapt 2
    """A proxy of a callable of the host: it has all its attributes, and calls our replacement."""

    def __init__(self, original: Any, replacement: Callable[..., Any]) -> None:
        super().__init__(original)
        self._self_replacement = replacement

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._self_replacement(*args, **kwargs)


class _MethodProxy(_CallProxy):
    """A proxy of a callable attribute of a class, which may be a descriptor or not."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Something that is no descriptor is called without the instance, which only `__get__` has.
        if not _binds(self.__wrapped__):
            return self.__wrapped__(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        original = self.__wrapped__
        bound = original.__get__(instance, owner) if _binds(original) else original
        return _CallProxy(bound, functools.partial(self._self_replacement, instance))


def wraps(original: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Do what `functools.wraps` does, as far as the original allows it.

    A callable need not be a function, and may have a `__name__` that is no string.
    """

    def decorate(replacement: Callable[..., Any]) -> Callable[..., Any]:
        with suppress(AttributeError, TypeError, ValueError):
            functools.update_wrapper(replacement, original)
        return replacement

    return decorate


def like(original: Any, replacement: Callable[..., Any]) -> Callable[..., Any]:
    """Return a callable that has all attributes of a callable of the host, and calls ours.

    For a function that is the replacement itself, which is decorated by `wraps`: it has the name,
    the signature and the attributes, without the cost of one more call. Anything else, such as a
    method, a mock, a partial or a callable object, may have attributes that no function has.
    """
    return replacement if type(original) is FunctionType else _CallProxy(original, replacement)


def installed_by(target: Any, name: str) -> Any:
    """Return the owner of the wrapper of an attribute of a class or module; None without one.

    The wrapper itself has the answer, since Chainlit's reload imports a package that lies next to
    the app again, and the new copy has none of the state of the old one.
    """
    patches = getattr(vars(target).get(name), "_self_patches", None)
    return patches.installed_by if patches is not None and patches.active else None


def mark_coroutine_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a function that returns a coroutine as a coroutine function, and return it.

    `inspect` knows such a mark from Python 3.12 on, `asyncio` in all versions.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


class Patches:
    """Changes of the application, and how to undo them.

    A wrapper that cannot be removed, because it was wrapped in turn, goes inert: it only passes
    calls on.

    Args:
        installed_by: The owner of the patches.
    """

    def __init__(self, installed_by: Any) -> None:
        self.installed_by = installed_by
        self.active = True
        self._undo: list[Callable[[], None]] = []

    def wrap_attribute(self, target: Any, name: str, wrapper: Wrapper) -> None:
        """Wrap a method of a class or a function of a module.

        Args:
            target: The class or the module.
            name: Name of the attribute.
            wrapper: Called in its place, as `wrapt` does.

        Raises:
            SeamMissing: The target has no such attribute of its own.
        """
        original = _attribute(target, name)
        self._put(target, name, original, _Wrapper(original, wrapper, self))

    def replace_attribute(
        self, target: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Replace a method of a class or a function of a module by a plain function.

        Use it for what is called in every turn: a wrapper of `wrapt`, which is a transparent
        proxy, takes several times as long.

        Args:
            target: The class or the module.
            name: Name of the attribute.
            make: Makes the replacement from what was there, which it calls with the instance; it
                passes calls on while `active` is false.

        Raises:
            SeamMissing: The target has no such attribute of its own.
        """
        original = _attribute(target, name)
        replacement = make(_unbound(target, original))
        if type(original) is not FunctionType:
            proxy = _MethodProxy if isinstance(target, type) else _CallProxy
            replacement = proxy(original, replacement)
        self._put(target, name, original, replacement)

    def replace_classmethod(
        self, target: type, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Replace a class method by one of a plain function, as `replace_attribute` does a method.

        Args:
            target: The class.
            name: Name of the attribute.
            make: Makes the replacement from the function that was there, which it calls with the
                class; it passes calls on while `active` is false.

        Raises:
            SeamMissing: The target has no such attribute of its own.
        """
        original = _attribute(target, name)
        if type(original) is classmethod and type(original.__func__) is FunctionType:
            self._put(target, name, original, classmethod(make(original.__func__)))
            return

        # Whatever else an app has put there, only `wrapt` knows what it is called with.
        def wrapper(wrapped: Any, cls: Any, args: Any, kwargs: Any) -> Any:
            return make(lambda _, *args, **kwargs: wrapped(*args, **kwargs))(cls, *args, **kwargs)

        self.wrap_attribute(target, name, wrapper)

    def replace_item(
        self,
        mapping: MutableMapping[str, Any],
        key: str,
        make: Callable[[Callable[..., Any]], Callable[..., Any]],
    ) -> None:
        """Replace an entry of a mapping, such as an event handler.

        Args:
            mapping: The mapping.
            key: The key of the entry.
            make: Makes the replacement from the entry; it passes calls on while `active` is
                false.

        Raises:
            SeamMissing: The mapping has no such entry.
        """
        try:
            original = mapping[key]
        except (KeyError, TypeError):
            raise SeamMissing(f"handler {key!r}") from None
        replacement = like(original, make(original))
        mapping[key] = replacement

        def undo() -> None:
            if mapping.get(key) is replacement:
                mapping[key] = original

        self._undo.append(undo)

    def wrap_on_instance(
        self,
        instance: Any,
        name: str,
        make: Callable[[Callable[..., Any]], Callable[..., Any]],
        fast: bool = False,
    ) -> None:
        """Wrap a method of one instance: the replacement is an attribute that shadows it.

        Args:
            instance: The instance.
            name: Name of the method.
            make: Makes the replacement from the bound method, with that as its `__wrapped__`; it
                passes calls on while `active` is false.
            fast: Whether it is called for every token: what replaces a method is then a plain
                function with the attributes of that method.

        Raises:
            SeamMissing: The instance has no such method.
        """
        original = getattr(instance, name, None)
        if original is None:
            raise SeamMissing(f"{type(instance).__name__}.{name}")
        inherited = _is_inherited(instance, name, original)
        has_own = not inherited and name in vars(instance)
        replacement: Any = make(original)
        if fast and type(original) is MethodType:
            replacement.__self__, replacement.__func__ = original.__self__, original.__func__
        else:
            replacement = _CallProxy(original, replacement)
        if inherited:
            _set_on_instance(instance, name, replacement)
        else:
            vars(instance)[name] = replacement

        def undo() -> None:
            target, installed = instance_ref(), replacement_ref()
            if target is None or installed is None or vars(target).get(name) is not installed:
                return
            if has_own:
                vars(target)[name] = installed.__wrapped__
            else:
                del vars(target)[name]

        # A bound method keeps its instance alive, so only the instance itself may refer to one.
        instance_ref = self._ref(instance, undo)
        replacement_ref: weakref.ref[Any] = weakref.ref(replacement)
        self._undo.append(undo)

    def set_closure_cell(self, function: Callable[..., Any], cell: CellType, contents: Any) -> None:
        """Set a cell of a function's closure, such as the one that holds what it calls."""
        original = cell.cell_contents
        cell.cell_contents = replacement = like(original, contents)

        def undo() -> None:
            if reference() is not None and cell.cell_contents is replacement:
                cell.cell_contents = original

        # An app may define a callback again for each session, and the old ones must be collected.
        reference = self._ref(function, undo)
        self._undo.append(undo)

    def insert_first(self, items: list[Any], item: Any) -> None:
        """Insert an item at the front of a list, such as a route before all others."""
        items.insert(0, item)

        def undo() -> None:
            items[:] = [other for other in items if other is not item]

        self._undo.append(undo)

    def add_cleanup(self, undo: Callable[[], None]) -> None:
        """Call `undo`, too, when the patches are undone."""
        self._undo.append(undo)

    def _put(self, target: Any, name: str, original: Any, replacement: Any) -> None:
        setattr(target, name, replacement)

        def undo() -> None:
            if vars(target).get(name) is replacement:
                setattr(target, name, original)

        self._undo.append(undo)

    def _ref(self, target: Any, undo: Callable[[], None]) -> weakref.ref[Any]:
        """Return a weak reference, and remove the undo of its change once the target is gone."""

        def forget(_: object) -> None:
            with suppress(ValueError):
                self._undo.remove(undo)

        return weakref.ref(target, forget)

    def undo(self) -> None:
        """Undo all changes, the last one first; if one fails, the others are undone nonetheless."""
        self.active = False
        try:
            while self._undo:
                self._undo.pop()()
        finally:
            if self._undo:
                self.undo()


def _attribute(target: Any, name: str) -> Any:
    """Return an attribute of a class or a module itself, not one that it inherits."""
    try:
        return vars(target)[name]
    except (KeyError, TypeError):
        raise SeamMissing(f"{getattr(target, '__name__', target)}.{name}") from None


def _unbound(target: Any, original: Any) -> Callable[..., Any]:
    """Return a function that takes the instance first, whatever the attribute of the class is."""
    # Not `isinstance`, which is true of a proxy of `wrapt`, too: that binds by itself.
    if type(original) is FunctionType or not isinstance(target, type):
        return original  # type: ignore[no-any-return]

    @wraps(original)
    def bound(instance: Any, *args: Any, **kwargs: Any) -> Any:
        if _binds(original):
            return original.__get__(instance, type(instance))(*args, **kwargs)
        return original(*args, **kwargs)

    return bound


def _binds(original: Any) -> bool:
    """Tell whether it is a descriptor that binds an instance; a mock or a partial is none."""
    # In CPython 3.13 a partial has `__get__`, which only warns and does not bind.
    return hasattr(type(original), "__get__") and not isinstance(original, functools.partial)


def _is_inherited(instance: Any, name: str, method: Any) -> bool:
    """Tell whether a method of an instance is that of its class."""
    kind = type(instance)
    inherited = inspect.getattr_static(kind, name, None)
    # Exact types: a property may return anything, and a proxy equals what it wraps.
    return (
        type(inherited) is FunctionType
        and type(method) is MethodType
        and bool(method == inherited.__get__(instance, kind))
    )


def _set_on_instance(instance: Any, name: str, value: Any) -> None:
    """Set an attribute of an instance that shadows the method of its class.

    Its class may have a `__setattr__` that raises, or sets it on another object. And in CPython
    3.11 and 3.12 each access to an instance is slower after one to its `__dict__`.
    """
    try:
        object.__setattr__(instance, name, value)
    except TypeError:
        # A type in C may have a `__setattr__` of its own.
        vars(instance)[name] = value
