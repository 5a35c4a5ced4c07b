"""Looks for inputs that break us, by the coverage that they reach: `make fuzz`.

The targets are the tests of `tests/fuzz`, which Hypothesis runs with the same examples each time.
Here libFuzzer, by atheris, makes up the examples for as long as it is given, each target in a
process of its own. An input that breaks one is printed and kept in `build/fuzz`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

KEPT = Path("build/fuzz")
TARGETS = Path("tests/fuzz")


def targets() -> list[str]:
    """Return the tests that can be fuzzed, each as module and function."""
    found = []
    for file in sorted(TARGETS.glob("test_*.py")):
        module = f"tests.fuzz.{file.stem}"
        for name, test in inspect.getmembers(importlib.import_module(module)):
            if name.startswith("test_") and hasattr(test, "hypothesis"):
                found.append(f"{module}:{name}")
    return found


def fuzz(target: str, seconds: int) -> None:
    """Fuzz one target in this process, which ends with that."""
    import atheris

    with atheris.instrument_imports(include=["chainlit_otel", "yaml"]):
        module, _, name = target.partition(":")
        test: Callable[..., object] = getattr(importlib.import_module(module), name)
    corpus = KEPT / name
    corpus.mkdir(parents=True, exist_ok=True)
    options = [f"-max_total_time={seconds}", f"-artifact_prefix={KEPT}/", "-max_len=4096"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], test.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]
    atheris.Fuzz()


def main() -> int:
    """Fuzz all targets, and return 1 if one broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", help="this one alone")
    given = parser.parse_args()
    if given.target:
        fuzz(given.target, given.seconds)
    broken = []
    for target in targets():
        print(f"== {target}", flush=True)
        command = [sys.executable, "-m", "tools.fuzz", "--target", target]
        if subprocess.run([*command, "--seconds", str(given.seconds)]).returncode:
            broken.append(target)
    print(f"broken: {', '.join(broken) or 'none'}")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
