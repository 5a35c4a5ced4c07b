"""What is held back has run, was discarded or still waits, whatever happens."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chainlit_otel.core.operations import Held, OperationLedger

SESSIONS = st.integers(0, 3)
NAMES = st.sampled_from(["create_step", "update_step", "other"])


class Books(RuleBasedStateMachine):
    """The ledger beside plain lists of what waits for each session."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = OperationLedger()
        self.held = [Held() for _ in range(4)]
        self.waiting: list[list[str]] = [[] for _ in range(4)]
        self.queued: Counter[str] = Counter()
        self.discarded: Counter[str] = Counter()
        self.ran = 0

    @rule(session=SESSIONS, name=NAMES)
    def hold_back(self, session: int, name: str) -> None:
        self.ledger.hold_back(self.held[session], name)
        self.waiting[session].append(name)
        self.queued[name] += 1

    @rule(session=SESSIONS, name=NAMES)
    def replay(self, session: int, name: str) -> None:
        self.ledger.replay(self.held[session], name)
        if name in self.waiting[session]:
            self.waiting[session].remove(name)
            self.ran += 1

    @rule(session=SESSIONS, collected=st.booleans())
    def discard(self, session: int, collected: bool) -> None:
        (self.ledger.collected if collected else self.ledger.discard)(self.held[session])
        self.discarded.update(self.waiting[session])
        self.waiting[session].clear()

    @rule(name=NAMES, outcome=st.sampled_from(["ok", "error", "cancelled"]))
    def end(self, name: str, outcome: str) -> None:
        before = self.ledger.operations[name, "Layer", outcome]
        self.ledger.ended(name, "Layer", outcome)
        assert self.ledger.operations[name, "Layer", outcome] == before + 1

    @invariant()
    def the_books_agree(self) -> None:
        waiting = sum(map(len, self.waiting))
        assert self.ledger.waiting == waiting
        assert +self.ledger.queued == {(n,): c for n, c in self.queued.items()}
        assert +self.ledger.discarded == {(n,): c for n, c in self.discarded.items()}
        queued, discarded = self.ledger.queued.total(), self.ledger.discarded.total()
        assert queued == discarded + self.ran + waiting


def test_a_session_may_be_collected_while_the_books_are_being_written() -> None:
    ledger, held = OperationLedger(), Held()
    ledger.hold_back(held, "create_step")
    with ledger._lock:
        ledger.collected(held)
    assert (ledger.waiting, ledger.discarded) == (0, {("create_step",): 1})


TestBooks = Books.TestCase
