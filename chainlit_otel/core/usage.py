"""What the model calls of a turn have used, each call once, whoever shows it.

The same call may be seen by several: by the app itself, by the spans of one or two
instrumentations, by an integration of Chainlit. Each of these is a *source*. One source shows a
call once; so two calls of one source are two, and a call of another source may be one of those that
are known. It is that one if the model's answer has the same id. Where one of them does not say the
id, it is if nothing speaks against it: the names of the model, and the counts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import RLock
from typing import Any, Protocol

APP = "app"
"""The source that the app itself is, by `record_usage()`. What it says wins."""
_DIGITS = 12  # of dollars: a token may cost a hundredth of a millionth
_RECENT = 200
"""With how many of the last calls of a turn a new one is compared."""


def counts(**tokens: int | None) -> dict[str, int]:
    """Return the tokens of a call that somebody shows, by type: those that are known.

    No call is without any token: who shows none has not seen what the model has answered.
    """
    known = {kind: count for kind, count in tokens.items() if count is not None}
    return known if any(known.values()) else {}


@dataclass
class ModelCall:
    """One call of a model.

    Attributes:
        requested: The model that was asked for; empty if that is not known.
        responded: The model that has answered, likewise.
        provider: Who serves it, likewise.
        tokens: Tokens by type, those that are known.
        cost: What it has cost by the app's own account; None if it has said nothing of it.
        answer: The id of the model's answer; empty if it is not known.
        is_answer: Whether the model answers; not if it only embeds or ranks what it is sent.
        sources: Those who have shown it.
    """

    requested: str = ""
    responded: str = ""
    provider: str = ""
    tokens: dict[str, int] = field(default_factory=dict)
    cost: float | None = None
    answer: str = ""
    is_answer: bool = True
    sources: set[str] = field(default_factory=set)

    @property
    def is_counted(self) -> bool:
        """Whether its tokens are known."""
        return "input" in self.tokens or "output" in self.tokens

    @property
    def is_whole(self) -> bool:
        """Whether all of its tokens are known: not if an answer was left before it ended."""
        if not self.is_answer or APP in self.sources:
            return self.is_counted
        return "output" in self.tokens

    @property
    def model(self) -> str:
        """The model, by the name that was asked for, if somebody says that."""
        return self.requested or self.responded

    def merge(self, other: ModelCall, wins: bool = False) -> None:
        """Take over what another account of this call knows.

        Args:
            other: The other account.
            wins: Whether its counts replace those that are known.
        """
        self.requested = self.requested or other.requested
        self.responded = self.responded or other.responded
        self.provider = self.provider or other.provider
        self.answer = self.answer or other.answer
        self.is_answer = self.is_answer and other.is_answer
        if other.is_counted and (wins or not self.is_counted):
            self.tokens = dict(other.tokens)
        else:
            is_left = _is_left(self) or _is_left(other)
            # One account may tell the tokens of caches apart where the other does not.
            self.tokens = {**other.tokens, **self.tokens}
            if is_left and APP not in self.sources:
                # Some have a first count of the output, which is not that of what came of it.
                self.tokens.pop("output", None)
        if other.cost is not None and (wins or self.cost is None):
            self.cost = other.cost
        self.sources |= other.sources


def _likeness(one: ModelCall, other: ModelCall) -> float:
    """Return how much the names speak for one model; 0 if they speak against it."""
    names = {one.requested, one.responded} - {""}
    others = {other.requested, other.responded} - {""}
    if not names or not others:
        return 1
    if names & others:
        return math.inf
    # `gpt-4o` begins as `gpt-4o-mini-2024-07-18` does, but `gpt-4o-mini` has more of it.
    return max(max(_in_common(a, b), _in_common(b, a)) for a in names for b in others)


def _in_common(name: str, longer: str) -> int:
    """Return how long a name is of which another one is a variant; 0 if it is none."""
    # A gateway puts the provider before the name, and a provider the date behind it.
    if "/" not in name or "/" not in longer:
        name, longer = without_provider(name), without_provider(longer)
    return len(name) if longer == name or longer.startswith(f"{name}-") else 0


def without_provider(model: str) -> str:
    """Return the name of a model without the provider that a gateway puts before it."""
    return model.rpartition("/")[2]


def _is_left(call: ModelCall) -> bool:
    """Tell whether somebody has seen an answer begin and not end."""
    return call.is_answer and "input" in call.tokens and "output" not in call.tokens


def _has_same_counts(one: ModelCall, other: ModelCall) -> bool:
    """Tell whether two accounts have the same tokens; some add those of caches, some do not."""
    kinds = ["input"] if _is_left(one) or _is_left(other) else ["input", "output"]
    return all(any(a == b for a in _ways(one, kind) for b in _ways(other, kind)) for kind in kinds)


def _ways(call: ModelCall, kind: str) -> tuple[int, ...]:
    tokens, whole = call.tokens, call.tokens.get(kind, 0)
    if kind == "output":
        return whole, whole + tokens.get("reasoning", 0)
    read, written = tokens.get("cache_read", 0), tokens.get("cache_write", 0)
    return whole, whole + read, whole + written, whole + read + written


class Usage:
    """The model calls of one turn. Not thread-safe: its ledger is.

    Attributes:
        calls: The calls, in the order in which they became known.
        is_closed: Whether the turn is over and its calls are in the totals.
    """

    def __init__(self) -> None:
        self.calls: list[ModelCall] = []
        self.is_closed = False
        self._below: dict[int, list[ModelCall]] = {}

    def add(self, source: str, call: ModelCall) -> ModelCall:
        """A source shows a call; return the one that it is.

        Args:
            source: The source.
            call: Its account of the call.
        """
        call.sources = {source}
        if (known := self._find(source, call)) is not None:
            known.merge(call, wins=source == APP)
            return known
        self.calls.append(call)
        return call

    def end_span(self, source: str, call: ModelCall | None, span: int, parent: int) -> bool:
        """A span of another instrumentation has ended.

        The span of an agent, or of a gateway, has the tokens of the calls below it once more, so
        the innermost spans that have counts are those that count.

        Args:
            source: The instrumentation.
            call: The call that the span says it is; None if it says nothing of one.
            span: Its id.
            parent: Id of its parent; 0 without one.

        Returns:
            Whether there are calls in it or below it.
        """
        calls = self._below.pop(span, [])
        if call is not None:
            call.sources = {source}
            if not calls:
                calls = [self.add(source, call)]
            elif call.is_counted and not any(known.is_counted for known in calls):
                calls[0].merge(call)
                for known in calls[1:]:
                    known.tokens = {"input": 0, "output": 0}
            for known in calls:
                known.sources.add(source)
        if calls and parent:
            self._below.setdefault(parent, []).extend(calls)
        return bool(calls)

    def _find(self, source: str, call: ModelCall) -> ModelCall | None:
        """Return the call that this is another account of; the most alike, then the oldest."""
        others = [known for known in self.calls[-_RECENT:] if source not in known.sources]
        if call.answer:
            for known in others:
                # Whatever it counted: some count the first piece of a streamed answer twice.
                if known.answer == call.answer:
                    return known
        likeness = {
            id(known): _likeness(known, call)
            for known in others
            if not (known.answer and call.answer)
        }
        alike = [known for known in others if likeness.get(id(known))]
        alike.sort(key=lambda known: likeness[id(known)], reverse=True)
        if call.is_counted:
            for known in alike:
                if known.is_counted and _has_same_counts(known, call):
                    return known
        for known in alike:
            if not known.is_counted or not call.is_counted:
                return known
            # The app may count in its own way, and is to be believed.
            if APP in (source, *known.sources):
                return known
        return None


@dataclass
class UsageTotals:
    """What several model calls have used together.

    Attributes:
        inferences: How many calls.
        answered: How many of them are answers, and not embeddings or ranks.
        uncounted: Of how many of them the tokens are not known, or not that of the output.
        unpriced: Of how many more there is no price.
        tokens: Tokens by type.
        cost: What those that have a price have cost; None without any, which is not nothing.
    """

    inferences: int = 0
    answered: int = 0
    uncounted: int = 0
    unpriced: int = 0
    tokens: Counter[str] = field(default_factory=Counter)
    cost: float | None = None

    def add(self, call: ModelCall, state: str, cost: float | None) -> None:
        """Add one call, which is in this state, and has cost so much."""
        self.inferences += 1
        self.answered += call.is_answer
        self.uncounted += state == "uncounted"
        self.unpriced += state == "unpriced"
        self.tokens.update(call.tokens)
        if cost is not None:
            self.cost = (self.cost or 0.0) + cost

    def update(self, other: UsageTotals) -> None:
        """Add the totals of others."""
        self.inferences += other.inferences
        self.answered += other.answered
        self.uncounted += other.uncounted
        self.unpriced += other.unpriced
        self.tokens.update(other.tokens)
        if other.cost is not None:
            self.cost = (self.cost or 0.0) + other.cost

    def values(self) -> dict[str, float]:
        """Return what is known of them, by name; what no call has said is not there."""
        values: dict[str, float] = {
            "inferences": self.inferences,
            "uncounted": self.uncounted,
            "unpriced": self.unpriced,
        }
        values |= {f"{kind}_tokens": count for kind, count in self.tokens.items()}
        if self.cost is not None:
            # A sum of small floats has digits behind those that say something.
            values["cost"] = round(self.cost, _DIGITS)
        return values


def answering(spent: Mapping[str, UsageTotals]) -> str:
    """Return the model that has answered most; empty if none has."""
    answered = [model for model, totals in spent.items() if totals.answered]
    return max(answered, key=lambda model: spent[model].tokens["output"], default="")


def sum_of(spent: Mapping[str, UsageTotals]) -> UsageTotals:
    """Return the totals of all models."""
    total = UsageTotals()
    for one in spent.values():
        total.update(one)
    return total


class _Turn(Protocol):
    """What the ledger reads of a turn, and what it keeps there.

    Attributes:
        session: Its session, which has the totals of all its turns; None if it had none.
        ended: Whether it is over.
        outcome_at_end: Its outcome, once it is.
        undelivered: How much was sent to a socket that was gone.
        usage: Its model calls; None before the first.
        spent: Their totals by model, once it is over; None without any.
    """

    session: Any
    ended: bool
    outcome_at_end: str
    undelivered: int
    usage: Usage | None
    spent: dict[str, UsageTotals] | None


Price = Callable[[ModelCall], "float | None"]
"""Returns what a call has cost, or None if there is no price for it."""


class UsageLedger:
    """What all model calls have used. Thread-safe: instrumentations end spans in any thread.

    A turn is added when it is over, since a call may be shown by another source up to then.

    Args:
        price: Returns what a call has cost.
        label: Returns the bounded label of a model.
    """

    def __init__(self, price: Price, label: Callable[[str], str]) -> None:
        self._price = price
        self._label = label
        self._lock = RLock()
        self._tokens: Counter[tuple[str, ...]] = Counter()
        self._inferences: Counter[tuple[str, ...]] = Counter()
        self._cost: dict[tuple[str, ...], float] = {}
        self._wasted: dict[tuple[str, ...], float] = {}
        self._unlinked = 0

    def record(self, turn: _Turn | None, source: str, call: ModelCall) -> None:
        """A source shows a call.

        Args:
            turn: The turn that it was made in; None outside of turns.
            source: The source.
            call: Its account of the call.
        """
        with self._lock:
            if turn is None:
                self._unlinked += 1
                return
            usage = self._usage_of(turn)
            known = len(usage.calls)
            usage.add(source, call)
            self._add_late(turn, usage, known)

    def end_span(
        self, turn: _Turn | None, source: str, call: ModelCall | None, span: int, parent: int
    ) -> None:
        """A span of another instrumentation has ended; see `Usage.end_span`.

        Args:
            turn: The turn that it belongs to; None outside of turns.
            source: The instrumentation.
            call: The call that the span says it is; None if it says nothing of one.
            span: Its id.
            parent: Id of its parent; 0 without one.
        """
        with self._lock:
            if turn is None:
                self._unlinked += call is not None
                return
            if call is None and turn.usage is None:
                return
            usage = self._usage_of(turn)
            known = len(usage.calls)
            usage.end_span(source, call, span, parent)
            self._add_late(turn, usage, known)

    def close(self, turn: _Turn) -> None:
        """A turn is over: add its calls to the totals; again changes nothing."""
        with self._lock:
            usage = turn.usage
            if usage is not None and not usage.is_closed:
                usage.is_closed = True
                self._add(turn, usage.calls)

    def _usage_of(self, turn: _Turn) -> Usage:
        if turn.usage is None:
            turn.usage = Usage()
        return turn.usage

    def _add_late(self, turn: _Turn, usage: Usage, known: int) -> None:
        """Add what became known when the turn was over, as a task may outlive it."""
        if usage.is_closed:
            self._add(turn, usage.calls[known:])
        elif turn.ended:
            self.close(turn)

    def _add(self, turn: _Turn, calls: list[ModelCall]) -> None:
        outcome = turn.outcome_at_end
        wasted = outcome if outcome != "ok" else "undelivered" if turn.undelivered else ""
        if turn.spent is None:
            turn.spent = {}
        for call in calls:
            model = self._label(call.model)
            cost = call.cost
            if cost is None and call.is_counted:
                cost = self._price(call)
            state = "unpriced" if cost is None else "counted"
            if not call.is_whole:
                state = "uncounted"
            self._inferences[model, state] += 1
            for kind, count in call.tokens.items():
                self._tokens[model, kind] += count
            if cost is not None:
                self._cost[model, outcome] = self._cost.get((model, outcome), 0.0) + cost
                if wasted:
                    self._wasted[(wasted,)] = self._wasted.get((wasted,), 0.0) + cost
            turn.spent.setdefault(model, UsageTotals()).add(call, state, cost)
            if (session := turn.session) is not None:
                session.spent = session.spent or UsageTotals()
                session.spent.add(call, state, cost)

    def tokens(self) -> dict[tuple[str, ...], int]:
        """Tokens by model and type."""
        with self._lock:
            return dict(self._tokens)

    def inferences(self) -> dict[tuple[str, ...], int]:
        """Model calls by model and state."""
        with self._lock:
            return dict(self._inferences)

    def cost(self) -> dict[tuple[str, ...], float]:
        """Cost by model and outcome of the turn."""
        with self._lock:
            return dict(self._cost)

    def wasted_cost(self) -> dict[tuple[str, ...], float]:
        """Cost of turns that failed, were stopped or were not seen, by which of these."""
        with self._lock:
            return dict(self._wasted)

    def unlinked(self) -> dict[tuple[str, ...], int]:
        """Model calls outside of turns, which are in no other figure; nothing before the first."""
        with self._lock:
            return {(): self._unlinked} if self._unlinked else {}
