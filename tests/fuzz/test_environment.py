"""Whatever a variable holds, the app starts: with the value, or with the default and one line."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from unittest import mock

from hypothesis import example, given
from hypothesis import strategies as st

from chainlit_otel import settings
from chainlit_otel.settings import Settings, describe

VARIABLES = {row["env"]: row for row in describe()}
# What an environment can hold.
VALUES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=50)
LIKELY = st.sampled_from(
    ["true", "0", "-1", "1e3", "nan", "inf", "9" * 5000, "0x10", "1_0", "/", "/a b", "http://"]
)


@contextmanager
def logged() -> Iterator[list[str]]:
    """The lines that are logged meanwhile."""
    lines: list[str] = []

    class Note(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    note = Note()
    settings.logger.addHandler(note)
    try:
        yield lines
    finally:
        settings.logger.removeHandler(note)


@given(st.sampled_from(sorted(VARIABLES)), VALUES | LIKELY)
@example("CHAINLIT_OTEL_PAGE_TOKEN", "a\nb")
def test_any_value_of_a_setting(name: str, value: str) -> None:
    row = VARIABLES[name]
    environment = mock.patch.dict(os.environ, {name: value})
    with environment, mock.patch.object(settings, "_problems", {}), logged() as lines:
        found = Settings()
    others = [f.name for f in fields(Settings) if f.name != row["name"]]
    assert all(getattr(found, other) == getattr(Settings(), other) for other in others)
    assert len(lines) <= 1
    if lines:
        assert len(lines[0].splitlines()) == 1, lines
        assert lines[0].startswith(f"{name}=")
        assert getattr(found, row["name"]) == row["default"]


@given(VALUES.filter(lambda name: "=" not in name), VALUES)
@example("\n", "x")
def test_any_variable_that_is_no_setting(name: str, value: str) -> None:
    environment = mock.patch.dict(os.environ, {settings.PREFIX + name: value})
    with environment, mock.patch.object(settings, "_problems", {}), logged() as lines:
        Settings()
    assert all(len(line.splitlines()) == 1 for line in lines), lines
