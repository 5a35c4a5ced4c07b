"""Dialog scripts: what a visitor says, and what has to come back. YAML, checked before it runs.

Every mistake is one line with the place in the file, so that a script is right before the first
visitor comes. `docs/visitors.md` describes the format.
"""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from yaml.constructor import ConstructorError

from chainlit_otel.testing.speech import read_speech

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_NAME = re.compile(r"[A-Za-z_]\w*")
_FROM_ENVIRONMENT = "env."
_DEEPEST = 50
_MOST_NODES = 100_000  # with all that its aliases stand for


class ScriptError(ValueError):
    """A dialog script is wrong; the message is one line that names the file and the line."""

    def __init__(self, message: str) -> None:
        # It quotes the script, which may have anything in it.
        super().__init__(" ".join(message.splitlines()))


def seconds(value: object) -> float:
    """Return the seconds of a duration as people write it: ``2``, ``2s``, ``500ms``, ``1.5m``.

    Raises:
        ValueError: it is none.
    """
    match = _DURATION.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if match is None:
        raise ValueError(f"{value!r} is not a duration such as 2s, 500ms or 1m")
    found = float(match[1]) * _SECONDS[match[2]]
    if not math.isfinite(found):
        raise ValueError("this duration is too long")
    return found


def _listed(value: object) -> object:
    """Let one stand for a list of one."""
    return [value] if isinstance(value, (str, int, float)) else value


