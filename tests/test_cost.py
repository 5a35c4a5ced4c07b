"""What a live session costs in memory, and that a scrape does not grow with sessions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BUDGET = 2048  # bytes a live session and its connection

# Real sessions of Chainlit, in a process of their own: importing it writes files. The number of
# bytes that Python allocates for them is the same in every run.
SCRIPT = """
import functools, gc, json, sys, tracemalloc, urllib.request
import chainlit.server, chainlit.socket
from chainlit.session import WebsocketSession, ws_sessions_id, ws_sessions_sid
import chainlit_otel
from chainlit_otel import api
from chainlit_otel.probes.sessions import Sessions
from chainlit_otel.probes.sockets.connections import Sockets

COUNT = 5000

class EngineSocket:
    upgraded = True

def open_sessions(prefix):
    return [
        WebsocketSession(
            id=f"{prefix}-{i:08}-4aaa-8bbb-cccccccccccc", socket_id=f"{prefix}{i:018}", emit=None,
            emit_call=None, user_env={}, client_type="webapp",
        )
        for i in range(COUNT)
    ]

def cost(make):
    gc.collect()
    before = tracemalloc.get_traced_memory()[0]
    made = make()
    gc.collect()
    return (tracemalloc.get_traced_memory()[0] - before) / COUNT, made

def series():
    url = api._active._admin.url + "/metrics"
    text = urllib.request.urlopen(url).read().decode()
    return sorted(line.rsplit(" ", 1)[0] for line in text.splitlines() if line[0] != "#")

tracemalloc.start()
bare, sessions = cost(lambda: open_sessions("a"))
ws_sessions_id.clear(), ws_sessions_sid.clear(), sessions.clear()
chainlit_otel.enable()
empty = series()
ours, sessions = cost(lambda: open_sessions("b"))
sockets = api._active.context.get(Sockets)

def open_connections():
    for i in range(COUNT):
        upgraded = functools.partial(getattr, EngineSocket, "upgraded", False)
        sockets.connections[f"{i:020}"] = sockets.ledger.open(upgraded)
        sockets._sids[f"e{i:019}"] = f"{i:020}"

connections, _ = cost(open_connections)
full = series()
held = len(api._active.context.get(Sessions)._handles)
ws_sessions_id.clear(), ws_sessions_sid.clear(), sessions.clear()
gc.collect()
series()
left = len(api._active.context.get(Sessions)._handles)
json.dump(
    {"session": ours - bare, "connection": connections, "held": held, "left": left,
     "same_series": empty == full, "lines": len(full)},
    sys.stdout,
)
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path_factory.mktemp("cost"),
        env={"OTEL_EXPORTER_PROMETHEUS_PORT": "0", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(figures)
    return figures


def test_a_live_session_and_its_connection_stay_within_two_kibibytes(
    measured: dict[str, float],
) -> None:
    assert 0 < measured["session"] + measured["connection"] < BUDGET


def test_a_scrape_has_the_same_series_with_no_session_and_with_thousands(
    measured: dict[str, float],
) -> None:
    assert measured["same_series"]


def test_nothing_is_held_of_sessions_that_are_gone(measured: dict[str, float]) -> None:
    assert (measured["held"], measured["left"]) == (5000, 0)
