"""What the live page shows: it is given what is over, and samples what goes on."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Literal

from chainlit_otel.core.journal import Journal
from chainlit_otel.core.sessions import NS, Clock, Session
from chainlit_otel.core.turns import Turn
from chainlit_otel.live.figures import FIGURES, Figures, LoopState, Readings, Sampler
from chainlit_otel.live.history import History
from chainlit_otel.live.rows import Doing, Row, event_row, turn_row
from chainlit_otel.live.sessions import SessionBoard
from chainlit_otel.live.traces import KeptSpan, TraceStore
from chainlit_otel.live.turns import KeptTurn, TurnBoard
from chainlit_otel.thresholds import Thresholds

_KEY = re.compile("[0-9]{1,18}")
_INTEREST = 15 * 60  # seconds after the last page was closed for which spans are still kept


class Live:
    """What the live page shows.

    What is over comes from any thread. All else is for the thread of the admin server.

    Args:
        thresholds: Those of the alerts.
        trace_url: Address of a trace, with `{trace_id}` in place of its id; empty if there is none.
        clock: Monotonic clock, in nanoseconds.
        wall: Wall clock, in nanoseconds since the epoch.

    Attributes:
        journal: Keeps what happens in sessions.
        traces: Keeps the spans of turns.
        turns: Keeps turns.
        history: What the figures were.
    """

    def __init__(
        self,
        thresholds: Thresholds | None = None,
        trace_url: str = "",
        clock: Clock = time.monotonic_ns,
        wall: Clock = time.time_ns,
    ) -> None:
        self._thresholds = thresholds or Thresholds()
        self._trace_url = trace_url
        self._clock = clock
        self._wall = wall
        self._open_turns: Callable[[], list[Turn]] = list
        self._open_sessions: Callable[[], list[Session]] = list
        self._loop: Callable[[], LoopState] = LoopState
        self._show_traces: Callable[[], None] = lambda: None
        self._sampler: Sampler | None = None
        self._figures: Figures = {}
        self._state = LoopState()
        self._last_turn = 0
        self._looked = clock()
        self.journal = Journal()
        self.traces = TraceStore()
        self.turns = TurnBoard(self._thresholds.first_token_seconds, self.traces.forget)
        self.sessions = SessionBoard(lambda: self._open_sessions(), self._doing, self._at)
        self.history = History(FIGURES)

    def observe(
        self,
        readings: Readings,
        open_sessions: Callable[[], list[Session]],
        open_turns: Callable[[], list[Turn]],
        loop: Callable[[], LoopState],
        show_traces: Callable[[], None],
    ) -> None:
        """Begin to show what is measured.

        Args:
            readings: What is measured.
            open_sessions: Returns the open sessions.
            open_turns: Returns the turns under way.
            loop: Returns how the event loop is.
            show_traces: Has `traces` shown the spans of the tracer provider there is. It is called
                each second, since the app may set its provider at any time.
        """
        self._open_sessions, self._open_turns, self._loop = open_sessions, open_turns, loop
        self._show_traces = show_traces
        self._sampler = Sampler(readings, self.turns.totals, self._thresholds)

    def sample(self, pages: int) -> None:
        """Read the figures; to be called once a second.

        Args:
            pages: How many pages are open.
        """
        if pages:
            self._looked = self._clock()
            self._show_traces()
        else:
            self.sessions.forget()
            if self._clock() - self._looked > _INTEREST * NS:
                self.traces.is_wanted = False
        if self._sampler is not None:
            second = self._clock() // NS
            self._state = self._loop()
            self._figures = self._sampler.sample(second, self._state)
            self.history.add(second, self._figures)

    # What the page asks for

    def tick(self) -> Row:
        """Return the figures of the last sample."""
        headline = [] if self._sampler is None else self._sampler.headline
        return {
            "at": self._wall() / NS,
            "figures": self._figures,
            "headline": [figure._asdict() for figure in headline],
            "loop": {
                "blocked": self._state.blocked,
                "seconds": round(self._state.seconds, 3),
                "where": self._state.where,
            },
        }

    def read_history(self, step: Literal[1, 60], since: float = 0.0) -> Row:
        """Return what the figures were.

        Args:
            step: Seconds from value to value.
            since: The time from which on it is wanted, in seconds since the epoch.
        """
        offset = (self._wall() - self._clock()) / NS
        window = self.history.read(step, max(0, int(since - offset)))
        figures = {
            name: [None if value is None else round(value, 6) for value in values]
            for name, values in window.values.items()
        }
        return {"step": step, "start": window.start + offset, "figures": figures}

    def read_sessions(self) -> Row:
        """Return all sessions that are shown."""
        return {
            "at": self._wall() / NS,
            "open": self.sessions.open_rows(),
            "ended": self.sessions.ended_rows(),
        }

    def read_session(self, key: str) -> Row | None:
        """Return a session with its events and turns; None if it is not kept."""
        if (found := self.sessions.find(key)) is None:
            return None
        session, row = found
        events = session.events
        turns = self.turns.of_session(lambda turn: turn.session is session)
        return {
            "row": row,
            "events": []
            if events is None
            else [event_row(session, event, self._at) for event in self.journal.read(events)],
            "skipped": 0 if events is None else events.dropped,
            "turns": list(map(self._turn_row, turns)),
        }

    def read_turns(self) -> Row:
        """Return all turns that are kept."""
        return {"at": self._wall() / NS, "rows": list(map(self._turn_row, self.turns.read()))}

    def read_turn(self, key: str) -> Row | None:
        """Return a turn with its spans; None if it is not kept."""
        kept = self.turns.find(int(key)) if _KEY.fullmatch(key) else None
        if kept is None:
            return None
        spans, dropped = self.traces.read(kept.turn.trace) if kept.turn.trace else ([], 0)
        began = min([kept.turn.started_at, *(span.started for span in spans)])
        return {
            "row": self._turn_row(kept),
            "spans": [_span_row(span, began) for span in spans],
            "dropped": dropped,
        }

    def look(self) -> None:
        """A page is opened; it asks for all there is, and what has changed so far is forgotten."""
        self._looked = self._clock()
        self._show_traces()
        self.traces.is_wanted = True
        self.sessions.changes()
        self._last_turn = self.turns.last_key

    def changes(self) -> tuple[list[Row], list[Row]]:
        """Return the sessions that have changed, and the turns that have ended, since last time."""
        turns = self.turns.read(self._last_turn)
        self._last_turn = turns[-1].key if turns else self._last_turn
        return self.sessions.changes(), list(map(self._turn_row, turns))

    def _turn_row(self, kept: KeptTurn) -> Row:
        trace_id = kept.turn.reference.trace_id
        url = self._trace_url.replace("{trace_id}", trace_id) if trace_id else ""
        return turn_row(str(kept.key), kept.turn, kept.seconds, self._at, kept.kept, url)

    def _doing(self) -> dict[Session, Doing]:
        doing = {}
        for turn in self._open_turns():
            if turn.session is not None:
                callback, step = self.traces.under_way(turn.trace) if turn.trace else ("", "")
                doing[turn.session] = Doing(turn.arrived, callback, step)
        return doing

    def _at(self, monotonic: int) -> float:
        return (self._wall() - (self._clock() - monotonic)) / NS


def _span_row(span: KeptSpan, began: int) -> dict[str, Any]:
    return {
        "id": f"{span.span_id:016x}",
        "parent": f"{span.parent_id:016x}" if span.parent_id else "",
        "name": span.name,
        "start": (span.started - began) / NS,
        "seconds": max(0, span.ended - span.started) / NS,
        "outcome": span.outcome,
        "attributes": span.attributes,
        "events": [
            {"at": (at - began) / NS, "name": name, "attributes": attributes}
            for at, name, attributes in span.events
        ],
    }
