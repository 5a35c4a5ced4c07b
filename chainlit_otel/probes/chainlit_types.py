"""What the probes read of Chainlit's objects: the list of what a new release of it may break.

Chainlit is not imported here. A test looks for each of these on objects of the installed release.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Protocol


class ChainlitUser(Protocol):
    """`chainlit.user.User`, or whatever the app's sign-in returns."""

    identifier: str


class ChainlitSession(Protocol):
    """What all sessions have: `chainlit.session.BaseSession`."""

    id: str
    client_type: str
    thread_id: str
    user: ChainlitUser | None
    chat_profile: str | None
    has_first_interaction: bool
    thread_id_to_resume: str | None
    files: dict[str, Any]


class ChainlitWebsocketSession(ChainlitSession, Protocol):
    """`chainlit.session.WebsocketSession`, the session of a page."""

    socket_id: str
    to_clear: bool
    current_task: asyncio.Task[Any] | None
    thread_queues: dict[str, deque[Any]]


class ChainlitGeneration(Protocol):
    """`literalai.observability.generation.BaseGeneration`, what a step says of a model call."""

    provider: str | None
    model: str | None
    error: str | None
    input_token_count: int | None
    output_token_count: int | None


class ChainlitStep(Protocol):
    """`chainlit.step.Step`."""

    id: str
    parent_id: str | None
    name: str
    type: str
    start: str | None
    end: str | None
    input: Any
    output: Any
    is_error: bool | None
    generation: ChainlitGeneration | None


class ChainlitMessage(Protocol):
    """`chainlit.message.Message`."""

    id: str
    content: str


class ChainlitFeedback(Protocol):
    """`chainlit.types.Feedback`."""

    forId: str
    value: int
