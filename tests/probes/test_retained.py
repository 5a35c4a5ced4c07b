"""How often the directory of files is read."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

# In a process of its own: the import of Chainlit writes files.
TOLD = """
import json
from chainlit_otel.probes.retained import Retained

from chainlit.config import FILES_DIRECTORY

now = 0
counts = []
retained = Retained(lambda: now)

def look(seconds, *alive):
    global now
    now += round(seconds * 1e9)
    counts.append(retained.by_kind(set(alive))[("files",)])

FILES_DIRECTORY.rmdir()
look(0)
for name in ("a", "b", "c"):
    (FILES_DIRECTORY / name).mkdir(parents=True)
(FILES_DIRECTORY / "a file").touch()
look(14.9)
look(0.1)
look(0, "a")
(FILES_DIRECTORY / "a").rmdir()
look(14.9)
look(0.1)
print(json.dumps(counts))
"""


def test_the_disk_is_asked_every_fifteen_seconds_at_most(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TOLD],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    # Who is alive is asked at once, the disk is not.
    assert json.loads(done.stdout.splitlines()[-1]) == [0, 0, 3, 2, 3, 2]
