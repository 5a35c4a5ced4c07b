"""What runs for every token, without a server."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer, Tracer
from socketio import AsyncServer

from chainlit_otel.core.connections import ConnectionLedger
from chainlit_otel.core.sessions import Session
from chainlit_otel.patching import Patches
from chainlit_otel.probes.messages import (
    Messages,
    _InTurn,
    _parameters,
    _wrap_emit,
    current_turn,
)
from tests.conftest import InternalErrors
from tests.support.probes import probe_context


def ignore(*_: Any) -> None:
    pass


class Chat:
    """As much of a session as a turn and a connect ask for."""

    id, thread_id, socket_id = "s", "t", "a"
    chat_profile = user = None
    current_task: asyncio.Task[None] | None = None


def a_chat() -> Any:
    return Chat()


def new_messages(tracer: Tracer | None = None) -> Messages:
    return probe_context(tracer).get(Messages)


async def test_an_error_that_leads_to_its_own_task_keeps_nothing_alive() -> None:
    messages = new_messages()

    async def process() -> None:
        mine = asyncio.current_task()
        turn = messages.start_turn(a_chat(), "message")
        messages.start_span(turn, a_chat())
        try:
            raise ValueError(mine)
        except ValueError as error:
            messages.on_error(error)
        messages.end_turn(turn, None)

    task = asyncio.create_task(process())
    await task
    gone = weakref.ref(task)
    del task
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


async def test_a_turn_ends_in_the_ledger_though_its_span_could_not_be_started(
    expected_internal_errors: InternalErrors,
) -> None:
    class Broken(NoOpTracer):
        def start_span(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no span")

    messages = new_messages(Broken())

    with _InTurn(messages, a_chat(), "message"):
        assert messages.ledger.active() == {(): 1}
    assert messages.ledger.active() == {(): 0}
    assert [str(error) for _, error in expected_internal_errors] == ["no span"]


class Sent:
    """The `emit` of a server, and what was sent by it."""

    def __init__(self) -> None:
        self.arguments: list[dict[str, Any]] = []

    async def as_it_is(
        self,
        event: Any,
        data: Any = None,
        to: Any = None,
        room: Any = None,
        skip_sid: Any = None,
        namespace: Any = None,
        callback: Any = None,
        ignore_queue: Any = False,
    ) -> None:
        """Send, as `AsyncServer` of python-socketio does."""
        arguments = dict(locals())
        del arguments["self"]
        self.arguments.append(arguments)

    async def another_kind(self, *args: Any, **kwargs: Any) -> None:
        """Send, as that of another version may do, or one that an app has put there."""
        await self.as_it_is(*args, **kwargs)


emits = pytest.mark.parametrize("kind", ["as_it_is", "another_kind"])


def test_the_emit_of_the_server_is_the_one_whose_parameters_are_known() -> None:
    assert _parameters(AsyncServer().emit) == _parameters(Sent().as_it_is)
    assert _parameters(_wrap_emit(Patches(None), new_messages(), AsyncServer().emit)) == (
        _parameters(AsyncServer().emit)
    )


@emits
async def test_what_is_sent_is_passed_on_as_it_was_given(kind: str) -> None:
    sent = Sent()
    emit = _wrap_emit(Patches(None), new_messages(), getattr(sent, kind))
    named = {"skip_sid": "s", "namespace": "/x", "callback": len, "ignore_queue": True}
    await emit("stream_token", {"token": "t"}, "a")
    await emit("stream_token", {"token": "t"}, room="a", **named)
    await emit(event="other", data=1, to="a")
    await emit("other")
    await emit(["not", "an", "event"], None)
    assert [list(each.values()) for each in sent.arguments] == [
        ["stream_token", {"token": "t"}, "a", None, None, None, None, False],
        ["stream_token", {"token": "t"}, None, "a", "s", "/x", len, True],
        ["other", 1, "a", None, None, None, None, False],
        ["other", None, None, None, None, None, None, False],
        [["not", "an", "event"], None, None, None, None, None, None, False],
    ]


@emits
async def test_a_token_to_several_rooms_is_counted_and_sent_like_any_other(kind: str) -> None:
    messages, sent = new_messages(), Sent()
    messages.connections["a"] = ConnectionLedger(ignore).open(lambda: True)
    emit = _wrap_emit(Patches(None), messages, getattr(sent, kind))
    turn = messages.ledger.start(1, "")
    token = current_turn.set(turn)
    for to in (None, "a", "a", ["a", "b"], None):
        await emit("stream_token", {"token": "t"}, to)
    current_turn.reset(token)
    assert (turn.chunks, messages.ledger.chunks()[()], messages.ledger.dropped) == (5, 5, {})
    assert 0 < turn.first_output == turn.first_chunk <= turn.last_chunk
    assert [each["to"] for each in sent.arguments] == [None, "a", "a", ["a", "b"], None]


async def test_a_lost_step_is_no_lost_answer() -> None:
    messages = new_messages()
    for event in ("new_message", "update_message"):
        for kind in ("assistant_message", "run", "tool", "user_message"):
            messages.on_emit(event, {"type": kind}, "gone", None)
    assert messages.ledger.dropped == {
        ("new_message",): 1,
        ("update_message",): 1,
        ("step",): 6,
    }


ANSWER = {"type": "assistant_message", "output": "hello"}


@emits
@pytest.mark.parametrize("is_synthetic", [False, True])
async def test_a_token_is_lost_when_the_socket_goes_while_its_turn_streams(
    kind: str, is_synthetic: bool
) -> None:
    messages, sent = new_messages(), Sent()
    session = Session("websocket", "webapp", "ab" * 8, 0)
    session.is_synthetic = is_synthetic
    ledger = messages._synthetic_ledger if is_synthetic else messages.ledger
    messages.connections["a"] = ConnectionLedger(ignore).open(lambda: True)
    emit = _wrap_emit(Patches(None), messages, getattr(sent, kind))
    turn = ledger.start(1, "", session=session)
    token = current_turn.set(turn)
    for _ in range(2):
        await emit("stream_token", {"token": "t"}, "a")
    before = turn.last_chunk
    await emit("stream_token", {"token": "t"}, "a")
    assert (turn.chunks, turn.last_chunk > before) == (3, True)
    messages._sockets.on_disconnect("a", "transport close")
    await emit("stream_token", {"token": "t"}, "a")
    current_turn.reset(token)
    assert (turn.chunks, ledger.dropped) == (3, {("stream_token",): 1})
    assert len(sent.arguments) == 4


@pytest.mark.parametrize("event", ["ask", "call_fn"])
@pytest.mark.parametrize("by", ["to", "room", "position"])
@emits
async def test_a_question_to_a_socket_that_is_gone_is_lost(event: str, by: str, kind: str) -> None:
    messages = new_messages()

    emit = _wrap_emit(Patches(None), messages, getattr(Sent(), kind))
    data = {"msg": ANSWER, "spec": {"type": "text"}}
    turn = messages.ledger.start(1, "")
    token = current_turn.set(turn)
    if by == "position":
        await emit(event, data, None, "gone")
    else:
        await emit(event, data, **{by: "gone"})
    current_turn.reset(token)
    assert messages.ledger.dropped == {(event,): 1}
    assert (messages.ledger.messages.read(), turn.first_output) == ({}, 0)


def test_what_cannot_be_seen_is_no_first_output() -> None:
    messages = new_messages()
    turn = messages.ledger.start(1, "")
    token = current_turn.set(turn)
    turn.message_id = "m"
    for event, data in (
        ("new_message", {"type": "assistant_message", "output": ""}),
        ("new_message", {"type": "tool", "output": "found"}),
        ("update_message", {"type": "user_message", "output": "hello"}),
        ("element", {"forId": "m"}),
        ("call_fn", {"name": "look"}),
    ):
        messages.on_emit(event, data, None, turn)
        assert turn.first_output == 0, event
    messages.on_emit("element", {"forId": "another"}, None, turn)
    current_turn.reset(token)
    assert turn.first_output > 0
    assert messages.ledger.messages.read() == {("outbound",): 1}


@pytest.mark.parametrize("event", ["update_message", "audio_chunk"])
def test_what_can_be_seen_or_heard_is_a_first_output_and_no_new_message(event: str) -> None:
    messages = new_messages()
    turn = messages.ledger.start(1, "")
    token = current_turn.set(turn)
    messages.on_emit(event, ANSWER, None, turn)
    current_turn.reset(token)
    assert turn.first_output > 0
    assert messages.ledger.messages.read() == {}


async def test_a_cancellation_is_a_stop_only_if_the_user_or_the_end_of_the_process_is() -> None:
    messages = new_messages()
    given_up, unread = asyncio.CancelledError(), GeneratorExit()
    outcomes = [messages.outcome_of(error) for error in (None, given_up, unread, ValueError())]
    assert outcomes == ["ok", "error", "ok", "error"]
    messages._sockets.stopping = True
    outcomes = [messages.outcome_of(error) for error in (None, given_up, unread, ValueError())]
    assert outcomes == ["ok", "cancelled", "cancelled", "error"]


async def test_a_stop_is_of_the_turn_under_way_and_of_no_other() -> None:
    messages = new_messages()
    session, stopped = a_chat(), asyncio.Event()
    outcomes: list[str] = []

    async def turn() -> None:
        now = messages.start_turn(session, "message")
        await stopped.wait()
        messages.end_turn(now, None)
        outcomes.append(now.outcome)

    for _ in range(2):
        stopped.clear()
        session.current_task = asyncio.create_task(turn())
        await asyncio.sleep(0)
        if not outcomes:
            messages.on_stop(session)
        stopped.set()
        await session.current_task
    # It is over, and there is nothing to stop.
    messages.on_stop(session)
    messages.on_stop(None)
    assert outcomes == ["cancelled", "ok"]
