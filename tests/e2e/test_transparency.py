"""Every object of Chainlit's and of the app that is wrapped answers as without us.

What is wrapped is found by looking: everything that Chainlit, its servers and the app hold is noted
before `enable()` and compared after it. So a new seam is covered by itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import python_path

pytestmark = pytest.mark.e2e

SCRIPT = r'''
import asyncio, functools, inspect, json, os, sys, types
from unittest.mock import AsyncMock, MagicMock, NonCallableMock as Mock, create_autospec

os.environ["OTEL_EXPORTER_PROMETHEUS_PORT"] = "0"

import chainlit as cl
import chainlit.server as server
import uvicorn.server
import wrapt
from chainlit.config import config
from chainlit.data import queue_until_user_message
from chainlit.data.storage_clients.base import BaseStorageClient
import chainlit.data as data

PACKAGES = ("chainlit", "engineio", "socketio", "starlette", "fastapi", "uvicorn")


class Callable:
    """Can be called, and has more to say."""

    said = "callable"

    async def __call__(self, *args, **kwargs):
        return self.said


class Proxy(wrapt.ObjectProxy):
    def __call__(self, *args, **kwargs):
        return self.__wrapped__(*args, **kwargs)


async def function(*args, note="function", **kwargs):
    """Say what it is."""
    return note


function.said = "function"


class Storage(BaseStorageClient):
    delete_file = AsyncMock(return_value=True)
    get_read_url = functools.partial(function, note="partial")

    async def upload_file(self, object_key, data, mime="", overwrite=True):
        return {"object_key": object_key}

    async def close(self): ...


class Layer:
    """Each of its methods is of another kind."""

    @queue_until_user_message()
    async def create_step(self, step): ...

    async def get_user(self, identifier, *, strict=False):
        """Give a user."""

    @staticmethod
    async def create_user(user): ...

    @classmethod
    async def get_thread(cls, thread_id): ...

    update_step = functools.partial(function, note="partial")
    delete_step = functools.partialmethod(get_user, strict=True)
    get_element = Callable()
    get_thread_author = Proxy(function)
    delete_element = wrapt.FunctionWrapper(get_user, lambda f, i, a, k: f(*a, **k))

    def list_threads(self, pagination, filters): ...

    def __init__(self):
        self.storage_provider = Storage()
        self.update_thread = AsyncMock()
        self.create_element = MagicMock(side_effect=function)
        self.upsert_feedback = create_autospec(function)

    def __getattr__(self, name):
        # As a client of something far away has whatever it is asked for.
        if name == "delete_feedback":
            return REMOTE
        raise AttributeError(name)


class Remote:
    def __getattr__(self, name):
        return Remote()

    async def __call__(self, *args, **kwargs): ...


REMOTE = Remote()

LAYERS = {
    "layer": Layer(),
    "mock": AsyncMock(),
    "specified": create_autospec(Layer, instance=True),
    "proxy": wrapt.ObjectProxy(Layer()),
}

cl.on_message(function)
cl.on_chat_start(AsyncMock())
cl.on_chat_end(functools.partial(function, note="partial"))
cl.on_stop(Callable())
cl.on_logout(Proxy(function))
cl.on_settings_update(MagicMock())
cl.action_callback("a")(AsyncMock())


def seen():
    """Note all that can be reached, by its path."""
    found = {}

    def note(path, table):
        for name, value in list(table.items()):
            found[f"{path}.{name}"] = value
            # Handlers and callbacks, which Chainlit wraps in turn.
            if type(value) is types.FunctionType:
                for cell, free in zip(value.__closure__ or (), value.__code__.co_freevars):
                    if free == "user_function":
                        found[f"{path}.{name}.{free}"] = cell.cell_contents

    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in PACKAGES and type(module) is types.ModuleType:
            for key, value in list(vars(module).items()):
                if issubclass(type(value), type) and value.__module__ == name:
                    note(f"{name}.{key}", vars(value))
                else:
                    found[f"{name}.{key}"] = value
    note("code", vars(config.code))
    for name, instance in (("sio", server.sio), ("eio", server.sio.eio)):
        note(name, {key: getattr(instance, key) for key in dir(instance)})
    note("sio.handlers", server.sio.handlers["/"])
    note("eio.handlers", server.sio.eio.handlers)
    note("actions", config.code.action_callbacks)
    for name, layer in LAYERS.items():
        for operation in OPERATIONS:
            found[f"{name}.{operation}"] = getattr(layer, operation, None)
        storage = getattr(layer, "storage_provider", None)
        if isinstance(storage, Storage):
            for operation in ("upload_file", "delete_file", "get_read_url"):
                found[f"{name}.storage.{operation}"] = getattr(storage, operation)
    return found


def replaced(path, one, other):
    if type(one) is type(other) is types.MethodType:
        # Each access makes a bound method anew.
        return one != other
    return one is not other and callable(one)


from chainlit_otel import catalog

OPERATIONS = catalog.OPERATION.values
LAYERS["mock"].storage_provider = LAYERS["mock"].storage_client = None


before = seen()
# Some are made anew at each access.
lasting = {path for path, again in seen().items() if not replaced(path, before[path], again)}
attributes = [sorted(vars(layer)) for layer in LAYERS.values()]
import chainlit_otel

chainlit_otel.enable()
for layer in LAYERS.values():
    data._data_layer, data._data_layer_initialized = layer, True
    assert data.get_data_layer() is layer
after = seen()

# What the body of a function is made of. A function may be replaced by one, so that what runs
# for every token costs no call more; `inspect` finds signature and source of the original.
BODY = {"__code__", "__globals__", "__closure__", "__builtins__", "__defaults__", "__kwdefaults__"}
# What every object has answers by its type; and `__wrapped__` leads to what was there before.
SPECIAL = {*dir(object), "__wrapped__", "__call__", "__getattr__", "__class_getitem__"}
SPECIAL -= {"__class__", "__dict__", "__doc__", "__module__"}
# A function in place of a method for the same reason.
FAST = {"sio.emit"}


def same(name, one, other):
    if name == "__dict__":
        return all(other[key] is one[key] for key in one if key != "__wrapped__")
    if name in SPECIAL:
        return True
    # Each access makes them anew, so it is enough that they are there.
    made = (types.MethodWrapperType, types.BuiltinMethodType, types.MethodType, Remote)
    if isinstance(one, made) or (name == "__func__" and type(one) is types.FunctionType):
        return type(one) is type(other)
    return one is other or one == other


def differences(path, one, other):
    fast = path in FAST or (type(one) is type(other) is types.FunctionType)
    for name in sorted({*dir(one), *(one._mock_children if isinstance(one, Mock) else ())}):
        if name in (BODY if fast else ()) or (name == "__class__" and path in FAST):
            continue
        try:
            expected = getattr(one, name)
        except AttributeError:
            continue
        try:
            got = getattr(other, name)
        except AttributeError:
            yield f"{name} is missing"
            continue
        if not same(name, expected, got):
            yield f"{name}: {got!r}, not {expected!r}"
    for ask in (inspect.iscoroutinefunction, asyncio.iscoroutinefunction, inspect.ismethod):
        # Before Python 3.12, `inspect` believes no function that it is one of coroutines.
        believes = path not in FAST or (ask.__module__ == "asyncio.coroutines")
        if believes and ask(one) != ask(other):
            yield f"{ask.__name__} says {ask(other)}"
    try:
        signature = inspect.signature(one)
    except (TypeError, ValueError, RecursionError):
        return
    if inspect.signature(other) != signature:
        yield f"signature: {inspect.signature(other)}, not {signature}"


def bind(thing, instance):
    binds = hasattr(type(thing), "__get__")
    return thing.__get__(instance, type(instance)) if binds else thing


wrong, seams = {}, []
for path, one in before.items():
    other = after.get(path)
    if not replaced(path, one, other):
        continue
    seams.append(path)
    if found := list(differences(path, one, other)):
        wrong[path] = found
    # What is in a class is asked for by instances, too.
    holder = path.rpartition(".")[0]
    module, _, kind = holder.rpartition(".")
    owner = getattr(sys.modules.get(module), kind, None)
    if isinstance(owner, type):
        instance = object.__new__(owner)
        if found := list(differences(path, *(bind(thing, instance) for thing in (one, other)))):
            wrong[path + " of an instance"] = found


async def use():
    layer = LAYERS["mock"]
    layer.update_thread.side_effect = ValueError("as it was set")
    try:
        await layer.update_thread("t", name="x")
    except ValueError as error:
        return layer.update_thread.await_count, repr(layer.method_calls), str(error)


results = asyncio.run(use())
chainlit_otel.disable()
again = seen()
left = [path for path in lasting if replaced(path, before[path], again.get(path))]
assert [sorted(vars(layer)) for layer in LAYERS.values()] == attributes
print(json.dumps({"wrong": wrong, "seams": seams, "results": results, "left": left}))
'''


def test_all_that_is_wrapped_answers_as_without_us(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["wrong"] == {}
    assert found["left"] == []
    # What Chainlit's own tests ask of a data layer that is a mock.
    assert found["results"] == [1, "[call.update_thread('t', name='x')]", "as it was set"]
    # Without these, it has looked at nothing.
    assert {
        "chainlit.session.WebsocketSession.__init__",
        "chainlit.step.Step.send",
        "chainlit.socket.process_message",
        "chainlit.server.get_data_layer",
        "code.on_message.user_function",
        "code.on_chat_start.user_function",
        "code.on_chat_end.user_function",
        "code.on_stop.user_function",
        "code.on_logout.user_function",
        "actions.a.user_function",
        "sio.emit",
        "sio.handlers.connect",
        "eio.handlers.disconnect",
        "layer.create_step",
        "layer.update_step",
        "layer.get_element",
        "layer.get_thread_author",
        "layer.delete_element",
        "layer.delete_feedback",
        "layer.storage.upload_file",
        "layer.storage.delete_file",
        "mock.update_thread",
        "specified.update_step",
        "proxy.update_thread",
    } <= set(found["seams"])
