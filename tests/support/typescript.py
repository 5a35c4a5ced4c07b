"""JSON against the TypeScript types that a project publishes, checked by its compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

_OPTIONS = (
    *("--noEmit", "--strict", "--skipLibCheck"),
    *("--module", "nodenext", "--moduleResolution", "nodenext"),
)
_TIMEOUT = 240.0  # seconds for the installation, and for each check

Check = Callable[[str, str], str]
"""Returns what the compiler objects to, given a type and JSON; empty if nothing."""


def type_check(schema: Path, directory: Path, exported: str) -> Check:
    """Install the types of a schema, and return a check against one of them.

    Args:
        schema: Directory with the `package.json` that has the types, and `types.ts`.
        directory: Where to install them.
        exported: The name that `types.ts` exports.
    """
    for name in ("package.json", "types.ts"):
        shutil.copy(schema / name, directory)
    quiet = ("--no-package-lock", "--no-audit", "--no-fund", "--silent")
    install = ["npm", "install", "--prefer-offline", "--ignore-scripts", *quiet]
    subprocess.run(install, cwd=directory, check=True, timeout=_TIMEOUT)

    def check(type: str, json: str) -> str:
        source = f"import type {{ {exported} }} from './types.js';\n"
        (directory / "value.ts").write_text(
            f"{source}export const value: {type} = {json};\n", encoding="utf-8"
        )
        compiler = directory / "node_modules" / ".bin" / "tsc"
        done = subprocess.run(
            [compiler, *_OPTIONS, "value.ts"],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
        )
        assert (done.returncode == 0) is not bool(done.stdout), done.stderr
        return done.stdout

    return check
