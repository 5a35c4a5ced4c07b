"""A script is checked before it runs: each mistake is one line with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chainlit_otel.testing.dialog import Dialog, Drop, Repeat, Say, ScriptError, Wait, fill, seconds

SCRIPT = """\
name: refund
who:
  profile: Support
  sign_in: {username: ada, password: "${env.HOME}"}
variables: {topic: tea}
data: people.csv
timeout: 5s
dialog:
  - say: hello ${name}, about ${topic}
    expect:
      contains: hello
      matches: ['\\d+', tea]
      within: 2s
      first_token_within: 500ms
    save: {number: 'no (\\d+)'}
  - wait: [1s, 1.5m]
  - drop: 0.2
  - choose:
      - {weight: 3, do: [{press: more}]}
      - do: [{say: "number ${number}"}]
  - repeat: 3
    do:
      - answer_action: 'yes'
"""


def write(directory: Path, text: str) -> Path:
    (directory / "people.csv").write_text("name,age\nada,36\nbob,7\n")
    script = directory / "refund.yaml"
    script.write_text(text)
    return script


def test_a_script(tmp_path: Path) -> None:
    script = Dialog.load(write(tmp_path, SCRIPT))
    assert (script.name, script.timeout, script.who.profile) == ("refund", 5, "Support")
    say, wait, drop, _, repeat = script.dialog
    assert isinstance(say, Say)
    assert say.expect.contains == ["hello"]
    assert [pattern.pattern for pattern in say.expect.matches] == [r"\d+", "tea"]
    assert (say.expect.within, say.expect.first_token_within) == (2, 0.5)
    assert not say.expect.error
    assert isinstance(wait, Wait)
    assert wait.wait == [1, 90]
    assert isinstance(drop, Drop)
    assert drop.drop == 0.2
    assert isinstance(repeat, Repeat)
    assert repeat.repeat == 3
    # Each visitor takes the next row.
    assert [script.values(number)["name"] for number in range(3)] == ["ada", "bob", "ada"]
    assert script.values(0)["topic"] == "tea"


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("say: hello", "sya: hello", 9, "nothing to do in this step; known are say, "),
        ("    save:", "    press: x\n    save:", 9, "two things to do in this step"),
        ("within: 2s", "within: soon", 13, "'soon' is not a duration such as 2s, 500ms or 1m"),
        ("contains: hello", "contain: hello", 11, "unknown key 'contain'"),
        ("'\\d+', tea", "'(', tea", 12, "'(' is not a regular expression"),
        ("weight: 3", "weight: 0", 19, "greater than 0"),
        ("repeat: 3", "repeat: 0", 21, "greater than or equal to 1"),
        ("name: refund", "nmae: refund", 1, "unknown key 'nmae'"),
        ("username: ada, ", "", 4, "give either username and password, or headers"),
        ("${topic}", "${tpoic}", 9, "no variable 'tpoic'; known are: age, name, number, topic"),
        ("env.HOME", "env.NOT_SET_HERE", 4, "the environment has no NOT_SET_HERE"),
        ("people.csv", "poeple.csv", 6, "poeple.csv cannot be read: No such file"),
        ('number ${number}"', 'x", files: none.txt', 20, "there is no file"),
        ("{number: ", "{9lives: ", 15, "'9lives' is no name of a variable"),
        ("dialog:", "dialogue:", 8, "unknown key 'dialogue'"),
        ("timeout: 5s", "timeout: [5s", 8, "expected"),
        ("press: more", "pres: more", 19, "nothing to do in this step"),
    ],
)
def test_a_mistake_is_one_line_with_its_place(
    tmp_path: Path, old: str, new: str, line: int, words: str
) -> None:
    assert SCRIPT.count(old) == 1
    script = write(tmp_path, SCRIPT.replace(old, new))
    with pytest.raises(ScriptError) as mistake:
        Dialog.load(script)
    message = str(mistake.value)
    assert "\n" not in message
    assert message.startswith(f"{script}:{line}: ")
    assert words in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "a script is a mapping with the key 'dialog'"),
        ("- say: hello", "a script is a mapping with the key 'dialog'"),
        ("name: x", "the key 'dialog' is missing"),
        ("dialog: []", "at least 1 item"),
        ("dialog: [hello]", "a step is a mapping such as 'say: hello'"),
        ("dialog: [{say: x}]\nrows: []", "unknown key 'rows'"),
        ("dialog: [{say: x}]\ndata: empty.csv", "empty.csv has no row below its header"),
        ("dialog: [{say: x}]\ndata: ragged.csv", "ragged.csv:3 has not as many values"),
    ],
)
def test_what_is_no_script(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "empty.csv").write_text("name\n")
    (tmp_path / "ragged.csv").write_text("name,age\nada,36\nbob\n")
    with pytest.raises(ScriptError) as mistake:
        Dialog.load(write(tmp_path, text))
    assert words in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match=r"none\.yaml cannot be read: No such file or directory"):
        Dialog.load(tmp_path / "none.yaml")


def test_durations() -> None:
    texts = {"2": 2, "2s": 2, "500ms": 0.5, "1.5 m": 90, "1h": 3600, "0": 0}
    assert {text: seconds(text) for text in texts} == texts
    for text in ("", "s", "-1s", "1d", "1s 2", "true", "nan"):
        with pytest.raises(ValueError, match="is not a duration"):
            seconds(text)


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CITY", "Paris")
    assert fill("${a} in ${env.CITY}, $b {c}", {"a": "1"}) == "1 in Paris, $b {c}"


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("dialog:\n  - &a {repeat: 2, do: [*a]}", "2: it is nested more than 50 levels deep"),
        ("dialog:\n" + "  - x\n" * 100_000, "99999: it has more than 100000 parts"),
        ("dialog:\n  - say: 2001-99-99", "2: this is no timestamp"),
        ("dialog: " + "[" * 3000, "1: it is nested too deep"),
    ],
)
def test_what_is_too_much_or_no_value(tmp_path: Path, text: str, mistake: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ScriptError, match=re.escape(f"{file}:{mistake}")):
        Dialog.load(file)
