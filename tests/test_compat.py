"""What `make compat` makes of a run of pytest."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from tools import compat

TESTS = """
import pathlib
import pytest

@pytest.mark.parametrize("value", ["a - b", "b"])
def test_passes(value): pass

def test_passes_at_the_second_try():
    seen = pathlib.Path("seen")
    if not seen.exists():
        seen.touch()
        raise ValueError("not yet - later")

def test_fails(): assert False, "a - b"

@pytest.fixture
def broken(): raise ValueError

def test_has_no_fixture(broken): pass

@pytest.fixture
def breaks_at_the_end():
    yield
    raise ValueError

def test_passes_and_does_not_end_well(breaks_at_the_end): pass

def test_is_skipped(): pytest.skip()
"""


def test_each_test_counts_once(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").touch()
    command = [sys.executable, "-m", "pytest", *compat._OPTIONS, "--junitxml=results.xml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    passed, rerun, failed = compat.count((tmp_path / "results.xml").read_text(), done.stdout)
    assert (passed, rerun) == (3, 1), done.stdout
    assert sorted(failed) == [
        "test_it::test_fails",
        "test_it::test_has_no_fixture",
        "test_it::test_passes_and_does_not_end_well",
    ]


def test_releases_are_in_the_order_of_their_numbers() -> None:
    held = compat.Held("2.9.6", "3.11.7", "oldest", {}, [], 1, 0, [])
    newer, newest_python = replace(held, chainlit="2.10.1"), replace(held, python="3.9.1")
    assert sorted([newer, held, newest_python], key=compat._order) == [newest_python, held, newer]
