"""Turns and messages of browsers: the handlers of `chainlit.socket`, `sio.emit` and `sio.call`.

A turn is one run of `process_message`, which `client_message` starts as a task and looks up at
each call, or of the handler of `edit_message` or `audio_end`. Everything that is sent to a browser
goes through the `emit` of the one Socket.IO server. Only there can it be seen, at the moment of
sending, that the socket is gone and nobody will see the content. What waits for an answer of the
user goes through its `call`. Only the handler of `stop` shows that a user has stopped a turn: a
cancelled task does not, since an app cancels tasks for reasons of its own.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from importlib import import_module
from itertools import product
from types import TracebackType
from typing import Any
from weakref import WeakSet, ref

from opentelemetry.trace import Span

from chainlit_otel import catalog
from chainlit_otel.core.counts import Counts
from chainlit_otel.core.judgements import Judgements
from chainlit_otel.core.sessions import NS, Session
from chainlit_otel.core.stalls import Stall
from chainlit_otel.core.turns import NOWHERE, Turn, TurnLedger, TurnReference, TurnSource
from chainlit_otel.core.usage import UsageTotals, sum_of
from chainlit_otel.patching import Patches, SeamMissing, mark_coroutine_function, wraps
from chainlit_otel.pipeline.spans import (
    NOOP_SCOPE,
    SpanScope,
    sampled_ids,
    trace_of,
    utf8_safe,
)
from chainlit_otel.probes.chainlit_types import ChainlitMessage, ChainlitSession
from chainlit_otel.probes.probe import Probe, ProbeContext
from chainlit_otel.probes.session_spans import SessionSpans
from chainlit_otel.probes.sessions import Sessions, current_session
from chainlit_otel.probes.sockets.connections import Sockets
from chainlit_otel.records.rows import usage_of

# What is shown to a user or played, by its event. A step goes by the events of messages.
_CONTENT = frozenset(catalog.EMIT_EVENT.values) - {"step", "audio"} | {"audio_chunk"}
_ASK_EVENTS = ("ask", "call_fn")
_ASK_TYPES = frozenset(catalog.ASK_TYPE.values)

Handler = Callable[..., Awaitable[Any]]

current_turn: ContextVar[Turn | None] = ContextVar("chainlit_otel_turn", default=None)
_arrival: ContextVar[int | None] = ContextVar("chainlit_otel_arrival", default=None)


class Messages(Probe):
    """The turns under way and what is sent in them.

    Attributes:
        ledger: The ledger of turns, without those of synthetic visitors.
        judgements: The turns that may be judged, by the messages that were sent in them.
        connections: The open sockets, by their Socket.IO id.
        by_trace: The turns under way that have a span, by the number of its trace.
        on_usage: Called with a turn that is over and had model calls, before it is recorded.
    """

    name = "messages"

    def __init__(self, context: ProbeContext) -> None:
        super().__init__(context)
        self._live = context.live
        self.ledger = TurnLedger(self._on_end)
        self._synthetic_ledger = TurnLedger(self._on_synthetic_end)
        self._synthetic_ends: Counts[tuple[str, ...]] = Counts()
        self.judgements = Judgements()
        self._recorder = context.recorder
        self._sessions = context.get(Sessions)
        self._sessions.on_socket_change = self._on_socket_change
        self._sockets = context.get(Sockets)
        self._sockets.on_gone = self._on_socket_gone
        self._spans = context.get(SessionSpans)
        self._tracing = context.tracing
        self._capture = context.settings.capture_messages
        self._slow_turn = context.settings.slow_turn
        self.connections = self._sockets.connections
        self.by_trace: dict[int, Turn] = {}
        self.on_usage: Callable[[Turn], None] | None = None
        self._scopes: dict[Turn, SpanScope] = {}
        self._stopped: WeakSet[asyncio.Task[Any]] = WeakSet()

    def install(self, patches: Patches) -> None:
        """Wrap what processes messages and what sends them."""
        socket = import_module("chainlit.socket")
        emitter = getattr(import_module("chainlit.emitter"), "ChainlitEmitter", None)
        if emitter is None:
            raise SeamMissing("chainlit.emitter.ChainlitEmitter")
        sio = import_module("chainlit.server").sio
        handlers = sio.handlers.get("/")

        def bound(wrap: Callable[..., Handler], *args: Any) -> Callable[..., Handler]:
            return functools.partial(wrap, patches, self, *args)

        patches.replace_item(
            handlers, "client_message", functools.partial(_wrap_client_message, patches)
        )
        patches.replace_attribute(socket, "process_message", bound(_wrap_process_message))
        patches.replace_item(
            handlers, "edit_message", bound(_wrap_handler, socket, "edit", _on_edit)
        )
        patches.replace_item(
            handlers, "audio_end", bound(_wrap_handler, socket, "voice", _on_audio_end)
        )
        patches.replace_item(handlers, "stop", bound(_wrap_stop, socket))
        patches.replace_attribute(emitter, "process_message", bound(_wrap_emitter_process_message))
        patches.wrap_on_instance(sio, "emit", bound(_wrap_emit), fast=True)
        patches.wrap_on_instance(sio, "call", bound(_wrap_call))
        register = functools.partial(self.telemetry.register_observable, guard=self.guard)
        register(catalog.TURN_ACTIVE, self.ledger.active)
        register(catalog.TURN_PEAK, self.ledger.peaks)
        register(catalog.TURN_OLDEST_WAITING, self.ledger.oldest_waiting)
        register(catalog.UNDELIVERED_TURNS, self.ledger.undelivered)
        register(catalog.OUTPUT_CHUNKS, self.ledger.chunks)
        register(catalog.MESSAGES, self.ledger.messages.read)
        register(catalog.EMIT_DROPPED, lambda: dict(self.ledger.dropped))
        if self._sessions.synthetic.is_enabled:
            register(catalog.SYNTHETIC_TURNS, self._synthetic_ends.read)

    def _on_end(self, turn: Turn, seconds: float) -> None:
        if turn.usage is not None and self.on_usage is not None:
            self.on_usage(turn)
        try:
            record, profile = self.telemetry.record, turn.profile
            record(catalog.TURN_DURATION, seconds, turn.outcome_at_end, profile)
            if (first := turn.time_to_first_token) is not None:
                record(catalog.TIME_TO_FIRST_TOKEN, first, profile)
            if (gap := turn.time_per_output_chunk) is not None:
                record(catalog.TIME_PER_OUTPUT_CHUNK, gap)
        except Exception as error:  # noqa: BLE001 - a guard
            self.guard.on_error(error)
        if self._recorder.is_enabled:
            try:
                self._recorder.turn_ended(turn, seconds)
            except Exception as error:  # noqa: BLE001 - a guard
                self._recorder.guard.on_error(error)
        if self._live is not None:
            try:
                self._live.turns.add(turn, seconds)
            except Exception as error:  # noqa: BLE001 - a guard
                self.guard.on_error(error)

    def _on_synthetic_end(self, turn: Turn, seconds: float) -> None:
        self._synthetic_ends.add((turn.outcome_at_end,))
        # Its span says what it has used.
        if turn.usage is not None and self.on_usage is not None:
            self.on_usage(turn)

    def ledger_of(self, turn: Turn | None) -> TurnLedger:
        """Return the ledger that a turn is in; without one, that of what runs now."""
        is_synthetic = self._sessions.is_synthetic() if turn is None else turn.is_synthetic
        return self._synthetic_ledger if is_synthetic else self.ledger

    def _on_socket_change(self, session: Session, is_back: bool) -> None:
        ledger = self._synthetic_ledger if session.is_synthetic else self.ledger
        ledger.change_socket(session, is_back)

    def _on_socket_gone(self, sid: str) -> None:
        for ledger in (self.ledger, self._synthetic_ledger):
            ledger.close_room(sid)

    def start_turn(
        self, session: ChainlitSession | None, source: TurnSource, arrived: int | None = None
    ) -> Turn:
        """A message of the session's user is about to be processed.

        Args:
            session: Chainlit's session; None if the message failed before it had one.
            source: How the message came.
            arrived: Monotonic time at which it arrived, in nanoseconds, if that is known.
        """
        arrived = arrived or _arrival.get() or time.monotonic_ns()
        handle = self._sessions.handle(session)
        is_synthetic = handle is not None and handle.is_synthetic
        ledger = self._synthetic_ledger if is_synthetic else self.ledger
        turn = ledger.start(arrived, self._sessions.profile_of(session), source, handle)
        if handle is not None:
            turn.reference.number = self._sessions.ledger_of(handle).start_turn(handle)
        current_turn.set(turn)
        if (task := asyncio.current_task()) is not None:
            turn.task = ref(task)
        return turn

    def start_span(self, turn: Turn, session: ChainlitSession | None) -> None:
        """Start the span of a turn that has started, if tracing is enabled."""
        if not self._tracing.is_enabled():
            return
        attributes = {catalog.CHAT_PROFILE.key: turn.profile} if turn.profile else {}
        scope = self._spans.start_root(catalog.SPAN_TURN, session, attributes)
        self._scopes[turn] = scope
        turn.trace = trace_of(scope)
        self.by_trace[turn.trace] = turn
        turn.reference.trace_id, turn.reference.span_id = sampled_ids(scope)
        if self._tracing.keeper is not None and turn.reference.trace_id:
            self._tracing.keeper.begin(turn.trace)

    def end_turn(self, turn: Turn, error: BaseException | None) -> None:
        """The turn is over."""
        if error is not None:
            self.on_error(error)
        scope = self._scopes.pop(turn, None)
        self._decide(turn)
        # The histograms first: their exemplars point to the span that is current.
        self.ledger_of(turn).end(turn)
        if scope is not None:
            self.by_trace.pop(turn.trace, None)
            self._end_span(turn, scope)
        # Its traceback may refer to the session and so to the task, which is a weak key here.
        turn.error = None
        current_turn.set(None)

    def end(self, reason: str) -> None:
        """End every turn under way as cancelled: nobody will get its answer."""
        self.ledger.cancel_all()
        self._synthetic_ledger.cancel_all()
        for turn, scope in list(self._scopes.items()):
            self._decide(turn)
            self._end_span(turn, scope)
        self._scopes.clear()
        self.by_trace.clear()

    def _decide(self, turn: Turn) -> None:
        """Decide whether a turn that is about to end keeps its spans."""
        if (keeper := self._tracing.keeper) is None or not turn.reference.trace_id:
            return
        try:
            seconds = (time.monotonic_ns() - turn.arrived) / NS
            is_notable = (
                turn.outcome != "ok"
                or turn.undelivered > 0
                or turn.data_layer_errors > 0
                or seconds >= self._slow_turn
            )
            if not keeper.decide(turn.trace, is_notable):
                turn.reference.drop_trace()
        except Exception as error:  # noqa: BLE001 - a guard
            self._tracing.guard.on_error(error)

    def _end_span(self, turn: Turn, scope: SpanScope) -> None:
        if scope.span.is_recording():
            try:
                _describe_delivery(turn, scope.span)
                if turn.spent:
                    scope.span.set_attributes(_usage(turn.spent))
            except Exception as error:  # noqa: BLE001 - a guard
                self._tracing.guard.on_error(error)
        self._tracing.end(scope, turn.outcome, turn.error)

    def on_error(self, error: BaseException, callback: str = "") -> None:
        """Code of the turn raised an exception that Chainlit is about to swallow.

        Args:
            error: The exception.
            callback: The callback that raised it, if it was one.
        """
        turn = current_turn.get()
        # A task that outlives its turn does not change the outcome any more.
        if turn is None or turn.ended:
            return
        outcome = self.outcome_of(error)
        if outcome == "error":
            turn.fail(error, callback)
        elif outcome == "cancelled":
            turn.cancelled = True

    def on_stop(self, session: ChainlitSession | None) -> None:
        """The user has stopped the task of a session, which Chainlit is about to cancel."""
        task = getattr(session, "current_task", None)
        if task is None or task.done():
            return
        self._stopped.add(task)
        if (turn := self._turn_of(task)) is not None:
            turn.cancelled = True

    def _turn_of(self, task: asyncio.Task[Any]) -> Turn | None:
        return self.ledger.of_task(task) or self._synthetic_ledger.of_task(task)

    def outcome_of(self, error: BaseException | None) -> str:
        """Return the outcome of a call that has raised `error`, or has returned if that is None.

        A cancellation by the user's stop, or by the end of the process, is `cancelled`. Any other
        one is the app's own, such as a timeout or a task group with a failed child, and an error. A
        generator that is closed before its end has given all that its caller wanted, and is `ok`.
        """
        if error is None:
            return "ok"
        if not isinstance(error, (CancelledError, GeneratorExit)):
            return "error"
        if self._is_stopped():
            return "cancelled"
        return "ok" if isinstance(error, GeneratorExit) else "error"

    def _is_stopped(self) -> bool:
        turn = current_turn.get()
        if (turn is not None and turn.cancelled) or self._sockets.stopping:
            return True
        # Outside of turns the user can stop `on_chat_start`, and tasks of its own with it.
        return getattr(current_session(), "current_task", None) in self._stopped

    def on_stall(self, stall: Stall, task: asyncio.Task[Any] | None) -> None:
        """The event loop is blocked, while it ran `task`; called from another thread."""
        turn = self._turn_of(task) if task is not None else None
        scope = self._scopes.get(turn) if turn is not None else None
        if scope is None or not scope.span.is_recording():
            return
        attributes: dict[str, str | int] = {}
        if stall.callback is not None:
            attributes[catalog.CALLBACK_NAME.key] = stall.callback
        if stall.step is not None:
            attributes[catalog.STEP_TYPE.key], attributes[catalog.STEP_NAME.key] = stall.step
        if stall.source is not None:
            attributes[catalog.CODE_FILE] = stall.source.file
            attributes[catalog.CODE_LINE] = stall.source.line
            attributes[catalog.CODE_FUNCTION] = stall.source.function
        if stall.innermost is not None:
            attributes[catalog.CODE_INNERMOST] = str(stall.innermost)
        scope.span.add_event(catalog.EVENT_LOOP_BLOCKED.name, attributes)

    def on_received(self, text: object, message_id: str = "") -> None:
        """A message of a user has arrived, or an answer to a question of the app.

        Args:
            text: What the user wrote; None if the message was spoken.
            message_id: Its id, if it has one.
        """
        turn = current_turn.get()
        self.ledger_of(turn).message("inbound")
        if turn is None or turn.first_output:
            # Once the app has sent something, this is an answer to a question of the app.
            return
        turn.message_id = message_id
        turn.input_size = len(text) if isinstance(text, str) else 0
        if message_id:
            self.judgements.message_sent(message_id, turn)
        if self._capture:
            self._annotate(catalog.TURN_INPUT, text)

    def on_emit(self, event: str, data: Any, to: object, turn: Turn | None) -> None:
        """Content other than one more token is about to be sent, in a turn or outside of any."""
        is_message = event in ("new_message", "update_message")
        if is_message and turn is not None:
            # What a user judges may be an answer, or the step that it is in. One that is lost now
            # may be seen later, in the stored thread.
            self.judgements.message_sent(data.get("id"), turn)
        # A list of rooms cannot be looked up.
        if isinstance(to, str) and to not in self.connections:
            session = self._sessions.handle(current_session())
            self.ledger_of(turn).drop(_content(event, data), turn, session)
        elif is_message:
            if _is_answer(data):
                self.on_message_sent(data, is_new=event == "new_message")
        elif event in ("stream_token", "stream_start"):
            room = to if isinstance(to, str) else NOWHERE
            self.ledger_of(turn).streamed(turn, time.monotonic_ns(), room)
        elif event == "ask":
            self.on_message_sent(data["msg"], is_new=True)
        elif event == "element":
            self.on_output(data)
        elif event == "audio_chunk" and turn is not None:
            turn.output(time.monotonic_ns())

    def on_message_sent(self, message: Any, is_new: bool) -> None:
        """A message of the app is sent to a user, for the first time or with another content."""
        turn = current_turn.get()
        if is_new:
            self.ledger_of(turn).message("outbound")
        # An empty message is where an answer will be put.
        if text := message.get("output"):
            self.on_output(message)
            if turn is not None and not turn.ended and isinstance(text, str):
                turn.output_sizes[str(message.get("id"))] = len(text)
            if self._capture:
                self._annotate(catalog.TURN_OUTPUT, text)

    def on_output(self, content: Any) -> None:
        """A text or a file that a user can see is sent."""
        turn = current_turn.get()
        # The page is sent what its user has attached to the message, which is no output.
        if turn is not None and not (turn.message_id and content.get("forId") == turn.message_id):
            turn.output(time.monotonic_ns())

    def start_ask(self, kind: str) -> SpanScope:
        """The app is about to wait for its user."""
        if not self._sessions.is_synthetic():
            # Users take their time to answer, so a scrape shows these at zero before.
            outcomes = product((kind,), catalog.ASK_OUTCOME.values)
            self.telemetry.expect(catalog.ASK_DURATION, *outcomes)
        return self._spans.start(f"{catalog.SPAN_ASK} {kind}", {catalog.ASK_TYPE.key: kind})

    def end_ask(self, scope: SpanScope, seconds: float, kind: str, outcome: str) -> None:
        """The app no longer waits for its user."""
        if not self._sessions.is_synthetic():
            self.telemetry.record(catalog.ASK_DURATION, seconds, kind, outcome)
        self._tracing.end(scope, outcome)

    def span_of(self, turn: TurnReference) -> Span | None:
        """Return the span of a turn while it is open, for an event of it; else None."""
        for other, scope in list(self._scopes.items()):
            if other.reference is turn and scope.span.is_recording():
                return scope.span
        return None

    def _annotate(self, key: str, text: object) -> None:
        turn = current_turn.get()
        scope = self._scopes.get(turn) if turn is not None else None
        if scope is not None and isinstance(text, str):
            scope.span.set_attribute(key, utf8_safe(text))


def _describe_delivery(turn: Turn, span: Span) -> None:
    """Say in the span of a turn when the user saw the first word, and what was lost on the way."""
    delivery: dict[str, float] = {
        catalog.TURN_CHUNKS: turn.chunks,
        catalog.TURN_UNDELIVERED: turn.undelivered,
    }
    if (first := turn.time_to_first_token) is not None:
        delivery[catalog.FIRST_TOKEN_SECONDS] = first
        span.add_event(catalog.EVENT_FIRST_TOKEN, timestamp=turn.wall_time(turn.first_output))
    span.set_attributes(delivery)
    for change in turn.socket_changes:
        so_far: dict[str, str | int] = {
            catalog.TURN_CHUNKS: change.chunks,
            catalog.TURN_UNDELIVERED: change.undelivered,
        }
        if change.reason:
            so_far[catalog.CLOSE_REASON.key] = change.reason
        name = catalog.EVENT_SOCKET_BACK if change.is_back else catalog.EVENT_SOCKET_GONE
        span.add_event(name, so_far, turn.wall_time(change.at))


def _usage(spent: Mapping[str, UsageTotals]) -> dict[str, float | list[str]]:
    """Return the attributes of a turn's span that say what its model calls have used."""
    return {catalog.TURN_MODELS: list(spent), **usage_of(catalog.TURN_USAGE, sum_of(spent))}


