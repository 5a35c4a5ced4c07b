"""The settings: keyword, else environment, else default."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any, TypeVar

PREFIX = "CHAINLIT_OTEL_"

T = TypeVar("T")


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    try:
        return words[value.strip().lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


def _setting(parse: Callable[[str], T], default: T, help: str, env: str, secret: bool = False) -> T:
    """Declare a field that falls back to its environment variable, then to its default."""

    def resolve() -> T:
        value = os.environ.get(env)
        # An empty variable counts as unset, as the OpenTelemetry specification has it.
        if not value:
            return default
        try:
            return parse(value)
        except ValueError as error:
            raise ValueError(f"{env}={value!r}: {_reason(error)}") from None

    metadata = {"env": env, "default": default, "help": help, "secret": secret}
    return field(default_factory=resolve, metadata=metadata, repr=not secret)


def _reason(error: ValueError) -> str:
    text = str(error)
    return text if text.startswith("must ") else "must be a number"


@dataclass(frozen=True)
class Settings:
    """What can be set. Each field falls back to an environment variable, then to a default.

    Raises:
        ValueError: A value is out of its range, or an environment variable that starts with
            `CHAINLIT_OTEL_` is not a setting.
    """

    service_name: str | None = _setting(
        _text,
        None,
        "Name of the service in all that is exported; else the `service.name` of "
        "`OTEL_RESOURCE_ATTRIBUTES`, else `chainlit`.",
        env="OTEL_SERVICE_NAME",
    )
    disabled: bool = _setting(
        _flag, False, "Leave Chainlit untouched and export nothing.", env="OTEL_SDK_DISABLED"
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
    )
    port: int = _setting(
        int,
        9464,
        "Port of the admin server; the next free one of sixteen if it is taken, any free one if 0.",
        env="OTEL_EXPORTER_PROMETHEUS_PORT",
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
    )
    metrics_token: str | None = _setting(
        _text,
        None,
        "Bearer token that a scraper of the metrics must send.",
        env=f"{PREFIX}METRICS_TOKEN",
        secret=True,
    )
    always_serve_metrics: bool = _setting(
        _flag,
        False,
        "Serve the metrics here also when they go to a MeterProvider of the application.",
        env=f"{PREFIX}ALWAYS_SERVE_METRICS",
    )
    shutdown_timeout: float = _setting(
        float,
        3.0,
        "Seconds that the last export may take when the app stops.",
        env=f"{PREFIX}SHUTDOWN_TIMEOUT",
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

    def __post_init__(self) -> None:
        """Check every value."""
        for row in describe():
            self._require(row["name"], *_type_rule(getattr(self, row["name"]), row["default"]))
        self._require("service_name", self.service_name != "", "must not be empty")
        self._require("metrics_token", self.metrics_token != "", "must not be empty")
        self._require("host", bool(self.host), "must not be empty")
        self._require("port", 0 <= self.port <= 65535, "must be from 0 to 65535")
        self._require(
            "metrics_path",
            self.metrics_path is None or _is_route(self.metrics_path),
            "must start with / and name a path, such as /metrics",
        )
        self._require(
            "shutdown_timeout",
            0 < self.shutdown_timeout <= 60,
            "must be more than 0 and at most 60 seconds",
        )
        _refuse_unknown_variables()

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            about = self.__dataclass_fields__[name].metadata
            value = "***" if about["secret"] else repr(getattr(self, name))
            raise ValueError(f"setting {name} ({about['env']}) is {value}: {rule}")


def describe() -> list[dict[str, Any]]:
    """Return name, environment variable, default and help text of every setting."""
    return [{"name": f.name, **f.metadata} for f in fields(Settings)]


def _type_rule(value: object, default: object) -> tuple[bool, str]:
    if isinstance(default, bool):
        return isinstance(value, bool), "must be True or False"
    if isinstance(default, int):
        return isinstance(value, int) and not isinstance(value, bool), "must be a whole number"
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool), "must be a number"
    return isinstance(value, str) or value is default, "must be a string"


def _is_route(path: str) -> bool:
    return path.startswith("/") and path.strip("/") != "" and not set(path) & set(" {}?#")


def _refuse_unknown_variables() -> None:
    known = [row["env"] for row in describe()]
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known and os.environ[name]:
            near = get_close_matches(name, known, n=1)
            mend = f"did you mean {near[0]}?" if near else f"unset it, or use one of {known}"
            raise ValueError(f"unknown setting {name}: {mend}")
