"""Waiting for an app that greets whoever comes."""

from __future__ import annotations

from chainlit_otel.testing import Visitor


async def greeted(visitor: Visitor) -> None:
    """Wait until Chainlit is done with the start of the chat, and has held back what is of it.

    It tells a tab that nothing goes on as soon as that is connected, so this comes twice.
    """

    def done() -> bool:
        names = [event.name for event in visitor.events]
        return "task_start" in names and "task_end" in names[names.index("task_start") :]

    await visitor.until(done, "the start")
