"""Independence of the developer's environment, golden files, and our own errors as failures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from chainlit_otel.guard import Guard

# A check that fails there shows its values, too.
pytest.register_assert_rewrite("tests.support")

# At once, because some of these are read when the SDK or Chainlit is imported.
for _name in [name for name in os.environ if name.startswith(("CHAINLIT_", "OTEL_"))]:
    del os.environ[_name]

# The same examples in every run; `--hypothesis-profile=search` looks for new ones.
settings.register_profile(
    "same", derandomize=True, database=None, deadline=None, max_examples=100, print_blob=True
)
settings.register_profile("search", deadline=None, max_examples=2000, print_blob=True)
settings.load_profile("same")

GOLDEN = Path(__file__).parent / "golden"

CompareGolden = Callable[[str, str], None]
"""Compares a golden file, by its name, with the text that is there now."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the files of tests/golden anew; then read the diff",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> CompareGolden:
    update = request.config.getoption("--update-golden")

    def compare(name: str, text: str) -> None:
        file = GOLDEN / name
        if update:
            file.write_text(text, encoding="utf-8")
        expected = file.read_text(encoding="utf-8") if file.exists() else ""
        assert text == expected, f"{file.name} is another; if it should be: --update-golden"

    return compare


class InternalErrors(list[tuple[str, BaseException]]):
    """The errors of ours that a guard swallowed during a test, each with its probe."""

    expected = False


@pytest.fixture(autouse=True)
def _internal_errors() -> Iterator[InternalErrors]:
    """Fail a test in which a guard swallowed an error that the test did not expect.

    A guard logs its first error only, so the log does not have all of them.
    """
    swallowed = InternalErrors()
    original = Guard.on_error

    def on_error_and_note(self: Guard, error: Exception) -> None:
        swallowed.append((self.probe, error))
        original(self, error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Guard, "on_error", on_error_and_note)
        yield swallowed
    if swallowed and not swallowed.expected:
        probe, error = swallowed[0]
        raise AssertionError(
            f"{len(swallowed)} error(s) of ours swallowed, the first in the {probe} probe"
        ) from error
    assert swallowed or not swallowed.expected, "the test expected an error of ours; none came"


@pytest.fixture
def expected_internal_errors(_internal_errors: InternalErrors) -> InternalErrors:
    """Ask for this in a test that makes our own code fail; it fails if none did."""
    _internal_errors.expected = True
    return _internal_errors
