"""Files that commands generate: writes them, or checks that they are up to date."""

from __future__ import annotations

from pathlib import Path

import click


def write(file: Path, text: str) -> None:
    """Write a file, with its directory if that is missing, and print its name.

    Raises:
        click.ClickException: It cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {file}: {error.strerror}") from None
    click.echo(file)


def check(file: Path, text: str) -> None:
    """Compare a file with what would be written.

    Raises:
        click.ClickException: It is missing or differs.
    """
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        raise click.ClickException(
            f"{file} is out of date: run the same command again, without --check"
        )
