"""The state of Chainlit's page, from the events it receives. Pure: no connection, no clock."""

from __future__ import annotations

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


class Answer:
    """The answer to one message, as far as it has arrived.

    Args:
        message_id: the message that is answered.
        answers_question: the message is itself the answer to a question of the app.

    Attributes:
        received: the app has confirmed that it got the message.
        started: the app has begun to work on it.
        texts: text of every message of the answer, by its id, in order of arrival.
    """

    def __init__(self, message_id: str, *, answers_question: bool) -> None:
        self.message_id = message_id
        self.answers_question = answers_question
        self.received = answers_question
        self.started = False
        self.texts: dict[str, str] = {}

    def on_receipt(self, *_: Any) -> None:
        """Note that the app has received the message."""
        self.received = True


class ChatPage:
    """The state of one page while it is connected.

    Attributes:
        events: everything received, oldest first.
        thread_id: the thread the app named, or None.
        failures: how many steps and messages the app showed as failed.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.thread_id: str | None = None
        self.failures = 0
        self._answer: Answer | None = None
        self._open_tasks = 0
        self._not_answers: set[str] = set()

    def connected(self) -> None:
        """Forget what was under way on the connection before this one."""
        self._open_tasks = 0
        self._answer = None

    def sent(self, message_id: str, *, answers_question: bool) -> Answer:
        """Note that the visitor has sent a message, and return what collects the answer."""
        self._answer = Answer(message_id, answers_question=answers_question)
        return self._answer

    def is_over(self, answer: Answer) -> bool:
        """Whether the app is done with the message, or waits for the visitor.

        `on_chat_start` sends task_start and task_end, too, and may still run when the first
        message is sent: the first task_end that comes is not always the right one.
        """
        return answer.started and self._open_tasks == 0

    def receive(self, name: str, data: Any) -> None:
        """Take in one event."""
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
            self._show(data["msg"])
        elif name == "first_interaction":
            self.thread_id = data["thread_id"]
        elif name == "resume_thread":
            self.thread_id = data["id"]
        elif name == "stream_token":
            self._add_token(data)
        elif name in _SHOWN:
            self._show(data)

    def _show(self, step: dict[str, Any]) -> None:
        self.failures += bool(step.get("isError"))
        kind, parent = step.get("type", ""), step.get("parentId")
        # A run without a parent is a callback such as `on_chat_start`. Its messages may arrive
        # after the visitor has sent one, and are no answer to that.
        if parent in self._not_answers or (kind == "run" and not parent):
            self._not_answers.add(step["id"])
        answer = self._answer
        if answer is None:
            return
        if parent == answer.message_id:
            answer.started = True
        is_answer = answer.answers_question or step["id"] not in self._not_answers
        if is_answer and kind.endswith("_message") and kind != "user_message":
            answer.texts[step["id"]] = step.get("output", "")

    def _add_token(self, data: dict[str, Any]) -> None:
        answer = self._answer
        if answer is None or data.get("isInput") or data["id"] not in answer.texts:
            return
        before = "" if data.get("isSequence") else answer.texts[data["id"]]
        answer.texts[data["id"]] = before + data["token"]
