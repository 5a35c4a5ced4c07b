"""A real nginx, as the example of several workers has it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.scrape import wait_until
from tests.support.server import free_port

SITE = Path(__file__).parents[2] / "examples" / "deployments" / "workers" / "nginx.conf"


@contextlib.contextmanager
def nginx(ports: Sequence[int]) -> Iterator[str]:
    """Run nginx in front of some servers, until the block is left.

    Args:
        ports: of the servers on the loopback interface, in place of those of the example.

    Yields:
        The address at which it answers.
    """
    front = free_port()
    servers = "\n".join(f"    server 127.0.0.1:{port} max_fails=0;" for port in ports)
    site = SITE.read_text(encoding="utf-8").replace("listen 80;", f"listen 127.0.0.1:{front};")
    site, replaced = re.subn(r"(?: +server 127\.0\.0\.1:\d+ max_fails=0;\n)+", f"{servers}\n", site)
    assert replaced == 1
    with tempfile.TemporaryDirectory(prefix="chainlit-otel-nginx-") as directory:
        Path(directory, "nginx.conf").write_text(
            f"daemon off; pid {directory}/pid; error_log stderr; events {{}}\n"
            f"http {{ access_log off; client_body_temp_path {directory}/body; "
            f"proxy_temp_path {directory}/proxy;\n{site}\n}}\n"
        )
        program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin") or "nginx"
        log = Path(directory, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [program, "-p", directory, "-c", "nginx.conf", "-e", "stderr"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:

            def listens() -> bool:
                assert process.poll() is None, log.read_text()
                # Without a request: a server that is not there yet would be left out for a while.
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", front)):
                    return True
                return False

            wait_until(listens, 60, "nginx to listen")
            yield f"http://127.0.0.1:{front}"
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