def _wrap_client_message(patches: Patches, original: Handler) -> Handler:
    @wraps(original)
    async def client_message(*args: Any) -> Any:
        if patches.active:
            _arrival.set(time.monotonic_ns())
        return await original(*args)

    return client_message


def _wrap_process_message(patches: Patches, messages: Messages, original: Handler) -> Handler:
    @wraps(original)
    async def process_message(session: ChainlitSession, *args: Any, **kwargs: Any) -> Any:
        with _InTurn(messages, session if patches.active else None, "message"):
            return await original(session, *args, **kwargs)

    return process_message


def _wrap_handler(
    patches: Patches,
    messages: Messages,
    socket: Any,
    source: TurnSource,
    received: Callable[..., None],
    original: Handler,
) -> Handler:
    """Wrap a handler whose run is a turn; `received` is called with the data of its event."""

    @wraps(original)
    async def handler(sid: str, *args: Any) -> Any:
        session = None
        with messages.guard:
            session = socket.WebsocketSession.get(sid) if patches.active else None
        with _InTurn(messages, session, source):
            with messages.guard:
                if session is not None:
                    received(messages, *args)
            return await original(sid, *args)

    return handler


def _on_edit(messages: Messages, payload: Any = None, *_: Any) -> None:
    message = payload.get("message") if isinstance(payload, dict) else None
    # For anything else that a browser may send, Chainlit's handler raises.
    if isinstance(message, dict) and "id" in message and "output" in message:
        messages.on_received(message["output"], message["id"])


