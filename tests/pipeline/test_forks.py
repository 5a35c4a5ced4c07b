"""What a forked child finds of ours: free locks, and nothing of the parent's figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock, RLock, Thread
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from chainlit_otel.pipeline.forks import forget, renew_locks
from tests.support.server import python_path

# CPython 3.12 and newer warn of what these tests are about.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")


def in_child(reported: Callable[[], object]) -> Any:
    """Return what a function returns in a forked child, as JSON has it."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writing, json.dumps(reported()).encode())
        except BaseException:  # noqa: BLE001 - pytest must not run in the child
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(pid, 0)
    with os.fdopen(reading) as pipe:
        return json.load(pipe)


class Slotted:
    __slots__ = ("empty", "lock")

    def __init__(self) -> None:
        self.lock = Lock()


class Holder:
    def __init__(self) -> None:
        self.lock = RLock()
        self.parts = {"one": [Slotted()]}
        self.itself = self


Slotted.__module__ = Holder.__module__ = "chainlit_otel.something"


def test_a_lock_that_another_thread_held_is_free_in_the_child() -> None:
    holder = Holder()
    locks: list[Any] = [holder.lock, holder.parts["one"][0].lock]
    held, done = Event(), Event()

    def hold() -> None:
        with locks[0], locks[1]:
            held.set()
            done.wait(30)

    thread = Thread(target=hold)
    thread.start()
    held.wait(30)

    def free() -> list[bool]:
        before = [lock.acquire(blocking=False) for lock in locks]
        renew_locks([holder])
        return before + [lock.acquire(blocking=False) for lock in locks]

    found = in_child(free)
    done.set()
    thread.join()
    assert found == [False, False, True, True]


# A process of its own, in which nothing else of this package has been made.
EVERY_LOCK = """
import gc
import json
import os
import sys
from contextlib import ExitStack
from threading import Event, Thread

import chainlit.socket

import chainlit_otel
from chainlit_otel import api

chainlit_otel.watch_cache("one", (lambda: 1, lambda: 1))
chainlit_otel.enable(chainlit_otel.Settings(port=0))

kinds = (type(__import__("threading").Lock()), type(__import__("threading").RLock()))


def every_lock():
    owners = [o for o in gc.get_objects() if str(type(o).__module__).startswith("chainlit_otel")]
    owners.append(api)
    for owner in owners:
        names = [n for kind in type(owner).__mro__ for n in getattr(kind, "__slots__", ())]
        for name in {*names, *getattr(owner, "__dict__", ())}:
            value = getattr(owner, name, None)
            if type(value) in kinds:
                yield f"{type(owner).__name__}.{name}", value


locks = list(every_lock())
held, done = Event(), Event()


def hold():
    with ExitStack() as stack:
        for _, lock in locks:
            stack.enter_context(lock)
        held.set()
        done.wait(30)


thread = Thread(target=hold)
thread.start()
held.wait(30)
reading, writing = os.pipe()
if os.fork() == 0:
    still = [name for name, lock in every_lock() if not lock.acquire(blocking=False)]
    os.write(writing, json.dumps(still).encode())
    os._exit(0)
os.close(writing)
os.wait()
still_held = json.load(os.fdopen(reading))
done.set()
thread.join()
print(json.dumps([len(locks), still_held]))
"""


def test_no_lock_of_ours_is_held_in_a_child(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", EVERY_LOCK],
        env={**os.environ, **python_path()},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    locks, still_held = json.loads(done.stdout.splitlines()[-1])
    assert locks >= 20
    assert still_held == []


def test_a_provider_forgets_and_its_instruments_go_on() -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    meter = provider.get_meter("app")
    counter = meter.create_counter("asked")
    counter.add(41)
    meter.create_observable_gauge("level", [lambda _: []])

    def sums() -> dict[str, list[float]]:
        data = reader.get_metrics_data()
        return {
            metric.name: [point.value for point in metric.data.data_points]  # type: ignore[union-attr]
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    assert sums() == {"asked": [41]}
    forget(provider)
    assert sums() == {}
    counter.add(1)
    assert sums() == {"asked": [1]}
