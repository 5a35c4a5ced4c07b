"""The benchmark runs, and measures what it says. How long anything takes is not tested."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench import instructions, report, soak, turns
from bench.sink import Sink
from chainlit_otel.rules import Thresholds, Windows
from chainlit_otel.rules.recording import budgets, recordings

pytestmark = pytest.mark.e2e

QUICK = [
    "--rounds",
    "1",
    "--visitors",
    "2",
    "--turns",
    "3",
    "--warmup",
    "2",
    "--lead",
    "1",
    "--slice",
    "2",
    "--event-seconds",
    "0.01",
]
QUICK_RULES = ["--replicas", "2", "--rounds", "1", "--interval", "2"]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_benchmark_shows_what_each_variant_and_each_event_costs() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", *QUICK, "--markdown"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0

    table, events, machine, method = done.stdout.strip().split("\n\n")
    rows = {cells(line)[0]: cells(line)[1:] for line in table.splitlines()[2:]}
    assert list(rows) == [
        "Chainlit alone",
        "chainlit-otel, metrics",
        "chainlit-otel, metrics, no live page",
        "chainlit-otel, metrics and records in files",
        "chainlit-otel, metrics and traces",
        "chainlit-otel, metrics and traces of notable turns",
        "the SDK alone, as many spans",
        "prometheus-client alone, as many numbers",
        "FastAPIInstrumentor with its defaults",
    ]
    assert all(row[0].endswith(" ms") for row in rows.values())
    spans = [float(row[-1]) for row in rows.values()]
    assert spans[:4] == [0, 0, 0, 0]
    assert 1 <= spans[4] < 10
    assert spans[5] <= spans[4]
    assert spans[6] == spans[4]
    assert spans[7] == 0
    assert spans[8] > 50
    assert all(cells(line)[1].endswith(" µs") for line in events.splitlines()[2:])
    assert "chainlit 2." in machine
    assert "1 rounds of 3 turns of 2 visitors at once, 2 turns at a time, after 1 that" in method


def test_the_first_turns_of_a_slice_are_had_and_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cost, clock = 2.0, [0.0]
    have = turns.Subject.have

    async def pay(subject: turns.Subject, count: int) -> None:
        await have(subject, count)
        clock[0] += cost * count

    monkeypatch.setattr(turns, "VARIANTS", {"bare": turns.VARIANTS["bare"]})
    monkeypatch.setattr(turns.Subject, "have", pay)
    monkeypatch.setattr(turns, "cpu_time", lambda _: clock[0])
    plan = turns.Plan(rounds=1, visitors=1, turns=3, warmup=1, slice=2, lead=4)
    with Sink() as sink:
        run = asyncio.run(turns._round(plan, sink, 1))["bare"]
    assert (run.counted, run.turns) == (3, 3 + 2 * 4)
    # Less what a full garbage collection has taken, should there be one.
    assert run.slices == pytest.approx([cost, cost], abs=cost / 2)


def test_what_is_more_comes_with_the_error_of_its_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("bare", "metrics")
    monkeypatch.setattr(report, "VARIANTS", {name: turns.VARIANTS[name] for name in names})
    rounds = [
        {"bare": turns.Run([1.0], 1, 1), "metrics": turns.Run([seconds], 1, 1)}
        for seconds in (1.02, 1.09, 1.04)
    ]
    bare, metrics = report.turns_table(rounds)[1]
    assert bare[2:4] == ["", ""]
    # The mean is 5 %, and the others are 3, 1 and 4 points away: the root of 26 / 2 / 3.
    assert metrics[2:4] == ["+4.0% ± 2.1", "+2.0% to +9.0%"]
    assert report.turns_table(rounds[:1])[1][1][2] == "+2.0%"


def test_the_benchmark_of_the_rules_shows_how_long_each_of_them_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.rules", *QUICK_RULES, "--markdown"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0

    recorded, others, machine, method = done.stdout.strip().split("\n\n")
    names = [cells(line)[0].strip("`") for line in recorded.splitlines()[2:]]
    assert names == [
        rule.name for kind in (recordings, budgets) for rule in kind(Thresholds(), Windows())
    ]
    rows = [cells(line) for line in [*recorded.splitlines()[2:], *others.splitlines()[2:]]]
    assert all(cell.endswith(" ms") for row in rows for cell in row[1:])
    reported = {row[0].strip("`").split()[0] for row in rows}
    assert {"chainlit.recording", "chainlit.alerts", "ChainlitInstanceDown"} <= reported
    assert "2 replicas with" in method
    assert "Prometheus 2." in machine


def run_visitors(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "bench.visitors", *arguments, "--markdown"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout, done.stderr)
    return done


def test_the_benchmark_of_visitors_compares_their_times_with_the_app() -> None:
    done = run_visitors("--only", "clock", "--visits", "3")
    assert done.returncode == 0
    table, machine = done.stdout.strip().split("\n\n")
    rows = {cells(line)[0]: cells(line)[1:] for line in table.splitlines()[2:]}
    assert list(rows) == ["connect", "first token", "turn"]
    for by_app, *differences, within in rows.values():
        assert float(by_app.removesuffix(" ms")) > 0
        # The app has measured a part of what the visitor has: never more than it.
        assert all(float(each.removesuffix(" ms")) > 0 for each in differences)
        assert within.endswith("%")
    # Three waits of 20 ms are part of a turn.
    assert float(rows["turn"][0].removesuffix(" ms")) >= 60
    assert "chainlit 2." in machine


def test_the_benchmark_of_visitors_has_a_command_line() -> None:
    assert run_visitors("--trial", "0").returncode == 2
    assert run_visitors("--only", "nothing").returncode == 2


def run_instructions(
    *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench.instructions", *arguments],
        cwd=Path(__file__).parents[1],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_instructions_of_a_turn_have_a_command_line() -> None:
    done = run_instructions("--help")
    assert done.returncode == 0
    assert "--layouts" in done.stdout
    assert run_instructions("--layouts", "0").returncode == 2
    assert run_instructions("--variants", "nobody").returncode == 2


def test_without_valgrind_one_line_says_how_to_get_it(tmp_path: Path) -> None:
    done = run_instructions(env={"PATH": str(tmp_path)})
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "error: there is no valgrind: `tools/system-packages.sh valgrind` installs it"
    ]


@contextmanager
def under_callgrind(
    directory: Path, script: str, *options: str
) -> Iterator[tuple[instructions.Callgrind, Callable[[int], None]]]:
    """Run a script that answers each line; give what counts it, and what has it answer a number."""
    process = subprocess.Popen(
        [*instructions.CALLGRIND, *options, sys.executable, "-S", "-c", script],
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        bufsize=1,
    )
    stdin, stdout = process.stdin, process.stdout
    assert stdin is not None
    assert stdout is not None

    def ask(number: int) -> None:
        stdin.write(f"{number}\n")
        assert stdout.readline() == "done\n"

    try:
        ask(1)
        yield instructions.Callgrind(process.pid, directory), ask
    finally:
        process.kill()
        process.communicate()


def test_callgrind_counts_what_is_executed_between_two_looks(tmp_path: Path) -> None:
    script = "for line in open(0): sum(range(int(line))); print('done', flush=True)"
    with under_callgrind(tmp_path, script) as (callgrind, add_up):
        callgrind.start()
        add_up(50_000)
        callgrind.restart()
        taken = []
        for numbers in (1000, 11_000, 21_000):
            add_up(numbers)
            taken.append(callgrind.take()["Ir"])
        callgrind.stop()
        add_up(1000)
        uncounted = callgrind.take()["Ir"]
    more, as_many_more = taken[1] - taken[0], taken[2] - taken[1]
    assert as_many_more == pytest.approx(more, rel=0.3)
    assert more > 10_000 * 10
    assert uncounted == 0


def test_what_does_not_fit_into_the_cache_misses_it(tmp_path: Path) -> None:
    # As many bytes each time, of half a mebibyte or of four.
    script = (
        "parts = [bytes(1024) for _ in range(4096)]\n"
        "for line in open(0):\n"
        "    few = parts[: int(line)]\n"
        "    for part in few * (4096 // len(few)): sum(part[::64])\n"
        "    print('done', flush=True)"
    )
    counted = []
    with under_callgrind(tmp_path, script, *instructions.CACHE) as (callgrind, read):
        callgrind.start()
        for parts in (512, 4096):
            read(parts)
            callgrind.restart()
            read(parts)
            counted.append(callgrind.take())
    few, many = map(instructions.misses, counted)
    assert few < 4096
    assert many > 4096 * 16 / 2


def test_the_instructions_of_a_turn_are_compared_within_each_layout() -> None:
    costs = {
        ("bare", 1): instructions.Cost(20e6, 1000),
        ("bare", 2): instructions.Cost(30e6, 2000),
        ("traces", 1): instructions.Cost(21e6, 2500),
        ("traces", 2): instructions.Cost(31.8e6, 3500),
    }
    heads, rows = instructions.table(costs, has_cache=False)
    assert heads == ["a turn of 50 tokens", "instructions", "more", "by layout"]
    bare = ["Chainlit alone", "25.000 M", "", ""]
    traces = ["chainlit-otel, metrics and traces", "26.400 M", "+5.50%", "+5.00% to +6.00%"]
    assert rows == [bare, traces]
    heads, rows = instructions.table(costs, has_cache=True)
    assert heads[-1] == "misses"
    assert rows == [[*bare, "1,500"], [*traces, "3,000"]]


def test_a_soak_tells_what_is_ours_of_what_has_grown() -> None:
    def mark(gone: int, objects: int, files: int, series: int | None) -> soak.Mark:
        return soak.Mark(gone, soak.Known(1, objects, 3, files, None), series)

    # The first mark is of a server that is not warm yet.
    bare = [mark(n, 1_000_000 * n, 8, None) for n in (1, 2, 3, 4)]
    same = [mark(n, 1_000_000 * n + 90_000 * (n > 1), 12, 572 - (n == 1)) for n in (1, 2, 3, 4)]
    assert soak.growth(bare, same) == []
    more = [*same[:-1], mark(4, 4_100_000, 14, 573)]
    assert soak.growth(bare, more) == ["10,000 more objects", "2 more files", "1 more series"]
