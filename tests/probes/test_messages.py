"""What runs for every token, without a server."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

from opentelemetry.trace import NoOpTracer, Tracer

from chainlit_otel.core.connections import ConnectionLedger
from chainlit_otel.core.sessions import SessionLedger
from chainlit_otel.core.turns import TurnLedger
from chainlit_otel.guard import Guard
from chainlit_otel.patching import Patches
from chainlit_otel.probes.messages import Messages, _emitting, _InTurn, current_turn
from chainlit_otel.probes.sessions import Sessions
from chainlit_otel.probes.sockets import Sockets
from chainlit_otel.tracing import Tracing
from tests.conftest import InternalErrors


def ignore(*_: Any) -> None:
    pass


class Chat:
    """As much of a session as a turn and a connect ask for."""

    id, thread_id, socket_id = "s", "t", "a"
    chat_profile = user = None


def books(tracer: Tracer | None = None) -> Messages:
    tracing = Tracing(tracer or NoOpTracer(), False, Guard("tracing"))
    sessions = Sessions(SessionLedger(ignore), ignore, capture_user=False)
    sockets = Sockets(ConnectionLedger(ignore), sessions, tracing)
    return Messages(TurnLedger(ignore), sessions, sockets, tracing, capture=False)


async def test_an_error_that_leads_to_its_own_task_keeps_nothing_alive() -> None:
    messages = books()

    async def process() -> None:
        mine = asyncio.current_task()
        turn = messages.begin(Chat())
        messages.trace(turn, Chat())
        try:
            raise ValueError(mine)
        except ValueError as error:
            messages.failed(error)
        messages.end(turn, None)

    task = asyncio.create_task(process())
    await task
    gone = weakref.ref(task)
    del task
    await asyncio.sleep(0)
    gc.collect()
    assert gone() is None


async def test_a_turn_ends_in_the_books_though_its_span_could_not_be_opened(
    expected_internal_errors: InternalErrors,
) -> None:
    class Broken(NoOpTracer):
        def start_span(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no span")

    messages = books(Broken())

    with _InTurn(Guard("messages"), messages, Chat()):
        assert messages.ledger.active() == {(): 1}
    assert messages.ledger.active() == {(): 0}
    assert [str(error) for _, error in expected_internal_errors] == ["no span"]


async def test_a_token_to_several_rooms_is_counted_and_sent_like_any_other() -> None:
    messages = books()
    sent: list[tuple[Any, ...]] = []

    async def original(*args: Any) -> None:
        sent.append(args)

    messages.connections["a"] = ConnectionLedger(ignore).open(lambda: True)
    emit = _emitting(Patches(None), Guard("messages"), messages, original)
    turn = messages.ledger.start(1, "")
    token = current_turn.set(turn)
    for to in ("a", "a", ["a", "b"], None):
        await emit("stream_token", {"token": "t"}, to)
    current_turn.reset(token)
    assert (turn.chunks, messages.ledger.chunks()[()], messages.ledger.dropped) == (4, 4, {})
    assert [to for _, _, to in sent] == ["a", "a", ["a", "b"], None]


async def test_a_lost_step_is_no_lost_answer() -> None:
    messages = books()
    for event in ("new_message", "update_message"):
        for kind in ("assistant_message", "run", "tool", "user_message"):
            messages.emitted(event, {"type": kind}, "gone")
    assert messages.ledger.dropped == {
        ("new_message",): 1,
        ("update_message",): 1,
        ("step",): 6,
    }
