"""What the app denies at a bad moment, without a server."""

from __future__ import annotations

from chainlit_otel.probes.access import Access


def test_the_app_may_deny_in_the_middle_of_a_reading() -> None:
    access = Access()
    with access._lock, access.reason._closed._lock:
        # As a finalizer does, or the handler of a signal.
        access.denied_by_app("thread", "")
    assert access.attempts() == {("thread", "denied"): 1}
