"""`enable()` again with other settings, `disable()` anywhere, and servers beside the app's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chainlit_otel import Settings
from tests.support.server import python_path

BEGIN = """
import logging, os, signal, threading
logging.basicConfig(format="%(message)s")
import chainlit_otel
from chainlit_otel import Settings, api
from chainlit_otel.probes.sessions import Sessions
from chainlit_otel.probes.sockets.connections import Sockets
"""

OTHERS = """
from opentelemetry.sdk.trace import TracerProvider
first = dict(port=0, metrics_token="SECRET-ONE")
chainlit_otel.enable(Settings(**first))
chainlit_otel.enable()
chainlit_otel.enable(Settings(**first))
print("--")
others = Settings(port=0, metrics_token="SECRET-TWO", capture_user=True)
chainlit_otel.enable(others, tracer_provider=TracerProvider())
"""

# A handler that runs in the middle of what holds a lock, for each lock that we have.
INTERRUPTED = """
import time
chainlit_otel.enable(Settings(port=0, shutdown_timeout=0.05))
import chainlit.server

def locks():
    found, seen, held = [api._active], set(), []
    while found:
        thing = found.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        kind = type(thing)
        if isinstance(thing, (type(threading.Lock()), type(threading.RLock()))):
            held.append(thing)
        elif isinstance(thing, dict):
            found += thing.values()
        elif isinstance(thing, (list, tuple)):
            found += thing
        elif kind.__module__.startswith("chainlit_otel"):
            found += vars(thing).values() if hasattr(thing, "__dict__") else ()
            names = (n for base in kind.__mro__ for n in getattr(base, "__slots__", ()))
            found += [getattr(thing, n, None) for n in names]
    return held

signal.signal(signal.SIGUSR1, lambda *_: chainlit_otel.disable())
number = len(locks())
for n in range(number):
    instance = api._active
    instance.context.get(Sessions).ledger.start("websocket", "webapp", "new")
    lock = locks()[n] if len(locks()) > n else locks()[0]
    with lock:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert api._active is None
        assert not instance._installation._patches
    for thread in threading.enumerate():
        if thread.name == "chainlit-otel-disable":
            thread.join(30)
    # What was held up is done, and nothing is half done.
    assert sum(instance.context.get(Sessions).ledger.active().values()) == 0
    assert instance.context.get(Sessions).ledger.ends()["websocket", "webapp", "other"] >= 1
    assert instance.admin_url is None
    chainlit_otel.enable(Settings(port=0, shutdown_timeout=0.05))
print(number)
"""

SERVERS = """
import types
chainlit_otel.enable(Settings(port=0))
import chainlit.server as server
from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware
from starlette.applications import Starlette
from chainlit_otel.probes.lifecycle import Lifecycle, is_server_of

def serves(app):
    config = types.SimpleNamespace(loaded_app=app)
    return is_server_of(types.SimpleNamespace(config=config), server.app)

outer = FastAPI()
outer.mount("/chat", server.app)
print(serves(server.app), serves(GZipMiddleware(server.app)), serves(outer), serves(lambda: None))
print(serves(Starlette()), serves(GZipMiddleware(FastAPI())))
instance = api._active
print(is_server_of(instance._admin._server, server.app))
lifecycle = instance.context.get(Lifecycle)
other = types.SimpleNamespace(config=types.SimpleNamespace(loaded_app=Starlette()))
own = types.SimpleNamespace(config=types.SimpleNamespace(loaded_app=server.app))
lifecycle.on_uvicorn_shutdown(other)
print(instance.context.get(Sockets).stopping)
lifecycle.on_uvicorn_shutdown(own)
print(instance.context.get(Sockets).stopping)
lifecycle.on_lifespan_startup(server.app.router)
print(instance.context.get(Sockets).stopping)
lifecycle.on_uvicorn_shutdown(own)
chainlit_otel.disable()
chainlit_otel.enable(Settings(port=0))
print(api._active is instance, api._active.context.get(Sockets).stopping)
"""


def run(code: str, directory: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        cwd=directory,
        env={**os.environ, **python_path()},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_other_settings_are_named_once_and_no_secret_is_shown(tmp_path: Path) -> None:
    done = run(OTHERS, tmp_path)
    (line,) = [line for line in done.stderr.splitlines() if "enable()" in line]
    assert "capture_user is False, not True" in line
    assert "metrics_token is another one" in line
    assert "tracer_provider is another one" in line
    assert "port" not in line
    assert "SECRET" not in done.stdout + done.stderr


def test_disable_in_a_signal_handler_waits_for_no_lock_in_vain(tmp_path: Path) -> None:
    done = run(INTERRUPTED, tmp_path)
    assert int(done.stdout.splitlines()[-1]) > 10


def test_a_server_beside_the_app_does_not_stop_it(tmp_path: Path) -> None:
    done = run(SERVERS, tmp_path)
    assert done.stdout.splitlines() == [
        "True True True True",
        "False False",
        "False",
        "False",
        "True",
        "False",
        "True False",
    ]


@pytest.mark.parametrize("name", ["host", "port", "metrics_token"])
def test_every_setting_is_compared(name: str) -> None:
    value: Any = {"host": "0.0.0.0", "port": 1, "metrics_token": "SECRET"}[name]
    one, other = Settings(), Settings(**{name: value})
    assert one.differences(one) == []
    (difference,) = one.differences(other)
    assert difference.startswith(f"{name} is ")
    assert ("SECRET" in difference) is False
