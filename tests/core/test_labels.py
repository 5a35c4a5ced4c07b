from __future__ import annotations

from threading import Thread

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel import catalog
from chainlit_otel.core.labels import ClosedSet


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
