"""What the app denies at a bad moment, and threads that sockets come with, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from chainlit_otel.patching import Patches
from chainlit_otel.probes.access import Access, _AccessCheck, _wrap_lookup
from tests.support.probes import probe_context


def test_the_app_may_deny_in_the_middle_of_a_reading() -> None:
    access = probe_context().get(Access)
    attempts, denials = access._attempts._lock, access._denials._lock
    with access._lock, attempts, denials, access.reasons._enum._overflowed._lock:
        # As a finalizer does, or the handler of a signal.
        access.record_denial("thread", "")
    assert access.attempts() == {("thread", "denied"): 1}
    assert access.denials() == {("thread", "other"): 1}
    assert access.reasons.overflowed == 1


class _Layer:
    """A data layer whose methods ask each other, as some of Chainlit's own do."""

    def __init__(self, access: Access, authors: dict[str, str]) -> None:
        self._authors = authors
        patches = Patches(None)
        self.get_thread: Any = _wrap_lookup(patches, access, bool, self._get_thread)
        self.get_thread_author: Any = _wrap_lookup(
            patches, access, lambda _: True, self._get_thread_author
        )

    async def _get_thread(self, thread: str) -> dict[str, str] | None:
        author = await self.get_thread_author(thread)
        return {"userIdentifier": author} if author else None

    async def _get_thread_author(self, thread: str) -> str:
        if thread == "broken":
            raise ConnectionError("The store is down.")
        return self._authors.get(thread, "")


@pytest.mark.parametrize(
    ("method", "thread", "result"),
    [
        ("get_thread", "of bob", "denied"),
        ("get_thread", "of nobody", ""),
        ("get_thread", "broken", "error"),
        ("get_thread_author", "of bob", "denied"),
        ("get_thread_author", "of nobody", "denied"),
        ("get_thread_author", "broken", "error"),
    ],
)
async def test_a_socket_is_refused_for_its_thread(method: str, thread: str, result: str) -> None:
    access = probe_context().get(Access)
    layer = _Layer(access, {"of bob": "bob"})
    check = _AccessCheck()
    error: Exception = ConnectionRefusedError("authorization failed")
    try:
        await getattr(layer, method)(thread)
    except ConnectionError as raised:
        error = raised
    access.on_connected("sid", check, error)
    expected = {("websocket", "error" if result == "error" else "denied"): 1}
    assert access.attempts() == (expected | {("thread", result): 1} if result else expected)


async def test_who_asks_for_an_author_elsewhere_takes_up_no_thread() -> None:
    access = probe_context().get(Access)
    assert await _Layer(access, {"of bob": "bob"}).get_thread_author("of bob") == "bob"
    assert access.attempts() == {}
