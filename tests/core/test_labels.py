from __future__ import annotations

from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel import catalog
from chainlit_otel.core.labels import BoundedLabel, EnumLabel


@pytest.mark.parametrize("member", catalog.CLIENT_TYPE.values)
def test_a_member_stays_as_it_is_and_is_not_counted(member: str) -> None:
    label = EnumLabel(catalog.CLIENT_TYPE.values)
    assert label(member) == member
    assert label.overflowed == 0


@pytest.mark.parametrize(
    "value", ["", "WEBAPP", " webapp", "webapp\n", "x" * 100_000, None, 1, True, b"webapp", [], {}]
)
def test_anything_else_becomes_other_and_is_counted(value: object) -> None:
    label = EnumLabel(catalog.CLIENT_TYPE.values)
    assert label(value) == "other"
    assert label.overflowed == 1


def test_the_rest_must_be_a_member() -> None:
    with pytest.raises(ValueError, match="'other' is not one of the values"):
        EnumLabel(["a", "b"])


def test_a_set_is_not_used_up() -> None:
    label = EnumLabel(value for value in ("a", "other"))
    assert [label("a"), label("a")] == ["a", "a"]


@given(st.lists(st.text() | st.sampled_from(catalog.CLIENT_TYPE.values)))
def test_never_more_values_than_members(values: list[str]) -> None:
    label = EnumLabel(catalog.CLIENT_TYPE.values)
    assert {label(value) for value in values} <= set(catalog.CLIENT_TYPE.values)
    assert label.overflowed == sum(value not in catalog.CLIENT_TYPE.values for value in values)


def test_a_hundred_thousand_values_from_four_threads_are_one_value_and_all_counted() -> None:
    label = EnumLabel(["a", "other"])
    seen: set[str] = set()

    def flood(first: int) -> None:
        seen.update(label(f"client-{n}") for n in range(first, first + 25_000))

    threads = [Thread(target=flood, args=(n * 25_000,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == {"other"}
    assert label.overflowed == 100_000


# A set whose members the application declares


NAMES = st.sampled_from(["a", "b", "c", "d", "e", "other", "", "A"])


@given(
    st.integers(0, 4),
    st.lists(st.tuples(st.just("learn"), st.lists(NAMES)) | st.tuples(st.just("ask"), NAMES)),
)
def test_the_first_that_are_declared_are_members_from_then_on(
    limit: int, events: list[tuple[str, list[str] | str]]
) -> None:
    label = BoundedLabel(limit)
    given: list[str] = []
    overflowed = 0
    for what, values in events:
        if what == "learn":
            label.add(iter(values))
            given += values
            continue
        members = list(dict.fromkeys(given))[:limit]
        assert label(values) == (values if values in members else "other")
        overflowed += values not in (*members, "other")
        assert label.overflowed == overflowed


def test_nothing_is_a_member_before_it_is_declared() -> None:
    label = BoundedLabel(8)
    assert label("fast") == "other"
    label.add(["fast"])
    assert label("fast") == "fast"
    assert label.overflowed == 1


def test_other_itself_is_not_counted() -> None:
    label = BoundedLabel(8)
    assert [label("other"), EnumLabel(["a", "other"])("other")] == ["other", "other"]
    assert label.overflowed == 0


@pytest.mark.parametrize("value", [None, 1, True, b"fast", ["fast"], {"fast": 1}])
def test_what_is_no_text_is_never_a_member(value: object) -> None:
    label = BoundedLabel(8)
    label.add(["fast", "1", "True"])
    assert label(value) == "other"
    assert label.overflowed == 1


def test_a_hundred_thousand_declared_values_are_no_more_than_the_limit() -> None:
    label = BoundedLabel(32)
    for n in range(0, 100_000, 1000):
        label.add(f"profile-{n + i}" for i in range(1000))
    seen = {label(f"profile-{n}") for n in range(100_000)}
    assert seen == {*(f"profile-{n}" for n in range(32)), "other"}
    assert label.overflowed == 100_000 - 32


def test_declaring_the_same_again_uses_nothing_up() -> None:
    label = BoundedLabel(2)
    for _ in range(100):
        label.add(["fast"])
    label.add(["thorough"])
    assert [label("fast"), label("thorough")] == ["fast", "thorough"]


def test_what_the_app_uses_is_a_member_while_there_is_room_and_it_is_short() -> None:
    label = BoundedLabel(2)
    given: list[object] = ["a", "b" * 65, "", None, "c" * 64, "d", "a", "c" * 64]
    assert [label.admit(name) for name in given] == [
        "a",
        "other",
        "other",
        "other",
        "c" * 64,
        "other",
        "a",
        "c" * 64,
    ]
    assert label.overflowed == 4