def _one_or_more(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _pattern(value: object) -> re.Pattern[str]:
    try:
        return re.compile(str(value))
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{value!r} is not a regular expression: {error}") from None


Seconds = Annotated[float, BeforeValidator(seconds)]
Texts = Annotated[list[str], BeforeValidator(_listed)]
Pattern = Annotated[re.Pattern[str], BeforeValidator(_pattern)]


class _Part(BaseModel):
    """A part of a script: what is not known in it is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class SignIn(_Part):
    """How the visitor signs in: one of the ways.

    Attributes:
        username: with `password`, as by the form of the page.
        password: with `username`.
        headers: for an app with `header_auth_callback`.
        cookie: the header ``Cookie`` of a user who has signed in with a browser.
        token: what Chainlit gave to a user who signed in.
    """

    username: str = ""
    password: str = ""
    headers: dict[str, str] = {}
    cookie: str = ""
    token: str = ""

    @model_validator(mode="after")
    def _one_way(self) -> SignIn:
        ways = [bool(self.username), bool(self.headers), bool(self.cookie), bool(self.token)]
        if sum(ways) != 1 or bool(self.username) != bool(self.password):
            raise ValueError("give either username and password, or headers, or cookie, or token")
        return self


class Who(_Part):
    """Who the visitor is.

    Attributes:
        profile: name of the chat profile; empty for none.
        client: ``webapp`` or ``copilot``.
        sign_in: how the visitor signs in; None for an app without.
        functions: of the page around a copilot, by name: what each answers when the app calls it.
        env: what the app wants from its users (`user_env`), by name.
    """

    profile: str = ""
    client: Literal["webapp", "copilot"] = "webapp"
    sign_in: SignIn | None = None
    functions: dict[str, Any] = {}
    env: dict[str, str] = {}


class Expectation(_Part):
    """What must come back.

    Attributes:
        contains: texts that are in the answer.
        matches: regular expressions of which each is found in the answer.
        not_contains: texts that are not in it.
        within: seconds until its end.
        first_token_within: seconds until its first text.
        error: whether the app has to show a failed step; it must not, by default.
        steps: names of steps that led to it, such as tools.
        elements: names of what is attached to it.
        actions: names of the buttons below it.
        calls: names of the functions of the page around a copilot that the app has called.
        window: what the app has sent to that page.
    """

    contains: Texts = []
    matches: Annotated[list[Pattern], BeforeValidator(_listed)] = []
    not_contains: Texts = []
    within: Seconds | None = None
    first_token_within: Seconds | None = None
    error: bool = False
    steps: Texts = []
    elements: Texts = []
    actions: Texts = []
    calls: Texts = []
    window: Annotated[list[Any], BeforeValidator(_one_or_more)] = []


class _Answered(_Part):
    """What the app answers.

    Attributes:
        expect: what must come back.
        save: variables, by the first group of the regular expression that finds them in the answer.
    """

    expect: Expectation = Expectation()
    save: dict[str, Pattern] = {}

    @field_validator("save")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a variable: letters, digits and _")
        return value


class FileToSend(_Part):
    """A file that is sent.

    Attributes:
        file: its path, from the directory of the script.
        mime: its media type; empty for what its name says.
    """

    file: str
    mime: str = ""


def _files(value: object) -> object:
    listed = value if isinstance(value, list) else [value]
    return [{"file": each} if isinstance(each, str) else each for each in listed]


Files = Annotated[list[FileToSend], BeforeValidator(_files)]


class Say(_Answered):
    """Send a message, or answer a question of the app (`AskUserMessage`)."""

    say: str
    files: Files = []
    command: str = ""
    modes: dict[str, str] = {}


class Hear(_Answered):
    """Wait until the app says this by itself; empty for whatever comes."""

    hear: str


class Start(_Answered):
    """Press a starter."""

    starter: str


class Speak(_Answered):
    """Say something aloud: a WAV file, mono, 16 bits, 24,000 samples a second."""

    speak: str


class PostToWindow(_Part):
    """Send what the page around a copilot sends."""

    window: Any


class AnswerFiles(_Answered):
    """Answer a question for files (`AskFileMessage`)."""

    answer_files: Files


class AnswerAction(_Answered):
    """Press a button that the app asks for (`AskActionMessage`)."""

    answer_action: str


class AnswerElement(_Answered):
    """Submit the element that the app asks for (`AskElementMessage`), or cancel it."""

    answer_element: dict[str, Any] | Literal["cancel"]


class Press(_Answered):
    """Press a button below a message, or do what a custom element does with an action."""

    press: str
    payload: dict[str, Any] | None = None


class ChangeElement(_Part):
    """Have a custom element change itself."""

    change_element: str
    props: dict[str, Any]


class Edit(_Answered):
    """Change the last message that was said."""

    edit: str


class Stop(_Part):
    """Send a message, and press *Stop* after a while."""

    stop: str
    after: Seconds = 1.0


class Wait(_Part):
    """Wait: so long, or at random between two times."""

    wait: Annotated[list[Seconds], BeforeValidator(_listed)] = Field(min_length=1, max_length=2)


class Rate(_Part):
    """Give a thumb to the last message of the app."""

    rate: Literal["up", "down"]
    comment: str = ""


class ChangeSettings(_Part):
    """Confirm the panel of chat settings with these values."""

    settings: dict[str, Any]


class Profile(_Part):
    """Choose a chat profile: a new chat begins."""

    profile: str


class NewChat(_Part):
    """Press *New Chat*."""

    new_chat: Literal[True]


class Resume(_Part):
    """Open a stored thread, by its id, or that of the chat before this one (true)."""

    resume: Literal[True] | str


class RenameThread(_Part):
    """Give this chat another name in the list of threads."""

    rename: str


class ShareThread(_Part):
    """Let whoever has the link read this chat, or no longer (false)."""

    share: bool


class DeleteThread(_Part):
    """Delete this chat: another one begins."""

    delete: Literal[True]


class Drop(_Part):
    """Lose the connection for so long, and come back."""

    drop: Seconds


class Branch(_Part):
    """One way to go on, by its share of the weights of all.

    Attributes:
        weight: above zero.
        do: its steps.
    """

    weight: float = Field(default=1.0, gt=0)
    do: list[DialogStep]


class Choose(_Part):
    """Go on in one of several ways, by chance."""

    choose: list[Branch] = Field(min_length=1)


class Repeat(_Part):
    """Do steps several times."""

    repeat: int = Field(ge=1, le=10_000)
    do: list[DialogStep]


_KINDS: dict[str, type[_Part]] = {
    "say": Say,
    "hear": Hear,
    "starter": Start,
    "speak": Speak,
    "window": PostToWindow,
    "answer_files": AnswerFiles,
    "answer_action": AnswerAction,
    "answer_element": AnswerElement,
    "change_element": ChangeElement,
    "press": Press,
    "edit": Edit,
    "stop": Stop,
    "wait": Wait,
    "rate": Rate,
    "settings": ChangeSettings,
    "profile": Profile,
    "new_chat": NewChat,
    "resume": Resume,
    "rename": RenameThread,
    "share": ShareThread,
    "delete": DeleteThread,
    "drop": Drop,
    "choose": Choose,
    "repeat": Repeat,
}


def _step(value: object) -> object:
    """Find out which kind of step a mapping is, by the one key that names it."""
    if isinstance(value, _Part):
        return value
    known = ", ".join(_KINDS)
    if not isinstance(value, Mapping):
        raise ValueError(f"a step is a mapping such as 'say: hello'; known are {known}")
    kinds = [_KINDS[key] for key in value if key in _KINDS]
    if len(kinds) != 1:
        found = "nothing to do" if not kinds else "two things to do"
        raise ValueError(f"there is {found} in this step; known are {known}")
    return kinds[0].model_validate(value)


DialogStep = Annotated[_Part, BeforeValidator(_step)]
for _recursive in (Branch, Repeat, Choose):
    _recursive.model_rebuild()


class Dialog(_Part):
    """A script.

    Attributes:
        name: of the dialog; the file's by default.
        who: who the visitor is.
        variables: texts, by name, that ``${name}`` stands for.
        data: file of comma-separated values, beside the script: each visitor takes the next row,
            whose columns are variables.
        timeout: seconds that any answer may take.
        dialog: what is done, in order.
        rows: the rows of `data`.
        directory: where the script is; files are looked for there.
    """

    name: str = ""
    who: Who = Who()
    variables: dict[str, str] = {}
    data: str = ""
    timeout: Seconds = 30.0
    dialog: list[DialogStep] = Field(min_length=1)
    rows: list[dict[str, str]] = Field(default=[], exclude=True)
    directory: Path = Field(default=Path(), exclude=True)

    @classmethod
    def load(cls, file: str | os.PathLike[str]) -> Dialog:
        """Read and check a script.

        Raises:
            ScriptError: it is wrong, or cannot be read.
        """
        path = Path(file)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ScriptError(f"{path} cannot be read: {_why(error)}") from None
        try:
            node = yaml.compose(text, Loader=_Loader)
            _check_shape(path, node)
            document = yaml.load(text, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ScriptError(_yaml_mistake(path, error)) from None
        except RecursionError:
            raise ScriptError(f"{path}:1: it is nested too deep") from None
        if not isinstance(document, dict):
            raise ScriptError(f"{path}:1: a script is a mapping with the key 'dialog'")
        for inner in ("rows", "directory"):
            if inner in document:
                raise ScriptError(f"{path}:{_line(node, (inner,))}: unknown key {inner!r}")
        try:
            script = cls.model_validate(
                {"name": path.stem, **document, "directory": path.resolve().parent}
            )
        except ValidationError as error:
            raise ScriptError(_mistake(path, node, error)) from None
        script = script.model_copy(update={"rows": script._read_rows(path, node)})
        script._check_variables(path, node, document)
        script._check_files(path, node)
        return script

    def values(self, visitor: int) -> dict[str, str]:
        """Return the variables of a visitor.

        Args:
            visitor: the number of the visitor, from 0.
        """
        row = self.rows[visitor % len(self.rows)] if self.rows else {}
        return {**self.variables, **row}

    def _read_rows(self, path: Path, node: Any) -> list[dict[str, str]]:
        if not self.data:
            return []
        where = f"{path}:{_line(node, ('data',))}"
        try:
            with (self.directory / self.data).open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
        except (OSError, ValueError, csv.Error) as error:
            raise ScriptError(f"{where}: {self.data} cannot be read: {_why(error)}") from None
        if not rows:
            raise ScriptError(f"{where}: {self.data} has no row below its header")
        for number, row in enumerate(rows, 2):
            if None in row or None in row.values():
                mistake = "has not as many values as the header has names"
                raise ScriptError(f"{where}: {self.data}:{number} {mistake}")
        return rows

    def _check_variables(self, path: Path, node: Any, document: Mapping[str, Any]) -> None:
        known = {*self.variables, *(self.rows[0] if self.rows else ())}
        # As a plain mapping, which takes any name: the environment itself fails on some.
        environment = dict(os.environ)
        known.update(name for step in _all_steps(self.dialog) for name in getattr(step, "save", ()))
        for place, text in _texts(document):
            if "matches" in place or "save" in place:
                continue
            for name in _VARIABLE.findall(text):
                mistake = ""
                if name.startswith(_FROM_ENVIRONMENT):
                    if name.removeprefix(_FROM_ENVIRONMENT) not in environment:
                        mistake = f"the environment has no {name.removeprefix(_FROM_ENVIRONMENT)}"
                elif name not in known:
                    listed = ", ".join(sorted(known)) or "none"
                    mistake = f"there is no variable {name!r}; known are: {listed}"
                if mistake:
                    raise ScriptError(f"{path}:{_line(node, place)}: {mistake}")

    def _check_files(self, path: Path, node: Any) -> None:
        for step in _all_steps(self.dialog):
            files = [*getattr(step, "files", ()), *getattr(step, "answer_files", ())]
            for file in (each.file for each in files):
                if not _VARIABLE.search(file) and not os.path.isfile(self.directory / file):
                    line = _line_of_text(node, file)
                    raise ScriptError(f"{path}:{line}: there is no file {self.directory / file}")
            if isinstance(step, Speak) and not _VARIABLE.search(step.speak):
                self._check_speech(f"{path}:{_line_of_text(node, step.speak)}", step.speak)

    def _check_speech(self, where: str, file: str) -> None:
        try:
            read_speech(self.directory / file)
        except (OSError, ValueError) as error:
            raise ScriptError(f"{where}: {file} cannot be spoken: {_why(error)}") from None


class _Loader(yaml.SafeLoader):
    """Says where a value stands that is not what its tag says, or that Python cannot hold."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            problem = f"this is no {node.tag.rpartition(':')[2]}"
            raise ConstructorError(None, None, problem, node.start_mark) from None


def _check_shape(path: Path, node: Any) -> None:
    """Refuse what is nested without an end, or grows without bounds, by aliases."""
    left = [(node, 0)] if node is not None else []
    seen = 0
    while left:
        part, depth = left.pop()
        seen += 1
        mistake = ""
        if depth > _DEEPEST:
            mistake = f"it is nested more than {_DEEPEST} levels deep, or in itself"
        elif seen > _MOST_NODES:
            mistake = f"it has more than {_MOST_NODES} parts"
        if mistake:
            raise ScriptError(f"{path}:{part.start_mark.line + 1}: {mistake}")
        inner = part.value if isinstance(part, yaml.CollectionNode) else []
        if isinstance(part, yaml.MappingNode):
            inner = [each for pair in inner for each in pair]
        left += [(each, depth + 1) for each in reversed(inner)]


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a text with the values of its ``${name}``, and of the environment's ``${env.NAME}``.

    Raises:
        LookupError: there is none.
    """

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name.startswith(_FROM_ENVIRONMENT):
            return os.environ[name.removeprefix(_FROM_ENVIRONMENT)]
        return values[name]

    return _VARIABLE.sub(value, text)


def fill_all(value: Any, values: Mapping[str, str]) -> Any:
    """Return what JSON can hold with all its texts filled like `fill` does.

    Raises:
        LookupError: there is no such variable.
    """
    if isinstance(value, str):
        return fill(value, values)
    if isinstance(value, Mapping):
        return {key: fill_all(each, values) for key, each in value.items()}
    if isinstance(value, list):
        return [fill_all(each, values) for each in value]
    return value


def _all_steps(steps: Sequence[Any]) -> Iterator[Any]:
    for step in steps:
        yield step
        if isinstance(step, Repeat):
            yield from _all_steps(step.do)
        elif isinstance(step, Choose):
            for branch in step.choose:
                yield from _all_steps(branch.do)


def _texts(document: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(document, str):
        yield place, document
    elif isinstance(document, Mapping):
        for key, value in document.items():
            yield from _texts(value, (*place, key))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            yield from _texts(value, (*place, number))


def _why(error: Exception) -> str:
    return (error.strerror or str(error)) if isinstance(error, OSError) else str(error)


def _yaml_mistake(path: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "it is no YAML"
    return f"{path}:{mark.line + 1 if mark else 1}: {problem}"


def _mistake(path: Path, node: Any, error: ValidationError) -> str:
    """Return one mistake that pydantic has found as one line."""
    # A wrong key is often the reason that the right one is missing.
    found = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    place = found["loc"]
    message = found["msg"].removeprefix("Value error, ")
    if found["type"] == "extra_forbidden":
        message = f"unknown key {place[-1]!r}"
    elif found["type"] == "missing":
        message = f"the key {place[-1]!r} is missing"
    return f"{path}:{_line(node, place)}: {'.'.join(map(str, place))}: {message}"


def _line(node: Any, place: tuple[Any, ...]) -> int:
    """Return the line of the innermost part of a place that the file has."""
    line = node.start_mark.line + 1 if node is not None else 1
    for part in place:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, node = key.start_mark.line + 1, value
                    break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
    return int(line)


def _line_of_text(node: Any, text: str) -> int:
    if isinstance(node, yaml.ScalarNode):
        return node.start_mark.line + 1 if node.value == text else 0
    is_mapping = isinstance(node, yaml.MappingNode)
    children = [value for _, value in node.value] if is_mapping else node.value
    return next(filter(None, (_line_of_text(child, text) for child in children)), 0)
