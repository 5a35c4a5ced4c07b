"""The commands that generate files: what they say, and how they tell that one is out of date."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from chainlit_otel.cli import main
from chainlit_otel.grafana import files


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def generates(command: str, directory: Path) -> tuple[Path, list[Path]]:
    """What --output is, and the files that are written there."""
    if command == "dashboards":
        return directory, [directory / name for name in files()]
    return directory / "rules.yml", [directory / "rules.yml"]


both = pytest.mark.parametrize("command", ["dashboards", "rules"])


@both
def test_the_name_of_the_file_is_printed(tmp_path: Path, command: str) -> None:
    output, written = generates(command, tmp_path / "new" / "directory")
    code, said = run(command, "--output", str(output))
    assert code == 0
    assert said.split() == [str(file) for file in written]
    assert all(file.is_file() for file in written)


@both
def test_check_fails_for_a_file_that_is_out_of_date_or_missing(
    tmp_path: Path, command: str
) -> None:
    output, written = generates(command, tmp_path)
    check = [command, "--output", str(output), "--check"]
    wrong = f"Error: {written[-1]} is out of date: run the same command again, without --check\n"
    run(command, "--output", str(output))
    assert run(*check) == (0, "")
    written[-1].write_text("groups: []\n")
    assert run(*check) == (1, wrong)
    assert written[-1].read_text() == "groups: []\n"
    written[-1].unlink()
    assert run(*check) == (1, wrong)
    assert not written[-1].exists()


def test_check_needs_to_know_the_file_of_the_rules() -> None:
    code, said = run("rules", "--check")
    assert code == 2
    assert "--check needs --output" in said
