"""The state of Chainlit's page, from the events it receives. Pure: no connection."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

_SHOWN = ("new_message", "update_message", "stream_start")


class Event(NamedTuple):
    """One event received from the app.

    Attributes:
        name: the name of the Socket.IO event, e.g. ``new_message``.
        data: its first argument, or None.
    """

    name: str
    data: Any


class Step(NamedTuple):
    """A step of the app as the page shows it: a run, a tool call, a call of a model.

    Attributes:
        id: its id.
        name: its name, e.g. of the tool.
        type: ``run``, ``tool``, ``llm``, … as the app has set it.
        input: what went into it, as text; empty if the app does not show it.
        output: what came of it, as text.
        is_error: whether the app shows it as failed.
        parent_id: the step or message that it is part of, or None.
    """

    id: str
    name: str
    type: str
    input: str
    output: str
    is_error: bool
    parent_id: str | None


class Element(NamedTuple):
    """Something that the app has attached to a message: a file, an image, a table, ….

    Attributes:
        id: its id.
        name: its name.
        type: ``text``, ``image``, ``file``, ``custom``, … as Chainlit names them.
        mime: its media type; empty if the app says none.
        url: its address, if it has one of its own.
        data: all of it, as the app has sent it; ``props`` of a custom element among it.
    """

    id: str
    name: str
    type: str
    mime: str
    url: str
    data: dict[str, Any]


class Action(NamedTuple):
    """A button below a message.

    Attributes:
        id: its id.
        name: the name by which the app finds its callback.
        label: the words on it.
        data: all of it, as the app has sent it.
    """

    id: str
    name: str
    label: str
    data: dict[str, Any]


class Call(NamedTuple):
    """A function of the page around a copilot that the app has called (`CopilotFunction`).

    Attributes:
        name: the name of the function.
        args: what it was called with.
    """

    name: str
    args: dict[str, Any]


class Answer:
    """The answer to one message, or what the app said by itself, as far as it has arrived.

    Args:
        message_id: the message that is answered.
        answers_question: the message is itself the answer to a question of the app.
        sent: seconds on the clock of the page when it was sent.

    Attributes:
        received: the app has confirmed that it got the message.
        started: the app has begun to work on it.
        stopped: the visitor has pressed *Stop*.
        calls: functions of the page around a copilot that the app has called meanwhile.
        window_messages: what the app has sent to that page meanwhile.
    """

    def __init__(self, message_id: str, *, answers_question: bool, sent: float) -> None:
        self.message_id = message_id
        self.answers_question = answers_question
        self.received = answers_question
        self.started = False
        self.stopped = False
        self.calls: list[Call] = []
        self.window_messages: list[Any] = []
        self._sent = sent
        self._first: float | None = None
        self._end: float | None = None
        self._messages: dict[str, str] = {}
        self._steps: dict[str, dict[str, Any]] = {}
        self._elements: dict[str, Element] = {}
        self._actions: dict[str, Action] = {}

    @property
    def text(self) -> str:
        """The texts of all messages of the answer, each on lines of its own."""
        return "\n".join(self.texts)

    @property
    def texts(self) -> list[str]:
        """The text of each message of the answer that has one, in order of arrival."""
        return [text for text in self._messages.values() if text]

    @property
    def message_ids(self) -> list[str]:
        """The id of each message of the answer, in order of arrival."""
        return list(self._messages)

    @property
    def steps(self) -> list[Step]:
        """The steps that led to the answer, in order of arrival: runs, tools, calls of models."""
        return [
            Step(
                step["id"],
                step.get("name") or "",
                step.get("type") or "",
                step.get("input") or "",
                step.get("output") or "",
                bool(step.get("isError")),
                step.get("parentId"),
            )
            for step in self._steps.values()
            if not _is_message(step)
        ]

    @property
    def elements(self) -> list[Element]:
        """What is attached to its messages, in order of arrival."""
        return list(self._elements.values())

    @property
    def actions(self) -> list[Action]:
        """The buttons below its messages that are there now."""
        return list(self._actions.values())

    @property
    def error(self) -> str | None:
        """The text of the first message or step that the app shows as failed; None without one."""
        texts = [step.get("output") or "" for step in self._steps.values() if step.get("isError")]
        # The steps that the visitor has stopped are shown as failed, too, without a text.
        without_text = "failed" if texts and not self.stopped else None
        return next(filter(None, texts), without_text)

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds from the message to the first text of its answer; None before that."""
        return None if self._first is None else self._first - self._sent

    @property
    def duration(self) -> float | None:
        """Seconds from the message to the end of its answer; None while it lasts."""
        return None if self._end is None else self._end - self._sent

    @property
    def is_empty(self) -> bool:
        """Whether nothing has come from the app yet."""
        parts = (self._steps, self._elements, self._actions, self.calls, self.window_messages)
        return not any(parts)

    def on_receipt(self, *_: Any) -> None:
        """Note that the app has received the message."""
        self.received = True

    def _add_text(self, message_id: str, text: str, now: float) -> None:
        self._messages[message_id] = text
        if text and self._first is None:
            self._first = now


