"""Data layer: whatever `chainlit.data.get_data_layer` returns, each operation of it.

The methods are wrapped on the instance, so the calls that it makes to itself are observed, too: an
operation inside another one is a child span, and does not count.

Chainlit queues some operations until the user writes for the first time. Its queues contain the
functions of the class, not the attributes of the instance, so these are replaced before they run.
`SQLAlchemyDataLayer.execute_sql` swallows every exception and returns None, which it does in no
other case. The storage clients of Chainlit swallow exceptions, too, and return a value that shows
it; a layer that ignores that value loses the file.

An operation may be called and never run: Chainlit stores by tasks that it does not await, and if
their event loop ends first, as in a thread of the app, they are lost without a log record. Each of
these is an error.

`close` and `build_debug_url` are no operations: they do not use the database.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
import weakref
from collections import Counter
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from importlib import import_module
from itertools import product
from types import FunctionType
from typing import Any

from chainlit_otel import catalog
from chainlit_otel.core.identities import WeakIdentitySet
from chainlit_otel.core.labels import BoundedLabel, EnumLabel
from chainlit_otel.core.operations import OperationLedger, SessionQueue
from chainlit_otel.core.sessions import NS
from chainlit_otel.guard import Guard, log
from chainlit_otel.patching import Patches, mark_coroutine_function, wraps
from chainlit_otel.pipeline.spans import SpanScope, outcome_of
from chainlit_otel.probes.chainlit_types import ChainlitWebsocketSession
from chainlit_otel.probes.data_layer.discovery import (
    Discovery,
    Method,
    is_instrumentable,
    wrap_method,
)
from chainlit_otel.probes.messages import Messages, current_turn
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.session_spans import SessionSpans
from chainlit_otel.probes.sessions import Sessions, current_session

_LAYERS = 8
_DEEPEST = 32
_STORAGES = ("storage_client", "storage_provider")  # as the layers of Chainlit name them
_CLIENTS = ("chainlit.data.storage_clients.s3",)
_DECORATORS = "chainlit.data.utils"
_OPERATIONS = tuple(name for name in catalog.OPERATION.values if name != catalog.OTHER)
_SWALLOWED = "_OTHER"  # `error.type` of an error whose class is not known


class Operation:
    """One operation under way.

    Attributes:
        failed: Whether the layer has swallowed an error in it.
        ended: Whether it is over.
    """

    __slots__ = ("ended", "failed", "is_nested", "layer", "name", "scope", "started")

    def __init__(self, name: str, layer: str, is_nested: bool, scope: SpanScope) -> None:
        self.name = name
        self.layer = layer
        self.is_nested = is_nested
        self.scope = scope
        self.started = time.monotonic_ns()
        self.failed = False
        self.ended = False


# A task that outlives an operation has its own copy of this: once the operation has ended, what
# the task calls counts again.
_current: ContextVar[Operation | None] = ContextVar("chainlit_otel_operation", default=None)


def _current_operation() -> Operation | None:
    """Return the operation inside which this runs, if there is one."""
    operation = _current.get()
    return None if operation is None or operation.ended else operation


class DataLayers(Probe):
    """The data layers of the app, and their operations.

    Attributes:
        ledger: The ledger of operations.
        operations: The names of operations.
        names: The names of data layers.
    """

    name = "data_layer"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self.ledger = OperationLedger()
        self.operations = EnumLabel(catalog.OPERATION.values)
        self._queued_names = EnumLabel(catalog.QUEUED_OPERATION.values)
        self.names = BoundedLabel(_LAYERS)
        self._discovery = context.get(Discovery)
        self._sessions = context.get(Sessions)
        self._turns = context.get(Messages).ledger
        self._spans = context.get(SessionSpans)
        self._tracing = context.tracing
        self._zeros: dict[tuple[str, ...], int] = {}
        self._warned: set[tuple[str, ...]] = set()
        self._session_queues: weakref.WeakKeyDictionary[ChainlitWebsocketSession, SessionQueue] = (
            weakref.WeakKeyDictionary()
        )
        self._storages = WeakIdentitySet()

    def install(self, patches: Patches) -> None:
        """Observe the data layer as soon as there is one."""
        websocket = import_module("chainlit.session").WebsocketSession
        self._discovery.listen(patches, self.guard, functools.partial(self.instrument, patches))
        patches.wrap_attribute(
            websocket, "flush_method_queue", _wrap_flush_method_queue(patches, self)
        )
        patches.wrap_attribute(websocket, "delete", _wrap_delete(self))
        register = functools.partial(self.telemetry.register_observable, guard=self.guard)
        register(catalog.DATA_LAYER_OPERATIONS, self.counts)
        register(catalog.DATA_LAYER_QUEUED, self.queued)
        register(catalog.DATA_LAYER_DISCARDED, self.discarded)
        register(catalog.DATA_LAYER_QUEUE_LENGTH, self.queue_length)

    def overflows(self) -> Mapping[catalog.Attribute, EnumLabel | BoundedLabel]:
        """Return what bounds the names of operations and of data layers."""
        return {catalog.OPERATION: self.operations, catalog.DATA_LAYER_NAME: self.names}

    def counts(self) -> Mapping[tuple[str, ...], int]:
        """Return the operations so far, with zeros for those that a known layer has not run yet."""
        self._warn()
        return {**self._zeros, **self.ledger.operations}

    def _warn(self) -> None:
        """Warn once of each operation that was lost: there is no exception and no span of it."""
        for name, layer in self.ledger.lost.keys() - self._warned:
            self._warned.add((name, layer))
            log(
                logging.WARNING,
                "%s of %s was called and never ran to its end: nobody awaited it, or its event "
                "loop ended first, as that of `asyncio.run` in a thread does",
                name,
                layer,
            )

    def queued(self) -> Mapping[tuple[str, ...], int]:
        """Return how many operations were queued, by name."""
        return self._bounded(self.ledger.queued)

    def discarded(self) -> Mapping[tuple[str, ...], int]:
        """Return how many operations were queued and will never run, by name."""
        return self._bounded(self.ledger.discarded)

    def _bounded(self, counts: Mapping[tuple[str, ...], int]) -> Mapping[tuple[str, ...], int]:
        bounded: Counter[tuple[str, ...]] = Counter()
        for (name,), number in dict(counts).items():
            bounded[(self._queued_names(name),)] += number
        return bounded

    def queue_length(self) -> Mapping[tuple[str, ...], int]:
        """Return how many operations are queued now."""
        return {(): self.ledger.queue_length}

    def instrument(self, patches: Patches, layer: Any) -> None:
        """Observe a data layer."""
        name = type(layer).__name__
        self.names.add([name])
        name = self.names(name)
        self._zeros |= dict.fromkeys(product(_OPERATIONS, (name,), catalog.OUTCOME.values), 0)
        for metric in (catalog.DATA_LAYER_QUEUED, catalog.DATA_LAYER_DISCARDED):
            self.telemetry.expect(metric, *product(catalog.QUEUED_OPERATION.values))
        for operation in _OPERATIONS:
            wrap = functools.partial(self._wrap_operation, patches, operation, name)
            wrap_method(patches, layer, operation, wrap)
        if _swallows(layer):
            wrap_method(
                patches, layer, "execute_sql", functools.partial(_wrap_execute_sql, patches)
            )
        for attribute in _STORAGES:
            storage = getattr(layer, attribute, None)
            if storage is not None and is_instrumentable(storage) and self._storages.add(storage):
                for method, is_lost in _losses(storage).items():
                    wrap = functools.partial(_wrap_storage_method, patches, self.guard, is_lost)
                    wrap_method(patches, storage, method, wrap)

    def start_operation(self, name: str, layer: str) -> Operation:
        """An operation begins."""
        is_nested = _current_operation() is not None
        span = f"{catalog.SPAN_DATA_LAYER} {name}"
        attributes = {catalog.OPERATION.key: name, catalog.DATA_LAYER_NAME.key: layer}
        if self._tracing.is_enabled():
            session = self._sessions.handle(current_session())
            if session is not None:
                attributes[catalog.SESSION_ID] = session.hash
        operation = Operation(name, layer, is_nested, self._spans.start(span, attributes))
        _current.set(operation)
        return operation

    def end_operation(
        self,
        operation: Operation,
        parent: Operation | None,
        error: BaseException | None,
        is_counted: bool = False,
    ) -> None:
        """An operation has ended, by `error` if that is not None; it may be counted as lost."""
        _current.set(parent)
        operation.ended = True
        outcome = "error" if error is None and operation.failed else outcome_of(error)
        if operation.is_nested and parent is not None:
            parent.failed = parent.failed or operation.failed
        elif not is_counted and not self._sessions.is_synthetic():
            seconds = (time.monotonic_ns() - operation.started) / NS
            labels = (operation.name, operation.layer, outcome)
            self.ledger.end(*labels)
            turn = current_turn.get()
            if outcome == "error" and turn is not None and not turn.ended:
                self._turns.record_data_layer_error(turn)
            if outcome == "error":
                self._sessions.record_event("data_layer_error", operation.name)
            self.telemetry.record(catalog.DATA_LAYER_OPERATION_DURATION, seconds, *labels)
        span = operation.scope.span
        if error is not None:
            span.set_attribute(catalog.ERROR_TYPE, type(error).__qualname__)
        elif operation.failed:
            span.set_attribute(catalog.ERROR_TYPE, _SWALLOWED)
        self._tracing.end(operation.scope, outcome, error)

    def on_queued(self, session: ChainlitWebsocketSession, name: str) -> None:
        """Chainlit may have put operations in the queue of a session."""
        queue = session.thread_queues.get(name)
        handle = self._sessions.handle(session)
        if not queue or (handle is not None and handle.is_synthetic):
            return
        session_queue = self._session_queues.get(session)
        if session_queue is None:
            session_queue = self._session_queues[session] = SessionQueue()
            finalizer = weakref.finalize(session, self.ledger.finalized, session_queue)
            finalizer.atexit = False
        # Several calls may be under way at once, so new entries are found by the length.
        for _ in range(len(queue) - session_queue.operations[name]):
            self.ledger.enqueue(session_queue, name)

    def on_flush(self, patches: Patches, session: ChainlitWebsocketSession) -> None:
        """Chainlit is about to run what it has queued for a session."""
        for name, queue in session.thread_queues.items():
            for n, (function, layer, args, kwargs) in enumerate(queue):
                queue[n] = (
                    self._wrap_queued(patches, session, name, function),
                    layer,
                    args,
                    kwargs,
                )

    def on_flushed(self, session: ChainlitWebsocketSession) -> None:
        """Chainlit has run what it had queued; what is still in the ledger will never run."""
        if session_queue := self._session_queues.pop(session, None):
            self.ledger.discard(session_queue)

    def on_session_deleted(self, session: ChainlitWebsocketSession) -> None:
        """A session is deleted, and what is queued for it will never run.

        Unless its user has written: Chainlit stores the thread before it runs the queue, and by
        then the user may be gone. A message that has just arrived is still a task. If that does
        not run the queue, the operations are discarded with the session object.
        """
        if session not in self._session_queues or session.has_first_interaction:
            return
        task = session.current_task
        if task is None or task.done():
            self.on_flushed(session)
        else:
            task.add_done_callback(functools.partial(self._on_task_done, weakref.ref(session)))

    def _on_task_done(self, reference: Callable[[], Any], _: object) -> None:
        with self.guard:
            if (session := reference()) is not None:
                self.on_session_deleted(session)

    def _wrap_operation(self, patches: Patches, name: str, layer: str, original: Method) -> Method:
        guard, queues = self.guard, _is_queueing(original)

        @wraps(original)
        async def run(call: int | None, args: Any, kwargs: Any) -> Any:
            with guard:
                if call is not None:
                    self.ledger.start_call(call, asyncio.get_running_loop())
            if not patches.active or call is None:
                return await original(*args, **kwargs)
            session = None
            with guard:
                session = _silent_session()
            try:
                if queues and session is not None:
                    return await original(*args, **kwargs)
                return await self._run(name, layer, original, args, kwargs, call)
            finally:
                with guard:
                    self.ledger.end_call(call)
                    if session is not None:
                        self.on_queued(session, name)

        @wraps(original)
        def operation(*args: Any, **kwargs: Any) -> Any:
            call = self.ledger.next_id() if patches.active else None
            coroutine = run(call, args, kwargs)
            with guard:
                if call is not None and not self._sessions.is_synthetic():
                    self.ledger.add_call(call, coroutine, name, layer, _current_operation())
            return coroutine

        return mark_coroutine_function(operation)

    def _wrap_queued(
        self, patches: Patches, session: ChainlitWebsocketSession, name: str, function: Method
    ) -> Method:
        session_queue = self._session_queues.get(session)

        @wraps(function)
        async def replay(layer: Any, *args: Any, **kwargs: Any) -> Any:
            if not patches.active:
                return await function(layer, *args, **kwargs)
            kind = ""
            with self.guard:
                if session_queue is not None:
                    self.ledger.dequeue(session_queue, name)
                kind = self.names(type(layer).__name__)
            return await self._run(name, kind, function, (layer, *args), kwargs)

        return replay

    async def _run(
        self,
        name: str,
        layer: str,
        method: Method,
        args: Any,
        kwargs: Any,
        call: int | None = None,
    ) -> Any:
        operation: Operation | None = None
        parent = _current.get()
        with self.guard:
            operation = self.start_operation(self.operations(name), layer)
        error: BaseException | None = None
        try:
            return await method(*args, **kwargs)
        except BaseException as raised:
            error = raised
            raise
        finally:
            with self.guard:
                is_counted = call is not None and not self.ledger.end_call(call)
                if operation is not None:
                    self.end_operation(operation, parent, error, is_counted)
            # A traceback holds this frame: without this they would keep each other alive.
            del error


def _wrap_execute_sql(patches: Patches, original: Method) -> Method:
    @wraps(original)
    async def execute_sql(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        operation = _current.get()
        if patches.active and result is None and operation is not None:
            operation.failed = True
        return result

    return execute_sql


def _wrap_storage_method(
    patches: Patches, guard: Guard, is_lost: Callable[..., bool], original: Method
) -> Method:
    @wraps(original)
    async def store(*args: Any, **kwargs: Any) -> Any:
        result = await original(*args, **kwargs)
        with guard:
            operation = _current.get()
            if patches.active and operation is not None and is_lost(result, *args, **kwargs):
                operation.failed = True
        return result

    return store


def _losses(storage: Any) -> dict[str, Callable[..., bool]]:
    """Return, by method of a storage client, what tells from its result that it has failed."""
    losses: dict[str, Callable[..., bool]] = {
        "upload_file": lambda result, *_, **__: not result,
        "delete_file": lambda result, *_, **__: result is False,
    }
    # Only for clients of Chainlit: one of the app may serve files by their key.
    if any(kind.__module__.startswith(_CLIENTS) for kind in type(storage).__mro__[:-1]):
        losses["get_read_url"] = lambda result, object_key, *_, **__: result == object_key
    return losses


def _swallows(layer: Any) -> bool:
    return any(kind.__module__ == "chainlit.data.sql_alchemy" for kind in type(layer).__mro__)


def _is_queueing(method: Any) -> bool:
    """Tell whether a method has the decorator of Chainlit that queues calls."""
    # A mock has every attribute, so the chain may have no end.
    for _ in range(_DEEPEST):
        function = getattr(method, "__func__", method)
        if type(function) is FunctionType and function.__globals__.get("__name__") == _DECORATORS:
            return True
        method = getattr(method, "__wrapped__", None)
        if method is None:
            return False
    return False


def _silent_session() -> Any:
    """Return the session, if its user has not written yet."""
    session: Any = current_session()
    waiting = hasattr(session, "thread_queues") and not session.has_first_interaction
    return session if waiting else None


def _wrap_flush_method_queue(patches: Patches, data_layers: DataLayers) -> Any:
    async def wrapper(
        wrapped: Any, session: ChainlitWebsocketSession, args: Any, kwargs: Any
    ) -> Any:
        with data_layers.guard:
            data_layers.on_flush(patches, session)
        try:
            return await wrapped(*args, **kwargs)
        finally:
            with data_layers.guard:
                data_layers.on_flushed(session)

    return wrapper


def _wrap_delete(data_layers: DataLayers) -> Any:
    async def wrapper(
        wrapped: Any, session: ChainlitWebsocketSession, args: Any, kwargs: Any
    ) -> Any:
        with data_layers.guard:
            data_layers.on_session_deleted(session)
        return await wrapped(*args, **kwargs)

    return wrapper
