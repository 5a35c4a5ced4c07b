"""No thread of ours imports anything: Chainlit's `load_module` takes `sys.path` apart meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.otlp import Receiver
from tests.support.server import python_path

# Other threads than the main one look for a module here first, if they look for any.
WATCH = """
import json
import socket
import sys
import threading


class Watch:
    found = []

    def find_spec(self, name, path=None, target=None):
        thread = threading.current_thread()
        if thread is not threading.main_thread():
            self.found.append(f"{thread.name} imports {name}")


sys.meta_path.insert(0, Watch())

import chainlit_otel
from chainlit_otel.api import active

chainlit_otel.enable(chainlit_otel.Settings(port=0))
"""

SCRAPE = """
from urllib.parse import urlsplit

address = urlsplit(active().admin_url)


def ask(line, **headers):
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        sent = {"Host": "localhost", "Connection": "close", **headers}
        lines = [line, *(f"{name.replace('_', '-')}: {value}" for name, value in sent.items())]
        connection.sendall("\\r\\n".join([*lines, "", ""]).encode())
        answer = b""
        while received := connection.recv(65536):
            answer += received
        return answer


asked = 0
for path in (
    "/",
    "/metrics",
    "/metrics?name[]=chainlit_session_starts_total",
    "/healthz",
    "/nothing",
):
    for method in ("GET", "HEAD", "POST", "OPTIONS"):
        for accept in (
            "*/*",
            "text/plain;version=0.0.4",
            "text/plain;version=1.0.0;escaping=allow-utf-8",
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.1",
            "application/openmetrics-text;version=2.0.0;escaping=values",
            ";;;",
        ):
            for encoding in ("identity", "gzip"):
                answer = ask(f"{method} {path} HTTP/1.1", Accept=accept, Accept_Encoding=encoding)
                assert answer.startswith(b"HTTP/1.1 "), answer[:100]
                asked += 1
for path in ("assets/page.js", "data/history?step=1", "data/sessions", "data/turns", "data/health"):
    answer = ask(f"GET /live/{path} HTTP/1.1", Accept_Encoding="gzip")
    assert answer.startswith(b"HTTP/1.1 200"), answer[:100]
assert ask("nonsense").startswith(b"HTTP/1.1 400")
assert asked == 240
"""

EXPORT = """
from opentelemetry import metrics, trace

with trace.get_tracer("app").start_as_current_span("one"):
    pass
assert trace.get_tracer_provider().force_flush()
threads = [
    threading.Thread(target=provider.force_flush, name="flush")
    for provider in (trace.get_tracer_provider(), metrics.get_meter_provider())
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""

REPORT = """
print(json.dumps(Watch.found))
"""


def imported_in_threads(script: str, directory: Path, env: dict[str, str] | None = None) -> object:
    done = subprocess.run(
        [sys.executable, "-c", WATCH + script + REPORT],
        env={**os.environ, **python_path(), **(env or {})},
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_admin_server_imports_nothing_whatever_it_is_asked(tmp_path: Path) -> None:
    assert imported_in_threads(SCRAPE, tmp_path) == []


def test_an_exporter_of_ours_imports_nothing_when_it_exports(tmp_path: Path) -> None:
    with Receiver() as backend:
        # By name, since an address needs no codec.
        env = {
            **backend.env,
            "OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint.replace("127.0.0.1", "localhost"),
        }
        assert imported_in_threads(EXPORT, tmp_path, env) == []
        assert [span.name for span in backend.spans] == ["one"]
        assert "chainlit.session.starts" not in backend.metrics, "no Chainlit, no session"
        assert backend.metrics, "metrics were exported, too"
