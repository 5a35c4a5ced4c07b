"""Measures export and report over a million sessions, beside a hand-written pandas script.

Usage: python -m bench.analysis [--copies N] [--sessions N] [--directory DIR]

The records are those of a simulated population, copied under other ids of processes, sessions and
users; they stay in the directory for the next time.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from tests.support.population import Population

_ROOT = Path(__file__).parents[1]
_PANDAS = """
import sys
from pathlib import Path
import pandas as pd

frames = []
for file in sorted(Path(sys.argv[1]).rglob("*.jsonl")):
    frame = pd.read_json(file, lines=True, dtype_backend="pyarrow", engine="pyarrow")
    frames.append(frame[frame["kind"].isin(["session.end", "turn"])])
records = pd.concat(frames)
sessions = records[records["kind"] == "session.end"]
turns = records[records["kind"] == "turn"]
sessions = sessions.assign(day=pd.to_datetime(sessions["chainlit_session_start"]).dt.date)
print(sessions.groupby("day").agg(n=("session_id", "size"), users=("user_hash", "nunique")))
print(sessions["chainlit_session_duration"].astype(float).quantile([0.5, 0.99]))
print(turns.groupby("chainlit_outcome").size(), turns.groupby("error_type").size())
print(turns["chainlit_turn_time_to_first_token"].astype(float).quantile([0.5, 0.99]))
if len(sys.argv) > 2:
    turns.dropna(axis=1, how="all").to_parquet(sys.argv[2])
"""


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.analysis")
    parser.add_argument("--sessions", type=int, default=20_000, help="of the population")
    parser.add_argument("--copies", type=int, default=50, help="how often it is copied")
    parser.add_argument("--directory", type=Path, default=_ROOT / ".cache" / "bench-analysis")
    arguments = parser.parse_args()
    people = Population(sessions=arguments.sessions, hours_short=0, leaves=0.14, leaves_slow=0.2)
    directory: Path = arguments.directory / f"{arguments.sessions}x{arguments.copies}"
    if not directory.exists():
        _make(people, arguments.copies, directory)
    size = sum(file.stat().st_size for file in directory.rglob("*.jsonl"))
    print(f"{size / 1e9:.2f} GB of records in {directory}", flush=True)
    until = people.end.strftime("%Y-%m-%dT%H:%M")
    command = [str(Path(sys.executable).parent / "chainlit-otel")]
    source = ["--from", str(directory)]
    table = str(arguments.directory / "table.parquet")
    runs = {
        "report": [*command, "report", *source, "--until", until, "-o", table + ".html"],
        "export of sessions": [*command, "export", *source, "--format", "parquet", "-o", table],
        "export of turns": [
            *(*command, "export", *source, "--what", "turns", "--format", "parquet", "-o", table),
        ],
        "pandas": [sys.executable, "-c", _PANDAS, str(directory), table],
    }
    print("| | wall time | CPU time | most memory |\n|---|---|---|---|", flush=True)
    for name, words in runs.items():
        print(f"| {name} | {_measured(words)} |", flush=True)
    return 0


def _make(people: Population, copies: int, directory: Path) -> None:
    base = directory.with_suffix(".base")
    people.write(base)
    part = directory.with_suffix(".part")
    part.mkdir(parents=True)
    for file in sorted(base.glob("*.jsonl")):
        data = file.read_bytes()
        for copy in range(copies):
            text = data
            for key in (b'"session_id":"', b'"user_hash":"', b'"service_instance_id":"'):
                text = text.replace(key, key + b"%02x-" % copy)
            (part / f"{file.stem}-{copy:02x}.jsonl").write_bytes(text)
    part.rename(directory)


def _measured(command: list[str]) -> str:
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    says = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - start
    if os.waitstatus_to_exitcode(status):
        return f"failed: {says.strip().splitlines()[-1] if says.strip() else status} | |"
    return f"{took:.1f} s | {_cpu(usage):.1f} s | {usage.ru_maxrss / 1024:,.0f} MiB"


def _cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    sys.exit(main())
