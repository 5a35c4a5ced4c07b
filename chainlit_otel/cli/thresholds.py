"""The options that set the thresholds of the alerts, for rules and dashboards alike."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

import click

from chainlit_otel.rules import Thresholds

C = TypeVar("C")


def threshold_options(command: C) -> C:
    """Give a command an option for each threshold."""
    for threshold in reversed(fields(Thresholds)):
        option = click.option(
            f"--{threshold.name.replace('_', '-')}",
            type=float,
            default=threshold.default,
            show_default=True,
            help=threshold.metadata["help"],
        )
        command = option(command)  # type: ignore[type-var]  # it returns what it is given
    return command


def given(options: dict[str, Any]) -> Thresholds:
    """Return the thresholds that a command was given.

    Raises:
        click.ClickException: One is out of its range.
    """
    try:
        return Thresholds(**options)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
