"""Each model call counts once, whoever shows it, in whatever order."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.core.usage import (
    APP,
    ModelCall,
    Usage,
    UsageLedger,
    UsageTotals,
    answering,
    sum_of,
)


def call(model: str = "m", answered: str = "", **tokens: Any) -> ModelCall:
    return ModelCall(model, answered, tokens=dict(tokens))


def counted(usage: Usage) -> list[dict[str, int]]:
    return [known.tokens for known in usage.calls]


def test_two_calls_of_one_source_are_two_whatever_their_counts() -> None:
    usage = Usage()
    for _ in range(2):
        usage.add("a", call(input=10, output=5))
    assert counted(usage) == [{"input": 10, "output": 5}] * 2


def test_the_same_calls_by_another_source_are_the_same() -> None:
    usage = Usage()
    for source in "ab":
        for output in (5, 5, 7):
            usage.add(source, call(input=10, output=output))
    assert Counter(known["output"] for known in counted(usage)) == {5: 2, 7: 1}


def test_a_call_that_one_source_has_not_counted_has_the_counts_of_the_other() -> None:
    for first, second in (("counts", "counts not"), ("counts not", "counts")):
        usage = Usage()
        for source in (first, second):
            tokens = {"input": 3, "output": 4} if source == "counts" else {}
            usage.add(source, ModelCall("m", tokens=tokens))
        assert counted(usage) == [{"input": 3, "output": 4}]


@pytest.mark.parametrize("answer", ["", "msg_1"])
def test_of_an_answer_that_was_left_the_output_is_not_known(answer: str) -> None:
    accounts = {"first count": {"input": 412, "output": 1}, "sdk": {"input": 412}}
    for sources in (["first count", "sdk"], ["sdk", "first count"]):
        usage = Usage()
        for source in sources:
            usage.add(source, ModelCall("m", tokens=dict(accounts[source]), answer=answer))
        (known,) = usage.calls
        assert (known.tokens, known.is_whole) == ({"input": 412}, False)


def test_what_is_only_sent_is_whole_if_the_app_says_it_or_nothing_is_to_come() -> None:
    usage = Usage()
    assert usage.add(APP, call("m", input=7)).is_whole
    assert usage.add("a", ModelCall("embedder", tokens={"input": 7}, is_answer=False)).is_whole
    assert not usage.add("a", call("other", input=7)).is_whole


def test_calls_of_two_models_are_two() -> None:
    usage = Usage()
    usage.add("a", call("gpt", input=1, output=1))
    usage.add("b", call("claude"))
    usage.add("b", call("claude", input=1, output=1))
    assert counted(usage) == [{"input": 1, "output": 1}, {}, {"input": 1, "output": 1}]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("gpt-4o", ""), ("", "gpt-4o")),
        (("gpt-4o", ""), ("gpt-4o-2024-08-06", "")),
        (("openai/gpt-4o", ""), ("gpt-4o", "")),
        (("openai/gpt-4o", ""), ("gpt-4o-2024-08-06", "")),
        (("azure/gpt-4o-2024-08-06", ""), ("gpt-4o", "")),
        (("gpt-4o", "gpt-4o-2024-08-06"), ("other-name", "gpt-4o-2024-08-06")),
        (("gpt-4o", ""), ("", "")),
    ],
)
def test_a_model_may_have_several_names(one: tuple[str, str], other: tuple[str, str]) -> None:
    for first, second in ((one, other), (other, one)):
        usage = Usage()
        usage.add("a", call(*first, input=1, output=2))
        usage.add("b", call(*second, input=1, output=2))
        assert counted(usage) == [{"input": 1, "output": 2}]


def test_what_looks_like_another_name_is_another_model() -> None:
    usage = Usage()
    usage.add("a", call("gpt-4o", input=1, output=2))
    usage.add("b", call("gpt-4.1", input=1, output=2))
    usage.add("c", call("gpt-4", input=1, output=2))
    usage.add("d", call("azure/o3", input=1, output=2))
    usage.add("e", call("openai/o3", input=1, output=2))
    assert len(usage.calls) == 5


@pytest.mark.parametrize("date", ["", "-2024-07-18"])
def test_of_two_names_that_are_alike_the_nearest_is_the_model(date: str) -> None:
    usage = Usage()
    for model in ("gpt-4o", "gpt-4o-mini"):
        usage.add("a", call(model))
    for model, output in (("gpt-4o-mini", 5), ("gpt-4o", 7)):
        usage.add("b", call(model + date, input=1, output=output))
    assert {known.model: known.tokens["output"] for known in usage.calls} == {
        "gpt-4o": 7,
        "gpt-4o-mini": 5,
    }


def test_tokens_of_caches_and_reasoning_may_be_added_or_not() -> None:
    usage = Usage()
    usage.add("a", call(input=100, output=20, cache_read=60, cache_write=10, reasoning=8))
    usage.add("without the cache", call(input=30, output=20, cache_read=60, cache_write=10))
    usage.add("without reasoning", call(input=100, output=12, reasoning=8))
    usage.add("without both", call(input=100, output=20))
    assert counted(usage) == [
        {"input": 100, "output": 20, "cache_read": 60, "cache_write": 10, "reasoning": 8}
    ]


def test_the_app_is_believed_before_and_after_others() -> None:
    usage = Usage()
    usage.add("a", call(input=10, output=5))
    usage.add(APP, ModelCall("m", tokens={"input": 11, "output": 6}, cost=0.5))
    usage.add(APP, call("own", input=1, output=1))
    usage.add("a", call("own", input=2, output=2))
    assert counted(usage) == [{"input": 11, "output": 6}, {"input": 1, "output": 1}]
    assert [known.cost for known in usage.calls] == [0.5, None]


def test_the_innermost_spans_count() -> None:
    usage = Usage()
    assert usage.end_span("client", call(input=10, output=5), span=3, parent=2)
    assert usage.end_span("client", call(input=20, output=6), span=4, parent=2)
    assert not usage.end_span("http", None, span=9, parent=8)
    assert usage.end_span("tool", None, span=2, parent=1)
    assert usage.end_span("agent", call(input=30, output=11), span=1, parent=0)
    assert counted(usage) == [{"input": 10, "output": 5}, {"input": 20, "output": 6}]


def test_counts_of_an_agent_hold_where_those_of_its_calls_are_not_known() -> None:
    usage = Usage()
    usage.end_span("client", call(), span=3, parent=2)
    usage.end_span("client", call(), span=4, parent=2)
    usage.end_span("agent", call(input=30, output=11), span=2, parent=0)
    assert counted(usage) == [{"input": 30, "output": 11}, {"input": 0, "output": 0}]
    assert all(known.is_counted for known in usage.calls)


def test_the_span_of_a_gateway_around_that_of_a_client_is_the_same_call() -> None:
    usage = Usage()
    usage.end_span("client", call("gpt-4o", input=10, output=5), span=2, parent=1)
    usage.end_span("gateway", call("my-alias", input=10, output=5), span=1, parent=0)
    usage.add("gateway", call("my-alias", input=10, output=5))
    assert len(usage.calls) == 2, "a second call of the gateway is another one"


Shown = tuple[int, int, bool, bool]
calls = st.lists(
    st.tuples(st.integers(1, 50), st.integers(1, 50), st.booleans(), st.booleans()), max_size=12
)


@given(calls, st.integers(0, 2**32))
def test_two_sources_in_any_order_count_each_call_once(shown: list[Shown], seed: int) -> None:
    """By a naive model: of each call, the counts that any of its sources has.

    Counts differ from call to call here, as those of real calls do; what is shown by one source
    alone is then told from what is shown by both.
    """
    dice = random.Random(seed)
    accounts = []
    for n, (sent, got, by_first, by_second) in enumerate(shown):
        tokens = {"input": 1000 * n + sent, "output": 1000 * n + got}
        by = [s for s, is_by in (("a", by_first), ("b", by_second)) if is_by] or ["a"]
        accounts += [(source, tokens) for source in by]
    dice.shuffle(accounts)
    usage = Usage()
    for source, tokens in accounts:
        usage.add(source, ModelCall("m", tokens=dict(tokens)))
    expected = [
        {"input": 1000 * n + sent, "output": 1000 * n + got}
        for n, (sent, got, *_) in enumerate(shown)
    ]
    assert sorted(counted(usage), key=str) == sorted(expected, key=str)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=8), st.integers(0, 2**32))
def test_a_source_without_counts_adds_nothing_to_one_that_has_them(
    counts: list[tuple[int, int]], seed: int
) -> None:
    dice = random.Random(seed)
    accounts = [("a", {"input": i, "output": o}) for i, o in counts]
    accounts += [("b", {}) for _ in counts]
    dice.shuffle(accounts)
    usage = Usage()
    for source, tokens in accounts:
        usage.add(source, ModelCall("m", tokens=dict(tokens)))
    assert sorted(counted(usage), key=str) == sorted(
        ({"input": i, "output": o} for i, o in counts), key=str
    )


# The ledger


def turn(**values: Any) -> Any:
    base = {"session": None, "ended": False, "outcome_at_end": "ok", "undelivered": 0}
    return SimpleNamespace(**{**base, "usage": None, "spent": None, **values})


def price(of: ModelCall) -> float | None:
    return None if of.model == "free" else sum(of.tokens.values()) / 1000


def ledger() -> UsageLedger:
    return UsageLedger(price, lambda model: model)


def test_a_turn_counts_when_it_is_over() -> None:
    kept, one = ledger(), turn()
    kept.record(one, "a", call(input=10, output=5))
    assert kept.tokens() == kept.inferences() == kept.cost() == {}
    one.ended = True
    kept.close(one)
    kept.close(one)
    assert kept.tokens() == {("m", "input"): 10, ("m", "output"): 5}
    assert kept.inferences() == {("m", "counted"): 1}
    assert kept.cost() == {("m", "ok"): 0.015}
    assert kept.wasted_cost() == kept.unlinked() == {}


def test_what_is_not_known_is_a_figure_of_its_own() -> None:
    kept, session = ledger(), SimpleNamespace(spent=None)
    one = turn(session=session)
    kept.record(one, "a", call(input=1, output=1))
    kept.record(one, "a", call())
    kept.record(one, "a", call("free", input=7, output=7))
    kept.close(one)
    assert kept.inferences() == {
        ("m", "counted"): 1,
        ("m", "uncounted"): 1,
        ("free", "unpriced"): 1,
    }
    assert kept.cost() == {("m", "ok"): 0.002}
    assert one.spent["free"].cost is None, "not known is not nothing"
    total = sum_of(one.spent)
    assert total == session.spent
    assert total.values() == {
        "inferences": 3,
        "uncounted": 1,
        "unpriced": 1,
        "input_tokens": 8,
        "output_tokens": 8,
        "cost": 0.002,
    }


@pytest.mark.parametrize(
    ("outcome", "undelivered", "wasted"),
    [("ok", 0, ""), ("ok", 2, "undelivered"), ("error", 2, "error"), ("cancelled", 0, "cancelled")],
)
def test_wasted_is_what_nobody_got(outcome: str, undelivered: int, wasted: str) -> None:
    kept, one = ledger(), turn(outcome_at_end=outcome, undelivered=undelivered)
    kept.record(one, "a", call(input=1, output=1))
    kept.close(one)
    assert kept.wasted_cost() == ({(wasted,): 0.002} if wasted else {})
    assert kept.cost() == {("m", outcome): 0.002}


def test_what_comes_when_the_turn_is_over_counts_once_too() -> None:
    kept, one = ledger(), turn()
    kept.record(one, "a", call(input=1, output=1))
    one.ended = True
    kept.close(one)
    kept.record(one, "b", call(input=1, output=1))
    assert kept.tokens() == {("m", "input"): 1, ("m", "output"): 1}, "another account of it"
    kept.record(one, "a", call(input=2, output=2))
    assert kept.tokens() == {("m", "input"): 3, ("m", "output"): 3}, "a task that outlives it"
    late = turn(ended=True, outcome_at_end="error")
    kept.record(late, "a", call(input=4, output=4))
    assert kept.tokens() == {("m", "input"): 7, ("m", "output"): 7}
    assert kept.cost()["m", "error"] == 0.008


def test_calls_outside_of_turns_are_in_no_other_figure() -> None:
    kept = ledger()
    kept.record(None, "a", call(input=1, output=1))
    kept.end_span(None, "a", call(), 1, 0)
    kept.end_span(None, "a", None, 1, 0)
    assert kept.unlinked() == {(): 2}
    assert kept.tokens() == {}


def test_totals_add_up() -> None:
    total = UsageTotals()
    total.add(ModelCall(tokens={"input": 1}), "counted", 0.5)
    total.add(ModelCall(tokens={"output": 2}), "unpriced", None)
    other = UsageTotals()
    other.update(total)
    other.update(total)
    assert other.values() == {
        "inferences": 4,
        "uncounted": 0,
        "unpriced": 2,
        "input_tokens": 2,
        "output_tokens": 4,
        "cost": 1.0,
    }


def test_the_model_of_a_turn_is_the_one_that_has_answered_most() -> None:
    kept, one = ledger(), turn()
    embedded = call("embedder", input=900)
    embedded.is_answer = False
    kept.record(one, "a", embedded)
    kept.record(one, "a", call("silent"))
    kept.close(one)
    assert answering(one.spent) == "silent", "of which nobody knows the tokens"
    for model, output in (("small", 5), ("big", 6)):
        kept.record(one, "a", call(model, input=1, output=output))
    assert answering(one.spent) == "big"
    assert answering({"embedder": one.spent["embedder"]}) == ""


def test_an_answer_is_known_by_its_id_whatever_was_counted_of_it() -> None:
    usage = Usage()
    for source, output in (("sdk", 968), ("instrumentation", 969)):
        for answer in ("msg_1", "msg_2"):
            shown = call(input=137, output=output)
            shown.answer = answer
            usage.add(source, shown)
    assert counted(usage) == [{"input": 137, "output": 968}] * 2


def test_answers_with_two_ids_are_of_two_calls_however_alike() -> None:
    usage = Usage()
    for source, answer in (("a", "msg_1"), ("b", "msg_2"), ("c", "")):
        shown = call(input=10, output=5)
        shown.answer = answer
        usage.add(source, shown)
    assert counted(usage) == [{"input": 10, "output": 5}] * 2


def test_a_source_whose_server_numbers_no_answers_shows_each_once() -> None:
    usage = Usage()
    for source in "aabb":
        shown = call(input=10, output=5)
        shown.answer = "chatcmpl-1"
        usage.add(source, shown)
    assert counted(usage) == [{"input": 10, "output": 5}] * 2
