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
    """A package that a probe needs is missing or does not work; it says which, and what to do."""


class _Wrapper(wrapt.FunctionWrapper):  # type: ignore[type-arg]  # not generic before wrapt 2
    """A wrapper that knows on whose behalf it was put there."""

    def __init__(self, wrapped: Any, wrapper: Wrapper, patches: Patches) -> None:
        super().__init__(wrapped, wrapper, enabled=lambda: patches.active)
        self._self_patches = patches


class _CallProxy(wrapt.ObjectProxy):  # type: ignore[type-arg]  # not generic before wrapt 2
    """Something of the host with all that it has, but for what it does when it is called."""

    def __init__(self, original: Any, replacement: Callable[..., Any]) -> None:
        super().__init__(original)
        self._self_replacement = replacement

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._self_replacement(*args, **kwargs)


class _MethodProxy(_CallProxy):
    """The same for what stands in a class, where it may be a descriptor or not."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Only an access by an instance tells which one it is, if the original is not told either.
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
    """Do what `functools.wraps` does, as far as the original lets it.

    What can be called need not be a function, and may have a `__name__` that is no text.
    """

    def decorate(replacement: Callable[..., Any]) -> Callable[..., Any]:
        with suppress(AttributeError, TypeError, ValueError):
            functools.update_wrapper(replacement, original)
        return replacement

    return decorate


def like(original: Any, replacement: Callable[..., Any]) -> Callable[..., Any]:
    """Return what has all attributes of a callable of the host and does what ours does.

    For a function that is the replacement itself, which is decorated by `wraps`: it has the name,
    the signature and whatever somebody has put on it, and costs no call more. Anything else, such
    as a method, a mock, a partial or an object that can be called, may be asked for what no
    function has.
    """
    return replacement if type(original) is FunctionType else _CallProxy(original, replacement)


def owner_of(owner: Any, name: str) -> Any:
    """Return on whose behalf a class or module attribute is wrapped; None if it is not.

    The wrapper itself is asked, because Chainlit's reload imports a package that lies beside
    the app anew, and the new copy knows nothing of what the old one did.
    """
    patches = getattr(vars(owner).get(name), "_self_patches", None)
    return patches.owner if patches is not None and patches.active else None


def mark_coroutine_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Have a function that returns a coroutine taken for a coroutine function, and return it.

    `inspect` believes the mark from Python 3.12 on, `asyncio` always.
    """
    if sys.version_info >= (3, 12):
        return inspect.markcoroutinefunction(function)
    function._is_coroutine = asyncio.coroutines._is_coroutine  # type: ignore[attr-defined]
    return function


