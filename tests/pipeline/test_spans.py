from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import copy_context
from dataclasses import dataclass, field
from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import INVALID_SPAN_CONTEXT, NoOpTracer, StatusCode

from chainlit_otel.guard import Guard
from chainlit_otel.pipeline.spans import (
    SpanScope,
    Tracing,
    current,
    current_span_context,
    outcome_of,
)

SECRET = "what a user wrote"


class Host:
    """A TracerProvider of the application, and the spans that it exported."""

    def __init__(self, sampler: Sampler = ALWAYS_ON, exception_messages: bool = False) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(sampler, shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.theirs = provider.get_tracer("theirs")
        self.tracing = Tracing(provider.get_tracer("ours"), exception_messages, Guard("tracing"))

    @property
    def spans(self) -> dict[str, ReadableSpan]:
        """The spans that have ended, by name."""
        ended = self._exporter.get_finished_spans()
        assert len({span.name for span in ended}) == len(ended)
        return {span.name: span for span in ended}

    def parent(self, name: str) -> str | None:
        """The name of the span that one is a part of."""
        parent = self.spans[name].parent
        if parent is None:
            return None
        (found,) = [n for n, s in self.spans.items() if s.context.span_id == parent.span_id]
        assert self.spans[found].context.trace_id == self.spans[name].context.trace_id
        return found


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture(autouse=True)
def _an_empty_context() -> Iterator[None]:
    """Let no test find what another has left open."""
    token = otel_context.attach(Context())
    yield
    otel_context.detach(token)


def elsewhere(call: Callable[[], object]) -> None:
    """Call from a copy of the current context, as a task does that starts here."""
    copy_context().run(call)


# Roots and children


def test_a_root_is_a_trace_of_its_own_and_the_current_span_while_it_lasts(host: Host) -> None:
    with host.theirs.start_as_current_span("socket") as socket:
        before = otel_context.get_current()
        scope = host.tracing.start_root("turn", {"a": "b"})
        assert trace.get_current_span() is scope.span
        assert current() is scope
        assert current_span_context() == scope.span.get_span_context()
        host.tracing.end(scope, "ok")
        assert otel_context.get_current() is before
        assert trace.get_current_span() is socket
        assert current() is None
    turn = host.spans["turn"]
    assert turn.parent is None
    assert turn.context.trace_id != socket.get_span_context().trace_id
    assert turn.attributes == {"a": "b", "chainlit.outcome": "ok"}
    assert turn.status.status_code is StatusCode.UNSET


def test_a_root_sees_nothing_else_of_the_context_that_it_interrupts(host: Host) -> None:
    key = otel_context.create_key("theirs")
    otel_context.attach(otel_context.set_value(key, 1))
    scope = host.tracing.start_root("turn", {})
    assert otel_context.get_value(key) is None
    host.tracing.end(scope, "ok")
    assert otel_context.get_value(key) == 1


def test_a_child_keeps_what_others_have_put_into_the_context(host: Host) -> None:
    key = otel_context.create_key("theirs")
    root = host.tracing.start_root("turn", {})
    otel_context.attach(otel_context.set_value(key, 1))
    child = host.tracing.start_child("step", {})
    assert otel_context.get_value(key) == 1
    host.tracing.end(child, "ok")
    assert otel_context.get_value(key) == 1
    host.tracing.end(root, "ok")


def test_children_are_below_what_is_current_and_after_one_comes_its_sibling(host: Host) -> None:
    tracing = host.tracing
    root = tracing.start_root("turn", {})
    first = tracing.start_child("first", {"a": "b"})
    inner = tracing.start_child("inner", {})
    tracing.end(inner, "ok")
    assert current() is first
    tracing.end(first, "ok")
    second = tracing.start_child("second", {})
    tracing.end(second, "ok")
    tracing.end(root, "ok")
    assert current() is None
    assert {name: host.parent(name) for name in host.spans} == {
        "inner": "first",
        "first": "turn",
        "second": "turn",
        "turn": None,
    }
    assert host.spans["first"].attributes == {"a": "b", "chainlit.outcome": "ok"}


def test_a_child_without_a_parent_is_a_root(host: Host) -> None:
    host.tracing.end(host.tracing.start_child("callback", {}), "ok")
    assert host.parent("callback") is None


def test_spans_of_others_nest_in_ours_and_ours_in_theirs(host: Host) -> None:
    tracing = host.tracing
    with host.theirs.start_as_current_span("request"):
        callback = tracing.start_child("callback", {})
        with host.theirs.start_as_current_span("query"):
            step = tracing.start_child("step", {})
            assert current() is step
            tracing.end(step, "ok")
            assert current() is callback
            assert trace.get_current_span() is not callback.span
        tracing.end(callback, "ok")
    assert {name: host.parent(name) for name in host.spans} == {
        "step": "query",
        "query": "callback",
        "callback": "request",
        "request": None,
    }


def test_a_child_may_have_begun_before_it_is_opened(host: Host) -> None:
    began = time.time_ns() - 5_000_000_000
    host.tracing.end(host.tracing.start_child("step", {}, began), "ok")
    assert host.spans["step"].start_time == began


def test_tasks_that_start_in_a_turn_are_below_it_side_by_side(host: Host) -> None:
    async def step(name: str) -> None:
        scope = host.tracing.start_child(name, {})
        await asyncio.sleep(0)
        host.tracing.end(scope, "ok")

    async def turn() -> None:
        scope = host.tracing.start_root("turn", {})
        await asyncio.gather(*(step(f"step {n}") for n in range(5)))
        assert current() is scope
        host.tracing.end(scope, "ok")

    asyncio.run(turn())
    assert [host.parent(f"step {n}") for n in range(5)] == ["turn"] * 5


def test_a_task_that_outlives_its_turn_stays_in_the_trace(host: Host) -> None:
    async def turn() -> None:
        scope = host.tracing.start_root("turn", {})
        task = asyncio.create_task(later())
        host.tracing.end(scope, "ok")
        await task

    async def later() -> None:
        assert current() is None
        host.tracing.end(host.tracing.start_child("step", {}), "ok")

    asyncio.run(turn())
    assert host.parent("step") == "turn"


# Links


def test_a_root_is_linked_to_what_it_belongs_to_and_to_nothing_invalid(host: Host) -> None:
    socket, request = (host.theirs.start_span(n).get_span_context() for n in ("socket", "request"))
    scope = host.tracing.start_root("turn", {}, [socket, INVALID_SPAN_CONTEXT, request])
    host.tracing.end(scope, "ok")
    assert [link.context for link in host.spans["turn"].links] == [socket, request]


def test_what_is_current_where_nothing_is_makes_no_link(host: Host) -> None:
    host.tracing.end(host.tracing.start_root("turn", {}, [current_span_context()]), "ok")
    assert host.spans["turn"].links == ()


# Spans that are never the current one


def left(host: Host, name: str, parent: SpanScope | None = None) -> SpanScope:
    scope = host.tracing.start_child(name, {"a": "b"}, 1_000, parent)
    host.tracing.detach(scope)
    return scope


@pytest.mark.parametrize(
    ("outcome", "status"), [("ok", StatusCode.UNSET), ("error", StatusCode.ERROR)]
)
def test_what_was_detached_is_not_current_and_ends_by_its_own_end(
    host: Host, outcome: str, status: StatusCode
) -> None:
    root = host.tracing.start_root("turn", {})
    before = otel_context.get_current()
    scope = left(host, "step")
    assert otel_context.get_current() is before
    elsewhere(lambda: host.tracing.end(scope, outcome, end=3_000))
    step = host.spans["step"]
    assert (step.start_time, step.end_time) == (1_000, 3_000)
    assert step.attributes == {"a": "b", "chainlit.outcome": outcome}
    assert step.status.status_code is status
    host.tracing.end(root, "ok")
    assert host.parent("step") == "turn"


def test_what_was_left_keeps_nothing_of_its_context_alive(host: Host) -> None:
    class Chat:
        pass

    chat = Chat()
    token = otel_context.attach(otel_context.set_value("chat", chat))
    scope = left(host, "step")
    otel_context.detach(token)
    gone = weakref.ref(chat)
    del chat, token
    gc.collect()
    assert gone() is None
    host.tracing.end(scope, "ok")
    assert "step" in host.spans


def test_a_root_can_be_left(host: Host) -> None:
    before = otel_context.get_current()
    scope = host.tracing.start_root("step", {}, start=1_000)
    host.tracing.detach(scope)
    assert otel_context.get_current() is before
    host.tracing.end(scope, "ok", end=2_000)
    assert otel_context.get_current() is before
    assert (host.spans["step"].start_time, host.spans["step"].end_time) == (1_000, 2_000)


def test_a_child_goes_below_the_parent_that_is_given_ended_or_not(host: Host) -> None:
    root = host.tracing.start_root("turn", {})
    upper = left(host, "upper")
    lower = left(host, "lower", upper)
    host.tracing.end(lower, "ok")
    host.tracing.end(upper, "ok")
    late = host.tracing.start_child("late", {}, parent=upper)
    assert trace.get_current_span() is late.span
    host.tracing.end(late, "ok")
    assert current() is root
    assert trace.get_current_span() is root.span
    host.tracing.end(root, "ok")
    elsewhere(lambda: host.tracing.end(left(host, "later", upper), "ok"))
    assert {name: host.parent(name) for name in host.spans} == {
        "lower": "upper",
        "upper": "turn",
        "late": "upper",
        "turn": None,
        "later": "upper",
    }


def test_a_child_does_not_go_below_what_is_in_another_trace(host: Host) -> None:
    first = host.tracing.start_root("first", {})
    upper = left(host, "upper")
    host.tracing.end(upper, "ok")
    host.tracing.end(first, "ok")
    second = host.tracing.start_root("second", {})
    host.tracing.end(left(host, "lower", upper), "ok")
    host.tracing.end(second, "ok")
    assert host.parent("lower") == "second"


# Closing


def test_a_second_close_changes_nothing(host: Host) -> None:
    outer = host.tracing.start_root("outer", {})
    inner = host.tracing.start_child("inner", {})
    host.tracing.end(inner, "ok")
    again = host.tracing.start_child("again", {})
    host.tracing.end(inner, "error", ValueError())
    assert current() is again
    host.tracing.end(again, "ok")
    host.tracing.end(outer, "ok")
    assert (host.spans["inner"].attributes or {})["chainlit.outcome"] == "ok"
    assert host.spans["inner"].status.status_code is StatusCode.UNSET
    assert len(host.spans) == 3


def test_a_close_in_another_thread_ends_the_span_and_leaves_both_contexts_alone(
    host: Host,
) -> None:
    scope = host.tracing.start_root("turn", {})
    here = otel_context.get_current()

    def there() -> None:
        with host.theirs.start_as_current_span("request") as request:
            host.tracing.end(scope, "cancelled")
            assert trace.get_current_span() is request
        seen.append(otel_context.get_current())

    seen: list[Context] = []
    thread = Thread(target=there)
    thread.start()
    thread.join()
    assert seen == [Context()]
    assert otel_context.get_current() is here
    assert scope.ended
    assert set(host.spans) == {"turn", "request"}
    assert host.parent("request") is None


def test_a_close_that_comes_too_late_does_not_take_the_context_from_who_is_there(
    host: Host,
) -> None:
    outer = host.tracing.start_root("outer", {})
    inner = host.tracing.start_child("inner", {})
    host.tracing.end(outer, "ok")
    assert current() is inner
    assert trace.get_current_span() is inner.span
    host.tracing.end(inner, "ok")
    assert current() is None


# Frames that ended elsewhere


def test_the_scope_of_an_abandoned_generator_is_skipped(host: Host) -> None:
    async def answer() -> AsyncIterator[int]:
        scope = host.tracing.start_child("abandoned", {})
        try:
            yield 1
            yield 2
        finally:
            host.tracing.end(scope, "cancelled")

    async def turn() -> SpanScope | None:
        root = host.tracing.start_root("turn", {})
        answers = answer()
        async for _ in answers:
            break
        # What the event loop does with a generator that nobody holds any more.
        await asyncio.create_task(answers.aclose())  # type: ignore[attr-defined]
        assert trace.get_current_span().get_span_context() != root.span.get_span_context()
        assert current() is root
        step = host.tracing.start_child("step", {})
        assert current() is step
        host.tracing.end(left(host, "left"), "ok")
        assert current() is step
        host.tracing.end(step, "ok")
        assert current() is root
        host.tracing.end(left(host, "left later"), "ok")
        host.tracing.end(root, "ok")
        return current()

    assert asyncio.run(turn()) is None
    assert {name: host.parent(name) for name in host.spans} == {
        "abandoned": "turn",
        "left": "step",
        "step": "turn",
        "left later": "turn",
        "turn": None,
    }


@dataclass
class Node:
    """A span, how it ends, and what happens while it is open.

    Attributes:
        kind: child or root; gone for a child that is ended elsewhere at once.
        inner: What happens before it is closed.
        name: Its name.
    """

    kind: str
    inner: list[Node]
    name: str = field(default="")


def trees_of(*kinds: str) -> st.SearchStrategy[list[Node]]:
    kind = st.sampled_from(kinds)
    trees = st.recursive(
        st.builds(Node, kind, st.just([])),
        lambda nodes: st.builds(Node, kind, st.lists(nodes, max_size=4)),
        max_leaves=12,
    )
    return st.lists(trees, max_size=4)


def perform(host: Host, node: Node, name: str) -> None:
    node.name = name
    opened = host.tracing.start_root if node.kind == "root" else host.tracing.start_child
    scope = opened(name, {})
    if node.kind == "gone":
        elsewhere(lambda: host.tracing.end(scope, "ok"))
    for n, inner in enumerate(node.inner):
        perform(host, inner, f"{name}.{n}")
    host.tracing.end(scope, "ok")


def parents(node: Node, above: str | None) -> dict[str, str | None]:
    """Everything is below the innermost that is open, and what is gone is above nothing."""
    found = {node.name: None if node.kind == "root" else above}
    for inner in node.inner:
        found |= parents(inner, above if node.kind == "gone" else node.name)
    return found


@given(trees_of("child", "gone") | trees_of("child", "root"))
def test_whatever_is_opened_closed_and_abandoned_the_parents_are_those_that_were_open(
    trees: list[Node],
) -> None:
    host = Host()
    token = otel_context.attach(Context())
    tree = Node("root", trees)
    perform(host, tree, "0")
    assert {name: host.parent(name) for name in host.spans} == parents(tree, None)
    assert current() is None
    otel_context.detach(token)


# Tracers that record nothing


def test_a_tracer_that_does_nothing_attaches_nothing() -> None:
    tracing = Tracing(NoOpTracer(), True, Guard("tracing"))
    before = otel_context.get_current()
    root = tracing.start_root("turn", {"a": "b"}, [INVALID_SPAN_CONTEXT])
    assert otel_context.get_current() is before
    child = tracing.start_child("step", {})
    tracing.detach(tracing.start_child("left", {}, 1, root))
    assert otel_context.get_current() is before
    assert current() is None
    tracing.end(child, "error", ValueError(SECRET))
    tracing.end(root, "ok")
    assert otel_context.get_current() is before


def test_a_span_of_the_host_stays_current_under_a_tracer_that_does_nothing(host: Host) -> None:
    tracing = Tracing(NoOpTracer(), False, Guard("tracing"))
    with host.theirs.start_as_current_span("request") as request:
        scope = tracing.start_root("turn", {})
        assert trace.get_current_span() is request
        tracing.end(scope, "ok")
        child = tracing.start_child("step", {})
        with host.theirs.start_as_current_span("query"):
            pass
        tracing.end(child, "ok")
        assert trace.get_current_span() is request
    assert host.parent("query") == "request"


def test_a_turn_that_is_not_sampled_takes_no_span_with_it_that_is() -> None:
    host = Host(ALWAYS_OFF)
    root = host.tracing.start_root("turn", {})
    child = host.tracing.start_child("step", {})
    assert child.span.get_span_context().trace_id == root.span.get_span_context().trace_id
    host.tracing.end(child, "error", ValueError(SECRET))
    host.tracing.end(root, "ok")
    assert host.spans == {}
    assert current() is None


# Outcomes


def failing() -> ValueError:
    try:
        raise ValueError(SECRET)
    except ValueError as error:
        return error


def test_an_exception_is_recorded_without_its_message(host: Host) -> None:
    host.tracing.end(host.tracing.start_root("turn", {}), "error", failing())
    turn = host.spans["turn"]
    assert turn.status.status_code is StatusCode.ERROR
    assert turn.status.description == "ValueError"
    assert turn.attributes == {"chainlit.outcome": "error", "error.type": "ValueError"}
    (event,) = turn.events
    assert event.name == "exception"
    assert set(event.attributes or {}) == {"exception.type", "exception.stacktrace"}
    reported = str((event.attributes or {})["exception.stacktrace"])
    assert reported.startswith("Traceback (most recent call last):\n")
    assert ", in failing\n" in reported
    assert reported.endswith("\nValueError")
    assert "raise" not in reported, "a line of the source may hold a key"
    assert SECRET not in turn.to_json()


def test_an_exception_is_recorded_with_its_message_if_that_is_asked_for() -> None:
    host = Host(exception_messages=True)
    host.tracing.end(host.tracing.start_root("turn", {}), "error", failing())
    turn = host.spans["turn"]
    assert turn.status.description == f"ValueError: {SECRET}"
    (event,) = turn.events
    assert event.attributes is not None
    assert event.attributes["exception.type"] == "ValueError"
    assert event.attributes["exception.message"] == SECRET
    reported = str(event.attributes["exception.stacktrace"])
    assert reported.endswith(f"\nValueError: {SECRET}")
    assert "raise ValueError(SECRET)" in reported


def test_the_messages_of_what_an_exception_came_from_are_not_recorded_either(host: Host) -> None:
    try:
        try:
            raise KeyError(SECRET)
        except KeyError as cause:
            raise RuntimeError from cause
    except RuntimeError as error:
        host.tracing.end(host.tracing.start_root("turn", {}), "error", error)
    assert host.spans["turn"].status.description == "RuntimeError"
    assert SECRET not in host.spans["turn"].to_json()


def test_an_exception_without_a_message_has_none_to_record() -> None:
    host = Host(exception_messages=True)
    host.tracing.end(host.tracing.start_root("turn", {}), "error", KeyError())
    turn = host.spans["turn"]
    assert turn.status.description == "KeyError"
    assert "exception.message" not in (turn.events[0].attributes or {})


def test_an_error_without_an_exception_is_an_error(host: Host) -> None:
    host.tracing.end(host.tracing.start_root("step", {}), "error")
    step = host.spans["step"]
    assert (step.status.status_code, step.status.description) == (StatusCode.ERROR, None)
    assert step.attributes == {"chainlit.outcome": "error"}
    assert step.events == ()


def test_a_stop_by_the_user_is_no_error(host: Host) -> None:
    scope = host.tracing.start_root("turn", {})
    host.tracing.end(scope, "cancelled", asyncio.CancelledError(SECRET))
    turn = host.spans["turn"]
    assert turn.status.status_code is StatusCode.UNSET
    assert turn.attributes == {"chainlit.outcome": "cancelled"}
    assert turn.events == ()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, "ok"),
        (ValueError(), "error"),
        (KeyboardInterrupt(), "error"),
        (TimeoutError(), "error"),
        (asyncio.CancelledError(), "cancelled"),
    ],
)
def test_the_outcome_of_a_call_is_that_of_its_exception(
    error: BaseException | None, outcome: str
) -> None:
    assert outcome_of(error) == outcome


class Speechless(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


@pytest.mark.parametrize(
    ("error", "message"), [(Speechless(), None), (ValueError("half \ud83d"), "half ?")]
)
def test_a_message_that_cannot_be_read_leaves_no_span_open(
    error: Exception, message: str | None
) -> None:
    host = Host(exception_messages=True)
    scope = host.tracing.start_root("root", {})

    host.tracing.end(scope, "error", error)

    (event,) = host.spans["root"].events
    assert (event.attributes or {}).get("exception.message") == message
    assert current() is None
