"""Distinct users against a naive model, and nothing kept of those who are gone."""

from __future__ import annotations

import gc
import weakref

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chainlit_otel.core.users import Users

identifiers = st.sampled_from(["ada", "bob", "cy"])
numbers = st.integers(0, 7)


class Session:
    """Something of the host that can be referred to weakly."""


class Machine(RuleBasedStateMachine):
    """Sessions come, leave and are collected; the model is a plain table."""

    def __init__(self) -> None:
        super().__init__()
        self.users = Users()
        self.sessions: dict[int, Session] = {}
        self.present: dict[int, str] = {}

    @rule(number=numbers, identifier=identifiers)
    def comes(self, number: int, identifier: str) -> None:
        self.users.connect(self.sessions.setdefault(number, Session()), identifier)
        self.present.setdefault(number, identifier)

    @rule(number=numbers)
    def leaves(self, number: int) -> None:
        self.users.disconnect(self.sessions.setdefault(number, Session()))
        self.present.pop(number, None)

    @rule(number=numbers)
    def is_collected(self, number: int) -> None:
        self.sessions.pop(number, None)
        self.present.pop(number, None)

    @invariant()
    def as_many_as_in_the_model(self) -> None:
        assert self.users.active() == len(set(self.present.values()))


TestUsers = Machine.TestCase


def test_nothing_is_kept_of_those_who_are_gone() -> None:
    class Name(str):
        """A string that can be referred to weakly."""

        __slots__ = ("__weakref__",)

    users = Users()
    sessions = [Session() for _ in range(100)]
    names = [Name(f"user {number}") for number in range(100)]
    known = weakref.WeakSet(names)
    for session, name in zip(sessions, names, strict=True):
        users.connect(session, name)
    assert users.active() == 100
    for session in sessions[:50]:
        users.disconnect(session)
    del session, name
    names.clear()
    sessions.clear()
    assert users.active() == 0
    gc.collect()
    assert len(known) == 0
