"""One visitor whose doings are counted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from chainlit_otel.testing.client import TIMEOUT, Visitor
from chainlit_otel.testing.errors import NoAnswer, VisitError
from chainlit_otel.testing.http import Upload
from chainlit_otel.testing.page import Answer
from chainlit_otel.testing.results import AnsweredTurn, LoadReport, Phase, Timing

_T = TypeVar("_T")
_MOST_LINES = 20


@dataclass(frozen=True)
class Target:
    """Where visitors go, and how.

    Args:
        url: address of the chat page.
        client_type, transports, headers, timeout: of every `Visitor`.
    """

    url: str
    client_type: str = "webapp"
    transports: Sequence[str] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = TIMEOUT


class Visit:
    """What a visitor does, and the report of it.

    Args:
        visitor: who does it.
        report: what is added to.
        number: of the visitor, from 0.
        start: start of the run on the clock `time.perf_counter`.
    """

    def __init__(self, visitor: Visitor, report: LoadReport, number: int, start: float) -> None:
        self.visitor = visitor
        self.report = report
        self._number = number
        self._start = start
        self._inside = False
        self._session_start: float | None = None
        self._last_seen = 0.0
        self._transcript: list[str] = []

    async def connect(self) -> None:
        """Open the page."""
        await self._timed("connect", self.visitor.connect())
        self._begin_session()

    async def say(self, text: str, files: Sequence[Upload] = (), **chosen: Any) -> Answer:
        """Send a message, with what is chosen for it, and wait for the answer."""
        self.report.messages += 1
        answer = await self.hear(text, self.visitor.say(text, files=files, **chosen))
        self.report.uploads += 0 if answer.answers_question else len(files)
        return answer

    async def hear(self, request: str, answering: Awaitable[Answer]) -> Answer:
        """Wait for an answer and count it.

        Args:
            request: what is answered, for the transcript.
            answering: what the visitor does.
        """
        self._note(f"> {request}")
        answer = await answering
        if answer.duration is not None:
            self._add("turn", answer.duration)
            if not answer.answers_question:
                failed = answer.error is not None
                self.report.turns.append(
                    AnsweredTurn(answer.duration, answer.time_to_first_token, failed)
                )
        if answer.time_to_first_token is not None:
            self._add("first_token", answer.time_to_first_token)
        self._note_answer(answer)
        return answer

    async def overhear(self, text: str) -> Answer:
        """Wait for what the app says by itself: no answer, so none of the times of answers."""
        answer = await self.visitor.hear(text)
        self._note_answer(answer)
        return answer

    def _note_answer(self, answer: Answer) -> None:
        self.report.replies += len(answer.texts)
        for text in answer.texts:
            self._note(f"< {text}")
        if answer.error:
            self._note(f"! {answer.error}")

    async def drop(self, absence: float) -> None:
        """Lose the connection, and come back after so many seconds."""
        self._before_disconnect()
        await self.visitor.drop()
        await asyncio.sleep(absence)
        await self._timed("reconnect", self.visitor.reconnect())
        self.report.reconnects += 1
        self._after_connect()

    async def new_chat(self) -> None:
        """Press *New Chat*."""
        await self.begin_anew(self.visitor.new_chat())
        self.report.new_chats += 1

    async def begin_anew(self, beginning: Awaitable[None]) -> None:
        """End the session, and begin another one in the way that is given."""
        self._before_disconnect()
        await beginning
        self._end_session()
        self._begin_session()

    async def leave(self, *, clear: bool) -> None:
        """Close the tab; `clear` ends the session before."""
        self._before_disconnect()
        try:
            await self.visitor.leave(clear=clear)
        finally:
            self._end_session()

    def fail(self, error: VisitError) -> None:
        """Count something that went wrong."""
        self.report.add_failure(
            error, at=self._now(), visitor=self._number, transcript=self._transcript
        )

    def expect_an_answer(self, text: str, answer: Answer) -> None:
        """Count a message to which the app has said nothing, or for which it shows a failure."""
        if answer.error is not None:
            self.fail(VisitError(f"the app shows a failure on {text!r}: {answer.error}"))
        elif not answer.texts:
            self.fail(NoAnswer(f"the app said nothing to {text!r}"))

    def _now(self) -> float:
        return time.perf_counter() - self._start

    def _note(self, line: str) -> None:
        self._transcript.append(" ".join(line.split())[:500])
        del self._transcript[:-_MOST_LINES]

    def _add(self, phase: Phase, seconds: float) -> None:
        self.report.timings[phase].append(Timing(self._now(), seconds))

    async def _timed(self, phase: Phase, work: Awaitable[_T]) -> _T:
        start = time.perf_counter()
        done = await work
        self._add(phase, time.perf_counter() - start)
        return done

    def _begin_session(self) -> None:
        self.report.sessions += 1
        self._session_start = time.monotonic()
        self._after_connect()

    def _after_connect(self) -> None:
        self._inside = True
        self.report.enter(self._now())

    def _before_disconnect(self) -> None:
        if self._inside:
            self._inside = False
            self.report.exit(self._now())
            self._last_seen = time.monotonic()

    def _end_session(self) -> None:
        if self._session_start is not None:
            self.report.ended += 1
            self.report.seconds += self._last_seen - self._session_start
            self._session_start = None
