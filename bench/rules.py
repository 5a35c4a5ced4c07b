"""Measures how long a Prometheus takes for the rules of a large deployment.

Usage: python -m bench.rules [--replicas N] [--rounds N] [--interval SECONDS] [--markdown]

Each replica serves what a Chainlit server of the tests has served, all series of it. What the
rules look back on is put into the database first, as if the deployment had run for hours.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from bench import report
from chainlit_otel.rules import Thresholds, render
from chainlit_otel.rules.recording import BUDGET_INTERVAL, budgets, recordings
from chainlit_otel.rules.windows import Windows
from tests.support.http import fetch
from tests.support.local import Handler, LocalServer
from tests.support.prometheus import Prometheus

EXPOSITION = Path(__file__).parents[1] / "tests" / "golden" / "metrics.txt"
JOB = "chat"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
# The rules look at most this far back at what is scraped, beyond a day's last sample.
_LONGEST = 6 * 3600

Took = dict[str, list[float]]
"""The seconds of each evaluation of a rule, and of a group as a whole."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        replicas: Servers that are scraped.
        rounds: Evaluations that count.
        interval: Seconds between two scrapes and two evaluations.
    """

    replicas: int
    rounds: int
    interval: float


class Fleet(LocalServer):
    """One server with an address for each replica, all of them loopback."""

    def __init__(self, replicas: int) -> None:
        lines = EXPOSITION.read_text(encoding="utf-8").splitlines()
        self.samples = [line for line in lines if not line.startswith("#")]
        body = "".join(f"{line}\n" for line in lines).encode()

        class Answering(Handler):
            def do_GET(self) -> None:
                self.answer(body, "text/plain; version=0.0.4")

        super().__init__(Answering, address="")
        self.targets = [
            f"127.0.{1 + number // 250}.{1 + number % 250}:{self.port}"
            for number in range(replicas)
        ]

    def past(self, until: float, interval: float) -> Iterator[str]:
        """The lines of an OpenMetrics text with what the rules look back on."""
        for name, span in looks_back().items():
            for line in self.samples:
                family, _, labels = line.partition("{")
                if family != name or 'session_type="http"' in labels:
                    continue
                labels, _, value = labels.rpartition("} ")
                for target in self.targets:
                    series = f'{name}{{{labels},job="{JOB}",instance="{target}"}}'
                    for back in range(int(span / interval), 0, -1):
                        yield f"{series} {value} {until - back * interval:.3f}\n"
            if ":" in name:
                step = BUDGET_INTERVAL if name.endswith(":mean2m") else interval
                for back in range(int(span / step), 0, -1):
                    yield f'{name}{{job="{JOB}"}} 1 {until - back * step:.3f}\n'
        yield "# EOF\n"


def looks_back() -> dict[str, float]:
    """Return how many seconds of each series some rule reads, if it is more than one sample."""
    spans: dict[str, float] = {}
    for rule in _rules():
        for name, size, unit in re.findall(r"([\w:]+)(?:\{[^}]*\})?\[(\d+)(\w)\]", rule["expr"]):
            span = int(size) * _UNITS[unit]
            span = span if ":" in name else min(span, _LONGEST)
            spans[name] = max(span, spans.get(name, 0))
    return {name: span for name, span in spans.items() if name.startswith(("chainlit_", "job:"))}


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(render())["groups"] for rule in group["rules"]]


def measure(plan: Plan) -> tuple[Took, int, str]:
    """Return how long rules and groups took, how many series there were, and of which version."""
    with Fleet(plan.replicas) as fleet:
        # How long it takes is asked here, not how seldom it need be.
        rules = re.sub(r"^  interval: .*\n", "", render(), flags=re.MULTILINE)
        prometheus = Prometheus(fleet.targets, rules, interval=f"{plan.interval:g}s")
        past = prometheus.directory / "past.txt"
        with past.open("w", encoding="utf-8") as file:
            file.writelines(fleet.past(time.time(), plan.interval))
        _say(f"what the rules look back on: {past.stat().st_size / 1e6:.0f} MB of text")
        subprocess.run(
            [
                *("promtool", "tsdb", "create-blocks-from", "--max-block-duration=486h"),
                *("openmetrics", "--quiet", past, "data"),
            ],
            cwd=prometheus.directory,
            check=True,
        )
        past.unlink()
        with prometheus:
            took = _watch(prometheus, plan)
            ((_, series),) = prometheus.query("sum(scrape_samples_scraped)")
            build = fetch(f"{prometheus.url}/api/v1/status/buildinfo").json()
    return took, int(series), build["data"]["version"]


def _watch(prometheus: Prometheus, plan: Plan) -> Took:
    took: Took = {}
    seen: dict[str, str] = {}
    # The first evaluation of a group may come before the first scrape.
    skipped: set[str] = set()
    deadline = time.monotonic() + (plan.rounds + 4) * plan.interval + 60
    groups = [group["name"] for group in yaml.safe_load(render())["groups"]]
    while any(len(took.get(name, ())) < plan.rounds for name in groups):
        if time.monotonic() > deadline:
            raise RuntimeError("the rules are not evaluated as often as they should be")
        time.sleep(min(1.0, plan.interval / 4))
        answer = fetch(f"{prometheus.url}/api/v1/rules", timeout=30).json()
        for group in answer["data"]["groups"]:
            last = group["lastEvaluation"]
            if last.startswith("0001-") or seen.get(group["name"]) == last:
                continue
            seen[group["name"]] = last
            ((_, up),) = prometheus.query("sum(up) or vector(0)")
            if up < plan.replicas or group["name"] not in skipped:
                skipped.add(group["name"])
                continue
            took.setdefault(group["name"], []).append(group["evaluationTime"])
            for rule in group["rules"]:
                if rule["health"] != "ok":
                    raise RuntimeError(f"{rule['name']}: {rule.get('lastError')}")
                key = " ".join([rule["name"], *_told_apart(rule.get("labels", {}))])
                took.setdefault(key, []).append(rule["evaluationTime"])
            _say(f"{group['name']}: {group['evaluationTime'] * 1e3:.1f} ms")
    return took


def _told_apart(labels: dict[str, str]) -> list[str]:
    return [labels[name] for name in ("cause", "burn", "kind") if name in labels]


def tables(took: Took) -> list[report.Table]:
    """Return a table of the recording rules, and one of the groups and the slowest alerts."""
    recorded = [
        rule.name for kind in (recordings, budgets) for rule in kind(Thresholds(), Windows())
    ]
    others = sorted(took.keys() - recorded, key=lambda name: -statistics.median(took[name]))

    def rows(names: list[str]) -> list[list[str]]:
        return [
            [
                f"`{name}`",
                *(f"{which(took[name]) * 1e3:.1f} ms" for which in (min, statistics.median, max)),
            ]
            for name in names
        ]

    heads = ("shortest", "median", "longest")
    return [
        (("recording rule", *heads), rows(recorded)),
        (("group, alert", *heads), rows(others)),
    ]


def main() -> int:
    """Measure, print the tables and return the exit code."""
    arguments = _parser().parse_args()
    plan = Plan(arguments.replicas, arguments.rounds, arguments.interval)
    try:
        took, series, version = measure(plan)
    except (OSError, RuntimeError, httpx.HTTPError, subprocess.CalledProcessError) as error:
        _say(f"error: {error}")
        return 1
    show = report.markdown if arguments.markdown else report.text
    machine = f"{report.processor()}, {os.cpu_count()} cores, Prometheus {version}"
    method = (
        f"Of {plan.rounds} evaluations, {plan.interval:g} s apart, of {plan.replicas} "
        f"replicas with {series:,} series, all on one machine."
    )
    print(*map(show, tables(took)), machine, method, sep="\n\n")
    return 0


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    description = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m bench.rules", description=description)
    parser.add_argument("--replicas", type=int, default=100, help="replicas (100)")
    parser.add_argument("--rounds", type=int, default=5, help="evaluations that count (5)")
    parser.add_argument("--interval", type=float, default=15.0, help="seconds between scrapes (15)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")
    return parser


if __name__ == "__main__":
    sys.exit(main())
