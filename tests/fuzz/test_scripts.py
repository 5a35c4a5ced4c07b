"""Whatever a dialog script holds, it gives a dialog or one line that says what is wrong."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from chainlit_otel.testing.dialog import Dialog, ScriptError, seconds

KEYS = (
    *("name", "who", "variables", "data", "timeout", "dialog", "rows", "directory", "say", "hear"),
    *("expect", "save", "files", "command", "modes", "starter", "speak", "window", "matches"),
    *("answer_files", "answer_action", "answer_element", "press", "payload", "change_element"),
    *("props", "edit", "stop", "after", "wait", "rate", "comment", "settings", "profile", "do"),
    *("new_chat", "resume", "drop", "choose", "weight", "repeat", "contains", "within", "steps"),
    *("sign_in", "username", "password", "headers", "cookie", "token", "functions", "env", "mime"),
)
WORDS = (
    *("${name}", "${env.HOME}", "${", "2s", "9" * 400, "(", "(a){9999999999}", ".", "/"),
    "a" * 999,
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.dates()
    | st.binary(max_size=5)
    | st.text(max_size=20)
    | st.sampled_from(WORDS)
)
KEY = st.sampled_from(KEYS) | st.text(max_size=5) | st.integers()
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEY, inner, max_size=4),
    max_leaves=25,
)
SCRIPTS = st.fixed_dictionaries(
    {"dialog": st.lists(st.dictionaries(KEY, VALUES, max_size=3) | VALUES, max_size=4)},
    optional={"who": VALUES, "variables": VALUES, "data": VALUES, "timeout": VALUES},
)


def load(content: bytes) -> Dialog | None:
    """The dialog, or None if it is refused, in one line that names the file."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "talk.yaml"
        file.write_bytes(content)
        try:
            return Dialog.load(file)
        except ScriptError as error:
            line = str(error)
            assert line.startswith(str(file)), line
            assert len(line.splitlines()) == 1, line
            return None


@given(st.binary(max_size=200))
@example(b"\xff")
@example(b"a: &a [*a]")
@example(b"dialog: [{say: 2001-99-99}]")
@example(b"dialog: [{say: 2001-99-99 }]\nname: 2001-02-30")
@example(b"dialog: !!int 'x'")
@example(b"dialog: " + b"1" * 5000)
@example(b"[" * 3000)
@example(b'dialog: [{say: a, files: "\\0"}]')
@example(b'data: "\\0"\ndialog: [{say: a}]')
@example(b'data: "a\\nb"\ndialog: [{say: a}]')
@example(b'dialog: [{say: a, files: "a\\nb"}]')
@example(b'dialog: [{say: "${env.\\ud800}"}]')
@example(b"dialog: [{say: a, expect: {matches: 'a{99999999999999999999}'}}]")
@example(b"dialog: [{say: a, expect: {matches: '" + b"(" * 3000 + b"'}}]")
@example(b"dialog: [{say: a, data: !!python/object:os.system {}}]")
@example(b"? {a: b}\n: c")
@example(b"dialog:\n  - &a {repeat: 2, do: [*a]}")
@example(b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]")
def test_any_bytes(content: bytes) -> None:
    load(content)


@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    load(text.encode("utf-8", "surrogatepass"))


@given(SCRIPTS | VALUES)
def test_any_document(document: Any) -> None:
    with contextlib.suppress(UnicodeEncodeError):
        load(yaml.safe_dump(document, allow_unicode=True).encode())


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans())
@example("9" * 400 + "s")
def test_a_duration_is_finite(value: object) -> None:
    with contextlib.suppress(ValueError):
        assert 0 <= seconds(value) < float("inf")
