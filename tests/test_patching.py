from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import weakref
from collections.abc import Callable
from types import CellType, FunctionType, ModuleType
from typing import Any
from unittest.mock import MagicMock

import pytest
import wrapt

from chainlit_otel.patching import Patches, SeamMissing, Wrapper, installed_by, wraps


class Host:
    """What belongs to the application."""

    def method(self, a: int, b: str = "b", *rest: int, key: bool = False) -> tuple[object, ...]:
        """Say what came."""
        return (type(self), a, b, rest, key)

    async def coroutine(self, a: int) -> int:
        await asyncio.sleep(0)
        return a

    @classmethod
    def of_class(cls, a: int) -> tuple[type, int]:
        return cls, a

    @staticmethod
    def static(a: int) -> int:
        return a

    def fail(self, error: BaseException) -> None:
        raise error

    async def fail_later(self, error: BaseException) -> None:
        raise error


class Heir(Host):
    pass


NAMES = ["method", "coroutine", "of_class", "static", "fail", "fail_later"]


@pytest.fixture
def host() -> type[Host]:
    """A class that a test may change."""
    # Without the descriptors that belong to the original's instances.
    own = {n: v for n, v in vars(Host).items() if n not in ("__dict__", "__weakref__")}
    return type("Host", (), own)


class Calls(list[tuple[Any, tuple[Any, ...], dict[str, Any]]]):
    """Records the calls that a wrapper saw."""

    @property
    def wrapper(self) -> Wrapper:
        def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
            self.append((instance, args, kwargs))
            return wrapped(*args, **kwargs)

        return wrapper


def test_a_method_is_called_through_the_wrapper_with_its_instance(host: type[Host]) -> None:
    calls, instance = Calls(), host()
    Patches("me").wrap_attribute(host, "method", calls.wrapper)
    assert instance.method(1, "x", 2, 3, key=True) == (host, 1, "x", (2, 3), True)
    assert calls == [(instance, (1, "x", 2, 3), {"key": True})]


def test_a_class_method_gets_its_class_and_a_static_one_nothing(host: type[Host]) -> None:
    calls, patches = Calls(), Patches("me")
    patches.wrap_attribute(host, "of_class", calls.wrapper)
    patches.wrap_attribute(host, "static", calls.wrapper)
    heir: type[Host] = type("Heir", (host,), {})
    assert heir.of_class(1) == (heir, 1)
    assert host().of_class(2) == (host, 2)
    assert host.static(3) == host().static(3) == 3
    assert calls[0] == (heir, (1,), {})
    assert len(calls) == 4


def test_a_function_of_a_module_is_wrapped() -> None:
    module = ModuleType("module")
    exec("def double(n): return 2 * n", vars(module))
    original, calls, patches = module.double, Calls(), Patches("me")
    patches.wrap_attribute(module, "double", calls.wrapper)
    assert module.double(4) == 8
    assert calls == [(None, (4,), {})]
    patches.undo()
    assert module.double is original


async def test_a_coroutine_function_is_awaited_through_the_wrapper(host: type[Host]) -> None:
    calls = Calls()
    Patches("me").wrap_attribute(host, "coroutine", calls.wrapper)
    assert await host().coroutine(5) == 5
    assert len(calls) == 1


@pytest.mark.parametrize("name", NAMES)
def test_signature_name_documentation_and_coroutineness_are_kept(
    host: type[Host], name: str
) -> None:
    Patches("me").wrap_attribute(host, name, Calls().wrapper)
    for wrapped, original in (
        (getattr(host, name), getattr(Host, name)),
        (getattr(host(), name), getattr(Host(), name)),
    ):
        assert inspect.signature(wrapped) == inspect.signature(original)
        assert inspect.iscoroutinefunction(wrapped) == inspect.iscoroutinefunction(original)
        assert asyncio.iscoroutinefunction(wrapped) == asyncio.iscoroutinefunction(original)
        assert (wrapped.__name__, wrapped.__qualname__, wrapped.__doc__) == (
            original.__name__,
            original.__qualname__,
            original.__doc__,
        )


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError, KeyboardInterrupt])
async def test_the_same_exception_object_goes_on(
    host: type[Host], kind: type[BaseException]
) -> None:
    patches = Patches("me")
    patches.wrap_attribute(host, "fail", Calls().wrapper)
    patches.wrap_attribute(host, "fail_later", Calls().wrapper)
    error = kind("theirs")
    with pytest.raises(kind) as caught:
        host().fail(error)
    assert caught.value is error
    with pytest.raises(kind) as caught:
        await host().fail_later(error)
    assert caught.value is error