class ChatPage:
    """The state of one page while it is connected.

    Args:
        clock: seconds, from any beginning.

    Attributes:
        events: everything received, oldest first.
        thread_id: the thread the app named, or None.
        failures: how many steps and messages the app showed as failed.
        actions: the buttons that are there now, by their id.
        elements: what is attached now, by its id.
        unasked: all that has come since the page was opened, or since the end of the last answer.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.events: list[Event] = []
        self.thread_id: str | None = None
        self.failures = 0
        self.actions: dict[str, Action] = {}
        self.elements: dict[str, Element] = {}
        self._clock = clock
        self._answer: Answer | None = None
        self.unasked = self._new_unasked()
        self._open_tasks = 0
        self._not_answers: set[str] = set()

    def connected(self) -> None:
        """Forget what was under way on the connection before this one."""
        self._open_tasks = 0
        self._answer = None
        self.unasked = self._new_unasked()

    def heard(self) -> Answer:
        """Return what has come by itself; what comes from now on is collected anew."""
        heard, self.unasked = self.unasked, self._new_unasked()
        heard._end = self._clock()
        return heard

    def _new_unasked(self) -> Answer:
        return Answer("", answers_question=True, sent=self._clock())

    def sent(self, message_id: str, *, answers_question: bool) -> Answer:
        """Note that the visitor has sent a message, and return what collects the answer."""
        self._answer = Answer(message_id, answers_question=answers_question, sent=self._clock())
        return self._answer

    def stopped(self) -> None:
        """Note that the visitor has pressed *Stop*."""
        if self._answer is not None:
            self._answer.stopped = True

    @property
    def is_idle(self) -> bool:
        """Whether the app works on nothing for this page."""
        return self._open_tasks == 0

    def is_over(self, answer: Answer) -> bool:
        """Whether the app is done with the message, or waits for the visitor.

        `on_chat_start` sends task_start and task_end, too, and may still run when the first
        message is sent: the first task_end that comes is not always the right one.
        """
        return answer.started and self.is_idle

    def end(self, answer: Answer) -> None:
        """Note that an answer is over, unless it was before."""
        if answer._end is None:
            answer._end = self._clock()
            self.unasked = self._new_unasked()

    def receive(self, name: str, data: Any) -> None:
        """Take in one event."""
        now = self._clock()
        self.events.append(Event(name, data))
        if name == "task_start":
            self._open_tasks += 1
            if self._answer is not None and self._answer.received:
                self._answer.started = True
        elif name == "task_end":
            self._open_tasks = max(0, self._open_tasks - 1)
        elif name == "ask":
            # The app waits for the visitor now; there is no `task_end` before a question.
            self._open_tasks = max(0, self._open_tasks - 1)
            self._show(data["msg"], now)
        elif name == "first_interaction":
            self.thread_id = data["thread_id"]
        elif name == "resume_thread":
            self.thread_id = data["id"]
        elif name == "stream_token":
            self._add_token(data, now)
        elif name in _SHOWN:
            self._show(data, now)
        elif name == "element":
            self._attach(data)
        elif name == "action":
            self._offer(data)
        elif name == "remove_action":
            self._withdraw(data)
        elif name == "delete_message":
            self._remove(data["id"])
        elif name == "remove_element":
            self._detach(data["id"])
        elif name == "call_fn":
            for each in self._listening():
                each.calls.append(Call(data["name"], data.get("args") or {}))
        elif name == "window_message":
            for each in self._listening():
                each.window_messages.append(data)
        if self._answer is not None and self.is_over(self._answer):
            self.end(self._answer)

    def _show(self, step: dict[str, Any], now: float) -> None:
        self.failures += bool(step.get("isError"))
        kind, parent = step.get("type", ""), step.get("parentId")
        # A run without a parent is a callback such as `on_chat_start`. Its messages may arrive
        # after the visitor has sent one, and are no answer to that.
        if parent in self._not_answers or (kind == "run" and not parent):
            self._not_answers.add(step["id"])
        answer = self._answer
        if answer is not None and parent == answer.message_id:
            answer.started = True
        if kind == "user_message":
            return
        for each in self._listening():
            if each.answers_question or step["id"] not in self._not_answers:
                each._steps[step["id"]] = step
                if _is_message(step):
                    each._add_text(step["id"], step.get("output", ""), now)

    def _add_token(self, data: dict[str, Any], now: float) -> None:
        for each in self._listening():
            if not data.get("isInput") and data["id"] in each._messages:
                before = "" if data.get("isSequence") else each._messages[data["id"]]
                each._add_text(data["id"], before + data["token"], now)

    def _remove(self, step_id: str) -> None:
        for each in self._listening():
            each._steps.pop(step_id, None)
            each._messages.pop(step_id, None)

    def _attach(self, data: dict[str, Any]) -> None:
        element = Element(
            data["id"],
            data.get("name") or "",
            data.get("type") or "",
            data.get("mime") or "",
            data.get("url") or "",
            data,
        )
        self.elements[element.id] = element
        for each in self._listening():
            if self._is_part_of(each, data):
                each._elements[element.id] = element

    def _detach(self, element_id: str) -> None:
        self.elements.pop(element_id, None)
        for each in self._listening():
            each._elements.pop(element_id, None)

    def _offer(self, data: dict[str, Any]) -> None:
        action = Action(data["id"], data["name"], data.get("label") or "", data)
        self.actions[action.id] = action
        for each in self._listening():
            if self._is_part_of(each, data):
                each._actions[action.id] = action

    def _withdraw(self, data: dict[str, Any]) -> None:
        self.actions.pop(data["id"], None)
        for each in self._listening():
            each._actions.pop(data["id"], None)

    def _listening(self) -> list[Answer]:
        return [self.unasked] if self._answer is None else [self._answer, self.unasked]

    def _is_part_of(self, answer: Answer, data: dict[str, Any]) -> bool:
        # The files that the visitor has sent are elements of the visitor's own message.
        shown_at = data.get("forId")
        is_own = self._answer is not None and shown_at == self._answer.message_id
        return not is_own and (answer is self.unasked or shown_at not in self._not_answers)


def excerpt(answer: Answer) -> str:
    """Return the beginning of what an answer says in one line, as messages quote it."""
    text = " ".join(answer.text.split())
    return repr(text if len(text) <= 200 else text[:199] + "…")


def _is_message(step: dict[str, Any]) -> bool:
    return str(step.get("type", "")).endswith("_message")
