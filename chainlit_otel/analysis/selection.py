"""What an export takes of a table."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from chainlit_otel.analysis.tables import FIELDS, HAPPENED, literal, timestamp, view

What = Literal["sessions", "turns", "feedback", "scores", "all"]
WHATS: tuple[What, ...] = get_args(What)


@dataclass(frozen=True)
class Selection:
    """Which rows of which table.

    Args:
        what: A table; `all` for the records as they are.
        since: From when on. Sessions and turns are taken by their start.
        until: Before when.
        outcome: Of a turn; sessions are taken that have such a turn.
        profile: Chat profile.
        min_duration: Seconds that a session or a turn has taken at least.
        user_hash: Of the user.
        client: Client.

    Raises:
        ValueError: The table has no such thing, in words for the user.
    """

    what: What
    since: datetime | None = None
    until: datetime | None = None
    outcome: str | None = None
    profile: str | None = None
    min_duration: float | None = None
    user_hash: str | None = None
    client: str | None = None

    def __post_init__(self) -> None:
        if self.what not in ("sessions", "turns"):
            for option, value in (
                ("--outcome", self.outcome),
                ("--min-duration", self.min_duration),
            ):
                if value is not None:
                    raise ValueError(f"{option} goes with --what sessions and --what turns only")

    def sql(self) -> str:
        """Return the query about the records, in DuckDB's dialect."""
        if self.what == "all":
            return f"SELECT {', '.join(FIELDS)} FROM records{self._where('time')}"
        where = self._where(HAPPENED[self.what])
        return f"WITH {self.what} AS (\n{view(self.what)})\nSELECT * FROM {self.what}{where}"

    def _where(self, happened: str) -> str:
        terms = []
        if self.since is not None:
            terms.append(f"{happened} >= {timestamp(self.since)}")
        if self.until is not None:
            terms.append(f"{happened} < {timestamp(self.until)}")
        if self.outcome is not None:
            if self.what == "sessions":
                terms.append(f"chainlit_session_turns_{self.outcome} > 0")
            else:
                terms.append(f"chainlit_outcome = {literal(self.outcome)}")
        if self.min_duration is not None:
            kind = self.what.removesuffix("s")
            terms.append(f"chainlit_{kind}_duration >= {self.min_duration!r}")
        for column, value in (
            ("chainlit_chat_profile", self.profile),
            ("user_hash", self.user_hash),
            ("chainlit_client_type", self.client),
        ):
            if value is not None:
                terms.append(f"{column} = {literal(value)}")
        return f" WHERE {' AND '.join(terms)}" if terms else ""
