"""Which events make up the answer to a message, and when it is over."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chainlit_otel.testing.page import Answer, ChatPage

Script = list[tuple[str, Any]]

RECEIPT = "receipt"  # not an event: how the app confirms the message


def step(step_id: str, kind: str, parent: str | None, output: str = "") -> dict[str, Any]:
    return {"id": step_id, "type": kind, "parentId": parent, "output": output}


def token(step_id: str, text: str, **more: object) -> dict[str, Any]:
    return {"id": step_id, "token": text, "isSequence": False, "isInput": False, **more}


GREETING: Script = [
    ("task_start", {}),
    ("new_message", step("hello-run", "run", None)),
    ("new_message", step("hello", "assistant_message", "hello-run", "Welcome!")),
    ("update_message", step("hello-run", "run", None)),
    ("task_end", {}),
]
ANSWER: Script = [
    (RECEIPT, None),
    ("task_start", {}),
    ("new_message", step("answer-run", "run", "question")),
    ("stream_start", step("answer", "assistant_message", "answer-run", "Forty")),
    ("stream_token", token("answer", "-two")),
    ("new_message", step("answer", "assistant_message", "answer-run", "Forty-two.")),
    ("update_message", step("answer-run", "run", "question", "Forty-two.")),
    ("task_end", {}),
]


def play(page: ChatPage, turn: Answer, script: Script) -> list[bool]:
    """Whether the turn was over, after each event."""
    over = []
    for name, data in script:
        if name == RECEIPT:
            turn.on_receipt()
        else:
            page.receive(name, data)
        over.append(page.is_over(turn))
    return over


def ask(page: ChatPage, answers_question: bool = False) -> Answer:
    return page.sent("question", answers_question=answers_question)


def test_an_answer_is_over_with_its_task() -> None:
    page = ChatPage()
    turn = ask(page)
    assert play(page, turn, ANSWER) == [False] * (len(ANSWER) - 1) + [True]
    assert turn.texts == ["Forty-two."]


@given(st.lists(st.booleans(), min_size=len(ANSWER), max_size=len(ANSWER)))
def test_a_greeting_in_between_neither_ends_nor_joins_the_answer(picks: list[bool]) -> None:
    """`on_chat_start` may run before, while or after the message is worked on."""
    # The app starts the task right after the receipt: nothing comes between these two.
    answer = [ANSWER[:2], *([each] for each in ANSWER[2:])]
    greeting = [[each] for each in GREETING]
    script: Script = []
    for pick in picks:
        script += (greeting if pick and greeting else answer or greeting).pop(0)
    script += [event for rest in (*answer, *greeting) for event in rest]
    page = ChatPage()
    turn = ask(page)
    over = play(page, turn, script)
    assert over[-1]
    assert not any(over[: script.index(ANSWER[-2])])
    assert turn.texts == ["Forty-two."]


def test_the_end_of_a_greeting_that_began_earlier_is_not_the_end_of_the_answer() -> None:
    page = ChatPage()
    for name, data in GREETING[:-1]:
        page.receive(name, data)
    turn = ask(page)
    assert not any(play(page, turn, [(RECEIPT, None), GREETING[-1]]))
    assert play(page, turn, ANSWER[1:])[-1]
    assert turn.texts == ["Forty-two."]


def test_an_app_without_on_message_ends_its_task_at_once() -> None:
    page = ChatPage()
    turn = ask(page)
    assert play(page, turn, [(RECEIPT, None), ("task_start", {}), ("task_end", {})])[-1]
    assert turn.texts == []


def test_tokens_add_up_and_a_sequence_replaces() -> None:
    page = ChatPage()
    turn = ask(page)
    message = step("answer", "assistant_message", "answer-run", "a")
    play(page, turn, [("stream_start", message), ("stream_token", token("answer", "b"))])
    assert turn.texts == ["ab"]
    page.receive("stream_token", token("answer", "abc", isSequence=True))
    page.receive("stream_token", token("answer", "typed", isInput=True))
    page.receive("stream_token", token("another", "?"))
    assert turn.texts == ["abc"]


def test_a_question_of_the_app_ends_the_turn_and_its_answer_is_one() -> None:
    page = ChatPage()
    turn = ask(page)
    question = {
        "msg": step("who", "assistant_message", "answer-run", "Who are you?"),
        "spec": {"type": "text"},
    }
    assert play(page, turn, [*ANSWER[:3], ("ask", question)])[-1]
    assert turn.texts == ["Who are you?"]

    reply = page.sent("i-am", answers_question=True)
    script: Script = [
        ("task_end", {}),
        ("clear_ask", {}),
        ("task_start", {}),
        ("new_message", step("hi", "assistant_message", "answer-run", "Hi!")),
        ("task_end", {}),
    ]
    assert play(page, reply, script) == [False, False, False, False, True]
    assert reply.texts == ["Hi!"]


def test_what_belongs_to_the_user_is_no_answer() -> None:
    page = ChatPage()
    turn = ask(page)
    page.receive("new_message", step("echo", "user_message", None, "mine"))
    page.receive("new_message", step("tool", "tool", "answer-run", "internal"))
    assert turn.texts == []


@pytest.mark.parametrize("event", ["new_message", "update_message"])
def test_shown_failures_are_counted(event: str) -> None:
    page = ChatPage()
    page.receive(event, step("run", "run", "question") | {"isError": True})
    page.receive(event, step("run", "run", "question") | {"isError": False})
    assert page.failures == 1


def test_the_thread_is_the_one_the_app_names() -> None:
    page = ChatPage()
    page.receive("first_interaction", {"interaction": "hi", "thread_id": "t1"})
    assert page.thread_id == "t1"
    page.receive("resume_thread", {"id": "t2", "steps": []})
    assert page.thread_id == "t2"


def test_a_new_connection_starts_with_nothing_under_way() -> None:
    page = ChatPage()
    page.receive("task_start", {})
    page.connected()
    turn = ask(page)
    assert play(page, turn, ANSWER)[-1]
