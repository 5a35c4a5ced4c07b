"""What the app denies at a bad moment, without a server."""

from __future__ import annotations

from chainlit_otel.probes.access import Access
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