def _on_audio_end(messages: Messages, *_: Any) -> None:
    messages.on_received(None)


def _wrap_stop(patches: Patches, messages: Messages, socket: Any, original: Handler) -> Handler:
    @wraps(original)
    async def stop(sid: str, *args: Any) -> Any:
        with messages.guard:
            if patches.active:
                messages.on_stop(socket.WebsocketSession.get(sid))
        return await original(sid, *args)

    return stop


class _InTurn:
    """A context manager that starts and ends a turn of a session; it does nothing if that is None.

    A coroutine around the call would be resumed at every token, too.
    """

    __slots__ = ("_messages", "_session", "_source", "_turn")

    def __init__(
        self, messages: Messages, session: ChainlitSession | None, source: TurnSource
    ) -> None:
        self._messages = messages
        self._session = session
        self._source: TurnSource = source
        self._turn: Turn | None = None

    def __enter__(self) -> None:
        if self._session is None:
            return
        messages = self._messages
        try:
            self._turn = turn = messages.start_turn(self._session, self._source)
            messages.start_span(turn, self._session)
        except Exception as error:  # noqa: BLE001 - a guard
            messages.guard.on_error(error)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._turn is None:
            return
        try:
            self._messages.end_turn(self._turn, error)
        except Exception as ours:  # noqa: BLE001 - a guard
            self._messages.guard.on_error(ours)


