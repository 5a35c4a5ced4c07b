"""The bar that shows how far an analysis is, with any release of click."""

from __future__ import annotations

import io
import sys

import pytest

from chainlit_otel.cli.analysis import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "expected"), [(Terminal(), "100%"), (io.StringIO(), "")])
def test_only_who_looks_sees_how_far_it_is(
    stream: io.StringIO, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress("reading") as show:
        show(0.3)
        show(1.0)
    assert expected in stream.getvalue()
    assert bool(stream.getvalue()) == bool(expected)
