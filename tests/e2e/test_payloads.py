"""Whatever a browser sends over the socket, the app answers the same with us as without us."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from chainlit_otel.testing import Visitor
from tests.support.scrape import wait_until_async
from tests.support.server import ChainlitServer

pytestmark = pytest.mark.e2e

APP = """
import chainlit as cl


@cl.on_chat_start
async def start():
    await cl.Message("Welcome").send()


@cl.on_settings_update
async def settings(settings):
    await cl.Message(f"settings {settings}").send()


@cl.on_window_message
async def window(data):
    await cl.Message(f"window {data}").send()


@cl.on_audio_start
async def audio_start():
    return True


@cl.on_audio_chunk
async def audio_chunk(chunk):
    await cl.Message(f"chunk {chunk}").send()


@cl.on_audio_end
async def audio_end():
    await cl.Message("silence").send()


@cl.on_message
async def answer(message):
    async with cl.Step("look", type="tool") as step:
        step.output = message.content
    await cl.Message(f"You said: {message.content}").send()
"""
ENABLED = "import chainlit_otel\n\nchainlit_otel.enable()\n"

EVENTS = (
    *("client_message", "edit_message", "message_favorite", "window_message", "audio_start"),
    *("audio_chunk", "audio_end", "chat_settings_change", "chat_settings_edit", "clear_session"),
    *("fetch_favorites", "connection_successful", "call_fn", "unknown", ""),
)
KEYS = (
    *("message", "fileReferences", "id", "threadId", "parentId", "name", "type", "output", "input"),
    *("createdAt", "metadata", "command", "modes", "isStart", "mimeType", "elapsedTime", "data"),
    *("location", "favorite", "tags", "language", "isError", "streaming"),
)
ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
    | st.just("user_message")
    | st.just("11111111-1111-4111-8111-111111111111"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | st.text("abc", max_size=3), inner, max_size=5)
    ),
    max_leaves=12,
)
MESSAGES = st.fixed_dictionaries(
    {"message": st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=6)},
    optional={"fileReferences": ANYTHING},
)
# A message that Chainlit takes, but for some of its fields.
NEARLY = st.dictionaries(st.sampled_from(KEYS), ANYTHING, max_size=3).map(
    lambda spoilt: {
        "message": {
            "id": "22222222-2222-4222-8222-222222222222",
            "name": "User",
            "type": "user_message",
            "output": "hello",
            "createdAt": "2026-07-01T10:00:00Z",
            **spoilt,
        },
        "fileReferences": [],
    }
)
HEADER_NAMES = (
    *("traceparent", "tracestate", "baggage", "User-Agent", "Referer", "Accept-Language"),
    *("X-Forwarded-For", "Forwarded", "Chainlit-Synthetic-Token", "Authorization"),
)
HEADERS = st.dictionaries(
    st.sampled_from(HEADER_NAMES),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)
    | st.sampled_from(["00-" + "1" * 32 + "-" + "2" * 16 + "-01", "00-zz", "a=b,c=d;e", ","]),
    max_size=4,
)

WAIT = 60
LAST = ("new_message", "assistant_message", "You said: still there")


class Both(NamedTuple):
    """The same app twice."""

    observed: ChainlitServer
    alone: ChainlitServer


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    config: dict[str, dict[str, object]] = {"features.audio": {"enabled": True}}
    with ExitStack() as stack:
        apps = (ENABLED + APP, APP)
        servers = [ChainlitServer({"app.py": app}, config=config) for app in apps]
        yield Both(*(stack.enter_context(server) for server in servers))


def heard(visitor: Visitor) -> Counter[tuple[str, str, str]]:
    """What came, without what is another in each session."""
    found: Counter[tuple[str, str, str]] = Counter()
    for name, data in visitor.events:
        shown = data if isinstance(data, dict) else {}
        text = re.sub(r"0x[0-9a-f]+", "0x", str(shown.get("output", "")))
        found[name, str(shown.get("type")), text] += 1
    return found


async def talk(both: Both, headers: dict[str, str], event: tuple[str, Any]) -> None:
    observed, alone = (
        Visitor(server.url, transports=["websocket"], headers=headers, timeout=60)
        for server in both
    )
    async with observed, alone:
        for visitor in (observed, alone):
            await visitor.hear("Welcome")
            await visitor.emit(*event)
            await visitor.send("still there")

        async def is_same() -> bool:
            # Chainlit goes on with what it was sent before, beside the answer to the last message.
            return heard(observed)[LAST] >= 1 and heard(observed) == heard(alone)

        try:
            await wait_until_async(is_same, WAIT, "the same answers of both")
        except TimeoutError:
            assert heard(observed) == heard(alone)
            raise


# What fails waits for a minute: it is not made smaller.
@settings(max_examples=60, phases=[Phase.explicit, Phase.generate])
@given(
    headers=HEADERS,
    # One at a time: what Chainlit makes of an edit that comes while its message is under way is
    # decided by microseconds.
    event=st.tuples(st.sampled_from(EVENTS), ANYTHING | MESSAGES | NEARLY)
    | st.tuples(st.sampled_from(["client_message", "edit_message"]), NEARLY),
)
def test_any_event(both: Both, headers: dict[str, str], event: tuple[str, Any]) -> None:
    asyncio.run(talk(both, headers, event))
    assert both.observed.scrape().sum("chainlit_otel_internal_errors_total") == 0