def _wrap_emitter_process_message(
    patches: Patches, messages: Messages, original: Handler
) -> Handler:
    @wraps(original)
    async def process_message(*args: Any, **kwargs: Any) -> Any:
        if not patches.active:
            return await original(*args, **kwargs)
        try:
            message: ChainlitMessage = await original(*args, **kwargs)
        except BaseException as error:
            with messages.guard:
                messages.on_error(error)
            raise
        try:
            messages.on_received(message.content, message.id)
        except Exception as ours:  # noqa: BLE001 - a guard
            messages.guard.on_error(ours)
        return message

    return process_message


def _wrap_emit(patches: Patches, messages: Messages, original: Handler) -> Handler:
    # This runs for every token. So it is a plain function that returns the coroutine of the
    # original, with its parameters by name, since to collect arguments is a good part of the cost;
    # and one more token of a turn is counted here, without a guard: nothing can raise.
    turn_now, clock = current_turn.get, time.monotonic_ns

    @wraps(original)
    def emit(
        event: Any,
        data: Any = None,
        to: Any = None,
        room: Any = None,
        skip_sid: Any = None,
        namespace: Any = None,
        callback: Any = None,
        ignore_queue: Any = False,
    ) -> Any:
        turn = turn_now()
        if event == "stream_token" and turn is not None and turn.room is to:
            turn.chunks += 1
            turn.last_chunk = clock()
        elif patches.active and isinstance(event, str) and event in _CONTENT:
            try:
                messages.on_emit(event, data, to or room, turn)
            except Exception as error:  # noqa: BLE001 - a guard
                messages.guard.on_error(error)
        return original(event, data, to, room, skip_sid, namespace, callback, ignore_queue)

    @wraps(original)
    def emit_of_another_kind(*args: Any, **kwargs: Any) -> Any:
        with messages.guard:
            named = {**dict(zip(("event", "data", "to", "room"), args, strict=False)), **kwargs}
            event, to = named.get("event"), named.get("to") or named.get("room")
            if patches.active and isinstance(event, str) and event in _CONTENT:
                messages.on_emit(event, named.get("data"), to, turn_now())
        return original(*args, **kwargs)

    is_known = _parameters(emit) == _parameters(original)
    return mark_coroutine_function(emit if is_known else emit_of_another_kind)


