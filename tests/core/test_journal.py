"""The events of sessions, against a model that keeps all of them."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.core.journal import MAX_EVENTS, EventKind, Events, Journal, SessionEvent

FIRST = 16
MS = 1_000_000

happenings = st.lists(
    st.tuples(
        st.sampled_from(get_args(EventKind)),
        st.integers(0, 2**33) | st.sampled_from([-1, 2**32 - 1, 2**32]),
        st.sampled_from(["", "ok", "ValueError", "transport_close", 0, 1, 64535]),
    ),
    max_size=3 * MAX_EVENTS,
)


@given(happenings)
def test_the_first_and_the_last_events_are_kept(
    happenings: list[tuple[EventKind, int, str | int]],
) -> None:
    journal = Journal()
    events, model = Events(journal), list[SessionEvent]()
    for kind, after, detail in happenings:
        journal.add(events, kind, after * MS + 999_999, detail)
        # One answer that is lost is one event.
        if kind != "undelivered" or not model or model[-1].kind != "undelivered":
            model.append(SessionEvent(min(max(after, 0), 2**32 - 1), kind, str(detail)))
    dropped = max(0, len(model) - MAX_EVENTS)
    assert journal.read(events) == model[:FIRST] + model[FIRST + dropped :]
    assert (events.dropped, events.count) == (dropped, len(model))


def test_a_long_session_keeps_no_more_than_a_short_one() -> None:
    journal = Journal()
    events = Events(journal)
    for n in range(1000):
        journal.add(events, "turn", n * MS, n)
    kept = [*range(FIRST), *range(1000 - MAX_EVENTS + FIRST, 1000)]
    assert journal.read(events) == [(n, "turn", str(n)) for n in kept]
    assert (events.dropped, events.count) == (1000 - MAX_EVENTS, 1000)


def test_sessions_do_not_share_their_events() -> None:
    journal = Journal()
    one, other = Events(journal), Events(journal)
    journal.add(one, "connect", 0)
    journal.add(other, "connect", 5 * MS)
    assert (journal.read(one), journal.read(other)) == ([(0, "connect", "")], [(5, "connect", "")])


def test_of_endless_details_the_rest_is_other() -> None:
    journal = Journal()
    for n in range(5000):
        events = Events(journal)
        journal.add(events, "end", 0, f"reason {n}")
        (event,) = journal.read(events)
        assert event.detail == (f"reason {n}" if n < 998 else "other")


def test_numbers_leave_room_for_details() -> None:
    journal = Journal()
    events = Events(journal)
    for number in range(100_000):
        journal.add(events, "turn", 0, number)
    journal.add(events, "turn_end", 0, "LookupError")
    assert [event.detail for event in journal.read(events)[-2:]] == ["other", "LookupError"]


def test_a_detail_is_cut() -> None:
    journal = Journal()
    events = Events(journal)
    for last in ("a", "b"):
        journal.add(events, "turn_end", 0, 1_000_000 * "x" + last)
    assert [event.detail for event in journal.read(events)] == 2 * [200 * "x"]


def test_an_event_takes_seven_bytes() -> None:
    journal = Journal()
    events = Events(journal)
    for n in range(10):
        journal.add(events, "turn", n * MS, n)
    assert len(events.packed) == 70
