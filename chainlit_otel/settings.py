"""The settings: keyword, else environment, else default."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

PREFIX = "CHAINLIT_OTEL_"

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

Rule = tuple[Callable[[Any], bool], str]
"""Tells whether a value is valid, and what to answer if it is not."""

logger = logging.getLogger("chainlit_otel")

# The kubelet describes every Service of a namespace to every pod in it, by variables.
_OF_KUBERNETES = re.compile(r"_(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_[A-Z]+(_[A-Z]+)?)?)")

_problems: dict[str, None] = {}


def warn(problem: str) -> None:
    """Log a problem with an environment variable, once in a process."""
    # The name of a variable may have line breaks, too.
    problem = " ".join(problem.splitlines())
    if problem not in _problems:
        _problems[problem] = None
        # The handlers and filters of the logger belong to the application, and may raise.
        with suppress(Exception):
            logger.warning("%s", problem)


def problems() -> list[str]:
    """Return the problems that `warn` has logged."""
    return list(_problems)


def _logged(error: E) -> E:
    """Log an error that is about to be raised, since it stands below a long traceback."""
    with suppress(Exception):
        logger.error("%s", error)
    return error


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[value.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def _standard_flag(value: str) -> bool:
    # The specification: anything but true is false, and what is neither deserves a warning.
    words = {"true": True, "false": False}
    try:
        return words[value.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false, by the specification") from None


def _setting(
    parse: Callable[[str], T],
    default: T,
    help: str,
    env: str,
    secret: bool = False,
    rule: Rule | None = None,
) -> T:
    """Declare a field that falls back to its environment variable, then to its default."""
    rules = [_type_rule(default), *([rule] if rule else [])]

    def resolve() -> T:
        text = os.environ.get(env)
        # An empty variable counts as unset, as the OpenTelemetry specification has it.
        if not text:
            return default
        try:
            value = parse(text)
            broken = _broken(rules, value)
        except ValueError as error:
            broken = _reason(error)
        if broken is None:
            return value
        shown = "***" if secret else repr(text)
        warn(f"{env}={shown} is ignored, {_shown(default)} holds: it {broken}")
        return default

    metadata = {"env": env, "default": default, "help": help, "secret": secret, "rules": rules}
    return field(default_factory=resolve, metadata=metadata, repr=not secret)


def _shown(default: object) -> str:
    if default is None:
        return "no value"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _reason(error: ValueError) -> str:
    text = str(error)
    return text if text.startswith("must ") else "must be a number"


def _broken(rules: list[Rule], value: object) -> str | None:
    return next((words for holds, words in rules if not holds(value)), None)


def _type_rule(default: object) -> Rule:
    if isinstance(default, bool):
        return lambda value: isinstance(value, bool), "must be True or False"
    if isinstance(default, int):
        return (
            lambda value: isinstance(value, int) and not isinstance(value, bool),
            "must be a whole number",
        )
    if isinstance(default, float):
        return (
            lambda value: isinstance(value, (int, float)) and not isinstance(value, bool),
            "must be a number",
        )
    return lambda value: isinstance(value, str) or value is default, "must be a string"


_NOT_EMPTY: Rule = (lambda value: value != "", "must not be empty")


def _is_route(path: str | None) -> bool:
    if path is None:
        return True
    return path.startswith("/") and path.strip("/") != "" and not set(path) & set(" {}?#")


def _is_header_token(token: str | None) -> bool:
    return token is None or re.fullmatch(r"[!-~]{16,}", token) is not None


@dataclass(frozen=True)
class Settings:
    """What can be set. Each field falls back to an environment variable, then to a default.

    A variable that has an invalid value, or that starts with `CHAINLIT_OTEL_` and is no setting, is
    ignored with one warning: what others put into the environment must not stop the app.

    Raises:
        ValueError: A value that was given by keyword is out of its range.
        TypeError: A keyword is no setting.
    """

    service_name: str | None = _setting(
        _text,
        None,
        "Name of the service in all that is exported; else the `service.name` of "
        "`OTEL_RESOURCE_ATTRIBUTES`, else `chainlit`.",
        env="OTEL_SERVICE_NAME",
        rule=_NOT_EMPTY,
    )
    disabled: bool = _setting(
        _standard_flag,
        False,
        "Leave Chainlit untouched and export nothing.",
        env="OTEL_SDK_DISABLED",
    )
    admin_server: bool = _setting(
        _flag,
        True,
        "Serve `/metrics` and `/healthz` on a port, thread and event loop of their own.",
        env=f"{PREFIX}ADMIN_SERVER",
    )
    host: str = _setting(
        _text,
        "127.0.0.1",
        "Address that the admin server listens on.",
        env="OTEL_EXPORTER_PROMETHEUS_HOST",
        rule=_NOT_EMPTY,
    )
    port: int = _setting(
        int,
        9464,
        "Port of the admin server; the next free one of sixteen if it is taken, any free one if 0.",
        env="OTEL_EXPORTER_PROMETHEUS_PORT",
        rule=(lambda port: 0 <= port <= 65535, "must be from 0 to 65535"),
    )
    allowed_hosts: str | None = _setting(
        _text,
        None,
        "Names, separated by commas, by which the admin server may be asked, besides loopback "
        "addresses and names of this machine.",
        env=f"{PREFIX}ALLOWED_HOSTS",
    )
    metrics_path: str | None = _setting(
        _text,
        None,
        "Serve the metrics inside the app too, at this path, such as `/metrics`.",
        env=f"{PREFIX}METRICS_PATH",
        rule=(_is_route, "must start with / and name a path, such as /metrics"),
    )
    metrics_token: str | None = _setting(
        _text,
        None,
        "Bearer token that a scraper of the metrics must send.",
        env=f"{PREFIX}METRICS_TOKEN",
        secret=True,
        rule=_NOT_EMPTY,
    )
    always_serve_metrics: bool = _setting(
        _flag,
        False,
        "Serve the metrics here also when they go to a MeterProvider of the application.",
        env=f"{PREFIX}ALWAYS_SERVE_METRICS",
    )
    live_page: bool = _setting(
        _flag,
        True,
        "Show sessions, turns and figures on a page of the admin server.",
        env=f"{PREFIX}LIVE_PAGE",
    )
    page_token: str | None = _setting(
        _text,
        None,
        "Token for the page: a link with `?token=…` leaves a cookie. Needed beyond loopback.",
        env=f"{PREFIX}PAGE_TOKEN",
        secret=True,
        rule=_NOT_EMPTY,
    )
    page_base_path: str | None = _setting(
        _text,
        None,
        "Path below which a proxy shows the admin server, such as `/chat-admin`, if it leaves it "
        "in the requests.",
        env=f"{PREFIX}PAGE_BASE_PATH",
        rule=(_is_route, "must start with / and name a path, such as /chat-admin"),
    )
    trace_url: str | None = _setting(
        _text,
        None,
        "Address of a trace in your backend, with `{trace_id}` in place of its id, for links.",
        env=f"{PREFIX}TRACE_URL",
        rule=(
            lambda url: (
                url is None or (url.startswith(("http://", "https://")) and "{trace_id}" in url)
            ),
            "must start with http:// or https:// and hold {trace_id}",
        ),
    )
    trace_keep: str = _setting(
        _text,
        "all",
        "Turns that keep their spans: `all`, or the `notable` ones: failed, stopped, not seen in "
        "full, slow, or judged badly soon after; and `trace_share` of the others.",
        env=f"{PREFIX}TRACE_KEEP",
        rule=(lambda keep: keep in ("all", "notable"), "must be all or notable"),
    )
    trace_share: float = _setting(
        float,
        0.05,
        "Share of the other turns that keep their spans if only notable ones do, from 0 to 1.",
        env=f"{PREFIX}TRACE_SHARE",
        rule=(lambda share: 0 <= share <= 1, "must be from 0 to 1"),
    )
    slow_turn: float = _setting(
        float,
        30.0,
        "Seconds from which a turn is slow, and so notable.",
        env=f"{PREFIX}SLOW_TURN",
        rule=(lambda seconds: 0 < seconds < float("inf"), "must be more than 0 seconds"),
    )
    shutdown_timeout: float = _setting(
        float,
        3.0,
        "Seconds that the last export may take when the app stops.",
        env=f"{PREFIX}SHUTDOWN_TIMEOUT",
        rule=(lambda seconds: 0 < seconds <= 60, "must be more than 0 and at most 60 seconds"),
    )

    prices_file: str | None = _setting(
        _text,
        None,
        "Prices of models of one's own, in JSON; they go before those of `genai-prices`.",
        env=f"{PREFIX}PRICES_FILE",
        rule=_NOT_EMPTY,
    )
    records_dir: str | None = _setting(
        _text,
        None,
        "Directory in which records of sessions, turns and feedback are kept as lines of JSON.",
        env=f"{PREFIX}RECORDS_DIR",
        rule=_NOT_EMPTY,
    )
    records_max_bytes: int = _setting(
        int,
        1024**3,
        "Most bytes of all files in `records_dir`; the oldest go first.",
        env=f"{PREFIX}RECORDS_MAX_BYTES",
        rule=(lambda size: size >= 1024**2, "must be at least 1048576 bytes"),
    )
    records_keep_days: int = _setting(
        int,
        30,
        "Days that a file in `records_dir` is kept.",
        env=f"{PREFIX}RECORDS_KEEP_DAYS",
        rule=(lambda days: 1 <= days <= 3650, "must be from 1 to 3650 days"),
    )
    export_records: bool = _setting(
        _flag,
        False,
        "Send the records as log events by OTLP, or to the LoggerProvider of the application.",
        env=f"{PREFIX}EXPORT_RECORDS",
    )
    user_hash_key: str | None = _setting(
        _text,
        None,
        "Key by which records have a hash of the user who is signed in; without it they have none.",
        env=f"{PREFIX}USER_HASH_KEY",
        secret=True,
        rule=_NOT_EMPTY,
    )
    synthetic_token: str | None = _setting(
        _text,
        None,
        "Token that synthetic visitors show, to be left out of every figure but their own; without "
        "it nobody is.",
        env=f"{PREFIX}SYNTHETIC_TOKEN",
        secret=True,
        rule=(
            _is_header_token,
            "must be at least 16 characters of visible ASCII, without spaces, for an HTTP header",
        ),
    )

    capture_messages: bool = _setting(
        _flag,
        False,
        "Record the text of messages in the spans of turns.",
        env=f"{PREFIX}CAPTURE_MESSAGES",
    )
    capture_steps: bool = _setting(
        _flag,
        False,
        "Record the input and the output of steps in their spans.",
        env=f"{PREFIX}CAPTURE_STEPS",
    )
    capture_user: bool = _setting(
        _flag, False, "Record the identifier of the user in spans.", env=f"{PREFIX}CAPTURE_USER"
    )
    capture_exception_messages: bool = _setting(
        _flag,
        False,
        "Record the messages of exceptions in spans, too, which may quote users.",
        env=f"{PREFIX}CAPTURE_EXCEPTION_MESSAGES",
    )

    def __new__(cls, *_: object, **keywords: object) -> Settings:
        """Refuse a keyword that is no setting, and name the setting that may have been meant."""
        known = [f.name for f in fields(cls)]
        for name in keywords.keys() - known:
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise _logged(TypeError(f"there is no setting {name}: {fix}"))
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check every value."""
        for f in fields(self):
            value = getattr(self, f.name)
            broken = _broken(f.metadata["rules"], value)
            if broken is not None:
                shown = "***" if f.metadata["secret"] else repr(value)
                raise _logged(
                    ValueError(f"setting {f.name} ({f.metadata['env']}) is {shown}: {broken}")
                )
        _warn_of_unknown_variables()

    def differences(self, others: Settings) -> list[str]:
        """Return in which settings others differ, in words that show no secret."""
        return [
            f"{f.name} is another one"
            if f.metadata["secret"]
            else f"{f.name} is {getattr(self, f.name)!r}, not {getattr(others, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != getattr(others, f.name)
        ]


def describe() -> list[dict[str, Any]]:
    """Return name, environment variable, default and help text of every setting."""
    shown = ("env", "default", "help", "secret")
    return [{"name": f.name, **{key: f.metadata[key] for key in shown}} for f in fields(Settings)]


def _warn_of_unknown_variables() -> None:
    known = [row["env"] for row in describe()]
    unknown = [
        name
        for name in sorted(os.environ)
        if name.startswith(PREFIX) and name not in known and os.environ[name]
    ]
    of_kubernetes = [
        name for name in unknown if _OF_KUBERNETES.fullmatch(name.removeprefix(PREFIX[:-1]))
    ]
    if of_kubernetes:
        warn(
            f"ignored, being no settings: {', '.join(of_kubernetes)}. Kubernetes sets these for a "
            "Service named chainlit-otel: rename it, or give the pod `enableServiceLinks: false`"
        )
    for name in unknown:
        if name not in of_kubernetes:
            near = get_close_matches(name, known, n=1)
            fix = f"did you mean {near[0]}?" if near else f"unset it, or use one of {known}"
            warn(f"{name} is no setting and is ignored: {fix}")
