"""Spans of turns wait for their end: what is kept, whole, and what is not."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import SpanContext, TraceFlags

from chainlit_otel.pipeline import kept_traces
from chainlit_otel.pipeline.kept_traces import TraceKeeper

LAST_56_BITS = (1 << 56) - 1


class Collected(SpanProcessor):
    def __init__(self) -> None:
        self.names: list[str] = []
        self.calls: list[str] = []

    def on_end(self, span: ReadableSpan) -> None:
        self.names.append(span.name)

    def shutdown(self) -> None:
        self.calls.append("shutdown")

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        self.calls.append("flush")
        return False


def made(share: float | None = 0.0) -> tuple[TraceKeeper, Collected]:
    keeper, collected = TraceKeeper(), Collected()
    keeper.processors, keeper.share = [collected], share
    return keeper, collected


def span(trace_id: int, name: str) -> ReadableSpan:
    return ReadableSpan(name, SpanContext(trace_id, 1, False, TraceFlags(TraceFlags.SAMPLED)))


def test_by_default_all_spans_go_on_at_once() -> None:
    keeper, collected = made(share=None)
    keeper.begin(1)
    keeper.on_end(span(1, "step"))
    assert collected.names == ["step"]
    assert keeper.decide(1, is_notable=False)
    assert keeper.is_kept(1)


def test_the_spans_of_a_notable_turn_go_on_when_it_ends_and_all_later_ones() -> None:
    keeper, collected = made()
    keeper.begin(1)
    keeper.on_end(span(1, "step"))
    assert (collected.names, keeper.is_kept(1)) == ([], False)
    assert keeper.decide(1, is_notable=True)
    assert (collected.names, keeper.is_kept(1)) == (["step"], True)
    keeper.on_end(span(1, "turn"))
    keeper.on_end(span(1, "late"))
    assert collected.names == ["step", "turn", "late"]


def test_another_turn_goes_on_only_if_it_is_kept_while_it_waits() -> None:
    keeper, collected = made()
    for trace_id in (1, 2):
        keeper.begin(trace_id)
        keeper.on_end(span(trace_id, f"step {trace_id}"))
        assert not keeper.decide(trace_id, is_notable=False)
        keeper.on_end(span(trace_id, f"turn {trace_id}"))
    assert keeper.keep(2)
    assert collected.names == ["step 2", "turn 2"]
    assert (keeper.is_kept(1), keeper.is_kept(2)) == (False, True)
    assert not keeper.keep(2)
    assert not keeper.keep(3)


def test_traces_that_are_no_turns_go_on_at_once() -> None:
    keeper, collected = made()
    keeper.on_end(span(9, "connect"))
    assert collected.names == ["connect"]
    assert keeper.is_kept(9)


def test_the_share_is_kept_at_once_and_is_the_share() -> None:
    ids = random.Random(1)
    keeper, collected = made(share=0.25)
    for number in range(10_000):
        trace_id = ids.getrandbits(128)
        keeper.begin(trace_id)
        keeper.on_end(span(trace_id, str(number)))
        assert keeper.is_kept(trace_id) == keeper.decide(trace_id, is_notable=False)
    assert 2300 < len(collected.names) < 2700
    # Of the last 56 bits the highest: so say all who sample by the probability of the standard.
    keeper, _ = made(share=0.25)
    for trace_id, kept in ((LAST_56_BITS, True), (LAST_56_BITS >> 1, False)):
        keeper.begin(trace_id)
        assert keeper.is_kept(trace_id) is kept


def test_all_are_kept_by_a_share_of_one_and_none_by_none() -> None:
    for share, kept in ((1.0, True), (0.0, False)):
        keeper, _ = made(share)
        for trace_id in (1, LAST_56_BITS, (1 << 128) - 1):
            keeper.begin(trace_id)
            assert keeper.decide(trace_id, is_notable=False) is kept


def test_what_was_decided_goes_first_when_too_many_wait(monkeypatch: Any) -> None:
    monkeypatch.setattr(kept_traces, "MAX_WAITING", 3)
    keeper, collected = made()
    keeper.begin(1)
    keeper.on_end(span(1, "open"))
    for trace_id in (2, 3):
        keeper.begin(trace_id)
        keeper.on_end(span(trace_id, f"over {trace_id}"))
        keeper.decide(trace_id, is_notable=False)
    keeper.on_end(span(1, "open, too"))
    assert not keeper.keep(2)
    # The rest of it would be a part of a turn.
    keeper.on_end(span(2, "late"))
    assert keeper.keep(3)
    keeper.decide(1, is_notable=True)
    assert collected.names == ["over 3", "open", "open, too"]


def test_a_turn_with_more_spans_than_may_wait_is_kept(monkeypatch: Any) -> None:
    monkeypatch.setattr(kept_traces, "MAX_WAITING", 3)
    keeper, collected = made()
    for trace_id in (1, 2):
        keeper.begin(trace_id)
    keeper.on_end(span(2, "small"))
    for number in range(4):
        keeper.on_end(span(1, str(number)))
    assert collected.names == ["0", "1", "2", "3"][: len(collected.names)]
    assert keeper.is_kept(1)
    assert keeper.decide(1, is_notable=False)
    assert not keeper.decide(2, is_notable=False)
    assert collected.names == ["0", "1", "2", "3"]


def test_turns_that_nobody_remembers_wait_no_longer(monkeypatch: Any) -> None:
    monkeypatch.setattr(kept_traces, "MAX_DECIDED", 2)
    keeper, collected = made()
    for trace_id in (1, 2, 3):
        keeper.begin(trace_id)
        keeper.on_end(span(trace_id, "step"))
        keeper.decide(trace_id, is_notable=False)
    assert [keeper.keep(trace_id) for trace_id in (1, 2, 3)] == [False, True, True]
    assert collected.names == ["step", "step"]


def test_a_child_of_a_fork_has_nothing_of_its_parent() -> None:
    keeper, collected = made()
    keeper.begin(1)
    keeper.on_end(span(1, "step"))
    keeper.renew()
    assert not keeper.keep(1)
    assert collected.names == []


def test_it_flushes_and_shuts_down_what_it_passes_on_to() -> None:
    keeper, collected = made()
    assert not keeper.force_flush(7)
    keeper.shutdown()
    assert collected.calls == ["flush", "shutdown"]


class Event(NamedTuple):
    what: str
    trace_id: int


events = st.lists(
    st.builds(
        Event,
        st.sampled_from(["span", "span", "notable", "plain", "keep"]),
        st.integers(1, 4),
    ),
    max_size=60,
)


@given(events)
def test_a_turn_is_kept_whole_or_not_at_all(events: list[Event]) -> None:
    keeper, collected = made()
    spans: dict[int, list[str]] = {n: [] for n in range(1, 5)}
    kept: dict[int, bool] = {}
    rescued: set[int] = set()
    for trace_id in spans:
        keeper.begin(trace_id)
    for number, (what, trace_id) in enumerate(events):
        if what == "span":
            spans[trace_id].append(f"{trace_id}.{number}")
            keeper.on_end(span(trace_id, spans[trace_id][-1]))
        elif what == "keep" and trace_id in kept:
            keeper.keep(trace_id)
            rescued.add(trace_id)
        elif what in ("notable", "plain") and trace_id not in kept:
            kept[trace_id] = keeper.decide(trace_id, what == "notable")
            assert kept[trace_id] == (what == "notable")
    wanted = [t for t in spans if kept.get(t) or t in rescued]
    found = {t: [n for n in collected.names if n.startswith(f"{t}.")] for t in spans}
    assert found == {t: spans[t] if t in wanted else [] for t in spans}
