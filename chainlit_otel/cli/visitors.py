"""Options of the commands that send visitors."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import click

from chainlit_otel.catalog import SYNTHETIC_HEADER

_TOKEN = "CHAINLIT_OTEL_SYNTHETIC_TOKEN"
_TRANSPORTS: dict[str, list[str] | None] = {
    "browser": None,
    "websocket": ["websocket"],
    "polling": ["polling"],
}


class WrongAddress(click.ClickException):
    """What was given is not the address of a page."""

    exit_code = 2


def parsed(parse: Callable[[str], Any]) -> Callable[..., Any]:
    """Return a callback of an option that has a function parse what was given."""

    def callback(_: click.Context, __: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(parse, value))
            return None if value is None else parse(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return callback


def _headers(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    sent = dict(map(_header, texts))
    if token := os.environ.get(_TOKEN):
        sent.setdefault(SYNTHETIC_HEADER, token)
    return sent


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise click.BadParameter(f"{text!r} is not of the form 'Name: value'")
    return name.strip(), value.strip()


transport_option = click.option(
    "--transport",
    type=click.Choice(list(_TRANSPORTS)),
    default="browser",
    show_default=True,
    callback=lambda _, __, name: _TRANSPORTS[name],
    help="How they connect. A browser starts with polling and goes over to a websocket.",
)
header_option = click.option(
    "-H",
    "--header",
    "headers",
    multiple=True,
    callback=_headers,
    metavar="'NAME: VALUE'",
    help="Sent with every request, e.g. the Cookie of a signed-in user. May be repeated. "
    f"The token of {_TOKEN} is sent, too: an app with the same leaves them out of its figures.",
)
