"""Plays a dialog script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import singledispatchmethod
from typing import Any

from chainlit_otel.testing import dialog
from chainlit_otel.testing.client import Visitor
from chainlit_otel.testing.dialog import Dialog, Expectation, fill, fill_all
from chainlit_otel.testing.http import Upload
from chainlit_otel.testing.page import Answer, excerpt
from chainlit_otel.testing.results import CheckFailed
from chainlit_otel.testing.visit import Target, Visit


def visitor_of(script: Dialog, target: Target, number: int) -> Visitor:
    """Return the visitor of a script, who has not come yet.

    Args:
        script: says who it is, and how long an answer may take.
        target: where it goes.
        number: of the visitor, from 0: takes the row of the data.
    """
    values = script.values(number)
    sign_in = script.who.sign_in or dialog.SignIn.model_construct()
    sent = {
        **target.headers,
        **{name: fill(text, values) for name, text in sign_in.headers.items()},
    }
    if sign_in.cookie:
        sent["Cookie"] = fill(sign_in.cookie, values)
    by_form = (fill(sign_in.username, values), fill(sign_in.password, values))
    visitor = Visitor(
        target.url,
        client_type=script.who.client,
        transports=target.transports,
        chat_profile=fill(script.who.profile, values),
        headers=sent,
        password=by_form if sign_in.username else None,
        token=fill(sign_in.token, values),
        header_auth=bool(sign_in.headers),
        functions={
            name: _function(fill_all(answer, values))
            for name, answer in script.who.functions.items()
        },
        timeout=script.timeout,
    )
    visitor.user_env = fill_all(script.who.env, values)
    return visitor


def _function(answer: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda args: answer


class Player:
    """Does what a script says, and looks at what comes back.

    Args:
        script: what is done.
        visit: does it.
        number: of the visitor, from 0.
        rng: decides between branches, and how long is waited.
    """

    def __init__(self, script: Dialog, visit: Visit, number: int, rng: random.Random) -> None:
        self._script = script
        self._visit = visit
        self._values = script.values(number)
        self._rng = rng
        self._last_said = ""
        self._last_heard = ""
        self._thread_before: str | None = None

    async def play(self) -> None:
        """Do it all; what is not as expected is counted, and does not end it.

        Raises:
            VisitError: the connection was lost, or an answer did not come: it ends here.
        """
        await self._all(self._script.dialog)

    async def _all(self, steps: Sequence[Any]) -> None:
        for step in steps:
            await self._do(step)

    @singledispatchmethod
    async def _do(self, step: Any) -> None:
        raise NotImplementedError(type(step).__name__)

    @_do.register
    async def _(self, step: dialog.Say) -> None:
        text = self._fill(step.say)
        files = self._uploads(step.files)
        chosen = {"command": self._fill(step.command), "modes": self._fill_all(step.modes)}
        answer = await self._visit.say(text, files, **chosen)
        self._last_said = answer.message_id
        self._look_at(step, f"say {text!r}", answer)

    @_do.register
    async def _(self, step: dialog.Hear) -> None:
        text = self._fill(step.hear)
        self._look_at(step, f"hear {text!r}", await self._visit.overhear(text))

    @_do.register
    async def _(self, step: dialog.Start) -> None:
        label = self._fill(step.starter)
        self._visit.report.messages += 1
        await self._hear(step, f"starter {label!r}", self._visitor.start_with(label))

    @_do.register
    async def _(self, step: dialog.Speak) -> None:
        file = self._path(step.speak)
        await self._hear(step, f"speak {step.speak!r}", self._visitor.speak(file))

    @_do.register
    async def _(self, step: dialog.PostToWindow) -> None:
        await self._visitor.post_window_message(self._fill_all(step.window))

    @_do.register
    async def _(self, step: dialog.AnswerElement) -> None:
        cancels = step.answer_element == "cancel"
        props = None if cancels else self._fill_all(step.answer_element)
        await self._hear(step, "answer with the element", self._visitor.answer_with_element(props))

    @_do.register
    async def _(self, step: dialog.ChangeElement) -> None:
        name, props = self._fill(step.change_element), self._fill_all(step.props)
        try:
            await self._visitor.change_element(name, props)
        except LookupError as error:
            raise CheckFailed(f"change {name!r}: {error.args[0]}") from None

    @_do.register
    async def _(self, step: dialog.AnswerFiles) -> None:
        answering = self._visitor.answer_with_files(*self._uploads(step.answer_files))
        names = ", ".join(self._fill(each.file) for each in step.answer_files)
        await self._hear(step, f"answer with the files {names}", answering)
        self._visit.report.uploads += len(step.answer_files)

    @_do.register
    async def _(self, step: dialog.AnswerAction) -> None:
        name = self._fill(step.answer_action)
        answering = self._visitor.answer_with_action(name)
        await self._hear(step, f"answer with {name!r}", answering)

    @_do.register
    async def _(self, step: dialog.Press) -> None:
        name = self._fill(step.press)
        payload = self._fill_all(step.payload)
        await self._hear(step, f"press {name!r}", self._visitor.press(name, payload))

    @_do.register
    async def _(self, step: dialog.Edit) -> None:
        text = self._fill(step.edit)
        answering = self._visitor.edit(self._last_said, text)
        await self._hear(step, f"edit {text!r}", answering)

    @_do.register
    async def _(self, step: dialog.Stop) -> None:
        text = self._fill(step.stop)
        turn = asyncio.ensure_future(self._visit.say(text))
        try:
            await asyncio.wait({turn}, timeout=step.after)
            if not turn.done():
                await self._visitor.stop()
            await turn
        finally:
            turn.cancel()

    @_do.register
    async def _(self, step: dialog.Wait) -> None:
        await asyncio.sleep(self._rng.uniform(step.wait[0], step.wait[-1]))

    @_do.register
    async def _(self, step: dialog.Rate) -> None:
        value = int(step.rate == "up")
        await self._visitor.give_feedback(self._last_heard, value, self._fill(step.comment))

    @_do.register
    async def _(self, step: dialog.ChangeSettings) -> None:
        await self._visitor.change_settings(**self._fill_all(step.settings))

    @_do.register
    async def _(self, step: dialog.Profile) -> None:
        choosing = self._visitor.choose_profile(self._fill(step.profile))
        await self._begin_anew(self._visit.begin_anew(choosing))

    @_do.register
    async def _(self, step: dialog.NewChat) -> None:
        await self._begin_anew(self._visit.new_chat())

    @_do.register
    async def _(self, step: dialog.Resume) -> None:
        thread = self._thread_before if step.resume is True else self._fill(step.resume)
        if thread is None:
            raise CheckFailed("resume: there is no chat before this one")
        await self._begin_anew(self._visit.begin_anew(self._visitor.resume(thread)))

    @_do.register
    async def _(self, step: dialog.RenameThread) -> None:
        await self._visitor.rename_thread(self._fill(step.rename))

    @_do.register
    async def _(self, step: dialog.ShareThread) -> None:
        await self._visitor.share_thread(step.share)

    @_do.register
    async def _(self, step: dialog.DeleteThread) -> None:
        await self._visit.begin_anew(self._visitor.delete_thread())

    @_do.register
    async def _(self, step: dialog.Drop) -> None:
        await self._visit.drop(step.drop)

    @_do.register
    async def _(self, step: dialog.Choose) -> None:
        weights = [branch.weight for branch in step.choose]
        (branch,) = self._rng.choices(step.choose, weights)
        await self._all(branch.do)

    @_do.register
    async def _(self, step: dialog.Repeat) -> None:
        for _ in range(step.repeat):
            await self._all(step.do)

    @property
    def _visitor(self) -> Visitor:
        return self._visit.visitor

    async def _begin_anew(self, beginning: Awaitable[None]) -> None:
        self._thread_before = self._visitor.thread_id or self._thread_before
        await beginning

    def _fill(self, text: str) -> str:
        return fill(text, self._values)

    def _fill_all(self, value: Any) -> Any:
        return fill_all(value, self._values)

    def _uploads(self, files: Sequence[dialog.FileToSend]) -> list[Upload]:
        return [Upload.read(self._path(each.file), each.mime) for each in files]

    def _path(self, file: str) -> str:
        return str(self._script.directory / self._fill(file))

    async def _hear(self, step: Any, what: str, answering: Any) -> None:
        try:
            answer = await self._visit.hear(what, answering)
        except LookupError as error:
            raise CheckFailed(f"{what}: {error.args[0]}") from None
        self._look_at(step, what, answer)

    def _look_at(self, step: Any, what: str, answer: Answer) -> None:
        self._last_heard = answer.message_ids[-1] if answer.message_ids else self._last_heard
        expected = step.expect
        for mistake in mistakes(expected, answer, self._values):
            self._visit.fail(CheckFailed(f"{what}: {mistake}"))
        self._visit.report.checks += _number_of_checks(expected)
        for name, pattern in step.save.items():
            found = pattern.search(answer.text)
            if found is None:
                raise CheckFailed(
                    f"{what}: {pattern.pattern!r} is not in the answer {excerpt(answer)}"
                )
            self._values[name] = found[1] if found.re.groups else found[0]


def mistakes(expected: Expectation, answer: Answer, values: dict[str, str]) -> list[str]:
    """Return what is not as expected, each in one line; pure.

    Args:
        expected: what must come back.
        answer: what came back.
        values: of the variables in the texts that are expected.
    """
    text, shown = answer.text, f"it is {excerpt(answer)}"
    contains = [fill(each, values) for each in expected.contains]
    not_contains = [fill(each, values) for each in expected.not_contains]
    found = [
        *(f"the answer does not contain {t!r}, {shown}" for t in contains if t not in text),
        *(
            f"the answer does not match {pattern.pattern!r}, {shown}"
            for pattern in expected.matches
            if pattern.search(text) is None
        ),
        *(f"the answer contains {t!r}, {shown}" for t in not_contains if t in text),
    ]
    if answer.error is not None and not expected.error:
        found.append(f"the app shows a failure: {answer.error}")
    if answer.error is None and expected.error:
        found.append("the app shows no failure")
    if expected.within is not None and (answer.duration or 0) > expected.within:
        found.append(f"the answer took {answer.duration:.2f} s, more than {expected.within:g} s")
    if expected.first_token_within is not None:
        first = answer.time_to_first_token
        if first is None:
            found.append("the answer has no text")
        elif first > expected.first_token_within:
            limit = expected.first_token_within
            found.append(f"the first text came after {first:.2f} s, more than {limit:g} s")
    for what, wanted, present in (
        ("step", expected.steps, [step.name for step in answer.steps]),
        ("element", expected.elements, [element.name for element in answer.elements]),
        ("button", expected.actions, [action.name for action in answer.actions]),
        ("call of", expected.calls, [call.name for call in answer.calls]),
        ("message to the window", fill_all(expected.window, values), answer.window_messages),
    ):
        for name in wanted:
            if name not in present:
                listed = ", ".join(map(repr, present)) or "none"
                found.append(f"there is no {what} {name!r}; there are: {listed}")
    return found


def _number_of_checks(expected: Expectation) -> int:
    texts = [*expected.contains, *expected.matches, *expected.not_contains]
    names = [*expected.steps, *expected.elements, *expected.actions, *expected.calls]
    times = [each for each in (expected.within, expected.first_token_within) if each is not None]
    # That there is a failure, or none, is always looked at.
    return 1 + len(texts) + len(names) + len(expected.window) + len(times)
