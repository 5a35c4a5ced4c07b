"""What many of the end-to-end tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.otlp import Receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """An OTLP backend that keeps what it receives, for all tests of one file."""
    with Receiver() as receiver:
        yield receiver