def _parameters(function: Callable[..., Any]) -> list[tuple[Any, ...]]:
    """Return name, kind and default of each parameter; nothing if they are not known."""
    # Not those of what it wraps in turn, which it may pass on in another way.
    with suppress(TypeError, ValueError):
        parameters = inspect.signature(function, follow_wrapped=False).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]
    return []


def _wrap_call(patches: Patches, messages: Messages, original: Handler) -> Handler:
    @wraps(original)
    async def call(event: Any, data: Any = None, *args: Any, **kwargs: Any) -> Any:
        # An app may have calls of its own, which need not wait for a user.
        if not patches.active or event not in _ASK_EVENTS:
            return await original(event, data, *args, **kwargs)
        started, kind, scope = time.monotonic_ns(), catalog.OTHER, NOOP_SCOPE
        with messages.guard:
            kind = ask_type(event, data)
            scope = messages.start_ask(kind)
        outcome = "cancelled"
        try:
            result = await original(event, data, *args, **kwargs)
            outcome = "answered"
            return result
        except BaseException as error:
            with messages.guard:
                outcome = _ask_outcome(messages, error)
            raise
        finally:
            with messages.guard:
                seconds = (time.monotonic_ns() - started) / NS
                messages.end_ask(scope, seconds, kind, outcome)

    return call


def _ask_outcome(messages: Messages, error: BaseException) -> str:
    # python-socketio has a TimeoutError of its own.
    if type(error).__name__ == "TimeoutError":
        return "timeout"
    # An app that cancels its own question does so, as a rule, by a timeout.
    by_app = isinstance(error, CancelledError) and messages.outcome_of(error) != "cancelled"
    return "timeout" if by_app else "cancelled"


def _is_answer(step: Any) -> bool:
    """Tell whether a message event has a message of the app.

    Steps are sent by the same events, and so is the echo of what a user wrote.
    """
    kind = step["type"]
    return bool(kind.endswith("_message") and kind != "user_message")


def _content(event: str, data: Any) -> str:
    """Return the `chainlit.emit.event` of an event.

    Steps, and the echo of what a user wrote, are sent by the events of messages.
    """
    if event == "audio_chunk":
        return "audio"
    is_step = event in ("new_message", "update_message") and not _is_answer(data)
    return "step" if is_step else event


def ask_type(event: str, data: Any) -> str:
    """Return the `chainlit.ask.type` of a call to the browser."""
    if event == "call_fn":
        return "call_fn"
    kind = data["spec"]["type"]
    return kind if kind in _ASK_TYPES else catalog.OTHER