@pytest.mark.parametrize("name", NAMES)
def test_undo_puts_back_the_very_object(host: type[Host], name: str) -> None:
    original, patches = vars(host)[name], Patches("me")
    patches.wrap_attribute(host, name, Calls().wrapper)
    assert vars(host)[name] is not original
    patches.undo()
    assert vars(host)[name] is original
    patches.undo()
    assert vars(host)[name] is original


def test_what_was_wrapped_twice_comes_back_too(host: type[Host]) -> None:
    original, calls, patches = vars(host)["method"], Calls(), Patches("me")
    patches.wrap_attribute(host, "method", calls.wrapper)
    patches.wrap_attribute(host, "method", calls.wrapper)
    host().method(1)
    assert len(calls) == 2
    patches.undo()
    assert vars(host)["method"] is original


@wrapt.decorator
def somebody_else(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
    return ("theirs", wrapped(*args, **kwargs))


def test_a_wrapper_that_somebody_wrapped_stays_and_goes_inert(host: type[Host]) -> None:
    calls, patches = Calls(), Patches("me")
    patches.wrap_attribute(host, "static", calls.wrapper)
    theirs = somebody_else(vars(host)["static"])
    host.static = theirs  # type: ignore[method-assign]
    assert host.static(1) == ("theirs", 1)
    assert len(calls) == 1
    patches.undo()
    assert vars(host)["static"] is theirs
    assert host.static(2) == ("theirs", 2)
    assert len(calls) == 1


async def test_an_inert_wrapper_of_a_coroutine_function_passes_calls_and_errors_on(
    host: type[Host],
) -> None:
    calls, patches = Calls(), Patches("me")
    patches.wrap_attribute(host, "coroutine", calls.wrapper)
    patches.wrap_attribute(host, "fail_later", calls.wrapper)
    instance, error = host(), ValueError("theirs")
    coroutine, fail_later = instance.coroutine, instance.fail_later
    patches.undo()
    assert await coroutine(3) == 3
    with pytest.raises(ValueError, match="theirs") as caught:
        await fail_later(error)
    assert caught.value is error
    assert calls == []


def test_what_somebody_replaced_altogether_is_left_alone(host: type[Host]) -> None:
    patches = Patches("me")
    patches.wrap_attribute(host, "method", Calls().wrapper)
    theirs = lambda _: "theirs"  # noqa: E731
    host.method = theirs  # type: ignore[method-assign, assignment]
    del host.coroutine
    patches.undo()
    assert vars(host)["method"] is theirs
    assert "coroutine" not in vars(host)


def test_what_somebody_deleted_is_not_brought_back(host: type[Host]) -> None:
    patches = Patches("me")
    patches.wrap_attribute(host, "method", Calls().wrapper)
    del host.method
    patches.undo()
    assert "method" not in vars(host)


def test_a_missing_attribute_is_a_missing_seam_and_names_it(host: type[Host]) -> None:
    with pytest.raises(SeamMissing, match=r"^Host\.absent$"):
        Patches("me").wrap_attribute(host, "absent", Calls().wrapper)


def test_an_inherited_attribute_is_a_missing_seam() -> None:
    with pytest.raises(SeamMissing, match=r"^Heir\.method$"):
        Patches("me").wrap_attribute(Heir, "method", Calls().wrapper)


def test_a_missing_owner_is_a_missing_seam() -> None:
    with pytest.raises(SeamMissing, match=r"^None\.method$"):
        Patches("me").wrap_attribute(None, "method", Calls().wrapper)


def test_a_seam_missing_half_way_leaves_the_first_half_to_be_undone(host: type[Host]) -> None:
    original, patches = vars(host)["method"], Patches("me")
    patches.wrap_attribute(host, "method", Calls().wrapper)
    with pytest.raises(SeamMissing):
        patches.wrap_attribute(host, "absent", Calls().wrapper)
    patches.undo()
    assert vars(host)["method"] is original


def test_who_has_wrapped_an_attribute_is_known_while_the_wrapper_works(host: type[Host]) -> None:
    owner = object()
    patches = Patches(owner)
    assert installed_by(host, "method") is None
    assert installed_by(host, "absent") is None
    patches.wrap_attribute(host, "method", Calls().wrapper)
    assert installed_by(host, "method") is owner
    wrapper = vars(host)["method"]
    patches.undo()
    assert installed_by(host, "method") is None
    host.method = wrapper  # type: ignore[method-assign]
    assert installed_by(host, "method") is None


# Entries of mappings and items of lists


def doubled(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def replacement(n: Any) -> Any:
        return 2 * original(n)

    return replacement


def test_a_function_is_replaced_and_put_back(host: type[Host]) -> None:
    original, patches = vars(host)["method"], Patches("me")
    patches.replace_attribute(
        host, "method", lambda original: lambda self, a: ("ours", original(self, a))
    )
    assert host().method(1) == ("ours", (host, 1, "b", (), False))
    patches.undo()
    assert vars(host)["method"] is original


def test_a_replacement_that_somebody_wrapped_is_left_alone(host: type[Host]) -> None:
    patches = Patches("me")
    patches.replace_attribute(host, "method", lambda original: lambda self, a: original(self, a))
    theirs = somebody_else(vars(host)["method"])
    host.method = theirs  # type: ignore[method-assign]
    patches.undo()
    assert vars(host)["method"] is theirs
    assert host().method(1) == ("theirs", (host, 1, "b", (), False))


class Registry:
    """A class with a class method."""

    @classmethod
    def find(cls, key: str, *, other: int = 0) -> tuple[type, str, int]:
        """Find it."""
        return cls, key, other


class Heirs(Registry):
    pass


def unchanged(found: Any) -> Any:
    return found


@pytest.mark.parametrize("before", [unchanged, somebody_else])
def test_a_class_method_is_replaced_whatever_somebody_made_of_it(
    monkeypatch: pytest.MonkeyPatch, before: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(Registry, "find", before(vars(Registry)["find"]))
    original, expected = vars(Registry)["find"], Heirs.find("a", other=1)
    signature = inspect.signature(Registry.find)
    calls, patches = [], Patches("me")

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def find(cls: type, *args: Any, **kwargs: Any) -> Any:
            if patches.active:
                calls.append((cls, args, kwargs))
            return original(cls, *args, **kwargs)

        return find

    patches.replace_classmethod(Registry, "find", make)
    assert Heirs.find("a", other=1) == Heirs().find("a", other=1) == expected
    assert calls == [(Heirs, ("a",), {"other": 1})] * 2
    assert (Registry.find.__doc__, inspect.signature(Registry.find)) == ("Find it.", signature)
    left = vars(Registry)["find"]
    patches.undo()
    assert vars(Registry)["find"] is original
    Registry.find = left  # type: ignore[method-assign]
    assert Heirs.find("a", other=1) == expected
    assert len(calls) == 2
    with pytest.raises(SeamMissing, match=r"^Heirs\.find$"):
        patches.replace_classmethod(Heirs, "find", make)


@pytest.mark.parametrize(("owner", "name"), [(Host, "absent"), (Heir, "method"), (None, "x")])
def test_what_is_not_there_cannot_be_replaced(owner: Any, name: str) -> None:
    with pytest.raises(SeamMissing, match=rf"^{getattr(owner, '__name__', None)}\.{name}$"):
        Patches("me").replace_attribute(owner, name, doubled)


@wrapt.decorator
def naming_its_instance(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
    return (type(instance), wrapped(*args, **kwargs))


def test_a_replacement_calls_what_somebody_wrapped_before_with_its_instance(
    host: type[Host],
) -> None:
    theirs = naming_its_instance(vars(host)["method"])
    host.method = theirs  # type: ignore[method-assign]
    patches = Patches("me")
    patches.replace_attribute(host, "method", lambda original: lambda self, a: original(self, a))
    assert host().method(1) == (host, (host, 1, "b", (), False))
    patches.undo()
    assert vars(host)["method"] is theirs


@pytest.mark.parametrize(
    ("entry", "answer"),
    [(staticmethod(abs), 3), (functools.partialmethod(lambda self, b, a: b + a, 10), 7)],
)
def test_a_replacement_calls_any_descriptor(host: Any, entry: Any, answer: int) -> None:
    host.method = entry
    patches = Patches("me")
    patches.replace_attribute(host, "method", lambda original: lambda self, a: original(self, a))
    assert host().method(-3) == answer
    patches.undo()
    assert vars(host)["method"] is entry


def test_an_entry_is_replaced_and_put_back() -> None:
    def original(n: int) -> int:
        return n

    handlers: dict[str, Callable[..., Any]] = {"connect": original}
    patches = Patches("me")
    patches.replace_item(handlers, "connect", doubled)
    assert handlers["connect"](3) == 6
    patches.undo()
    assert handlers == {"connect": original}


def test_an_entry_that_somebody_replaced_or_removed_since_is_left_alone() -> None:
    handlers: dict[str, Callable[..., Any]] = {"connect": abs, "disconnect": abs}
    patches = Patches("me")
    patches.replace_item(handlers, "connect", doubled)
    patches.replace_item(handlers, "disconnect", doubled)
    handlers["connect"] = round
    del handlers["disconnect"]
    patches.undo()
    assert handlers == {"connect": round}


@pytest.mark.parametrize("handlers", [{}, None])
def test_a_missing_entry_is_a_missing_seam(handlers: Any) -> None:
    with pytest.raises(SeamMissing, match="handler 'connect'"):
        Patches("me").replace_item(handlers, "connect", doubled)


def test_an_item_goes_to_the_front_and_out_again_whatever_came_since() -> None:
    class AlwaysEqual:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    theirs, ours, later = AlwaysEqual(), AlwaysEqual(), AlwaysEqual()
    routes = [theirs]
    same_list, patches = routes, Patches("me")
    patches.insert_first(routes, ours)
    assert routes[0] is ours
    routes.insert(0, later)
    patches.undo()
    assert same_list is routes
    assert [id(route) for route in routes] == [id(later), id(theirs)]


def test_an_undo_that_fails_leaves_no_other_undone() -> None:
    undone: list[int] = []

    def fail() -> None:
        raise RuntimeError("theirs")

    patches = Patches("me")
    for undo in (lambda: undone.append(1), fail, lambda: undone.append(2)):
        patches.add_cleanup(undo)
    with pytest.raises(RuntimeError, match="theirs"):
        patches.undo()
    assert undone == [2, 1]


def test_undo_goes_backwards_and_the_patches_are_inactive_at_once() -> None:
    patches, seen = Patches("me"), []

    class Watched(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            seen.append((key, patches.active))
            super().__setitem__(key, value)

    handlers = Watched(a=abs, b=abs)
    patches.replace_item(handlers, "a", doubled)
    patches.replace_item(handlers, "b", doubled)
    patches.undo()
    assert seen == [("a", True), ("b", True), ("b", False), ("a", False)]


# Attributes of instances


def test_a_method_of_one_instance_is_wrapped_and_put_back(host: type[Host]) -> None:
    instance, other = host(), host()
    made_from = []

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        made_from.append(original)
        return lambda a: ("ours", original(a))

    patches = Patches("me")
    patches.wrap_on_instance(instance, "method", make)
    assert made_from == [instance.__class__.method.__get__(instance)]
    assert instance.method(1) == ("ours", (host, 1, "b", (), False))
    assert other.method(1) == (host, 1, "b", (), False)
    patches.undo()
    assert vars(instance) == {}
    assert instance.method(2) == (host, 2, "b", (), False)


def test_what_an_instance_has_of_its_own_is_put_back_as_it_was(host: type[Host]) -> None:
    def own(a: int) -> int:
        return -a

    instance, patches = host(), Patches("me")
    vars(instance)["method"] = own
    patches.wrap_on_instance(instance, "method", doubled)
    assert instance.method(3) == -6  # type: ignore[comparison-overlap]
    patches.undo()
    assert vars(instance) == {"method": own}


def test_an_instance_wrapped_twice_is_put_back_too(host: type[Host]) -> None:
    instance, patches = host(), Patches("me")
    patches.wrap_on_instance(instance, "static", doubled)
    patches.wrap_on_instance(instance, "static", doubled)
    assert instance.static(1) == 4
    patches.undo()
    assert vars(instance) == {}
    assert instance.static(1) == 1


def test_what_somebody_set_or_deleted_on_the_instance_since_is_left_alone(
    host: type[Host],
) -> None:
    instance, patches = host(), Patches("me")
    patches.wrap_on_instance(instance, "static", doubled)
    patches.wrap_on_instance(instance, "method", doubled)
    vars(instance)["static"] = abs
    del vars(instance)["method"]
    patches.undo()
    assert vars(instance) == {"static": abs}


def test_an_instance_that_several_have_wrapped_is_not_kept(host: type[Host]) -> None:
    instance, changes = host(), (Patches("me"), Patches("you"))
    for patches in changes:
        patches.wrap_on_instance(instance, "static", doubled)
    gone = weakref.ref(instance)
    del instance
    gc.collect()
    assert gone() is None
    assert [patches._undo for patches in changes] == [[], []]


class Slotted:
    __slots__ = ("__dict__", "__weakref__", "method")


class Settable:
    kept: Any = None

    @property
    def method(self) -> Any:
        return self.kept

    @method.setter
    def method(self, value: Any) -> None:
        self.kept = value


@pytest.mark.parametrize("kind", [Slotted, Settable])
def test_what_a_slot_or_a_property_gives_is_never_touched(kind: Any) -> None:
    instance, patches = kind(), Patches("me")
    instance.method = abs
    patches.wrap_on_instance(instance, "method", doubled)
    patches.undo()
    assert instance.method is abs
    assert "method" not in vars(instance)


class Forwarding:
    def __init__(self, inner: Any) -> None:
        object.__setattr__(self, "inner", inner)

    def __getattribute__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "inner"), name)


def test_what_stands_for_another_instance_is_wrapped_there(host: type[Host]) -> None:
    inner, patches = host(), Patches("me")
    outer: Any = Forwarding(inner)
    patches.wrap_on_instance(outer, "static", doubled)
    assert outer.static(2) == 4
    patches.undo()
    assert outer.static(2) == 2
    assert vars(inner) == {}
    assert set(object.__getattribute__(outer, "__dict__")) == {"inner"}


@pytest.mark.parametrize("instance", [Host(), None])
def test_a_method_that_is_not_there_cannot_be_wrapped(instance: object) -> None:
    with pytest.raises(SeamMissing, match=rf"^{type(instance).__name__}\.absent$"):
        Patches("me").wrap_on_instance(instance, "absent", doubled)


# Cells of closures


def closure() -> tuple[Callable[[int], int], CellType]:
    """A function that calls another one, and the cell that holds that one."""

    def inner(n: int) -> int:
        return n

    def outer(n: int) -> int:
        return inner(n) + 1

    (cell,) = outer.__closure__ or ()
    return outer, cell


def test_what_a_closure_calls_is_exchanged_and_put_back() -> None:
    outer, cell = closure()
    original, patches = cell.cell_contents, Patches("me")
    patches.set_closure_cell(outer, cell, doubled(original))
    assert outer(3) == 7
    patches.undo()
    assert cell.cell_contents is original
    assert outer(3) == 4


def test_a_cell_that_was_filled_twice_is_put_back_too() -> None:
    outer, cell = closure()
    patches = Patches("me")
    patches.set_closure_cell(outer, cell, doubled(cell.cell_contents))
    patches.set_closure_cell(outer, cell, doubled(cell.cell_contents))
    assert outer(3) == 13
    patches.undo()
    assert outer(3) == 4


def test_a_cell_that_somebody_filled_since_is_left_alone() -> None:
    outer, cell = closure()
    patches = Patches("me")
    patches.set_closure_cell(outer, cell, doubled(cell.cell_contents))
    cell.cell_contents = abs
    patches.undo()
    assert cell.cell_contents is abs
    assert outer(-3) == 4


# What others do on our behalf


def test_what_somebody_else_changed_for_us_is_undone_once_and_in_its_turn() -> None:
    patches, undone = Patches("me"), []

    class Watched(dict[str, Any]):
        def __setitem__(self, key: str, value: Any) -> None:
            undone.append(key)
            super().__setitem__(key, value)

    handlers = Watched(a=abs, c=abs)
    patches.replace_item(handlers, "a", doubled)
    patches.add_cleanup(lambda: undone.append("b"))
    patches.replace_item(handlers, "c", doubled)
    undone.clear()
    patches.undo()
    assert undone == ["c", "b", "a"]
    patches.undo()
    assert undone == ["c", "b", "a"]


def test_an_undo_for_others_finds_the_patches_inactive() -> None:
    patches, active = Patches("me"), []
    patches.add_cleanup(lambda: active.append(patches.active))
    patches.undo()
    assert active == [False]


def test_a_cell_of_a_function_that_is_gone_is_not_kept() -> None:
    outer, cell = closure()
    patches = Patches("me")
    replacement = doubled(cell.cell_contents)
    patches.set_closure_cell(outer, cell, replacement)
    gone = weakref.ref(replacement)
    del outer, cell, replacement
    gc.collect()
    assert gone() is None
    assert patches._undo == []


# What is no function


class Asked:
    """Can be called, and is asked for more."""

    def __init__(self) -> None:
        self.calls = 0
        self.said = "more"

    def __call__(self, n: int) -> int:
        self.calls += 1
        return n


def kinds() -> dict[str, Any]:
    return {
        "mock": MagicMock(return_value=3),
        "partial": functools.partial(abs),
        "object": Asked(),
        "proxy": wrapt.CallableObjectProxy(Asked()),
        "builtin": abs,
    }


def assert_like(replaced: Any, original: Any) -> None:
    assert isinstance(replaced, original.__class__)
    for name in dir(original):
        assert hasattr(replaced, name)
    for name in ("calls", "said", "return_value", "call_count", "func", "args", "__self__"):
        assert getattr(replaced, name, "absent") == getattr(original, name, "absent")


@pytest.mark.parametrize("kind", kinds())
def test_an_entry_that_is_no_function_keeps_all_that_it_has(kind: str) -> None:
    original = kinds()[kind]
    handlers, patches = {"connect": original}, Patches("me")
    patches.replace_item(handlers, "connect", doubled)
    assert handlers["connect"](3) == 6
    assert_like(handlers["connect"], original)
    patches.undo()
    assert handlers["connect"] is original


@pytest.mark.parametrize("kind", kinds())
def test_an_attribute_that_is_no_function_keeps_all_that_it_has(
    host: type[Host], kind: str
) -> None:
    original, instance = kinds()[kind], host()
    vars(instance)["method"] = original
    patches = Patches("me")
    patches.wrap_on_instance(instance, "method", doubled)
    assert instance.method(3) == 6  # type: ignore[comparison-overlap]
    assert_like(instance.method, original)
    patches.undo()
    assert vars(instance) == {"method": original}


@pytest.mark.parametrize("kind", kinds())
def test_what_is_in_a_cell_and_no_function_keeps_all_that_it_has(kind: str) -> None:
    outer, cell = closure()
    original, patches = kinds()[kind], Patches("me")
    cell.cell_contents = original
    patches.set_closure_cell(outer, cell, doubled(original))
    assert outer(3) == 7
    assert_like(cell.cell_contents, original)
    patches.undo()
    assert cell.cell_contents is original


@pytest.mark.parametrize("kind", kinds())
def test_what_is_in_a_class_and_no_function_is_replaced_with_all_that_it_has(
    host: Any, kind: str
) -> None:
    original, seen = kinds()[kind], []

    def make(call: Callable[..., Any]) -> Callable[..., Any]:
        def method(self: Any, n: int) -> Any:
            seen.append(self)
            return 2 * call(self, n)

        return method

    host.method = original
    instance, patches = host(), Patches("me")
    patches.replace_attribute(host, "method", make)
    assert instance.method(3) == 6
    assert seen == [instance]
    # None of them takes the instance, so a call by the class is nobody's.
    assert host.method(3) == 3
    assert_like(host.method, original)
    assert_like(instance.method, original)
    patches.undo()
    assert vars(host)["method"] is original


async def test_a_fast_replacement_has_what_a_method_has(host: type[Host]) -> None:
    instance, patches = host(), Patches("me")

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(original)
        async def coroutine(a: int) -> Any:
            return -await original(a)

        return coroutine

    original: Any = instance.coroutine
    patches.wrap_on_instance(instance, "coroutine", make, fast=True)
    replaced: Any = instance.coroutine
    assert type(vars(instance)["coroutine"]) is FunctionType
    assert await replaced(3) == -3
    assert (replaced.__self__, replaced.__func__) == (instance, original.__func__)
    assert replaced.__qualname__ == original.__qualname__
    patches.undo()
    assert vars(instance) == {}


def test_a_name_that_is_no_text_is_no_hindrance() -> None:
    original = MagicMock(__name__=None, return_value=4)

    @wraps(original)
    def replacement(*args: object) -> Any:
        return original(*args)

    assert replacement() == 4


def test_one_of_two_wrappers_of_a_method_is_taken_out_before_the_other(host: type[Host]) -> None:
    instance, first, second = host(), Patches("me"), Patches("you")
    first.wrap_on_instance(instance, "static", doubled)
    second.wrap_on_instance(instance, "static", doubled)
    second.undo()
    assert instance.static(1) == 2
    first.undo()
    assert vars(instance) == {}
