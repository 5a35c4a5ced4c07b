from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from threading import Event, Thread, get_ident

import pytest

from chainlit_otel.guard import Guard, PlainError
from tests.conftest import InternalErrors
from tests.core.clocks import hurried_threads


def test_an_error_of_ours_is_swallowed_and_the_application_goes_on(
    expected_internal_errors: InternalErrors,
) -> None:
    went_on = False
    with Guard("sessions"):
        raise KeyError("ours")
    went_on = True
    assert went_on
    assert [(probe, type(error)) for probe, error in expected_internal_errors] == [
        ("sessions", KeyError)
    ]


@pytest.mark.parametrize(
    "kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit]
)
def test_what_ends_the_application_or_a_task_passes_uncounted(kind: type[BaseException]) -> None:
    guard, error = Guard("sessions"), kind()
    with pytest.raises(kind) as caught, guard:
        raise error
    assert caught.value is error
    assert guard.errors == 0


def test_without_an_error_nothing_is_counted_or_logged(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard("sessions")
    with guard:
        pass
    assert guard.errors == 0
    assert caplog.records == []


@pytest.mark.usefixtures("expected_internal_errors")
def test_each_error_is_counted_and_the_first_of_each_guard_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sessions, sockets = Guard("sessions"), Guard("sockets")
    for guard, times in ((sessions, 3), (sockets, 2)):
        for n in range(times):
            with guard:
                raise ValueError(f"{guard.probe} {n}")
    assert (sessions.errors, sockets.errors) == (3, 2)
    assert [(r.name, r.levelno) for r in caplog.records] == [
        ("chainlit_otel", logging.WARNING),
        ("chainlit_otel", logging.WARNING),
    ]
    for record, probe in zip(caplog.records, ("sessions", "sockets"), strict=True):
        assert f"the {probe} probe failed" in record.getMessage()
        assert "chainlit_otel_internal_errors_total" in record.getMessage()
        assert record.exc_info is None
        reported = record.getMessage().partition("_total): ")[2].splitlines()
        assert reported[0] == "ValueError"
        assert re.fullmatch(rf'  File "{re.escape(__file__)}", line \d+, in test_.*', reported[1])
        assert len(reported) == 2
        assert f"{probe} 0" not in caplog.text


@pytest.mark.usefixtures("expected_internal_errors")
def test_of_an_error_its_kind_and_causes_are_logged_and_no_text_of_theirs_but_our_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Odd(ValueError):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    with Guard("sessions"):
        try:
            raise Odd("what a user wrote")
        except Odd as odd:
            try:
                raise KeyError("what another user wrote") from odd
            except KeyError as error:
                raise PlainError("watch_pool('db', …) raised KeyError") from error
    (record,) = caplog.records
    lines = record.getMessage().splitlines()
    assert lines[0].endswith("_total): PlainError: watch_pool('db', …) raised KeyError")
    kinds = [line for line in lines[1:] if not line.startswith("  File ")]
    assert kinds == ["KeyError", Odd.__qualname__]
    assert len(lines) == 6
    assert "user wrote" not in caplog.text


@pytest.mark.usefixtures("expected_internal_errors")
def test_a_guard_is_used_again_within_itself_and_after_an_error() -> None:
    guard = Guard("sessions")
    with guard:
        with guard:
            raise ValueError("inner")
        raise ValueError("outer")
    with guard:
        pass
    assert guard.errors == 2


@pytest.mark.usefixtures("expected_internal_errors")
def test_threads_lose_no_error(caplog: pytest.LogCaptureFixture) -> None:
    guard = Guard("sessions")

    def fail() -> None:
        for _ in range(1000):
            with guard:
                raise ValueError("ours")

    threads = [Thread(target=fail) for _ in range(4)]
    with hurried_threads():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert guard.errors == 4000
    assert len(caplog.records) == 1


@pytest.mark.usefixtures("expected_internal_errors")
def test_an_error_in_what_has_interrupted_a_guard_waits_for_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    guard = Guard("sessions")
    # As a signal handler finds it that has interrupted a reading.
    with guard._lock:
        for _ in range(1000):
            with guard:
                raise ValueError("ours")
    assert guard.errors == 1000
    assert len(caplog.records) == 1


class Paused(deque[None]):
    """Notes of errors; the first thread that takes one away is held up, and others may come in."""

    def __init__(self) -> None:
        super().__init__()
        self.takers: set[int] = set()
        self.taking, self.goes_on = Event(), Event()

    def pop(self) -> None:  # type: ignore[override]
        self.takers.add(get_ident())
        if not self.taking.is_set():
            self.taking.set()
            self.goes_on.wait(30)
        super().pop()


@pytest.mark.usefixtures("expected_internal_errors")
def test_errors_are_added_up_by_one_at_a_time() -> None:
    guard, notes = Guard("sessions"), Paused()
    guard._added = notes

    def fail(times: int) -> None:
        for _ in range(times):
            with guard:
                raise ValueError("ours")

    fail(1)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: guard.errors)
        try:
            assert notes.taking.wait(30)
            # So many that they are added up at once, but for somebody who does so already.
            fail(1000)
            second = pool.submit(lambda: guard.errors)
            with pytest.raises(FutureTimeoutError):
                second.result(0.2)
            assert len(notes.takers) == 1
        finally:
            notes.goes_on.set()
        assert (first.result(30), second.result(30)) == (1001, 1001)


@pytest.mark.usefixtures("expected_internal_errors")
def test_errors_that_nobody_reads_do_not_grow() -> None:
    guard = Guard("sessions")
    for _ in range(5000):
        with guard:
            raise ValueError("ours")
    assert len(guard._added) < 512
    assert guard.errors == 5000
