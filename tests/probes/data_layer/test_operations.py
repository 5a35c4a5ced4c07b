"""What becomes of operations that were held back for a session, without a server."""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from contextvars import copy_context
from typing import Any

from chainlit_otel.probes.data_layer.operations import DataLayers
from tests.support.probes import probe_context


class Session:
    """What the probe knows a session by."""

    def __init__(self) -> None:
        self.has_first_interaction = False
        self.current_task: asyncio.Task[None] | None = None
        self.thread_queues: dict[str, deque[int]] = {}


def ignore(*_: Any) -> None:
    pass


def new_layers() -> DataLayers:
    return probe_context().get(DataLayers)


def holding(layers: DataLayers) -> Any:
    session: Any = Session()
    session.thread_queues["create_step"] = deque([1, 2, 3])
    layers.on_queued(session, "create_step")
    return session


def fate(layers: DataLayers) -> tuple[int, int]:
    """How many operations wait, and how many are discarded."""
    return layers.ledger.queue_length, layers.ledger.discarded.total()


def test_each_is_counted_once_however_many_are_under_way() -> None:
    layers = new_layers()
    session = holding(layers)
    session.thread_queues["create_step"].append(4)
    layers.on_queued(session, "create_step")
    layers.on_queued(session, "create_step")
    layers.on_queued(session, "update_step")
    assert layers.queued() == {("create_step",): 4}


def test_who_has_written_nothing_leaves_nothing() -> None:
    layers = new_layers()
    session = holding(layers)
    layers.on_session_deleted(session)
    assert fate(layers) == (0, 3)
    layers.on_session_deleted(session)
    layers.on_flushed(session)
    assert fate(layers) == (0, 3)


def test_what_is_about_to_run_is_not_discarded_until_that_is_over() -> None:
    layers = new_layers()
    session = holding(layers)
    session.has_first_interaction = True
    layers.on_session_deleted(session)
    assert fate(layers) == (3, 0)
    # Chainlit ran none of them, because its task was cancelled.
    layers.on_flushed(session)
    assert fate(layers) == (0, 3)


def test_what_was_to_run_and_never_did_goes_with_the_session() -> None:
    layers = new_layers()
    session = holding(layers)
    session.has_first_interaction = True
    layers.on_session_deleted(session)
    del session
    gc.collect()
    assert fate(layers) == (0, 3)


async def test_a_task_of_the_session_may_yet_have_them_run() -> None:
    layers = new_layers()
    session, other = holding(layers), holding(layers)
    going_on = asyncio.Event()

    async def write(session: Session) -> None:
        await going_on.wait()
        session.has_first_interaction = True

    async def greet() -> None:
        await going_on.wait()

    session.current_task = asyncio.create_task(write(session))
    other.current_task = asyncio.create_task(greet())
    for one in (session, other):
        layers.on_session_deleted(one)
    assert fate(layers) == (6, 0)
    going_on.set()
    await asyncio.gather(session.current_task, other.current_task)
    assert fate(layers) == (3, 3)
    layers.on_flushed(session)
    assert fate(layers) == (0, 6)


def test_an_operation_fails_by_a_part_of_it_that_fails() -> None:
    layers = new_layers()
    outer = layers.start_operation("create_step", "Layer")
    inner = layers.start_operation("update_thread", "Layer")
    inner.failed = True
    layers.end_operation(inner, outer, None)
    layers.end_operation(outer, None, None)
    assert layers.ledger.operations == {("create_step", "Layer", "error"): 1}


def test_what_an_operation_leaves_behind_stands_for_itself() -> None:
    layers = new_layers()
    outer = layers.start_operation("create_step", "Layer")
    task = copy_context()
    layers.end_operation(outer, None, None)

    def go_on() -> None:
        later = layers.start_operation("update_thread", "Layer")
        layers.end_operation(later, outer, ValueError())

    task.run(go_on)
    assert layers.ledger.operations == {
        ("create_step", "Layer", "ok"): 1,
        ("update_thread", "Layer", "error"): 1,
    }