class Patches:
    """What was changed in the application, and how to change it back.

    A wrapper that cannot be taken out, because somebody has wrapped it since, goes inert: it
    only passes the call on.

    Args:
        owner: On whose behalf.
    """

    def __init__(self, owner: Any) -> None:
        self.owner = owner
        self.active = True
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: Any, name: str, wrapper: Wrapper) -> None:
        """Wrap a method of a class or a function of a module.

        Args:
            owner: The class or the module.
            name: Name of the attribute.
            wrapper: What runs instead, as `wrapt` calls it.

        Raises:
            SeamMissing: The owner has no such attribute of its own.
        """
        original = _attribute(owner, name)
        self._put(owner, name, original, _Wrapper(original, wrapper, self))

    def override(
        self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]
    ) -> None:
        """Replace a method of a class or a function of a module by a plain function.

        It is for what is called in every turn: a wrapper of `wrapt`, which stands for what it
        wraps in every respect, takes several times as long.

        Args:
            owner: The class or the module.
            name: Name of the attribute.
            make: Makes the replacement from what was there, which it calls with the instance; it
                passes calls on while `active` is false.

        Raises:
            SeamMissing: The owner has no such attribute of its own.
        """
        original = _attribute(owner, name)
        replacement = make(_unbound(owner, original))
        if type(original) is not FunctionType:
            proxy = _MethodProxy if isinstance(owner, type) else _CallProxy
            replacement = proxy(original, replacement)
        self._put(owner, name, original, replacement)

    def replace(
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

    def shadow(
        self,
        instance: Any,
        name: str,
        make: Callable[[Callable[..., Any]], Callable[..., Any]],
        fast: bool = False,
    ) -> None:
        """Put an attribute of an instance before the method of its class.

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
            _put_before(instance, name, replacement)
        else:
            vars(instance)[name] = replacement

        def undo() -> None:
            owner, put = instance_ref(), replacement_ref()
            if owner is None or put is None or vars(owner).get(name) is not put:
                return
            if has_own:
                vars(owner)[name] = put.__wrapped__
            else:
                del vars(owner)[name]

        # What is bound to the instance would keep it alive, and so would what it had of its own:
        # only the instance itself holds them.
        instance_ref = self._ref(instance, undo)
        replacement_ref: weakref.ref[Any] = weakref.ref(replacement)
        self._undo.append(undo)

    def fill(self, function: Callable[..., Any], cell: CellType, contents: Any) -> None:
        """Put something else in a cell of a function's closure, such as what it calls."""
        original = cell.cell_contents
        cell.cell_contents = replacement = like(original, contents)

        def undo() -> None:
            if reference() is not None and cell.cell_contents is replacement:
                cell.cell_contents = original

        # An app may define a callback anew for each session, and nobody calls the old ones.
        reference = self._ref(function, undo)
        self._undo.append(undo)

    def insert(self, items: list[Any], item: Any) -> None:
        """Insert an item at the front of a list, such as a route ahead of the others."""
        items.insert(0, item)

        def undo() -> None:
            items[:] = [other for other in items if other is not item]

        self._undo.append(undo)

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Have a change undone that somebody else made on our behalf."""
        self._undo.append(undo)

    def _put(self, owner: Any, name: str, original: Any, replacement: Any) -> None:
        setattr(owner, name, replacement)

        def undo() -> None:
            if vars(owner).get(name) is replacement:
                setattr(owner, name, original)

        self._undo.append(undo)

    def _ref(self, owner: Any, undo: Callable[[], None]) -> weakref.ref[Any]:
        """Refer to something weakly, and forget how to undo its change once it is gone."""

        def forget(_: object) -> None:
            with suppress(ValueError):
                self._undo.remove(undo)

        return weakref.ref(owner, forget)

    def undo(self) -> None:
        """Put everything back, the last change first, and all of it, even if one of them fails."""
        self.active = False
        try:
            while self._undo:
                self._undo.pop()()
        finally:
            if self._undo:
                self.undo()


def _attribute(owner: Any, name: str) -> Any:
    """Return what a class or a module has of its own under a name."""
    try:
        return vars(owner)[name]
    except (KeyError, TypeError):
        raise SeamMissing(f"{getattr(owner, '__name__', owner)}.{name}") from None


def _unbound(owner: Any, original: Any) -> Callable[..., Any]:
    """Return what can be called with an instance, whatever somebody has put into its class."""
    # `isinstance` is true of a wrapper of `wrapt`, too, which binds in its own way.
    if type(original) is FunctionType or not isinstance(owner, type):
        return original  # type: ignore[no-any-return]

    @wraps(original)
    def bound(instance: Any, *args: Any, **kwargs: Any) -> Any:
        if _binds(original):
            return original.__get__(instance, type(instance))(*args, **kwargs)
        return original(*args, **kwargs)

    return bound


def _binds(original: Any) -> bool:
    """Tell whether what is in a class is given the instance: a mock or a partial is not."""
    # A partial of CPython 3.13 has the method already, which warns and binds nothing yet.
    return hasattr(type(original), "__get__") and not isinstance(original, functools.partial)


def _is_inherited(instance: Any, name: str, method: Any) -> bool:
    """Tell whether what an instance has under a name is a function of its class."""
    kind = type(instance)
    inherited = inspect.getattr_static(kind, name, None)
    # A property or a slot would give whatever the instance has, and a proxy equals what it is of.
    return (
        type(inherited) is FunctionType
        and type(method) is MethodType
        and bool(method == inherited.__get__(instance, kind))
    )


def _put_before(instance: Any, name: str, value: Any) -> None:
    """Put an attribute of an instance before a function of its class.

    Its class may have a `__setattr__` that refuses, or sets it somewhere else. And in CPython 3.11
    and 3.12 each access to an instance is slower, once it was asked for its `__dict__`.
    """
    try:
        object.__setattr__(instance, name, value)
    except TypeError:
        # Types in C have a slot of their own for this.
        vars(instance)[name] = value
