"""A real Redis server for the tests, which can go away and come back with its data."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from tests.support.scrape import POLL
from tests.support.server import free_port

_START = 20.0
_STOP = 20.0
_TAIL = 40


class Redis:
    """A `redis-server` on a free port of the loopback interface, with a directory of its own.

    `start` (or `with`) starts it and returns when it answers. Every write is in its append-only
    file before it is acknowledged, so a server that was stopped comes back with all of them.

    Args:
        replica_of: be a replica of this server, and wait at each `start` until in step with it.

    Attributes:
        port: where it listens, the same after every `start`.
        url: ``redis://`` address of its first database.
    """

    def __init__(self, *, replica_of: Redis | None = None) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._replica_of = replica_of
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        """Everything the server has printed since it exists."""
        return (self._directory() / "redis.log").read_text(encoding="utf-8", errors="replace")

    def start(self) -> Redis:
        """Start the server, with the data of the last time, and wait until it answers.

        Raises:
            RuntimeError: it runs already, ended or did not answer in time; the message has the
                end of its log.
            FileNotFoundError: there is no `redis-server` on the PATH.
        """
        if self.running:
            raise RuntimeError("this Redis runs already")
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="chainlit-otel-redis-")
        with (self._directory() / "redis.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(), cwd=self._directory(), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.close()
            raise
        return self

    def stop(self, *, abruptly: bool = False) -> None:
        """End the server and keep its data for the next `start`.

        Args:
            abruptly: kill it, as a machine that fails does.
        """
        process, self._process = self._process, None
        if process is None:
            return
        # SIGTERM alone waits for replicas that lag behind.
        (process.kill if abruptly else process.terminate)()
        try:
            process.wait(_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        """End the server and remove its data."""
        self.stop()
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None

    def client(self) -> redis.Redis:
        """A blocking client of its own connection, for what a test wants to see or set."""
        return redis.Redis.from_url(
            self.url, decode_responses=True, socket_timeout=10, retry=Retry(NoBackoff(), 0)
        )

    def commandstats(self) -> dict[str, int]:
        """How often each command was called since the last start, by its name in lower case.

        A subcommand has its own, such as ``client|setinfo``. The call by which these are read is
        itself counted only in the next answer.

        Raises:
            redis.exceptions.ConnectionError: the server does not run.
        """
        with self.client() as client:
            stats: dict[str, dict[str, int]] = client.info("commandstats")
        return {name.removeprefix("cmdstat_"): int(line["calls"]) for name, line in stats.items()}

    def __enter__(self) -> Redis:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def _directory(self) -> Path:
        if self._temporary is None:
            raise RuntimeError("this Redis was not started")
        return Path(self._temporary.name)

    def _command(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self._directory()),
            "appendonly": "yes",
            "appendfsync": "always",
            "save": "",
            "repl-diskless-sync-delay": "0",
            "shutdown-timeout": "0",
        }
        if self._replica_of is not None:
            options["replicaof"] = f"127.0.0.1 {self._replica_of.port}"
        command = ["redis-server"]
        for name, value in options.items():
            command += [f"--{name}", *(value.split(" "))]
        return command

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START
        with self.client() as client:
            while time.monotonic() < deadline:
                if process.poll() is not None:
                    break
                if self._is_ready(client):
                    return
                time.sleep(POLL)
        tail = os.linesep.join(self.log.splitlines()[-_TAIL:])
        raise RuntimeError(f"redis-server did not answer within {_START:g} s\n{tail}")

    def _is_ready(self, client: redis.Redis) -> bool:
        try:
            client.ping()  # raises while the data is being loaded
            state: dict[str, object] = client.info("replication")
        except RedisError:
            return False
        return self._replica_of is None or state.get("master_link_status") == "up"
