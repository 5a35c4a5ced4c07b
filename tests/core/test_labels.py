from __future__ import annotations

from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel import catalog
from chainlit_otel.core.labels import ClosedSet, LearnedSet


@pytest.mark.parametrize("member", catalog.CLIENT_TYPE.values)
def test_a_member_stays_as_it_is_and_is_not_counted(member: str) -> None:
    fold = ClosedSet(catalog.CLIENT_TYPE.values)
    assert fold(member) == member
    assert fold.folded == 0


@pytest.mark.parametrize(
    "value", ["", "WEBAPP", " webapp", "webapp\n", "x" * 100_000, None, 1, True, b"webapp", [], {}]
)
def test_anything_else_becomes_other_and_is_counted(value: object) -> None:
    fold = ClosedSet(catalog.CLIENT_TYPE.values)
    assert fold(value) == "other"
    assert fold.folded == 1


def test_another_member_may_stand_for_the_rest() -> None:
    fold = ClosedSet(["a", "unknown"], other="unknown")
    assert [fold("a"), fold("other"), fold("unknown")] == ["a", "unknown", "unknown"]
    assert fold.folded == 1


def test_the_rest_must_be_a_member() -> None:
    with pytest.raises(ValueError, match="'other' is not one of the values"):
        ClosedSet(["a", "b"])


def test_a_set_is_not_used_up() -> None:
    fold = ClosedSet(value for value in ("a", "other"))
    assert [fold("a"), fold("a")] == ["a", "a"]


@given(st.lists(st.text() | st.sampled_from(catalog.CLIENT_TYPE.values)))
def test_never_more_values_than_members(values: list[str]) -> None:
    fold = ClosedSet(catalog.CLIENT_TYPE.values)
    assert {fold(value) for value in values} <= set(catalog.CLIENT_TYPE.values)
    assert fold.folded == sum(value not in catalog.CLIENT_TYPE.values for value in values)


def test_a_hundred_thousand_values_from_four_threads_are_one_value_and_all_counted() -> None:
    fold = ClosedSet(["a", "other"])
    seen: set[str] = set()

    def flood(first: int) -> None:
        seen.update(fold(f"client-{n}") for n in range(first, first + 25_000))

    threads = [Thread(target=flood, args=(n * 25_000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"other"}
    assert fold.folded == 100_000


# A set whose members the application declares


NAMES = st.sampled_from(["a", "b", "c", "d", "e", "other", "", "A"])


@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.just("learn"), st.lists(NAMES)) | st.tuples(st.just("ask"), NAMES)),
)
def test_the_first_that_are_declared_are_members_from_then_on(
    limit: int, events: list[tuple[str, list[str] | str]]
) -> None:
    learned = LearnedSet(limit)
    given: list[str] = []
    folded = 0
    for what, values in events:
        if what == "learn":
            learned.learn(iter(values))
            given += values
            continue
        members = list(dict.fromkeys(given))[:limit]
        assert learned(values) == (values if values in members else "other")
        folded += values not in (*members, "other")
        assert learned.folded == folded


def test_nothing_is_a_member_before_it_is_declared() -> None:
    learned = LearnedSet(8)
    assert learned("fast") == "other"
    learned.learn(["fast"])
    assert learned("fast") == "fast"
    assert learned.folded == 1


def test_what_stands_for_the_rest_is_not_counted_and_may_be_another() -> None:
    learned = LearnedSet(8, other="unknown")
    assert [learned("unknown"), learned("other")] == ["unknown", "unknown"]
    assert learned.folded == 1


@pytest.mark.parametrize("value", [None, 1, True, b"fast", ["fast"], {"fast": 1}])
def test_what_is_no_text_is_never_a_member(value: object) -> None:
    learned = LearnedSet(8)
    learned.learn(["fast", "1", "True"])
    assert learned(value) == "other"
    assert learned.folded == 1


def test_a_hundred_thousand_declared_values_are_no_more_than_the_limit() -> None:
    learned = LearnedSet(32)
    for n in range(0, 100_000, 1000):
        learned.learn(f"profile-{n + i}" for i in range(1000))
    seen = {learned(f"profile-{n}") for n in range(100_000)}
    assert seen == {*(f"profile-{n}" for n in range(32)), "other"}
    assert learned.folded == 100_000 - 32


def test_declaring_the_same_again_uses_nothing_up() -> None:
    learned = LearnedSet(2)
    for _ in range(100):
        learned.learn(["fast"])
    learned.learn(["thorough"])
    assert [learned("fast"), learned("thorough")] == ["fast", "thorough"]


def test_what_the_app_uses_is_a_member_while_there_is_room_and_it_is_short() -> None:
    names = LearnedSet(2)
    given: list[object] = ["a", "b" * 65, "", None, "c" * 64, "d", "a", "c" * 64]
    assert [names.admit(name) for name in given] == [
        "a",
        "other",
        "other",
        "other",
        "c" * 64,
        "other",
        "a",
        "c" * 64,
    ]
    assert names.folded == 4
