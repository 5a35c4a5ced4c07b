"""The spans of turns, whoever makes them: bounded, and without what people wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NoOpTracer, ProxyTracerProvider

from chainlit_otel import catalog
from chainlit_otel.guard import Guard
from chainlit_otel.live import traces
from chainlit_otel.live.traces import MAX_SPANS, MAX_SPANS_OF_ALL, MAX_TRACES, TraceStore
from chainlit_otel.pipeline.spans import Tracing, trace_of
from tests.conftest import InternalErrors

GUARD = Guard("tracing")
SECRET = "words of a user"


def wanted() -> TraceStore:
    store = TraceStore()
    store.is_wanted = True
    return store


def local(store: TraceStore) -> Tracing:
    return Tracing(ProxyTracerProvider().get_tracer("chainlit"), False, Guard("tracing"), store)


def by_sdk(store: TraceStore) -> Tracing:
    provider = TracerProvider()
    traces.attach(provider, store, GUARD)
    return Tracing(provider.get_tracer("chainlit"), False, Guard("tracing"))


@pytest.fixture(autouse=True)
def no_provider(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", None)


@pytest.fixture(params=[local, by_sdk])
def tracing(request: pytest.FixtureRequest, store: TraceStore) -> Tracing:
    made: Tracing = request.param(store)
    return made


@pytest.fixture
def store() -> TraceStore:
    return wanted()


def test_a_turn_has_its_spans_with_their_parents(tracing: Tracing, store: TraceStore) -> None:
    turn = tracing.start_root(catalog.SPAN_TURN, {catalog.SESSION_ID: "ab"})
    callback = tracing.start_child("chainlit.callback on_message", {})
    assert store.under_way(trace_of(turn)) == ("on_message", "")
    step = tracing.start_child("chainlit.step tool search", {})
    assert store.under_way(trace_of(turn)) == ("on_message", "tool search")
    tracing.end(step, "error", ValueError(SECRET))
    operation = tracing.start_child("chainlit.data_layer create_step", {})
    assert store.under_way(trace_of(turn)) == ("on_message", "data_layer create_step")
    tracing.end(operation, "ok")
    tracing.end(callback, "ok")
    tracing.end(turn, "ok")
    assert store.under_way(trace_of(turn)) == ("", "")
    spans, dropped = store.read(trace_of(turn))
    ids = {span.span_id: span.name for span in spans}
    assert [(s.name, ids.get(s.parent_id, ""), s.outcome) for s in spans] == [
        ("chainlit.turn", "", "ok"),
        ("chainlit.callback on_message", "chainlit.turn", "ok"),
        ("chainlit.step tool search", "chainlit.callback on_message", "error"),
        ("chainlit.data_layer create_step", "chainlit.callback on_message", "ok"),
    ]
    assert dropped == 0
    assert spans[0].attributes == {catalog.SESSION_ID: "ab", catalog.OUTCOME.key: "ok"}
    ((_, name, attributes),) = spans[2].events
    assert (name, attributes) == ("exception", {"exception.type": "ValueError"})
    assert all(0 < span.started <= span.ended for span in spans)


def test_what_people_wrote_is_not_shown(tracing: Tracing, store: TraceStore) -> None:
    turn = tracing.start_root(catalog.SPAN_TURN, {catalog.TURN_INPUT: SECRET})
    model = tracing.start_child("chat gpt", {"gen_ai.request.model": "gpt"})
    for key in (
        *("gen_ai.prompt.0.content", "gen_ai.input.messages", "gen_ai.output.messages"),
        *("input.value", "llm.prompts", "url.full", "db.statement", "db.query.text"),
        *(catalog.STEP_INPUT, catalog.STEP_OUTPUT, catalog.TURN_OUTPUT, catalog.USER_ID),
        *("code.stacktrace", "enduser.id", "client.address", "http.url", "exception.message"),
    ):
        model.span.set_attribute(key, SECRET)
    model.span.set_attribute("gen_ai.usage.input_tokens", 7)
    model.span.add_event("gen_ai.content.prompt", {"gen_ai.prompt": SECRET})
    tracing.end(model, "ok")
    tracing.end(turn, "ok")
    spans, _ = store.read(trace_of(turn))
    assert SECRET not in repr(spans)
    assert spans[1].attributes == {
        "gen_ai.request.model": "gpt",
        "gen_ai.usage.input_tokens": 7,
        catalog.OUTCOME.key: "ok",
    }


def test_other_traces_are_not_kept(tracing: Tracing, store: TraceStore) -> None:
    for name in ("chainlit.connect", "chainlit.callback on_chat_start"):
        scope = tracing.start_root(name, {})
        tracing.end(scope, "ok")
        assert store.read(trace_of(scope)) == ([], 0)


def test_a_turn_keeps_the_spans_that_start_first_and_counts_the_rest(
    tracing: Tracing, store: TraceStore
) -> None:
    turn = tracing.start_root(catalog.SPAN_TURN, {})
    callback = tracing.start_child("chainlit.callback on_message", {})
    for n in range(10_000):
        step = tracing.start_child(f"chainlit.step tool {n}", {})
        assert store.under_way(trace_of(turn)) == ("on_message", f"tool {n}")
        tracing.end(step, "ok")
    tracing.end(callback, "ok")
    tracing.end(turn, "ok")
    spans, dropped = store.read(trace_of(turn))
    assert (len(spans), dropped) == (MAX_SPANS, 10_002 - MAX_SPANS)
    assert {span.parent_id for span in spans} == {0, *(span.span_id for span in spans[:2])}


def test_of_very_many_spans_the_oldest_turns_lose_theirs(
    tracing: Tracing, store: TraceStore
) -> None:
    ids = []
    for _ in range(MAX_SPANS_OF_ALL // MAX_SPANS + 20):
        turn = tracing.start_root(catalog.SPAN_TURN, {})
        ids.append(trace_of(turn))
        for _ in range(MAX_SPANS - 1):
            tracing.end(tracing.start_child("chainlit.step tool search", {}), "ok")
        tracing.end(turn, "ok")
    kept = [len(store.read(trace_id)[0]) for trace_id in ids]
    assert kept == [0] * 20 + [MAX_SPANS] * (len(ids) - 20)
    store.forget(ids)
    assert (store._size, store._traces) == (0, {})


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (float("nan"), "not a number"),
        (float("inf"), "not a number"),
        (-float("inf"), "not a number"),
        pytest.param(10**5000, "not a number", id="huge"),
        (2**63 - 1, 2**63 - 1),
        (0.5, 0.5),
        (True, True),
        pytest.param(1_000_000 * "x", 200 * "x", id="long"),
        ("\ud800", "\ud800"),
    ],
)
def test_an_attribute_is_what_json_can_have(
    tracing: Tracing, store: TraceStore, value: Any, shown: object
) -> None:
    turn = tracing.start_root(catalog.SPAN_TURN, {})
    turn.span.set_attribute("gen_ai.request.top_p", value)
    turn.span.add_event("event", {"gen_ai.request.top_p": value})
    tracing.end(turn, "ok")
    ((span,), _) = store.read(trace_of(turn))
    assert span.attributes["gen_ai.request.top_p"] == shown
    assert span.events[0][2] == {"gen_ai.request.top_p": shown}
    json.dumps(span, allow_nan=False).encode()


def test_a_span_keeps_so_many_attributes_and_events(tracing: Tracing, store: TraceStore) -> None:
    turn = tracing.start_root(catalog.SPAN_TURN, {})
    for n in range(1000):
        turn.span.set_attribute(f"chainlit.{n}", n)
        turn.span.add_event(f"event {n}")
    tracing.end(turn, "ok")
    # What comes late changes nothing that is being read.
    turn.span.add_event("late")
    ((span,), _) = store.read(trace_of(turn))
    assert len(span.attributes) <= 64
    assert [name for _, name, _ in span.events] == [f"event {n}" for n in range(872, 1000)]


def test_a_span_of_the_app_that_we_fail_at_is_its_own_as_ever(
    store: TraceStore, expected_internal_errors: InternalErrors
) -> None:
    class Unspeakable:
        def __str__(self) -> str:
            raise LookupError

    provider = TracerProvider()
    traces.attach(provider, store, GUARD)
    tracing = Tracing(provider.get_tracer("chainlit"), False, Guard("tracing"))
    turn = tracing.start_root(catalog.SPAN_TURN, {})
    # The SDK takes any object for a name.
    provider.get_tracer("app").start_span(Unspeakable()).end()  # type: ignore[arg-type]
    tracing.end(turn, "ok")
    assert [type(error) for _, error in expected_internal_errors] == 2 * [LookupError]
    assert [span.name for span in store.read(trace_of(turn))[0]] == [catalog.SPAN_TURN]


def test_turns_that_nobody_keeps_go(tracing: Tracing, store: TraceStore) -> None:
    ids = []
    for _ in range(MAX_TRACES + 10):
        turn = tracing.start_root(catalog.SPAN_TURN, {})
        ids.append(trace_of(turn))
        tracing.end(turn, "ok")
    store.forget(ids[-5:])
    kept = [bool(store.read(trace_id)[0]) for trace_id in ids]
    assert kept == [False] * 10 + [True] * (MAX_TRACES - 5) + [False] * 5


def test_a_span_of_ours_is_not_the_current_one_to_others(store: TraceStore) -> None:
    tracing = local(store)
    turn = tracing.start_root(catalog.SPAN_TURN, {})
    # A request that the app makes now says nothing of a trace, and its server samples as it likes.
    assert not trace.get_current_span().get_span_context().is_valid
    tracing.end(turn, "ok")


def test_while_nobody_looks_no_spans_are_made_or_kept() -> None:
    for make in (local, by_sdk):
        store = TraceStore()
        tracing = make(store)
        turn = tracing.start_root(catalog.SPAN_TURN, {})
        assert tracing.is_enabled() == tracing.has_provider()
        tracing.end(turn, "ok")
        assert store.read(trace_of(turn)) == ([], 0)


def test_without_a_page_and_a_provider_there_are_no_spans() -> None:
    tracing = Tracing(ProxyTracerProvider().get_tracer("chainlit"), False, Guard("tracing"))
    assert not tracing.is_enabled()
    assert trace_of(tracing.start_root(catalog.SPAN_TURN, {})) == 0


def test_what_is_not_sampled_is_not_shown(store: TraceStore) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF)
    traces.attach(provider, store, GUARD)
    tracing = Tracing(provider.get_tracer("chainlit"), False, Guard("tracing"))
    turn = tracing.start_root(catalog.SPAN_TURN, {})
    tracing.end(turn, "ok")
    assert store.read(trace_of(turn)) == ([], 0)


def test_a_provider_is_given_one_processor_and_none_of_a_page_that_is_over(
    store: TraceStore,
) -> None:
    provider = TracerProvider()
    for given in (store, store, None, wanted(), store, None):
        traces.attach(provider, given, GUARD)
    assert len(provider._active_span_processor._span_processors) == 1
    tracing = Tracing(provider.get_tracer("chainlit"), False, Guard("tracing"))
    turn = tracing.start_root(catalog.SPAN_TURN, {})
    tracing.end(turn, "ok")
    assert store.read(trace_of(turn)) == ([], 0)


def test_a_provider_that_takes_no_processors_is_left_alone(store: TraceStore) -> None:
    traces.attach(trace.NoOpTracerProvider(), store, GUARD)
    assert Tracing(NoOpTracer(), False, Guard("tracing")).has_provider()
